"""Tell what two splits share: images by id, bytes and look, questions, triplets, patients.

Prints a table and saves it as JSON; --exclude of train and evaluate takes that file.

  flamingo-med overlap --a vqa_med_2019 --a_dir DIR --a_split train --b vqa_rad --b_dir DIR
"""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from flamingo_med.cli.parser import CommandParser
from processing.datasets import SPLITS, load_split
from processing.datasets.split_overlap import COUNTS, overlap, verdict
from processing.errors import InputError, check_keys, disk_errors
from processing.files import write_json

KINDS = {
    "image_id": "images, by id",
    "image_bytes": "images, by bytes",
    "image_look": "images, by look",
    "question": "questions",
    "triplet": "image, question and answer",
    "group": "patients or groups",
}


@dataclass
class OverlapArguments:
    """Which two splits."""

    a: str = field(metadata={"help": "a data set, such as the one trained on"})
    b: str = field(metadata={"help": "another, or the same"})
    a_dir: str | None = field(default=None, metadata={"help": "folder or Hub id of a"})
    b_dir: str | None = field(default=None, metadata={"help": "folder or Hub id of b"})
    a_split: str = field(default="train", metadata={"help": "train, validation, test, or all"})
    b_split: str = field(default="all", metadata={"help": "train, validation, test, or all"})
    a_data: dict = field(default_factory=dict, metadata={"help": "options of a: --a_data.seed 1"})
    b_data: dict = field(default_factory=dict, metadata={"help": "options of b"})
    output: str | None = field(default=None, metadata={"help": "JSON file; overlap-A-SPLIT-B-SPLIT.json if unset"})


def main(arguments: list[str]) -> None:
    """Both splits → report → table and JSON file."""
    often = ("a", "a_dir", "a_split", "b", "b_dir", "b_split", "a_data", "b_data", "output")
    (args,) = CommandParser("flamingo-med overlap", __doc__, OverlapArguments, often=often).build(arguments)
    for name, split in (("a_split", args.a_split), ("b_split", args.b_split)):
        check_keys([split], [*SPLITS, "all"], name)
    a, b = f"{args.a} {args.a_split}", f"{args.b} {args.b_split}"
    path = Path(args.output or f"overlap-{a}-{b}.json".replace(" ", "-"))
    if not path.parent.is_dir():
        raise InputError(f"no folder {path.parent} to write {path.name} to")
    rows_a = load_rows(args.a, args.a_split, args.a_dir, args.a_data)
    rows_b = load_rows(args.b, args.b_split, args.b_dir, args.b_data)
    report = overlap(rows_a, rows_b)
    print(f"\n{format_table(report, a, b)}\n\n{verdict(report, a, b)}")
    with disk_errors(path.parent):
        write_json(path, {"names": {"a": a, "b": b}, "verdict": verdict(report, a, b), **report})
    print(f"written: {path}")


def load_rows(name: str, split: str, data_dir: str | None, options: dict) -> Dataset:
    """A split, or "all" that the data set has, together."""
    if split != "all":
        return load_split(name, split, data_dir, **options)
    parts, missing = [], []
    for part in SPLITS:
        try:
            parts.append(load_split(name, part, data_dir, **options))
        except InputError as error:
            missing.append(f"no {part} split of {name}: {error}")
    if not parts:
        raise InputError(missing[0])
    for line in missing:
        print(line)
    return concatenate_datasets(parts)


def format_table(report: dict, a: str, b: str) -> str:
    """Table of a report for a terminal, a line for each kind."""
    lines = [f"a  {a}: {report['a']['rows']} rows, {report['a']['images']} images"]
    lines += [f"b  {b}: {report['b']['rows']} rows, {report['b']['images']} images", ""]
    titles = ("shared", "images of a", "rows of a", "images of b", "rows of b")
    width = max(map(len, KINDS.values()))
    lines.append("  ".join([" " * width, *titles]))
    for kind, count in report["shared"].items():
        cells = [f"{count[name]:>{len(title)}}" for name, title in zip(COUNTS, titles, strict=True)]
        lines.append("  ".join([f"{KINDS[kind]:<{width}}", *cells]))
    return "\n".join(lines)
