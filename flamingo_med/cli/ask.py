"""Answer one question about one image, and say how sure the model is.

For example:

  flamingo-med ask --model runs/phantom --image docs/phantom.png \\
      --question "Is there a lung nodule?"
"""

from dataclasses import dataclass, field

from flamingo_med.cli.parser import CommandParser
from flamingo_med.evaluation.calibration import load_calibration
from flamingo_med.inference.answering import answer_questions, load_model
from flamingo_med.inference.split_arguments import TrainedModelArguments
from processing.errors import InputError


@dataclass(kw_only=True)
class QuestionArguments(TrainedModelArguments):
    """One question to a model."""

    image: str = field(metadata={"help": "image file"})
    question: str = field(metadata={"help": "the question"})


def main(arguments: list[str]) -> None:
    """Answer one question about one image."""
    (args,) = CommandParser(
        "flamingo-med ask", __doc__, QuestionArguments, often=("model", "image", "question")
    ).build(arguments)
    if not args.question.strip():
        raise InputError('the question is empty; write it as --question "Is there a nodule?"')
    model, processor = load_model(args.model, args.revision, args.trust_remote_code)
    row = {"image": args.image, "image_id": args.image, "question": args.question}
    (answer,) = answer_questions(model, processor, [row])
    calibration = load_calibration(args.model, args.revision)
    confidence = calibration.confidence(answer.confidence) if calibration else answer.confidence
    print(f"question    {args.question}\nanswer      {answer.text}\nconfidence  {confidence:.2f}")
    threshold = calibration.abstain_below if calibration else None
    if threshold is not None and confidence < threshold:
        risk = calibration.guarantees["target_risk"]
        print(f"abstain     below a confidence of {threshold:.2f} more than {risk:.0%} of the answers may be wrong")
    how = "calibrated on validation" if calibration else "not calibrated"
    print(f"Not for clinical use. Confidence: geometric mean of the token probabilities, {how}.")
