"""Overlap of generated and written reports: corpus BLEU-1 to BLEU-4 by sacreBLEU, and ROUGE-L by rouge_score.

    evaluate.load("processing/scoring/text_overlap.py").compute(predictions=["No mass."], references=["No mass seen"])

Both count words and know no meaning: "no effusion" and "large effusion" overlap by half. ROUGE-L sees a-z and 0-9
only.

This file stands alone: `evaluate.load` copies it away from the package (hence one import per line, none of ours).
"""

from collections.abc import Callable, Sequence

import datasets
import evaluate
import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

VERSION = "v1"
ORDERS = (1, 2, 3, 4)
# Only the counts of a sentence are taken, for which `effective_order` makes no difference but a warning less.
COUNTER = BLEU(lowercase=True, effective_order=True)
ROUGE = RougeScorer(["rougeL"])
METRICS = {
    "rouge_l": f"rouge_l|{VERSION}|rouge_score|f1|stem:no|references:max",
    **{f"bleu_{n}": f"bleu_{n}|{VERSION}|sacrebleu|corpus|ngram:{n}|case:lc|tok:13a|smooth:exp" for n in ORDERS},
}


def score(prediction: str, references: str | Sequence[str]) -> dict[str, float]:
    """ROUGE-L of one text, the best over the references.

    Args:
        prediction: the text of the model.
        references: the written text, or several.

    >>> score("no pleural effusion", ["No effusion."])
    {'rouge_l': 0.8}
    """
    found = [ROUGE.score(text, prediction)["rougeL"].fmeasure for text in _listed(references)]
    return {"rouge_l": float(max(found, default=0.0))}


def signature(metric: str) -> str:
    """What is printed beside every number of a metric."""
    return METRICS[metric]


def bleu_counts(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> np.ndarray:
    """What BLEU counts in each row; the BLEU of any rows is `corpus_bleu` of their counts.

    Args:
        predictions: (n)
        references: (n) of each row one text, or several.

    Returns:
        (n 10): matching n-grams of four orders, n-grams of four orders, length, length of the closest reference.
    """
    counted = [
        COUNTER.sentence_score(text, _listed(texts)) for text, texts in zip(predictions, references, strict=True)
    ]
    return np.array([[*row.counts, *row.totals, row.sys_len, row.ref_len] for row in counted], dtype=int)


def corpus_bleu(counts: np.ndarray) -> dict[str, float]:
    """BLEU-1 to BLEU-4, 0–1, of rows counted by `bleu_counts`: (n 10)."""
    total = counts.sum(0).tolist()
    matches, ngrams, lengths = total[:4], total[4:8], total[8:]
    scores = {}
    for n in ORDERS:
        bleu = BLEU.compute_bleu(matches[:n], ngrams[:n], *lengths, smooth_method="exp", max_ngram_order=n)
        scores[f"bleu_{n}"] = bleu.score / 100
    return scores


def statistics(
    predictions: Sequence[str], references: Sequence[str | Sequence[str]]
) -> dict[str, Callable[[np.ndarray], float]]:
    """BLEU-1 to BLEU-4 as functions of row numbers, for an interval; arguments as of `bleu_counts`."""
    counts = bleu_counts(predictions, references)
    return {f"bleu_{n}": lambda rows, name=f"bleu_{n}": corpus_bleu(counts[rows])[name] for n in ORDERS}


def _listed(references: str | Sequence[str]) -> list[str]:
    return [references] if isinstance(references, str) else list(references)


class TextOverlap(evaluate.Metric):
    """`compute(predictions, references)` → {"rouge_l": mean over the rows, "bleu_1", …, "bleu_4": of all rows}, 0–1.

    `references` is a list of strings, or a list of lists of accepted texts; not a mixture of both.
    """

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Word overlap of generated and written reports. " + " ".join(METRICS.values()),
            citation="Papineni et al., BLEU, ACL 2002; Post, sacreBLEU, WMT 2018; Lin, ROUGE, ACL 2004.",
            inputs_description="predictions: strings; references: strings, or lists of strings.",
            features=[
                datasets.Features({"predictions": value, "references": value}),
                datasets.Features({"predictions": value, "references": datasets.List(value)}),
            ],
        )

    def _compute(self, predictions: list[str], references: list[str] | list[list[str]]) -> dict[str, float]:
        rows = [score(*pair)["rouge_l"] for pair in zip(predictions, references, strict=True)]
        return {"rouge_l": sum(rows) / len(rows), **corpus_bleu(bleu_counts(predictions, references))}
