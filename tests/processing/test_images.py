"""Images: every source, every mode, limits, and one clear sentence for each broken file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from processing import images_flamingo_med
from processing.errors import InputError
from processing.images import read_image


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8))


def test_every_source_gives_the_same_pixels(picture, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(picture))
    sources = [picture, str(path), path, path.read_bytes(), {"path": str(path), "bytes": None}]
    sources.append({"path": "elsewhere.png", "bytes": path.read_bytes()})
    sources.append({"path": None, "bytes": path.read_bytes()})
    for source in sources:
        image = read_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), np.asarray(picture))


def test_the_given_image_is_left_alone(picture):
    before = np.asarray(picture).copy()
    read_image(picture).paste((0, 0, 0), (0, 0, 9, 6))
    np.testing.assert_array_equal(np.asarray(picture), before)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_modes_follow_pillow(picture, mode):
    image = picture.convert(mode)
    np.testing.assert_array_equal(np.asarray(read_image(image)), np.asarray(image.convert("RGB")))


def test_cmyk_file(picture):
    flat = Image.new("CMYK", (4, 4), (0, 255, 255, 0))  # no cyan: red
    red, green, blue = read_image(encode(flat, "JPEG")).getpixel((1, 1))
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_composited_on_black(mode):
    white = Image.new(mode, (3, 1), "white")
    white.putalpha(Image.frombytes("L", (3, 1), bytes([0, 128, 255])))
    assert [read_image(encode(white)).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_transparent_palette_entry_becomes_black():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 255, 255, 10, 20, 30])
    image.putpixel((1, 0), 1)
    result = read_image(encode(image, transparency=0))
    assert [result.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (10, 20, 30)]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_from_its_own_range(file_format):
    grey = np.array([[1000, 1500], [2000, 3000]], dtype=np.uint16)
    result = np.asarray(read_image(encode(Image.fromarray(grey), file_format)))
    np.testing.assert_array_equal(result[..., 0], [[0, 64], [128, 255]])
    np.testing.assert_array_equal(result[..., 0], result[..., 2])


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_tiff_in_which_0_is_white(depth):
    stored = np.array([[0, 100, 255]], depth)
    data = bytearray(encode(Image.fromarray(stored), "TIFF"))
    entry = struct.pack("<HHLHH", 262, 3, 1, 1, 0)  # photometric interpretation, one short: 1, black is 0
    assert data.count(entry) == 1
    shown = np.asarray(read_image(bytes(data.replace(entry, struct.pack("<HHLHH", 262, 3, 1, 0, 0)))))
    np.testing.assert_array_equal(shown[..., 0], [[255, 155, 0]])


def test_16_bit_colour():
    # PNG by hand, as Pillow does not write it: one pixel, the high bytes count.
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0" + struct.pack(">HHH", 0x1234, 0x80FF, 0xFFFF))
    chunks = [(b"IHDR", header), (b"IDAT", pixel), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    assert read_image(data).getpixel((0, 0)) == (0x12, 0x80, 0xFF)


def test_big_endian_int_and_float_greys():
    values = [[1000, 1500], [2000, 3000]]
    big_endian = Image.frombytes("I;16B", (2, 2), np.array(values, dtype=">u2").tobytes())
    for image in (big_endian, Image.fromarray(np.array(values, np.int32)), Image.fromarray(np.array(values, "f4"))):
        np.testing.assert_array_equal(np.asarray(read_image(image))[..., 0], [[0, 64], [128, 255]])


def test_constant_and_not_finite_greys_are_black():
    assert np.asarray(read_image(Image.fromarray(np.full((2, 2), 4000, np.uint16)))).max() == 0
    floats = Image.fromarray(np.array([[np.nan, np.inf, 1, 2]], "f4"))
    np.testing.assert_array_equal(np.asarray(read_image(floats))[0, :, 0], [0, 0, 0, 255])


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_exif_orientation_is_applied(depth):
    image = Image.fromarray(np.arange(6, dtype=depth).reshape(2, 3) * 51)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    result = np.asarray(read_image(encode(image, exif=exif)))[..., 0]
    np.testing.assert_array_equal(result, np.rot90(np.arange(6).reshape(2, 3) * 51, -1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("no image at all"), "is not an image"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "is not an image"),
    ],
)
def test_broken_files_are_named_in_one_sentence(tmp_path, make, message):
    path = tmp_path / "scan 7.png"
    make(path)
    with pytest.raises(InputError, match=message) as error:
        read_image(path)
    assert "scan 7.png" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000"])
def test_truncated_files(picture, tmp_path, file_format):
    path = tmp_path / "cut.img"
    whole = encode(picture.resize((90, 60)), file_format)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.img") as error:
        read_image(path)
    assert "truncated" in str(error.value) or "is not an image" in str(error.value)


def test_limits_are_checked_before_decoding(picture, tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    path.write_bytes(encode(picture))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(images_flamingo_med, "MAX_PIXELS", 53)
    with pytest.raises(InputError, match=r"large\.png has more than 53 pixels \(9 × 6\)"):
        read_image(path)
    monkeypatch.setattr(images_flamingo_med, "MAX_BYTES", 20)
    with pytest.raises(InputError, match=r"large\.png is larger than"):
        read_image(path)


def test_decompression_bomb_of_pillow_is_refused(tmp_path):
    header = bytearray(encode(Image.new("L", (1, 1)), "BMP"))
    header[18:26] = (60_000).to_bytes(4, "little") * 2  # claims 3.6 gigapixels
    with pytest.raises(InputError, match="has more than 100,000,000 pixels"):
        read_image(bytes(header))


def test_entry_without_path_and_bytes():
    with pytest.raises(InputError, match="neither path nor bytes"):
        read_image({"path": None, "bytes": None})
