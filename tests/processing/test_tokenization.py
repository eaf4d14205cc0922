"""Tokenizers: trained and extended ones, the embeddings of new tokens, and the command."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed

from flamingo_med.cli.tokenizer import format_table
from flamingo_med.training.starting_point import ModelArguments, build_model, build_processor
from modeling_flamingo_med import FlamingoMedProcessor
from processing.errors import InputError
from processing.tokenization import (
    extend_embeddings,
    extend_tokenizer,
    load_tokenizer,
    texts_of,
    tokens_per_word,
    train_tokenizer,
)

GENERAL = ["Is there a thorax on the right?", "no, the max is on the left", "a pneuma and a card"] * 10
MEDICAL = ["Is there a pneumothorax?", "Question: cardiomegaly Answer: pneumothorax", "left pneumothorax"] * 10
STRANGE = ["Чи є пневмоторакс?", "有气胸吗", "  two  blanks\nand lines ", "naïve µ 🫁", "pneumothoraces"]


@pytest.fixture(scope="module")
def old() -> PreTrainedTokenizerFast:
    return train_tokenizer(GENERAL, 320)


@pytest.fixture(scope="module")
def new(old) -> PreTrainedTokenizerFast:
    return extend_tokenizer(old, MEDICAL, len(old) + 30)


def test_texts_are_those_of_a_prompt():
    rows = Dataset.from_dict({"question": ["Is it?", ""], "answer": ["yes", "A report."], "id": ["1", "2"]})
    assert list(texts_of(rows)) == ["Question: Is it? Answer: yes", "Question:  Answer: A report."]
    assert list(texts_of(rows.to_iterable_dataset())) == list(texts_of(rows))


def test_frequent_words_become_one_piece(old, new):
    assert len(old.tokenize(" pneumothorax")) > 2
    assert new.tokenize(" pneumothorax") == ["Ġpneumothorax"]
    assert tokens_per_word(new, MEDICAL) < tokens_per_word(old, MEDICAL)
    assert len(new) <= len(old) + 30


def test_old_tokens_keep_numbers_and_new_ones_are_made_of_them(old, new):
    assert old.get_vocab().items() <= new.get_vocab().items()
    assert sorted(new.get_vocab().values()) == list(range(len(new)))
    for text in [*GENERAL, *MEDICAL, *STRANGE]:
        pieces, merged = old.tokenize(text), new.tokenize(text)
        assert "".join(merged) == "".join(pieces)
        ends = {sum(map(len, pieces[: i + 1])) for i in range(len(pieces))}
        assert {sum(map(len, merged[: i + 1])) for i in range(len(merged))} <= ends
        assert new.decode(new(text)["input_ids"]) == text


def test_extending_is_deterministic_and_leaves_the_old_one_alone(old, new):
    before = old.get_vocab()
    again = extend_tokenizer(old, MEDICAL, len(old) + 30)
    assert again.get_vocab() == new.get_vocab() and old.get_vocab() == before


def test_what_cannot_be_extended(old):
    with pytest.raises(InputError, match="has 320 tokens already|has \\d+ tokens already"):
        extend_tokenizer(old, MEDICAL, len(old))
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece({"a": 0}, unk_token="a")))
    with pytest.raises(InputError, match="only a BPE tokenizer"):
        extend_tokenizer(words, MEDICAL, 100)
    with pytest.raises(InputError, match="no tokenizer at /nowhere"):
        load_tokenizer("/nowhere")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [0, 100])
def test_new_rows_are_the_mean_of_the_old_pieces(old, new, tied, rows):
    """With a matrix of as many rows as the old tokenizer has tokens, or more."""
    set_seed(0)
    config = GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=len(old) + rows, tie_word_embeddings=tied)
    model = GPT2LMHeadModel(config)
    before = [m.weight.detach().clone() for m in (model.get_input_embeddings(), model.get_output_embeddings())]
    extend_embeddings(model, old, new)
    assert model.get_input_embeddings().num_embeddings == max(len(new), len(old) + rows)
    pieces = old.convert_tokens_to_ids(old.tokenize(" pneumothorax"))
    number = new.convert_tokens_to_ids("Ġpneumothorax")
    for module_, weight in zip((model.get_input_embeddings(), model.get_output_embeddings()), before, strict=True):
        torch.testing.assert_close(module_.weight[number], weight[pieces].mean(0))
        assert torch.equal(module_.weight[: len(old)], weight[: len(old)])
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


def test_another_tokenizer_is_refused(old):
    other = train_tokenizer(MEDICAL, 300)
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=len(old)))
    with pytest.raises(InputError, match="extend the decoder's own"):
        extend_embeddings(model, old, other)


@pytest.fixture
def decoder(old, tmp_path) -> str:
    """A folder with a tiny pretrained decoder and its tokenizer."""
    folder = str(tmp_path / "decoder")
    set_seed(0)
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=len(old))).save_pretrained(
        folder
    )
    old.save_pretrained(folder)
    return folder


def test_train_takes_a_pretrained_decoder_with_its_extended_tokenizer(decoder, old, new, tmp_path):
    FlamingoMedProcessor.from_vision_text_pretrained(None, deepcopy(new)).tokenizer.save_pretrained(
        tmp_path / "extended"
    )
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    model = {"cross_attn_num_heads": 2, "resampler_num_heads": 2}
    args = ModelArguments(
        vision=vision, text=decoder, tokenizer=str(tmp_path / "extended"), image_size=32, model=model
    )
    rows = Dataset.from_dict({})
    processor = build_processor(args, rows)
    weight = build_model(args, processor, rows).get_input_embeddings().weight
    tokenizer = processor.tokenizer
    assert len(tokenizer) == len(weight) == len(new) + 4  # the special ones
    original = GPT2LMHeadModel.from_pretrained(decoder).get_input_embeddings().weight
    pieces = old.convert_tokens_to_ids(old.tokenize(" pneumothorax"))
    number = tokenizer.convert_tokens_to_ids("Ġpneumothorax")
    torch.testing.assert_close(weight[number], original[pieces].mean(0))

    train_tokenizer(MEDICAL, 300).save_pretrained(tmp_path / "other")
    args.tokenizer = str(tmp_path / "other")
    with pytest.raises(InputError, match=f"or none in {args.tokenizer}; extend the decoder's own"):
        build_model(args, build_processor(args, rows), rows)


def test_a_random_decoder_sets_the_context(old, tmp_path):
    old.save_pretrained(tmp_path)
    args = ModelArguments(text={"model_type": "gpt2", "n_positions": 77}, tokenizer=str(tmp_path))
    args.vision = GPT2Config()  # any configuration: no image preprocessing is taken from it
    assert build_processor(args, Dataset.from_dict({})).tokenizer.model_max_length == 77


def test_table(old, new):
    rows = Dataset.from_dict({"question": ["a pneumothorax", ""], "answer": ["a", "a thorax"]})
    lines = [line.split() for line in format_table(rows, {"before": old, "after": new}).splitlines()]
    assert lines[0][-3:] == ["questions", "answers", "tokens"]
    assert lines[2] == ["after", "1.00", lines[1][2], str(len(new))]
    assert float(lines[1][1]) == pytest.approx(len(old.tokenize(" a pneumothorax")) / 2, abs=0.005)
    reports = Dataset.from_dict({"question": [""], "answer": ["a"]})
    assert "questions" not in format_table(reports, {"before": old})


@pytest.fixture
def tokenizer(tmp_path, command):
    """tokenizer(*arguments): the command on a small phantom."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"{{dataset: phantom, data_dir: {tmp_path / 'data'}, data: {{train_images: 5, validation_images: 2, "
        "image_size: 64}, seed: 0}"
    )
    return partial(command, "tokenizer", "--recipe", recipe)


def test_the_command_trains_and_extends(tokenizer, decoder, old, tmp_path):
    printed = tokenizer("--vocab_size", 400, "--output_dir", tmp_path / "fresh")
    assert "bytes" in printed
    printed = tokenizer("--vocab_size", len(old) + 20, "--output_dir", tmp_path / "more", "--extend", decoder)
    assert all(word in printed for word in ("before", "after", "questions", f"tokenizer: {tmp_path}/more"))
    for name in ("fresh", "more"):
        made = load_tokenizer(str(tmp_path / name))
        assert {"<image>", "<EOQ>", "<EOC>", "[PAD]"} <= made.get_vocab().keys()
        assert made.eos_token == "<EOC>"
    assert old.get_vocab().items() <= made.get_vocab().items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab_size", "256", "--output_dir", "new"], "the bytes alone are 256"),
        (["--vocab_size", "400", "--output_dir", "docs"], "is not empty"),
        (["--vocab_size", "400"], "--output_dir is missing"),
        (["--vocab_size", "400", "--output_dir", "new", "--extend", "/nowhere"], "--extend is /nowhere, but"),
        (["--vocab_size", "many", "--output_dir", "new"], "vocab_size is 'many', but must be int"),
    ],
)
def test_mistakes(tokenizer, arguments, message):
    assert message in tokenizer(*arguments, code=2)
