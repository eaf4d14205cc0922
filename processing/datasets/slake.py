"""SLAKE: bilingual questions about CT, MRI and X-ray images with boxes of organs and lesions (Liu et al. 2021).

`data_dir` is a folder with `train.json`, `validate.json` (or `validation.json`), `test.json` and
`imgs/xmlab*/{source.jpg, detection.json}`, from https://www.med-vqa.com/slake/, or the Hub id
`BoKelvin/SLAKE` (default).
"""

from pathlib import Path

from datasets import Dataset

from processing.datasets.rows import clean, make_row, require_images, to_dataset
from processing.datasets.source_files import fetch, find_file, read_json
from processing.errors import InputError, nearest

HUB_ID = "BoKelvin/SLAKE"
WHERE_TO_GET_IT = f"get it from https://www.med-vqa.com/slake/ or set data_dir to the Hub id {HUB_ID}"
FILES = {"train": ("train.json",), "validation": ("validate.json", "validation.json"), "test": ("test.json",)}
LANGUAGES = ("en", "zh")
KEYS = ("qid", "img_name", "question", "answer", "q_lang", "answer_type", "content_type", "location")


def load(split: str, data_dir: str | None = None, *, language: str = "en") -> Dataset:
    """One published split, in one language; the boxes are those of the whole image.

    Args:
        split: one of `SPLITS`.
        data_dir: folder or Hub id, see the top of this file.
        language: "en" or "zh".

    Raises:
        InputError: unknown language; files not found or of another form; images missing.
    """
    if language not in LANGUAGES:
        raise InputError(f"unknown language {language!r} of slake; {nearest(language, LANGUAGES)}")
    tables = [name for names in FILES.values() for name in names]
    table_folder, image_folder = fetch(data_dir or HUB_ID, tables, "imgs.zip", WHERE_TO_GET_IT)
    path = find_file(table_folder, FILES[split])
    if path is None:
        raise InputError(f"no {' or '.join(FILES[split])} of SLAKE in {table_folder}; {WHERE_TO_GET_IT}")
    boxes: dict[str, list[dict]] = {}
    rows = []
    for number, entry in enumerate(read_json(path), start=1):
        missing = [key for key in KEYS if key not in entry]
        if missing:
            raise InputError(f"question {number} in {path} lacks the key {missing[0]!r}")
        if entry["q_lang"] != language:
            continue
        name = str(entry["img_name"])
        if name not in boxes:
            boxes[name] = _boxes(image_folder / "imgs" / Path(name).parent / "detection.json")
        rows.append(
            make_row(
                id=str(entry["qid"]),
                image=image_folder / "imgs" / name,
                image_id=Path(name).parent.name,
                question=entry["question"],
                answer=entry["answer"],
                answer_type=clean(entry["answer_type"]).lower(),
                question_type=clean(entry["content_type"]).lower(),
                organ=clean(entry["location"]).lower().replace("_", " "),
                boxes=boxes[name],
            )
        )
    require_images(rows, image_folder / "imgs")
    return to_dataset(rows)


def _boxes(path: Path) -> list[dict]:
    """Boxes of one image, [x, y, width, height] in the file, x0 y0 x1 y1 here; none where there is no file."""
    if not path.is_file():
        return []
    try:
        found = [(label, map(float, box)) for entry in read_json(path) for label, box in entry.items()]
        return [{"label": label, "box": [x, y, x + w, y + h]} for label, (x, y, w, h) in found]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is not a list of boxes, {{label: [x, y, width, height]}}: {error}") from None
