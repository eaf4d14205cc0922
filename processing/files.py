"""Files that are always whole: the old one or the new one, whenever the process ends."""

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_json(path: str | Path, obj: Any) -> None:
    """Write JSON; NaN and infinities become null."""
    write_whole(path, json.dumps(_without_nan(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_whole(path: str | Path, text: str) -> None:
    """Write a text."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:  # such as of a full disk
        with suppress(OSError):
            temporary.unlink()
        raise


def _without_nan(obj: Any) -> Any:
    if isinstance(obj, dict):
        return {key: _without_nan(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_without_nan(value) for value in obj]
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return obj
