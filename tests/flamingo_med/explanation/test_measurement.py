"""The explanation report: which questions, the scores and verdicts, and the command from end to end."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

pytest.importorskip("captum")
from flamingo_med.explanation import METHODS
from flamingo_med.explanation.explanation_card import draw, to_html
from flamingo_med.explanation.faithfulness import randomise
from flamingo_med.explanation.measurement import (
    Checks,
    choose,
    format_table,
    measure,
    score,
    verdicts,
)
from flamingo_med.reporting.figures import to_png
from processing.datasets import FEATURES, load_split
from processing.datasets.rows import make_row
from processing.errors import InputError


def rows(*entries) -> Dataset:
    """Rows of (image_id, question, answer, labels of its boxes)."""
    made = [
        make_row(
            id=str(i),
            image=f"{image_id}.png",
            image_id=image_id,
            question=question,
            answer=answer,
            boxes=[{"label": label, "box": [0, 0, 9, 9]} for label in labels],
        )
        for i, (image_id, question, answer, labels) in enumerate(entries)
    ]
    return Dataset.from_list(made, features=FEATURES)


def chosen(data: Dataset, limit: int = 100) -> dict[str, list[str]]:
    return {row["id"]: [box["label"] for box in boxes] for row, boxes in choose(data, limit)}


def test_boxes_of_the_question():
    data = rows(
        ("a", "Is the heart enlarged?", "yes", ["cardiomegaly"]),
        ("a", "What is the view of this image?", "frontal", []),
        ("b", "Is there a nodule?", "no", []),
    )
    assert chosen(data) == {"0": ["cardiomegaly"]}


def test_boxes_of_the_image():
    data = rows(
        ("a", "Is the liver healthy?", "yes", ["Liver", "Heart"]),
        ("a", "Which organ is large?", "heart", ["Liver", "Heart"]),
        ("a", "What modality is it?", "CT", ["Liver", "Heart"]),
    )
    assert chosen(data) == {"0": ["Liver"], "1": ["Heart"]}


def test_without_boxes_all_questions_count():
    assert chosen(rows(("a", "Is it?", "yes", []), ("b", "Is it?", "no", []))) == {"0": [], "1": []}


def test_the_choice_does_not_depend_on_the_order():
    data = rows(*((f"{i}", "Is it?", "yes", []) for i in range(50)))
    some = list(chosen(data, 10))
    assert len(some) == 10 and some != [str(i) for i in range(10)]
    assert some == list(chosen(data.select(reversed(range(50))), 10)) == list(chosen(data, 20))[:10]


def record(method: str, image: int, **values) -> dict:
    about = {"id": str(image), "image_id": str(image), "question": "?", "answer": "yes", "right": True}
    return {**about, "findings": ["nodule"], "method": method, **values}


def test_scores_and_verdicts():
    records = []
    for i in range(20):
        noise = 0.01 * (i % 3)
        records.append(record("good", i, pointing=0.9 + noise, deletion=0.1 + noise, randomisation=noise))
        records.append(record("bad", i, pointing=0.5 + noise, deletion=0.5 + noise, randomisation=0.9))
        records.append(record("centre_prior", i, pointing=0.5 + noise, deletion=0.5 + noise))
        records.append(record("random", i, pointing=0.1 + noise, deletion=0.5 + noise))
        records.append(record("best_of_grid", i, pointing=0.6))
    scores = score(records)
    cells = {(s["metric"], s["subset"], s["condition"]): s for s in scores}
    one = cells["pointing", "all", "good"]
    assert one["n"] == 20 and one["value"] == pytest.approx(0.9095)
    assert one["low"] < one["value"] < one["high"]
    assert ("pointing", "finding=nodule", "good") in cells and ("deletion", "finding=nodule", "good") not in cells
    good, bad, limit = verdicts(scores, ["good", "bad"])
    assert good == "good: better than centre_prior and random in pointing, deletion; randomisation passed"
    assert "better than random in pointing; better than neither baseline in deletion" in bad
    assert "randomisation FAILED" in bad and "0.600" in limit
    table = format_table(scores).splitlines()
    assert table[0].split() == ["pointing", "↑", "n=20", "deletion", "↓", "n=20", "randomisation", "↓", "n=20"]
    assert table[1].startswith("good") and table[3].rstrip().endswith("-")
    figure = draw(scores, "a title with $")
    shown = {axes.get_title().split(" ")[0]: len(axes.lines) for axes in figure.axes if axes.axison}
    assert shown == {"pointing": 10, "deletion": 8, "randomisation": 4}  # a point and an interval for each method
    page = to_html(scores, [good, bad], ["<b>"], "a title", to_png(figure))
    assert "0.9" in page and "finding=nodule" in page and "&lt;b&gt;" in page


def test_records(make_model, processor, tmp_path):
    data = load_split("phantom", "test", str(tmp_path), test_images=4, image_size=64)
    model = make_model()
    model.generation_config.max_new_tokens = 3
    picked = choose(data, 3)
    picked[0][0]["answers"].append("")  # nothing that the random model says is right; make sure of one
    others = [randomise(model, 5)]
    records = measure(model, processor, picked, ["attention", "occlusion"], Checks(randomise(model, 0), others))
    assert records == measure(
        model, processor, picked, ["attention", "occlusion"], Checks(randomise(model, 0), others)
    )
    by_method = {r["method"]: r for r in records if r["id"] == picked[0][0]["id"]}
    assert {"attention", "occlusion", "centre_prior", "random"} <= by_method.keys()
    for name in ("attention", "occlusion"):
        assert by_method[name]["stability"] > 0.9 and by_method[name]["randomisation"] < 0.9
        assert by_method[name]["repeatability"] != by_method[name]["randomisation"]
    assert "stability" not in by_method["random"]
    assert all(0 < r["deletion"] < 1 for r in records if "deletion" in r)


def test_a_study_is_refused(make_model, processor):
    data = rows(("a", "Is it?", "yes", []))
    ((row, boxes),) = choose(data, 1)
    row["more_images"] = [row["image"]]
    with pytest.raises(InputError, match="several images"):
        measure(make_model(), processor, [(row, boxes)], ["attention"], Checks(make_model()))


@pytest.fixture
def model_folder(make_model, processor, tmp_path) -> Path:
    """A tiny random model, saved, with a recipe of little data."""
    model = make_model()
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    recipe = f"dataset: phantom\ndata_dir: {tmp_path}\ndata: {{test_images: 6, image_size: 64}}\n"
    (tmp_path / "model" / "recipe.yaml").write_text(recipe)
    return tmp_path / "model"


def test_the_command(model_folder, command):
    arguments = ["--model", model_folder, "--limit", "2", "--repeats", f"[{model_folder}]"]
    output = command("explain", *arguments)
    (folder,) = (model_folder / "explain").glob("phantom-test-*")
    for word in (*METHODS, "deletion ↓ n=2", "randomisation", "centre_prior", "2 of ", "written"):
        assert word in output
    report = json.loads((folder / "report.json").read_text())
    assert report["meta"]["limit"] == 2 and report["meta"]["versions"]["torch"]
    repeats = [s for s in report["scores"] if s["metric"] == "repeatability"]
    assert len(repeats) == len(METHODS) and all(s["value"] == pytest.approx(1.0) for s in repeats)
    questions = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    assert len({record["id"] for record in questions}) == 2
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert "data:image/png;base64," in page and "<script" not in page and "http" not in page
    assert questions[0]["question"] not in page and report["verdicts"][0].split(":")[0] in page
    command("explain", *arguments, "--output_dir", model_folder / "again")
    assert json.loads((model_folder / "again" / "report.json").read_text())["scores"] == report["scores"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "[occlusoin]"], "did you mean occlusion?"),
        (["--methods", "occlusion"], "methods is 'occlusion', but must be list"),
        (["--methods", "[]"], "no method given"),
        (["--limit", "0"], "limit is at least 1"),
        (["--split", "tset"], "did you mean test?"),
        (["--repeats", "[nowhere]"], "no image-text-to-text model at nowhere"),
        (["--output_dir", "README.md/x"], "cannot be written to README.md/x"),
        (["--limitt", "3"], "did you mean limit?"),
    ],
)
def test_mistakes(arguments, message, model_folder, command):
    assert message in command("explain", "--model", model_folder, *arguments, code=2)
