"""An uploaded file → the image that is asked about, in memory only: the file is deleted as soon as it is read."""

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from processing.dicom import GreyRange, grey_range, read_dicom
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
    """

    data: bytes
    name: str
    sha256: str
    image: Image.Image
    grey: GreyRange | None = None
    window: tuple[float, float] | None = None

    @classmethod
    def of(cls, data: bytes, name: str) -> "Upload":
        """The content of a file.

        Raises:
            InputError: as of `processing.images.read_image`.
        """
        image = read_image({"bytes": data, "path": name})
        grey = grey_range(data, name, max_pixels=MAX_PIXELS) if is_dicom(data) else None
        return cls(data, name, hashlib.sha256(data).hexdigest(), image, grey)

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
        """The same through another window."""
        image = read_dicom(self.data, self.name, max_pixels=MAX_PIXELS, window=(center, width))
        return replace(self, image=image, window=(center, width))
