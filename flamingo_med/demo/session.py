"""What one open page has given and got, and what happens with it; nothing here knows how the page looks."""

from dataclasses import dataclass, field
from threading import Lock
from weakref import WeakKeyDictionary

from PIL import Image
from torch import Tensor
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


@dataclass(eq=False)
class Session:
    """One page that somebody has open.

    Attributes:
        upload: the image, if there is one.
        question, reply: what was asked last about it, and the answer.
        examples: image, question and answer of each (few-shot).
        pending: the image of an example whose question and answer are still to come.
        dropped: its images made room for those of other sessions.
    """

    upload: Upload | None = None
    question: str = ""
    reply: asking.Reply | None = None
    examples: list[tuple[Upload, str, str]] = field(default_factory=list)
    pending: Upload | None = None
    dropped: bool = False

    @property
    def nbytes(self) -> int:
        """The memory that its images take."""
        uploads = [self.upload, self.pending, *(example for example, _, _ in self.examples)]
        return sum(upload.nbytes for upload in uploads if upload)

    @property
    def why_no_image(self) -> str:
        """And the way out, as a sentence."""
        if self.dropped:
            return "the image was dropped, since other users' images needed the memory; upload it again"
        return "there is no image to ask about, or it was forgotten; upload one, or take an example"

    def show(self, upload: Upload | None) -> None:
        """Another image, or none; what was said of the last one goes with it."""
        self.upload, self.question, self.reply, self.dropped = upload, "", None, False

    def drop(self) -> None:
        """All images, to make room."""
        self.show(None)
        self.examples, self.pending, self.dropped = [], None, True

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


class Memory:
    """The memory for the images of all sessions together: the sessions used longest ago make room for the others.

    Args:
        limit: bytes. A session alone may take more.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._sessions: WeakKeyDictionary[Session, None] = WeakKeyDictionary()  # the one used last comes last
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """What the images of all sessions take."""
        return sum(session.nbytes for session in list(self._sessions))

    def use(self, session: Session) -> list[Session]:
        """Count a session as the one used last; those whose images have been dropped for it."""
        dropped = []
        with self._lock:
            self._sessions.pop(session, None)
            self._sessions[session] = None
            taken = self.nbytes
            for oldest in list(self._sessions):
                if taken <= self.limit or oldest is session:
                    break
                taken -= oldest.nbytes
                if oldest.nbytes:
                    oldest.drop()
                    dropped.append(oldest)
        return dropped


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

    def see(self, image: Image.Image) -> Tensor:
        """What the model sees of an image (c h w)."""
        return asking.look(self.processor, image)

    def answer(self, session: Session, question: str) -> str:
        """Ask about the session's image, after its examples; the answer as HTML.

        Raises:
            InputError: no image; a question as of `asking.ask`.
        """
        upload, examples = session.upload, list(session.examples)
        if upload is None:
            raise InputError(session.why_no_image)
        session.question, session.reply = question.strip(), None
        shown = [(example.pixels, asked, said) for example, asked, said in examples]
        reply = asking.ask(self.model, self.processor, upload.pixels, question, shown, self.calibration)
        record = audit_record(self.description, upload, question.strip(), reply, examples)
        if session.dropped:  # meanwhile
            raise InputError(session.why_no_image)
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
            case = prepare(
                self.model,
                self.processor,
                upload.image,
                session.question,
                answer=reply.answer.text,
                original=upload.size[::-1],
                pixels=upload.pixels.unsqueeze(0),
            )
            explanation = explain_case(case, method)
        except InputError as error:
            html = fragments.viewer(upload, note=f"No map: {error}.")
        else:
            html = fragments.viewer(upload, to_heat(explanation), note)
        if session.upload is upload:
            return html
        return fragments.viewer(session.upload) if session.upload else fragments.EMPTY_VIEWER  # replaced meanwhile
