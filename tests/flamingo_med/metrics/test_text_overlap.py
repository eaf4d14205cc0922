"""ROUGE-L and corpus BLEU: golden values by hand, and the sums of rows against sacreBLEU's own corpus score."""

import math

import numpy as np
import pytest
import sacrebleu

from flamingo_med.evaluation.intervals import clustered_bootstrap_of
from flamingo_med.metrics.text_overlap import TextOverlap, bleu_counts, corpus_bleu, score, signature, statistics


@pytest.mark.parametrize(
    ("prediction", "references", "value"),
    [
        ("No effusion.", "no effusion", 1.0),
        ("no pleural effusion", "no effusion", 0.8),  # 2 of 3 and 2 of 2
        ("effusion no", "no effusion", 0.5),  # order counts
        ("no effusion", "large effusion", 0.5),  # negation does not
        ("effusion", ["no pleural effusion", "an effusion"], 2 / 3),
        ("ödem", "ödem", 1.0),
        ("μ", "μ", 0.0),  # letters other than a-z are no words to it
        ("", "", 0.0),
        ("", "effusion", 0.0),
    ],
)
def test_rouge(prediction, references, value):
    assert score(prediction, references) == {"rouge_l": pytest.approx(value)}


def test_bleu_of_the_corpus_by_hand():
    counts = bleu_counts(["a b c d", "x"], ["A b c e", "y"])
    assert counts.tolist() == [[3, 2, 1, 0, 4, 3, 2, 1, 4, 4], [0, 0, 0, 0, 1, 0, 0, 0, 1, 1]]
    found = corpus_bleu(counts)
    assert found["bleu_1"] == pytest.approx(3 / 5)
    assert found["bleu_2"] == pytest.approx((3 / 5 * 2 / 3) ** (1 / 2))
    assert found["bleu_3"] == pytest.approx((3 / 5 * 2 / 3 * 1 / 2) ** (1 / 3))
    assert found["bleu_4"] == pytest.approx((3 / 5 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4))  # no match: half of one
    short = corpus_bleu(bleu_counts(["a b"], ["a b c d"]))
    assert short["bleu_1"] == pytest.approx(math.exp(-1))


TEXTS = ["There is no pleural effusion.", "The heart is enlarged, 2.5 cm.", "", "Left-sided pneumothorax"]
WRITTEN = ["No effusion is seen.", "The heart is mildly enlarged (2.5 cm).", "Normal.", "Pneumothorax on the left"]


def test_bleu_is_that_of_sacrebleu():
    found = corpus_bleu(bleu_counts(TEXTS, WRITTEN))
    for n in (1, 2, 3, 4):
        metric = sacrebleu.BLEU(lowercase=True, max_ngram_order=n)
        assert found[f"bleu_{n}"] == pytest.approx(metric.corpus_score(TEXTS, [WRITTEN]).score / 100, abs=1e-12)
        signed = metric.get_signature().format()
        assert all(part in signed and part in signature(f"bleu_{n}") for part in ("case:lc", "tok:13a", "smooth:exp"))


def test_bleu_of_several_references_and_interval():
    counts = bleu_counts(["no effusion", "a b"], [["no effusion", "an effusion"], ["b a", "a b", "c"]])
    assert corpus_bleu(counts)["bleu_2"] == pytest.approx(1.0)
    counts = bleu_counts(TEXTS, WRITTEN)
    low, high = clustered_bootstrap_of(lambda rows: corpus_bleu(counts[rows])["bleu_1"], "aabc", resamples=200)
    assert 0 <= low <= corpus_bleu(counts)["bleu_1"] <= high <= 1
    assert low < high


def test_statistics_are_the_bleu_of_some_rows():
    of_rows = statistics(TEXTS, WRITTEN)
    assert [*of_rows] == ["bleu_1", "bleu_2", "bleu_3", "bleu_4"]
    twice = [1, 3, 3]
    counts = bleu_counts([TEXTS[i] for i in twice], [WRITTEN[i] for i in twice])
    assert {name: value(np.array(twice)) for name, value in of_rows.items()} == corpus_bleu(counts)


def test_metric(tmp_path):
    found = TextOverlap(cache_dir=str(tmp_path)).compute(
        predictions=["no effusion"], references=["no pleural effusion"]
    )
    assert set(found) == {"rouge_l", "bleu_1", "bleu_2", "bleu_3", "bleu_4"}
    assert found["rouge_l"] == pytest.approx(0.8)
    assert found["bleu_1"] == pytest.approx(math.exp(1 - 3 / 2))
    assert np.isfinite(list(found.values())).all()
