"""DICOM → an 8-bit PIL image, as a viewer shows it; needs the extra `[dicom]`. No header field leaves this file.

The order is the standard's (PS3.3 C.11, PS3.4 N.2): modality LUT or rescaling, VOI LUT or window, inversion.
"""

import io
import warnings
from typing import Any

import numpy as np
from PIL import Image

from processing.errors import InputError

INSTALL = 'pip install "flamingo-med[dicom]"'
GREY = ("MONOCHROME1", "MONOCHROME2")


def is_dicom(data: bytes) -> bool:
    """Whether a file's content is DICOM: with its preamble, or beginning with the elements that DICOM begins with."""
    return data[128:132] == b"DICM" or data[:2] in (b"\x02\x00", b"\x08\x00")


def read_dicom(
    data: bytes, name: str, *, max_pixels: int, frame: int = 0, window: tuple[float, float] | None = None
) -> Image.Image:
    """One frame of a DICOM file.

    Args:
        data: content of the file.
        name: its name in messages.
        max_pixels: limit of rows times columns.
        frame: which frame of several.
        window: centre and width, in the units of the modality (Hounsfield units in CT), instead of the file's first.

    Returns:
        Mode "L", or "RGB" of a colour image. Grey values outside of the window, and padding, are black or white. Where
        the file has neither window nor VOI LUT, its own minimum–maximum is the window.

    Raises:
        InputError: the extra is missing; no image in the file; damaged; too large; no such frame.
    """
    if window is not None and window[1] < 1:
        raise InputError(f"the width of a window is at least 1, got {window[1]}")
    try:
        import pydicom
    except ImportError:
        raise InputError(f"{name} is a DICOM file; to read those: {INSTALL}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they may quote header fields
        try:
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            frames = _check_size(dataset, name, max_pixels, frame)
            pixels = _decode(dataset, frame if frames > 1 else None)
            if dataset.PhotometricInterpretation in GREY:
                return Image.fromarray(_to_8_bit(pixels, dataset, window))
            return Image.fromarray(_colours(pixels, dataset))
        except InputError:
            raise
        except Exception as error:  # decoders raise anything, and may quote header fields
            kind = type(error).__name__
            raise InputError(
                f"the DICOM file {name} is damaged, or its compression is not supported ({kind}); "
                f"if it is compressed: {INSTALL}"
            ) from None


def _check_size(dataset: Any, name: str, max_pixels: int, frame: int) -> int:
    """Number of frames; nothing is decoded yet."""
    if "PixelData" not in dataset:
        raise InputError(f"the DICOM file {name} holds no image (a report, or a damaged file)")
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    if rows * columns == 0:
        raise InputError(f"the image {name} has no pixels ({columns} × {rows})")
    if rows * columns > max_pixels:
        raise InputError(f"the image {name} has more than {max_pixels:,} pixels ({columns} × {rows})")
    if not 0 <= frame < frames:
        raise InputError(f"the image {name} has frames 0 to {frames - 1}, not {frame}")
    return frames


def _decode(dataset: Any, frame: int | None) -> np.ndarray:
    """Stored values of one frame (h w), or (h w 3) in RGB."""
    from pydicom.pixels import pixel_array
    from pydicom.uid import ImplicitVRLittleEndian

    meta = dataset.file_meta
    if "TransferSyntaxUID" not in meta:  # a file without preamble
        meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return pixel_array(dataset, index=frame)


def _to_8_bit(stored: np.ndarray, dataset: Any, window: tuple[float, float] | None) -> np.ndarray:
    """Stored grey values (h w) → displayed ones, 0 to 255."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    values = apply_modality_lut(stored, dataset)
    padding = _is_padding(stored, dataset)
    if window is not None:
        dataset.WindowCenter, dataset.WindowWidth = window
        for name in ("VOILUTSequence", "VOILUTFunction"):
            if name in dataset:
                delattr(dataset, name)
    if "VOILUTSequence" in dataset:
        low, high = 0, 2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
        values = apply_voi_lut(np.rint(values).astype(np.int64), dataset)
    elif "WindowCenter" in dataset:
        low, high = apply_voi_lut(np.array([-1e9, 1e9]), dataset)  # what darkest and brightest become
        values = apply_voi_lut(values, dataset)
    else:
        image = values[~padding] if not padding.all() else values
        low, high = image.min(), image.max()
    shown = (values.astype(np.float64) - low) / max(float(high) - float(low), 1e-9)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return np.where(padding, 0, shown.clip(0, 1) * 255).round().astype(np.uint8)


def _is_padding(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Where the stored values only fill the frame up: (h w)."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, bool)
    last = dataset.get("PixelPaddingRangeLimit", first)
    return (stored >= min(first, last)) & (stored <= max(first, last))


def _colours(pixels: np.ndarray, dataset: Any) -> np.ndarray:
    """(h w 3) or, of a palette, (h w) → (h w 3) of 8 bits."""
    from pydicom.pixels import apply_color_lut

    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        pixels = apply_color_lut(pixels, dataset)
    else:
        bits = int(dataset.BitsStored)
    return (pixels >> max(bits - 8, 0)).astype(np.uint8)
