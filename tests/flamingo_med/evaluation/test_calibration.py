"""Calibration: measures worked out by hand, temperatures that undo a known distortion, storage, plots, the command."""

import io
import json
import math

import numpy as np
import pytest
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image

from flamingo_med.evaluation.calibration import (
    BOUNDS,
    Calibration,
    answer_nll,
    candidate_nll,
    candidate_probabilities,
    candidate_table,
    fit,
    fit_answer_temperature,
    fit_candidate_temperature,
    load_calibration,
    save_calibration,
    scale_confidence,
)
from flamingo_med.evaluation.calibration_error import (
    aurc,
    brier_score,
    expected_calibration_error,
    reliability_bins,
    risk_coverage,
)
from flamingo_med.reporting.calibration_plots import reliability_diagram, risk_coverage_curve
from processing.errors import InputError

CONFIDENCES = [0.95, 0.85, 0.9, 0.3, 0.3]
HITS = [1, 0, 1, 0, 1]


def test_bins_by_hand():
    bins = reliability_bins(CONFIDENCES, HITS, bins=5)
    assert [(b["low"], b["high"], b["n"]) for b in bins] == [(0.2, 0.4, 2), (0.8, 1.0, 3)]
    assert [b["confidence"] for b in bins] == pytest.approx([0.3, 0.9])
    assert [b["accuracy"] for b in bins] == pytest.approx([0.5, 2 / 3])
    expected = 2 / 5 * 0.2 + 3 / 5 * (0.9 - 2 / 3)
    assert expected_calibration_error(CONFIDENCES, HITS, bins=5) == pytest.approx(expected)


def test_edges_of_bins():
    bins = reliability_bins([0.0, 0.5, 1.0], [0, 0, 1], bins=2)
    assert [(b["low"], b["n"]) for b in bins] == [(0.0, 2), (0.5, 1)]  # 0.5 belongs to the lower one
    assert [b["low"] for b in reliability_bins([1.0], [1])] == [14 / 15]


def test_brier_by_hand():
    assert brier_score([1.0, 0.5, 0.2], [1, 0, 1]) == pytest.approx((0 + 0.25 + 0.64) / 3)


def test_risk_coverage_by_hand():
    coverages, risks = risk_coverage([0.9, 0.7, 0.8, 0.1], [1, 1, 0, 0])
    assert coverages.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risks.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert aurc([0.9, 0.7, 0.8, 0.1], [1, 1, 0, 0]) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_ties_do_not_depend_on_the_order_of_rows():
    first = risk_coverage([0.9, 0.5, 0.5], [1, 0, 1])[1]
    second = risk_coverage([0.5, 0.5, 0.9], [1, 0, 1])[1]
    assert first.tolist() == second.tolist() == pytest.approx([0, 0.25, 1 / 3])  # half an error each


@pytest.mark.parametrize("measure", [reliability_bins, brier_score, risk_coverage, aurc, answer_nll])
@pytest.mark.parametrize(("confidences", "hits"), [([], []), ([0.5], [1, 0]), ([1.2], [1]), ([float("nan")], [1])])
def test_what_is_no_confidence(measure, confidences, hits):
    with pytest.raises(ValueError, match="confidence"):
        measure(confidences, hits)


def test_answer_nll_by_hand():
    assert answer_nll([0.25, 0.25], [1, 0]) == pytest.approx(-(math.log(0.25) + math.log(0.75)) / 2)
    assert answer_nll([0.25, 0.25], [1, 0], temperature=2) == pytest.approx(-(math.log(0.5) + math.log(0.5)) / 2)
    assert math.isfinite(answer_nll([1.0, 0.0], [0, 1]))


def test_answer_temperature_undoes_a_distortion():
    generator = np.random.default_rng(0)
    true = generator.uniform(0.05, 0.95, 20_000)
    hits = generator.random(20_000) < true
    assert fit_answer_temperature(true, hits) == pytest.approx(1, abs=0.03)
    fitted = fit_answer_temperature(scale_confidence(true, 2.5), hits)  # 2.5 too unsure of itself
    assert fitted == pytest.approx(1 / 2.5, abs=0.02)
    assert scale_confidence(scale_confidence(true, 2.5), fitted) == pytest.approx(true, abs=0.02)


def test_answer_temperature_by_hand():
    assert fit_answer_temperature([0.25] * 4, [1, 1, 0, 0]) == pytest.approx(2, abs=1e-3)  # 0.25 ** (1 / 2) = 0.5
    assert fit_answer_temperature([0.25] * 4, [1] * 4) == pytest.approx(BOUNDS[1], rel=1e-3)
    assert fit_answer_temperature([0.25] * 4, [0] * 4) == pytest.approx(BOUNDS[0], rel=1e-3)


def test_candidate_probabilities():
    probabilities = candidate_probabilities([[math.log(3), 0.0, -math.inf], [0.0, 0.0, 0.0]])
    assert probabilities.tolist() == [pytest.approx([0.75, 0.25, 0]), pytest.approx([1 / 3] * 3)]
    cooler = candidate_probabilities([[math.log(9), 0.0, -math.inf]], 2.0)
    assert cooler.tolist() == [pytest.approx([0.75, 0.25, 0])]


def test_candidate_temperature_undoes_a_distortion():
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(20_000, 4))
    logits[::2, 3] = -np.inf
    correct = np.array([generator.choice(4, p=row) for row in candidate_probabilities(logits)])
    assert fit_candidate_temperature(3 * logits, correct) == pytest.approx(3, rel=0.03)
    assert candidate_nll(3 * logits, correct, 3) < candidate_nll(3 * logits, correct)
    with pytest.raises(ValueError, match="0 right candidates"):
        candidate_nll([], [])


def prediction(number, confidence, hit, **more):
    row = {"id": str(number), "image_id": f"i{number % 3}", "question": "Is there a mass?", "answer": "Yes"}
    return {**row, "prediction": "yes", "confidence": confidence, "exact_match": hit, **more}


def test_candidate_table():
    rows = [
        prediction(0, 0.5, 1.0, candidates={"no": -2.0, "yes": -1.0, "both": -9.0}),
        prediction(1, 0.5, 1.0),
        prediction(2, 0.5, 1.0, candidates={"YES ": -0.5}),
        prediction(3, 0.5, 1.0, candidates={"no": -0.5}),  # its answer is none of them
    ]
    table, correct, images = candidate_table(rows)
    assert table.tolist() == [[-2.0, -1.0, -9.0], [-0.5, -math.inf, -math.inf]]
    assert correct.tolist() == [1, 0] and images == ["i0", "i2"]


def test_fit_and_store(tmp_path):
    rows = [prediction(n, 0.25, float(n % 2), candidates={"yes": 2.0 * (n % 3), "no": 0.0}) for n in range(30)]
    rows.append({"id": "blind", "image_id": "i", "answer": "", "confidence": 0.9})
    calibration, measures = fit(rows, {"dataset": "custom"})
    assert calibration.answer_temperature == pytest.approx(2, abs=1e-3)
    assert [(m["of"], m["n"]) for m in measures] == [("answers", 30)] * 2 + [("candidates", 30)] * 2
    values = [{name: m[name]["value"] for name in ("nll", "ece", "brier", "aurc")} for m in measures]
    assert values[1]["ece"] == pytest.approx(0, abs=1e-3) and values[0]["ece"] == pytest.approx(0.25)
    assert values[1]["aurc"] == pytest.approx(values[0]["aurc"])  # a temperature keeps the order
    assert all(after["nll"] <= before["nll"] for before, after in (values[:2], values[2:]))
    intervals = [m[name] for m in measures for name in values[0]]
    assert all(0 <= found["low"] <= found["value"] <= found["high"] for found in intervals)
    assert any(found["low"] < found["high"] for found in intervals)

    assert load_calibration(str(tmp_path)) is None
    save_calibration(tmp_path, calibration)
    assert load_calibration(str(tmp_path)) == calibration
    assert calibration.fitted_on == {"dataset": "custom", "answers": 30, "candidates": 30}
    assert calibration.confidence(0.25) == pytest.approx(0.5, abs=1e-3)
    assert calibration.probabilities([[1.0, 1.0]]).tolist() == [[0.5, 0.5]]
    assert Calibration(2.0).probabilities([[math.log(3), 0.0]]).tolist() == [pytest.approx([0.75, 0.25])]


def test_fit_without_candidates_or_scores():
    calibration, measures = fit([prediction(0, 0.5, 1.0), prediction(1, 0.5, 0.0)], {})
    assert calibration.candidate_temperature is None and len(measures) == 2
    with pytest.raises(InputError, match="no row with a confidence and exact_match"):
        fit([{"id": "1", "image_id": "i", "confidence": 0.5}], {})


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"answer_temperature": 0}', '{"answer_temperature": "2"}', '{"t": 1}']
)
def test_stored_nonsense(tmp_path, text):
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(InputError, match="calibration.json holds no temperatures above 0"):
        load_calibration(str(tmp_path))


def test_a_hub_model_without_calibration(monkeypatch):
    def missing(repository, file, revision):
        raise EntryNotFoundError(f"no {file} in {repository} at {revision}")

    monkeypatch.setattr("flamingo_med.evaluation.calibration.hf_hub_download", missing)
    assert load_calibration("someone/model") is None


def test_plots():
    clusters = ["a", "b", "a", "c", "d"]
    diagram = reliability_diagram({"as generated": CONFIDENCES, "scaled": [0.5] * 5}, HITS, clusters)
    curve = risk_coverage_curve({"by confidence": CONFIDENCES}, HITS, clusters)
    for png in (diagram, curve):
        assert Image.open(io.BytesIO(png)).format == "PNG"
        assert len(np.unique(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3), axis=0)) > 20
    assert diagram != reliability_diagram({"as generated": CONFIDENCES}, HITS, clusters)
    assert curve == risk_coverage_curve({"by confidence": CONFIDENCES}, HITS, clusters)


def evaluation(folder, split="validation", rows=12):
    """What eval.py writes for a model in `folder`."""
    lines = [json.dumps(prediction(n, 0.25, float(n % 2))) for n in range(rows)]
    written = folder / "eval"
    written.mkdir()
    (written / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    meta = {"model": str(folder), "dataset": "custom", "split": split, "fingerprints": {"rows": "0"}}
    (written / "metrics.json").write_text(json.dumps({"meta": meta, "scores": []}))
    return written / "predictions.jsonl"


def test_the_command(tmp_path, command):
    path = evaluation(tmp_path)
    output = command("calibrate", path)
    assert "answers         12        2.000  0.693 [0.69, 0.69]" in output
    assert "12 rows: 12 scored, 0 with the answer among candidates" in output
    assert load_calibration(str(tmp_path)).fitted_on["split"] == "validation"
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".json", ".jsonl", ".png", ".png"]


def separable(folder, images=200):
    """A validation split on which answers are right where the confidence is above 0.5, two questions an image."""
    path = evaluation(folder, rows=0)
    lines = [
        json.dumps(prediction(n, 0.95 if n % 4 < 3 else 0.3, float(n % 4 < 3)) | {"image_id": f"image {n // 2}"})
        for n in range(2 * images)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_target_risk_gives_the_confidence_to_abstain_below(tmp_path, command):
    output = command("calibrate", separable(tmp_path), "--target_risk", "0.1")
    assert "abstention: below a confidence of" in output and "at most 10% of the answers to new questions" in output
    calibration = load_calibration(str(tmp_path))
    assert calibration.guarantees["images"] == 200 and calibration.guarantees["conformal_quantile"] is None
    low, high = calibration.confidence(np.array([0.3, 0.95]))
    assert low < calibration.abstain_below <= high
    assert 0.6 < calibration.guarantees["threshold"]["coverage"] < 0.9


def test_a_target_risk_that_no_threshold_keeps_is_said(tmp_path, command):
    output = command("calibrate", evaluation(tmp_path), "--target_risk", "0.1")
    assert "no threshold keeps the risk at 10% on" in output
    assert load_calibration(str(tmp_path)).abstain_below is None
    assert "target_risk is above 0 and below 1, got 1.5" in command("calibrate", "x", "--target_risk", "1.5", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: PREDICTIONS"),
        (["--model", "runs"], "required: PREDICTIONS"),
        (["nothing.jsonl"], "cannot be read from nothing.jsonl"),
    ],
)
def test_the_command_with_other_arguments(arguments, message, command):
    (error,) = command("calibrate", *arguments, code=2).splitlines()
    assert message in error


def test_the_command_on_other_evaluations(tmp_path, command):
    path = evaluation(tmp_path, split="test")
    assert "is of the test split; fit on validation" in command("calibrate", path, code=2)
    path.with_name("metrics.json").write_text('{"meta": {"split": "validation"}}')
    assert "metrics.json is missing or not what " in command("calibrate", path, code=2)
    meta = {"model": "someone/model", "dataset": "custom", "split": "validation", "fingerprints": {}}
    path.with_name("metrics.json").write_text(json.dumps({"meta": meta}))
    assert "someone/model is no folder" in command("calibrate", path, code=2)
    assert not (tmp_path / "calibration.json").exists()
