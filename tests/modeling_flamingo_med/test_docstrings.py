"""The examples in the docstrings of the model's files run."""

import doctest
import importlib
from pathlib import Path

import pytest

import modeling_flamingo_med

FILES = sorted(Path(modeling_flamingo_med.__file__).parent.glob("*_flamingo_med.py"))


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_examples(name):
    assert doctest.testmod(importlib.import_module(f"modeling_flamingo_med.{name}")).failed == 0
