"""The processor: prompts, special tokens, labels and padding; and the tokenizer and collator beside it."""

import copy

import jinja2
import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoProcessor

from modeling_flamingo_med import FlamingoMedProcessor
from processing.collator import FlamingoMedCollator
from tests.conftest import QUESTIONS


def decode(processor, ids):
    return processor.tokenizer.decode([i for i in ids.tolist() if i != -100])


def test_one_template_writes_every_prompt(processor, images):
    question = QUESTIONS[0]
    prompt = f"<image> Question: {question} <EOQ> Answer:"
    assert processor.render(question) == prompt
    assert processor.render("") == "<image> Output:"
    assert processor.render("?", num_images=2) == "<image><image> Question: ? <EOQ> Answer:"
    chat = [
        {"role": "user", "content": [{"type": "image", "image": images[0]}, {"type": "text", "text": question}]},
    ]
    forms = [
        processor(images=images[0], text=question),
        processor(images=images[0], text=prompt),
        processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt"),
    ]
    learned = processor(images=images[0], text=question, answers="yes")["input_ids"]
    for form in forms:
        assert torch.equal(form["input_ids"], forms[0]["input_ids"])
        assert torch.equal(form["pixel_values"], forms[0]["pixel_values"])
        assert torch.equal(learned[:, : form["input_ids"].shape[1]], form["input_ids"])


def test_few_shot_prompt(processor, images):
    shots = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a?"}]},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "b?"}]},
    ]
    prompt = processor.apply_chat_template(shots)
    assert prompt == "<image> Question: a? <EOQ> Answer: no <EOC><image> Question: b? <EOQ> Answer:"
    assert processor(images=[images[:2]], text=[prompt])["pixel_values"].shape == (1, 2, 3, 32, 32)


# What was written into checkpoints before messages of a system had a place.
BEFORE = """
{%- for message in messages -%}
    {%- set blocks = [{"type": "text", "text": message.content}] if message.content is string else message.content -%}
    {%- set text = blocks | selectattr("type", "equalto", "text") | map(attribute="text") | join(" ") -%}
    {%- if message.role == "assistant" -%}
        {{ " " + text + " <EOC>" }}
    {%- else -%}
        {%- for block in blocks if block.type == "image" -%}{{ "<image>" }}{%- endfor -%}
        {{ " Question: " + text + " <EOQ> Answer:" if text else " Output:" }}
    {%- endif -%}
{%- endfor -%}
"""
IMAGE = {"type": "image"}


def user(*content) -> dict:
    return {"role": "user", "content": [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]}


@pytest.mark.parametrize(
    "messages",
    [
        [user(IMAGE, "Is the heart enlarged?")],
        [user("Before ", IMAGE, IMAGE, " and  after\n")],
        [user(IMAGE)],
        [user(IMAGE, "a?"), {"role": "assistant", "content": "no"}, user("b?")],
        [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": [{"type": "text", "text": " 肺 "}]}],
    ],
)
def test_prompts_are_what_they_were(processor, messages):
    now, before = (processor.apply_chat_template(messages, chat_template=t) for t in (None, BEFORE))
    assert now == before
    assert processor.tokenizer(now)["input_ids"] == processor.tokenizer(before)["input_ids"]


def test_a_system_stands_before_the_images(processor, images):
    system = {"role": "system", "content": "You are a radiologist."}
    question = user({"type": "image", "image": images[0]}, "Why?")
    prompt = "You are a radiologist.<image> Question: Why? <EOQ> Answer:"
    assert processor.apply_chat_template([system, question]) == prompt
    batch = processor.apply_chat_template([system, question], tokenize=True, return_dict=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], processor(images=images[0], text=prompt)["input_ids"])


def test_what_the_template_does_not_know_it_refuses(processor):
    with pytest.raises(jinja2.TemplateError, match="of the role system, user or assistant, not tool"):
        processor.apply_chat_template([{"role": "tool", "content": "7"}])
    with pytest.raises(jinja2.TemplateError, match="holds text and image, not video"):
        processor.apply_chat_template([user({"type": "video", "video": "a.mp4"}, "Why?")])


@pytest.mark.parametrize("side", ["left", "right"])
def test_tokens_of_the_assistant_are_marked(processor, images, side):
    shown = {"type": "image", "image": images[0]}
    no, yes, left = ({"role": "assistant", "content": text} for text in ("no", "yes", "left"))
    chats = [[user(shown, "a?"), no, user("b?"), yes], [user(shown, QUESTIONS[0]), left]]
    batch = processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True, "padding_side": side},
    )
    said = [
        decode(processor, ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["assistant_masks"], strict=True)
    ]
    assert said == [" no<EOC> yes<EOC>", " left<EOC>"]
    learned = processor(images=images[0], text=QUESTIONS[0], answers="left")
    ids, mask = batch["input_ids"][1], batch["attention_mask"][1].bool()
    assert torch.equal(ids[mask], learned["input_ids"][0])
    assert torch.equal(batch["assistant_masks"][1][mask].bool(), learned["labels"][0] != -100)


@pytest.mark.parametrize("answers", [["yes", "left lower lobe", "п'ять ребер 肺"]])
def test_labels_are_the_answer_and_its_end(processor, images, answers):
    batch = processor(images=images, text=QUESTIONS, answers=answers)
    for ids, labels, mask, answer in zip(
        batch["input_ids"], batch["labels"], batch["attention_mask"], answers, strict=True
    ):
        assert decode(processor, labels).strip().removesuffix("<EOC>").strip() == answer
        labelled = labels != -100
        assert torch.equal(ids[labelled], labels[labelled])
        assert (labels == processor.tokenizer.eos_token_id).sum() == 1
        assert labelled.nonzero().max() == mask.nonzero().max()  # nothing after the end mark but padding


def test_questions_may_be_learned_too(processor):
    prompts = ["<image><image> Question: a? <EOQ> Answer:", "<image> Output:"]
    batch = processor.tokenize(prompts, ["yes", "clear lungs"], train_on_questions=True)
    learned = [decode(processor, labels) for labels in batch["labels"]]
    assert learned == [" Question: a?<EOQ> Answer: yes<EOC>", " Output: clear lungs<EOC>"]


def test_padding_sides(processor):
    prompts = [processor.render(q) for q in QUESTIONS]
    left = processor.tokenize(prompts)["attention_mask"]
    right = processor.tokenize(prompts, ["a"] * 3)["attention_mask"]
    assert (left.diff(dim=1) >= 0).all()
    assert (right.diff(dim=1) <= 0).all()
    assert left.min() == 0 == right.min()


def test_save_and_load(processor, images, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, FlamingoMedProcessor)
    assert loaded.token_ids == processor.token_ids
    first, second = (p(images=images, text=QUESTIONS, answers=["a", "b", "c"]) for p in (processor, loaded))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_ragged_images(processor, images):
    texts = ["<image><image> Question: ? <EOQ> Answer:", "<image> Question: ? <EOQ> Answer:"]
    pixels = processor(images=[images[:2], images[2:]], text=texts)["pixel_values"]
    assert pixels.shape == (2, 2, 3, 32, 32)
    assert pixels[1, 1].abs().max() == 0


def test_mistakes_are_sentences(processor, images):
    with pytest.raises(ValueError, match="there is nothing to read"):
        processor()
    with pytest.raises(ValueError, match="2 images for 1 <image> tokens"):
        processor(images=[images[:2]], text=["<image> Question: ? <EOQ> Answer:"])
    for shown in (images, images[:1]):
        with pytest.raises(ValueError, match=f"images for {len(shown)} rows, but 2 questions"):
            processor(images=shown, text=["?", "?"])
    with pytest.raises(ValueError, match="2 answers for 1 questions"):
        processor(images=images[0], text="?", answers=["yes", "no"])
    with pytest.raises(ValueError, match="the question is a text, not of type list"):
        processor(images=images[0], text=[["a", "b"]])
    for media in ({"videos": [images]}, {"audio": [[0.5]]}, {"audios": [0.5]}):
        with pytest.raises(ValueError, match=f"no {next(iter(media))}; leave them out"):
            processor(images=images[0], text="?", **media)
    for token in ("<EOQ>", "<image>"):
        with pytest.raises(ValueError, match="special token"):
            processor.render(f"what is {token}?")
    with pytest.raises(ValueError, match="special token '<EOC>'"):
        processor(images=images[0], text="?", answers="yes <EOC> no")
    with pytest.raises(ValueError, match="does not fit the decoder's 1024"):
        processor(images=images[0], text="why " * 2000)


def test_one_image_for_many_questions_and_many_for_one(processor, images):
    shared = processor(images=images[0], text=QUESTIONS)
    each = processor(images=[images[0]] * 3, text=QUESTIONS)
    assert all(torch.equal(shared[name], each[name]) for name in each)
    together = processor(images=images, text="Is this one person?")
    assert together["pixel_values"].shape == (1, 3, 3, 32, 32)
    assert (together["input_ids"] == processor.image_token_id).sum() == 3
    texts = ["<image><image> Question: ? <EOQ> Answer:", " Question: ? <EOQ> Answer:", "<image> Output:"]
    flat, nested = (processor(images=shown, text=texts) for shown in (images, [images[:2], [], images[2:]]))
    assert all(torch.equal(flat[name], nested[name]) for name in nested)
    assert flat["pixel_values"].shape == (3, 2, 3, 32, 32)


def test_text_without_an_image_is_a_prompt_as_it_is(processor, images, make_model):
    batch = processor(text=[QUESTIONS[0], "The heart is"], videos=[], audios=[], images=None)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert decode(processor, batch["input_ids"][0]) == QUESTIONS[0]
    mixed = processor(text=["The heart is", QUESTIONS[0]], images=[[], [images[0]]], videos=[[]])
    alone = processor(text=QUESTIONS[0], images=images[0])
    assert decode(processor, mixed["input_ids"][0]).endswith("The heart is")
    assert decode(processor, mixed["input_ids"][1]) == decode(processor, alone["input_ids"][0])
    assert torch.equal(mixed["pixel_values"][1], alone["pixel_values"][0])
    model = make_model()
    with torch.no_grad():
        logits = model(**mixed).logits[1, -1]
        torch.testing.assert_close(logits, model(**alone).logits[0, -1])


def test_options_of_tokenizer_and_image_processor(processor, images):
    question = {"images": images[:2], "text": ["Why?", QUESTIONS[0]]}
    usual = processor(**question)
    short, long = usual["attention_mask"].sum(-1).tolist()
    for asked in ({"padding_side": "right"}, {"text_kwargs": {"padding_side": "right"}}):
        right = processor(**question, **asked)
        assert right["attention_mask"][0].tolist() == [1] * short + [0] * (long - short)
        assert torch.equal(right["input_ids"][0, :short], usual["input_ids"][0, -short:])
    assert processor(**question, padding="max_length", max_length=60)["input_ids"].shape == (2, 60)
    assert processor(**question, pad_to_multiple_of=8)["input_ids"].shape[1] % 8 == 0
    cut = processor(**question, answers=["yes", "no"], truncation=True, max_length=6)
    assert cut["input_ids"].shape == cut["labels"].shape == (2, 6)
    with pytest.raises(ValueError, match="truncate it less"):
        processor(images=images, text="?", truncation=True, max_length=1)
    with pytest.raises(ValueError, match="padding=True"):
        processor(**question, padding=False)
    ragged = processor(**question, padding=False, return_tensors=None)
    assert [len(row) for row in ragged["input_ids"]] == [short, long]
    arrays = processor(**question, return_tensors="np", answers=["yes", "no"])
    assert {type(value) for value in arrays.values()} == {np.ndarray}
    raw = processor(**question, images_kwargs={"do_normalize": False})["pixel_values"]
    flat = processor(**question, do_normalize=False)["pixel_values"]
    assert torch.equal(raw, flat) and raw.min() >= 0 and not torch.equal(raw, usual["pixel_values"])
    with pytest.raises(ValueError, match="passed two times"):
        processor(**question, padding=True, text_kwargs={"padding": True})


def test_a_tokenizer_that_begins_texts_may_be_asked_not_to(processor, images):
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        "<s> $0", special_tokens=[("<s>", len(tokenizer) - 1)]
    )
    begins = FlamingoMedProcessor(processor.image_processor, tokenizer)
    batch = begins(images=images[0], text="?", answers="yes")
    assert batch["input_ids"][0, 0] == tokenizer.bos_token_id
    assert torch.equal(
        begins(images=images[0], text="?", answers="yes", add_special_tokens=False)["input_ids"],
        batch["input_ids"][:, 1:],
    )


def test_collator_keeps_each_image_once(processor, images):
    rows = [
        {"image": images[i], "image_id": str(i), "question": q, "answer": "yes"}
        for i, q in zip([0, 1, 0], QUESTIONS, strict=True)
    ]
    batch = FlamingoMedCollator(processor, answers=True)(rows)
    whole = processor(images=[images[0], images[1], images[0]], text=QUESTIONS, answers=["yes"] * 3)
    assert batch["pixel_values"].shape == (2, 1, 3, 32, 32)
    assert torch.equal(batch["pixel_values"][batch["image_indices"][:, 0]], whole["pixel_values"])
    assert torch.equal(batch["input_ids"], whole["input_ids"])
    blank = FlamingoMedCollator(processor, answers=False, blank_images=True)(rows)
    assert blank["pixel_values"].abs().max() == 0
    assert "labels" not in blank
