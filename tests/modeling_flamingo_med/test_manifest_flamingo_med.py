"""Manifests: a model whose files are not what they were is refused by the name of the file."""

import json

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from modeling_flamingo_med import FlamingoMedForConditionalGeneration, manifest_flamingo_med
from modeling_flamingo_med.manifest_flamingo_med import check_folder, read_manifest, write_manifest
from tests.modeling_flamingo_med.damages import DAMAGES, damage


@pytest.fixture
def folder(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_lists_its_files(folder):
    manifest = read_manifest(folder)
    written = {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == written and manifest["training_files"] == {}
    weights = manifest["files"]["model.safetensors"]
    assert weights["size"] == (folder / "model.safetensors").stat().st_size and len(weights["sha256"]) == 64
    assert check_folder(folder, whole=True) == manifest


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "perceiver_flamingo_med.py"])
def test_a_damaged_file_is_named(folder, name, how):
    damage(folder / name, how)
    with pytest.raises(ValueError, match=f"{folder / name} (is|has) .*; take the folder again from where it came"):
        FlamingoMedForConditionalGeneration.from_pretrained(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": {"../x": {}}}', '{"files": 1, "training_files": 2}'])
def test_a_damaged_manifest_is_named(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=f"{folder}/manifest.json is damaged"):
        FlamingoMedForConditionalGeneration.from_pretrained(folder)


def test_large_files_are_hashed_only_on_demand(folder, monkeypatch):
    monkeypatch.setattr(manifest_flamingo_med, "HASHED_BELOW", 1000)
    damage(folder / "model.safetensors", "flipped")
    check_folder(folder)
    with pytest.raises(ValueError, match="model.safetensors is not what it was"):
        check_folder(folder, whole=True)
    damage(folder / "model.safetensors", "zeroed")
    with pytest.raises(ValueError, match="model.safetensors is cut off or damaged: it has no header"):
        check_folder(folder)


def test_files_of_training_may_be_left_behind(tmp_path):
    for name in ("config.json", "optimizer.pt"):
        (tmp_path / name).write_text("{}")
    write_manifest(tmp_path, ["config.json"], ["optimizer.pt"], step=3)
    assert check_folder(tmp_path, training=True)["step"] == 3
    (tmp_path / "optimizer.pt").unlink()
    check_folder(tmp_path)
    with pytest.raises(ValueError, match="optimizer.pt is missing, which manifest.json lists"):
        check_folder(tmp_path, training=True)


def test_without_a_manifest_it_loads_with_a_notice(folder, caplog):
    (folder / "manifest.json").unlink()
    for _ in range(2):
        FlamingoMedForConditionalGeneration.from_pretrained(folder)
    assert caplog.text.count(f"{folder} has no manifest.json") == 1
    damage(folder / "model.safetensors", "cut")
    with pytest.raises(ValueError, match="model.safetensors has .* bytes, where its header says"):
        FlamingoMedForConditionalGeneration.from_pretrained(folder)


@pytest.mark.parametrize("auto", [False, True])
def test_weights_that_are_missing_are_not_drawn_at_random(folder, auto):
    """Neither with a part removed nor with a layer more in the configuration; nor a head that was trained."""
    kind = AutoModelForImageTextToText if auto else FlamingoMedForConditionalGeneration
    (folder / "manifest.json").unlink()
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({name: w for name, w in weights.items() if not name.startswith("resampler.")}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks \d+ weights that its config.json asks for, such as resampler"):
        kind.from_pretrained(folder)
    save_file(weights, path, {"format": "pt"})
    kind.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["resampler_depth"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"lacks \d+ weights that its config.json asks for, such as resampler"):
        kind.from_pretrained(folder)


def test_a_head_is_new_only_where_it_is_asked_for(make_model, tmp_path):
    make_model(num_labels=2).save_pretrained(tmp_path)
    (tmp_path / "manifest.json").unlink()
    path = tmp_path / "model.safetensors"
    kept = {name: w for name, w in load_file(path).items() if not name.startswith("classifier.")}
    save_file(kept, path, {"format": "pt"})
    with pytest.raises(ValueError, match="such as classifier"):
        FlamingoMedForConditionalGeneration.from_pretrained(tmp_path)
    FlamingoMedForConditionalGeneration.from_pretrained(tmp_path, id2label={0: "a", 1: "b"})
