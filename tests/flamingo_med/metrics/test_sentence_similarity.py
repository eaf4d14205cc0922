"""Sentence similarity with a tiny encoder from a folder: which states are pooled, and which reference counts."""

import math

import pytest
import torch
from transformers import BertConfig, BertModel, set_seed

from flamingo_med.metrics.sentence_similarity import SentenceSimilarity, embed, signature, similarities
from processing.tokenization import train_tokenizer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("encoder"))
    tokenizer = train_tokenizer(["left lung", "right lung", "no effusion", "a large effusion is seen"] * 3, 300)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    set_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_vectors_do_not_depend_on_the_padding(encoder):
    together = embed(["left lung", "a large effusion is seen"], encoder)
    torch.testing.assert_close(together[:1], embed(["left lung"], encoder))
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(2))


def test_the_nearest_reference_counts(encoder):
    same, near, none = similarities(
        ["left lung", "no effusion", "left lung"], ["left lung", ["left lung", "no effusion"], []], encoder
    )
    assert same == pytest.approx(1.0, abs=1e-5) and near == pytest.approx(1.0, abs=1e-5) and math.isnan(none)
    (other,) = similarities(["left lung"], ["a large effusion is seen"], encoder)
    assert other < 0.999


def test_metric(encoder, tmp_path):
    found = SentenceSimilarity(cache_dir=str(tmp_path)).compute(
        predictions=["left lung"], references=["left lung"], encoder=encoder
    )
    assert found == {"sentence_similarity": pytest.approx(1.0, abs=1e-5)}
    assert "encoder:bert|" in signature("bert") and "blind-to-negation" in signature("bert")
