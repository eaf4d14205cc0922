"""Predictions → tidy score rows → a table for the terminal, and predictions.jsonl."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from processing.backends import Answer
from processing.files import write_whole
from processing.scoring import exact_match
from processing.scoring.calibration import BINS, aurc, brier_score, expected_calibration_error
from processing.scoring.intervals import clustered_bootstrap, clustered_bootstrap_of, clustered_bootstraps
from processing.scoring.scorers import SCORERS
from processing.scoring.temperature import Calibration

COLUMNS = ("closed", "open", "all")
GROUPED_BY = ("question_type", "organ")
CLASS_SIGNATURE = "class_accuracy|v1|classes:known"
MEASURES = {"ece": expected_calibration_error, "aurc": aurc, "brier": brier_score}
MEASURE_RESAMPLES = 1_000  # each is computed anew, unlike a mean


class Column(NamedTuple):
    """A score of every row under one condition."""

    metric: str
    condition: str
    signature: str
    values: list[float]


def score_rows(rows: Iterable[dict], predictions_by_condition: dict[str, list[str]]) -> list[dict]:
    """All scorers' metrics of every condition on all, closed and open questions and on each question type and organ.

    Args:
        rows: `datasets.Dataset` or list of dicts with answers, answer_type, question_type and image_id. Those without
            answers are not scored.
        predictions_by_condition: "model", "majority", … → one answer per row.

    Returns:
        Dicts with metric, subset, condition, value (0–1), low, high (95 % bootstrap clustered by image; None where
        there is one image only), n and signature. A subset without rows is left out.

    Raises:
        ValueError: a condition whose number of answers is not the number of rows.
    """
    rows = _small(rows)
    known = [i for i, row in enumerate(rows) if row["answers"]]
    columns = []
    for condition, predictions in predictions_by_condition.items():
        if len(predictions) != len(rows):
            raise ValueError(f"condition {condition!r} has {len(predictions)} answers to {len(rows)} questions")
        for scorer in SCORERS:
            scored = [scorer.score(predictions[i], rows[i]["answers"]) for i in known]
            for metric in scored[0] if scored else ():
                values = [row[metric] for row in scored]
                columns.append(Column(metric, condition, scorer.signature(metric), values))
    return _tidy([rows[i] for i in known], columns)


def score_classes(
    rows: Iterable[dict], answers_by_condition: dict[str, list[Answer]], known: Iterable[str]
) -> tuple[list[dict], int]:
    """Accuracy of a model's head on the rows whose classes it knows: all of a row's classes, and no other.

    Args:
        rows: as of `score_rows`, with label.
        answers_by_condition: "model", … → one answer per row, with classes.
        known: names of the head's classes.

    Returns:
        rows as of `score_rows`, and the number of rows with a class that the head lacks, or without any.
    """
    rows, known = _small(rows, "label"), set(known)
    of_known = [i for i, row in enumerate(rows) if row["label"] and known.issuperset(row["label"])]
    columns = [
        Column(
            "class_accuracy",
            condition,
            CLASS_SIGNATURE,
            [float(set(answers[i].classes) == set(rows[i]["label"])) for i in of_known],
        )
        for condition, answers in answers_by_condition.items()
    ]
    return _tidy([rows[i] for i in of_known], columns), len(rows) - len(of_known)


def score_confidence(
    rows: Iterable[dict], answers: Sequence[Answer], calibration: Calibration | None = None
) -> list[dict]:
    """How well confidence tells right answers from wrong ones: of generated answers, and of closed questions among
    their candidates; as generated, and at the model's temperatures where it has some. Rows as of `score_rows`."""
    known = [(row, answer) for row, answer in zip(_small(rows), answers, strict=True) if row["answers"]]
    kinds = {"all": known}
    kinds |= {name: [pair for pair in known if pair[0]["answer_type"] == name] for name in ("closed", "open")}
    scores = []
    for subset, pairs in kinds.items():
        for which, confidences in confidences_of(pairs, calibration).items():
            hits = np.array([exact_match.exact_match(answer.text, row["answers"]) for row, answer in pairs])
            clusters = [row["image_id"] for row, _ in pairs]
            for metric in ("ece", "aurc", *(["brier"] if subset == "closed" else [])):
                bins = f"|bins:{BINS}" if metric == "ece" else ""
                signature = f"{metric}|v1{bins}|hit:exact_match|confidence:{which}|resamples:{MEASURE_RESAMPLES}"
                scores.append(_measured(metric, subset, signature, confidences, hits, clusters))
    return scores


def confidences_of(
    pairs: Sequence[tuple[dict, Answer]], calibration: Calibration | None = None
) -> dict[str, np.ndarray]:
    """Name of a kind of confidence → one a row; none of no rows."""
    if not pairs:
        return {}
    found = {"token_mean": np.array([answer.confidence for _, answer in pairs])}
    if all(answer.candidates for _, answer in pairs):
        found["candidates"] = np.array([answer.candidate_confidence for _, answer in pairs])
    if calibration is not None:
        temperature = calibration.answer_temperature
        found[f"token_mean,temperature:{temperature:.3f}"] = calibration.confidence(found["token_mean"])
    return found


def _measured(
    metric: str, subset: str, signature: str, confidences: np.ndarray, hits: np.ndarray, clusters: Sequence[str]
) -> dict:
    measure = MEASURES[metric]
    low, high = clustered_bootstrap_of(
        lambda members: measure(confidences[members], hits[members]), clusters, resamples=MEASURE_RESAMPLES
    )
    score = {"metric": metric, "subset": subset, "condition": "model", "value": float(measure(confidences, hits))}
    return {**score, "low": low, "high": high, "n": len(hits), "signature": signature}


def difference(rows: Iterable[dict], first: Sequence[str], second: Sequence[str]) -> dict[str, float | None]:
    """Exact match of the first answers less that of the second: value, low and high of the paired difference."""
    rows = _small(rows)
    scored = [i for i, row in enumerate(rows) if row["answers"]]
    hits = [[exact_match.exact_match(side[i], rows[i]["answers"]) for i in scored] for side in (first, second)]
    differences = np.subtract(*hits)
    low, high = clustered_bootstrap(differences, [rows[i]["image_id"] for i in scored])
    return {"value": float(differences.mean()), "low": low, "high": high}


def _small(rows: Iterable[dict], *more: str) -> list[dict]:
    """The rows' small columns: they may carry the bytes of their images."""
    names = ("answers", "answer_type", "image_id", *more)
    columns = getattr(rows, "column_names", None)
    if columns is not None:
        rows = rows.select_columns([name for name in columns if name in (*names, *GROUPED_BY)])
    return [{**{name: row[name] for name in names}, **{g: row[g] for g in GROUPED_BY if row.get(g)}} for row in rows]


def _tidy(rows: list[dict], columns: Sequence[Column]) -> list[dict]:
    """Mean and interval of each column on each subset of the rows."""
    scores: list[list[dict]] = [[] for _ in columns]
    values = np.array([column.values for column in columns], dtype=float).T  # (n k)
    for subset, members in _subsets(rows).items():
        intervals = clustered_bootstraps(values[members], [rows[i]["image_id"] for i in members])
        means = values[members].mean(0)
        for i, column in enumerate(columns):
            scores[i].append(
                {
                    "metric": column.metric,
                    "subset": subset,
                    "condition": column.condition,
                    "value": float(means[i]),
                    "low": intervals[i][0],
                    "high": intervals[i][1],
                    "n": len(members),
                    "signature": column.signature,
                }
            )
    return [score for of_column in scores for score in of_column]


def _subsets(rows: list[dict]) -> dict[str, list[int]]:
    """Name of each subset that has rows → their indices."""
    subsets = {"all": list(range(len(rows)))}
    for name in ("closed", "open"):
        subsets[name] = [i for i, row in enumerate(rows) if row["answer_type"] == name]
    for column in GROUPED_BY:
        for name in sorted({row[column] for row in rows if column in row}):
            subsets[f"{column}={name}"] = [i for i, row in enumerate(rows) if row.get(column) == name]
    return {name: members for name, members in subsets.items() if members}


def format_table(scores: list[dict]) -> str:
    """Table of scores for a terminal: a line per condition, columns closed, open and all, per signature."""
    lines = []
    for signature in dict.fromkeys(score["signature"] for score in scores):
        cells = {(s["condition"], s["subset"]): s for s in scores if s["signature"] == signature}
        conditions = dict.fromkeys(condition for condition, _ in cells)
        counts = {subset: score["n"] for (_, subset), score in cells.items()}
        columns = [subset for subset in COLUMNS if subset in counts]
        width = max(len(name) for name in (*conditions, "condition"))
        header = [f"{f'{subset} (n={counts[subset]})':<20}" for subset in columns]
        lines += [f"{signature}  [95 % interval, clustered by image]", "  ".join([f"{'condition':<{width}}", *header])]
        for condition in conditions:
            texts = [f"{format_score(cells.get((condition, subset))):<20}" for subset in columns]
            lines.append("  ".join([f"{condition:<{width}}", *texts]))
    return "\n".join(line.rstrip() for line in lines)


def format_summary(scores: list[dict]) -> str:
    """Table for a terminal: a line per signature, on all questions, of the model with and without the images."""
    cells = {(s["signature"], s["condition"]): s for s in scores if s["subset"] == "all"}
    lines = [f"{'model':<18}  {'blank_image':<18}  all questions [95 % interval, clustered by image]"]
    for signature in dict.fromkeys(signature for signature, _ in cells):
        texts = [f"{format_score(cells.get((signature, condition))):<18}" for condition in ("model", "blank_image")]
        lines.append("  ".join([*texts, signature]))
    return "\n".join(lines)


def format_score(score: Mapping | None) -> str:
    """Value and interval.

    >>> format_score({"value": 0.5, "low": 0.41, "high": 0.59})
    '0.500 [0.41, 0.59]'
    """
    if score is None:
        return "-"
    if score["low"] is None:
        return f"{score['value']:.3f} [-]"
    return f"{score['value']:.3f} [{score['low']:.2f}, {score['high']:.2f}]"


def write_predictions(path: str | Path, rows: Iterable[dict], answers: Sequence[Answer]) -> None:
    """One JSON object a line and row: what was asked, what was answered, how sure, and every scorer's value.

    `candidates` holds log-likelihoods. What a row or the model does not have is left out: candidates, classes, and
    without accepted answers the scores.
    """
    names = ("id", "image_id", "question", "answer", "answers", "answer_type", "question_type")
    lines = []
    for row, answer in zip(rows, answers, strict=True):
        line = {name: row[name] for name in names}
        line |= {"prediction": answer.text, "confidence": answer.confidence}
        if answer.candidates is not None:
            line |= {"candidate_confidence": answer.candidate_confidence, "candidates": answer.candidates}
        if answer.classes is not None:
            line |= {"class_prediction": ", ".join(answer.classes), "class_confidence": answer.class_confidence}
        for scorer in SCORERS if row["answers"] else ():
            line |= scorer.score(answer.text, row["answers"])
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_whole(path, "".join(lines))
