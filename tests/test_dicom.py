"""DICOM: synthesised CR, CT and US files; grey values worked out by hand, every compression, and broken files."""

import builtins
import io

import numpy as np
import pytest
from PIL import Image

from processing.errors import InputError
from processing.images import read_image

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

RAMP = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)  # 12 bits stored in 16
# RAMP in JPEG-LS, encoded by CharLS.
JPEG_LS = bytes.fromhex(
    "ffd8fff7000b0c0008000801011100ffda00080101000000009fdfdfdf5edfdf400020101f9f1e9e1d880000101d1c9c1b9b1a9f9ff343332"
    "31302f3e3fc5c5a585654527a7f4a09c9894908cf0fe1110903f7cf4ecfdbc76edd397274ffd9"
)


def dataset(pixels=RAMP, photometric="MONOCHROME2", bits=12, syntax=ExplicitVRLittleEndian, **elements):
    """A file of one or, with (f h w), several frames; colour with (h w 3)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    encoding = {"is_implicit_VR": syntax.is_implicit_VR, "is_little_endian": syntax.is_little_endian}
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128, **encoding)
    file.SOPClassUID, file.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3"
    file.PatientName, file.PatientID = "Secret^Name", "secret-id"
    colour = photometric in ("RGB", "YBR_FULL")
    frames = pixels.ndim == 3 and not colour
    file.Rows, file.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    if frames:
        file.NumberOfFrames = len(pixels)
    file.SamplesPerPixel, file.PhotometricInterpretation = (3 if colour else 1), photometric
    if colour:
        file.PlanarConfiguration = 0
    file.BitsAllocated = 8 * pixels.dtype.itemsize
    file.BitsStored, file.HighBit = bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    if syntax == ExplicitVRBigEndian:
        pixels = pixels.byteswap()
    file.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(file, name, value)
    return file


def data(file):
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def grey(file, **options):
    image = read_image(file if isinstance(file, bytes) else data(file), **options)
    assert image.mode == "RGB"
    return np.asarray(image)[..., 0].astype(int)


def scaled(values, low, high):
    return ((values.astype(float) - low) / (high - low)).clip(0, 1) * 255


def test_without_a_window_the_own_range():
    np.testing.assert_allclose(grey(dataset()), scaled(RAMP, 0, 4032), atol=0.51)


def test_monochrome1_is_inverted():
    np.testing.assert_allclose(grey(dataset(photometric="MONOCHROME1")), 255 - scaled(RAMP, 0, 4032), atol=0.51)


def test_the_first_of_several_windows_and_a_chosen_one():
    file = dataset(WindowCenter=[1000.0, 3000.0], WindowWidth=[1001.0, 100.0])
    np.testing.assert_allclose(grey(file), scaled(RAMP, 499.5, 1499.5), atol=0.51)
    np.testing.assert_allclose(grey(file, window=(3000, 1001)), scaled(RAMP, 2499.5, 3499.5), atol=0.51)
    with pytest.raises(InputError, match="the width of a window is at least 1, got 0"):
        grey(file, window=(3000, 0))
    # A window wider than what is there does not stretch it.
    assert grey(dataset(WindowCenter=2048, WindowWidth=8192)).max() < 200


def test_window_functions():
    exact = dataset(WindowCenter=1000, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(grey(exact), scaled(RAMP, 500, 1500), atol=0.51)
    sigmoid = dataset(WindowCenter=1000, WindowWidth=1000, VOILUTFunction="SIGMOID")
    np.testing.assert_allclose(grey(sigmoid), 255 / (1 + np.exp(-4 * (RAMP - 1000.0) / 1000)), atol=0.6)
    np.testing.assert_allclose(grey(sigmoid, window=(1000, 1001)), scaled(RAMP, 499.5, 1499.5), atol=0.51)


def test_ct_in_hounsfield_units():
    stored = np.linspace(-1024, 2000, 64).astype(np.int16).reshape(8, 8)
    file = dataset(stored, bits=16, RescaleSlope=2.0, RescaleIntercept=-1000.0, WindowCenter=40, WindowWidth=400)
    np.testing.assert_allclose(grey(file), scaled(stored * 2.0 - 1000, -160 + 0.0, 239.0), atol=0.7)


def test_padding_is_black_and_does_not_stretch_the_range():
    stored = np.array([[-2000, 0], [100, 200]], np.int16)
    file = dataset(stored, bits=16)
    file.add_new("PixelPaddingValue", "SS", -2000)
    assert grey(file).tolist() == [[0, 0], [128, 255]]
    file.PhotometricInterpretation = "MONOCHROME1"
    assert grey(file).tolist() == [[0, 255], [128, 0]]
    file.add_new("PixelPaddingRangeLimit", "SS", 50)
    assert grey(file).tolist() == [[0, 0], [255, 0]]


def test_voi_lut_and_modality_lut():
    table = Dataset()
    table.LUTDescriptor = [4, 10, 8]  # four entries from 10 on, of 8 bits
    table.add_new("LUTData", "US", [0, 50, 200, 255])
    stored = np.array([[0, 10, 11], [12, 13, 99]], np.uint16)
    file = dataset(stored, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2)
    assert grey(file).tolist() == [[0, 0, 50], [200, 255, 255]]
    assert grey(file, window=(12.5, 101)).tolist() != grey(file).tolist()
    inverse = Dataset()
    inverse.LUTDescriptor, inverse.ModalityLUTType = [3, 0, 16], "US"
    inverse.add_new("LUTData", "US", [200, 100, 0])
    file = dataset(np.array([[0, 1, 2]], np.uint16), ModalityLUTSequence=[inverse])
    assert grey(file).tolist() == [[255, 128, 0]]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_encodings(syntax):
    assert np.array_equal(grey(dataset(syntax=syntax)), grey(dataset()))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression(syntax):
    file = dataset(np.kron(RAMP, np.ones((8, 8), np.uint16)), WindowCenter=1000, WindowWidth=1001)
    expected = grey(file)
    file.compress(syntax)
    assert np.array_equal(grey(file), expected)


def test_jpeg_ls():
    file = dataset(syntax=JPEGLSLossless, PixelData=encapsulate([JPEG_LS]))
    assert np.array_equal(grey(file), grey(dataset()))


def test_jpeg_baseline():
    buffer = io.BytesIO()
    smooth = np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)
    Image.fromarray(smooth).save(buffer, "JPEG", quality=100)
    file = dataset(smooth, bits=8, syntax=JPEGBaseline8Bit, LossyImageCompression="01")
    file.PixelData = encapsulate([buffer.getvalue()])
    np.testing.assert_allclose(grey(data(file)), smooth, atol=3)


def test_frames():
    frames = np.stack([RAMP, RAMP.T])
    file = dataset(frames, WindowCenter=2048, WindowWidth=4096)
    assert np.array_equal(grey(file, frame=1), grey(file).T)
    with pytest.raises(InputError, match="has frames 0 to 1, not 2"):
        grey(file, frame=2)


def test_colours():
    rgb = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(read_image(data(dataset(rgb, "RGB", 8)))), rgb)
    ycc = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    np.testing.assert_allclose(np.asarray(read_image(data(dataset(ycc, "YBR_FULL", 8)))).astype(int), rgb, atol=3)
    file = dataset(np.array([[0, 1], [2, 1]], np.uint8), "PALETTE COLOR", 8)
    for name, values in (("Red", [0, 255, 10]), ("Green", [0, 0, 20]), ("Blue", [0, 128, 30])):
        setattr(file, f"{name}PaletteColorLookupTableDescriptor", [3, 0, 16])
        setattr(file, f"{name}PaletteColorLookupTableData", np.array(values, np.uint16).__lshift__(8).tobytes())
    assert np.asarray(read_image(data(file))).tolist() == [
        [[0, 0, 0], [255, 0, 128]],
        [[10, 20, 30], [255, 0, 128]],
    ]


def test_a_file_without_preamble(tmp_path):
    whole = data(dataset(syntax=ImplicitVRLittleEndian))
    bare = dataset(syntax=ImplicitVRLittleEndian)
    buffer = io.BytesIO()
    bare.file_meta, bare.preamble = FileMetaDataset(), None
    bare.save_as(buffer, implicit_vr=True, little_endian=True)
    assert buffer.getvalue()[:2] == b"\x08\x00"
    assert np.array_equal(grey(buffer.getvalue()), grey(whole))
    path = tmp_path / "no suffix"
    path.write_bytes(whole)
    assert np.array_equal(np.asarray(read_image(path))[..., 0], grey(whole))


def broken():
    report = dataset()
    del report.PixelData
    short = dataset()
    short.PixelData = short.PixelData[:20]
    huge = dataset()
    huge.Rows = huge.Columns = 60_000
    odd = dataset()
    odd.file_meta.TransferSyntaxUID = JPEG2000Lossless
    odd.PixelData = encapsulate([b"Secret^Name no code stream"])
    lacking = dataset()
    del lacking.PhotometricInterpretation
    return {
        "holds no image": report,
        "is damaged, or its compression is not supported": short,
        r"has more than 100,000,000 pixels \(60000 × 60000\)": huge,
        r"damaged.*pip install": odd,
        "is damaged": lacking,
    }


@pytest.mark.parametrize("message", broken())
def test_broken_files_say_nothing_of_the_patient(message, tmp_path, capfd, caplog):
    path = tmp_path / "scan.dcm"
    path.write_bytes(data(broken()[message]))
    with pytest.raises(InputError, match=message) as error:
        read_image(path)
    assert "scan.dcm" in str(error.value)
    said = "".join([str(error.value), caplog.text, *capfd.readouterr()])
    assert "Secret" not in said and "secret" not in said


def test_truncated_file(tmp_path):
    whole = data(dataset())
    for length in (132, 200, len(whole) // 2, len(whole) - 40):
        with pytest.raises(InputError):
            read_image(whole[:length])


def test_without_the_extra(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("pydicom"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    content = data(dataset())
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r'is a DICOM file; to read those: pip install "flamingo-med\[dicom\]"'):
        read_image(content)
