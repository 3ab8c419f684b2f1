"""Street photos of a scene, as files: where photographers stand, their light and cameras, and what the files say."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from fractions import Fraction
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational
from scipy import ndimage
from tqdm import tqdm

from geoview.errors import RenderError
from geoview.files import full_disk_told, write_binary, write_text
from geoview.render.camera import Camera, Panorama, Perspective, render
from geoview.render.scene import Cover, Scene
from geoview.render.sky import Light

__all__ = [
    "PHOTO_FIELDS",
    "Shot",
    "Stand",
    "View",
    "draw_shots",
    "finish",
    "write_photos",
    "write_shots",
    "write_table",
]

PHOTO_FIELDS = ("path", "lat", "lon", "heading_deg", "fov_deg", "captured_at")

_ROAD_SHARE = 0.75
_WALL_GAP_M = 1.2
_FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)
_ASPECTS = (4 / 3, 3 / 2, 16 / 9, 3 / 4)
_ASPECT_WEIGHTS = (0.4, 0.25, 0.25, 0.1)
_GPANO = "http://ns.google.com/photos/1.0/panorama/"


@dataclass(frozen=True)
class View:
    """What kind of photo is taken.

    Attributes:
        kind: `panorama`, all round, or `perspective`.
        size_px: Width of a panorama, long side of a perspective photo.
        fov_deg: Least and largest horizontal field of view of perspective photos.
        vertical_fov_deg: Elevation that a panorama spans.
        range_m: How far a camera sees, at most.
        least_range_m: How far it must see before the map ends; nobody stands nearer to the edge.
    """

    kind: Literal["panorama", "perspective"] = "panorama"
    size_px: int = 512
    fov_deg: tuple[float, float] = (60.0, 110.0)
    vertical_fov_deg: float = 90.0
    range_m: float = 100.0
    least_range_m: float = 100.0


@dataclass(frozen=True)
class Shot:
    """A photo to be taken: everything about it but the scene."""

    path: Path
    camera: Camera
    light: Light
    latlon_deg: tuple[float, float]
    captured_at: datetime | None
    seed: tuple[int, int]
    """Of the camera's electronics."""

    @property
    def fov_deg(self) -> float:
        """Horizontal field of view."""
        projection = self.camera.projection
        return projection.fov_deg if isinstance(projection, Perspective) else 360.0


@dataclass(frozen=True)
class Stand:
    """Where photographers may stand in a scene.

    Attributes:
        scene: The scene.
        margin_m: Distance from the edge of the map within which nobody stands.
        roads: (H, W) bool, where three quarters of them stand; None where it is not known.
        valid: (H, W) bool, where the map holds something; None for everywhere.
    """

    scene: Scene
    margin_m: float
    roads: NDArray[np.bool_] | None = None
    valid: NDArray[np.bool_] | None = None

    def drawn(self, rng: np.random.Generator) -> tuple[float, float]:
        """Draws a position in the scene's local frame.

        Raises:
            RenderError: There is no place to stand.
        """
        on_road = rng.random() < _ROAD_SHARE
        pixels = self._road_px if on_road and len(self._road_px) else self._open_px
        row, column = divmod(int(pixels[rng.integers(len(pixels))]), self.scene.grid.shape[1])
        right, down = rng.random(2)
        gsd_m = self.scene.grid.gsd_m
        return float(column + right) * gsd_m, float(row + down) * gsd_m

    def check(self, xy_m: tuple[float, float]) -> None:
        """Tells whether a photographer can stand at a position in the scene's local frame.

        Raises:
            RenderError: It is outside the map or too near to where it ends, or something stands there.
        """
        sight_m, gsd_m = self.sight_m(xy_m), self.scene.grid.gsd_m
        if sight_m <= 0:
            raise RenderError("outside the map; give a position on it")
        if sight_m < self.margin_m:
            raise RenderError(
                f"map ends in view: {sight_m:.0f} m from the camera, which must see {self.margin_m:.0f} m; "
                "give a position further inside"
            )
        row, column = int(xy_m[1] / gsd_m), int(xy_m[0] / gsd_m)
        if not self.scene.standing[row, column]:
            what = Cover(int(self.scene.cover[row, column])).name.lower()
            raise RenderError(f"nobody can stand there ({what}); give a position on open ground")

    def sight_m(self, xy_m: tuple[float, float]) -> float:
        """Returns how far the map reaches around a position, negative outside."""
        (x, y), (width, height), gsd_m = xy_m, self.scene.grid.size_m, self.scene.grid.gsd_m
        to_edge_m = min(x, y, width - x, height - y)
        if to_edge_m <= 0 or self._to_void_m is None:
            return to_edge_m
        return min(to_edge_m, float(self._to_void_m[int(y / gsd_m), int(x / gsd_m)]))

    @cached_property
    def _to_void_m(self) -> NDArray[np.float32] | None:
        """(H, W), at most the distance to where the map holds nothing; None where it holds something everywhere."""
        if self.valid is None or self.valid.all():
            return None
        # Between pixel centres; position and void may each be nearer by half a diagonal.
        distance_px = ndimage.distance_transform_edt(self.valid) - math.sqrt(2.0)
        return np.asarray(distance_px * self.scene.grid.gsd_m, np.float32)

    @cached_property
    def _open_px(self) -> NDArray[np.intp]:
        """Flat indices of the pixels to stand on: inside, and an arm away from whatever is higher than a step."""
        grid = self.scene.grid
        margin_px = math.ceil(self.margin_m / grid.gsd_m)
        rows, columns = (slice(margin_px, side - margin_px) for side in grid.shape)
        if 2 * margin_px >= min(grid.shape):
            width_m, height_m = grid.size_m
            raise RenderError(
                f"map ends in view: it is {width_m:.0f} x {height_m:.0f} m, and a camera must see "
                f"{self.margin_m:.0f} m each way; lower range_m or give a larger map"
            )
        tall = self.scene.surface_m - self.scene.terrain_m > 0.6
        tall |= self.scene.cover == Cover.BUILDING
        gap_px = 2 * math.ceil(_WALL_GAP_M / grid.gsd_m) + 1
        free = self.scene.standing & (ndimage.maximum_filter(tall.view(np.uint8), gap_px) == 0)
        if self._to_void_m is not None:
            free &= self._to_void_m >= self.margin_m
        inside = np.zeros_like(free)
        inside[rows, columns] = free[rows, columns]
        pixels = np.flatnonzero(inside)
        if not len(pixels):
            raise RenderError(
                f"no open ground or road {self.margin_m:.0f} m or more from the edge of the map to stand on; "
                "lower range_m or give a larger map"
            )
        return pixels

    @cached_property
    def _road_px(self) -> NDArray[np.intp]:
        if self.roads is None:
            return self._open_px[:0]
        return self._open_px[self.roads.ravel()[self._open_px]]


def draw_shots(stand: Stand, folder: Path, n: int, view: View, *, seed: int, day: date | None) -> list[Shot]:
    """Draws photos to be taken. The first of many are the same as those of few.

    Args:
        stand: Where photographers may stand.
        folder: Where the files go.
        n: How many.
        view: Their kind.
        seed: Of everything drawn.
        day: When the scene looks as it does, and photos are taken within a week of it; None where it is not known, and
            photos do not tell when they were taken.

    Returns:
        n shots.

    Raises:
        RenderError: There is no place to stand.
    """
    shots = []
    for number in range(n):
        rng = np.random.default_rng([seed, number, 0])
        shots.append(_drawn_shot(rng, stand, stand.drawn(rng), folder, view, seed, number, day))
    return shots


def shots_at(
    stand: Stand, latlon_deg: NDArray[np.float64], folder: Path, view: View, *, seed: int, day: date | None
) -> list[Shot | RenderError]:
    """Draws a photo for each of given positions.

    Args:
        stand: Where photographers may stand.
        latlon_deg: (n, 2) positions.
        folder: Where the files go.
        view: Their kind.
        seed: Of everything else.
        day: As for `draw_shots`.

    Returns:
        n shots, or what is wrong with the position.
    """
    found: list[Shot | RenderError] = []
    for number, (x, y) in enumerate(stand.scene.grid.xy_m(latlon_deg)):
        rng = np.random.default_rng([seed, number, 0])
        try:
            stand.check((float(x), float(y)))
            found.append(_drawn_shot(rng, stand, (float(x), float(y)), folder, view, seed, number, day))
        except RenderError as fault:
            found.append(fault)
    return found


def write_photos(
    scene: Scene,
    out: Path,
    n: int,
    view: View,
    *,
    seed: int,
    day: date,
    roads: NDArray[np.bool_] | None = None,
    num_workers: int = 2,
) -> list[Shot]:
    """Takes photos of a scene: `photos/<kind>_<number>.jpg` and the table `photos.csv`.

    Photos that are there already are kept, so that a run that was cut off goes on.

    Args:
        scene: What is photographed.
        out: Folder to write to.
        n: How many photos.
        view: Their kind.
        seed: Of everything drawn; each photo depends on it and its own number alone.
        day: When the scene looks as it does.
        roads: (H, W) bool, where most photographers stand; elsewhere is anywhere open.
        num_workers: Processes.

    Returns:
        What was taken, in the order of the table.

    Raises:
        RenderError: There is no place to stand, or the map is too small.
        StorageFullError: The disk is full.
    """
    shots = draw_shots(Stand(scene, view.least_range_m, roads), out / "photos", n, view, seed=seed, day=day)
    write_shots(scene, shots, num_workers=num_workers)
    write_table(out / "photos.csv", shots)
    return shots


def write_shots(scene: Scene, shots: Sequence[Shot], *, num_workers: int = 2) -> None:
    """Renders and writes those of the photos that are not there yet.

    Args:
        scene: What is photographed.
        shots: The photos.
        num_workers: Processes.

    Raises:
        StorageFullError: The disk is full.
    """
    missing = [shot for shot in shots if not shot.path.exists()]
    if not missing:
        return
    # Found once, for all workers to share.
    _ = scene.trunks, scene.buildings
    with tqdm(total=len(shots), initial=len(shots) - len(missing), desc="photos", unit="photo", disable=None) as bar:
        if num_workers == 1:
            for shot in missing:
                _write(scene, shot)
                bar.update()
            return
        # A forked child has the scene's arrays without copying them; it runs NumPy and Pillow only, whose threads
        # survive a fork.
        with ProcessPoolExecutor(num_workers, get_context("fork"), _hold, (scene,)) as pool:
            for _ in pool.map(_write_held, missing, chunksize=4):
                bar.update()


def write_table(path: Path, shots: Sequence[Shot]) -> None:
    """Writes a photo table whose paths are relative to itself.

    Args:
        path: The CSV file.
        shots: Its rows.
    """
    with full_disk_told(path), write_text(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(PHOTO_FIELDS)
        for shot in shots:
            lat, lon = shot.latlon_deg
            numbers = f"{lat:.8f}", f"{lon:.8f}", f"{shot.camera.heading_deg:.3f}", f"{shot.fov_deg:.3f}"
            time = "" if shot.captured_at is None else shot.captured_at.isoformat()
            table.writerow([shot.path.relative_to(path.parent).as_posix(), *numbers, time])


def finish(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Does what a camera's lens and electronics do: exposure, white balance, tone, vignetting, blur and noise.

    Args:
        pixels: (H, W, 3) as rendered.
        rng: Source of what is drawn.

    Returns:
        (H, W, 3).
    """
    # Automatic exposure gets most of the way to a middle grey, and misses it a little.
    exposure = (0.45 / max(float(pixels.mean()) / 255, 0.05)) ** 0.6 * math.exp(rng.normal(0.0, 0.15))
    gains = exposure * np.exp(rng.normal(0.0, 0.05, 3))
    gamma, contrast, saturation = np.exp(rng.normal(0.0, (0.12, 0.12, 0.2)))
    height, width = pixels.shape[:2]
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    falloff = 1 - np.float32(rng.uniform(0.0, 0.3)) * (x * x + y * y)[..., None] / 2
    soft = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.7)))
    seen = np.asarray(soft, np.float32) / 255 * falloff * gains.astype(np.float32)
    seen = np.clip(seen, 0.0, 1.2) ** np.float32(gamma)
    grey = seen.mean(axis=2, keepdims=True)
    seen = grey + (seen - grey) * np.float32(saturation)
    seen = 0.5 + (seen - 0.5) * np.float32(contrast)
    seen += rng.standard_normal(seen.shape, np.float32) * np.float32(rng.uniform(0.002, 0.02))
    return np.asarray(np.clip(seen, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


# -- what is drawn for a photo -----------------------------------------------------------------------------------------


def _drawn_shot(
    rng: np.random.Generator,
    stand: Stand,
    xy_m: tuple[float, float],
    folder: Path,
    view: View,
    seed: int,
    number: int,
    day: date | None,
) -> Shot:
    lat, lon = (float(v) for v in stand.scene.grid.latlon_deg(np.array(xy_m)))
    captured_at = _drawn_time(rng, date(2000, 1, 1) if day is None else day, lon)
    return Shot(
        path=folder / f"{view.kind}_{number:05d}.jpg",
        # A rounding less than the map reaches.
        camera=_drawn_camera(rng, xy_m, view, min(view.range_m, stand.sight_m(xy_m) - 1e-3)),
        light=_drawn_light(rng, captured_at, lat),
        latlon_deg=(lat, lon),
        captured_at=None if day is None else captured_at,
        seed=(seed, number),
    )


def _drawn_camera(rng: np.random.Generator, xy_m: tuple[float, float], view: View, range_m: float) -> Camera:
    heading_deg, eye_m = rng.uniform(0.0, 360.0), rng.uniform(1.4, 2.6)
    projection: Panorama | Perspective
    if view.kind == "panorama":
        height_px = max(1, round(view.size_px * view.vertical_fov_deg / 360.0))
        projection = Panorama(view.size_px, height_px, view.vertical_fov_deg)
        tilt_deg = 0.7  # stitched level
    else:
        aspect = float(rng.choice(_ASPECTS, p=_ASPECT_WEIGHTS))
        size_px = round(view.size_px * min(1.0, aspect)), round(view.size_px / max(1.0, aspect))
        projection = Perspective(*size_px, float(rng.uniform(*view.fov_deg)))
        tilt_deg = 3.0
    pitch_deg, roll_deg = np.clip(rng.normal(0.0, tilt_deg, 2), -3 * tilt_deg, 3 * tilt_deg)
    return Camera(
        xy_m=xy_m,
        heading_deg=round(float(heading_deg), 2) % 360.0,
        projection=projection,
        eye_m=float(eye_m),
        pitch_deg=float(pitch_deg),
        roll_deg=float(roll_deg),
        range_m=range_m,
    )


def _drawn_time(rng: np.random.Generator, day: date, lon_deg: float) -> datetime:
    """Draws a time between 8 and 17 o'clock within a week of the day, in the zone that the longitude suggests."""
    zone = timezone(timedelta(hours=round(lon_deg / 15.0)))
    start = datetime(day.year, day.month, day.day, 8, tzinfo=zone)
    return start + timedelta(days=int(rng.integers(-7, 8)), seconds=int(rng.integers(9 * 3600)))


def _drawn_light(rng: np.random.Generator, captured_at: datetime, lat_deg: float) -> Light:
    hours_from_noon = captured_at.hour + captured_at.minute / 60 - 12.0
    # The sun turns by 15 degrees an hour, sunwise in the north, the other way in the south; zones are not that exact.
    turn_deg = 15.0 * hours_from_noon + rng.normal(0.0, 15.0)
    azimuth_deg = 180.0 + turn_deg if lat_deg >= 0 else -turn_deg
    return Light(
        sun_azimuth_deg=float(azimuth_deg % 360.0),
        sun_elevation_deg=float(rng.uniform(10.0, 65.0)),
        overcast=float(rng.choice([rng.uniform(0.0, 0.3), rng.uniform(0.3, 1.0)])),
        haze_m=float(math.exp(rng.uniform(math.log(150.0), math.log(2500.0)))),
        sky_seed=int(rng.integers(2**31)),
    )


# -- files -------------------------------------------------------------------------------------------------------------

_held: list[Scene] = []


def _hold(scene: Scene) -> None:
    _held.append(scene)


def _write_held(shot: Shot) -> None:
    _write(_held[-1], shot)


def _write(scene: Scene, shot: Shot) -> None:
    rng = np.random.default_rng([*shot.seed, 1])
    image = Image.fromarray(finish(render(scene, shot.camera, shot.light), rng))
    buffer = io.BytesIO()
    xmp = {"xmp": _gpano(shot.camera)} if isinstance(shot.camera.projection, Panorama) else {}
    image.save(buffer, "JPEG", quality=int(rng.integers(60, 96)), exif=_exif(shot), **xmp)
    with full_disk_told(shot.path), write_binary(shot.path) as file:
        file.write(buffer.getvalue())


def _exif(shot: Shot) -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Model] = "geoview", "renderer"
    gps, photo = exif.get_ifd(IFD.GPSInfo), exif.get_ifd(IFD.Exif)
    lat, lon = shot.latlon_deg
    gps[GPS.GPSLatitudeRef], gps[GPS.GPSLatitude] = "N" if lat >= 0 else "S", _sexagesimal(lat)
    gps[GPS.GPSLongitudeRef], gps[GPS.GPSLongitude] = "E" if lon >= 0 else "W", _sexagesimal(lon)
    gps[GPS.GPSImgDirectionRef] = "T"
    gps[GPS.GPSImgDirection] = IFDRational(Fraction(round(shot.camera.heading_deg * 100), 100))
    if shot.captured_at is not None:
        photo[Base.DateTimeOriginal] = f"{shot.captured_at:%Y:%m:%d %H:%M:%S}"
        photo[Base.OffsetTimeOriginal] = shot.captured_at.isoformat()[-6:]
    if isinstance(projection := shot.camera.projection, Perspective):
        # Whole millimetres, as the standard has it: the photo table is the exact one.
        diagonal_px = math.hypot(projection.width_px, projection.height_px)
        film_width_mm = _FILM_DIAGONAL_MM * projection.width_px / diagonal_px
        photo[Base.FocalLengthIn35mmFilm] = round(film_width_mm / 2 / math.tan(math.radians(projection.fov_deg) / 2))
    return exif


def _sexagesimal(angle_deg: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    """Returns degrees, minutes and seconds to a tenth of a millisecond: 3 mm."""
    ticks = round(abs(angle_deg) * 3600 * 10_000)
    minutes, seconds = divmod(ticks, 60 * 10_000)
    degrees, minutes = divmod(minutes, 60)
    return IFDRational(degrees), IFDRational(minutes), IFDRational(seconds, 10_000)


def _gpano(camera: Camera) -> bytes:
    """Returns the XMP packet of a panorama: all round, a part of the sphere's height."""
    projection = camera.projection
    assert isinstance(projection, Panorama)
    full_height_px = round(projection.height_px * 180.0 / projection.vertical_fov_deg)
    values = {
        "ProjectionType": "equirectangular",
        "UsePanoramaViewer": "True",
        "PoseHeadingDegrees": f"{camera.heading_deg:.2f}",
        "FullPanoWidthPixels": projection.width_px,
        "FullPanoHeightPixels": full_height_px,
        "CroppedAreaLeftPixels": 0,
        "CroppedAreaTopPixels": (full_height_px - projection.height_px) // 2,
        "CroppedAreaImageWidthPixels": projection.width_px,
        "CroppedAreaImageHeightPixels": projection.height_px,
    }
    attributes = " ".join(f'GPano:{name}="{value}"' for name, value in values.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:GPano="{_GPANO}" {attributes}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()
