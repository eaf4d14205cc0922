"""Two predictions.jsonl files of the same rows: how far apart their scores are, and how sure that is."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flamingo_med.evaluation.intervals import clustered_bootstrap
from flamingo_med.evaluation.predictions import read_predictions
from processing.errors import InputError
from processing.shapes import check_shape, parse_json

SAME = ("image_id", "question", "answer")  # what two files of the same rows agree in
GROUPED_BY = ("answer_type", "question_type", "organ")


def compare(first: str | Path, second: str | Path) -> str:
    """Table of the differences between two files, second minus first, one block for each score.

    Raises:
        InputError: a file that cannot be read; rows, references or signatures that differ; no score that both have.
    """
    names = (str(first), str(second))
    pairs = pair_rows(read_predictions(first), read_predictions(second), names)
    fields = [score_fields([pair[side] for pair in pairs]) for side in (0, 1)]
    metrics = [name for name in fields[0] if name in fields[1]]
    if not metrics:
        raise InputError(f"{first} and {second} have no score in common: {fields[0]} and {fields[1]}")
    signatures = _signatures(first), _signatures(second)
    lines = [f"a: {first}", f"b: {second}"]
    for metric in metrics:
        signature = _common_signature(metric, signatures, names)
        lines += ["", f"{metric}, {signature}  [95 % interval of b - a, paired, clustered by image]"]
        lines += _table(differences(pairs, metric))
        lacking = sum(_both(pair, metric) is None for pair in pairs)
        if lacking:
            lines.append(f"left out: {lacking} of {len(pairs)} rows without {metric} on both sides")
    for name, own in zip(names, fields, strict=True):
        alone = [field for field in own if field not in metrics]
        if alone:
            lines += ["", f"only in {name}, not compared: {', '.join(alone)}"]
    return "\n".join(lines)


def pair_rows(first: list[dict], second: list[dict], names: tuple[str, str]) -> list[tuple[dict, dict]]:
    """The rows of both, matched by id, in the order of the first.

    Args:
        first, second: of `read_predictions`.
        names: of the files, for error messages.

    Raises:
        InputError: an id that one lacks, or a row whose image, question or answer differ.
    """
    others = {row["id"]: row for row in second}
    ids = {row["id"] for row in first}
    alone = [
        [row["id"] for row in first if row["id"] not in others],
        [row["id"] for row in second if row["id"] not in ids],
    ]
    if alone[0] or alone[1]:
        parts = [
            f"{len(own)} only in {name} (the first: {own[0]})" for own, name in zip(alone, names, strict=True) if own
        ]
        raise InputError(f"the files hold different rows: {' and '.join(parts)}; evaluate both on one split")
    pairs = [(row, others[row["id"]]) for row in first]
    for row, other in pairs:
        for name in SAME:
            if row.get(name) != other.get(name):
                raise InputError(f"row {row['id']} differs in its {name} between {names[0]} and {names[1]}")
    return pairs


def score_fields(rows: Sequence[dict]) -> list[str]:
    """Names of the row scores: the fields that hold numbers (or nothing) in every row, but those of confidence."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
    return [
        name for name in names if not name.endswith("confidence") and values[name] and all(map(_number, values[name]))
    ]


def differences(pairs: Sequence[tuple[dict, dict]], metric: str) -> list[dict]:
    """Subset by subset, over the rows that have the score on both sides.

    Returns:
        Dicts with metric, subset, first, second (the two means), value (second - first), low and high (95 % paired
        bootstrap clustered by image; None where there is one image only) and n. A subset without rows is left out.
    """
    pairs = [pair for pair in pairs if _both(pair, metric) is not None]
    rows = []
    for subset, members in _subsets(pairs).items():
        values = [_both(pair, metric) for pair in members]
        low, high = clustered_bootstrap([b - a for a, b in values], [row["image_id"] for row, _ in members])
        first, second = (sum(side) / len(values) for side in zip(*values, strict=True))
        means = {"first": first, "second": second, "value": second - first}
        rows.append({"metric": metric, "subset": subset, **means, "low": low, "high": high, "n": len(values)})
    return rows


def _subsets(pairs: Sequence[tuple[dict, dict]]) -> dict[str, list[tuple[dict, dict]]]:
    subsets = {"all": list(pairs)}
    for name in GROUPED_BY:
        for kind in sorted({row.get(name) or "" for row, _ in pairs} - {""}):
            title = kind if name == "answer_type" else f"{name}={kind}"
            subsets[title] = [pair for pair in pairs if pair[0].get(name) == kind]
    return {name: members for name, members in subsets.items() if members}


def _both(pair: tuple[dict, dict], metric: str) -> tuple[float, float] | None:
    first, second = pair[0].get(metric), pair[1].get(metric)
    return None if first is None or second is None else (first, second)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _signatures(predictions: str | Path) -> dict[str, str]:
    """Metric → signature, from the metrics.json beside a predictions.jsonl; empty where there is none."""
    path = Path(predictions).with_name("metrics.json")
    try:
        scores = parse_json(path.read_text(encoding="utf-8"))["scores"]
        signatures = {score["metric"]: score["signature"] for score in scores}
        check_shape(signatures, dict[str, str], "signatures")
        return signatures
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{path} is not what flamingo-med evaluate writes; evaluate again, or move it away") from None


def _common_signature(metric: str, signatures: Sequence[dict[str, str]], names: Sequence[str]) -> str:
    known = [of_file[metric] for of_file in signatures if metric in of_file]
    if len(set(known)) > 1:
        raise InputError(
            f"{metric} is {known[0]} in {names[0]} but {known[1]} in {names[1]}; evaluate both with one version"
        )
    return known[0] if len(known) == 2 else "signature unknown: no metrics.json beside both files"


def _table(rows: list[dict]) -> list[str]:
    width = max(len(name) for name in ("subset", *(row["subset"] for row in rows)))
    lines = [f"{'subset':<{width}}  {'n':>6}  {'a':>6}  {'b':>6}   b - a"]
    for row in rows:
        values = f"{row['first']:6.3f}  {row['second']:6.3f}  {format_difference(row)}"
        lines.append(f"{row['subset']:<{width}}  {row['n']:>6}  {values}")
    return lines


def format_difference(row: Mapping) -> str:
    """A difference and its interval.

    >>> format_difference({"value": 0.1, "low": -0.02, "high": 0.2})
    '+0.100 [-0.020, +0.200]'
    """
    if row["low"] is None:
        return f"{row['value']:+.3f} [-]"
    return f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
