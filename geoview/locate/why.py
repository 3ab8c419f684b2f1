"""Why a place: which regions of the photo and of the chip speak for it, and which against it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import tiles
from geoview.config import PlanView, Seen
from geoview.data.photos import read_metadata
from geoview.data.queries import PhotoQuery
from geoview.data.views import StreetPhoto
from geoview.embed import Picture
from geoview.errors import ConfigError, GeoviewError, OutputExistsError
from geoview.files import full_disk_told, write_binary
from geoview.geo import cells
from geoview.locate.embedding import PhotoView, prepared_photo
from geoview.locate.localizer import Localization, Localizer
from geoview.models.encoder import CrossViewEncoder

__all__ = ["Drawn", "Explainer", "Reasons", "check_folder", "reasons"]

log = logging.getLogger(__name__)

_PLACES = 3
_HEIGHT_PX, _WIDEST_PX, _GAP_PX, _CAPTION_PX = 320, 640, 12, 64
_JPEG_QUALITY = 90
# Squares fewer than these a side tell their figures.
_FEW_SQUARES = 4
_FOR, _AGAINST, _PAPER, _INK = (220, 38, 38), (37, 99, 235), (255, 255, 255), (29, 39, 51)
_STRONGEST = 0.45
# Pale where there is no picture: black would look like a picture of something.
_NOTHING = np.array([226, 232, 240], np.uint8)


@dataclass(frozen=True)
class Reasons:
    """How the cosine of a photo and a chip comes about.

    Attributes:
        score: The cosine; the sum of either map.
        photo: (h, w) what each square of the photo, as the encoder sees it, adds to it.
        chip: (h, w) what each square of the chip adds to it.
    """

    score: float
    photo: NDArray[np.float32]
    chip: NDArray[np.float32]


@dataclass(frozen=True)
class Drawn:
    """A photo and the chip of a place, tinted: red speaks for the place, blue against it, the stronger the deeper.

    Attributes:
        cosine: Of photo and chip; what all squares of either add up to.
        heading_deg: Of the photo's middle column, as it was laid out; None where that does not matter.
        photo: The photo itself, tinted on the ground that it shows where the encoder sees a plan of that, and plain
            elsewhere; None of photos from above.
        seen: The photo as the encoder sees it.
        chip: As the encoder sees it, north up.
    """

    cosine: float
    heading_deg: float | None
    photo: Image.Image | None
    seen: Image.Image
    chip: Image.Image

    def sheet(self, title: str) -> Image.Image:
        """Returns all pictures side by side, over a title and what their colours mean."""
        looking = "" if self.heading_deg is None else f", looking {self.heading_deg:.0f} degrees"
        return _side_by_side(
            [panel for panel in (self.photo, self.seen, self.chip) if panel is not None],
            f"{title}{looking}",
            f"cosine with this chip {self.cosine:.4f}, the sum of all squares: "
            "red speaks for the place, blue against it",
        )


def reasons(encoder: CrossViewEncoder, photo: Picture, chip: Picture, *, seen: Seen) -> Reasons:
    """Splits the cosine of a photo and a chip by their squares, as `CrossViewEncoder.parts` splits embeddings: exactly.

    With the `grid` head, squares of photo and chip are compared one by one and both maps are the same. With the others,
    every position of one picture is compared with the whole of the other.

    Args:
        encoder: In evaluation mode.
        photo: As the encoder sees it.
        chip: As the encoder sees it.
        seen: What the photo is of.

    Raises:
        EncoderError: The encoder's embeddings are no sums over squares.
    """
    return _reasons(_parts(encoder, photo, seen), _parts(encoder, chip, "aerial"))


def _reasons(photo: NDArray[np.float32], chip: NDArray[np.float32]) -> Reasons:
    whole_photo, whole_chip = photo.sum(axis=(0, 1)), chip.sum(axis=(0, 1))
    return Reasons(float(whole_photo @ whole_chip), photo @ whole_chip, chip @ whole_photo)


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Makes the folder of the pictures, and takes out those of before where that is asked for.

    Raises:
        ConfigError: It is a file.
        OutputExistsError: It has something in it and `overwrite` is off.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; name a folder for --why")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not overwrite:
        raise OutputExistsError(f"{folder}: is not empty; choose another --why or give --overwrite")
    for picture in folder.glob("why_*_*.jpg"):
        picture.unlink()


class Explainer:
    """Draws photos beside the chips of their places, with what speaks for and against each."""

    def __init__(self, localizer: Localizer, imagery: tiles.ImagerySource) -> None:
        """Checks that the encoder's reasons can be told.

        Args:
            localizer: That gives the answers.
            imagery: Where chips are cut from.

        Raises:
            EncoderError: The encoder's embeddings are no sums over squares.
        """
        self._localizer, self._imagery = localizer, imagery
        size_px = localizer.encoder.aerial.size_px
        localizer.encoder.parts(torch.zeros(1, 3, size_px, size_px, device=_device(localizer.encoder)))

    def write(
        self, folder: Path, number: int, query: PhotoQuery, answer: Localization, view: PhotoView | None = None
    ) -> None:
        """Writes `why_<number>_<rank>.jpg` for the first three places of an answer.

        A photo or chip that cannot be read is told, and stops nothing.

        Args:
            folder: Where to.
            number: Of the photo among those asked about.
            query: The photo.
            answer: Its answer.
            view: What the photo shows.

        Raises:
            StorageFullError: The disk is full.
        """
        for rank, place in enumerate(answer.places[:_PLACES], start=1):
            known = query if place.heading_deg is None else replace(query, heading_deg=place.heading_deg)
            try:
                drawn = self.drawn(known, place.latlon_deg, view)
            except (GeoviewError, tiles.TilesError) as error:
                log.warning("no reasons are shown: %s", error)
                continue
            token = cells.tokens(np.array([place.cell_id], np.uint64))[0]
            lat, lon = place.latlon_deg
            title = f"photo {number}, rank {rank}: score {place.score:.4f}, cell {token}, {lat:.6f}, {lon:.6f}"
            with full_disk_told(folder), write_binary(folder / f"why_{number:04d}_{rank}.jpg") as file:
                drawn.sheet(title).save(file, "JPEG", quality=_JPEG_QUALITY)

    def drawn(self, query: PhotoQuery, latlon_deg: tuple[float, float], view: PhotoView | None = None) -> Drawn:
        """Draws a photo and the chip around a place with what speaks for and against it.

        Where the encoder sees a plan, the map is drawn on the photo, too, on the ground that each pixel is of.

        Args:
            query: The photo. Of the ways in which it may have been taken, such as headings where none is known, the
                one most like the chip counts.
            latlon_deg: Middle of the chip.
            view: What the photo shows.

        Raises:
            GeoviewError: The photo cannot be read.
            TilesError: There is no imagery.
        """
        encoder, view = self._localizer.encoder, view or PhotoView()
        prepared = prepared_photo(encoder, query, view)
        if prepared.error:
            raise GeoviewError(prepared.error)
        chip = self._imagery.chip(np.array(latlon_deg), size_px=encoder.aerial.size_px, gsd_m=encoder.aerial.gsd_m)
        of_chip = _parts(encoder, chip, "aerial")
        found = [_reasons(_parts(encoder, picture, view.kind), of_chip) for picture in prepared.pictures]
        best = int(np.argmax([each.score for each in found]))
        why, seen, heading_deg = found[best], prepared.pictures[best], prepared.headings_deg[best]
        strongest = float(max(np.abs(why.photo).max(), np.abs(why.chip).max(), 1e-6))
        # Ways go through all headings for one height and tilt of the camera after another.
        camera = best // len(set(prepared.headings_deg))
        return Drawn(
            why.score,
            None if np.isnan(heading_deg) else heading_deg,
            self._photo(query, view, heading_deg, camera, why.photo, strongest) if view.kind == "ground" else None,
            _panel(seen, why.photo, strongest),
            _panel(chip, why.chip, strongest),
        )

    def _photo(
        self,
        query: PhotoQuery,
        view: PhotoView,
        heading_deg: float,
        camera: int,
        values: NDArray[np.float32],
        strongest: float,
    ) -> Image.Image:
        """Draws the photo itself; with the map on the ground that it shows, where that was laid out."""
        spec = self._localizer.encoder.ground
        photo = StreetPhoto.open(query.photo, read_metadata(query.photo), fov_deg=query.fov_deg or view.fov_deg)
        image = _fitted(photo.image)
        if not isinstance(spec, PlanView):
            return image
        eye_m, pitch_deg = photo.cameras(spec)[camera]
        ground_m = photo.ground_m(image.size, heading_deg, eye_height_m=eye_m, pitch_deg=pitch_deg)
        shares = (ground_m * [1, -1] / spec.reach_m + 1) / 2
        shown = np.all((shares >= 0) & (shares < 1), axis=-1, keepdims=True)
        column, row = np.moveaxis((np.where(shown, shares, 0) * values.shape[::-1]).astype(int), -1, 0)
        return _tinted(np.array(image), np.where(shown[..., 0], values[row, column], 0), strongest)


def _parts(encoder: CrossViewEncoder, picture: Picture, seen: Seen) -> NDArray[np.float32]:
    device = _device(encoder)
    pixels = torch.from_numpy(np.ascontiguousarray(picture.pixels)).to(device).permute(2, 0, 1)[None]
    valid = torch.from_numpy(np.ascontiguousarray(picture.valid)).to(device)[None]
    with torch.inference_mode():
        parts: NDArray[np.float32] = encoder.parts(pixels, valid, seen=seen)[0].cpu().numpy()
    return parts


def _device(encoder: CrossViewEncoder) -> torch.device:
    return encoder.mean.device


def _panel(picture: Picture, values: NDArray[np.float32], strongest: float) -> Image.Image:
    """Draws what the encoder sees, tinted by its squares."""
    image = _fitted(Image.fromarray(np.where(picture.valid[..., None], picture.pixels, _NOTHING)))
    rows = np.arange(image.height) * values.shape[0] // image.height
    columns = np.arange(image.width) * values.shape[1] // image.width
    tinted = _tinted(np.array(image), values[rows[:, None], columns], strongest)
    if max(values.shape) < _FEW_SQUARES:
        draw = ImageDraw.Draw(tinted)
        for (row, column), value in np.ndenumerate(values):
            at = (column + 0.5) * image.width / values.shape[1], (row + 0.5) * image.height / values.shape[0]
            draw.text(at, f"{value:+.3f}", fill=_PAPER, font=_font(15), anchor="mm", stroke_width=2, stroke_fill=_INK)
    return tinted


def _tinted(pixels: NDArray[np.uint8], values: NDArray[np.float32], strongest: float) -> Image.Image:
    """Mixes red into pixels that speak for a place and blue into those that speak against it."""
    colour = np.where(values[..., None] > 0, _FOR, _AGAINST)
    share = _STRONGEST * np.abs(values[..., None]) / strongest
    return Image.fromarray((pixels * (1 - share) + colour * share).astype(np.uint8))


def _fitted(image: Image.Image) -> Image.Image:
    scale = min(_HEIGHT_PX / image.height, _WIDEST_PX / image.width)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _side_by_side(panels: list[Image.Image], *lines: str) -> Image.Image:
    width = sum(panel.width + _GAP_PX for panel in panels) + _GAP_PX
    sheet = Image.new("RGB", (width, _HEIGHT_PX + _CAPTION_PX + 2 * _GAP_PX), _PAPER)
    left = _GAP_PX
    for panel in panels:
        sheet.paste(panel, (left, _GAP_PX))
        left += panel.width + _GAP_PX
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        size_px = next((size for size in (17, 14, 11) if _font(size).getlength(line) <= width - 2 * _GAP_PX), 9)
        draw.text((_GAP_PX, _HEIGHT_PX + 2 * _GAP_PX + 26 * i), line, fill=_INK, font=_font(size_px))
    return sheet


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
