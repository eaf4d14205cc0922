"""The bar that the recipe of `make demo` has to reach."""

import json

import pytest

from tests.commands import shell


@pytest.mark.slow
def test_phantom_is_learned_by_looking(tmp_path):
    """The recipe of `make demo` reaches its bar: 0.85 overall, and 0.25 above the same model without images."""
    shell("train", "phantom", "--output_dir", tmp_path / "run")
    few = ["--data.test_images", "200"]  # half of them, which is enough to tell
    shell("evaluate", "--model", tmp_path / "run", "--output_dir", tmp_path / "eval", *few)
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    rows = [row for row in metrics["scores"] if row["metric"] == "exact_match" and row["subset"] == "all"]
    value = {row["condition"]: row["value"] for row in rows}
    assert value["model"] >= 0.85
    assert value["model"] - value["blank_image"] >= 0.25
