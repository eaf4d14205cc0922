"""The checkpoint of another Flamingo as it lies on disk: its weights and, where it has one, its configuration."""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from processing.errors import InputError

# The first kind that is there is read; of the first two all files, as large checkpoints come in several.
PATTERNS = ("*.safetensors", "pytorch_model*.bin", "*.pt", "*.pth")
NESTED = ("model_state_dict", "state_dict")  # where training scripts put the weights beside the optimizer's state
WRAPPER = "module."  # what DistributedDataParallel puts before every name


@dataclass(frozen=True)
class Source:
    """A checkpoint.

    Attributes:
        path: its file or folder, as the user named it.
        weights: its weights by their names there.
        config: what its config.json says; empty where it has none.
    """

    path: Path
    weights: dict[str, Tensor]
    config: dict

    @property
    def folder(self) -> Path:
        """Where its configuration and tokenizer are."""
        return self.path if self.path.is_dir() else self.path.parent


def read_source(path: str | Path) -> Source:
    """Read the weights of a file or folder; nothing but weights is ever unpickled.

    Raises:
        InputError: no weights there, several files of which one must be chosen, or more than weights in them.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no checkpoint at {path}; give its folder, or its .safetensors or .pt file")
    weights: dict[str, Tensor] = {}
    for file in _files(path):
        weights |= _read(file)
    if all(name.startswith(WRAPPER) for name in weights):
        weights = {name.removeprefix(WRAPPER): weight for name, weight in weights.items()}
    return Source(
        path, weights, _read_config(path / "config.json" if path.is_dir() else path.with_name("config.json"))
    )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    for pattern in PATTERNS:
        files = sorted(path.glob(pattern))
        if len(files) > 1 and pattern in PATTERNS[2:]:
            raise InputError(f"{path} holds several checkpoints, {', '.join(f.name for f in files)}; name one of them")
        if files:
            return files
    raise InputError(f"{path} holds no weights ({', '.join(PATTERNS)})")


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{file} is damaged or holds more than weights, which is not loaded for safety") from None
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read as weights ({type(error).__name__}); is it whole?") from None
    for name in NESTED:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content or not all(isinstance(w, Tensor) for w in content.values()):
        raise InputError(f"{file} is not a state dict, that is, weights by their names")
    return dict(content)


def _read_config(file: Path) -> dict:
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{file} is not JSON") from None
    if not isinstance(config, dict):
        raise InputError(f"{file} holds no settings")
    return config
