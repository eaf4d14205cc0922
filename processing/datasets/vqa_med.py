"""ImageCLEF VQA-Med 2019, 2020 and 2021: questions about MedPix images, from the unpacked official archives.

`data_dir` is a folder with the archives of one edition, wherever in it they are unpacked; images lie in the text
file's folder or beneath.
A line is one of

    image|question|answer                    with further answers after `|` or `#`, all of them accepted
    image|category|question|answer           2019's test file; what is in parentheses may be left out
    image|question                           a blind test set, or one whose answers are in a file of their own
    image|answer                             that file

The 2021 edition trains on the train and validation sets of 2020. Validation is the published one. Every answer is a
class; those of the train split are `class_names`.
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from processing.datasets.rows import clean, make_row, require_images, to_dataset
from processing.datasets.source_files import IMAGE_SUFFIXES, find_file, find_images, read_text, require_folder
from processing.errors import InputError

logger = logging.getLogger(__name__)

ADDRESSES = {
    "2019": "https://zenodo.org/records/10499039",
    "2020": "https://github.com/abachaa/VQA-Med-2020",
    "2021": "https://github.com/abachaa/VQA-Med-2021",
}
CATEGORIES = ("modality", "plane", "organ", "abnormality")


@dataclass(frozen=True)
class Source:
    """File name patterns of one part of a split.

    Attributes:
        questions: the first that is found is used.
        answers: of the file with the answers, where it is another one.
    """

    questions: tuple[str, ...]
    answers: str | None = None


TRAIN_2020 = Source(("VQAnswering_2020_Train_QA_[Pp]airs.txt",))
VALIDATION_2020 = Source(("VQAnswering_2020_Val_QA_[Pp]airs.txt",))
TEST_2020 = Source(("*VQAnswering*Test*Questions.txt",), "*VQAnswering*Test*ReferenceAnswers.txt")
SOURCES = {
    "2019": {
        "train": [Source(("All_QA_Pairs_train.txt",))],
        "validation": [Source(("All_QA_Pairs_val.txt",))],
        "test": [Source(("*Test_Questions_w_Ref_Answers.txt", "*Test_Questions.txt"))],
    },
    "2020": {"train": [TRAIN_2020], "validation": [VALIDATION_2020], "test": [TEST_2020]},
    "2021": {
        "train": [TRAIN_2020, VALIDATION_2020],
        "validation": [Source(("*VQAnswering-Task1-New-ValidationSet.txt",))],
        "test": [Source(("*VQA-2021-TestSet-Questions.txt",), "*VQA-2021-TestSet-ReferenceAnswers.txt")],
    },
}
# The form in which the 2021 edition is passed on: a folder for each split, label.txt and images in it.
LABEL_FILES = {"train": "train*/label.txt", "validation": "val*/label.txt", "test": "test*/label.txt"}


def load_2019(split: str, data_dir: str | None = None) -> Dataset:
    """Train 12792, validation 2000, test 500 rows on modality, plane, organ and abnormality.

    Args:
        split: one of `SPLITS`.
        data_dir: folder with the unpacked archives.

    Raises:
        InputError: files not found, images missing, or a line of another form.
    """
    return _load("2019", split, data_dir)


def load_2020(split: str, data_dir: str | None = None) -> Dataset:
    """Train 4000, validation 500, test 500 rows on abnormality; arguments and errors as of `load_2019`."""
    return _load("2020", split, data_dir)


def load_2021(split: str, data_dir: str | None = None) -> Dataset:
    """Train 4500, validation 500, test 500 rows on abnormality; arguments and errors as of `load_2019`."""
    return _load("2021", split, data_dir)


def _load(edition: str, split: str, data_dir: str | None) -> Dataset:
    folder = require_folder(data_dir, f"vqa_med_{edition}", how_to_get(edition))
    label_file = find_file(folder, [f"**/{LABEL_FILES[split]}"]) if edition == "2021" else None
    if label_file:
        rows = _read(label_file, None, edition, split)
    else:
        rows = [row for source in SOURCES[edition][split] for row in _read_source(source, folder, edition, split)]
    if split != "test":  # where each image has a question of each category; in the test set of one only
        organs = {row["image_id"]: row["answer"].lower() for row in rows if row["question_type"] == "organ"}
        rows = [{**row, "organ": organs.get(row["image_id"], "")} for row in rows]
    unanswered = sum(not row["answers"] for row in rows)
    if unanswered:
        logger.info(
            f"vqa_med_{edition} {split}: {unanswered} of {len(rows)} questions have no answer (a blind test set)"
        )
    return to_dataset(rows)


def how_to_get(edition: str) -> str:
    """Where an edition's archives are, for error messages."""
    return f"unpack the official archives from {ADDRESSES[edition]} into a folder"


def _read_source(source: Source, folder: Path, edition: str, split: str) -> list[dict]:
    path = find_file(folder, [f"**/{pattern}" for pattern in source.questions])
    if path is None:
        raise InputError(
            f"no {' or '.join(source.questions)} of vqa_med_{edition} ({split} split) in {folder} or beneath; "
            f"{how_to_get(edition)}"
        )
    answers = find_file(folder, [f"**/{source.answers}"]) if source.answers else None
    return _read(path, answers, edition, split)


def _read(path: Path, answer_file: Path | None, edition: str, split: str) -> list[dict]:
    """Rows of one text file."""
    images = find_images(path.parent)
    categories = _categories(path.parent)
    answers_of = _read_answers(answer_file) if answer_file else {}
    rows = []
    for number, fields in _fields(path):
        image_id = Path(fields[0]).stem if fields[0].lower().endswith(IMAGE_SUFFIXES) else fields[0]
        category = fields.pop(1).lower() if fields[1].lower() in CATEGORIES and len(fields) > 2 else ""
        question, answers = fields[1], _alternatives(fields[2:]) or answers_of.get(image_id, [])
        if split != "test" and not answers:
            raise InputError(f"line {number} of {path} has no answer; it is written image|question|answer")
        if (edition, split) == ("2019", "test"):  # whose parentheses mark parts that an answer may leave out
            answers = _alternatives([*answers, *(clean(re.sub(r"\([^)]*\)", " ", answer)) for answer in answers)])
        rows.append(
            make_row(
                id=f"{path.stem}-{number}",
                image=images.get(image_id, path.parent / image_id),
                image_id=image_id,
                question=question,
                answer=answers[0] if answers else "",
                answers=answers,
                question_type=category or categories.get((image_id, question), _default_category(edition)),
            )
        )
    require_images(rows, path.parent)
    return rows


def _default_category(edition: str) -> str:
    return "" if edition == "2019" else "abnormality"  # the only subject of the later editions


def _categories(folder: Path) -> dict[tuple[str, str], str]:
    """(image, question) → category, from 2019's files of one category each; the train file itself does not say it."""
    found = {}
    for category in CATEGORIES:
        path = find_file(folder, [f"QAPairsByCategory/C*_{category.title()}_*.txt"])
        if path:
            found |= {(fields[0], fields[1]): category for _, fields in _fields(path)}
    return found


def _read_answers(path: Path) -> dict[str, list[str]]:
    """Image → answers."""
    answers = {}
    for number, (image_id, *texts) in _fields(path):
        if image_id in answers:
            raise InputError(f"line {number} of {path} answers an image again; write alternatives on one line")
        answers[image_id] = _alternatives(texts)
    return answers


def _fields(path: Path) -> Iterable[tuple[int, list[str]]]:
    """Number and fields of each line that is not blank: at least two, and neither of the first two empty."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        fields = [" ".join(field.split()) for field in line.split("|")]
        if fields == [""]:
            continue
        if len(fields) < 2 or not fields[0] or not fields[1]:
            raise InputError(f"line {number} of {path} is not written image|question|answer")
        yield number, fields


def _alternatives(fields: list[str]) -> list[str]:
    """All accepted answers, in order and once each."""
    texts = (text.strip() for field in fields for text in field.split("#"))
    return list(dict.fromkeys(text for text in texts if text))
