"""`explain_classifier`: what a VQA model, asked about a classifier's findings, says to them, and where both look."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import PreTrainedModel

from flamingo_med.evaluation.calibration import Calibration
from flamingo_med.explanation.case import prepare, require_ours
from flamingo_med.explanation.classifier import Classifier
from flamingo_med.explanation.explanation import Explanation
from flamingo_med.explanation.methods import explain_case
from flamingo_med.explanation.questions import PRESENCE, Questions, Template, read_questions
from flamingo_med.inference.answering import answer_questions
from processing.collator import FlamingoMedCollator
from processing.errors import InputError, check_keys
from processing.images import read_image
from processing.processing_flamingo_med import FlamingoMedProcessor

PIXEL_METHODS = ("occlusion", "integrated_gradients")  # the only ones that know nothing of a model's parts
UNCALIBRATED = Calibration(answer_temperature=1.0)
AGREEMENT, CONTRADICTION, ABSTENTION = "agreement", "contradiction", "abstention"


@dataclass(frozen=True)
class Reply:
    """What the VQA model says to one kind of question.

    Attributes:
        kind: of question.
        wordings: all that were asked.
        answer: the most probable candidate, or what the model wrote.
        confidence: its probability among the candidates, mean of the wordings; of a written answer, as of
            `flamingo_med.inference.answering.Answer`.
        candidates: candidate → that probability; none where the model wrote.
        coverage: share of all probability that the candidates have together, mean of the wordings; None where none.
        says_present: probability of the answers that say that it is there; None where that is taken for granted.
        verdict: AGREEMENT, CONTRADICTION or ABSTENTION with the classifier; None where there is nothing to check.
    """

    kind: str
    wordings: list[str]
    answer: str
    confidence: float
    candidates: dict[str, float]
    coverage: float | None
    says_present: float | None
    verdict: str | None


@dataclass(frozen=True)
class Finding:
    """One class, as classifier and VQA model see it.

    Attributes:
        name, probability: of the class.
        asserted: whether the classifier says that it holds.
        replies: to the questions about it, presence first.
        classifier_map, vqa_map: what speaks for the class, and for its presence; None where no maps are wanted.
        maps_alike: share of what speaks for it that both maps put in the same places, 0 to 1.
    """

    name: str
    probability: float
    asserted: bool
    replies: list[Reply]
    classifier_map: Explanation | None
    vqa_map: Explanation | None
    maps_alike: float | None

    @property
    def verdict(self) -> str:
        """Contradiction where any question contradicts; else that of presence."""
        verdicts = [reply.verdict for reply in self.replies]
        return CONTRADICTION if CONTRADICTION in verdicts else verdicts[0]


@dataclass(frozen=True)
class ClassifierExplanation:
    """All of it, for one image.

    Attributes:
        image: the original.
        probabilities: class → the classifier's probability, the most probable first.
        multi_label: several classes may hold at once.
        findings: those that were asked about, the most probable first.
        min_confidence: below it, a model counts as undecided.
        method: of the maps, None without.
    """

    image: Image.Image
    probabilities: dict[str, float]
    multi_label: bool
    findings: list[Finding]
    min_confidence: float
    method: str | None


def explain_classifier(
    image: Image.Image | str | Path | bytes | dict,
    classifier: Classifier,
    vqa_model: PreTrainedModel,
    processor: FlamingoMedProcessor,
    *,
    questions: Questions | None = None,
    calibration: Calibration = UNCALIBRATED,
    top: int = 3,
    min_confidence: float = 0.7,
    method: str | None = "occlusion",
) -> ClassifierExplanation:
    """Ask a VQA model about the findings of a classifier, and check one by the other.

    Args:
        image: anything that `processing.images.read_image` takes, DICOM included.
        classifier: see `load_classifier`.
        vqa_model, processor: a model of ours that answers questions; it may be that with the head.
        questions: of `read_questions`; the packaged ones by default.
        calibration: temperatures of the VQA model's confidences; none by default.
        top: how many classes to ask about, the most probable first; the others also where a classifier of several
            classes at once asserts them.
        min_confidence: a model that is less sure than this of presence or absence counts as undecided, in [0.5, 1).
        method: of the maps, one of `PIXEL_METHODS`, so that both models are explained alike; None for no maps.

    Raises:
        InputError: a VQA model that is not ours, an unknown method, an image that cannot be read, a question
            that cannot be asked.

    Example:
        classifier = load_classifier("runs/resnet", "Which findings are there?")
        verdicts = [f.verdict for f in explain_classifier("x.png", classifier, model, processor).findings]
    """
    if method is not None:
        check_keys([method], PIXEL_METHODS, "method for classifier and VQA model alike")
    if top < 1 or not 0.5 <= min_confidence < 1:
        raise InputError(f"top is at least 1 and min_confidence in [0.5, 1), got {top} and {min_confidence}")
    require_ours(vqa_model)
    questions = questions or read_questions()
    image = read_image(image)
    vqa_model.eval()
    probabilities = classifier.probabilities(image)
    best = next(iter(probabilities))
    findings = []
    for place, (name, probability) in enumerate(probabilities.items()):
        asserted = probability >= 0.5 if classifier.multi_label else name == best
        if place >= top and not asserted:
            continue
        doubt = max(probability, 1 - probability) < min_confidence
        templates = questions.about(name)
        replies = []
        for kind, template in templates.items():
            presupposes = not template.agrees
            if presupposes and not (asserted and replies[0].verdict == AGREEMENT):
                continue
            reply = ask(vqa_model, processor, image, kind, template, calibration)
            replies.append(with_verdict(reply, asserted, doubt, min_confidence))
        maps = (None, None, None)
        if method is not None:
            maps = look(image, name, templates[PRESENCE], classifier, vqa_model, processor, method)
        findings.append(Finding(name, probability, asserted, replies, *maps))
    return ClassifierExplanation(image, probabilities, classifier.multi_label, findings, min_confidence, method)


def ask(
    model: PreTrainedModel,
    processor: FlamingoMedProcessor,
    image: Image.Image,
    kind: str,
    template: Template,
    calibration: Calibration,
) -> Reply:
    """The reply to one kind of question, not yet held against the classifier."""
    rows = [{"image": image, "image_id": "the image", "question": wording} for wording in template.ask]
    if not template.answers:
        answers = answer_questions(model, processor, rows)
        best = max(answers, key=lambda answer: answer.confidence)
        confidence = calibration.confidence(best.confidence)
        return Reply(kind, template.ask, best.text, confidence, {}, None, None, None)
    batch = FlamingoMedCollator(processor, answers=False)(rows)
    batch = {name: value.to(model.device) for name, value in batch.items()}
    scores = model.score_answers(processor.tokenize_answers(template.answers), **batch).float()  # (wordings answers)
    probabilities = calibration.probabilities(scores.cpu().numpy()).mean(0)
    candidates = dict(zip(template.answers, probabilities.tolist(), strict=True))
    answer = max(candidates, key=candidates.get)
    return Reply(
        kind=kind,
        wordings=template.ask,
        answer=answer,
        confidence=candidates[answer],
        candidates=candidates,
        coverage=scores.exp().sum(-1).mean().item(),
        says_present=sum(candidates[answer] for answer in template.agrees) if template.agrees else None,
        verdict=None,
    )


def with_verdict(reply: Reply, asserted: bool, doubt: bool, min_confidence: float) -> Reply:
    """The reply with its verdict: an abstention where the classifier is in doubt, where the VQA model is, or where it
    would rather say something else than any candidate."""
    if reply.says_present is None:
        return reply
    present = reply.says_present
    if doubt or max(present, 1 - present) < min_confidence or reply.coverage < 0.5:
        return replace(reply, verdict=ABSTENTION)
    return replace(reply, verdict=AGREEMENT if (present >= 0.5) == asserted else CONTRADICTION)


def look(
    image: Image.Image,
    name: str,
    presence: Template,
    classifier: Classifier,
    model: PreTrainedModel,
    processor: FlamingoMedProcessor,
    method: str,
) -> tuple[Explanation, Explanation, float]:
    """Maps of what speaks for the class and for its presence, by the first wording, and how alike they are."""
    alternative = next(answer for answer in presence.answers if answer not in presence.agrees)
    case = prepare(model, processor, image, presence.ask[0], answer=presence.agrees[0], alternative=alternative)
    of_class, of_presence = explain_case(classifier.case(image, name), method), explain_case(case, method)
    first, second = (one.original_maps()[0] for one in (of_class, of_presence))
    return of_class, of_presence, common_share(first, second)


def common_share(first: np.ndarray, second: np.ndarray) -> float:
    """How much of what speaks for the finding two maps (h w) put in the same places: 1 all, 0 nothing."""
    shares = [one.clip(min=0) / max(one.clip(min=0).sum(), np.finfo(one.dtype).tiny) for one in (first, second)]
    return float(np.minimum(*shares).sum())


def describe_findings(explanation: ClassifierExplanation) -> list[tuple[str, str]]:
    """(verdict, sentence) of each finding, contradictions first."""
    order = (CONTRADICTION, ABSTENTION, AGREEMENT)
    findings = sorted(explanation.findings, key=lambda finding: order.index(finding.verdict))
    return [(finding.verdict, sentence(finding, explanation.min_confidence)) for finding in findings]


def sentence(finding: Finding, min_confidence: float) -> str:
    """What classifier and VQA model say about a finding, and whether they agree."""
    said = f"{finding.name} is {'there' if finding.asserted else 'not there'}"
    said = f"The classifier says that {said} (probability {finding.probability:.2f})"
    if finding.verdict == CONTRADICTION:
        replies = [reply for reply in finding.replies if reply.verdict == CONTRADICTION]
        return f"{said}, but the VQA model contradicts: {_quote(replies)}. One of them is wrong; look at the image."
    presence = finding.replies[0]
    if finding.verdict == AGREEMENT:
        others = finding.replies[1:]
        sure = [presence, *(reply for reply in others if reply.confidence >= min_confidence)]
        unsure = [f"“{reply.wordings[0]}”" for reply in others if reply.confidence < min_confidence]
        doubts = f"; it is undecided about {', '.join(unsure)}" if unsure else ""
        return f"{said}, and the VQA model agrees: {_quote(sure)}{doubts}."
    if max(finding.probability, 1 - finding.probability) < min_confidence:
        return f"{said}, but is not sure enough to be checked. The VQA model: {_quote([presence])}."
    if presence.coverage < 0.5:
        return (
            f"{said}; the VQA model would rather give another answer than {' or '.join(presence.candidates)}, which "
            f"have {presence.coverage:.2f} of the probability: it may not know this question."
        )
    return f"{said}; the VQA model is undecided: {_quote([presence])}."


def _quote(replies: Sequence[Reply]) -> str:
    return "; ".join(f"“{reply.wordings[0]}” {reply.answer} ({reply.confidence:.2f})" for reply in replies)


def as_dict(explanation: ClassifierExplanation) -> dict:
    """For JSON: everything but pixels and maps."""

    def plain(finding: Finding) -> dict:
        about = {name: getattr(finding, name) for name in ("name", "probability", "asserted", "verdict", "maps_alike")}
        return {**about, "replies": [asdict(reply) for reply in finding.replies]}

    return {
        "probabilities": explanation.probabilities,
        "multi_label": explanation.multi_label,
        "min_confidence": explanation.min_confidence,
        "method": explanation.method,
        "verdicts": [{"verdict": verdict, "sentence": text} for verdict, text in describe_findings(explanation)],
        "findings": [plain(finding) for finding in explanation.findings],
    }
