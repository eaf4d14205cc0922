"""MIMIC-CXR: chest radiographs with reports and CheXpert labels (Johnson et al. 2019), in PhysioNet's layout.

`data_dir` is the folder of MIMIC-CXR-JPG: `mimic-cxr-2.0.0-{split,metadata,chexpert}.csv.gz` and
`files/p10/p10000032/s50414267/*.jpg`. Reports are `files/p10/p10000032/s50414267.txt` in it or in `reports_dir`, the
unpacked `mimic-cxr-reports.zip`. Access is credentialed: https://physionet.org/content/mimic-cxr-jpg/. A question is
empty: the model is asked for the report.
"""

import csv
import gzip
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from processing.datasets.rows import (
    check_images,
    clean,
    image_file,
    local_folder,
    make_row,
    report_dropped,
    to_dataset,
)
from processing.errors import InputError, nearest

WHERE = "get access at https://physionet.org/content/mimic-cxr-jpg/"
SPLITS = {"train": "train", "validation": "validate", "test": "test"}
SECTIONS = ("findings", "impression", "both")
VIEWS = ("frontal", "study")
UNCERTAIN = ("negative", "positive")
FRONTAL, LATERAL = ("PA", "AP"), ("LATERAL", "LL")  # the first is preferred
HEADING = re.compile(r"^[ \t]*([A-Z][A-Z /,()&-]*):", re.MULTILINE)


def load(
    split: str,
    data_dir: str | None = None,
    *,
    reports_dir: str | None = None,
    sections: str = "findings",
    views: str = "frontal",
    uncertain: str = "negative",
) -> Dataset:
    """One official split with the columns of `FEATURES`; `label` holds the CheXpert findings, `group` is the patient.

    Args:
        split: "train", "validation" or "test".
        data_dir: folder of MIMIC-CXR-JPG.
        reports_dir: folder with the reports' `files`; `data_dir` by default.
        sections: the part of the report that is the answer: "findings", "impression" or "both". Studies without it are
            left out and counted.
        views: "frontal": every PA or AP image is a row; "study": a row a study, its best frontal image first and, as
            `more_images`, one lateral. Lateral images alone are left out and counted.
        uncertain: what CheXpert's "uncertain" counts as: "negative" or "positive".

    Raises:
        InputError: unknown option, data not found or incomplete.
    """
    chosen = {"sections": (sections, SECTIONS), "views": (views, VIEWS), "uncertain": (uncertain, UNCERTAIN)}
    for name, (value, known) in chosen.items():
        if value not in known:
            raise InputError(f"unknown {name} {value!r} of mimic_cxr; {nearest(value, known)}")
    root = local_folder("mimic_cxr", data_dir, None, "*split.csv*", WHERE)
    reports = Path(reports_dir) if reports_dir else root
    view_of = {row["dicom_id"]: row["ViewPosition"] for row in _table(root, "metadata")}
    labels_of = {row["study_id"]: _findings(row, uncertain) for row in _table(root, "chexpert")}
    studies = defaultdict(list)
    for row in _table(root, "split"):
        if row["split"] == SPLITS[split]:
            studies[row["subject_id"], row["study_id"]].append(row["dicom_id"])

    rows, dropped = [], Counter()
    for (subject, study), images in studies.items():
        folder = Path("files", f"p{subject[:2]}", f"p{subject}")
        answer = clean(read_section(_report(reports / folder / f"s{study}.txt"), sections))
        chosen = choose_views(images, view_of, views)
        if not answer.strip("_ .") or not chosen:
            dropped[f"studies without {sections}" if chosen else "studies without a frontal image"] += 1
            continue
        for first, *others in chosen:
            files = [image_file(root / folder / f"s{study}" / f"{image}.jpg") for image in (first, *others)]
            rows.append(
                make_row(
                    id=first if views == "frontal" else study,
                    image=files[0],
                    more_images=files[1:],
                    image_id=first,
                    question="",
                    answer=answer,
                    question_type="report",
                    label=labels_of.get(study, []),
                    group=subject,
                )
            )
    report_dropped(f"mimic_cxr {split}", dropped, len(studies) - dropped.total())
    check_images(rows)
    return to_dataset(rows)


def _table(root: Path, name: str) -> Iterator[dict[str, str]]:
    """Rows of `mimic-cxr-2.0.0-NAME.csv.gz`, or of the unpacked file."""
    path = next((p for p in sorted(root.glob(f"*{name}.csv*"))), None)
    if path is None:
        raise InputError(f"mimic_cxr: {root} holds no mimic-cxr-2.0.0-{name}.csv.gz; {WHERE}")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _findings(row: dict[str, str], uncertain: str) -> list[str]:
    """Names of the CheXpert findings that hold: 1 is positive, 0 negative, -1 uncertain, nothing not mentioned."""
    positive = {1.0, -1.0} if uncertain == "positive" else {1.0}
    values = {name: value for name, value in row.items() if name not in ("subject_id", "study_id")}
    return [name for name, value in values.items() if value and float(value) in positive]


def _report(path: Path) -> str:
    if not path.is_file():
        raise InputError(
            f"mimic_cxr: there is no report {path}; set reports_dir to the unpacked mimic-cxr-reports.zip"
        )
    return path.read_text(encoding="utf-8", errors="replace")


def read_section(report: str, sections: str) -> str:
    """The text of a report's findings, impression, or both, "" where it has none.

    A section goes from its heading, in capitals at the start of a line, to the next one; "FINDINGS AND IMPRESSION" and
    the like are both, "CONCLUSION" is an impression.
    """
    headings = list(HEADING.finditer(report))
    ends = [*(heading.start() for heading in headings), len(report)][1:]
    texts = defaultdict(list)
    for heading, end in zip(headings, ends, strict=True):
        text = report[heading.end() : end].strip()
        title = heading[1]
        if "FINDING" in title:
            texts["findings"].append(text)
        if "IMPRESSION" in title or "CONCLUSION" in title:
            texts["impression"].append(text)
    wanted = ("findings", "impression") if sections == "both" else (sections,)
    parts = dict.fromkeys(text for name in wanted for text in texts[name])  # a joint section stands once
    return "\n".join(text for text in parts if text)


def choose_views(images: list[str], view_of: dict[str, str], views: str) -> list[list[str]]:
    """The images of each row that a study gives: every frontal one, or one frontal with one lateral."""
    frontal, lateral = (
        sorted((i for i in images if view_of.get(i) in kinds), key=lambda i: (kinds.index(view_of[i]), i))
        for kinds in (FRONTAL, LATERAL)
    )
    if views == "frontal":
        return [[image] for image in frontal]
    return [[frontal[0], *lateral[:1]]] if frontal else []
