"""Photos in, ranked places out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import shapely

import tiles
from geoview.config import GroundView, InferenceConfig, Seen
from geoview.data.photos import load_image, read_metadata
from geoview.data.queries import PhotoQuery
from geoview.data.views import StreetPhoto, aerial_view
from geoview.embed import Picture, embed, read_ahead, resolve_device
from geoview.errors import ConfigError, GeoviewError, RegionError
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.index.cell_index import CellIndex
from geoview.locate.posterior import Place, cells_a_place, distinct_places

__all__ = ["Localization", "Localizer", "PhotoView"]


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
class Localization:
    """The answer for one photo.

    Attributes:
        query: The photo, as it was given.
        status: `ok`, or `failed` with `error` set.
        places: Best first; no two touch.
        latlon_deg: Position that came with the photo, from its EXIF, its georeference or the photo table; reported,
            never used as a hint unless a search around it was asked for.
        error: One line, for a photo that could not be read.
    """

    query: str
    status: Literal["ok", "failed"]
    places: list[Place]
    latlon_deg: tuple[float, float] | None = None
    error: str = ""

    def exif_distance_m(self, place: Place) -> float | None:
        """Returns the distance of a place from the position that came with the photo."""
        if self.latlon_deg is None:
            return None
        return float(distance_m(np.array(self.latlon_deg), np.array(place.latlon_deg)))


@dataclass(frozen=True)
class _Prepared:
    """A photo as the encoder sees it, in each way it may have been taken; headings are NaN where they do not matter."""

    query: PhotoQuery
    pictures: list[Picture]
    headings_deg: list[float]
    latlon_deg: tuple[float, float] | None
    error: str = ""


class Localizer:
    """Locates photos in an index, with the index's own encoder."""

    def __init__(self, index: CellIndex, config: InferenceConfig | None = None) -> None:
        """Opens the encoder.

        Args:
            index: Where to search.
            config: Batch size, device, precision and threads.

        Raises:
            EncoderMismatchError: The index's encoder folder holds another encoder.
            EncoderError: It cannot be opened.
        """
        self.index = index
        self.config = config or InferenceConfig()
        self.encoder = index.encoder()
        self._device = resolve_device(self.config.device)

    def locate(
        self,
        photos: Iterable[PhotoQuery | str],
        *,
        top_k: int = 10,
        region: Region | None = None,
        around_own_position_m: float | None = None,
        view: PhotoView | None = None,
        apart_m: float = 0.0,
    ) -> Iterator[Localization]:
        """Answers photos in their order; a photo that cannot be read is answered as failed and stops nothing.

        Args:
            photos: Files, or photos with what is known of them.
            top_k: Places for each photo.
            region: Search there only.
            around_own_position_m: Search within this distance of each photo's own position only; a photo without one
                fails.
            view: What the photos show.
            apart_m: Least distance between two places of an answer; they never touch in any case.

        Yields:
            One answer a photo.

        Raises:
            RegionError: No cell of the index lies in `region`.
        """
        view = view or PhotoView()
        queries = iter(p if isinstance(p, PhotoQuery) else PhotoQuery(p) for p in photos)
        while batch := list(islice(queries, self.config.batch_size)):
            prepared = list(
                read_ahead(
                    lambda query: self._prepare(query, view),
                    batch,
                    num_workers=self.config.num_workers,
                    depth=self.config.batch_size,
                )
            )
            if around_own_position_m is not None:
                for photo in prepared:
                    yield from self._search_around(photo, top_k, around_own_position_m, region, apart_m, view.kind)
            else:
                yield from self._search(prepared, top_k, region, apart_m, view.kind)

    def _search_around(
        self, photo: _Prepared, top_k: int, radius_m: float, region: Region | None, apart_m: float, seen: Seen
    ) -> Iterator[Localization]:
        if not photo.pictures:
            yield _failed(photo, photo.error)
            return
        if photo.latlon_deg is None:
            yield _failed(photo, f"{photo.query.path}: has no position of its own to search around")
            return
        try:
            disc = Region.disc(photo.latlon_deg, radius_m)
            region = disc if region is None else disc.intersection(region)
            yield from self._search([photo], top_k, region, apart_m, seen)
        except RegionError as error:
            yield _failed(photo, str(error))

    def _search(
        self, prepared: list[_Prepared], top_k: int, region: Region | None, apart_m: float, seen: Seen
    ) -> Iterator[Localization]:
        # Sorted by shape, so that photos of mixed fields of view still fill batches.
        views = [(picture.pixels.shape, i, picture) for i, photo in enumerate(prepared) for picture in photo.pictures]
        views.sort(key=lambda entry: entry[:2])
        vectors = list(embed(self.encoder, (picture for _, _, picture in views), self.config, seen=seen))
        places: dict[int, list[Place]] = {}
        if vectors:
            k = cells_a_place(self.index.level, apart_m) * top_k
            hits = self.index.search(np.stack(vectors), k, region=region, device=str(self._device))
            photo_of = np.array([i for _, i, _ in views])
            for i in np.unique(photo_of).tolist():
                mine = photo_of == i
                score = hits.score[mine]
                heading = np.broadcast_to(np.array(prepared[i].headings_deg)[:, None], score.shape).ravel()
                best = np.argsort(-score.ravel(), kind="stable")
                places[i] = distinct_places(
                    hits.cell_id[mine].ravel()[best],
                    score.ravel()[best],
                    top_k,
                    heading_deg=None if np.isnan(heading).all() else heading[best],
                    apart_m=apart_m,
                )
        for i, photo in enumerate(prepared):
            if i in places:
                yield Localization(photo.query.path, "ok", places[i], photo.latlon_deg)
            else:
                yield _failed(photo, photo.error)

    def _prepare(self, query: PhotoQuery, view: PhotoView) -> _Prepared:
        latlon_deg = query.latlon_deg
        try:
            if view.kind == "aerial" and view.gsd_m is None:
                # By what reads imagery: GeoTIFFs come in more pixel types than photos do.
                picture, own_deg = self._middle(query.path)
                return _Prepared(query, [picture], [np.nan], latlon_deg or own_deg)
            metadata = read_metadata(query.path)
            latlon_deg = latlon_deg or metadata.latlon_deg
            if view.kind == "aerial" and view.gsd_m is not None:
                seen = aerial_view(load_image(query.path), self.encoder.aerial, gsd_m=view.gsd_m)
                return _Prepared(query, [seen], [np.nan], latlon_deg)
            photo = StreetPhoto.open(query.path, metadata, fov_deg=query.fov_deg or view.fov_deg)
        except (GeoviewError, tiles.TilesError) as error:
            return _Prepared(query, [], [], latlon_deg, str(error))
        spec, heading_deg = self.encoder.ground, query.heading_deg
        if isinstance(spec, GroundView):
            heading_deg = metadata.heading_deg if heading_deg is None else heading_deg
            return _Prepared(query, [photo.strip(spec, heading_deg)], [np.nan], latlon_deg)
        # Only what the user says is believed: compasses in cameras may be far off.
        tried = [360.0 * i / spec.headings for i in range(spec.headings)] if heading_deg is None else [heading_deg]
        plans, headings_deg = zip(*photo.plans(spec, tried), strict=True)
        return _Prepared(query, list(plans), list(headings_deg), latlon_deg)

    def _middle(self, path: str) -> tuple[Picture, tuple[float, float]]:
        """Cuts the chip around the middle of a georeferenced raster, and tells where that is."""
        try:
            source = tiles.open_source(path)
        except tiles.MissingCRSError as error:
            raise ConfigError(
                f"{path}: an aerial photo without georeference needs --gsd_m, metres per pixel"
            ) from error
        coverage = source.coverage()
        west, _, east, _ = coverage.bounds
        if east - west > 180:  # cut at the date line
            coverage = shapely.transform(coverage, lambda lonlat: lonlat + [360, 0] * (lonlat[:, :1] < 0))
        middle, spec = coverage.centroid, self.encoder.aerial
        centre_deg = (middle.y, (middle.x + 180.0) % 360.0 - 180.0)
        return source.chip(centre_deg, size_px=spec.size_px, gsd_m=spec.gsd_m), centre_deg


def _failed(photo: _Prepared, error: str) -> Localization:
    return Localization(photo.query.path, "failed", [], photo.latlon_deg, error)
