"""Questions changed by rule, so that the right answer is known to flip or to stay: does the model read them?

Each rule keeps the truth known from the row's own question and answer; those in `GENERAL` for any data set, those in
`PHANTOM` because its drawings have no other findings, sides or zones. Most changed wordings, such as "Is there no
pneumothorax?", are in no train split, phantom's least of all; what is measured is whether a model understands beyond
the wordings that it was trained on, not how well it was trained. A negated question is taken literally: "Is there no
mass?" is answered "yes" where there is none, as VQA-RAD's own negated questions are.

Phantom's test split of 3099 rows yields 808 negations, 430 swapped sides, 273 absent findings, 218 swapped orders, 218
with "neither" offered, and 135 with "none of these" (45 of them right); VQA-RAD's official test of 451 rows 86
negations, one swapped comparison, 8 swapped orders and 8 with "neither" offered. Single sides are not swapped there,
nor findings: what is on the right may be on the left too, and what nobody asked about may be there.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from processing.datasets.phantom_questions import NOUNS, OPEN_ANSWERS

FLIPPED = {"yes": "no", "no": "yes"}
OTHER_SIDE = {"left": "right", "right": "left"}
NEGATED = (  # "and" would leave open which part is meant; "no more", "no anything" and "no 2" are other questions
    (r"(is|are) there (?:an? |any )?(?!an? |any|no |not |more |at |[\d>])(?!.*\band\b)", r"\1 there no "),
    (r"does this image show an? (?!.*\band\b)", "Does this image show no "),
    (r"can an? (?=.* be seen\?)(?!.*\band\b)", "Can no "),
)
EITHER_OR = re.compile(  # "an abscess or cancer" would need its article changed
    r"(?P<start>.*(?<!\ba)(?<!\ban)[\s:])(?P<first>[\w-]+) or (?P<second>(?!not\?)[\w-]+)\?", re.IGNORECASE
)
MARKED_NOUNS = [noun for label, noun in NOUNS.items() if label != "cardiomegaly"]  # its wordings are its own


class Pair(NamedTuple):
    """Two rows about one image, and whether the right answer to the second is another one."""

    original: dict
    changed: dict
    should_change: bool
    kind: str


def counterfactuals(rows: Iterable[dict], dataset: str = "") -> list[Pair]:
    """All changed questions that the rules make of the rows.

    Args:
        rows: `datasets.Dataset` or list of dicts with the columns of `FEATURES`.
        dataset: name of the data set; "phantom" has rules of its own.

    Returns:
        pairs in the order of rules and rows; the changed row has its own id, question, answer and answers.
    """
    rows = list(rows)
    rules = (*GENERAL, *PHANTOM) if dataset == "phantom" else GENERAL
    pairs = []
    for rule in rules:
        kind = rule.__name__
        for row, question, answer in rule(rows):
            truth = row["answer"] if answer is None else answer
            changed = {**row, "id": f"{row['id']}/{kind}-{len(pairs)}", "question": question, "answer": truth}
            changed["answers"] = row["answers"] if answer is None else [answer]
            pairs.append(Pair(row, changed, answer is not None, kind))
    return pairs


# A rule yields rows, their changed questions and the new right answers, None where it stays.
Changes = Iterator[tuple[dict, str, str | None]]


def negation(rows: list[dict]) -> Changes:
    """Is there a mass? → Is there no mass?"""
    for row in rows:
        for pattern, negated in NEGATED:
            question, count = re.subn(f"^{pattern}", negated, row["question"], flags=re.IGNORECASE)
            if count and _answer(row) in FLIPPED:
                yield row, question, FLIPPED[_answer(row)]


def swapped_comparison(rows: list[dict]) -> Changes:
    """Is the left lung larger than the right? yes → Is the right lung larger than the left?"""
    for row in rows:
        sides = re.findall(r"\b(left|right)\b", row["question"], re.IGNORECASE)
        both = sorted(side.lower() for side in sides) == ["left", "right"]
        if both and re.search(r"\bthan\b", row["question"]) and _answer(row) == "yes":
            yield row, _swap_sides(row["question"]), "no"


def swapped_order(rows: list[dict]) -> Changes:
    """Is the nodule small or large? → Is the nodule large or small?"""
    for row, match in _either_or(rows):
        yield row, f"{match['start']}{match['second']} or {match['first']}?", None


def neither_offered(rows: list[dict]) -> Changes:
    """Is the nodule small or large? → Is the nodule small, large or neither?"""
    for row, match in _either_or(rows):
        yield row, f"{match['start']}{match['first']}, {match['second']} or neither?", None


def swapped_side(rows: list[dict]) -> Changes:
    """Is the effusion on the left? → Is the effusion on the right? Phantom asks this where there is exactly one."""
    for row in rows:
        if row["question_type"] == "side" and _answer(row) in FLIPPED:
            yield row, _swap_sides(row["question"]), FLIPPED[_answer(row)]


def none_of_the_above(rows: list[dict]) -> Changes:
    """In which zone is the nodule? → Where is the nodule: upper zone, lower zone or none of these?

    Each zone is left out in turn: the answer stays, but where it is the one that is left out.
    """
    for row in rows:
        for left_out in OPEN_ANSWERS["place"] if row["question_type"] == "place" else ():
            first, second = (zone for zone in OPEN_ANSWERS["place"] if zone != left_out)
            question = f"Where is the {_noun(row)}: {first}, {second} or none of these?"
            yield row, question, "none of these" if _answer(row) == left_out else None


def absent_finding(rows: list[dict]) -> Changes:
    """Is there a pneumothorax? yes → the same about each finding that another question says the image lacks."""
    asked = [(row, noun) for row in rows if (noun := _noun(row)) and row["question_type"] == "presence"]
    absent: dict[str, set[str]] = {}
    for row, noun in asked:
        if _answer(row) == "no":
            absent.setdefault(row["image_id"], set()).add(noun)
    for row, noun in asked:
        if _answer(row) == "yes":
            for other in sorted(absent.get(row["image_id"], ())):
                yield row, row["question"].replace(noun, other), "no"


GENERAL: tuple[Callable[[list[dict]], Changes], ...] = (negation, swapped_comparison, swapped_order, neither_offered)
PHANTOM: tuple[Callable[[list[dict]], Changes], ...] = (swapped_side, none_of_the_above, absent_finding)


def _answer(row: dict) -> str:
    return row["answer"].strip().lower()


def _noun(row: dict) -> str | None:
    return next((noun for noun in MARKED_NOUNS if noun in row["question"]), None)


def _either_or(rows: list[dict]) -> Iterator[tuple[dict, re.Match]]:
    """Rows that offer two words to choose from, one of them the answer."""
    for row in rows:
        match = EITHER_OR.fullmatch(row["question"])
        if match and _answer(row) in (match["first"].lower(), match["second"].lower()):
            yield row, match


def _swap_sides(question: str) -> str:
    return re.sub(r"\b(left|right)\b", lambda match: OTHER_SIDE[match[0].lower()], question, flags=re.IGNORECASE)
