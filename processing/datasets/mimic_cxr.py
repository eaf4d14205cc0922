"""MIMIC-CXR: chest radiographs with their reports and CheXpert labels, from PhysioNet's folders (Johnson et al. 2019).

`data_dir` is the folder of MIMIC-CXR-JPG: `files/p10/p10000032/s50414267/DICOM_ID.jpg` and the tables
`mimic-cxr-2.0.0-{split,metadata,chexpert}.csv.gz`. The reports, `files/p10/p10000032/s50414267.txt`, are from
MIMIC-CXR's `mimic-cxr-reports.zip`, unpacked into the same folder or into `reports_dir`. The data need a PhysioNet
credential: https://physionet.org/content/mimic-cxr-jpg/

A row is an empty question, which asks for a report, and the chosen sections as its answer; its classes are the
CheXpert labels, its group is the patient. The split is the official one. Report text is never printed.
"""

import re
from collections import Counter
from pathlib import Path

from datasets import Dataset

from processing.datasets.rows import clean, log_dropped, make_row, require_images, split_name, to_dataset
from processing.datasets.source_files import find_file, read_csv, read_text, require_folder
from processing.errors import InputError, nearest

WHERE_TO_GET_IT = "get it from https://physionet.org/content/mimic-cxr-jpg/"
SECTIONS = {"findings": ("findings",), "impression": ("impression",), "both": ("findings", "impression")}
VIEWS = ("frontal", "study")
UNCERTAIN = ("negative", "positive")
FRONTAL = ("PA", "AP")  # in this order of preference
LATERAL = ("LATERAL", "LL")
KEYS = ("subject_id", "study_id")
LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
# How a heading starts → its section. Other headings end a section.
HEADINGS = {"FINDING": "findings", "IMPRESSION": "impression", "CONCLUSION": "impression"}
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
    """One official split. Studies without a chosen section or a frontal image are left out, and their number printed.

    Args:
        split: one of `SPLITS`.
        data_dir: folder of MIMIC-CXR-JPG.
        reports_dir: folder that holds the reports' `files`; data_dir by default.
        sections: "findings", "impression", or "both", one after the other under their headings; a section without a
            letter counts as missing. De-identified places stay as published, `___`.
        views: "frontal", a row for each PA or AP image; or "study", a row for each study: a frontal image (PA before
            AP) and, where there is one, a lateral image.
        uncertain: whether a CheXpert label of -1 counts as "negative" or "positive".

    Raises:
        InputError: unknown option, or folder, table, column, report or image not found.
    """
    for option, value, known in (
        ("sections", sections, SECTIONS),
        ("views", views, VIEWS),
        ("uncertain", uncertain, UNCERTAIN),
    ):
        if value not in known:
            raise InputError(f"unknown {option} {value!r} of mimic_cxr; {nearest(value, known)}")
    root = require_folder(data_dir, "mimic_cxr", WHERE_TO_GET_IT)
    reports = root if reports_dir is None else require_folder(reports_dir, "reports_dir of mimic_cxr", WHERE_TO_GET_IT)

    studies = _studies(root, split)
    labels = _labels(root, uncertain)
    rows, dropped = [], Counter()
    for study, images in studies.items():
        report = read_sections(read_text(study_folder(reports, *study).with_suffix(".txt")))
        missing = [name for name in SECTIONS[sections] if name not in report]
        chosen = _choose(images, views)
        if missing:
            dropped[f"without {' and '.join(missing)}"] += 1
        elif not chosen:
            dropped["without a frontal image"] += 1
        else:
            text = _answer(report, SECTIONS[sections])
            rows += [_row(root, study, dicom_ids, text, labels.get(study), views) for dicom_ids in chosen]
    require_images(rows)
    log_dropped(f"mimic_cxr {split}, studies", len(studies), dropped)
    return to_dataset(rows)


def read_sections(report: str) -> dict[str, str]:
    """Findings and impression of a report, those that say something, without headings and with plain blanks.

    A heading is a line's start in capitals before a colon. Where a section stands twice, the last one counts: it is
    the final report after a wet read.

    >>> read_sections("FINDINGS:  Clear  lungs.\\n IMPRESSION: ___.")
    {'findings': 'Clear lungs.'}
    """
    sections = {}
    _, *parts = HEADING.split(report)  # what stands before the first heading, then headings and texts in turn
    for heading, text in zip(parts[::2], map(clean, parts[1::2]), strict=True):
        for start, section in HEADINGS.items():
            if heading.startswith(start) and any(map(str.isalpha, text)):
                sections[section] = text
    return sections


def study_folder(root: Path, subject_id: str, study_id: str) -> Path:
    """files/p10/p10000032/s50414267"""
    return root / "files" / f"p{subject_id[:2]}" / f"p{subject_id}" / f"s{study_id}"


def _studies(root: Path, split: str) -> dict[tuple[str, str], dict[str, str]]:
    """(subject, study) → DICOM id → view position, for the studies of one split, in the order of their ids."""
    view_of = {row["dicom_id"]: row["ViewPosition"] for row in _table(root, "metadata", ["dicom_id", "ViewPosition"])}
    studies = {}
    for row in sorted(_table(root, "split", ["dicom_id", *KEYS, "split"]), key=lambda row: row["dicom_id"]):
        if split_name(row["split"]) == split:
            images = studies.setdefault((row["subject_id"], row["study_id"]), {})
            images[row["dicom_id"]] = view_of.get(row["dicom_id"], "").upper()
    return dict(sorted(studies.items()))


def _labels(root: Path, uncertain: str) -> dict[tuple[str, str], list[str]]:
    """(subject, study) → names of the labels that hold."""
    holds = {"": False, "0.0": False, "1.0": True, "-1.0": uncertain == "positive"}
    labels = {}
    for row in _table(root, "chexpert", [*KEYS, *LABELS]):
        for name in LABELS:
            if row[name] not in holds:
                raise InputError(
                    f"a CheXpert label of {name} in {root} is {row[name]!r}; known: 1.0, 0.0, -1.0 or nothing"
                )
        labels[row["subject_id"], row["study_id"]] = [name for name in LABELS if holds[row[name]]]
    return labels


def _table(root: Path, name: str, columns: list[str]) -> list[dict[str, str]]:
    patterns = [f"mimic-cxr-*-{name}.csv.gz", f"mimic-cxr-*-{name}.csv"]
    path = find_file(root, patterns)
    if path is None:
        raise InputError(f"no table {' or '.join(patterns)} in {root}; {WHERE_TO_GET_IT}")
    return read_csv(path, columns)


def _choose(images: dict[str, str], views: str) -> list[list[str]]:
    """DICOM ids of each row of a study, from its images' view positions."""
    frontal = sorted((i for i, view in images.items() if view in FRONTAL), key=lambda i: (FRONTAL.index(images[i]), i))
    lateral = sorted(i for i, view in images.items() if view in LATERAL)
    if views == "study":
        return [frontal[:1] + lateral[:1]] if frontal else []
    return [[dicom_id] for dicom_id in frontal]


def _answer(report: dict[str, str], sections: tuple[str, ...]) -> str:
    if len(sections) == 1:
        return report[sections[0]]
    return " ".join(f"{section.upper()}: {report[section]}" for section in sections)


def _row(root: Path, study: tuple[str, str], dicom_ids: list[str], text: str, label: list | None, views: str) -> dict:
    first, *others = [study_folder(root, *study) / f"{dicom_id}.jpg" for dicom_id in dicom_ids]
    name = f"s{study[1]}" if views == "study" else dicom_ids[0]
    return make_row(
        id=name,
        image=first,
        more_images=others,
        image_id=name,
        question="",
        answer=text,
        answer_type="open",
        question_type="report",
        label=label,
        group=f"p{study[0]}",
    )
