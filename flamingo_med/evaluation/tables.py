"""Tidy score rows → tables for the terminal; answers and their scores → predictions.jsonl."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flamingo_med.evaluation.scorers import IN_FULL, scorers_for
from flamingo_med.evaluation.scores import GROUPED_BY
from flamingo_med.inference.backends import Answer
from processing.files import write_whole

COLUMNS = ("closed", "open", "yes_no", "not_yes_no", "all")
WIDTH = 18  # of a score and its interval


class Line(NamedTuple):
    """A line of a summary: one score of one subset, under several conditions."""

    metric: str
    subset: str
    signature: str
    n: int
    cells: dict[str, dict]  # condition → score


def overall(scores: Iterable[dict]) -> list[dict]:
    """Those on all questions, or on the subsets that a scorer is about where these are not all."""
    scores = list(scores)
    of_all = {score["signature"] for score in scores if score["subset"] == "all"}
    return [score for score in scores if score["subset"] == "all" or score["signature"] not in of_all]


def summarised(scores: Iterable[dict]) -> list[Line]:
    """What is not shown in full, overall."""
    lines: dict[tuple[str, str], Line] = {}
    for s in overall(score for score in scores if score["metric"] not in IN_FULL):
        line = Line(s["metric"], s["subset"], s["signature"], s["n"], {})
        lines.setdefault((s["signature"], s["subset"]), line).cells[s["condition"]] = s
    return list(lines.values())


def named(signature: str, subset: str) -> str:
    """What stands beside a number of a summary."""
    return signature if subset == "all" else f"{subset}: {signature}"


def format_tables(scores: list[dict]) -> str:
    """All tables of an evaluation for a terminal: in full, by question type and organ, and the summary."""
    in_full = [score for score in scores if score["metric"] in IN_FULL]
    parts = [format_table(in_full), format_groups(in_full), format_summary(scores)]
    return "\n\n".join(part for part in parts if part)


def format_table(scores: list[dict]) -> str:
    """Table of scores for a terminal: a line per condition, columns closed, open and all, per signature."""
    lines = []
    for signature in dict.fromkeys(score["signature"] for score in scores):
        cells = {(s["condition"], s["subset"]): s for s in scores if s["signature"] == signature}
        conditions = dict.fromkeys(condition for condition, _ in cells)
        counts = {subset: score["n"] for (_, subset), score in cells.items()}
        columns = [subset for subset in COLUMNS if subset in counts]
        width = max(len(name) for name in (*conditions, "condition"))
        header = [f"{f'{subset} (n={counts[subset]})':<{WIDTH}}" for subset in columns]
        lines += [f"{signature}  [95 % interval, clustered by image]", "  ".join([f"{'condition':<{width}}", *header])]
        for condition in conditions:
            texts = [f"{format_score(cells.get((condition, subset))):<{WIDTH}}" for subset in columns]
            lines.append("  ".join([f"{condition:<{width}}", *texts]))
    return "\n".join(line.rstrip() for line in lines)


def format_groups(scores: list[dict]) -> str:
    """Table for a terminal: the model's scores by question type and organ, a column per metric of all the rows (not
    the head's, which knows fewer); "" where the data set knows neither."""
    kinds = tuple(f"{column}=" for column in GROUPED_BY)
    scores = [score for score in scores if score["condition"] == "model" and score["metric"] != "class_accuracy"]
    own = [score for score in scores if score["subset"].startswith(kinds)]
    if not own:
        return ""
    metrics, subsets = (list(dict.fromkeys(s[name] for s in own)) for name in ("metric", "subset"))
    cells = {(s["subset"], s["metric"]): s for s in own}
    width = max(len(name) for name in (*subsets, "model"))
    lines = ["  ".join([f"{'model':<{width}}", f"{'n':>5}", *(f"{metric:<{WIDTH}}" for metric in metrics)])]
    for subset in subsets:
        of_subset = [cells.get((subset, metric)) for metric in metrics]
        count = next(score["n"] for score in of_subset if score)
        texts = [f"{format_score(score):<{WIDTH}}" for score in of_subset]
        lines.append("  ".join([f"{subset:<{width}}", f"{count:>5}", *texts]))
    return "\n".join(line.rstrip() for line in lines)


def format_summary(scores: list[dict]) -> str:
    """Table for a terminal of `summarised`: the model with and without the images."""
    conditions = ("model", "blank_image")
    lines = ["  ".join([*(f"{condition:<{WIDTH}}" for condition in conditions), f"{'n':>5}", "all questions"])]
    for line in summarised(scores):
        texts = [f"{format_score(line.cells.get(condition)):<{WIDTH}}" for condition in conditions]
        lines.append("  ".join([*texts, f"{line.n:>5}", named(line.signature, line.subset)]))
    return "\n".join(lines) if len(lines) > 1 else ""


def format_measures(measures: Sequence[Mapping]) -> str:
    """Table of `flamingo_med.evaluation.calibration.fit` for a terminal."""
    names = ("nll", "ece", "brier", "aurc")
    lines = ["  ".join([f"{'of':<10}", f"{'n':>6}", "temperature", *(f"{name:<{WIDTH}}" for name in names)])]
    for row in measures:
        start = [f"{row['of']:<10}", f"{row['n']:>6}", f"{row['temperature']:>11.3f}"]
        lines.append("  ".join([*start, *(f"{format_score(row[name]):<{WIDTH}}" for name in names)]))
    return "\n".join(line.rstrip() for line in lines)


def format_score(score: Mapping | None) -> str:
    """Value and interval.

    >>> format_score({"value": 0.5, "low": 0.41, "high": 0.59})
    '0.500 [0.41, 0.59]'
    """
    if score is None:
        return "-"
    if score["low"] is None or score["high"] is None:
        return f"{score['value']:.3f} [-]"
    return f"{score['value']:.3f} [{score['low']:.2f}, {score['high']:.2f}]"


def write_predictions(
    path: str | Path,
    rows: Iterable[dict],
    answers: Sequence[Answer],
    dataset: str = "",
    embedded: Sequence[dict[str, float]] | None = None,
    blanked: Sequence[str] | None = None,
) -> None:
    """One JSON object a line and row: what was asked, what was answered, how sure, and every scorer's value.

    `candidates` holds log-likelihoods, `blank_image_prediction` what was answered (`blanked`) with the image blanked.
    What a row or the model does not have is left out: organ, candidates, classes, and without accepted answers the
    scores. `dataset` and `embedded` (of the model's answers) as of `score_rows`.
    """
    rows = rows.select_columns([name for name in rows.column_names if name not in ("image", "more_images")])
    names = ("id", "image_id", "question", "answer", "answers", "answer_type", "question_type")
    scorers = scorers_for(dataset, [references for references in rows["answers"] if references])
    lines = []
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        line = {name: row[name] for name in names}
        if row["organ"]:
            line["organ"] = row["organ"]
        line |= {"prediction": answer.text, "confidence": answer.confidence}
        if blanked is not None:
            line["blank_image_prediction"] = blanked[i]
        if answer.candidates is not None:
            line |= {"candidate_confidence": answer.candidate_confidence(), "candidates": answer.candidates}
        if answer.classes is not None:
            line |= {"class_prediction": ", ".join(answer.classes), "class_confidence": answer.class_confidence}
        for scorer in scorers if row["answers"] else ():
            line |= scorer.module.score(answer.text, row["answers"])
        if embedded is not None:
            line |= embedded[i]
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_whole(path, "".join(lines))
