"""Predictions → tidy score rows → a table for the terminal and a JSON file."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from processing.answering import Answer
from processing.files import write_whole
from processing.scoring import exact_match
from processing.scoring.intervals import clustered_bootstrap

COLUMNS = ("closed", "open", "all")


def score_rows(rows: Iterable[dict], predictions_by_condition: dict[str, list[str]]) -> list[dict]:
    """Exact match of every condition on all, closed and open questions and on each question type.

    Args:
        rows: `datasets.Dataset` or list of dicts with answers, answer_type, question_type and image_id.
        predictions_by_condition: "model", "majority", … → one answer per row.

    Returns:
        Dicts with metric, subset, condition, value (0–1), low, high (95 % bootstrap clustered by image; None where
        there is one image only), n and signature. A subset without rows is left out.

    Raises:
        ValueError: a condition whose number of answers is not the number of rows.
    """
    # Only the small columns are kept: rows may carry the bytes of their images.
    rows = [{key: row[key] for key in ("answers", "answer_type", "question_type", "image_id")} for row in rows]
    subsets = _subsets(rows)
    scores = []
    for condition, predictions in predictions_by_condition.items():
        if len(predictions) != len(rows):
            raise ValueError(f"condition {condition!r} has {len(predictions)} answers to {len(rows)} questions")
        hits = [exact_match.exact_match(answer, row["answers"]) for answer, row in zip(predictions, rows, strict=True)]
        for subset, members in subsets.items():
            values = [hits[i] for i in members]
            low, high = clustered_bootstrap(values, [rows[i]["image_id"] for i in members])
            scores.append(
                {
                    "metric": "exact_match",
                    "subset": subset,
                    "condition": condition,
                    "value": sum(values) / len(values),
                    "low": None if math.isnan(low) else low,
                    "high": None if math.isnan(high) else high,
                    "n": len(values),
                    "signature": exact_match.signature("exact_match"),
                }
            )
    return scores


def _subsets(rows: list[dict]) -> dict[str, list[int]]:
    """Name of each subset that has rows → their indices."""
    types = sorted({row["question_type"] for row in rows} - {""})
    subsets = {"all": list(range(len(rows)))}
    for name in ("closed", "open"):
        subsets[name] = [i for i, row in enumerate(rows) if row["answer_type"] == name]
    for name in types:
        subsets[f"question_type={name}"] = [i for i, row in enumerate(rows) if row["question_type"] == name]
    return {name: members for name, members in subsets.items() if members}


def format_table(scores: list[dict]) -> str:
    """Table of `score_rows` for a terminal: a line per condition, columns closed, open and all, per signature."""
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
            texts = [f"{_cell(cells.get((condition, subset))):<20}" for subset in columns]
            lines.append("  ".join([f"{condition:<{width}}", *texts]))
    return "\n".join(line.rstrip() for line in lines)


def _cell(score: dict | None) -> str:
    if score is None:
        return "-"
    if score["low"] is None:
        return f"{score['value']:.3f} [-]"
    return f"{score['value']:.3f} [{score['low']:.2f}, {score['high']:.2f}]"


def write_predictions(path: str | Path, rows: Iterable[dict], answers: Sequence[Answer]) -> None:
    """One JSON object a line and row: id, image_id, question, answer, prediction, confidence, exact_match."""
    lines = []
    for row, answer in zip(rows, answers, strict=True):
        line = {name: row[name] for name in ("id", "image_id", "question", "answer")}
        line |= {"prediction": answer.text, "confidence": answer.confidence}
        line["exact_match"] = exact_match.exact_match(answer.text, row["answers"])
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_whole(path, "".join(lines))
