"""What two splits share: images, questions, whole triplets, patients. A score on what was trained on says nothing.

Images are compared by id, by the bytes of their files, and by look: a difference
hash of 16 × 16 brightness gradients, alike where at most `LOOK_THRESHOLD` of its 256 bits differ. Copies of VQA-RAD's
images at half the size and JPEG quality 50 differ in up to 14 bits, different ones of VQA-Med 2019 in 23 or more, but
for neighbouring slices of one scan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from datasets import config as datasets_config
from PIL import Image

from processing.errors import InputError
from processing.images import read_image

LOOK_SIZE = 16
LOOK_STEP = 2  # grey levels; less is the noise of compression
LOOK_THRESHOLD = 16
QUICK = 20_000  # images that training and evaluation read for this: a minute or two, once
COUNTS = ("values", "images_a", "rows_a", "images_b", "rows_b")


@dataclass(frozen=True)
class Files:
    """Hashes of the n image files of a split.

    Attributes:
        image_ids: n, of the rows' image (or images) that the file is of.
        digests: n, sha256 of the bytes.
        looks: (n 256) difference hashes, of -1 and 1.
    """

    image_ids: list[str]
    digests: list[str]
    looks: np.ndarray


def overlap(rows_a: Dataset, rows_b: Dataset, max_images: int | None = None) -> dict:
    """What two splits share, and how many rows and images of each that touches.

    Args:
        rows_a, rows_b: with the columns of `FEATURES`.
        max_images: with more images than this in both together, no file is read and images are compared by id only;
            no limit where None.

    Returns:
        {"a": {"rows", "images"}, "b": {"rows", "images"}, "files_compared": bool, "look_threshold": bits,
        "shared": {kind: {"values", "images_a", "rows_a", "images_b", "rows_b"}}, "image_ids": b's images in a}. The
        kinds are image_id, image_bytes, image_look, question, triplet and group; values are distinct ones that both
        have (images that look alike: those of b). An image of b is in a by id or by bytes: a downsized copy keeps its
        id, a renamed one its bytes.

    Raises:
        InputError: an image that cannot be read.
    """
    ids_a, ids_b = rows_a["image_id"][:], rows_b["image_id"][:]
    images_a, images_b = set(ids_a), set(ids_b)
    files_compared = max_images is None or len(images_a) + len(images_b) <= max_images
    touched = {"image_id": (images_a & images_b, images_a & images_b)}
    name_a, name_b = {}, {}  # the id in a that an image has by its bytes
    if files_compared:
        files_a, files_b = read_files(rows_a), read_files(rows_b)
        touched["image_bytes"] = _same_bytes(files_a, files_b)
        touched["image_look"] = _alike(files_a, files_b)
        first = dict(zip(reversed(files_a.digests), reversed(files_a.image_ids), strict=True))
        for files, names in ((files_a, name_a), (files_b, name_b)):
            for i, digest in zip(files.image_ids, files.digests, strict=True):
                if digest in first:
                    names.setdefault(i, first[digest])  # a study has several files, one of which is enough
    name_b |= {i: name_a.get(i, i) for i in images_a & images_b}

    shared = {kind: _count_images(*ids, ids_a, ids_b) for kind, ids in touched.items()}
    for kind, (a, b) in {
        "question": (_texts(rows_a, "question"), _texts(rows_b, "question")),
        "triplet": (_triplets(rows_a, name_a), _triplets(rows_b, name_b)),
        "group": (rows_a["group"][:], rows_b["group"][:]),
    }.items():
        shared[kind] = _count_values(a, b, ids_a, ids_b)
    return {
        "a": {"rows": len(ids_a), "images": len(images_a)},
        "b": {"rows": len(ids_b), "images": len(images_b)},
        "files_compared": files_compared,
        "look_threshold": LOOK_THRESHOLD,
        "shared": shared,
        "image_ids": sorted(i for i in images_b if name_b.get(i, i) in images_a),
    }


def verdict(report: dict, a: str = "train", b: str = "test") -> str:
    """One line: how many images of b are in a; else what else they share of images and patients.

    >>> verdict({"image_ids": ["synpic1", "synpic2"], "b": {"images": 203}}, "train", "test")
    '2 of 203 test images are in train'
    """
    found = len(report["image_ids"])
    if found:
        return f"{found} of {report['b']['images']} {b} images are in {a}"
    shared = report["shared"]
    also = []
    if not report["files_compared"]:
        also.append("by id only, too many to compare files")
    elif shared["image_look"]["values"]:
        also.append(f"{shared['image_look']['values']} {b} images look like one of {a}")
    if shared["group"]["values"]:
        also.append(f"{shared['group']['values']} patients or groups are in both")
    return "; ".join(["disjoint by image", *also])


def read_files(rows: Dataset) -> Files:
    """Hashes of all image files of the rows, each file read once and its hashes kept in the cache of `datasets`."""
    hashed = _hashed(rows, _hash_files, ("image_id", "digest", "look"), (LOOK_SIZE, LOOK_STEP))
    bits = np.unpackbits(np.array([list(bytes.fromhex(look)) for look in hashed["look"]], np.uint8), axis=1)
    return Files(hashed["image_id"][:], hashed["digest"][:], 2 * bits.astype(np.float32) - 1)


def image_digests(rows: Dataset) -> set[str]:
    """sha256 of the bytes of all image files of the rows, each read once, and its hash kept as of `read_files`."""
    return set(_hashed(rows, _hash_bytes, ("digest",), "bytes alone")["digest"])


def _hashed(rows: Dataset, function: Callable, columns: Sequence[str], version: Any) -> Dataset:
    """What a function of a batch makes of all images of the rows, from the cache where these are the same."""
    first = {image_id: i for i, image_id in reversed(list(enumerate(rows["image_id"])))}
    images = rows.select(sorted(first.values())).select_columns(["image_id", "image", "more_images"])
    stamps = [_stamp(image) for row in images for image in (row["image"], *row["more_images"])]
    key = sha256(repr((version, images["image_id"][:], stamps)).encode()).hexdigest()[:16]
    folder = Path(datasets_config.HF_DATASETS_CACHE, "overlap")
    folder.mkdir(parents=True, exist_ok=True)
    return images.map(
        function,
        batched=True,
        batch_size=64,
        remove_columns=images.column_names,
        features=Features(dict.fromkeys(columns, Value("string"))),
        cache_file_name=str(folder / f"{key}.arrow"),
        new_fingerprint=key,
        desc="hashing images",
    )


def _hash_bytes(batch: dict[str, list]) -> dict[str, list[str]]:
    """Rows with their images → a row for each image file."""
    studies = zip(batch["image"], batch["more_images"], strict=True)
    return {"digest": [sha256(_content(i)).hexdigest() for image, more in studies for i in (image, *more)]}


def _hash_files(batch: dict[str, list]) -> dict[str, list[str]]:
    """Rows with their images → a row for each image file, also with its look."""
    hashes = {"image_id": [], "digest": [], "look": []}
    for image_id, image, more in zip(batch["image_id"], batch["image"], batch["more_images"], strict=True):
        for entry in (image, *more):
            data = _content(entry)
            hashes["image_id"].append(image_id)
            hashes["digest"].append(sha256(data).hexdigest())
            hashes["look"].append(difference_hash(read_image({"path": entry["path"], "bytes": data})))
    return hashes


def _content(image: dict) -> bytes:
    if image["bytes"] is not None:
        return image["bytes"]
    try:
        return Path(image["path"]).read_bytes()
    except OSError as error:
        raise InputError(f"the image file {image['path']} cannot be read: {error.strerror}") from None


def difference_hash(image: Image.Image) -> str:
    """64 hexadecimal digits: for each of 16 × 16 places whether the image gets brighter to the right."""
    grey = np.asarray(image.convert("L").resize((LOOK_SIZE + 1, LOOK_SIZE), Image.Resampling.BOX), np.int16)
    return np.packbits(np.diff(grey) > LOOK_STEP).tobytes().hex()


def _stamp(image: dict) -> str:
    """What changes when the image does, without reading its file."""
    if image["bytes"] is not None:
        return sha256(image["bytes"]).hexdigest()
    try:
        status = Path(image["path"]).stat()
    except OSError as error:
        raise InputError(f"the image file {image['path']} cannot be read: {error.strerror}") from None
    return f"{image['path']} {status.st_size} {status.st_mtime_ns}"


def _same_bytes(a: Files, b: Files) -> tuple[set[str], set[str]]:
    """Image ids of a and of b with a file that both have."""
    common = set(a.digests) & set(b.digests)
    return tuple({i for i, digest in zip(f.image_ids, f.digests, strict=True) if digest in common} for f in (a, b))


def _alike(a: Files, b: Files) -> tuple[set[str], set[str]]:
    """Image ids of a and of b with a file that looks like one of the other."""
    least = LOOK_SIZE**2 - 2 * LOOK_THRESHOLD  # a product of two hashes is the bits that agree less those that differ
    near_a, near_b = np.zeros(len(a.looks), bool), np.zeros(len(b.looks), bool)
    for start in range(0, len(b.looks), 128):
        near = b.looks[start : start + 128] @ a.looks.T >= least
        near_a |= near.any(0)
        near_b[start : start + 128] = near.any(1)
    return {a.image_ids[i] for i in np.flatnonzero(near_a)}, {b.image_ids[i] for i in np.flatnonzero(near_b)}


def _texts(rows: Dataset, column: str) -> list[str]:
    return [text.strip().lower() for text in rows[column]]


def _triplets(rows: Dataset, name_of: dict[str, str]) -> list[tuple[str, str, str]]:
    names = [name_of.get(image_id, image_id) for image_id in rows["image_id"]]
    return list(zip(names, _texts(rows, "question"), _texts(rows, "answer"), strict=True))


def _count_values(a: list, b: list, ids_a: list[str], ids_b: list[str]) -> dict[str, int]:
    """Rows and images of both with a value that both have; the empty question, which asks for a report, is none."""
    common = (set(a) & set(b)) - {""}
    rows_a = [i for value, i in zip(a, ids_a, strict=True) if value in common]
    rows_b = [i for value, i in zip(b, ids_b, strict=True) if value in common]
    return _counts(len(common), rows_a, rows_b)


def _count_images(found_a: set[str], found_b: set[str], ids_a: list[str], ids_b: list[str]) -> dict[str, int]:
    """Rows and images of both about the images found in each."""
    return _counts(len(found_b), [i for i in ids_a if i in found_a], [i for i in ids_b if i in found_b])


def _counts(values: int, rows_a: list[str], rows_b: list[str]) -> dict[str, int]:
    return dict(zip(COUNTS, (values, len(set(rows_a)), len(rows_a), len(set(rows_b)), len(rows_b)), strict=True))
