"""Street photos as files: what a camera's electronics make of a view, and what the file says of it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational
from tqdm import tqdm

from geoview.files import full_disk_told, write_binary, write_text
from geoview.render.camera import Camera, Panorama, Perspective
from geoview.render.scene import Scene
from geoview.render.shading import render
from geoview.render.shots import Shot

__all__ = ["PHOTO_FIELDS", "finish", "write_shots", "write_table"]

PHOTO_FIELDS = ("path", "lat", "lon", "heading_deg", "fov_deg", "captured_at")

_FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)
_GPANO = "http://ns.google.com/photos/1.0/panorama/"


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
