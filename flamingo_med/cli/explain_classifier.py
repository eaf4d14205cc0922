"""Check an image classifier's findings on one image by asking a model about them.

Writes explanation.html, with maps of both, and explanation.json to output_dir.

  flamingo-med explain-classifier --model runs/phantom --classifier runs/resnet \\
      --image x.png --output_dir page
"""

from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from flamingo_med.cli.parser import CommandParser
from flamingo_med.common.folders import lock_folder
from flamingo_med.common.provenance import provenance
from flamingo_med.evaluation.calibration import load_calibration
from flamingo_med.explanation.classifier import load_classifier
from flamingo_med.explanation.classifier_check import (
    PIXEL_METHODS,
    UNCALIBRATED,
    as_dict,
    describe_findings,
    explain_classifier,
)
from flamingo_med.explanation.classifier_page import classifier_page
from flamingo_med.explanation.methods import load_method
from flamingo_med.explanation.questions import DEFAULT, read_questions
from flamingo_med.inference.answering import load_model
from flamingo_med.inference.split_arguments import TRUST_HELP
from processing.errors import check_keys, check_path, disk_errors
from processing.files import write_json, write_whole
from processing.images import read_image


@dataclass
class ClassifierArguments:
    """Which classifier, who is asked about it, and where the page goes."""

    model: str = field(metadata={"help": "folder or Hub id of the model that answers questions"})
    classifier: str = field(
        metadata={"help": "folder or Hub id of the classifier: a model of ours with a head, or an image classifier"}
    )
    image: str = field(metadata={"help": "image file"})
    output_dir: str = field(metadata={"help": "folder of explanation.html and explanation.json"})
    questions: str = field(
        default=str(DEFAULT), metadata={"help": "templates of the questions; copy and change these"}
    )
    classifier_question: str = field(
        default="Which findings are there?", metadata={"help": "what our head is asked: what it was trained on"}
    )
    top: int = field(default=3, metadata={"help": "how many classes to ask about, and all that are asserted"})
    min_confidence: float = field(default=0.7, metadata={"help": "below it a model counts as undecided"})
    method: str = field(default="occlusion", metadata={"help": f"of the maps: {' or '.join(PIXEL_METHODS)}"})

    trust_remote_code: bool = field(default=False, metadata={"help": TRUST_HELP})

    def __post_init__(self):
        check_path("--model", self.model)
        check_path("--classifier", self.classifier)
        check_keys([self.method], PIXEL_METHODS, "method for classifier and VQA model alike")


def main(arguments: list[str]) -> None:
    """explanation.html, explanation.json, and the verdicts in words."""
    often = ("model", "classifier", "image", "output_dir", "top", "method")
    (args,) = CommandParser("flamingo-med explain-classifier", __doc__, ClassifierArguments, often=often).build(
        arguments
    )
    load_method(args.method)
    questions, image = read_questions(args.questions), read_image(args.image)
    classifier = load_classifier(args.classifier, args.classifier_question, args.trust_remote_code)
    model, processor = load_model(args.model, trust_remote_code=args.trust_remote_code)
    calibration = load_calibration(args.model)
    folder = Path(args.output_dir)
    lock = lock_folder(folder)
    explanation = explain_classifier(
        image,
        classifier,
        model,
        processor,
        questions=questions,
        calibration=calibration or UNCALIBRATED,
        top=args.top,
        min_confidence=args.min_confidence,
        method=args.method,
    )

    made = provenance()
    hashed = sha256(image.tobytes()).hexdigest()
    revisions = {"model": model, "classifier": classifier.model}
    revisions = {name: getattr(one.config, "_commit_hash", None) for name, one in revisions.items()}
    unlisted = [finding.name for finding in explanation.findings if not questions.finding(finding.name)]
    meta = {**asdict(args), "unlisted": unlisted, "image_sha256": hashed, "revisions": revisions, **made}
    title = f"{args.classifier}, explained by asking {args.model}"
    how = "calibrated on validation" if calibration else "not calibrated"
    about = {"classifier": args.classifier, "VQA model": f"{args.model}, {how}", "command": made["command"]}
    about |= {"code": made["commit"] or "no commit", "image, SHA-256 of its pixels": hashed}
    if unlisted:
        about["asked about by its own name, as the questions do not list it"] = ", ".join(unlisted)
    print(f"{title}\n")
    for verdict, sentence in describe_findings(explanation):
        print(f"{verdict:<14}{sentence}")
    if unlisted:
        print(f"\nasked about by its own name, as {args.questions} does not list it: {', '.join(unlisted)}")
    with disk_errors(folder):
        write_json(folder / "explanation.json", {"meta": meta, **as_dict(explanation)})
        write_whole(folder / "explanation.html", classifier_page(explanation, title, about))
    lock.release()
    print(f"\nNot for clinical use.\nwritten: {folder}/explanation.html, explanation.json")
