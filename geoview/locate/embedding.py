"""From photos to vectors: each as the encoder sees it, in each way in which it may have been taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

import tiles
from geoview.config import AerialView, GroundView, InferenceConfig, Seen
from geoview.data.photos import load_image, read_metadata, read_size_px
from geoview.data.queries import PhotoQuery
from geoview.data.views import StreetPhoto, aerial_view, seen_nothing
from geoview.embed import Picture, embed, read_ahead
from geoview.errors import ConfigError, GeoviewError
from geoview.index.prototypes import directions
from geoview.models.encoder import CrossViewEncoder

__all__ = ["EmbeddedPhoto", "PhotoView", "PreparedPhoto", "embedded_photos", "prepared_photo"]


@dataclass(frozen=True)
class PhotoView:
    """What photos show, for those that do not tell it themselves.

    Attributes:
        kind: `ground` (street photos) or `aerial` (seen from above).
        fov_deg: Horizontal field of view of perspective photos; None is what EXIF tells, or else 65 degrees.
        gsd_m: Metres per pixel of aerial photos; a GeoTIFF brings its own.
    """

    kind: Seen = "ground"
    fov_deg: float | None = None
    gsd_m: float | None = None


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo as the encoder sees it, in each way in which it may have been taken.

    Attributes:
        query: The photo.
        pictures: One a way; none of a photo that could not be read, or shows nothing that the encoder looks at.
        headings_deg: Of each; NaN where it does not matter.
        latlon_deg: Position that came with the photo.
        error: Why there are none.
        fov_deg: Azimuth that its width spans; None for photos from above.
    """

    query: PhotoQuery
    pictures: list[Picture]
    headings_deg: list[float]
    latlon_deg: tuple[float, float] | None
    error: str = ""
    fov_deg: float | None = None


@dataclass(frozen=True)
class EmbeddedPhoto:
    """A photo as vectors, one for each heading that it may have been taken with.

    Attributes:
        query: The photo.
        vectors: (V, dim) unit vectors; none for a photo that has failed. Zeros where nothing is seen at a heading.
        headings_deg: (V,) heading of each, NaN where it does not matter.
        latlon_deg: Position that came with the photo.
        error: Why it has failed.
        fov_deg: Azimuth that its width spans; None for photos from above.
    """

    query: PhotoQuery
    vectors: NDArray[np.float32]
    headings_deg: NDArray[np.float64]
    latlon_deg: tuple[float, float] | None
    error: str = ""
    fov_deg: float | None = None


def embedded_photos(
    encoder: CrossViewEncoder, photos: Sequence[PhotoQuery], view: PhotoView, config: InferenceConfig
) -> list[EmbeddedPhoto]:
    """Embeds photos at each heading that they may have been taken with, one entry a photo.

    Args:
        encoder: That embeds them.
        photos: Photos, all of which are held in memory as the encoder sees them.
        view: What they show.
        config: How the encoder is run.
    """
    prepared = list(
        read_ahead(
            lambda query: prepared_photo(encoder, query, view),
            photos,
            num_workers=config.num_workers,
            depth=config.batch_size,
        )
    )
    # Sorted by shape, so that photos of mixed fields of view still fill batches.
    views = [(picture.pixels.shape, i, picture) for i, photo in enumerate(prepared) for picture in photo.pictures]
    views.sort(key=lambda entry: entry[:2])
    vectors = [np.empty((len(photo.pictures), encoder.dim), np.float32) for photo in prepared]
    unfilled = [iter(mine) for mine in vectors]
    pictures = (picture for _, _, picture in views)
    for (_, i, _), vector in zip(views, embed(encoder, pictures, config, seen=view.kind), strict=True):
        next(unfilled[i])[:] = vector
    return [
        EmbeddedPhoto(photo.query, *_by_heading(photo, mine), photo.latlon_deg, photo.error, photo.fov_deg)
        for photo, mine in zip(prepared, vectors, strict=True)
    ]


def _by_heading(photo: PreparedPhoto, vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Returns the mean direction of a photo's vectors at each heading, and the headings in ascending order.

    Which camera it was, nobody asks: to let the best of them count gives false places more chances, and the mean is
    less noisy. More photos are found by it, in a search for fewer vectors. A camera that would have seen nothing has no
    say.
    """
    headings_deg, which = np.unique(photo.headings_deg, return_inverse=True)
    seeing = np.flatnonzero([picture.valid.any() for picture in photo.pictures])
    sums = np.zeros((len(headings_deg), vectors.shape[1]), np.float32)
    np.add.at(sums, which[seeing], vectors[seeing])
    return directions(sums), headings_deg


def prepared_photo(encoder: CrossViewEncoder, query: PhotoQuery, view: PhotoView) -> PreparedPhoto:
    """Reads a photo and lays it out as the encoder sees it, in each way in which it may have been taken.

    Args:
        encoder: That is to see it.
        query: The photo.
        view: What it shows, where it does not tell.
    """
    prepared = _read(encoder, query, view)
    if prepared.error or any(picture.valid.any() for picture in prepared.pictures):
        return prepared
    spec = encoder.aerial if view.kind == "aerial" else encoder.ground
    return replace(prepared, pictures=[], headings_deg=[], error=seen_nothing(query.path, spec))


def _read(encoder: CrossViewEncoder, query: PhotoQuery, view: PhotoView) -> PreparedPhoto:
    """Reads a photo and lays it out, whether or not its pictures show anything."""
    latlon_deg = query.latlon_deg
    try:
        if view.kind == "aerial" and view.gsd_m is None:
            # By what reads imagery: GeoTIFFs come in more pixel types than photos do.
            if query.content is not None:
                raise ConfigError(f"{query.path}: an aerial photo that is no file needs gsd_m, metres per pixel")
            picture, own_deg = _middle(encoder.aerial, query.path)
            return PreparedPhoto(query, [picture], [np.nan], latlon_deg or own_deg)
        metadata = read_metadata(query.photo)
        latlon_deg = latlon_deg or metadata.latlon_deg
        if view.kind == "aerial" and view.gsd_m is not None:
            image = load_image(query.photo)
            # The largest are decoded smaller than they are stored.
            gsd_m = view.gsd_m * max(read_size_px(query.photo)) / max(image.size)
            seen = aerial_view(image, encoder.aerial, gsd_m=gsd_m)
            return PreparedPhoto(query, [seen], [np.nan], latlon_deg)
        photo = StreetPhoto.open(query.photo, metadata, fov_deg=query.fov_deg or view.fov_deg)
    except (GeoviewError, tiles.TilesError) as error:
        return PreparedPhoto(query, [], [], latlon_deg, str(error))
    spec, heading_deg = encoder.ground, query.heading_deg
    if isinstance(spec, GroundView):
        heading_deg = metadata.heading_deg if heading_deg is None else heading_deg
        strip = photo.strip(spec, heading_deg)
        return PreparedPhoto(query, [strip], [np.nan], latlon_deg, fov_deg=photo.fov_deg)
    # Only what the user says is believed: compasses in cameras may be far off.
    tried = [360.0 * i / spec.headings for i in range(spec.headings)] if heading_deg is None else [heading_deg]
    plans, headings_deg = zip(*photo.plans(spec, tried), strict=True)
    return PreparedPhoto(query, list(plans), list(headings_deg), latlon_deg, fov_deg=photo.fov_deg)


def _middle(spec: AerialView, path: str) -> tuple[Picture, tuple[float, float]]:
    """Cuts the chip around the middle of a georeferenced raster, and tells where that is."""
    try:
        source = tiles.open_source(path)
    except tiles.MissingCRSError as error:
        raise ConfigError(f"{path}: an aerial photo without georeference needs --gsd_m, metres per pixel") from error
    coverage = source.coverage()
    west, _, east, _ = coverage.bounds
    if east - west > 180:  # cut at the date line
        coverage = shapely.transform(coverage, lambda lonlat: lonlat + [360, 0] * (lonlat[:, :1] < 0))
    middle = coverage.centroid
    centre_deg = (middle.y, (middle.x + 180.0) % 360.0 - 180.0)
    return source.chip(centre_deg, size_px=spec.size_px, gsd_m=spec.gsd_m), centre_deg
