"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets: `data` in FLAMINGO_MED_SHARED, by default in `shared` beside the repository."""
    shared = Path(os.environ.get("FLAMINGO_MED_SHARED", Path(__file__).parents[2] / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(f"no real data in {shared / 'data'}")
    return shared / "data"
