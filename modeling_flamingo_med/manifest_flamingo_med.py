"""The manifest of a folder: what each of its files was when they were written, and whether they still are that.

This file ships with checkpoints, so it needs the standard library alone. manifest.json is written last: {"version",
"files" and "training_files": {name: {"size", "sha256"}}, facts, and "sha256" of all that}. A model is loaded from its
files; its training resumes from the others too, which may be left behind.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

MANIFEST = "manifest.json"
VERSION = 1
HASHED_BELOW = 2**30  # bytes of all files of a model together, up to which they are hashed whenever they are loaded
OF_THE_MODEL = ("config.json", "generation_config.json", "model*.safetensors*", "*_flamingo_med.py")
OF_THE_TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json")
OF_THE_PROCESSOR = ("processor_config.json", "preprocessor_config.json", "*.jinja", "processing_flamingo_med.py")


def write_manifest(
    folder: str | os.PathLike,
    files: Iterable[str],
    training_files: Iterable[str] = (),
    known: Mapping[str, dict] | None = None,
    **facts,
) -> None:
    """Write the manifest of a folder whose files are all there; when it returns, they and it are on the disk.

    Args:
        folder: the folder.
        files: names of those that loading needs.
        training_files: names of those that only resuming its training needs.
        known: entries of files that have not been written since they were made; these are not read.
        facts: what else is known of the folder, in JSON.
    """
    folder, known = Path(folder), known or {}
    content = {"version": VERSION, **facts}
    for part, names in {"files": files, "training_files": training_files}.items():
        content[part] = {name: known.get(name) or _entry(folder / name) for name in sorted(names)}
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({**content, "sha256": _seal(content)}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / MANIFEST)
    _sync(folder)


def files_like(folder: str | os.PathLike, patterns: Iterable[str]) -> set[str]:
    """Names of the files in a folder that match any of the patterns."""
    return {path.name for pattern in patterns for path in Path(folder).glob(pattern) if path.is_file()}


def model_files(folder: str | os.PathLike) -> set[str]:
    """Names of the files in a folder that `save_pretrained` of a model writes."""
    return files_like(folder, OF_THE_MODEL) - files_like(folder, OF_THE_PROCESSOR)


def processor_files(folder: str | os.PathLike) -> set[str]:
    """Names of the files in a folder that `save_pretrained` of a processor writes."""
    return files_like(folder, (*OF_THE_TOKENIZER, *OF_THE_PROCESSOR))


def read_manifest(folder: str | os.PathLike) -> dict | None:
    """The manifest of a folder; None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    path = Path(folder, MANIFEST)
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest.pop("sha256") != _seal(manifest):
            raise ValueError
        for part in ("files", "training_files"):
            for name, entry in manifest[part].items():
                if Path(name).name != name or not isinstance(entry["size"], int) or len(entry["sha256"]) != 64:
                    raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged, so nothing shows that its folder is what it was") from None
    return manifest


def check_folder(
    folder: str | os.PathLike, *, whole: bool = False, training: bool = False, absent: bool = False
) -> dict | None:
    """Refuse a folder one of whose files is not what its manifest says; gives back the manifest.

    Sizes and the headers of safetensors files are always checked, these headers in a folder without a manifest too.

    Args:
        folder: the folder.
        whole: hash every file, however large; otherwise only where all together are small.
        training: what only its training needs too.
        absent: files may be missing, as of a repository of which not all was downloaded.

    Raises:
        ValueError: the manifest is damaged, or the first file that is missing, cut or changed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        for path in sorted(folder.glob("model*.safetensors")):
            if fault := _header_fault(path):
                raise ValueError(f"{path} {fault}; take the folder again from where it came")
        return None
    entries = manifest["files"] | (manifest["training_files"] if training else {})
    hashes = whole or sum(entry["size"] for entry in entries.values()) < HASHED_BELOW
    for name, entry in entries.items():
        path = folder / name
        if absent and not path.exists():
            continue
        if fault := file_fault(path, entry, hashes):
            raise ValueError(
                f"{path} {fault}; take the folder again from where it came, or, where that is meant, remove its "
                f"{MANIFEST}"
            )
    return manifest


def file_fault(path: Path, entry: dict, hashes: bool) -> str | None:
    """What is wrong with a file: it is missing, cut off or changed. None where nothing is.

    Args:
        path: the file.
        entry: its size and sha256, as they were.
        hashes: whether to read all of it.
    """
    if not path.is_file():
        return f"is missing, which {MANIFEST} lists"
    size = path.stat().st_size
    if size != entry["size"]:
        return f"has {size:,} bytes, where {MANIFEST} says {entry['size']:,}"
    if path.suffix == ".safetensors" and (fault := _header_fault(path)):
        return fault
    if hashes and hash_file(path) != entry["sha256"]:
        return f"is not what it was when {MANIFEST} was written"
    return None


def hash_file(path: str | os.PathLike) -> str:
    """sha256 of a file; one that this process has read is read again only if its size or a time has changed."""
    stat = os.stat(path)
    return _hash(os.path.abspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def _seal(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1024)
def _hash(path: str, *stamp: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _entry(path: Path) -> dict:
    _sync(path)
    return {"size": path.stat().st_size, "sha256": hash_file(path)}


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk; not every file system has that of folders."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def _header_fault(path: Path) -> str | None:
    """What a safetensors file's header shows: 8 bytes of its length, names and places in JSON, then the weights."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            return "is cut off or damaged: it has no header"
        try:
            weights = [entry for name, entry in json.loads(file.read(length)).items() if name != "__metadata__"]
            end = max((entry["data_offsets"][1] for entry in weights), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "is damaged: its header cannot be read"
    if 8 + length + end != size:
        return f"has {size:,} bytes, where its header says {8 + length + end:,}"
    return None
