"""What one open page has given and got, and what happens with it; nothing here knows how the page looks."""

from dataclasses import dataclass, field

from PIL import Image
from transformers import PreTrainedModel

from flamingo_med.demo import asking, fragments
from flamingo_med.demo.heat import to_heat
from flamingo_med.demo.record import audit_record, describe_model
from flamingo_med.demo.upload import Upload
from flamingo_med.evaluation.calibration import Calibration
from flamingo_med.explanation import explain_case, prepare
from processing.errors import InputError
from processing.processing_flamingo_med import FlamingoMedProcessor

MAX_EXAMPLES = 4
NO_MAP = "none"


@dataclass
class Session:
    """One page that somebody has open.

    Attributes:
        upload: the image, if there is one.
        question, reply: what was asked last about it, and the answer.
        examples: image, question and answer of each (few-shot).
        pending: the image of an example whose question and answer are still to come.
    """

    upload: Upload | None = None
    question: str = ""
    reply: asking.Reply | None = None
    examples: list[tuple[Upload, str, str]] = field(default_factory=list)
    pending: Upload | None = None

    def show(self, upload: Upload | None) -> None:
        """Another image, or none; what was said of the last one goes with it."""
        self.upload, self.question, self.reply = upload, "", None

    def add_example(self, question: str, answer: str) -> None:
        """Show the model the pending image, with a question and its answer, before what is asked next.

        Raises:
            InputError: something lacks, or there are `MAX_EXAMPLES` already.
        """
        if self.pending is None or not question.strip() or not answer.strip():
            raise InputError("an example needs an image, a question and its answer; fill in all three")
        if len(self.examples) == MAX_EXAMPLES:
            raise InputError(f"at most {MAX_EXAMPLES} examples are shown; remove them to start over")
        self.examples.append((self.pending, question.strip(), answer.strip()))
        self.pending = None


class Assistant:
    """The model behind the page: each method takes a session on by one step. Not for several threads at once.

    Args:
        model, processor: a model of ours.
        name: its folder or Hub id.
        calibration: by which its confidence is corrected, if it was fitted.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: FlamingoMedProcessor,
        name: str,
        calibration: Calibration | None = None,
    ):
        self.model = model.eval()
        self.processor = processor
        self.calibration = calibration
        self.description = describe_model(model, name)

    def answer(self, session: Session, question: str) -> str:
        """Ask about the session's image, after its examples; the answer as HTML.

        Raises:
            InputError: no image; a question as of `asking.ask`.
        """
        upload, examples = session.upload, list(session.examples)
        if upload is None:
            raise InputError("there is no image to ask about, or it was forgotten; upload one, or take an example")
        session.question, session.reply = question.strip(), None
        shown = [(example.image, asked, said) for example, asked, said in examples]
        reply = asking.ask(self.model, self.processor, upload.image, question, shown, self.calibration)
        record = audit_record(self.description, upload, question.strip(), reply, examples)
        if session.upload is not upload:  # replaced meanwhile
            return fragments.NO_ANSWER
        session.reply = reply
        return fragments.answer(question.strip(), reply, record)

    def explain(self, session: Session, method: str) -> str:
        """The session's image with the map of its last answer, if there is one; as HTML."""
        upload, reply = session.upload, session.reply
        if upload is None:
            return fragments.EMPTY_VIEWER
        if reply is None or method == NO_MAP:
            return fragments.viewer(upload)
        note = "The map is of the question alone, without the examples." if session.examples else ""
        try:
            case = prepare(self.model, self.processor, upload.image, session.question, answer=reply.answer.text)
            explanation = explain_case(case, method)
        except InputError as error:
            html = fragments.viewer(upload, note=f"No map: {error}.")
        else:
            html = fragments.viewer(upload, to_heat(explanation, self._size(upload.image)), note)
        return html if session.upload is upload else fragments.viewer(session.upload)

    @staticmethod
    def _size(image: Image.Image) -> tuple[int, int]:
        return fragments.fit(image).size
