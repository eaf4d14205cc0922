"""Recipes, command-line overrides, and the arguments of the commands that are made from both."""

import json
from dataclasses import dataclass, field

import pytest

from flamingo_med.common.settings import build_arguments, override, packaged_recipes, read_recipe
from flamingo_med.inference.split_arguments import SplitArguments, results_folder
from flamingo_med.training.starting_point import ModelArguments
from flamingo_med.training.trainer import FlamingoMedTrainingArguments
from processing.datasets.arguments import DataArguments
from processing.errors import InputError


@dataclass
class Numbers:
    rate: float = 0.1
    steps: int | None = None
    name: str = "a"
    options: dict = field(default_factory=dict)


def test_overrides_enter_mappings_and_keep_types():
    settings = {"rate": 1.0, "options": {"a": 1}}
    arguments = ["--rate", "1e-4", "--options.b.c", "no", "--steps=3", "--name", "x y", "--flag"]
    changed = override(settings, arguments)
    assert changed == {
        "rate": 1e-4,
        "options": {"a": 1, "b": {"c": "no"}},
        "steps": 3,
        "name": "x y",
        "flag": True,
    }
    assert settings == {"rate": 1.0, "options": {"a": 1}}


def test_values_are_checked():
    (numbers,) = build_arguments({"rate": 1, "steps": None}, Numbers)
    assert numbers == Numbers(rate=1.0) and isinstance(numbers.rate, float)
    for settings, message in [
        ({"rate": "fast"}, "rate is 'fast', but must be float"),
        ({"steps": 1.5}, "steps is 1.5, but must be int or nothing"),
        ({"rat": 1}, "unknown setting 'rat'; did you mean rate"),
    ]:
        with pytest.raises(InputError, match=message):
            build_arguments(settings, Numbers)
    with pytest.raises(InputError, match="do not go together: .*IntervalStrategy"):
        build_arguments({"eval_strategy": "sometimes"}, FlamingoMedTrainingArguments)
    with pytest.raises(InputError, match="unexpected 'rate'"):
        override({}, ["rate", "1"])
    with pytest.raises(InputError, match="rate is 1.0, not a mapping"):
        override({"rate": 1.0}, ["--rate.x", "1"])


def test_recipe_files(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "broken.yaml").write_text("a: [1")
    (tmp_path / "empty.yaml").write_text("")
    for name, message in [
        ("none.yaml", "no recipe at"),
        ("list.yaml", "holds no settings"),
        ("broken.yaml", "is not YAML"),
        ("empty.yaml", "holds no settings"),
    ]:
        with pytest.raises(InputError, match=message):
            read_recipe(str(tmp_path / name))


@pytest.mark.parametrize("name", packaged_recipes())
def test_the_recipes_of_this_project(name):
    settings = read_recipe(name) | {"use_cpu": True}  # those for GPUs too
    build_arguments(settings, DataArguments, ModelArguments, FlamingoMedTrainingArguments)


def test_rows_about_images_of_another_data_set_are_left_out(tmp_path, caplog):
    data = {"train_images": 4, "image_size": 64, "questions_per_image": 2}
    whole = DataArguments("phantom", str(tmp_path), data).load("train")
    gone = whole["image_id"][0]
    report = tmp_path / "overlap.json"
    report.write_text(json.dumps({"image_ids": [gone, "of another split"]}))
    rows = DataArguments("phantom", str(tmp_path), data, exclude=str(report)).load("train")
    assert gone not in rows["image_id"] and len(rows) == len(whole) - whole["image_id"][:].count(gone)
    assert f"{len(whole) - len(rows)} of {len(whole)} excluded" in caplog.text
    for text, message in [("{}", "is no report of"), (json.dumps({"image_ids": whole["image_id"][:]}), "names all")]:
        report.write_text(text)
        with pytest.raises(InputError, match=message):
            DataArguments("phantom", str(tmp_path), data, exclude=str(report)).load("train")


def test_a_revision_is_of_the_hub(tmp_path):
    (args,) = build_arguments({"model": "org/name", "revision": "draft"}, SplitArguments)
    assert args.recipe == "org/name/recipe.yaml"
    assert results_folder(args, "eval", DataArguments()).as_posix() == "runs/org--name@draft/eval/phantom-test"
    with pytest.raises(InputError, match="--revision draft is for a model of the Hub"):
        build_arguments({"model": str(tmp_path), "revision": "draft"}, SplitArguments)
    (here,) = build_arguments({"model": str(tmp_path)}, SplitArguments)
    assert results_folder(here, "eval", DataArguments()) == tmp_path / "eval" / "phantom-test"
    fewer = DataArguments(exclude="reports/shared.json")
    assert results_folder(here, "eval", fewer) == tmp_path / "eval" / "phantom-test-exclude=shared"


MULTIPLIED = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MULTIPLIED, "more than 10000 values, with what its aliases"),
        ("a: &a [*a]", "more than 10000 values"),
        ("[" * 5000, "is nested deeper than 32"),
        ("a: " + "[" * 40 + "]" * 40, "is nested deeper than 32"),
        ('a: "\\ud800"', "holds half a character"),
        ("a: 2024-99-99", "is not YAML: month must be in 1..12"),
        ("a: " + "9" * 5000, "is not YAML: Exceeds the limit"),
    ],
)
def test_recipes_that_cannot_be_are_refused_at_once(text, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_recipe(path)


def test_aliases_may_be_used(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("a: &a {seed: 1}\nb: *a\nc: {<<: *a, limit: 2}")
    assert read_recipe(path) == {"a": {"seed": 1}, "b": {"seed": 1}, "c": {"seed": 1, "limit": 2}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--options", "[" * 40 + "]" * 40], "--options is nested deeper than 32"),
        (["--name", "\udcff"], "--name is .*, which holds half a character"),
        (["--" + ".".join("a" * 100), "1"], "enters 99 mappings"),
    ],
)
def test_values_that_cannot_be_are_refused_at_once(arguments, message):
    with pytest.raises(InputError, match=message):
        override({}, arguments, Numbers)
