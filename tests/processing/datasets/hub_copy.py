"""A folder in the schema of our Hub repositories: image, question, answer in a parquet file for each split."""

import io
from pathlib import Path

import datasets
from PIL import Image

SCHEMA = datasets.Features(
    {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
)


def image_bytes(shade: int) -> bytes:
    """A small picture as PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_hub_copy(folder: Path, splits: dict[str, list[tuple[int, str, str]]]) -> str:
    """Rows of (shade of the image, question, answer) for each split; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        columns = {
            "image": [{"path": None, "bytes": image_bytes(shade)} for shade, _, _ in rows],
            "question": [question for _, question, _ in rows],
            "answer": [answer for _, _, answer in rows],
        }
        path = folder / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict(columns, features=SCHEMA).to_parquet(path)
    return str(folder)
