"""A synthetic MIMIC-CXR-JPG in exactly PhysioNet's layout, with the awkward cases; the real one is credentialed."""

# ruff: noqa: E501 (the table reads best with a line for each part of a study)

import csv
import gzip
from pathlib import Path

from PIL import Image

FINDINGS = ["Atelectasis", "Cardiomegaly", "No Finding", "Pleural Effusion"]
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with ?pleural effusion

 FINDINGS:

 {findings}

 IMPRESSION:

 {impression}
"""
JOINT = """ WET READ: ___ ___ 8:14 PM
 no change

 FINDINGS AND IMPRESSION: The lungs are
   clear.
"""
# patient, study, split, (image, view) …, report, CheXpert labels by name (1 yes, 0 no, -1 uncertain)
STUDIES = [
    ("10000032", "50414267", "train", [("a1", "PA"), ("a2", "LATERAL")],
     REPORT.format(findings="There is no effusion.\n  Heart:  normal.", impression="No acute process."), {"No Finding": 1}),
    ("10000032", "53189527", "train", [("b1", "AP"), ("b2", "PA"), ("b3", "LL")],
     REPORT.format(findings="Größe des Herzens: normal, 心.", impression="___"), {"Cardiomegaly": -1, "Atelectasis": 1}),
    ("10000764", "57375967", "train", [("c1", "LATERAL")],
     REPORT.format(findings="Lateral only.", impression="Lateral only."), {"Cardiomegaly": 1}),
    ("10000898", "50771383", "train", [("d1", "PA")], " IMPRESSION: Small left effusion.\n", {"Pleural Effusion": 1}),
    ("10000898", "54205396", "train", [("e1", "AP")], "", {}),
    ("10000935", "50578979", "train", [("f1", "PA")], JOINT, {}),
    ("10000980", "50985099", "validate", [("g1", "PA")], REPORT.format(findings="Clear.", impression="Clear."),
     {"No Finding": 1}),
    ("10001038", "55028456", "test", [("h1", ""), ("h2", "AP")], REPORT.format(findings="Hazy.", impression="Edema."),
     {"Atelectasis": 0}),
]  # fmt: skip


def write_tree(root: Path) -> Path:
    """Write it below `root`, which it returns."""
    tables = {"split": [], "metadata": [], "chexpert": []}
    for patient, study, split, images, report, labels in STUDIES:
        folder = root / "files" / f"p{patient[:2]}" / f"p{patient}"
        (folder / f"s{study}").mkdir(parents=True)
        (folder / f"s{study}.txt").write_text(report, encoding="utf-8")
        for image, view in images:
            Image.new("L", (40, 50), sum(map(ord, image)) % 256).save(folder / f"s{study}" / f"{image}.jpg")
            ids = {"dicom_id": image, "subject_id": patient, "study_id": study}
            tables["split"].append({**ids, "split": split})
            tables["metadata"].append({**ids, "ViewPosition": view, "Rows": 50, "Columns": 40})
        if labels:
            values = {name: f"{labels[name]:.1f}" if name in labels else "" for name in FINDINGS}
            tables["chexpert"].append({"subject_id": patient, "study_id": study, **values})
    for name, rows in tables.items():
        path = root / f"mimic-cxr-2.0.0-{name}.csv.gz"
        with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return root
