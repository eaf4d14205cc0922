"""Predictions → tidy score rows, with intervals: of texts, of classes, of confidence."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flamingo_med.evaluation.calibration import Calibration
from flamingo_med.evaluation.calibration_error import BINS, aurc, brier_score, expected_calibration_error
from flamingo_med.evaluation.intervals import (
    RESAMPLES,
    Interval,
    clustered_bootstrap,
    clustered_bootstrap_of,
    clustered_bootstraps,
)
from flamingo_med.evaluation.scorers import Members, Scorer, scorers_for
from flamingo_med.inference import embedding
from flamingo_med.inference.backends import Answer
from flamingo_med.metrics import classification, exact_match, sentence_similarity

GROUPED_BY = ("question_type", "organ")
MEASURES = {"ece": expected_calibration_error, "aurc": aurc, "brier": brier_score}


class Column(NamedTuple):
    """A score of every row under one condition; in some subsets only, where it names some."""

    metric: str
    condition: str
    signature: str
    values: list[float]
    subsets: tuple[str, ...] = ()


def score_rows(
    rows: Iterable[dict],
    predictions_by_condition: Mapping[str, list[str]],
    dataset: str = "",
    embedded: Mapping[str, list[dict[str, float]]] | None = None,
    sentence_encoder: str | None = None,
) -> list[dict]:
    """The scores of every condition by all scorers of a data set, on all, closed and open questions and on each
    question type and organ.

    Args:
        rows: `datasets.Dataset` or list of dicts with answers, answer_type, image_id, and maybe question_type and
            organ. Those without answers are not scored.
        predictions_by_condition: "model", "majority", … → one answer per row.
        dataset: its name, by which `scorers_for` chooses.
        embedded: condition → the scores of each row by `conditions.embedding_scores` and `sentence_scores`.
        sentence_encoder: whose similarities are among them.

    Returns:
        Dicts with metric, subset, condition, value (0–1; a cosine -1–1), low, high (95 % bootstrap clustered by image;
        None where there is one image only), n and signature. A subset without rows is left out.

    Raises:
        ValueError: a condition whose number of answers is not the number of rows.
    """
    rows = _small(rows)
    for condition, predictions in predictions_by_condition.items():
        if len(predictions) != len(rows):
            raise ValueError(f"condition {condition!r} has {len(predictions)} answers to {len(rows)} questions")
    known = [i for i, row in enumerate(rows) if row["answers"]]
    if not known:
        return []
    texts = {condition: [some[i] for i in known] for condition, some in predictions_by_condition.items()}
    of_embeddings = {condition: [some[i] for i in known] for condition, some in (embedded or {}).items()}
    rows = [rows[i] for i in known]
    references = [row["answers"] for row in rows]
    scorers = scorers_for(dataset, references)
    columns = [column for scorer in scorers for column in _columns(scorer, texts, references)]
    columns += [
        Column(metric, condition, _embedded_signature(metric, sentence_encoder), [row[metric] for row in values])
        for condition, values in of_embeddings.items()
        for metric in values[0]
    ]
    subsets = _subsets(rows)
    for scorer in scorers:
        if scorer.groups:
            subsets |= scorer.groups(references, [row["answer_type"] for row in rows])
    scores = _means(rows, columns, subsets)
    for scorer in scorers:
        for condition, predictions in texts.items() if scorer.statistics else ():
            scores += _statistics(rows, condition, scorer.module, scorer.statistics(predictions, references))
    return scores


def _embedded_signature(metric: str, sentence_encoder: str | None) -> str:
    if metric == "sentence_similarity":
        return sentence_similarity.signature(str(sentence_encoder))
    return embedding.signature(metric)


def _columns(scorer: Scorer, texts: Mapping[str, list[str]], references: Sequence[Sequence[str]]) -> list[Column]:
    columns = []
    for condition, predictions in texts.items():
        scored = [scorer.module.score(*pair) for pair in zip(predictions, references, strict=True)]
        for metric in scored[0]:
            values = [row[metric] for row in scored]
            columns.append(Column(metric, condition, scorer.module.signature(metric), values, scorer.subsets))
    return columns


def score_classes(
    rows: Iterable[dict], answers_by_condition: Mapping[str, list[Answer]], names: Sequence[str]
) -> tuple[list[dict], int]:
    """Accuracy, macro F1 and AUROC of a model's head on the rows whose classes it knows. A row is right with all its
    classes and no other.

    Args:
        rows: as of `score_rows`, with label.
        answers_by_condition: "model", … → one answer per row, with classes, and for AUROC class_scores.
        names: of the head's classes, in their order.

    Returns:
        rows as of `score_rows`, and the number of rows whose classes are unknown or in part not the head's. Macro F1
        and AUROC are those of all other rows.
    """
    rows, number = _small(rows, "label"), {name: i for i, name in enumerate(names)}
    of_known = [i for i, row in enumerate(rows) if row["label"] is not None and number.keys() >= set(row["label"])]
    unknown, rows = len(rows) - len(of_known), [rows[i] for i in of_known]
    if not rows:
        return [], unknown
    columns, statistics = [], []
    for condition, answers in answers_by_condition.items():
        answers = [answers[i] for i in of_known]
        pairs = [(answer.classes, row["label"]) for answer, row in zip(answers, rows, strict=True)]
        hits = [float(set(said) == set(label)) for said, label in pairs]
        columns.append(Column("class_accuracy", condition, classification.signature("class_accuracy"), hits))
        one_class = all(len(some) == 1 for pair in pairs for some in pair)
        said, truth = (_numbered([pair[side] for pair in pairs], number, one_class) for side in (0, 1))
        scored = answers[0].class_scores is not None
        ranking = np.array([answer.class_scores for answer in answers]) if scored else None
        of_all = classification.statistics(said, truth, ranking)
        statistics += _statistics(rows, condition, classification, of_all)
    return _means(rows, columns, _subsets(rows)) + statistics, unknown


def _numbered(classes: Sequence[Sequence[str]], number: Mapping[str, int], one_class: bool) -> np.ndarray:
    """Class ids (n) where each row has one, else (n c) of 0 and 1."""
    if one_class:
        return np.array([number[name] for (name,) in classes])
    table = np.zeros((len(classes), len(number)), dtype=int)
    for row, names in zip(table, classes, strict=True):
        row[[number[name] for name in names]] = 1
    return table


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
                measure, bins = MEASURES[metric], f"|bins:{BINS}" if metric == "ece" else ""
                signature = f"{metric}|v1{bins}|hit:exact_match|confidence:{which}|resamples:{RESAMPLES}"
                interval = clustered_bootstrap_of(
                    lambda members, c=confidences, h=hits, m=measure: m(c[members], h[members]), clusters
                )
                value = measure(confidences, hits)
                scores.append(_score(metric, subset, "model", value, interval, len(hits), signature))
    return scores


def confidences_of(
    pairs: Sequence[tuple[dict, Answer]], calibration: Calibration | None = None
) -> dict[str, np.ndarray]:
    """Name of a kind of confidence → one a row; none of no rows."""
    if not pairs:
        return {}
    found = {"token_mean": np.array([answer.confidence for _, answer in pairs])}
    if all(answer.candidates for _, answer in pairs):
        found["candidates"] = np.array([answer.candidate_confidence() for _, answer in pairs])
    if calibration is None:
        return found
    temperature = calibration.answer_temperature
    found[f"token_mean,temperature:{temperature:.3f}"] = calibration.confidence(found["token_mean"])
    if "candidates" in found and (temperature := calibration.candidate_temperature):
        tempered = [answer.candidate_confidence(temperature) for _, answer in pairs]
        found[f"candidates,temperature:{temperature:.3f}"] = np.array(tempered)
    return found


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


def _means(rows: list[dict], columns: Sequence[Column], subsets: Members) -> list[dict]:
    """Mean and interval of each column on each subset of the rows."""
    scores: list[list[dict]] = [[] for _ in columns]
    values = np.array([column.values for column in columns], dtype=float).T  # (n k)
    for subset, members in subsets.items():
        intervals = clustered_bootstraps(values[members], [rows[i]["image_id"] for i in members])
        means = values[members].mean(0)
        for i, column in enumerate(columns):
            if not column.subsets or subset in column.subsets:
                named = column.metric, subset, column.condition
                scores[i].append(_score(*named, means[i], intervals[i], len(members), column.signature))
    return [score for of_column in scores for score in of_column]


def _statistics(
    rows: list[dict], condition: str, module, statistics: Mapping[str, Callable[[np.ndarray], float]]
) -> list[dict]:
    """Value and interval, on all rows, of what is no mean over them; none of what they give no value."""
    clusters, everything = [row["image_id"] for row in rows], np.arange(len(rows))
    scores = []
    for metric, statistic in statistics.items():
        value = statistic(everything)
        if np.isnan(value):
            continue
        interval = clustered_bootstrap_of(statistic, clusters)
        signature = f"{module.signature(metric)}|resamples:{RESAMPLES}"
        scores.append(_score(metric, "all", condition, value, interval, len(rows), signature))
    return scores


def _score(metric: str, subset: str, condition: str, value: float, interval: Interval, n: int, signature: str) -> dict:
    low, high = interval
    score = {"metric": metric, "subset": subset, "condition": condition, "value": float(value)}
    return {**score, "low": low, "high": high, "n": n, "signature": signature}


def _subsets(rows: list[dict]) -> Members:
    """Name of each subset that has rows → their indices."""
    subsets = {"all": list(range(len(rows)))}
    for name in ("closed", "open"):
        subsets[name] = [i for i, row in enumerate(rows) if row["answer_type"] == name]
    for column in GROUPED_BY:
        for name in sorted({row[column] for row in rows if column in row}):
            subsets[f"{column}={name}"] = [i for i, row in enumerate(rows) if row.get(column) == name]
    return {name: members for name, members in subsets.items() if members}
