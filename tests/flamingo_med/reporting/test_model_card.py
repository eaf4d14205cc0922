"""Model cards: what they say, what they must not say, and that every number is one of the run's own files."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from flamingo_med.reporting import model_card
from flamingo_med.reporting.model_card import refresh_card, render_card, without_places, write_card
from flamingo_med.training.identity import stages_before
from processing.datasets import REGISTRY
from processing.datasets.about import ABOUT
from processing.files import write_json
from tests import ROOT

CARDS = ROOT / "model_cards"
PUBLISHED = sorted(path.parent for path in CARDS.glob("*/README.md"))

SUMMARY = {
    "steps": 1200,
    "epochs": 2.0,
    "questions_per_step": 32,
    "learning_rate": 1e-4,
    "lr_scheduler": "cosine",
    "seed": 0,
    "seconds": 7200.0,
    "resumed": False,
    "hardware": {"processes": 2, "device": "cpu", "cores": 4},
    "loss": {"first": 3.0, "last": 0.5},
    "validation": {"step": 1000, "loss": 0.75, "exact_match": 0.625, "low": 0.5, "high": 0.75},
}
VERSIONS = {"python": "3.11", "torch": "2.6"}


def scores(signature: str = "exact_match|v1|norm:strip+lower") -> list[dict]:
    """Exact match of the model and of two conditions on all questions and both kinds, a type, and another measure."""
    found = []
    for i, condition in enumerate(("model", "blank_image", "majority")):
        for j, subset in enumerate(("all", "closed", "open", "question_type=secret")):
            value = 0.9 - 0.2 * i - 0.03 * j
            row = {"metric": "exact_match", "subset": subset, "condition": condition, "value": value}
            found.append({**row, "low": value - 0.05, "high": value + 0.05, "n": 40 + j, "signature": signature})
    return [*found, {**found[0], "metric": "ece", "value": 0.123, "low": 0.111, "high": 0.135, "signature": "ece|v1"}]


def metrics(dataset: str = "vqa_rad", **meta) -> dict:
    """What a metrics.json holds."""
    known = {
        "dataset": dataset,
        "split": "test",
        "data": {"scheme": "official"},
        "rows": {"all": 45, "scored": 44, "images": 9},
        "overlap": "8 of 9 test images are in train",
        "model_minus_blank_image": {"value": 0.2, "low": 0.1, "high": 0.3},
        "command": "python eval.py --model runs/rad --split test",
        "commit": "abc123",
        "versions": VERSIONS,
    }
    return {"meta": {**known, **meta}, "scores": scores()}


@pytest.fixture
def make_run(make_model, tmp_path):
    """make_run(settings, evaluations, summary=…, stages_before=…): a folder as training and evaluation leave it."""

    def make(settings: dict, evaluations: list[dict], summary: dict = SUMMARY, config=None, **meta) -> Path:
        folder = tmp_path / "run"
        config = config or make_model().config
        config.save_pretrained(folder)
        settings = {"dataset": "vqa_rad", "data": {"scheme": "official"}, "output_dir": "runs/rad", **settings}
        run = {"command": "python train.py recipes/vqa_rad.yaml", "commit": "abc123", "versions": VERSIONS}
        run |= {"overlap": "disjoint by image", "stages_before": [], "settings": settings}
        write_json(folder / "run.json", {**run, **meta})
        write_json(folder / "summary.json", summary)
        for i, evaluation in enumerate(evaluations):
            write_json(folder / "eval" / f"{i}" / "metrics.json", evaluation)
        return folder

    return make


def hub_complaints(card: ModelCard) -> list[str]:
    """What the Hub's validation, which needs the network, refuses in metadata (hub-docs, modelcard.md)."""
    data = yaml.safe_load(str(card).split("---\n")[1])
    complaints = []
    if data["license"] not in ("apache-2.0", "other"):
        complaints.append("license is not one of the Hub's")
    if data["license"] == "other" and not re.fullmatch(r"[a-z0-9.-]+", data["license_name"]):
        complaints.append("license_name is no identifier")
    for name in ("datasets", "base_model"):
        for value in data.get(name, []):
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", value):
                complaints.append(f"{name}: {value} is no id")
    if not isinstance(data["co2_eq_emissions"]["emissions"], float):
        complaints.append("emissions are no number")
    for model in data.get("model-index", []):
        if not model["name"]:
            complaints.append("a model without name")
        for result in model["results"]:
            if result["task"]["type"] != "visual-question-answering":
                complaints.append(f"task {result['task']}")
            if not result["dataset"]["type"] or not result["dataset"]["name"]:
                complaints.append(f"dataset {result['dataset']}")
            for metric in result["metrics"]:
                if not metric["type"] or not isinstance(metric["value"], float):
                    complaints.append(f"metric {metric}")
    return complaints


def unsupported_numbers(card: str, evaluations: list[dict]) -> list[str]:
    """Scores of a card, in its metadata and its tables, that no metrics.json has."""
    known = [score for evaluation in evaluations for score in evaluation["scores"]]
    exact = {(s["metric"], s["value"], s["low"], s["high"], s["n"], s["condition"], s["subset"]) for s in known}
    found = []
    data = yaml.safe_load(card.split("---\n")[1])
    for result in (result for model in data.get("model-index", []) for result in model["results"]):
        for metric in result["metrics"]:
            args = metric["args"]
            intervals = (args.get("low"), args.get("high"), args["n"], args["condition"], args["subset"])
            if (metric["type"], metric["value"], *intervals) not in exact:
                found.append(metric["name"])
    written = {f"{s['value']:.3f} [{s['low']:.2f}, {s['high']:.2f}]" for s in known if s["low"] is not None}
    section = card.split("## Evaluation")[1].split("## Environmental cost")[0]
    tables = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    found += [text for text in re.findall(r"-?\d\.\d+ \[[^]]*\]", tables) if text not in written]
    return found


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_a_published_card_is_that_of_the_run_beside_it(folder):
    written = (folder / "README.md").read_text("utf-8")
    card = render_card(folder)
    assert f"{str(card).strip()}\n" == written
    evaluations = [json.loads(path.read_text("utf-8")) for path in folder.glob("eval/*/metrics.json")]
    assert evaluations and unsupported_numbers(written, evaluations) == []
    assert hub_complaints(card) == []
    for path in folder.rglob("*"):
        assert path.is_dir() or path.name in ("README.md", "metrics.json", *model_card.OF_THE_RUN)
        assert path.is_dir() or not re.search(r"/(home|root|tmp|work|Users)/", path.read_text("utf-8"))


def test_phantom_is_published():
    assert CARDS / "phantom" in PUBLISHED


@pytest.mark.parametrize("changed", [("0.9", "0.91"), ("0.700 [", "0.710 [")], ids=["metadata", "table"])
def test_a_number_that_no_file_supports_is_found(make_run, changed):
    """What the test of the published cards rests on."""
    card = str(render_card(make_run({}, [metrics()])))
    assert unsupported_numbers(card, [metrics()]) == []
    assert len(unsupported_numbers(card.replace(f"value: {changed[0]}\n", f"value: {changed[1]}\n", 1), [])) > 1
    assert unsupported_numbers(card.replace(*changed, 1), [metrics()])


def test_metadata(make_run):
    evaluations = [metrics(), metrics(data={"scheme": "image_disjoint"}), metrics("phantom", data={})]
    folder = make_run({}, evaluations)
    path = write_card(folder)
    card = ModelCard.load(path)
    assert path == folder / "README.md"
    assert hub_complaints(card) == []
    data = card.data.to_dict()
    assert data["license"] == "other" and data["datasets"] == ["flaviagiammarino/vqa-rad"]
    assert data["pipeline_tag"] == "visual-question-answering" and data["library_name"] == "transformers"
    index = data["model-index"]
    assert eval_results_to_model_index(*model_index_to_eval_results(index)) == index
    (model,) = index
    assert model["name"] == "flamingo-med-rad"
    results = {(r["dataset"]["type"], r["dataset"].get("config")): r["metrics"] for r in model["results"]}
    assert set(results) == {
        ("flaviagiammarino/vqa-rad", "scheme=official"),
        ("flaviagiammarino/vqa-rad", "scheme=image_disjoint"),
        ("phantom", None),
    }
    for of_one in results.values():
        assert len(of_one) == 3 * 3 + 1
    first, *_, last = results["phantom", None]
    assert first["type"] == "exact_match" and first["value"] == 0.9
    assert first["args"] == {
        "condition": "model", "subset": "all", "low": 0.9 - 0.05, "high": 0.9 + 0.05, "n": 40,
        "signature": "exact_match|v1|norm:strip+lower",
    }  # fmt: skip
    assert last["type"] == "ece"


def test_text(make_run):
    text = str(render_card(make_run({}, [metrics()])))
    for words in (
        "Not for clinical use",
        "| VQA-RAD | scheme=official | CC0 1.0 | https://osf.io/89kps/ |",
        "Training and validation images: disjoint by image.",
        "Overlap with train: 8 of 9 test images are in train.",
        "It looks at the images: against the same model with all images blanked +0.200 [+0.10, +0.30].",
        "44 questions about 9 images",
        "| | closed (n=41) | open (n=42) | all (n=40) |",
        "| model | 0.870 [0.82, 0.92] | 0.840 [0.79, 0.89] | 0.900 [0.85, 0.95] |",
        "| model, blank images | 0.670 [0.62, 0.72] |",
        "| most frequent answer | 0.470 [0.42, 0.52] |",
        "| `ece\\|v1` | 0.123 [0.11, 0.14] |",
        "```bash\npython eval.py --model runs/rad --split test\n```",
        "```bash\npython train.py recipes/vqa_rad.yaml\n```",
        "commit abc123",
        "0.625 [0.50, 0.75] at step 1,000",
        "image encoder: clip_vision_model, randomly initialised, frozen",
        "Perceiver resampler: 4 latents, depth 2",
        "2 hours on 8 CPU core(s). At an assumed 10 W each, 0.16 kWh; at an assumed 480 g/kWh",
        "76.8 g of CO2 equivalent",
        "@inproceedings{alayrac2022flamingo,",
        "@article{lau2018vqarad,",
    ):
        assert words in text
    assert "secret" not in text and "None" not in text and "{{" not in text


def test_parameters_are_those_of_the_model(make_run, make_model):
    model = make_model(freeze_text=False)
    text = str(render_card(make_run({}, [], config=model.config)))
    assert f"```\n{model.parameter_summary()}\n```" in text
    assert "decoder: gpt2, randomly initialised, trained" in text


def test_without_evaluation(make_run):
    """What training itself writes: validation figures, and no score for a leaderboard."""
    blind = {**metrics(), "scores": []}
    card = render_card(make_run({}, [blind]))
    assert "model-index" not in card.data.to_dict() and "metrics" not in card.data.to_dict()
    assert hub_complaints(card) == []
    assert "Not evaluated yet" in str(card) and "0.625 [0.50, 0.75]" in str(card)


def test_one_image_has_no_intervals(make_run):
    evaluation = metrics(model_minus_blank_image={"value": 0.2, "low": None, "high": None})
    for score in evaluation["scores"]:
        score["low"] = score["high"] = None
    card = render_card(make_run({}, [evaluation], {**SUMMARY, "seconds": None}))
    assert "| model | 0.870 [-] | 0.840 [-] | 0.900 [-] |" in str(card) and "None" not in str(card)
    assert "The time of training was not measured." in str(card)
    assert "low" not in card.data.to_dict()["model-index"][0]["results"][0]["metrics"][0]["args"]


def test_a_model_that_does_not_look_is_told(make_run):
    evaluation = metrics(model_minus_blank_image={"value": 0.0, "low": -0.1, "high": 0.1})
    assert "**That it looks at the images is not shown**" in str(render_card(make_run({}, [evaluation])))


def test_no_places_and_no_texts(make_run, make_model):
    config = make_model().config
    config.backbones = {"text": {"name": "/home/ann/llm/secret-free", "revision": None}}
    settings = {
        "dataset": "custom",
        "data": {"images_dir": "/home/ann/patients", "columns": {"image": "file"}},
        "data_dir": "~/patients/table.csv",
        "vision": "C:\\Users\\ann\\dinov2",
        "output_dir": "/home/ann/runs/rad",
    }
    evaluation = metrics(
        "custom",
        data=settings["data"],
        model="/home/ann/runs/rad",
        command="python eval.py --model '/home/ann b/rad' --data_dir=../../ann/patients --x '{a: /home/ann/c, b: d}'",
    )
    command = "python /home/ann/train.py recipes/own.yaml --output_dir /home/ann/runs/rad"
    folder = make_run(settings, [evaluation], config=config, command=command)
    (folder / "eval" / "0" / "predictions.jsonl").write_text('{"question": "TopSecretQuestion"}\n')
    text = str(render_card(folder))
    for word in ("ann", "home", "Users", "TopSecretQuestion", str(folder.parent)):
        assert word not in text
    assert "python train.py recipes/own.yaml --output_dir rad" in text
    assert "python eval.py --model rad --data_dir=patients --x '{a: c, b: d}'" in text
    assert "images_dir=patients" in text and "vision: dinov2" in text and "`secret-free`" in text
    assert "name: flamingo-med-rad" in text
    assert hub_complaints(render_card(folder)) == []


@pytest.mark.parametrize("text", ["openai/clip-vit-base-patch32", "runs/a", "./a/b", "https://osf.io/89kps/", "1/2"])
def test_what_is_no_place_stays(text):
    assert without_places(text) == text


def test_earlier_stages_count(make_run, tmp_path):
    """A model that went on from one trained on MIMIC-CXR holds of it what its data use agreement is about."""
    first = tmp_path / "mimic"
    settings = {"dataset": "mimic_cxr", "data": {"a": 1}, "exclude": "/home/ann/shared.json"}
    write_json(first / "run.json", {"stages_before": [], "settings": settings})
    write_json(tmp_path / "middle" / "run.json", {
        "stages_before": stages_before(str(first)), "settings": {"dataset": "slake", "init_from": str(first)},
    })  # fmt: skip
    stages = stages_before(str(tmp_path / "middle"))
    assert [(stage["dataset"], stage["data"]) for stage in stages] == [("mimic_cxr", {"a": 1}), ("slake", {})]
    assert stages_before(None) == []
    shutil.rmtree(first)  # run.json tells it all the same

    evaluation = metrics(exclude="../reports/shared.json")
    folder = make_run({"init_from": str(tmp_path / "middle")}, [evaluation], stages_before=stages)
    text = str(render_card(folder))
    assert "test (exclude=shared.json, scheme=official)" in text and "/home" not in text
    assert "must not be published or passed on without regard to the data use agreement of PhysioNet" in text
    lines = ["| MIMIC-CXR | a=1, exclude=shared.json |", "| SLAKE | defaults |", "| VQA-RAD |"]
    assert sorted(lines, key=text.index) == lines
    assert "@article{johnson2019mimiccxr," in text and "@inproceedings{liu2021slake," in text
    assert str(tmp_path) not in text
    data = render_card(folder).data.to_dict()
    assert data["datasets"] == ["BoKelvin/SLAKE", "flaviagiammarino/vqa-rad"]
    assert data["co2_eq_emissions"]["training_type"] == "fine-tuning"


def test_a_model_of_the_hub_has_unknown_data(make_run, make_model):
    config = make_model().config
    config.backbones = {"vision": {"name": "facebook/dinov2-small", "revision": "0" * 40}}
    folder = make_run({}, [], config=config, stages_before=stages_before("user/model"))
    text = str(render_card(folder))
    assert "| unknown: that of user/model | defaults | not known to this card |" in text
    assert "Pretrained parts have licences and data of their own: facebook/dinov2-small." in text
    assert render_card(folder).data.to_dict()["base_model"] == ["facebook/dinov2-small"]


def test_phantom_alone_is_ours(make_run):
    card = render_card(make_run({"dataset": "phantom", "data": {}}, []))
    assert card.data.license == "apache-2.0" and "schematic drawings" in str(card)


def test_gpus_and_interruptions(make_run):
    hardware = {"processes": 4, "device": "A100", "cores": None}
    text = str(render_card(make_run({}, [], {**SUMMARY, "hardware": hardware, "resumed": True})))
    assert "2 hours on 4 GPU(s), A100. At an assumed 400 W each, 3.2 kWh" in text
    assert "the hours before are not counted" in text


def test_every_data_set_is_known():
    assert ABOUT.keys() == REGISTRY.keys()
    for known in ABOUT.values():
        assert known.title and known.licence and known.source
        assert known.citation.count("{") == known.citation.count("}")


def test_other_folders_are_left_alone(tmp_path):
    refresh_card(tmp_path)
    refresh_card("user/model")
    assert list(tmp_path.iterdir()) == []


def test_refresh_writes_the_new_scores(make_run):
    folder = make_run({}, [])
    refresh_card(folder)
    assert "Not evaluated yet" in (folder / "README.md").read_text("utf-8")
    write_json(folder / "eval" / "vqa_rad-test" / "metrics.json", metrics())
    refresh_card(folder)
    assert "### VQA-RAD, test (scheme=official)" in (folder / "README.md").read_text("utf-8")


def test_the_command_writes_the_card_where_it_is_told(make_run, command, tmp_path):
    folder = make_run({}, [metrics()])
    output = command("card", folder, "--output", tmp_path / "new" / "card.md")
    assert f"written: {tmp_path / 'new' / 'card.md'}" in output
    assert not (folder / "README.md").exists()
    command("card", folder)
    assert (folder / "README.md").read_text("utf-8") == (tmp_path / "new" / "card.md").read_text("utf-8")


def test_mistakes_are_one_sentence(make_run, command, tmp_path):
    def error(*arguments) -> str:
        (line,) = command("card", *arguments, code=2).splitlines()
        return line

    nowhere = tmp_path / "nowhere"
    assert f"no config.json in {nowhere}; give the output_dir of a finished run" in error(nowhere)
    assert "required: RUN" in error("--output", "a")
    folder = make_run({}, [metrics()])
    assert "unknown setting 'outptu'; did you mean output?" in error(folder, "--outptu", "a")
    assert "the card cannot be written to " in error(folder, "--output", folder / "run.json" / "card.md")
    (folder / "eval" / "0" / "metrics.json").write_text("{")
    assert "metrics.json cannot be read; it is damaged" in error(folder)
    (folder / "summary.json").unlink()
    assert "no summary.json in " in error(folder)
