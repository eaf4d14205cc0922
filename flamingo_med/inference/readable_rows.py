"""Before hours of work: whether a model can read all rows, of which each process looks at its share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from flamingo_med.inference.backends import context_length
from processing.errors import InputError
from processing.processing_flamingo_med import FlamingoMedProcessor
from processing.row_checks import bad_images, bad_texts, refuse


def check_texts(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Dataset | Sequence[dict],
    what: str,
    *,
    answers: bool = False,
    new_tokens: int = 0,
) -> None:
    """Refuse rows with a text that is too long, or holds a special token; of a model that is not ours none.

    Args:
        model, processor: who reads them.
        rows: with id, question and answer.
        what: what they are rows of, in the message.
        answers: in training, whether the answers are read too.
        new_tokens: tokens of the longest answer, if any is to be generated.

    Raises:
        InputError: in all processes, lists the rows.
    """
    if not isinstance(processor, FlamingoMedProcessor):
        return
    share = _share(len(rows))
    ids, questions, texts = (_column(rows, name, share) for name in ("id", "question", "answer"))
    context = context_length(model.config.get_text_config())
    bad = bad_texts(processor, questions, texts if answers else None, context=context, new_tokens=new_tokens)
    refuse(gather_object([(ids[i], reason) for i, reason in bad.items()]), len(rows), what)


def check_images(rows: Dataset, what: str) -> None:
    """Refuse rows with an image that cannot be read; decodes all that this process has not decoded yet.

    Raises:
        InputError: in all processes, lists the rows.
    """
    share = rows.select(_share(len(rows))).select_columns(["id", "image", "more_images"])
    bad = bad_images(share)
    ids = share["id"][:]
    refuse(gather_object([(ids[i], reason) for i, reason in bad.items()]), len(rows), what)


@contextmanager
def all_bad_images(data_sets: Mapping[str, Dataset]) -> Iterator[None]:
    """Read images, and where one cannot be read, look for all that cannot, so that they can be mended at once.

    Args:
        data_sets: what they are rows of, as of `check_images`, → rows.

    Raises:
        InputError: lists the rows; in the process that has met one, as the others may be busy.
    """
    try:
        yield
    except InputError:
        for what, rows in data_sets.items():
            bad = bad_images(rows.select_columns(["id", "image", "more_images"]))
            ids = rows["id"][:]
            refuse([(ids[i], reason) for i, reason in bad.items()], len(rows), what)
        raise


def _share(count: int) -> range:
    state = PartialState()
    return range(state.process_index, count, state.num_processes)


def _column(rows: Dataset | Sequence[dict], name: str, share: range) -> list[str]:
    if isinstance(rows, Dataset):
        return rows.select(share)[name][:]
    return [rows[i].get(name, "") for i in share]
