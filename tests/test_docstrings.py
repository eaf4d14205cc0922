"""The examples in docstrings run."""

import doctest
from importlib import import_module

import pytest

from tests import ROOT

FOLDERS = ("flamingo_med", "modeling_flamingo_med", "processing", "benchmarks")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in FILES
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    results = doctest.testmod(import_module(name.removesuffix(".__init__")))
    assert results.failed == 0 and results.attempted > 0
