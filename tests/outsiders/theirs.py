"""Imports the suites of `transformers` from its unpacked sources, whose folder is in FLAMINGO_MED_OUTSIDERS.

The archive of a release holds the files of its folder tests/, without the folders in it. What the suites import from
those is empty here, unless they are there, as in a checkout of the whole repository.
"""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = "transformers_tests"  # theirs is called tests, as ours is
IN_FOLDERS = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {}},
}


def theirs(name: str) -> ModuleType:
    """One of their modules, "test_modeling_common" or "generation.test_utils"; skips where there are none."""
    if "FLAMINGO_MED_OUTSIDERS" not in os.environ:
        pytest.skip("run by .ci/outsiders", allow_module_level=True)
    _package(PACKAGE, Path(os.environ["FLAMINGO_MED_OUTSIDERS"], "tests"))
    for missing, names in IN_FOLDERS.items():
        folder, file = missing.split(".")
        path = Path(os.environ["FLAMINGO_MED_OUTSIDERS"], "tests", folder)
        _package(f"{PACKAGE}.{folder}", path)
        if not (path / f"{file}.py").is_file():
            vars(sys.modules.setdefault(f"{PACKAGE}.{missing}", ModuleType(missing))).update(names)
    return importlib.import_module(f"{PACKAGE}.{name}")


def _package(name: str, folder: Path) -> None:
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules.setdefault(name, package)
