"""Opening pictures of any kind as a viewer shows them: upright, RGB."""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF")
"""What is tried; Pillow knows more, some of which (EPS) would start other programs."""


def open_picture(path: str | os.PathLike | BinaryIO, name: str | None = None) -> Image.Image:
    """A picture file as an upright RGB image, fully decoded.

    Takes JPEG, PNG, WebP, BMP, TIFF and GIF (first frame); grey, palette and 16-bit pictures too; what is transparent
    is shown on white.

    Args:
        path: the file, or its bytes opened.
        name: what a message calls it; by default the path.

    Returns:
        An RGB image, rotated as its EXIF orientation says.

    Raises:
        ValueError: the file is missing, is no picture, or is damaged; the text names it.
    """
    said = name or (str(Path(path)) if isinstance(path, str | os.PathLike) else "this")
    try:
        Image.init()  # or Pillow does not yet know all of these
        with Image.open(path, formats=[kind for kind in _FORMATS if kind in Image.OPEN]) as image:
            image.load()
            return upright_rgb(image)
    except FileNotFoundError:
        raise ValueError(f"there is no picture at {said}: check the path") from None
    except UnidentifiedImageError:
        raise ValueError(f"{said} is no picture of a known kind: replace or remove it") from None
    except Exception as error:  # Pillow's decoders raise many kinds, from SyntaxError to struct.error
        raise ValueError(f"{said} cannot be read as a picture ({error}): replace or remove it") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as upright RGB, on white where it is transparent.

    Args:
        image: any Pillow image.

    Returns:
        An RGB image, rotated as its EXIF orientation says.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):  # 16-bit grey, which Pillow's convert would clip at 255
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.clip(values * (255 / top), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
