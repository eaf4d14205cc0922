"""What two splits share: images, questions, triplets, patients. A score on images seen in training is no score.

    python -m processing.datasets.overlap --a vqa_med_2019 --a_dir DIR --a_split train --b vqa_rad --b_dir DIR

Prints a table, and writes it with the shared names to --output.
"""

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from PIL import Image
from tqdm import tqdm

from processing.datasets import SPLITS, load_split
from processing.errors import InputError, check_keys, run
from processing.files import write_json
from processing.images import read_image
from processing.recipe import build_arguments, describe, override

# The hash says for 16 × 16 places whether it gets brighter rightwards. Of the 38 images that VQA-Med 2019 and VQA-RAD
# share by name, in other sizes and compressions, the farthest pair differs in 28 of the 256; of all other pairs 19 are
# as near, neighbouring slices of one case among them.
HASH_SIZE = 16
NEAR = 28
LISTED = 20  # shared names that the JSON lists of each kind
MAX_IMAGES = 20_000  # with more, images are not decoded to be compared by sight


@dataclass
class OverlapArguments:
    """Two splits to compare."""

    a: str = field(metadata={"help": "name of the first data set"})
    b: str = field(metadata={"help": "name of the second"})
    a_dir: str | None = field(default=None, metadata={"help": "its folder or Hub id"})
    b_dir: str | None = field(default=None, metadata={"help": "its folder or Hub id"})
    a_split: str = field(default="all", metadata={"help": "train, validation, test or all"})
    b_split: str = field(default="all", metadata={"help": "train, validation, test or all"})
    a_data: dict = field(default_factory=dict, metadata={"help": "its options: --a_data.scheme image_disjoint"})
    b_data: dict = field(default_factory=dict, metadata={"help": "its options"})
    output: str = field(default="overlap.json", metadata={"help": "file for the result"})


def overlap(a: Dataset, b: Dataset, *, progress: bool = False) -> dict:
    """What the rows a and b share.

    Images are the same by name (`image_id`), by bytes, or by sight: a difference hash that differs in at most `NEAR`
    of 256 places. Sight is left out with more than `MAX_IMAGES` images.

    Args:
        a, b: rows of `FEATURES`.
        progress: show progress bars.

    Returns:
        {"images": {"a", "b"}, "rows": {"a", "b"}, "shared": {kind: {"count", "rows_a", "rows_b", "examples"}}}: count
        is of distinct images of b, questions, triplets or groups, and rows those with any of them.
    """
    files_a, files_b = _files(a), _files(b)
    same = {
        "images by name": {(i, i) for i in files_a.keys() & files_b.keys()},
        "images by bytes": _equal(files_a, files_b),
    }
    if len(files_a) + len(files_b) <= MAX_IMAGES:
        same["images by sight"] = _alike(files_a, files_b, progress)
    images = set().union(*same.values())
    partners = defaultdict(set)  # image of a → images of b that are the same
    for i, j in images:
        partners[i].add(j)

    shared = {}
    for kind, pairs in [*same.items(), ("images", images)]:
        shared[kind] = _count(_keys(a, "image_id"), _keys(b, "image_id"), {i for i, _ in pairs}, {j for _, j in pairs})
    for kind, columns in (("questions", ["question"]), ("groups", ["group"])):
        keys_a, keys_b = _keys(a, *columns), _keys(b, *columns)
        both = (set(keys_a) & set(keys_b)) - {""}  # a report's question is empty
        shared[kind] = _count(keys_a, keys_b, both, both)
    keys_a, keys_b = (_keys(rows, "image_id", "question", "answer") for rows in (a, b))
    known = {(j, *rest) for i, *rest in set(keys_a) for j in partners[i]} & set(keys_b)
    in_a = {key for key in set(keys_a) if any((j, *key[1:]) in known for j in partners[key[0]])}
    shared["triplets"] = _count(keys_a, keys_b, in_a, known)
    return {
        "images": {"a": len(files_a), "b": len(files_b)},
        "rows": {"a": len(a), "b": len(b)},
        "shared": shared,
    }


def compare(a: Dataset, b: Dataset, name_a: str, name_b: str, *, progress: bool = False) -> dict:
    """`overlap`, with the names and the verdict, as it is written beside scores and runs."""
    result = overlap(a, b, progress=progress)
    return {"a": name_a, "b": name_b, "verdict": verdict(result, name_a, name_b), **result}


def verdict(result: dict, a: str, b: str) -> str:
    """One sentence on whether b says something about images that a lacks."""
    shared, total = result["shared"], result["images"]["b"]
    images, groups = shared["images"]["count"], shared["groups"]["count"]
    sight = "" if "images by sight" in shared else " (by name and bytes; too many to compare by sight)"
    if images:
        rows = f"{shared['images']['rows_b']} of {result['rows']['b']} questions"
        return f"{images} of {total} images of {b} are in {a}{sight}: {rows}"
    return f"{b} shares no image with {a}{sight}" + (f", but {groups} patients or cases" if groups else "")


def _files(rows: Dataset) -> dict[str, dict]:
    return dict(zip(rows["image_id"], rows["image"], strict=True))


def _keys(rows: Dataset, *columns: str) -> list:
    """What identifies each row in these columns, texts in lower case."""
    texts = [rows[name][:] if name in ("image_id", "group") else [t.lower() for t in rows[name]] for name in columns]
    return texts[0] if len(columns) == 1 else list(zip(*texts, strict=True))


def _count(keys_a: list, keys_b: list, of_a: set, of_b: set) -> dict:
    return {
        "count": len(of_b),
        "rows_a": sum(key in of_a for key in keys_a),
        "rows_b": sum(key in of_b for key in keys_b),
        "examples": sorted(key if isinstance(key, str) else " | ".join(key) for key in of_b)[:LISTED],
    }


def _size(image: dict) -> int:
    return Path(image["path"]).stat().st_size if image["bytes"] is None else len(image["bytes"])


def _equal(files_a: dict[str, dict], files_b: dict[str, dict]) -> set[tuple[str, str]]:
    """Pairs with the same bytes; only files of the same length are read."""
    sizes_a, sizes_b = ({name: _size(image) for name, image in files.items()} for files in (files_a, files_b))
    common = set(sizes_a.values()) & set(sizes_b.values())
    names_of = defaultdict(set)
    for name in (name for name, size in sizes_a.items() if size in common):
        names_of[_digest(files_a[name])].add(name)
    found = ((name, names_of.get(_digest(files_b[name]), ())) for name, size in sizes_b.items() if size in common)
    return {(i, j) for j, names in found for i in names}


def _digest(image: dict) -> bytes:
    data = Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]
    return hashlib.sha256(data).digest()


def _alike(files_a: dict[str, dict], files_b: dict[str, dict], progress: bool) -> set[tuple[str, str]]:
    """Pairs whose difference hashes are near."""
    if files_a.keys() == files_b.keys():
        hashes_a = hashes_b = _hashes(files_a, progress)
    else:
        hashes_a, hashes_b = _hashes(files_a, progress), _hashes(files_b, progress)
    names_a, pairs = list(files_a), set()
    for name, bits in zip(files_b, hashes_b, strict=True):
        near = np.bitwise_count(hashes_a ^ bits).sum(1) <= NEAR
        pairs |= {(names_a[i], name) for i in near.nonzero()[0]}
    return pairs


def _hashes(files: dict[str, dict], progress: bool) -> np.ndarray:
    """(images, 32) bytes."""
    images = tqdm(files.values(), desc="comparing images", unit="image", disable=not progress)
    return np.stack([difference_hash(read_image(image)) for image in images])


def difference_hash(image: Image.Image) -> np.ndarray:
    """32 bytes: whether each of 16 × 16 places is darker than its right neighbour."""
    grey = np.asarray(image.convert("L").resize((HASH_SIZE + 1, HASH_SIZE), Image.Resampling.BOX))
    return np.packbits(grey[:, 1:] > grey[:, :-1])


def format_overlap(result: dict) -> str:
    """The result as a table."""
    lines = [f"{'shared':<18}{'distinct':>10}{'rows of a':>12}{'rows of b':>12}"]
    lines += [f"{kind:<18}{s['count']:>10}{s['rows_a']:>12}{s['rows_b']:>12}" for kind, s in result["shared"].items()]
    totals, rows = result["images"], result["rows"]
    lines.append(f"{'of':<18}{totals['b']:>10}{rows['a']:>12}{rows['b']:>12}")
    return "\n".join(lines)


def load(name: str, data_dir: str | None, split: str, options: dict) -> Dataset:
    """Rows of one split, or of all that the data set has."""
    check_keys([split], [*SPLITS, "all"], "split")
    if split != "all":
        return load_split(name, split, data_dir, **options)
    return concatenate_datasets(list(_splits(name, data_dir, options)))


def _splits(name: str, data_dir: str | None, options: dict) -> Iterable[Dataset]:
    """The splits that can be had; train must."""
    yield load_split(name, "train", data_dir, **options)
    for split in ("validation", "test"):
        try:
            yield load_split(name, split, data_dir, **options)
        except InputError as error:
            print(f"without {split}: {error}", file=sys.stderr)


def main() -> None:
    """Compare two splits: table, verdict, JSON."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"{__doc__}\n{describe(OverlapArguments)}")
        return
    (args,) = build_arguments(override({}, sys.argv[1:], OverlapArguments), OverlapArguments)
    a = load(args.a, args.a_dir, args.a_split, args.a_data)
    b = load(args.b, args.b_dir, args.b_split, args.b_data)
    result = compare(a, b, f"{args.a} {args.a_split}", f"{args.b} {args.b_split}", progress=True)
    print(f"a = {result['a']}, b = {result['b']}\n\n{format_overlap(result)}\n\n{result['verdict']}")
    write_json(Path(args.output), result)
    print(f"written: {args.output}")


if __name__ == "__main__":
    run(main)
