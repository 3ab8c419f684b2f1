"""From a decoded picture to the view that an encoder sees: a strip in degrees, a plan or a square in metres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from geoview.config import AerialView, GroundView, PlanView, ViewSpec
from geoview.data.exif import PhotoMetadata
from geoview.data.photos import Photo, is_panorama, load_image
from geoview.errors import ConfigError

__all__ = ["Pose", "StreetPhoto", "View", "aerial_view", "fit_view", "seen_nothing"]

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


@dataclass(frozen=True)
class Pose:
    """How a camera is held within a photo, untold: views are laid out as if it looked level.

    Attributes:
        look_deg: Azimuth that it looks in, right of where the view would have it look.
        fov_deg: Azimuth that it sees at most, half of it on each side; 360 is all that the photo shows.
        pitch_deg: How far it looks up.
        roll_deg: How far it leans to the right.
    """

    look_deg: float = 0.0
    fov_deg: float = 360.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0

    @property
    def is_level(self) -> bool:
        """Whether neither pitch nor roll tilts it."""
        return self.pitch_deg == 0.0 and self.roll_deg == 0.0

    def tilted(
        self, azimuth_deg: NDArray[np.floating], elevation_deg: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Turns directions of the camera into those of the level world: by its roll, then by its pitch.

        Args:
            azimuth_deg: Right of where it looks; broadcasts with the elevation.
            elevation_deg: Above its own horizon.

        Returns:
            Azimuth right of where it looks, and elevation above the true horizon.
        """
        azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
        pitch, roll = math.radians(self.pitch_deg), math.radians(self.roll_deg)
        right, ahead, up = np.cos(elevation) * np.sin(azimuth), np.cos(elevation) * np.cos(azimuth), np.sin(elevation)
        right, up = right * math.cos(roll) + up * math.sin(roll), up * math.cos(roll) - right * math.sin(roll)
        ahead, up = ahead * math.cos(pitch) - up * math.sin(pitch), ahead * math.sin(pitch) + up * math.cos(pitch)
        return np.degrees(np.arctan2(right, ahead)), np.degrees(np.arcsin(np.clip(up, -1.0, 1.0)))


@dataclass(frozen=True)
class StreetPhoto:
    """A decoded street photo and its projection; perspective photos have their axis on the horizon.

    Attributes:
        image: RGB.
        fov_deg: Azimuth that its width spans.
        is_panorama: Equirectangular (columns are azimuth, rows elevation); otherwise seen through a rectilinear lens.
        top_deg: Elevation of a panorama's upper edge; None puts the horizon in the middle.
        pose: How the camera was held; for training on photos that are not as well known as they seem.
    """

    image: Image.Image
    fov_deg: float
    is_panorama: bool
    top_deg: float | None = None
    pose: Pose = Pose()

    def __post_init__(self) -> None:
        if not self.is_panorama and not 0 < self.fov_deg < 180:
            raise ConfigError(
                f"fov_deg is {self.fov_deg:g}: a perspective photo spans more than 0 and less than 180 degrees"
            )

    @classmethod
    def open(cls, path: Photo, metadata: PhotoMetadata, *, fov_deg: float | None = None) -> Self:
        """Decodes a photo.

        Args:
            path: The file, or its bytes.
            metadata: What `read_metadata` said of it.
            fov_deg: Field of view of a perspective photo; None is what the metadata tell, or else 65 degrees.

        Raises:
            UnreadableImageError: The photo cannot be decoded.
            ImageTooLargeError: It cannot be decoded in bounded memory.
            ConfigError: No photo spans `fov_deg`.
        """
        image = load_image(path, max_side_px=_MAX_SIDE_PX)
        if not is_panorama(image.size, metadata):
            known_deg = metadata.fov_deg if fov_deg is None else fov_deg
            return cls(image, _DEFAULT_FOV_DEG if known_deg is None else known_deg, False)
        crop = metadata.panorama
        if crop is None:
            return cls(image, 360.0, True)
        return cls(image, crop.fov_deg, True, 90.0 - 180.0 * crop.crop_top_px / crop.full_height_px)

    @property
    def goes_round(self) -> bool:
        """Whether it shows all azimuths."""
        return self.is_panorama and math.isclose(self.fov_deg, 360.0, abs_tol=self.fov_deg / self.image.width)

    def laid_out(self, spec: GroundView | PlanView, heading_deg: float) -> View:
        """Makes the view that `spec` asks for, a strip or a plan.

        Args:
            spec: Geometry of the view.
            heading_deg: Heading of the photo's middle column.
        """
        return self.plan(spec, heading_deg) if isinstance(spec, PlanView) else self.strip(spec, heading_deg)

    def strip(self, spec: GroundView, heading_deg: float | None = None) -> View:
        """Lays the photo on the strip's grid of degrees, the direction that it looks in in the middle.

        Args:
            spec: Geometry of the strip.
            heading_deg: Heading of the photo's middle column. Where it is known and the photo goes all round, the strip
                is turned north, as chips are.

        Returns:
            (spec.height_px, spec.width_px) for a photo that goes all round and is shown so; else as wide as its field
            of view or its pose asks for, in steps of 32 px, at most `spec.width_px`.
        """
        azimuth_deg, elevation_deg = self._strip_grid_deg(spec)
        look_deg = self.pose.look_deg
        if heading_deg is not None and self.goes_round:
            look_deg -= heading_deg
        steps_deg = spec.fov_deg / spec.width_px, spec.vertical_fov_deg / spec.height_px
        return self._sampled(azimuth_deg + look_deg, elevation_deg, steps_deg, look_deg)

    def strip_elevation_deg(self, spec: GroundView) -> NDArray[np.floating]:
        """Returns (H, W): how far above the true horizon lies what each pixel of the strip shows."""
        azimuth_deg, elevation_deg = self._strip_grid_deg(spec)
        if not self.pose.is_level:
            elevation_deg = self.pose.tilted(azimuth_deg, elevation_deg)[1]
        return np.broadcast_to(elevation_deg, (spec.height_px, azimuth_deg.shape[1]))

    def _strip_grid_deg(self, spec: GroundView) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Returns (1, W) azimuths right of the strip's middle and (H, 1) elevations of its pixels' centres."""
        across_deg, up_deg = spec.fov_deg / spec.width_px, spec.vertical_fov_deg / spec.height_px
        steps = math.ceil(min(self.fov_deg, self.pose.fov_deg) / across_deg / _WIDTH_STEP_PX - 1e-9)
        width_px = min(spec.width_px, steps * _WIDTH_STEP_PX)
        azimuth_deg = (np.arange(width_px) + 0.5 - width_px / 2) * across_deg
        elevation_deg = (spec.height_px / 2 - np.arange(spec.height_px) - 0.5) * up_deg
        return azimuth_deg[None, :], elevation_deg[:, None]

    def plan(
        self, spec: PlanView, heading_deg: float, *, eye_height_m: float | None = None, pitch_deg: float = 0.0
    ) -> View:
        """Lays the photo out on level ground, north up, the photographer in the middle.

        Args:
            spec: Geometry of the plan.
            heading_deg: Heading of the photo's middle column.
            eye_height_m: Height of the camera above the ground; None is the first of the spec.
            pitch_deg: How far the camera looks up.

        Returns:
            (spec.size_px, spec.size_px); not valid where the photo does not look.
        """
        down_m = spec.eye_heights_m[0] if eye_height_m is None else eye_height_m
        offset_m = (np.arange(spec.size_px) + 0.5 - spec.size_px / 2) * spec.gsd_m
        east_m, north_m = np.meshgrid(offset_m, -offset_m)
        heading, pitch = math.radians(heading_deg), math.radians(pitch_deg)
        right_m = east_m * math.cos(heading) - north_m * math.sin(heading)
        level_m = east_m * math.sin(heading) + north_m * math.cos(heading)
        ahead_m = level_m * math.cos(pitch) - down_m * math.sin(pitch)
        up_m = -level_m * math.sin(pitch) - down_m * math.cos(pitch)
        azimuth_deg = np.degrees(np.arctan2(right_m, ahead_m))
        elevation_deg = np.degrees(np.arctan2(up_m, np.hypot(right_m, ahead_m)))
        # The finest steps of the plan: across at its edges, up and down half way there.
        across_deg = math.degrees(spec.gsd_m / spec.reach_m)
        up_deg = math.degrees(down_m * spec.gsd_m / (spec.reach_m / 2) ** 2)
        return self._sampled(azimuth_deg, elevation_deg, (across_deg, up_deg), self.pose.look_deg)

    def plans(self, spec: PlanView, headings_deg: Sequence[float]) -> list[tuple[View, float]]:
        """Lays the photo out by each heading and by all that `spec` tries besides.

        Returns:
            The plans, each with its heading.
        """
        return [
            (self.plan(spec, heading_deg, eye_height_m=eye_m, pitch_deg=pitch_deg), heading_deg)
            for eye_m, pitch_deg in self.cameras(spec)
            for heading_deg in headings_deg
        ]

    def cameras(self, spec: PlanView) -> list[tuple[float, float]]:
        """Returns the heights in metres and pitches in degrees of the camera that `plans` tries."""
        eyes_m = spec.eye_heights_m if self.is_panorama else spec.eye_heights_m[:1]
        pitches_deg = (0.0,) if self.is_panorama else spec.pitches_deg
        return [(eye_m, pitch_deg) for eye_m in eyes_m for pitch_deg in pitches_deg]

    def ground_m(
        self, size_px: tuple[int, int], heading_deg: float, *, eye_height_m: float, pitch_deg: float = 0.0
    ) -> NDArray[np.float64]:
        """Finds the level ground that each pixel of the photo is of, as `plan` lays it out; its inverse.

        Args:
            size_px: Width and height at which the photo is looked at.
            heading_deg: Heading of the photo's middle column.
            eye_height_m: Height of the camera above the ground.
            pitch_deg: How far the camera looks up.

        Returns:
            (height, width, 2) metres east and north of the photographer, NaN above the horizon.
        """
        width, height = size_px
        x, y = np.meshgrid((np.arange(width) + 0.5) / width - 0.5, (np.arange(height) + 0.5) / height)
        if self.is_panorama:
            span_deg = self.fov_deg * self.image.height / self.image.width
            top_deg = span_deg / 2 if self.top_deg is None else self.top_deg
            azimuth, elevation = np.radians(x * self.fov_deg), np.radians(top_deg - y * span_deg)
            right, ahead = np.cos(elevation) * np.sin(azimuth), np.cos(elevation) * np.cos(azimuth)
            up = np.sin(elevation)
        else:
            across = 2 * math.tan(math.radians(self.fov_deg) / 2)
            right, ahead = x * across, np.ones_like(x)
            up = (0.5 - y) * across * self.image.height / self.image.width
        heading, pitch = math.radians(heading_deg), math.radians(pitch_deg)
        level = ahead * math.cos(pitch) - up * math.sin(pitch)
        down = -(ahead * math.sin(pitch) + up * math.cos(pitch))
        reach = eye_height_m / np.where(down > 1e-6, down, np.nan)
        east_m = reach * (right * math.cos(heading) + level * math.sin(heading))
        north_m = reach * (level * math.cos(heading) - right * math.sin(heading))
        return np.stack([east_m, north_m], axis=-1)

    def _sampled(
        self,
        azimuth_deg: NDArray[np.floating],
        elevation_deg: NDArray[np.floating],
        step_deg: tuple[float, float],
        look_deg: float,
    ) -> View:
        """Samples the photo in directions of its camera that broadcast to (H, W).

        Azimuth is right of the photo's middle column, and so is `look_deg`, where the camera looks. `step_deg` is the
        distance of neighbouring samples, across and up.
        """
        off_axis_deg = (azimuth_deg - look_deg + 180.0) % 360.0 - 180.0
        if not self.pose.is_level:
            azimuth_deg, elevation_deg = self.pose.tilted(off_axis_deg, elevation_deg)
            azimuth_deg = azimuth_deg + look_deg
        view = self._sampled_level(azimuth_deg, elevation_deg, step_deg)
        if self.pose.fov_deg >= 360.0:
            return view
        seen = view.valid & (np.abs(off_axis_deg) <= self.pose.fov_deg / 2)
        return View(np.where(seen[..., None], view.pixels, np.uint8(0)), seen)

    def _sampled_level(
        self, azimuth_deg: NDArray[np.floating], elevation_deg: NDArray[np.floating], step_deg: tuple[float, float]
    ) -> View:
        """Samples the photo in true directions, as `_sampled` does."""
        width, height = self.image.size
        azimuth_deg = (azimuth_deg + 180.0) % 360.0 - 180.0
        if self.is_panorama:
            degrees_per_px = self.fov_deg / width
            top_deg = height * degrees_per_px / 2 if self.top_deg is None else self.top_deg
            x, y = (azimuth_deg / self.fov_deg + 0.5) * width, (top_deg - elevation_deg) / degrees_per_px
            step_px = step_deg[0] / degrees_per_px, step_deg[1] / degrees_per_px
            return _sample(self.image, *np.broadcast_arrays(x, y), step_px=step_px, wraps=self.goes_round)
        focal_px = width / 2 / math.tan(math.radians(self.fov_deg) / 2)
        azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
        ahead = np.cos(azimuth) > 1e-6
        cosine = np.where(ahead, np.cos(azimuth), 1.0)
        x = np.where(ahead, width / 2 + focal_px * np.sin(azimuth) / cosine, -1.0)
        y = height / 2 - focal_px * np.tan(elevation) / cosine
        step_px = math.radians(step_deg[0]) * focal_px, math.radians(step_deg[1]) * focal_px
        return _sample(self.image, *np.broadcast_arrays(x, y), step_px=step_px, wraps=False)


def seen_nothing(path: str, spec: ViewSpec) -> str:
    """Returns what to tell of a photo none of whose views shows anything: it has no vector."""
    ground = f", the ground within {spec.reach_m:.0f} m of the camera" if isinstance(spec, PlanView) else ""
    return f"{path}: shows nothing of what this encoder looks at{ground}; check its field of view or scale"


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
