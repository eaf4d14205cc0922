"""Do answers agree with each other: of head and decoder, of rephrased questions, of questions with a known twist?

A model that always says "yes" agrees with every rephrasing of a question, and one that guesses changes its answer to
half of those that should be changed. So beside `consistent`, whether the answer changes or stays as it should, stands
`both_right`, whether both answers are right, too.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.metrics import cohen_kappa_score

from flamingo_med.evaluation.counterfactuals import Pair
from flamingo_med.evaluation.intervals import RESAMPLES, clustered_bootstrap, clustered_bootstrap_of
from flamingo_med.evaluation.tables import format_score
from flamingo_med.metrics.exact_match import exact_match

SIGNATURE = "consistency|v1|norm:strip+lower"


def paraphrases(rows: Iterable[dict], paraphrase_pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Pairs of rows that ask the same in other words, so that their answers should be the same.

    Args:
        rows: `datasets.Dataset` or list of dicts with the columns of `FEATURES`.
        paraphrase_pairs: pairs of ids, as of `datasets.vqa_rad.paraphrase_pairs`; those not among the rows are not
            used.
    """
    by_id = {row["id"]: row for row in rows}
    return [
        Pair(by_id[first], by_id[second], False, "paraphrase")
        for first, second in paraphrase_pairs
        if first in by_id and second in by_id
    ]


def distinct_rows(pairs: Iterable[Pair]) -> list[dict]:
    """The rows of all pairs, each once."""
    return list({row["id"]: row for pair in pairs for row in (pair.original, pair.changed)}.values())


def score_pairs(pairs: Sequence[Pair], answers: dict[str, str]) -> list[dict]:
    """Rates of each kind of pair, and of all that should change and all that should stay.

    Args:
        pairs: of `counterfactuals` and `paraphrases`.
        answers: id of each of their rows → the model's answer.

    Returns:
        Score rows as of `evaluation.scores.score_rows`: metric "consistent" or "both_right", subset such as
        "should=change" or "kind=negation,should=change".
    """
    scores = []
    for subset, members in _subsets(pairs).items():
        consistent = [_same(answers, pair) != pair.should_change for pair in members]
        right = [_right(answers, pair.original) and _right(answers, pair.changed) for pair in members]
        clusters = [pair.original["image_id"] for pair in members]
        for metric, hits in (("consistent", consistent), ("both_right", right)):
            scores.append(_score(metric, subset, hits, clusters))
    return scores


def head_agreement(predictions: Iterable[dict]) -> list[dict]:
    """How often the head's class is the generated answer, and Cohen's kappa, which takes off what chance would agree.

    Args:
        predictions: rows of predictions.jsonl; those without a class_prediction do not count.

    Returns:
        Score rows with the metrics "head_agreement" and "head_kappa" (-1 to 1; None where both always say the same one
        thing); none where no row has a class_prediction.
    """
    rows = [row for row in predictions if row.get("class_prediction") is not None]
    if not rows:
        return []
    texts = [row[name].strip().lower() for name in ("class_prediction", "prediction") for row in rows]
    classes, generated = np.unique(texts, return_inverse=True)[1].reshape(2, -1)
    clusters = [row["image_id"] for row in rows]
    score = _score("head_agreement", "all", classes == generated, clusters)
    value = _kappa(classes, generated)
    low, high = clustered_bootstrap_of(lambda members: _kappa(classes[members], generated[members]), clusters)
    kappa = {"value": None if np.isnan(value) else value, "low": low, "high": high}
    return [score, {**score, "metric": "head_kappa", **kappa, "signature": f"{SIGNATURE}|resamples:{RESAMPLES}"}]


def format_consistency(scores: Sequence[dict]) -> str:
    """Table for a terminal: a line per kind, and what should become of the answer."""
    cells = {(score["subset"], score["metric"]): score for score in scores}
    lines = [f"{SIGNATURE}  [95 % interval, clustered by image]"]
    lines.append(f"{'kind':<20}  {'answer should':<13}  {'n':>5}  {'consistent':<20}  both right")
    for subset in dict.fromkeys(score["subset"] for score in scores if score["metric"] == "consistent"):
        named = dict(part.split("=") for part in subset.split(","))
        consistent, right = (cells[subset, metric] for metric in ("consistent", "both_right"))
        start = f"{named.get('kind', 'all'):<20}  {named['should']:<13}  {consistent['n']:>5}"
        lines.append(f"{start}  {format_score(consistent):<20}  {format_score(right)}")
    if ("all", "head_agreement") in cells:
        agreement, kappa = (cells["all", metric] for metric in ("head_agreement", "head_kappa"))
        text = "undefined" if kappa["value"] is None else format_score(kappa)
        lines += [
            "",
            f"head and generated answer (n={agreement['n']}) agree: {format_score(agreement)}, Cohen's kappa {text}",
        ]
    return "\n".join(lines)


def _subsets(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    subsets: dict[str, list[Pair]] = {}
    for pair in pairs:
        should = "should=change" if pair.should_change else "should=stay"
        for name in (f"kind={pair.kind},{should}", should):
            subsets.setdefault(name, []).append(pair)
    return dict(sorted(subsets.items()))


def _same(answers: dict[str, str], pair: Pair) -> bool:
    return bool(exact_match(answers[pair.original["id"]], answers[pair.changed["id"]]))


def _right(answers: dict[str, str], row: dict) -> bool:
    return bool(exact_match(answers[row["id"]], row["answers"]))


def _kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa; NaN where both always say the same one thing."""
    return float(cohen_kappa_score(first, second)) if len({*first, *second}) > 1 else float("nan")


def _score(metric: str, subset: str, hits: Sequence[bool], clusters: Sequence[str]) -> dict:
    low, high = clustered_bootstrap(hits, clusters)
    return {
        "metric": metric,
        "subset": subset,
        "condition": "model",
        "value": float(np.mean(hits)),
        "low": low,
        "high": high,
        "n": len(hits),
        "signature": SIGNATURE,
    }
