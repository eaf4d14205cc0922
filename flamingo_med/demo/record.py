"""The audit record of an answer: what was asked of which model about which image; neither image nor header."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from transformers import PreTrainedModel

from flamingo_med.common.provenance import provenance
from flamingo_med.demo.asking import Option, Reply
from flamingo_med.demo.upload import Upload

NOTICE = "Research software. Not for clinical use."


def describe_model(model: PreTrainedModel, name: str) -> dict[str, str]:
    """{"name", "revision"}: the commit on the Hub; of a local folder the SHA-256 of its weights' files in turn, and of
    its path only the last name, since the record leaves the server."""
    folder = Path(name)
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return {"name": name, "revision": commit}
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    parts = folder.resolve().parts
    name = "/".join(parts[-2:] if parts[-1].startswith("checkpoint-") else parts[-1:])  # which run's checkpoint
    return {"name": name, "revision": f"sha256:{digest.hexdigest()}"}


def audit_record(
    model: dict[str, str],
    upload: Upload,
    question: str,
    reply: Reply,
    examples: Sequence[tuple[Upload, str, str]] = (),
) -> dict:
    """The record, for JSON.

    Args:
        model: of `describe_model`.
        upload: the image; a window that was set by hand is recorded, the file's own is not.
        question: the question.
        reply: what the model said.
        examples: image, question and answer of each (few-shot).
    """
    source = provenance()
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": model,
        "commit": source["commit"],
        "versions": source["versions"],
        "image": _image(upload),
        "examples": [{"image": _image(shown), "question": asked, "answer": said} for shown, asked, said in examples],
        "question": question,
        "answer": reply.answer.text,
        "confidence": reply.answer.confidence,
        "calibrated": reply.calibrated,
        "alternatives": _options(reply.options),
        "classes": _options(reply.classes),
        "notice": NOTICE,
    }


def _image(upload: Upload) -> dict:
    width, height = upload.size
    window = upload.window and {"center": upload.window[0], "width": upload.window[1]}
    frame = upload.frame + 1 if upload.frames > 1 else None
    return {"sha256": upload.sha256, "width": width, "height": height, "frame": frame, "window": window}


def _options(options: Sequence[Option]) -> list[dict]:
    return [{"text": option.text, "probability": option.probability} for option in options]
