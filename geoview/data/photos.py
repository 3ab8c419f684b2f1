"""Photos: what they say about themselves, and their pixels in bounded memory.

Formats are JPEG, PNG, TIFF and WebP, told by content and never by suffix; of several pages or frames the first counts.
"""

from __future__ import annotations

import io
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageCms, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from geoview.data.exif import Panorama, PhotoMetadata, parse_metadata
from geoview.errors import GeoviewError, ImageTooLargeError, UnreadableImageError

__all__ = [
    "Panorama",
    "Photo",
    "PhotoBytes",
    "PhotoMetadata",
    "is_panorama",
    "load_image",
    "read_metadata",
    "read_size_px",
]

logger = logging.getLogger(__name__)

_MIN_SIDE_PX = 16
_LARGE_PX = 50_000_000
_LARGE_MAX_SIDE_PX = 4096
_MAX_DECODED_PX = 200_000_000
_MAX_PNG_TEXT_BYTES = 16 * 2**20
_BACKDROP_RGB = (128, 128, 128)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's decoders raise on damaged bytes.
_DECODER_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class PhotoBytes:
    """A photo that lies in memory, and in no file.

    Attributes:
        name: What messages call it.
        content: What its file would hold.
    """

    name: str
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name


#: A file, or what one would hold.
Photo = str | Path | PhotoBytes


# -- files -------------------------------------------------------------------------------------------------------------


def read_metadata(path: Photo) -> PhotoMetadata:
    """Read what a photo says about itself, without decoding its pixels.

    Args:
        path: A JPEG, PNG, TIFF or WebP file, or its bytes.

    Returns:
        What can be believed; damaged metadata becomes entries of `PhotoMetadata.warnings`.

    Raises:
        UnreadableImageError: There is no such file, or it is not an image of these formats.
        ImageTooLargeError: The file is a WebP with more pixels than can be decoded.
    """
    with _opened(path) as image:
        return _metadata(image)


def read_size_px(path: Photo) -> tuple[int, int]:
    """Read the width and height of a photo as it is stored, without decoding its pixels.

    Args:
        path: A JPEG, PNG, TIFF or WebP file, or its bytes.

    Raises:
        UnreadableImageError: There is no such file, or it is not an image of these formats.
        ImageTooLargeError: The file is a WebP with more pixels than can be decoded.
    """
    with _opened(path) as image:
        return image.size


def load_image(path: Photo, *, max_side_px: int | None = None) -> Image.Image:
    """Decode a photo, turned upright, as sRGB.

    Memory is bounded. A JPEG is decoded at a half, a quarter or an eighth of its size as `max_side_px` allows, so
    only the result counts. Other formats, and progressive JPEG, have to be decoded whole, 4 bytes a pixel for most:
    they are refused above 200 megapixels (TIFF and WebP above 179, where Pillow stops).

    Colours: an embedded ICC profile other than sRGB is converted. Transparency is laid over mid-grey (128, 128, 128).
    16-bit colour keeps its high byte; 16-bit grey is divided by 257, or kept if no value exceeds 255 (8 bits
    in a 16-bit file). Floating-point pixels are refused, for they do not say what is white.

    Args:
        path: A JPEG, PNG, TIFF or WebP file, or its bytes.
        max_side_px: The longer side of the result at most. None keeps the size, except that images above
            50 megapixels are scaled to 4096.

    Returns:
        Mode RGB, EXIF orientation applied, no metadata attached.

    Raises:
        UnreadableImageError: There is no such file; it is no image of these formats; it is damaged, truncated, smaller
            than 16 pixels on a side, or of floating-point pixels.
        ImageTooLargeError: The image cannot be decoded in bounded memory.
    """
    with _opened(path) as image:
        stored_px = image.size
        if min(stored_px) < _MIN_SIDE_PX:
            raise UnreadableImageError(
                f"{path}: {_size(stored_px)} pixels are too small to look at; give at least {_MIN_SIDE_PX} on a side"
            )
        if max_side_px is None and math.prod(stored_px) > _LARGE_PX:
            max_side_px = _LARGE_MAX_SIDE_PX
        _draft(image, path, max_side_px)
        # Pillow turns a TIFF itself while it decodes.
        turn = None if isinstance(image, TiffImageFile) else _TURNS.get(_metadata(image).orientation)
        profile = image.info.get("icc_profile")
        image.load()
        pixels = _shrunk(_continuous(image, path), max_side_px)
        pixels = _rgb(pixels, profile, path)
        pixels.info = {}  # the orientation in there no longer holds
        return pixels if turn is None else pixels.transpose(turn)


def is_panorama(size_px: tuple[int, int], metadata: PhotoMetadata) -> bool:
    """Tell whether a photo is an equirectangular panorama.

    XMP GPano decides where the file has it. Else the shape does: wider than 3:1 is a panorama, and so is 2:1 (within
    2 %, a whole sphere) unless the file gives the field of view of a lens, as the 18:9 photos of telephones do.

    Args:
        size_px: (width, height) of the image as displayed.
        metadata: What `read_metadata` said.

    Returns:
        True for a panorama.
    """
    if metadata.panorama is not None:
        return metadata.panorama.projection == "equirectangular"
    ratio = size_px[0] / size_px[1]
    return ratio > 3.0 or (abs(ratio / 2.0 - 1.0) <= 0.02 and metadata.fov_deg is None)


@contextmanager
def _opened(path: Photo) -> Iterator[ImageFile.ImageFile]:
    """Open a photo; whatever goes wrong with it inside the block becomes an error of ours."""
    try:
        # Pillow warns of damaged EXIF, which `PhotoMetadata.warnings` reports.
        with _file(path) as file, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            head = file.read(16)
            file.seek(0)
            # The classes rather than Image.open, whose limit on pixels is a global one and lower than ours.
            yield _decoder(head, path)(file)
    except GeoviewError:
        raise
    except FileNotFoundError:
        raise UnreadableImageError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise UnreadableImageError(
            f"{path}: a folder without photos; give a file or a folder of JPEG, PNG, TIFF or WebP"
        ) from None
    except PermissionError:
        raise UnreadableImageError(f"{path}: no permission to read this file; change it or copy the file") from None
    except Image.DecompressionBombError as fault:
        raise _too_large(path, str(fault)) from fault
    except _DECODER_FAULTS as fault:
        reason = (str(fault) or type(fault).__name__).splitlines()[0]
        raise UnreadableImageError(f"{path}: damaged or truncated image ({reason}); copy or export it anew") from fault


def _file(path: Photo) -> IO[bytes]:
    return io.BytesIO(path.content) if isinstance(path, PhotoBytes) else Path(path).open("rb")


def _decoder(head: bytes, path: Photo) -> Callable[[IO[bytes]], ImageFile.ImageFile]:
    if not head:
        raise UnreadableImageError(f"{path}: the file is empty; copy it anew")
    if head.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if head[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        return TiffImageFile
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WebPImageFile
    raise UnreadableImageError(f"{path}: not a JPEG, PNG, TIFF or WebP image; convert it to one of these")


def _size(size_px: tuple[int, int]) -> str:
    return f"{size_px[0]} x {size_px[1]}"


def _too_large(path: Photo, size: str) -> ImageTooLargeError:
    return ImageTooLargeError(
        f"{path}: {size}: too large to decode (limit {_MAX_DECODED_PX // 10**6} megapixels); "
        "scale it down or save it as a baseline JPEG"
    )


# -- metadata blocks ---------------------------------------------------------------------------------------------------


def _metadata(image: ImageFile.ImageFile) -> PhotoMetadata:
    exif: bytes | Image.Exif
    stored_px = image.size
    if isinstance(image, TiffImageFile):
        stored_px = (image.tag_v2[256], image.tag_v2[257])  # image.size is the displayed one already
        exif, xmp = image.getexif(), image.info.get("xmp")
    elif isinstance(image, PngImageFile):
        exif, xmp = _png_blocks(image)
    else:
        exif, xmp = image.info.get("exif", b""), image.info.get("xmp")
    return parse_metadata(exif, xmp if isinstance(xmp, bytes) else None, stored_px)


def _png_blocks(image: PngImageFile) -> tuple[bytes, bytes | None]:
    """EXIF and XMP of a PNG. Both often follow the pixels, where Pillow finds them only after decoding."""
    file = image.fp
    assert file is not None
    resume = file.tell()
    exif, xmp = b"", None
    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind in (b"eXIf", b"iTXt") and length <= _MAX_PNG_TEXT_BYTES:
            body = file.read(length)
            if kind == b"eXIf":
                exif = body
            elif body.startswith(b"XML:com.adobe.xmp\0"):
                xmp = _png_text(body)
            file.seek(4, io.SEEK_CUR)
        else:
            file.seek(length + 4, io.SEEK_CUR)
    file.seek(resume)
    return exif, xmp


def _png_text(body: bytes) -> bytes | None:
    """The text of an iTXt chunk: keyword, compression flag and method, language, translated keyword, text."""
    _, _, rest = body.partition(b"\0")
    fields = rest[2:].split(b"\0", 2)
    if len(fields) < 3:
        return None
    if rest[:1] != b"\1":
        return fields[2]
    return zlib.decompressobj().decompress(fields[2], _MAX_PNG_TEXT_BYTES)


# -- pixels ------------------------------------------------------------------------------------------------------------


def _fitted(size_px: tuple[int, int], max_side_px: int) -> tuple[int, int]:
    scale = min(1.0, max_side_px / max(size_px))
    return max(1, round(size_px[0] * scale)), max(1, round(size_px[1] * scale))


def _draft(image: ImageFile.ImageFile, path: Photo, max_side_px: int | None) -> None:
    """Have a JPEG decoded no larger than needed, and refuse what cannot be decoded in bounded memory."""
    stored_px = image.size
    # libjpeg holds all coefficients of a progressive image, whatever the scale it decodes to.
    if isinstance(image, JpegImageFile) and "progressive" not in image.info and max_side_px is not None:
        image.draft(None, _fitted(stored_px, max_side_px))
    if math.prod(image.size) > _MAX_DECODED_PX:
        raise _too_large(path, f"{_size(stored_px)} pixels")


def _continuous(image: Image.Image, path: Photo) -> Image.Image:
    """As L, LA, RGB, RGBA or CMYK, the modes that can be scaled without harm."""
    match image.mode:
        case "L" | "RGB" if image.has_transparency_data:
            return image.convert(image.mode + "A")
        case "L" | "LA" | "RGB" | "RGBA" | "CMYK":
            return image
        case "1":
            return image.convert("L")
        case "La":
            return image.convert("LA")
        case "P" | "PA":
            return image.convert("RGBA" if image.has_transparency_data else "RGB")
        case "RGBa":
            return image.convert("RGBA")
        case "RGBX" | "YCbCr" | "HSV":
            return image.convert("RGB")
        case "I" | "I;16" | "I;16L" | "I;16B" | "I;16N":
            return _grey_from_16_bit(image, path)
        case mode:
            raise UnreadableImageError(f"{path}: pixels of type {mode} have no defined white; convert it to 8 bits")


def _grey_from_16_bit(image: Image.Image, path: Photo) -> Image.Image:
    low, high = image.getextrema()
    if not (isinstance(low, int | float) and isinstance(high, int | float) and low >= 0 and high <= 65535):
        raise UnreadableImageError(f"{path}: grey values {low} to {high} exceed 16 bits; convert it to 8 bits")
    values = np.asarray(image)
    return Image.fromarray((values // 257 if high > 255 else values).astype(np.uint8))


def _shrunk(image: Image.Image, max_side_px: int | None) -> Image.Image:
    if max_side_px is None or max(image.size) <= max_side_px:
        return image
    return image.resize(_fitted(image.size, max_side_px), Image.Resampling.LANCZOS, reducing_gap=2.0)


def _rgb(image: Image.Image, profile: bytes | None, path: Photo) -> Image.Image:
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        colour = _rgb(image.convert(image.mode.removesuffix("A")), profile, path)
        return Image.composite(colour, Image.new("RGB", colour.size, _BACKDROP_RGB), alpha)
    return (_to_srgb(image, profile, path) if profile else image).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes, path: Photo) -> Image.Image:
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(embedded).startswith("sRGB"):
            return image
        converted = ImageCms.profileToProfile(image, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as fault:
        logger.warning("%s: ICC profile cannot be used, colours are taken as sRGB (%s)", path, fault)
        return image
    assert converted is not None  # None only when converting in place
    return converted
