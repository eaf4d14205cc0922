"""The bytes of a DICOM file → an RGB PIL image, as a viewer would show it; needs the extra `dicom`.

Of the header only the elements in `ELEMENTS` are ever read: none of them says anything about the patient. Error
messages name the file, never what stands in it.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing, get_decoder, pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from processing.errors import InputError

# What turns stored values into grey or colour.
ELEMENTS = [
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData", "FloatPixelData", "DoubleFloatPixelData"),
]
START_OF_FRAME = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC}  # of JPEG and JPEG-LS
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def read_dicom(
    data: bytes, name: str, *, max_pixels: int, frame: int = 0, window: tuple[float, float] | None = None
) -> Image.Image:
    """One frame as 8-bit RGB: modality LUT, then VOI LUT or window, then MONOCHROME1 inverted.

    Of several VOI LUTs or windows the first counts. Without any, 8-bit grey stays as it is and deeper grey is scaled
    linearly from its own minimum–maximum. Padding is black and has no part in that.

    Args:
        data: content of the file.
        name: what the file is called in messages.
        max_pixels: larger frames are refused before anything is decoded.
        frame: number of the frame, from 0; no other is decoded.
        window: (centre, width) in the units after the modality LUT (for CT, Hounsfield units) instead of the file's
            own.

    Raises:
        InputError: no image in it, damaged, of a kind that cannot be read, too large; no such frame or window.
    """
    if window is not None and not window[1] >= 1:
        raise InputError(f"the width of a window is at least 1, got {window[1]}")
    with _one_sentence(name):
        dataset, stored = _read_frame(data, name, max_pixels, frame)
        kind = dataset.PhotometricInterpretation
        if kind in COLOURS:
            return Image.fromarray(_to_8_bit(stored, dataset.BitsStored))
        if kind == "PALETTE COLOR":
            colours = apply_color_lut(stored, dataset)
            return Image.fromarray(_to_8_bit(colours, 8 * colours.itemsize))
        return Image.fromarray(_show_grey(stored, dataset, window)).convert("RGB")


@dataclass(frozen=True)
class GreyRange:
    """What a window can be set on, in the units after the modality LUT.

    Attributes:
        lowest, highest: of the values that are no padding.
        center, width: the file's own window; without one, the whole range.
    """

    lowest: float
    highest: float
    center: float
    width: float


def grey_range(data: bytes, name: str, *, max_pixels: int, frame: int = 0) -> GreyRange | None:
    """The range of one frame's grey values; None of colours. Arguments and errors as of `read_dicom`."""
    with _one_sentence(name):
        dataset, stored = _read_frame(data, name, max_pixels, frame)
        if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
            return None
        values, padding = _values(stored, dataset)
        visible = ~padding & np.isfinite(values)
        if not visible.any():
            return None
        lowest, highest = float(values[visible].min()), float(values[visible].max())
        center, width = _own_window(dataset) or ((lowest + highest) / 2, highest - lowest)
        return GreyRange(lowest, highest, float(center), max(float(width), 1.0))


def frame_count(data: bytes, name: str) -> int:
    """How many frames there are; nothing is decoded. Arguments and errors as of `read_dicom`."""
    with _one_sentence(name):
        return _frames(_read_header(data, name))


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """On damaged files pydicom and its decoders raise almost anything, with header values in the message."""
    try:
        yield
    except InputError:
        raise
    except Exception:
        raise InputError(f"the DICOM file {name} is truncated or damaged") from None


def _read_frame(data: bytes, name: str, max_pixels: int, frame: int) -> tuple[Dataset, np.ndarray]:
    """Header and stored values of one frame, whose rescaling and window stand at the header's top."""
    dataset = _read_header(data, name)
    _check(dataset, name, max_pixels, frame)
    # pylibjpeg's RLE decoder panics on damaged data, which is no Exception; pydicom's own raises.
    plugin = "pydicom" if dataset.file_meta.TransferSyntaxUID == RLELossless else ""
    stored = pixel_array(dataset, index=frame, decoding_plugin=plugin)
    _take_functional_groups(dataset, frame)
    return dataset, stored


def _read_header(data: bytes, name: str) -> Dataset:
    if _transfer_syntax(data) == DeflatedExplicitVRLittleEndian:  # pydicom would inflate it, however large it gets
        raise InputError(f"the DICOM file {name} is deflated, which is not read; convert it with dcmconv")
    dataset = dcmread(io.BytesIO(data), force=True, specific_tags=ELEMENTS)  # force: it may lack the preamble
    for element in [element for element in ELEMENTS if element in dataset and dataset[element].is_empty]:
        del dataset[element]
    return dataset


def _transfer_syntax(data: bytes) -> str:
    """The value of (0002,0010), which is written in one way in every file."""
    start = data.find(b"\x02\x00\x10\x00UI") + 8
    length = int.from_bytes(data[start - 2 : start], "little")
    return data[start : start + length].decode("ascii", errors="replace").rstrip("\0 ")


def _check(dataset: Dataset, name: str, max_pixels: int, frame: int) -> None:
    """Refuse, before anything is decoded, what cannot or should not be."""
    if not any(element in dataset for element in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise InputError(f"the DICOM file {name} holds no image (it may be a report, or cut off)")
    rows, columns, frames = dataset.Rows, dataset.Columns, _frames(dataset)
    if rows * columns > max_pixels:
        raise InputError(f"the image {name} has more than {max_pixels:,} pixels ({columns} × {rows})")
    if rows * columns == 0:
        raise InputError(f"the image {name} has no pixels ({columns} × {rows})")
    if not 0 <= frame < frames:
        raise InputError(f"the DICOM file {name} has no frame {frame}; its frames are 0 to {frames - 1}")
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", *COLOURS):
        raise InputError(f"the DICOM file {name} is in a colour space that is not read; convert it to RGB")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        if not _has_decoder(syntax):
            raise InputError(
                f'no decoder for the compressed DICOM file {name}; pip install "pylibjpeg[all]" brings those '
                "for JPEG, JPEG-LS, JPEG 2000 and RLE"
            )
        # Other decoders than RLE's believe the codestream, however large an image it claims to be.
        codestream = get_frame(dataset.PixelData, frame, number_of_frames=frames)
        if syntax != RLELossless and codestream_size(codestream) != (columns, rows):
            raise InputError(f"the DICOM file {name} is damaged: its image has another size than its header says")


def _frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _has_decoder(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:  # a video, or nothing known
        return False


def codestream_size(codestream: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG, JPEG-LS or JPEG 2000 codestream claims; None where it is none of them."""

    def number(position: int, length: int) -> int:
        return int.from_bytes(codestream[position : position + length], "big")

    if codestream.startswith((b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")):  # JPEG 2000, bare or in a JP2 box
        start = codestream.find(b"\xff\x4f\xff\x51")
        return number(start + 8, 4) - number(start + 16, 4), number(start + 12, 4) - number(start + 20, 4)
    position = 2
    while codestream.startswith(b"\xff\xd8") and position + 9 < len(codestream):
        marker = number(position, 2)
        if marker == 0xFFFF:  # a fill byte
            position += 1
        elif marker in START_OF_FRAME:
            return number(position + 7, 2), number(position + 5, 2)
        else:
            position += 2 + number(position + 2, 2)
    return None


def _take_functional_groups(dataset: Dataset, frame: int) -> None:
    """Enhanced objects keep rescaling and window in groups, for all frames and for each: bring them to the top."""
    groups = [*dataset.get("SharedFunctionalGroupsSequence", [])[:1]]
    groups += dataset.get("PerFrameFunctionalGroupsSequence", [])[frame : frame + 1]
    for group in groups:
        for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(macro, []):
                dataset.update(item)


def _show_grey(stored: np.ndarray, dataset: Dataset, window: tuple[float, float] | None) -> np.ndarray:
    """Stored values (h, w) to 8-bit grey (h, w)."""
    values, padding = _values(stored, dataset)
    if not dataset.get("VOILUTSequence"):
        window = window or _own_window(dataset)
    if window is not None:
        grey = _apply_window(values, *window, function=dataset.get("VOILUTFunction") or "LINEAR")
    elif dataset.get("VOILUTSequence"):
        grey = _apply_table(values, dataset)
    elif dataset.get("BitsStored") == 8 and dataset.PixelRepresentation == 0 and np.array_equal(values, stored):
        grey = values
    else:
        grey = _stretch(values, ~padding & np.isfinite(values))
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    return np.where(padding, 0, grey).round().astype(np.uint8)


def _values(stored: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Stored values (h, w) after the modality LUT, and where they are padding."""
    stored = stored.astype(np.int32) if stored.dtype.kind in "iub" else stored  # room for the tables' indices
    return apply_modality_lut(stored, dataset), _is_padding(stored, dataset)


def _own_window(dataset: Dataset) -> tuple[float, float] | None:
    """Centre and width of the first window."""
    if dataset.get("WindowWidth") is None:
        return None
    return tuple(np.ravel(dataset[name].value)[0] for name in ("WindowCenter", "WindowWidth"))


def _is_padding(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, bool)
    last = dataset.get("PixelPaddingRangeLimit", first)
    return (min(first, last) <= stored) & (stored <= max(first, last))


def _apply_window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """To 0–255, which is what pydicom takes for the range of 8-bit values without rescaling."""
    voi = Dataset()
    voi.PhotometricInterpretation, voi.BitsStored, voi.PixelRepresentation = "MONOCHROME2", 8, 0
    voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = float(center), float(width), function
    return apply_windowing(values, voi)


def _apply_table(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The first VOI LUT, to 0–255."""
    item = dataset.VOILUTSequence[0]
    entries, first, bits = item.LUTDescriptor
    # pydicom keeps indices in as many bits as the table's values have, where those beyond would wrap around.
    item.LUTDescriptor = [entries, first, 16]
    values = np.clip(np.round(values), first, first + (entries or 2**16) - 1).astype(np.int32)
    return apply_voi(values, dataset) * (255 / (2**bits - 1))


def _stretch(values: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """From the minimum–maximum of the visible values to 0–255; where those are all equal, black."""
    values = values.astype(np.float64)
    low, high = values.min(where=visible, initial=np.inf), values.max(where=visible, initial=-np.inf)
    if not high > low:
        return np.zeros(values.shape)
    return np.where(visible, (values - low) * (255 / (high - low)), 0)


def _to_8_bit(colours: np.ndarray, bits: int) -> np.ndarray:
    """Colours (h, w, 3) of so many bits to 8."""
    return colours if bits == 8 else (colours * (255 / (2**bits - 1))).round().astype(np.uint8)
