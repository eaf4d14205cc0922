"""DICOM: grey values as a viewer shows them, worked out by hand; every compression; and broken files."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom")

from pydicom import Dataset, FileDataset, uid  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate, get_frame  # noqa: E402

from processing import images_flamingo_med  # noqa: E402
from processing.dicom import codestream_size, read_dicom  # noqa: E402
from processing.errors import InputError  # noqa: E402
from processing.images import read_image  # noqa: E402

PATIENT = "Doe^Jane"
RAMP = np.array([[0, 1000, 2000, 4095], [7, 1500, 3000, 4000]], np.uint16)
# RAMP in 12 bits by imagecodecs 2026.3.6: jpegls_encode(RAMP), and ljpeg_encode(RAMP, bitspersample=12).
JPEG_LS = (
    "ffd8ffe800205350494646000200000100000002000000040a1006010000012c0000012cffe8000800000001ffd8fff7000b100002000401"
    "011100fff8000d01ffff0012004301140040ffda00080101000000009f3df3c22dc0efd0fa12f4ffd9"
)
JPEG_LOSSLESS = (
    "ffd8ffc4001700010101010000000000000000000000000a0c0309ffc3000b0c0002000401001100ffda00080100000600009ffdf43e8a0b"
    "f7ef8aee3580ffd9"
)


def make(pixels: np.ndarray, bits: int | None = None, syntax: str = uid.ExplicitVRLittleEndian, **elements):
    """A CR image of one frame of grey (h, w) or colour (h, w, 3), or of several if NumberOfFrames says so."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = uid.ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.Modality = PATIENT, "4711", "CR"
    colour = pixels.ndim >= 3 and pixels.shape[-1] == 3
    shape = pixels.shape[:-1] if colour else pixels.shape
    dataset.Rows, dataset.Columns = shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def encode(dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def grey(dataset, **options) -> list:
    """The rows of grey values that are shown; all channels are equal."""
    image = np.asarray(read_dicom(encode(dataset), "scan.dcm", max_pixels=10_000, **options))
    assert image.dtype == np.uint8 and image.shape[2] == 3
    np.testing.assert_array_equal(image, image[..., :1].repeat(3, 2))
    return image[..., 0].tolist()


def table(values, first=0, bits=8) -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.add_new("LUTData", "US", list(values))
    return [item]


def test_without_a_window_the_range_of_the_values_is_shown():
    assert grey(make(RAMP, bits=12)) == [[0, 62, 125, 255], [0, 93, 187, 249]]  # 255/4095 · 1000 = 62.3, …
    assert grey(make(np.array([[100, 110, 120]], np.uint16))) == [[0, 128, 255]]
    assert grey(make(np.full((2, 2), 900, np.uint16))) == [[0, 0], [0, 0]]


def test_eight_bits_stay_as_they_are():
    pixels = np.array([[10, 20], [30, 40]], np.uint8)
    assert grey(make(pixels)) == pixels.tolist()
    assert grey(make(pixels, RescaleSlope=1, RescaleIntercept=0)) == pixels.tolist()
    assert grey(make(pixels, PhotometricInterpretation="MONOCHROME1")) == (255 - pixels).tolist()


@pytest.mark.parametrize(("kind", "sign"), [("MONOCHROME2", 1), ("MONOCHROME1", -1)])
def test_window(kind, sign):
    # Linear: (value - (128 - 0.5)) / (257 - 1) + 0.5, so 0 → 0.5/256, 64 → 64.5/256, … of 255
    pixels = np.array([[0, 64, 128, 192, 255, 4000]], np.uint16)
    expected = np.array([[0, 64, 128, 192, 255, 255]])
    shown = grey(make(pixels, 12, PhotometricInterpretation=kind, WindowCenter=128, WindowWidth=257))
    assert shown == (expected if sign == 1 else 255 - expected).tolist()


def test_of_several_windows_the_first_and_a_given_one_before_all():
    pixels = np.array([[0, 100, 200, 300]], np.uint16)
    several = make(pixels, WindowCenter=[150, 1000], WindowWidth=[101, 2000])
    assert grey(several) == [[0, 1, 255, 255]]  # (100 - 149.5) / 100 + 0.5 = 0.005 of 255
    assert grey(several, window=(200.5, 201)) == [[0, 0, 128, 255]]
    assert grey(make(pixels, VOILUTSequence=table([9] * 301)), window=(200.5, 201)) == [[0, 0, 128, 255]]
    with pytest.raises(InputError, match="width of a window is at least 1, got 0"):
        grey(several, window=(100, 0))


def test_the_other_window_functions():
    pixels = np.array([[0, 50, 100, 150, 200]], np.uint16)
    exact = make(pixels, WindowCenter=100, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
    assert grey(exact) == [[0, 0, 128, 255, 255]]
    sigmoid = make(pixels, WindowCenter=100, WindowWidth=100, VOILUTFunction="SIGMOID")
    assert grey(sigmoid) == [[5, 30, 128, 225, 250]]  # 255 / (1 + e^4) = 4.6, 255 / (1 + e^2) = 30.4


def test_ct_is_windowed_in_hounsfield_units():
    hounsfield = np.array([[-1000, -160, 40, 239, 1000]])
    for pixels in ((hounsfield + 1024).astype(np.uint16), (hounsfield + 1024).astype(np.int16)):
        scan = make(pixels, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
        assert grey(scan) == [[0, 0, 128, 255, 255]]
        assert grey(scan, window=(-600, 1601)) == [[64, 198, 230, 255, 255]]  # (-1000 + 600.5) / 1600 + 0.5 = 0.25
    half = make(np.array([[0, 100, 200]], np.int16), RescaleSlope=0.5, RescaleIntercept=0)
    assert grey(half, window=(50, 101)) == [[1, 129, 255]]  # 0, 50 and 100: (0 - 49.5) / 100 + 0.5 = 0.005


def test_signed_values_in_12_of_16_bits():
    pixels = np.array([[-2048, -1, 0, 2047]], np.int16)
    with_overlay = pixels & 0x0FFF  # the sign is bit 11; what stands above it does not belong to the value
    with_overlay[0, 3] |= 0x1000
    assert grey(make(with_overlay.astype(np.int16), bits=12)) == grey(make(pixels)) == [[0, 127, 128, 255]]


def test_modality_table():
    pixels = np.array([[0, 1, 2, 3]], np.uint8)
    assert grey(make(pixels, bits=8, ModalityLUTSequence=table([0, 1000, 1000, 4000], bits=16))) == [[0, 64, 64, 255]]
    windowed = make(pixels, ModalityLUTSequence=table([0, 1000, 2000, 4000], bits=16), WindowCenter=2000)
    windowed.WindowWidth = 4001
    assert grey(windowed) == [[0, 64, 128, 255]]


def test_voi_table():
    pixels = np.array([[0, 10, 11, 12, 50]], np.uint16)
    assert grey(make(pixels, VOILUTSequence=table([5, 100, 250], first=10))) == [[5, 5, 100, 250, 250]]
    deep = table([0, 1023, 4095], first=10, bits=12)
    assert grey(make(pixels, VOILUTSequence=deep, WindowCenter=1, WindowWidth=1)) == [[0, 0, 64, 255, 255]]
    inverted = make(pixels, VOILUTSequence=table([5, 100, 250], first=10), PhotometricInterpretation="MONOCHROME1")
    assert grey(inverted) == [[250, 250, 155, 5, 5]]


def test_a_voi_table_of_bytes_may_have_more_than_256_entries():
    pixels = np.array([[0, 300, 1023]], np.uint16)
    assert grey(make(pixels, VOILUTSequence=table([i // 4 for i in range(1024)]))) == [[0, 75, 255]]


def test_voi_table_after_rescaling():
    rescaled = make(np.array([[0, 1, 2]], np.uint16), RescaleSlope=2, RescaleIntercept=10)
    rescaled.VOILUTSequence = table([1, 9, 2, 9, 3], first=10)
    assert grey(rescaled) == [[1, 2, 3]]


@pytest.mark.parametrize(("kind", "shown"), [("MONOCHROME2", [0, 0, 128, 255]), ("MONOCHROME1", [0, 255, 128, 0])])
def test_padding_is_black_and_does_not_stretch_the_window(kind, shown):
    pixels = np.array([[-2000, 100, 150, 199]], np.int16)
    scan = make(pixels, PixelPaddingValue=-2000, PhotometricInterpretation=kind)
    assert grey(scan) == [[shown[0], shown[1], 129 if kind == "MONOCHROME2" else 126, shown[3]]]
    ranged = make(pixels, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1000, PhotometricInterpretation=kind)
    assert grey(ranged) == grey(scan)
    assert grey(make(np.full((1, 2), -2000, np.int16), PixelPaddingValue=-2000)) == [[0, 0]]


def test_empty_elements_count_as_absent():
    scan = make(np.array([[0, 40, 100]], np.uint16), RescaleSlope=None, RescaleIntercept=None)
    scan.WindowCenter = scan.WindowWidth = None
    assert grey(scan) == [[0, 102, 255]]


def test_frames():
    stack = np.stack([np.full((2, 2), 10, np.uint8), np.array([[1, 2], [3, 4]], np.uint8)])
    assert grey(make(stack, NumberOfFrames=2)) == [[10, 10], [10, 10]]
    assert grey(make(stack, NumberOfFrames=2), frame=1) == [[1, 2], [3, 4]]
    compressed = make(stack, NumberOfFrames=2)
    compressed.compress(uid.RLELossless)
    assert grey(compressed, frame=1) == [[1, 2], [3, 4]]
    for frame in (2, -1):
        with pytest.raises(InputError, match=f"scan.dcm has no frame {frame}; its frames are 0 to 1"):
            grey(compressed, frame=frame)


def test_enhanced_objects_keep_rescaling_and_window_in_groups():
    def item(**elements):
        dataset = Dataset()
        for name, value in elements.items():
            setattr(dataset, name, value)
        return dataset

    rescaling = item(PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=-1024)])
    windows = [item(FrameVOILUTSequence=[item(WindowCenter=c, WindowWidth=101)]) for c in (0, 100)]
    stack = np.full((2, 1, 4), [0, 1024, 1074, 1124], np.uint16)
    scan = make(stack, NumberOfFrames=2)
    scan.SharedFunctionalGroupsSequence, scan.PerFrameFunctionalGroupsSequence = [rescaling], windows
    assert grey(scan) == [[0, 129, 255, 255]]  # 0, 50, 100 around 0: (0 + 0.5) / 100 + 0.5
    assert grey(scan, frame=1) == [[0, 0, 1, 129]]


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_compression(syntax, bits):
    ramp = (RAMP >> 4).astype(np.uint8) if bits == 8 else RAMP
    ramp = ramp.repeat(20, 0).repeat(20, 1)  # OpenJPEG encodes no smaller ones
    plain, compressed = make(ramp, bits), make(ramp, bits)
    compressed.compress(syntax)
    assert compressed.file_meta.TransferSyntaxUID == syntax
    assert grey(compressed) == grey(plain)


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (uid.JPEGLSLossless, JPEG_LS),
        (uid.JPEGLosslessSV1, JPEG_LOSSLESS),
        (uid.JPEGLossless, JPEG_LOSSLESS),
    ],
)
def test_jpeg_ls_and_lossless_jpeg(syntax, stream):
    compressed = make(RAMP, 16 if stream == JPEG_LS else 12, syntax)
    compressed.PixelData = encapsulate([bytes.fromhex(stream)])
    assert grey(compressed) == grey(make(RAMP, 12))


@pytest.mark.parametrize("signed", [False, True])
def test_jpeg_2000_of_either_sign(signed):
    values = np.arange(64 * 64).reshape(64, 64) - (2000 if signed else 0)
    plain = make(values.astype(np.int16 if signed else np.uint16), WindowCenter=500, WindowWidth=1000)
    compressed = make(values.astype(np.int16 if signed else np.uint16), WindowCenter=500, WindowWidth=1000)
    compressed.compress(uid.JPEG2000Lossless)
    assert grey(compressed) == grey(plain)


@pytest.fixture
def picture() -> Image.Image:
    y, x = np.mgrid[:48, :64]
    return Image.fromarray(np.stack([4 * x, 5 * y, 255 - 4 * x], -1).astype(np.uint8))


def show(dataset) -> np.ndarray:
    return np.asarray(read_dicom(encode(dataset), "scan.dcm", max_pixels=10_000)).astype(int)


def test_baseline_jpeg(picture):
    def stream(image, **options):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=95, **options)
        return encapsulate([buffer.getvalue()])

    colour = make(np.asarray(picture), syntax=uid.JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422")
    colour.PixelData = stream(picture)
    assert np.abs(show(colour) - np.asarray(picture)).mean() < 3
    film = picture.convert("L")
    grey_scan = make(np.asarray(film), syntax=uid.JPEGBaseline8Bit)
    grey_scan.PixelData = stream(film)
    assert np.abs(show(grey_scan)[..., 0] - np.asarray(film)).mean() < 2


def test_colour(picture):
    pixels = np.asarray(picture)
    np.testing.assert_array_equal(show(make(pixels)), pixels)
    planar = make(pixels, PlanarConfiguration=1)
    planar.PixelData = np.moveaxis(pixels, -1, 0).tobytes()
    np.testing.assert_array_equal(show(planar), pixels)
    for syntax in (uid.RLELossless, uid.JPEG2000Lossless):
        compressed = make(pixels)
        compressed.compress(syntax)
        np.testing.assert_array_equal(show(compressed), pixels)

    ybr = np.asarray(picture.convert("YCbCr"))
    assert np.abs(show(make(ybr, PhotometricInterpretation="YBR_FULL")) - pixels).max() <= 3
    halved = make(ybr, PhotometricInterpretation="YBR_FULL_422")
    y0, y1, cb, cr = ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]
    halved.PixelData = np.stack([y0, y1, cb, cr], -1).tobytes()
    assert np.abs(show(halved) - pixels).max() <= 8

    deep = make(pixels.astype(np.uint16) * 257)
    np.testing.assert_array_equal(show(deep), pixels)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_palette_colour(depth):
    palette = np.array([[0, 0, 0], [255, 0, 10], [20, 30, 40], [255, 255, 255]], np.uint8)
    scan = make(np.array([[0, 1], [2, 3]], np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for i, name in enumerate(("Red", "Green", "Blue")):
        values = palette[:, i].astype(depth) * (257 if depth == np.uint16 else 1)
        setattr(scan, f"{name}PaletteColorLookupTableDescriptor", [4, 0, 8 * values.itemsize])
        setattr(scan, f"{name}PaletteColorLookupTableData", values.tobytes())
    np.testing.assert_array_equal(show(scan), palette.reshape(2, 2, 3))


def test_dicom_is_known_by_content_from_every_source(tmp_path):
    data = encode(make(RAMP, 12))
    path = tmp_path / "scan.png"
    path.write_bytes(data)
    expected = np.asarray(read_dicom(data, "scan.dcm", max_pixels=100))
    sources = [path, data, {"path": str(path), "bytes": None}, {"path": "x", "bytes": data}]
    for source in [*sources, data[132:]]:  # the last without preamble
        np.testing.assert_array_equal(np.asarray(read_image(source)), expected)
    implicit = make(RAMP, 12, uid.ImplicitVRLittleEndian)
    np.testing.assert_array_equal(np.asarray(read_image(encode(implicit))), expected)


def broken(change) -> bytes:
    dataset = make(RAMP, 12)
    change(dataset)
    return encode(dataset)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: broken(lambda d: d.__delattr__("PixelData")), "holds no image"),
        (lambda: encode(make(RAMP, 12))[:-9], "truncated or damaged"),
        (lambda: encode(make(RAMP, 12))[:150], "holds no image|truncated or damaged"),
        (lambda: b"\0" * 128 + b"DICM", "holds no image|truncated or damaged"),
        (lambda: b"\0" * 128 + b"DICM" + bytes(range(256)) * 4, "holds no image|truncated or damaged"),
        (lambda: broken(lambda d: d.__delattr__("Rows")), "truncated or damaged"),
        (lambda: broken(lambda d: setattr(d, "Rows", 0)), "no pixels \\(4 × 0\\)"),
        (lambda: broken(lambda d: setattr(d, "Rows", 60_000)), "truncated or damaged"),
        (lambda: broken(lambda d: setattr(d, "PhotometricInterpretation", "HSV")), "colour space"),
        (lambda: encode(make(RAMP, 12, uid.MPEG2MPML, PixelData=encapsulate([b"1234"]))), "no decoder"),
    ],
)
def test_broken_files_are_named_in_one_sentence(data, message, tmp_path):
    path = tmp_path / "scan 7.dcm"
    path.write_bytes(data())
    with pytest.raises(InputError, match=message) as error:
        read_image(path)
    assert "scan 7.dcm" in str(error.value) and "\n" not in str(error.value)
    assert error.value.__context__ is None or error.value.__suppress_context__  # pydicom's own words are not shown


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.JPEGLossless])
def test_truncated_codestreams(syntax):
    dataset = make(np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16), 12)
    streams = {uid.JPEGLSLossless: JPEG_LS, uid.JPEGLossless: JPEG_LOSSLESS}
    if syntax in streams:
        dataset = make(RAMP, 12, syntax)
        dataset.PixelData = encapsulate([bytes.fromhex(streams[syntax])])
    else:
        dataset.compress(syntax)
    data = encode(dataset)
    with pytest.raises(InputError, match="cut off|truncated or damaged"):
        read_image(data[: -len(dataset.PixelData) // 2])
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([stream[: len(stream) // 2]])
    with pytest.raises(InputError, match="damaged"):
        read_image(encode(dataset))


def test_no_compression_is_a_bomb(monkeypatch):
    large = make(RAMP, 12, Rows=60_000, Columns=60_000)
    with pytest.raises(InputError, match=r"more than 100,000,000 pixels \(60000 × 60000\)"):
        read_image(encode(large))

    lying = make(np.zeros((40, 40), np.uint8))
    lying.compress(uid.JPEG2000Lossless)
    lying.Rows = lying.Columns = 1
    monkeypatch.setattr("processing.dicom.pixel_array", lambda *args, **kwargs: pytest.fail("decoded"))
    with pytest.raises(InputError, match="another size than its header"):
        read_image(encode(lying))

    deflated = make(np.zeros((100, 100), np.uint8), syntax=uid.DeflatedExplicitVRLittleEndian)
    with pytest.raises(InputError, match="is deflated"):
        read_image(encode(deflated))

    monkeypatch.setattr(images_flamingo_med, "MAX_BYTES", 300)
    with pytest.raises(InputError, match="is larger than"):
        read_image(encode(make(RAMP, 12)))


def test_sizes_of_codestreams(picture):
    for file_format, options in [("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG2000", {"no_jp2": True})]:
        buffer = io.BytesIO()
        picture.save(buffer, file_format, **options)
        assert codestream_size(buffer.getvalue()) == (64, 48)
        assert codestream_size(buffer.getvalue()[:20]) in (None, (64, 48))
    assert codestream_size(bytes.fromhex(JPEG_LS)) == codestream_size(bytes.fromhex(JPEG_LOSSLESS)) == (4, 2)
    filled = bytes.fromhex(JPEG_LS).replace(b"\xff\xf7", b"\xff\xff\xff\xf7", 1)
    assert codestream_size(filled) == (4, 2)
    assert codestream_size(b"") is codestream_size(b"1234\xff\x4f\xff\x51" + b"\1" * 40) is None


def test_nothing_of_the_patient_leaves_the_header(capfd, caplog, recwarn):
    scan = make(RAMP, 12, PatientBirthDate="not a date", WindowCenter=1, WindowWidth=2)
    data = encode(scan)
    recwarn.clear(), caplog.clear()  # of what making the file has said
    image = read_image(data)
    assert image.info == {}
    for damaged in (data[:-3], data[:400]):
        with pytest.raises(InputError) as error:
            read_image(damaged)
        assert PATIENT not in str(error.value) and "4711" not in str(error.value)
    said = [*capfd.readouterr(), caplog.text, *(str(warning.message) for warning in recwarn)]
    assert [text for text in said if PATIENT in text or "4711" in text or "not a date" in text] == []


def test_without_the_extra_its_installation_is_named(tmp_path, monkeypatch):
    path = tmp_path / "scan.dcm"
    path.write_bytes(encode(make(RAMP, 12)))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.delitem(sys.modules, "processing.dicom")  # which is imported with the first DICOM file
    with pytest.raises(InputError) as error:
        read_image(path)
    assert str(error.value) == f'{path} is a DICOM file, which needs: pip install "flamingo-med[dicom]"'
