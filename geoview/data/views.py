"""From a decoded picture to the view that an encoder sees: the ground grid in degrees, the aerial square in metres."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from geoview.config import AerialView, GroundView
from geoview.data.exif import PhotoMetadata
from geoview.data.photos import is_panorama, load_image
from geoview.errors import ConfigError

__all__ = ["View", "aerial_view", "fit_view", "panorama_view", "perspective_view", "photo_view"]

# Photos larger than this are decoded smaller: no encoder sees more of them.
_MAX_SIDE_PX = 4096
# What a photo of unknown field of view is taken for: the main camera of a phone.
_DEFAULT_FOV_DEG = 65.0

# Widths of perspective views come in steps of the backbone's stride, so that few shapes occur and batches stay full.
_WIDTH_STEP_PX = 32


@dataclass(frozen=True)
class View:
    """A picture in the geometry of a `ViewSpec`.

    Attributes:
        pixels: (H, W, 3) uint8.
        valid: (H, W) bool, False where the photo does not reach.
    """

    pixels: NDArray[np.uint8]
    valid: NDArray[np.bool_]

    def rolled(self, columns_px: int) -> View:
        """Returns the view of a full circle, rolled to the right."""
        return View(np.roll(self.pixels, columns_px, axis=1), np.roll(self.valid, columns_px, axis=1))


def photo_view(
    path: str,
    metadata: PhotoMetadata,
    spec: GroundView,
    *,
    fov_deg: float | None,
    heading_deg: float | None,
    turn_deg: float = 0.0,
) -> View:
    """Decodes a street photo, panorama or perspective, to a ground view.

    Args:
        path: The file.
        metadata: What `read_metadata` said of it.
        spec: Ground view.
        fov_deg: Field of view of a perspective photo; None is what the metadata tell, or else 65 degrees.
        heading_deg: Heading of the middle column. Where `spec` has several headings, None lays the photo as if it
            looked north, whatever its metadata say: all headings are tried, and a compass may be wrong. Where it has
            one, None is what the metadata tell, a panorama of known heading is turned north, and other photos know no
            north.
        turn_deg: Turns what knows north further, clockwise.

    Raises:
        UnreadableImageError: The photo cannot be decoded.
        ImageTooLargeError: It cannot be decoded in bounded memory.
        ConfigError: No photo spans `fov_deg`.
    """
    image = load_image(path, max_side_px=_MAX_SIDE_PX)
    if spec.headings == 1 and heading_deg is None:
        heading_deg = metadata.heading_deg
    heading_deg = (0.0 if heading_deg is None else heading_deg) - turn_deg
    if not is_panorama(image.size, metadata):
        known_deg = metadata.fov_deg if fov_deg is None else fov_deg
        return perspective_view(
            image, spec, fov_deg=_DEFAULT_FOV_DEG if known_deg is None else known_deg, heading_deg=heading_deg
        )
    crop = metadata.panorama
    if crop is None:
        return panorama_view(image, spec, heading_deg=heading_deg)
    top_deg = 90.0 - 180.0 * crop.crop_top_px / crop.full_height_px
    return panorama_view(image, spec, fov_deg=crop.fov_deg, top_deg=top_deg, heading_deg=heading_deg)


def panorama_view(
    image: Image.Image,
    spec: GroundView,
    *,
    fov_deg: float = 360.0,
    top_deg: float | None = None,
    heading_deg: float | None = None,
) -> View:
    """Cuts an equirectangular panorama to a ground view.

    Args:
        image: RGB panorama, columns azimuth, rows elevation.
        spec: Ground view.
        fov_deg: Azimuth that the image spans.
        top_deg: Elevation of the image's upper edge; None puts the horizon in the middle.
        heading_deg: Heading of the image's middle column. Where it is known and the image goes all round, the view is
            turned north, as chips are.

    Returns:
        (spec.height_px, spec.width_px) for a full panorama; a narrower view for a part of one, unless `spec` has
        several headings.
    """
    degrees_per_px = fov_deg / image.width
    top_deg = image.height * degrees_per_px / 2 if top_deg is None else top_deg
    wraps = math.isclose(fov_deg, 360.0, abs_tol=degrees_per_px)
    turns = heading_deg if wraps or spec.headings > 1 else None
    azimuth, elevation = _grid_deg(spec, fov_deg, 0.0 if turns is None else turns)
    x = (azimuth / fov_deg + 0.5) * image.width
    if wraps:
        x = x % image.width
    y = (top_deg - elevation) / degrees_per_px
    x, y = np.broadcast_arrays(x, y)
    across, up = _degrees_per_px(spec)
    return _sample(image, x, y, step_px=(across / degrees_per_px, up / degrees_per_px), wraps=wraps)


def perspective_view(image: Image.Image, spec: GroundView, *, fov_deg: float, heading_deg: float = 0.0) -> View:
    """Lays a perspective photo on the ground view's grid of degrees, its axis on the horizon.

    Args:
        image: RGB photo of a rectilinear lens.
        spec: Ground view.
        fov_deg: Horizontal field of view of the photo.
        heading_deg: Where in the full circle of a `spec` of several headings the photo is laid.

    Returns:
        As wide as the field of view asks for, in steps of 32 px, at most `spec.width_px`; for a `spec` of several
        headings, the full circle.

    Raises:
        ConfigError: No rectilinear photo spans `fov_deg`.
    """
    if not 0 < fov_deg < 180:
        raise ConfigError(f"fov_deg is {fov_deg:g}: a perspective photo spans more than 0 and less than 180 degrees")
    focal_px = image.width / 2 / math.tan(math.radians(fov_deg) / 2)
    azimuth, elevation = (np.radians(a) for a in _grid_deg(spec, fov_deg, heading_deg if spec.headings > 1 else 0.0))
    ahead = np.cos(azimuth) > 1e-6
    cosine = np.where(ahead, np.cos(azimuth), 1.0)
    x = image.width / 2 + focal_px * np.sin(azimuth) / cosine
    y = image.height / 2 - focal_px * np.tan(elevation) / cosine
    x, y = np.broadcast_arrays(np.where(ahead, x, -1.0), y)
    across, up = (math.radians(a) * focal_px for a in _degrees_per_px(spec))
    return _sample(image, x, y, step_px=(across, up), wraps=False)


def aerial_view(image: Image.Image, spec: AerialView, *, gsd_m: float) -> View:
    """Cuts the middle of a picture seen from above to an aerial view of true size.

    Args:
        image: RGB picture, square pixels.
        spec: Aerial view.
        gsd_m: Metres per pixel of the picture.

    Returns:
        (spec.size_px, spec.size_px); not valid where the picture is smaller than the view.
    """
    step_px = spec.gsd_m / gsd_m
    offset = (np.arange(spec.size_px) + 0.5 - spec.size_px / 2) * step_px
    x, y = np.meshgrid(image.width / 2 + offset, image.height / 2 + offset)
    return _sample(image, x, y, step_px=(step_px, step_px), wraps=False)


def fit_view(image: Image.Image, spec: AerialView) -> View:
    """Resizes a whole picture to an aerial view, aspect not kept: published data sets show the encoder whole tiles."""
    resized = image.resize((spec.size_px, spec.size_px), Image.Resampling.BICUBIC)
    return View(np.array(resized), np.ones((spec.size_px, spec.size_px), np.bool_))


def _degrees_per_px(spec: GroundView) -> tuple[float, float]:
    return spec.fov_deg / spec.width_px, spec.vertical_fov_deg / spec.height_px


def _grid_deg(
    spec: GroundView, fov_deg: float, heading_deg: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Azimuth (1, W) right of a photo's axis and elevation (H, 1) above the horizon of the view's pixel centres."""
    across, up = _degrees_per_px(spec)
    width_px = min(spec.width_px, math.ceil(fov_deg / across / _WIDTH_STEP_PX - 1e-9) * _WIDTH_STEP_PX)
    if spec.headings > 1:
        width_px = spec.width_px
    azimuth = (np.arange(width_px) + 0.5 - width_px / 2) * across
    if heading_deg:
        azimuth = (azimuth - heading_deg + 180) % 360 - 180
    elevation = (spec.height_px / 2 - np.arange(spec.height_px) - 0.5) * up
    return azimuth[None, :], elevation[:, None]


def _sample(
    image: Image.Image, x: NDArray[np.floating], y: NDArray[np.floating], *, step_px: tuple[float, float], wraps: bool
) -> View:
    """Samples an image at (H, W) positions in its pixel frame (0 is the outer edge of the first pixel).

    `step_px` is the distance of neighbouring samples in the image, across and down: where it is above 1, the image is
    reduced first, so that nothing aliases.
    """
    valid = (x >= 0) & (x <= image.width) & (y >= 0) & (y <= image.height)
    width, height = image.width, image.height
    size = max(1, round(width / max(1.0, step_px[0]))), max(1, round(height / max(1.0, step_px[1])))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    source = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()[None]
    scale_x, scale_y = image.width / width, image.height / height
    u, v = x * scale_x, y * scale_y
    if wraps:
        source = torch.cat([source[..., -1:], source, source[..., :1]], dim=-1)
        u = u + 1
    grid = np.stack([2 * u / source.shape[-1] - 1, 2 * v / source.shape[-2] - 1], axis=-1)
    grid_t = torch.from_numpy(np.clip(grid, -2.0, 2.0).astype(np.float32))[None]
    sampled = F.grid_sample(source, grid_t, mode="bilinear", padding_mode="border", align_corners=False)
    pixels = sampled[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
    pixels[~valid] = 0
    return View(pixels, valid)
