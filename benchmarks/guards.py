"""What must fail on rendered worlds, and what must change nothing: guards against shortcuts, for `rendered.py`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

import tiles
from geoview.config import InferenceConfig
from geoview.data.photos import load_image
from geoview.data.queries import PhotoQuery
from geoview.demo import APART_M, TOP_K, locate_unaided
from geoview.geo import cells
from geoview.index.cell_index import CellIndex
from geoview.locate.localizer import Localization
from geoview.locate.posterior import cells_a_place, distinct_places
from geoview.models.encoder import CrossViewEncoder
from geoview.topk import top_k

HISTOGRAM_BINS = 6
LOTS = 5
CHECKED = 100

Answers = list[Localization]


def random_weights(encoder: Path, work: Path) -> Path:
    """Writes an encoder of the same architecture and views that has learnt nothing."""
    trained = CrossViewEncoder.load(encoder)
    torch.manual_seed(0)
    fresh = CrossViewEncoder(
        trained.architecture,
        ground=trained.ground,
        aerial=trained.aerial,
        backbone_args=trained.backbone_args,
        colour=trained.colour,
        **trained.form,
    )
    return fresh.save(work / f"untrained_{fresh.fingerprint()}", overwrite=True)


def histogram_answers(index: CellIndex, source: tiles.ImagerySource, photos: list[PhotoQuery]) -> Answers:
    """Ranks the cells by the inner product of joint RGB histograms (Hellinger kernel)."""
    ids, view = index.cell_ids(), index.chip
    chips = (source.chip(c, size_px=view.size_px, gsd_m=view.gsd_m) for c in cells.centers_deg(ids))
    references = np.stack([histogram(chip.pixels[chip.valid]) for chip in chips])
    queries = np.stack([histogram(lower_half(photo.path)) for photo in photos])
    rows, scores = top_k(
        queries, [(np.arange(len(references)), references)], cells_a_place(index.level, APART_M) * TOP_K
    )
    return [answer(photo.path, ids[r[r >= 0]], s[r >= 0]) for photo, r, s in zip(photos, rows, scores, strict=True)]


def lower_half(path: str) -> NDArray[np.uint8]:
    pixels = np.asarray(load_image(path).convert("RGB"))
    return pixels[len(pixels) // 2 :].reshape(-1, 3)


def histogram(colours: NDArray[np.uint8]) -> NDArray[np.float32]:
    binned = colours.astype(np.int64) * HISTOGRAM_BINS // 256
    counts = np.bincount(binned @ [HISTOGRAM_BINS**2, HISTOGRAM_BINS, 1], minlength=HISTOGRAM_BINS**3)
    return np.asarray(np.sqrt(counts / max(1, counts.sum())), np.float32)


def by_lot(index: CellIndex, n_photos: int) -> Answers:
    """Draws places at random, `LOTS` times for each photo, by the rule that answers follow."""
    rng = np.random.default_rng(0)
    ids = np.unique(index.cell_ids())
    k = min(len(ids), cells_a_place(index.level, APART_M) * TOP_K)
    score = np.linspace(1, 0, k, dtype=np.float32)
    return [answer("", rng.choice(ids, k, replace=False), score) for _ in range(LOTS * n_photos)]


def answer(path: str, ids: NDArray[np.uint64], score: NDArray[np.float32]) -> Localization:
    return Localization(path, "ok", distinct_places(ids, score, TOP_K, apart_m=APART_M))


def locate_above(
    least_deg: float, index: CellIndex, photos: list[PhotoQuery], inference: InferenceConfig, work: Path
) -> Answers:
    """Locates photos that are painted over below an elevation, with the mean colour of what is left."""
    folder = work / f"above_{least_deg:g}"
    folder.mkdir(parents=True, exist_ok=True)
    painted = []
    for number, photo in enumerate(photos):
        painted.append(replace(photo, path=str(folder / f"{number:05d}.jpg")))
        paint_below(least_deg, photo, painted[-1].path)
    return locate_unaided(index, painted, inference)


def paint_below(least_deg: float, photo: PhotoQuery, path: str) -> None:
    """Writes a photo without what is below an elevation, its metadata kept."""
    image = load_image(photo.path).convert("RGB")
    pixels, (width, height) = np.array(image), image.size
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, height / 2 - np.arange(height) - 0.5)
    assert photo.fov_deg is not None, "rendered photos come with their field of view"
    if photo.fov_deg == 360:
        elevation_deg = y * 360 / width
    else:
        focal_px = width / 2 / math.tan(math.radians(photo.fov_deg / 2))
        elevation_deg = np.degrees(np.arctan2(y, np.hypot(x, focal_px)))
    above = elevation_deg >= least_deg
    pixels[~above] = pixels[above].mean(axis=0).round() if above.any() else 127
    with Image.open(photo.path) as original:
        metadata = {key: original.info[key] for key in ("exif", "xmp") if key in original.info}
    Image.fromarray(pixels).save(path, quality=95, **metadata)


def metadata_check(
    index: CellIndex, photos: list[PhotoQuery], inference: InferenceConfig, work: Path
) -> dict[str, Any]:
    """Tells whether photos with no metadata, and with false ones, have the same answers."""
    # Evenly spaced, so that both kinds are among them. Asked again: another batch rounds otherwise.
    photos = photos[:: max(1, len(photos) // CHECKED)]
    answers = locate_unaided(index, photos, inference)
    check: dict[str, Any] = {"photos": len(photos)}
    for name, change in (("stripped", lambda _: None), ("falsified", falsified)):
        folder = work / "metadata" / name
        folder.mkdir(parents=True, exist_ok=True)
        changed = []
        for number_, photo in enumerate(photos):
            path = folder / f"{number_:05d}.jpg"
            path.write_bytes(with_metadata(Path(photo.path).read_bytes(), change))
            changed.append(replace(photo, path=str(path)))
        again = locate_unaided(index, changed, inference)
        check[f"answers_equal_when_{name}"] = all(
            one.status == "ok" and one.places == other.places for one, other in zip(answers, again, strict=True)
        )
    return check


def with_metadata(jpeg: bytes, change: Callable[[bytes], bytes | None]) -> bytes:
    """Changes or drops the APP1 segments of a JPEG file, EXIF and XMP; every other byte stays.

    Segments are a marker and a big-endian length that counts itself (ITU-T T.81, B.1.1.4), up to the start of scan.
    """
    parts, at = [jpeg[:2]], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        segment: bytes | None = jpeg[at:end]
        if jpeg[at + 1] == 0xE1 and (content := change(jpeg[at + 4 : end])) is not None:
            segment = b"\xff\xe1" + (len(content) + 2).to_bytes(2) + content
        elif jpeg[at + 1] == 0xE1:
            segment = None
        parts += [segment] if segment is not None else []
        at = end
    return b"".join([*parts, jpeg[at:]])


def falsified(content: bytes) -> bytes:
    """Returns an APP1 segment that tells lies: the antipodes, another heading, lens and year."""
    if not content.startswith(b"Exif\0\0"):
        return re.sub(rb'PoseHeadingDegrees="[^"]*"', b'PoseHeadingDegrees="123.45"', content)
    exif = Image.Exif()
    gps, photo = exif.get_ifd(IFD.GPSInfo), exif.get_ifd(IFD.Exif)
    gps[GPS.GPSLatitudeRef], gps[GPS.GPSLatitude] = "S", (33.0, 52.0, 10.0)
    gps[GPS.GPSLongitudeRef], gps[GPS.GPSLongitude] = "W", (70.0, 40.0, 30.0)
    gps[GPS.GPSImgDirectionRef], gps[GPS.GPSImgDirection] = "T", 123.45
    photo[Base.DateTimeOriginal], photo[Base.FocalLengthIn35mmFilm] = "1999:12:31 23:59:59", 200
    return exif.tobytes()
