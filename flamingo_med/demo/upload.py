"""An uploaded file → the image that is asked about, in memory only: the file is deleted as soon as it is read.

However large the image, what stays of it is small: a picture for the page, and what the model sees.
"""

import hashlib
import io
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image, ImageOps
from torch import Tensor

from processing.dicom import GreyRange, frame_count, grey_range, read_dicom
from processing.errors import InputError
from processing.images import MAX_PIXELS, is_dicom, read_bytes, read_image

SHOWN = 1024  # longest side of a picture in the page
THUMBNAIL = 96
See = Callable[[Image.Image], Tensor]


def fit(image: Image.Image, longest: int = SHOWN) -> Image.Image:
    """The image, scaled down where it is larger."""
    return ImageOps.contain(image, (longest, longest)) if max(image.size) > longest else image.copy()


@dataclass(frozen=True)
class Upload:
    """An image that somebody wants to ask about.

    Attributes:
        see: what the model sees of an image (c h w), of its full size.
        data: content of a DICOM file, of which other windows and frames may be asked for; else empty.
        name: of the file, for messages to whoever sent it.
        sha256: of the content.
        size: width and height of the image.
        image: as it is shown, RGB, at most `SHOWN` pixels a side.
        pixels: as the model gets it, (c h w).
        grey: what a window can be set on; None where there is none to set.
        window: centre and width that were set; None for the file's own.
        frames: how many there are; more than one in a DICOM file only.
        frame: the one that is shown, from 0.
    """

    see: See = field(repr=False)
    data: bytes = field(repr=False)
    name: str
    sha256: str
    size: tuple[int, int]
    image: Image.Image
    pixels: Tensor = field(repr=False)
    grey: GreyRange | None = None
    window: tuple[float, float] | None = None
    frames: int = 1
    frame: int = 0

    @classmethod
    def of(cls, data: bytes, name: str, see: See) -> "Upload":
        """The content of a file.

        Raises:
            InputError: as of `processing.images.read_image`.
        """
        image = read_image({"bytes": data, "path": name})
        upload = cls(see, b"", name, hashlib.sha256(data).hexdigest(), image.size, fit(image), see(image))
        if not is_dicom(data):
            return upload
        grey = grey_range(data, name, max_pixels=MAX_PIXELS)
        return replace(upload, data=data, grey=grey, frames=frame_count(data, name))

    @classmethod
    def take(cls, path: str, see: See) -> "Upload":
        """The same of a file, which is deleted, whether it can be read or not."""
        name = Path(path).name
        try:
            data, _ = read_bytes({"bytes": Path(path).read_bytes(), "path": name})
        except FileNotFoundError:  # it waited for more than a minute, or is asked for twice
            raise InputError(f"{name} has been deleted already; upload it again") from None
        finally:
            _delete(Path(path))
        return cls.of(data, name, see)

    @classmethod
    def drawn(cls, image: Image.Image, name: str, see: See) -> "Upload":
        """An image that comes from no file, as if it were a PNG."""
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return cls.of(buffer.getvalue(), name, see)

    @property
    def nbytes(self) -> int:
        """The memory that it takes at most, with what gradio keeps of the page: the picture and its map as text."""
        return len(self.data) + self.pixels.nbytes + 12 * self.image.width * self.image.height

    def as_example(self) -> "Upload":
        """The same with a thumbnail, and as it is: no other window or frame."""
        return replace(self, data=b"", image=fit(self.image, THUMBNAIL))

    def through(self, center: float, width: float) -> "Upload":
        """The same through another window.

        Raises:
            InputError: no such window.
        """
        return self._show(self.frame, (center, width))

    def at(self, frame: int) -> "Upload":
        """Another frame, through the window that is set.

        Raises:
            InputError: no such frame, or it is damaged.
        """
        if not 0 <= frame < self.frames:  # in the page's numbers, which begin with 1
            raise InputError(f"{self.name} has the frames 1 to {self.frames}, not {frame + 1}")
        grey = grey_range(self.data, self.name, max_pixels=MAX_PIXELS, frame=frame)
        return replace(self._show(frame, self.window), grey=grey)

    def _show(self, frame: int, window: tuple[float, float] | None) -> "Upload":
        image = read_dicom(self.data, self.name, max_pixels=MAX_PIXELS, frame=frame, window=window)
        shown, pixels = fit(image), self.see(image)
        return replace(self, size=image.size, image=shown, pixels=pixels, frame=frame, window=window)


def _delete(path: Path) -> None:
    """The file, and the folders that were made for it alone."""
    path.unlink(missing_ok=True)
    root = Path(os.environ.get("GRADIO_TEMP_DIR", path.parent))
    with suppress(OSError):  # something else is in them
        for folder in path.parents:
            if root not in folder.parents:
                break
            folder.rmdir()
