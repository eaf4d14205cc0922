"""Every module has a name of its own, tests in the folder that mirrors its package, and says what it is for."""

import ast
from collections import Counter

import pytest

from tests import ROOT

PACKAGES = ("flamingo_med", "modeling_flamingo_med", "processing")
MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FILES = sorted(
    path.relative_to(ROOT)
    for folder in (*PACKAGES, "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if path.read_text(encoding="utf-8")
) + [path.relative_to(ROOT) for path in ROOT.glob("*.py")]

# Module without a test file of its own → the one in which it is tested. A command is tested with what it is for.
TESTED_BY = {}


def test_no_two_modules_have_the_same_name():
    """Those of the commands aside, which bear the names of what one types."""
    names = Counter(path.name for path in MODULES if path.parent.name != "cli" and path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("module", [path.as_posix() for path in MODULES if path.name != "__init__.py"])
def test_every_module_is_tested_where_one_looks_for_it(module):
    path = ROOT / module
    mirrored = ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.name}")
    if module not in TESTED_BY:
        assert mirrored.is_file()
        return
    assert not mirrored.is_file()
    text = (ROOT / "tests" / TESTED_BY[module]).read_text(encoding="utf-8")
    dotted = module.removesuffix(".py").replace("/", ".")
    package, _, name = dotted.rpartition(".")
    command = f'"{name.replace("_", "-")}"'  # of a command
    assert dotted in text or f"from {package} import" in text and name in text or "/cli/" in module and command in text


def test_what_is_listed_is_there():
    assert [module for module in TESTED_BY if not (ROOT / module).is_file()] == []


@pytest.mark.parametrize("file", [path.as_posix() for path in FILES])
def test_every_file_says_in_its_first_line_what_it_is(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) and tree.body[0].lineno == 1
