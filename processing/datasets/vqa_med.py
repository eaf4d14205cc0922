"""ImageCLEF VQA-Med 2019, 2020 and 2021 (Ben Abacha et al.; images from MedPix), from the official archives.

`data_dir` is a folder with the unpacked archives, in any arrangement: the question file of a split is the text file
whose path names it (train, val, test) and whose lines are `image id|question|answer`; images are found by their id.

- 2019: test lines are `image id|category|question|answer`, with alternatives behind `#`.
- 2020, 2021: alternatives are further fields; test answers may stand in a file of their own, `image id|answer|…`.
- A test set without answers is read too; its rows have none.
"""

from collections import Counter, defaultdict
from pathlib import Path

from datasets import Dataset

from processing.datasets.rows import check_images, clean, image_file, images_below, local_folder, make_row, to_dataset
from processing.errors import InputError

CATEGORIES = ("modality", "plane", "organ", "abnormality")
SPLIT_WORDS = {"train": ("train",), "validation": ("val",), "test": ("test",)}
SOURCES = {
    2019: "get it from https://zenodo.org/records/10499039",
    2020: "get it from https://github.com/abachaa/VQA-Med-2020",
    2021: "get it from https://github.com/abachaa/VQA-Med-2021",
}


def load_2019(split: str, data_dir: str | None = None) -> Dataset:
    """VQA-Med 2019: questions on modality, plane, organ and abnormality (`question_type`)."""
    return _load(2019, split, data_dir)


def load_2020(split: str, data_dir: str | None = None) -> Dataset:
    """VQA-Med 2020: questions on abnormalities."""
    return _load(2020, split, data_dir)


def load_2021(split: str, data_dir: str | None = None) -> Dataset:
    """VQA-Med 2021: questions on abnormalities; its training set is that of 2020."""
    return _load(2021, split, data_dir)


def _load(edition: int, split: str, data_dir: str | None) -> Dataset:
    """One split of one edition with the columns of `FEATURES`.

    Raises:
        InputError: no or several question files of the split, a line of another form, or missing images.
    """
    name = f"vqa_med_{edition}"
    root = local_folder(name, data_dir, None, "*.txt", SOURCES[edition])
    questions, references = _find_files(root, split)
    if len(questions) != 1:
        found = ", ".join(str(path.relative_to(root)) for path in questions) or "none"
        raise InputError(
            f"{name} needs one question file of the {split} split in {root}, found {found}; {SOURCES[edition]}"
        )
    answers = _read_references(references) if references else {}
    category_of = _read_categories(root, split)
    images = images_below(root)

    rows, seen = [], Counter()
    for number, line in enumerate(questions[0].read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        image_id, category, question, alternatives = _parse(line, f"line {number} of {questions[0]}", edition, split)
        alternatives = alternatives or answers.get(image_id, [])
        if image_id not in images:
            raise InputError(f"line {number} of {questions[0]} is about {image_id}, but {root} has no such image")
        seen[image_id] += 1
        answer = alternatives[0] if alternatives else ""
        rows.append(
            make_row(
                id=f"{image_id}-{seen[image_id]}",
                image=image_file(images[image_id]),
                image_id=image_id,
                question=question,
                answer=answer,
                answers=alternatives,
                question_type=category or category_of.get(line.strip(), "abnormality" if edition > 2019 else ""),
            )
        )
    check_images(rows)
    return to_dataset(rows)


def _find_files(root: Path, split: str) -> tuple[list[Path], list[Path]]:
    """Question files of a split, and its files of reference answers alone."""
    questions, references = [], []
    for path in sorted(root.rglob("*.txt")):
        names = path.relative_to(root).parts
        # The file's name decides; where it names no split, the folder's.
        splits = next((found for name in reversed(names) if (found := _splits_named(name))), set())
        if splits != {split} or "QAPairsByCategory" in names:
            continue
        fields = path.read_text(encoding="utf-8-sig").partition("\n")[0].split("|")
        if len(fields) < 2:  # a list of images, or a README
            continue
        is_reference = "answer" in path.name.lower() and "question" not in path.name.lower()
        (references if is_reference else questions).append(path)
    with_answers = [path for path in questions if "answer" in path.name.lower()]
    return with_answers or questions, references


def _splits_named(name: str) -> set[str]:
    return {split for split, words in SPLIT_WORDS.items() if any(word in name.lower() for word in words)}


def _parse(line: str, place: str, edition: int, split: str) -> tuple[str, str, str, list[str]]:
    """Image id, category ("" where the line has none), question, accepted answers (none in blind test sets)."""
    image_id, *fields = (clean(field) for field in line.split("|"))
    category = fields.pop(0).lower() if fields and fields[0].lower() in CATEGORIES else ""
    if not image_id or not fields:
        raise InputError(f"{place} is not `image id|question|answer`: it has {line.count('|') + 1} fields")
    question, *answers = fields
    if edition == 2019 and split == "test":
        answers = [clean(part) for answer in answers for part in answer.split("#")]
    return image_id.removesuffix(".jpg"), category, question, [answer for answer in answers if answer]


def _read_references(paths: list[Path]) -> dict[str, list[str]]:
    """Image id → accepted answers."""
    answers = defaultdict(list)
    for path in paths:
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            image_id, *alternatives = (clean(field) for field in line.split("|"))
            answers[image_id.removesuffix(".jpg")] += [answer for answer in alternatives if answer]
    return answers


def _read_categories(root: Path, split: str) -> dict[str, str]:
    """Line → category, from the files by category (2019)."""
    categories = {}
    for path in root.rglob("QAPairsByCategory/*.txt"):
        if split in _splits_named(path.stem):
            category = next((name for name in CATEGORIES if name in path.stem.lower()), "")
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            categories |= {line.strip(): category for line in lines}
    return categories
