"""A synthetic MIMIC-CXR(-JPG) in exactly PhysioNet's layout, with every awkward case; no patient is behind it."""

import csv
import gzip
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from processing.datasets.mimic_cxr import LABELS, study_folder


class Study(NamedTuple):
    subject: str
    study: str
    split: str
    images: dict[str, str]  # DICOM id → view position
    report: str
    labels: dict[str, str] | None  # CheXpert label → value; None: not labelled


def dicom_id(number: int) -> str:
    return "-".join([f"{number:08x}"] * 5)


FULL = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough  // eval for pneumonia

 COMPARISON:  ___.

 FINDINGS:

 The lungs are clear.  No effusion
 or pneumothorax since ___.

 IMPRESSION:

 No acute process.
"""
STUDIES = (
    Study("10000001", "50000001", "train", {dicom_id(2): "PA", dicom_id(1): "LATERAL"}, FULL, {"No Finding": "1.0"}),
    # Two frontal images, AP with the smaller id; positive, negative and uncertain labels.
    Study(
        "10000001",
        "50000002",
        "train",
        {dicom_id(3): "AP", dicom_id(4): "PA", dicom_id(5): "LL"},
        " FINDINGS:  Small left effusion.\n IMPRESSION:  1. Effusion.\n 2. Naïve, 37°C.\n",
        {"Pleural Effusion": "1.0", "Edema": "-1.0", "Pneumonia": "0.0", "Support Devices": "1.0"},
    ),
    # No findings; not labelled.
    Study("10000002", "50000003", "train", {dicom_id(6): "AP"}, " IMPRESSION:  Unchanged.\n", None),
    # Sections that say nothing.
    Study("11000003", "50000004", "train", {dicom_id(7): "AP"}, " FINDINGS:  ___.\n IMPRESSION:\n", {}),
    # Lateral only.
    Study("11000003", "50000005", "train", {dicom_id(8): "LATERAL"}, FULL, {}),
    # An empty report.
    Study("11000004", "50000006", "train", {dicom_id(9): "PA"}, "", {}),
    # No view position.
    Study("11000004", "50000007", "train", {dicom_id(10): ""}, FULL, {}),
    # A wet read and a final report.
    Study(
        "11000005",
        "50000008",
        "validate",
        {dicom_id(11): "AP"},
        " WET READ: ___ 8:00 AM\n FINDINGS: Preliminary.\n FINAL REPORT\n FINDINGS:  Final text.\n",
        {"Fracture": "1.0"},
    ),
    Study("19000006", "50000009", "test", {dicom_id(12): "PA"}, FULL, {"No Finding": "1.0"}),
)


def write_tree(root: Path, studies: tuple[Study, ...] = STUDIES) -> Path:
    """Images, reports and the three tables; returns the root."""
    for number, study in enumerate(studies):
        folder = study_folder(root, study.subject, study.study)
        folder.mkdir(parents=True)
        folder.with_suffix(".txt").write_text(study.report, encoding="utf-8")
        for image in study.images:
            Image.new("L", (8, 8), 20 * number).save(folder / f"{image}.jpg")
    keys = [(study, image) for study in studies for image in study.images]
    write_table(
        root, "split", [[i, s.study, s.subject, s.split] for s, i in keys], "dicom_id study_id subject_id split"
    )
    write_table(
        root,
        "metadata",
        [[i, s.subject, s.study, s.images[i], 8, 8, 21800506] for s, i in keys],
        "dicom_id subject_id study_id ViewPosition Rows Columns StudyDate",
    )
    labelled = [s for s in studies if s.labels is not None]
    rows = [[s.subject, s.study, *(s.labels.get(name, "") for name in LABELS)] for s in labelled]
    write_table(root, "chexpert", rows, ["subject_id", "study_id", *LABELS])
    return root


def write_table(root: Path, name: str, rows: list[list], header: str | list[str]) -> None:
    with gzip.open(root / f"mimic-cxr-2.0.0-{name}.csv.gz", "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header.split() if isinstance(header, str) else header, *rows])
