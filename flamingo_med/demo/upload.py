"""An uploaded file → the image that is asked about, in memory only: the file is deleted as soon as it is read."""

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from processing.dicom import GreyRange, frame_count, grey_range, read_dicom
from processing.errors import InputError
from processing.images import MAX_PIXELS, is_dicom, read_bytes, read_image


@dataclass(frozen=True)
class Upload:
    """An image that somebody wants to ask about.

    Attributes:
        data: content of the file.
        name: of the file, for messages to whoever sent it.
        sha256: of the content.
        image: as it is shown and as the model gets it, RGB.
        grey: what a window can be set on; None where there is none to set.
        window: centre and width that were set; None for the file's own.
        frames: how many there are; more than one in a DICOM file only.
        frame: the one that is shown, from 0.
    """

    data: bytes
    name: str
    sha256: str
    image: Image.Image
    grey: GreyRange | None = None
    window: tuple[float, float] | None = None
    frames: int = 1
    frame: int = 0

    @classmethod
    def of(cls, data: bytes, name: str) -> "Upload":
        """The content of a file.

        Raises:
            InputError: as of `processing.images.read_image`.
        """
        image = read_image({"bytes": data, "path": name})
        upload = cls(data, name, hashlib.sha256(data).hexdigest(), image)
        if not is_dicom(data):
            return upload
        grey = grey_range(data, name, max_pixels=MAX_PIXELS)
        return replace(upload, grey=grey, frames=frame_count(data, name))

    @classmethod
    def take(cls, path: str) -> "Upload":
        """The same of a file, which is deleted, whether it can be read or not."""
        name = Path(path).name
        try:
            data, _ = read_bytes({"bytes": Path(path).read_bytes(), "path": name})
        except FileNotFoundError:  # gradio keeps equal files of two people as one, and the other was faster
            raise InputError(f"{name} has been deleted already; upload it again") from None
        finally:
            Path(path).unlink(missing_ok=True)
        return cls.of(data, name)

    @classmethod
    def drawn(cls, image: Image.Image, name: str) -> "Upload":
        """An image that comes from no file, as if it were a PNG."""
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return cls.of(buffer.getvalue(), name)

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
        return replace(self, image=image, frame=frame, window=window)
