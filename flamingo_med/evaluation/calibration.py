"""Temperatures that make a model's confidences true: fitted on validation, stored beside its weights, applied by all.

They stand in `calibration.json`, not in the generation configuration: they change no answer, they come from certain
rows, which the file names, and they can be fitted again or deleted without a touch of the model. `save_pretrained`
does not write the file: copy it with the folder, or fit it again.

Guo et al., "On calibration of modern neural networks" (ICML 2017).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from flamingo_med.evaluation.calibration_error import aurc, brier_score, checked, expected_calibration_error
from flamingo_med.evaluation.guarantees import abstention_threshold, conformal_quantile, one_row_per_image
from flamingo_med.evaluation.intervals import clustered_bootstrap_of
from processing.errors import InputError
from processing.files import write_json
from processing.shapes import check_shape, parse_json

FILE = "calibration.json"
BOUNDS = (0.05, 20.0)  # of temperatures
LEVEL = 0.95  # of the guarantees
CERTAIN = 1e-6  # float32 rounds confidences to 1; a wrong answer at exactly 1 would cost infinitely much


# ------------------------------------------------------------------------------------------------- generated answers


def scale_confidence(confidence: float | np.ndarray, temperature: float) -> float | np.ndarray:
    """Confidence of a generated answer at a temperature: its mean log-probability of a token, divided by it."""
    return confidence ** (1 / temperature)


def answer_nll(confidences: Sequence[float], hits: Sequence[float], temperature: float = 1.0) -> float:
    """Negative log-likelihood, a row, of whether the answer is right, at a temperature.

    Arguments and errors as of `flamingo_med.evaluation.calibration_error.reliability_bins`.
    """
    confidences, hits = checked(confidences, hits)
    scaled = scale_confidence(np.clip(confidences, CERTAIN, 1 - CERTAIN), temperature)
    return float(-(hits * np.log(scaled) + (1 - hits) * np.log1p(-scaled)).mean())


def fit_answer_temperature(confidences: Sequence[float], hits: Sequence[float]) -> float:
    """The temperature within `BOUNDS` of least `answer_nll`, whose arguments it takes.

    The NLL is convex in 1 / temperature, so there is one minimum. All right, or all wrong, it is a bound.
    """
    return _least(lambda temperature: answer_nll(confidences, hits, temperature))


# -------------------------------------------------------------------------------------- candidates of closed questions


def candidate_probabilities(log_likelihoods: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax over the candidates (n k) of each closed question; -inf, which is no candidate, gets 0."""
    return np.exp(log_softmax(np.asarray(log_likelihoods, dtype=float) / temperature, axis=-1))


def candidate_nll(log_likelihoods: np.ndarray, correct: Sequence[int], temperature: float = 1.0) -> float:
    """Negative log-likelihood, a question, of the right candidate, `correct` (n,), among the candidates (n k).

    Raises:
        ValueError: no questions, or lengths that differ.
    """
    if len(correct) == 0 or len(log_likelihoods) != len(correct):
        raise ValueError(f"{len(log_likelihoods)} questions, {len(correct)} right candidates")
    log_probs = log_softmax(np.asarray(log_likelihoods, dtype=float) / temperature, axis=-1)
    return float(-log_probs[np.arange(len(correct)), correct].mean())


def fit_candidate_temperature(log_likelihoods: np.ndarray, correct: Sequence[int]) -> float:
    """The temperature within `BOUNDS` of least `candidate_nll`, whose arguments it takes."""
    return _least(lambda temperature: candidate_nll(log_likelihoods, correct, temperature))


def _least(nll: Callable[[float], float]) -> float:
    bounds = [math.log(bound) for bound in BOUNDS]
    return math.exp(minimize_scalar(lambda log: nll(math.exp(log)), bounds=bounds, method="bounded").x)


# ------------------------------------------------------------------------------------------------ stored with a model


@dataclass(frozen=True)
class Calibration:
    """Temperatures of one model.

    Attributes:
        answer_temperature: of the confidence of generated answers.
        candidate_temperature: of the candidates' log-likelihoods; None where none were there to fit it on.
        fitted_on: data set, split, fingerprints and numbers of rows.
        guarantees: what holds of new questions, see `guarantee`; empty where none was asked for.
    """

    answer_temperature: float
    candidate_temperature: float | None = None
    fitted_on: dict = field(default_factory=dict)
    guarantees: dict = field(default_factory=dict)

    @property
    def abstain_below(self) -> float | None:
        """The calibrated confidence below which not to answer; None where no threshold was found or asked for."""
        return (self.guarantees.get("threshold") or {}).get("confidence")

    def confidence(self, confidence: float | np.ndarray) -> float | np.ndarray:
        """The calibrated confidence of generated answers, for all that show or store one."""
        return scale_confidence(confidence, self.answer_temperature)

    def probabilities(self, log_likelihoods: np.ndarray) -> np.ndarray:
        """The calibrated probabilities (n k) of candidates, of their log-likelihoods (n k)."""
        return candidate_probabilities(log_likelihoods, self.candidate_temperature or 1.0)


class _Threshold(TypedDict):
    confidence: float


class _Guarantees(TypedDict):
    target_risk: float
    threshold: _Threshold | None


class _Stored(TypedDict, total=False):
    """What the file holds."""

    answer_temperature: float
    candidate_temperature: float | None
    fitted_on: dict
    guarantees: dict  # `_Guarantees`, where there are any


def save_calibration(folder: str | Path, calibration: Calibration) -> None:
    """Write it beside the weights."""
    write_json(Path(folder, FILE), asdict(calibration))


def load_calibration(model: str, revision: str | None = None) -> Calibration | None:
    """That of a model's folder, or Hub id at a revision; None where it has none.

    Raises:
        InputError: a file that is not of `save_calibration`.
    """
    path = Path(model, FILE)
    if not Path(model).is_dir():
        try:
            path = Path(hf_hub_download(model, FILE, revision=revision))
        except EntryNotFoundError:
            return None
    if not path.is_file():
        return None
    try:
        stored = parse_json(path.read_text(encoding="utf-8"))
        calibration = Calibration(**stored)
        check_shape(stored, _Stored, "it")
        if calibration.guarantees:
            check_shape(calibration.guarantees, _Guarantees, "guarantees")
        sound = calibration.answer_temperature > 0 and (calibration.candidate_temperature or 1) > 0
    except (OSError, ValueError, TypeError):
        sound = False
    if not sound:
        raise InputError(
            f"{path} holds no temperatures above 0; write it again by flamingo-med calibrate, or delete it"
        )
    return calibration


# -------------------------------------------------------------------------------------------------- from predictions


def fit(predictions: Sequence[dict], fitted_on: dict) -> tuple[Calibration, list[dict]]:
    """The temperatures for rows of predictions.jsonl, and how good the confidences are without and with them.

    Args:
        predictions: with confidence and exact_match, and of closed questions, where the model was asked about them,
            candidates: a mapping of each candidate answer to its log-likelihood.
        fitted_on: what `Calibration` is to remember; the numbers of rows are added.

    Returns:
        the calibration, and dicts with of ("answers" or "candidates"), temperature, n, and of nll, ece, brier and aurc
        each value, low and high (95 % bootstrap clustered by image, the temperature held), at temperature 1 and at
        the fitted one.

    Raises:
        InputError: no row with a confidence and a score.
    """
    scored = [row for row in predictions if "confidence" in row and row.get("exact_match") is not None]
    if not scored:
        raise InputError("the predictions have no row with a confidence and exact_match to fit a temperature on")
    confidences, hits = np.array([[row["confidence"], row["exact_match"]] for row in scored], dtype=float).T
    images = [row["image_id"] for row in scored]
    of_answers = fit_answer_temperature(confidences, hits)
    measures = []
    for t in (1.0, of_answers):
        nll = partial(answer_nll, temperature=t)
        measures.append(
            _measures("answers", t, scale_confidence(confidences, t), hits, nll, (confidences, hits), images)
        )
    log_likelihoods, correct, images = candidate_table(scored)
    of_candidates = None
    if len(correct):
        of_candidates = fit_candidate_temperature(log_likelihoods, correct)
        for t in (1.0, of_candidates):
            probabilities, nll = candidate_probabilities(log_likelihoods, t), partial(candidate_nll, temperature=t)
            chosen, given = probabilities.argmax(-1) == correct, (log_likelihoods, correct)
            measures.append(_measures("candidates", t, probabilities.max(-1), chosen, nll, given, images))
    fitted_on = {**fitted_on, "answers": len(scored), "candidates": len(correct)}
    return Calibration(of_answers, of_candidates, fitted_on), measures


def guarantee(calibration: Calibration, predictions: Sequence[dict], target_risk: float) -> Calibration:
    """The calibration with what it promises of new questions at a target risk.

    Its `guarantees` are target_risk, level, images, threshold (of `abstention_threshold`, on calibrated confidences;
    None where no threshold keeps the target) and conformal_quantile (of the calibrated probabilities of candidates;
    None without candidates).

    Args:
        calibration: fitted on the same predictions.
        predictions: as of `fit`; one row of each image counts.
        target_risk: share of wrong answers among those given, and of sets that lack the right answer.
    """
    rows = one_row_per_image(
        [row for row in predictions if "confidence" in row and row.get("exact_match") is not None]
    )
    confidences = [calibration.confidence(row["confidence"]) for row in rows]
    threshold = abstention_threshold(confidences, [row["exact_match"] == 1 for row in rows], target_risk, LEVEL)
    log_likelihoods, correct, _ = candidate_table(rows)
    quantile = None
    if len(correct):
        quantile = conformal_quantile(calibration.probabilities(log_likelihoods), correct, target_risk)
    found = {"target_risk": target_risk, "level": LEVEL, "images": len(rows), "conformal_quantile": quantile}
    return replace(calibration, guarantees={**found, "threshold": threshold and asdict(threshold)})


def candidate_table(predictions: Sequence[dict]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Log-likelihoods (n k), -inf where a row has fewer, number of the right candidate (n,), and images (n), of the
    rows of predictions.jsonl whose answer is among their candidates."""
    found, images = [], []
    for row in predictions:
        names = [name.strip().lower() for name in row.get("candidates") or ()]
        answer = row.get("answer", "").strip().lower()
        if answer in names:
            found.append((list(row["candidates"].values()), names.index(answer)))
            images.append(row["image_id"])
    table = np.full((len(found), max((len(values) for values, _ in found), default=0)), -np.inf)
    for line, (values, _) in zip(table, found, strict=True):
        line[: len(values)] = values
    return table, np.array([number for _, number in found], dtype=int), images


def _measures(
    of: str,
    temperature: float,
    confidences: np.ndarray,
    hits: np.ndarray,
    nll: Callable[..., float],
    nll_of: tuple[np.ndarray, np.ndarray],
    images: Sequence[str],
) -> dict:
    """Value and interval of each measure."""
    arrays = {"nll": (nll, nll_of)}
    named = {"ece": expected_calibration_error, "brier": brier_score, "aurc": aurc}
    arrays |= {name: (measure, (confidences, hits)) for name, measure in named.items()}
    row = {"of": of, "temperature": temperature, "n": len(hits)}
    for name, (measure, given) in arrays.items():
        low, high = clustered_bootstrap_of(
            lambda members, measure=measure, given=given: measure(*(array[members] for array in given)), images
        )
        row[name] = {"value": measure(*given), "low": low, "high": high}
    return row
