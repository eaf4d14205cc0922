"""ImageFeatures: what a frozen image encoder makes of each image, computed once and read from memory-mapped files."""

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from datasets import Dataset
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from flamingo_med.common.provenance import hash_weights
from modeling_flamingo_med.manifest_flamingo_med import (
    HASHED_BELOW,
    MANIFEST,
    file_fault,
    read_manifest,
    write_manifest,
)
from processing.errors import InputError
from processing.images import read_image
from processing.processing_flamingo_med import FlamingoMedProcessor

ENCODED_AT_ONCE = 32
IMAGES_A_FILE = 1024
VERSION = 2  # of what is computed: another one makes another folder
OF_SAVING = ("auto_map", "processor_class")  # settings of an image processor that change no pixel
OLD_INDEX = "index.json"  # of folders from before there were manifests, which hold it now

logger = logging.getLogger(__name__)


class ImageFeatures:
    """Patch features of images by their content, in a folder of the cache that belongs to one encoder alone.

    The folder's name is a fingerprint of the encoder's weights, of the features that are taken of it and of the image
    preprocessing: a change of any makes another folder. Images with the same bytes stand in it once. Any number of
    processes may read and add, and no file is ever changed; what two add at once is computed twice. What is not what
    the folder's manifest says is told, and not used but computed again.

    Args:
        model: has `vision_encoder` and `image_features`.
        processor: its processor.
        root: folder of all such folders; in the cache of `datasets` by default.
    """

    def __init__(self, model: PreTrainedModel, processor: FlamingoMedProcessor, root: str | Path | None = None):
        root = Path(root or Path(datasets.config.HF_DATASETS_CACHE) / "flamingo_med_features")
        self.folder = root / fingerprint(model, processor)
        self.index: dict[str, list[int]] = {}  # content → number of the file and row in it
        self.contents: dict[str, list] = {}  # path → size, time of change, content
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "files": {}}  # a worker of a data loader opens the files itself

    def refresh(self) -> None:
        """Read again what there is, such as after another process has added to it."""
        self.files: dict[int, Any] = {}
        self.entries: dict[str, dict] = {}  # feature file → size and hash, as they were
        try:
            saved = read_manifest(self.folder)
            if saved is None and (self.folder / OLD_INDEX).is_file():
                logger.info(f"{self.folder} has no {MANIFEST}, so nothing shows that its features are what they were")
                saved = json.loads((self.folder / OLD_INDEX).read_text())
            elif saved is None:
                if any(self.folder.glob("*.safetensors")):
                    logger.warning(f"{self.folder / MANIFEST} is missing: the image features are computed again")
                self.index = {}
                return
            index, self.contents = dict(saved["index"]), dict(saved["contents"])
            self.entries = saved.get("files", {})
            numbers = {number for number, _ in index.values()}
        except (ValueError, KeyError, TypeError) as error:
            logger.warning(f"{self.folder} cannot be used, its image features are computed again: {error}")
            self.index = {}
            return
        damaged = {number for number in numbers if self._is_damaged(self.path(number))}
        self.index = {content: place for content, place in index.items() if place[0] not in damaged}

    def _is_damaged(self, path: Path) -> bool:
        """Whether a feature file is not what it was, which is told; of large ones, sizes and headers are compared."""
        if path.name in self.entries:
            hashes = sum(entry["size"] for entry in self.entries.values()) < HASHED_BELOW
            fault = file_fault(path, self.entries[path.name], hashes)
        else:
            fault = None if path.is_file() else "is missing"
        if fault:
            logger.warning(f"{path} {fault}: its image features are computed again")
        return fault is not None

    def path(self, number: int) -> Path:
        """The feature file of a number."""
        return self.folder / f"{number:05d}.safetensors"

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, image: dict) -> Tensor:
        """Features (p d) of an entry of a column of images, {"path", "bytes"}."""
        number, row = self.index[self.content(image)]
        if number not in self.files:
            self.files[number] = safe_open(self.path(number), "pt").get_slice("features")
        return self.files[number][row]

    def content(self, image: dict) -> str:
        """Hash of an image's bytes; a file that has not changed is not read again."""
        if image["bytes"] is not None:
            return hashlib.sha256(image["bytes"]).hexdigest()
        path = str(Path(image["path"]).resolve())
        stat = Path(path).stat()
        known = self.contents.get(path)
        if known is None or known[:2] != [stat.st_size, stat.st_mtime_ns]:
            known = [stat.st_size, stat.st_mtime_ns, hashlib.sha256(Path(path).read_bytes()).hexdigest()]
            self.contents[path] = known
        return known[2]

    def add_rows(self, model: PreTrainedModel, processor: FlamingoMedProcessor, rows: Dataset, progress: bool) -> None:
        """`add` all images of a data set, the further views of its studies too."""
        studies = zip(rows["image"], rows["more_images"], strict=True)
        self.add(model, processor, (image for first, more in studies for image in (first, *more)), progress)

    @torch.no_grad()
    def add(
        self, model: PreTrainedModel, processor: FlamingoMedProcessor, images: Iterable[dict], progress: bool
    ) -> None:
        """Compute what lacks, file by file; what is done when the process ends is kept.

        Args:
            model, processor: as at the beginning.
            images: entries of columns of images.
            progress: show a bar.

        Raises:
            InputError: an image that cannot be read, or the folder cannot be written to.
        """
        missing = {content: image for image in images if (content := self.content(image)) not in self.index}
        entries = list(missing.items())
        with tqdm(total=len(entries), desc="image features", unit="image", disable=not progress or not entries) as bar:
            for start in range(0, len(entries), IMAGES_A_FILE):
                part = entries[start : start + IMAGES_A_FILE]
                features = []
                for first in range(0, len(part), ENCODED_AT_ONCE):
                    some = [read_image(image) for _, image in part[first : first + ENCODED_AT_ONCE]]
                    pixels = processor.image_processor(some, return_tensors="pt")["pixel_values"]
                    features.append(model.image_features(pixels.to(model.device, model.dtype)).cpu())
                    bar.update(len(some))
                self._write([content for content, _ in part], torch.cat(features))

    def _write(self, contents: list[str], features: Tensor) -> None:
        """One more file, and then the manifest, so that what its index names is there; by one process at a time.

        Raises:
            InputError: the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                known = self.contents
                self.refresh()  # to what others have added meanwhile
                self.contents |= known
                number = max((int(path.stem) for path in self.folder.glob("*.safetensors")), default=-1) + 1
                save_file({"features": features.contiguous()}, self.path(number))
                self.index |= {content: [number, row] for row, content in enumerate(contents)}
                used = {self.path(number).name for number, _ in self.index.values()}
                content = {"index": self.index, "contents": self.contents}
                write_manifest(self.folder, used, known=self.entries, **content)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"the image features cannot be written to {self.folder}: {getattr(error, 'strerror', None) or error}; "
                "make room or give the right to write, or choose another cache by HF_DATASETS_CACHE"
            ) from None


def store_features(
    model: PreTrainedModel, processor: FlamingoMedProcessor, data_sets: Iterable[Dataset], progress: bool
) -> ImageFeatures:
    """Features of all images of some data sets; on each machine one process computes what lacks.

    Args:
        model, processor: of `ImageFeatures`.
        data_sets: rows of `processing.datasets.FEATURES`.
        progress: show a bar.
    """
    state = PartialState()
    features = ImageFeatures(model, processor)
    with state.local_main_process_first():
        features.refresh()
        for rows in data_sets:
            features.add_rows(model, processor, rows, progress)
    return features


def fingerprint(model: PreTrainedModel, processor: FlamingoMedProcessor) -> str:
    """Hash of all that features depend on."""
    taken = [model.config.vision_feature_layer, model.config.vision_feature_select]
    settings = {name: value for name, value in processor.image_processor.to_dict().items() if name not in OF_SAVING}
    parts = [VERSION, hash_weights(model.vision_encoder), taken, settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
