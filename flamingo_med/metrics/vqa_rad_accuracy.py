"""VQA-RAD's scores: accuracy on closed, open and all questions, in both groupings in use, and LLaVA-Med's recall.

    evaluate.load("processing/scoring/vqa_rad.py").compute(
        predictions=["Yes", "left lung"], references=["yes", "the lung"], answer_types=["closed", "open"]
    )

Papers call closed either the questions whose label says so (272 of 451 in the official test set) or those whose answer
is yes or no (251); numbers of one grouping do not compare with those of the other.

This file stands alone: `evaluate.load` copies it away from the package (hence one import per line, none of ours).
"""

import re
from collections import Counter
from collections.abc import Sequence

import datasets
import evaluate

VERSION = "v1"
METRICS = {
    "vqa_rad_accuracy": f"vqa_rad_accuracy|{VERSION}|norm:strip+lower",
    "vqa_rad_recall": f"vqa_rad_recall|{VERSION}|llava-med|norm:vqa-v2-without-contractions|references:max",
}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBER_WORDS.split())}


def score(prediction: str, references: str | Sequence[str]) -> dict[str, float]:
    """LLaVA-Med's token recall of one answer, the best over the references; accuracy is that of `exact_match`.

    Args:
        prediction: the answer of the model.
        references: the accepted answer, or all accepted answers.

    >>> score("the left lung", ["Right lung"])
    {'vqa_rad_recall': 0.5}
    """
    return {"vqa_rad_recall": max((recall(prediction, text) for text in _listed(references)), default=0.0)}


def signature(metric: str) -> str:
    """What is printed beside every number of a metric."""
    return METRICS[metric]


def accuracy(prediction: str, references: str | Sequence[str]) -> float:
    """1.0 if the prediction equals a reference after strip and lower-case, else 0.0."""
    return float(prediction.strip().lower() in [text.strip().lower() for text in _listed(references)])


def recall(prediction: str, reference: str) -> float:
    """Share of the reference's words that the prediction has, as in LLaVA-Med's evaluation (Li et al. 2023).

    As there, a shared word counts as often as the prediction says it, which favours repetition, and an empty side
    makes 0. A long prediction costs nothing: it is a score for open questions, not to be reported alone.
    """
    predicted, referred = Counter(words(prediction)), Counter(words(reference))
    found = sum(count for word, count in predicted.items() if word in referred)
    missed = sum(count for word, count in referred.items() if word not in predicted)
    return found / (found + missed) if found else 0.0


def words(text: str) -> list[str]:
    """Words as VQA v2 normalises them, without its table of contractions (dont → don't)."""
    text = text.strip()
    thousands = re.search(r"\d,\d", text)
    replaced = text
    for mark in PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        replaced = replaced.replace(mark, "" if beside_blank or thousands else " ")
    replaced = re.sub(r"\.(?!\d)", "", replaced)
    return [NUMBERS.get(word, word) for word in replaced.lower().split() if word not in ("a", "an", "the")]


def groups(
    references: Sequence[str | Sequence[str]], answer_types: Sequence[str] | None = None
) -> dict[str, list[int]]:
    """Rows of each group of questions.

    Args:
        references: of each row.
        answer_types: "closed" or "open" of each row; without them there is only the grouping by the answer.

    Returns:
        all; closed and open, by the label; yes_no and not_yes_no, by the answer. Groups without rows are left out.
    """
    yes_no = [any(text.strip().lower() in ("yes", "no") for text in _listed(texts)) for texts in references]
    chosen = {"all": list(range(len(references)))}
    for name in ("closed", "open"):
        chosen[name] = [i for i, kind in enumerate(answer_types or []) if kind == name]
    chosen["yes_no"] = [i for i, is_one in enumerate(yes_no) if is_one]
    chosen["not_yes_no"] = [i for i, is_one in enumerate(yes_no) if not is_one]
    return {name: indices for name, indices in chosen.items() if indices}


def _listed(references: str | Sequence[str]) -> Sequence[str]:
    return [references] if isinstance(references, str) else references


class VqaRad(evaluate.Metric):
    """`compute(predictions, references, answer_types=None)` → accuracy of each group, and recall of the open ones.

    `references` is a list of strings, or a list of lists of accepted answers; not a mixture of both. The names are
    accuracy_all, accuracy_closed, accuracy_open, accuracy_yes_no, accuracy_not_yes_no, recall_open, recall_not_yes_no,
    less those of groups without rows.
    """

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Accuracy by group of questions, and LLaVA-Med's recall. " + " ".join(METRICS.values()),
            citation="Lau et al., A dataset of clinically generated visual questions and answers, Sci. Data 5 (2018).",
            inputs_description="predictions: strings; references: strings, or lists of accepted strings.",
            features=[
                datasets.Features({"predictions": value, "references": value}),
                datasets.Features({"predictions": value, "references": datasets.List(value)}),
            ],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str] | list[list[str]],
        answer_types: Sequence[str] | None = None,
    ) -> dict[str, float]:
        if answer_types is not None and len(answer_types) != len(predictions):
            raise ValueError(f"{len(answer_types)} answer types for {len(predictions)} predictions")
        pairs = list(zip(predictions, references, strict=True))
        hits = [accuracy(*pair) for pair in pairs]
        recalls = [score(*pair)["vqa_rad_recall"] for pair in pairs]
        members = groups(references, answer_types)
        means = {f"accuracy_{name}": _mean(hits, indices) for name, indices in members.items()}
        opened = {name: members[name] for name in ("open", "not_yes_no") if name in members}
        return means | {f"recall_{name}": _mean(recalls, indices) for name, indices in opened.items()}


def _mean(values: list[float], indices: list[int]) -> float:
    return sum(values[i] for i in indices) / len(indices)
