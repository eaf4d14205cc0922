"""Shapes of JSON: what fits, and the name of the first part that does not."""

from typing import Any, TypedDict

import pytest

from processing.shapes import check_shape, is_text, parse_json


class Part(TypedDict):
    seed: int


class Whole(Part, total=False):
    share: float | None
    names: list[str]
    parts: dict[str, Part]
    rest: Any


@pytest.mark.parametrize(
    "value",
    [
        {"seed": 1},
        {"seed": 1, "share": 1, "names": [], "parts": {"a": {"seed": 2, "more": []}}, "rest": None, "unknown": "x"},
        {"seed": 1, "share": None},
    ],
)
def test_what_fits(value):
    check_shape(value, Whole, "it")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "it is not a mapping"),
        ({}, "it.seed is missing"),
        ({"seed": True}, "it.seed is not a whole number"),
        ({"seed": 1.0}, "it.seed is not a whole number"),
        ({"seed": 1, "share": float("nan")}, "it.share is not a number"),
        ({"seed": 1, "share": 10**400}, "it.share is not a number"),
        ({"seed": 1, "names": ["a", 1]}, "it.names[1] is not a text"),
        ({"seed": 1, "names": ["\ud800"]}, "it.names[0] is not a text"),
        ({"seed": 1, "parts": {"a": {}}}, "it.parts.a.seed is missing"),
    ],
)
def test_what_does_not(value, message):
    with pytest.raises(ValueError) as caught:
        check_shape(value, Whole, "it")
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5000])
def test_every_fault_of_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_half_a_character_is_no_text():
    assert is_text("🫁") and not is_text("\ud83e") and not is_text(1)
