"""Every way in gives the same pixels: whatever kind of image it is, and by whatever door it comes."""

import base64
import io
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_flamingo_med import FlamingoMedProcessor
from processing.collator import FlamingoMedCollator
from processing.datasets import custom
from processing.images import read_image
from processing.images_flamingo_med import ImageError
from tests import ROOT

QUESTION = "Is the heart enlarged?"
NOISE = np.random.default_rng(0)
GREY = NOISE.integers(0, 256, (24, 40), np.uint8)
COLOUR = NOISE.integers(0, 256, (24, 40, 3), np.uint8)
TURNED = Image.Exif()
TURNED[0x0112] = 6  # a quarter clockwise


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def transparent(mode: str) -> Image.Image:
    image = Image.fromarray(COLOUR).convert(mode)
    image.putalpha(Image.fromarray(GREY))
    return image


def white_is_zero() -> bytes:
    entry = struct.pack("<HHLHH", 262, 3, 1, 1, 0)
    return encode(Image.fromarray(GREY.astype(np.uint16) * 16), "TIFF").replace(entry, entry[:8] + bytes(4))


def dicom() -> bytes:
    pytest.importorskip("pydicom")
    from tests.processing.test_dicom import encode as encode_dicom
    from tests.processing.test_dicom import make

    return encode_dicom(make(GREY.astype(np.uint16) * 16, 12, WindowCenter=1000, WindowWidth=900))


KINDS = {
    "8 bit": lambda: encode(Image.fromarray(GREY)),
    "colour": lambda: encode(Image.fromarray(COLOUR)),
    "16 bit": lambda: encode(Image.fromarray(GREY.astype(np.uint16) * 200 + 7)),
    "12-bit TIFF": lambda: encode(Image.fromarray(GREY.astype(np.uint16) * 16), "TIFF"),
    "TIFF in which 0 is white": white_is_zero,
    "float TIFF": lambda: encode(Image.fromarray(GREY.astype("f4") * 3 - 40), "TIFF"),
    "float TIFF from 0 to 1": lambda: encode(Image.fromarray(GREY.astype("f4") / 300), "TIFF"),
    "RGBA": lambda: encode(transparent("RGB")),
    "LA": lambda: encode(transparent("L")),
    "palette": lambda: encode(Image.fromarray(COLOUR).quantize(16)),
    "transparent palette": lambda: encode(Image.fromarray(COLOUR).quantize(16), transparency=3),
    "black and white": lambda: encode(Image.fromarray(GREY).convert("1")),
    "CMYK": lambda: encode(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    "turned by EXIF": lambda: encode(Image.fromarray(COLOUR), "JPEG", exif=TURNED),
    "turned and 16 bit": lambda: encode(Image.fromarray(GREY.astype(np.uint16) * 200), exif=TURNED),
    "DICOM": dicom,
}


@pytest.fixture
def checkpoint(make_model, processor, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_in_gives_the_same_pixels(processor, tmp_path, kind):
    data = KINDS[kind]()
    path = tmp_path / "scan.img"
    path.write_bytes(data)
    (tmp_path / "table.jsonl").write_text(json.dumps({"image": "scan.img", "question": QUESTION, "answer": "yes"}))
    [row] = custom.load("train", str(tmp_path / "table.jsonl"), test_fraction=0.0, validation_fraction=0.0)
    messages = [
        {"role": "user", "content": [{"type": "image", key: source}, {"type": "text", "text": QUESTION}]}
        for key, source in [
            ("image", str(path)),
            ("path", str(path)),
            ("base64", base64.b64encode(data).decode()),
            ("url", f"data:image/png;base64,{base64.b64encode(data).decode()}"),
        ]
    ]
    pixels = {
        "own reader": processor(images=read_image(path), text=QUESTION),
        "path": processor(images=path, text=QUESTION),
        "name": processor(images=str(path), text=QUESTION),
        "bytes": processor(images=data, text=QUESTION),
        "entry of a data set": processor(images={"path": None, "bytes": data}, text=QUESTION),
        "rows of train": FlamingoMedCollator(processor, answers=True)([row]),
        "rows of evaluate": FlamingoMedCollator(processor, answers=False)([row]),
        **{
            f"chat by {next(key for key in message['content'][0] if key != 'type')}": processor.apply_chat_template(
                [message], tokenize=True, return_dict=True, return_tensors="pt"
            )
            for message in messages
        },
    }
    if kind != "DICOM":
        opened = [{"role": "user", "content": [{"type": "image", "image": Image.open(path)}]}]
        pixels["Image.open"] = processor(images=Image.open(path), text=QUESTION)
        pixels["chat by Image.open"] = processor.apply_chat_template(
            opened, tokenize=True, return_dict=True, return_tensors="pt"
        )
    if kind in ("8 bit", "colour", "16 bit", "12-bit TIFF", "float TIFF", "float TIFF from 0 to 1"):
        array = np.asarray(Image.open(path))
        pixels["array"] = processor(images=array, text=QUESTION)
        if array.dtype != np.uint16:
            tensor = torch.tensor(array)
            pixels["tensor"] = processor(images=tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor, text=QUESTION)
    for way, batch in pixels.items():
        assert torch.equal(batch["pixel_values"], pixels["own reader"]["pixel_values"]), way


def test_floats_from_0_to_1_are_shares_of_white():
    for image in (COLOUR, GREY):
        np.testing.assert_array_equal(read_image(image / 255), read_image(image))
        tensor = torch.tensor(image / 255).unsqueeze(0) if image.ndim == 2 else torch.tensor(image / 255)
        as_torchvision = tensor if image.ndim == 2 else tensor.permute(2, 0, 1)
        np.testing.assert_array_equal(read_image(as_torchvision), read_image(image))
    np.testing.assert_array_equal(read_image(COLOUR.astype(np.int64)), read_image(COLOUR))
    np.testing.assert_array_equal(read_image(COLOUR.astype(np.uint16) * 256 + 9), read_image(COLOUR))
    np.testing.assert_array_equal(read_image(GREY > 99), read_image((GREY > 99) * np.uint8(255)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Image.new("RGB", (0, 0)), r"has no pixels \(0 × 0\)"),
        (np.zeros((0, 0, 3), np.uint8), "has no pixels"),
        (np.zeros((2, 5, 7), np.uint8), r"an array \(2, 5, 7\) is no image"),
        (np.zeros((5, 7, 2), np.uint8), "is no image"),
        (COLOUR - 300.0, "has colours from -300 to"),
        (7, "int is no image"),
        ("scan 7.png", "scan 7.png does not exist"),
        ("data:image/png;base64,bm8gaW1hZ2U=", "the given base64 text is not an image"),
    ],
)
def test_what_is_no_image_is_said_in_one_sentence(processor, source, message):
    with pytest.raises(ImageError, match=message) as error:
        processor(images=source, text=QUESTION)
    assert "\n" not in str(error.value)


WITHOUT_THE_PACKAGE = """
import sys
sys.modules["processing"] = sys.modules["modeling_flamingo_med"] = None
import torch
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
for path in sys.argv[3:]:
    try:
        torch.save(processor(images=path, text="?")["pixel_values"], path + ".pt")
    except ValueError as error:
        print(error)
"""


def test_a_checkpoint_reads_as_the_package_does(checkpoint, processor, tmp_path):
    files = {kind: tmp_path / f"{i}.img" for i, kind in enumerate(KINDS) if kind != "DICOM"}
    for kind, path in files.items():
        path.write_bytes(KINDS[kind]())
    files["DICOM"] = tmp_path / "scan.dcm"
    files["DICOM"].write_bytes(bytes(128) + b"DICM")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, checkpoint, "--", *files.values()],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f'{files.pop("DICOM")} is a DICOM file, which needs: pip install "flamingo-med[dicom]"\n'
    for kind, path in files.items():
        expected = processor(images=read_image(path), text="?")["pixel_values"]
        assert torch.equal(torch.load(f"{path}.pt"), expected), kind


def test_the_image_that_is_given_stays_as_it_is(processor):
    image = Image.open(io.BytesIO(KINDS["turned by EXIF"]()))
    before = np.asarray(image).copy()
    processor(images=image, text=QUESTION)
    np.testing.assert_array_equal(np.asarray(image), before)
    assert isinstance(processor, FlamingoMedProcessor)
