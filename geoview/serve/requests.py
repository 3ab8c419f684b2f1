"""What may be asked: the fields of a form, checked, and the search that they mean."""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

import shapely
from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from geoview.config import Dates, Seen
from geoview.data.queries import PhotoQuery
from geoview.errors import RegionError
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.locate.embedding import PhotoView
from geoview.locate.localizer import Search
from geoview.serve.generations import Generation
from geoview.serve.pictures import NoPictureError, cell_of, imagery_of
from geoview.serve.uploads import plain_name
from geoview.serve.worker import Claim

__all__ = ["Asked", "AskedWhy", "Shown", "claim_of", "one_line", "plain_text", "read_photos", "search_of"]

_MAX_VERTICES = 2_000
# Cells along the outline of a region, which are listed one by one.
_MAX_OUTLINE_CELLS = 500_000
# Edge of a cell of level 0, a quarter of the way round the Earth.
_EDGE_M = 1e7


class Shown(BaseModel):
    """What the photos of a request show, as far as that is told."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    view: Annotated[Seen, Field(description="What the photos show: street photos, or the ground from above.")] = (
        "ground"
    )
    fov_deg: Annotated[
        float | None,
        Field(gt=0, le=360, description="Horizontal field of view of photos that are no panoramas; else that of EXIF."),
    ] = None
    heading_deg: Annotated[
        float | None, Field(ge=-360, le=360, description="Where the middle of the photos looks, clockwise from north.")
    ] = None
    gsd_m: Annotated[
        float | None, Field(gt=0, le=1e4, description="Metres per pixel; photos from above need it, others have none.")
    ] = None

    @classmethod
    def of(cls, form: FormData) -> Self:
        """Reads the fields of a form.

        Raises:
            HTTPException: One is not known, given twice or has a value that cannot be (422).
        """
        given: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name == "photos":
                continue
            if name in given or not isinstance(value, str):
                what = "is given twice" if name in given else "is text, and no file"
                raise HTTPException(422, f"{plain_name(name)}: {what}")
            if value.strip():
                given[name] = value
        try:
            shown = cls.model_validate(given)
        except ValidationError as error:
            raise HTTPException(422, one_line(error.errors())) from None
        if (shown.view == "aerial") != (shown.gsd_m is not None):
            raise HTTPException(
                422, "gsd_m, metres per pixel, is for photos from above (view aerial), and they need it"
            )
        return shown

    @property
    def photo_view(self) -> PhotoView:
        """What all photos show; the field of view belongs to each."""
        return PhotoView(self.view, None, self.gsd_m)


class Asked(Shown):
    """What is asked of the photos of a request; an empty field is as one that is not given."""

    region: Annotated[
        str | None,
        Field(description="GeoJSON (RFC 7946) Polygon, MultiPolygon, Feature or FeatureCollection to search in."),
    ] = None
    near: Annotated[
        str | None,
        Field(description="LAT,LON in degrees to search around, with radius_m.", examples=["48.137,11.575"]),
    ] = None
    radius_m: Annotated[float | None, Field(gt=0, le=2.1e7, description="Radius around `near`.")] = None
    top_k: Annotated[int, Field(ge=1, le=100, description="Places to answer for each photo.")] = 10
    kappa: Annotated[
        float | None,
        Field(ge=0, le=1e3, description="Weight of ground photos against imagery, as `geoview locate` has it."),
    ] = None
    dates: Annotated[Dates, Field(description="What counts of several dates of a cell.")] = "max"
    exif: Annotated[bool, Field(description="Whether the photos' own positions are told back.")] = False
    heat: Annotated[bool, Field(description="Whether the cells where a photo may have been taken are told.")] = False

    @classmethod
    def of(cls, form: FormData) -> Self:
        """Reads the fields of a form.

        Raises:
            HTTPException: One is not known, given twice or has a value that cannot be (422).
        """
        asked = super().of(form)
        if (asked.near is None) != (asked.radius_m is None):
            raise HTTPException(422, "near and radius_m go together")
        return asked


class AskedWhy(Shown):
    """What is asked of a photo whose reasons are to be told; an empty field is as one that is not given."""

    cell: Annotated[str, Field(description="S2 token of a candidate.", examples=["479e75f1"])]


async def read_photos(form: FormData, shown: Shown) -> list[PhotoQuery]:
    """Returns the photos of a form, in memory, under names without folders.

    Raises:
        HTTPException: There is none, or one is no file (422).
    """
    photos = form.getlist("photos")
    if not photos:
        raise HTTPException(422, "photos: none is given; send files in this field")
    heading_deg = None if shown.heading_deg is None else shown.heading_deg % 360.0
    queries = []
    for photo in photos:
        if not isinstance(photo, UploadFile):
            raise HTTPException(422, "photos: one of them is no file; give each a file name")
        name, content = plain_name(photo.filename), await photo.read()
        queries.append(PhotoQuery(name, heading_deg=heading_deg, fov_deg=shown.fov_deg, content=content))
    return queries


def search_of(asked: Asked, generation: Generation) -> Search:
    """Returns the search that is asked for, its region cut to the ground of the index and its cells counted.

    Raises:
        HTTPException: The region cannot be read, has too many vertices or too long an outline, or misses the index; or
            kappa asks for ground photos where there are none (all 422).
    """
    if asked.kappa and generation.index.manifest.prototypes is None:
        raise HTTPException(422, "kappa: this index has no ground photos to weigh; leave it out")
    try:
        region = _region(asked)
        if region is not None:
            region = _cut(region, generation)
    except RecursionError:
        raise HTTPException(422, "region: nested too deeply") from None
    except RegionError as error:
        raise HTTPException(422, plain_text(str(error))) from None
    return Search(asked.top_k, region, asked.kappa, asked.dates)


def claim_of(asked: AskedWhy, generation: Generation) -> Claim:
    """Returns what reasons are asked for.

    Raises:
        HTTPException: The index has no such cell (422).
        NoPictureError: Its imagery is gone, or its encoder tells no reasons.
    """
    try:
        cell_id = cell_of(generation, asked.cell)
    except NoPictureError as reason:
        raise HTTPException(422, f"cell: {reason}") from None
    imagery_of(generation)
    if generation.explainer is None:
        raise NoPictureError("the encoder of this index does not tell which parts of a picture count")
    return Claim(cell_id, generation.explainer)


def one_line(errors: list[Any]) -> str:
    """Returns what pydantic found wrong, on one line."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body"))
    return plain_text(f"{where}: {first['msg']}" if where else str(first["msg"]))


def plain_text(text: str) -> str:
    """Returns text that fits on one line of moderate length."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:500]


def _region(asked: Asked) -> Region | None:
    regions = []
    if asked.region is not None:
        regions.append(_drawn(asked.region))
    if asked.near is not None and asked.radius_m is not None:
        try:
            lat, lon = (float(part) for part in asked.near.split(","))
        except ValueError:
            raise RegionError(
                f"near is {plain_text(asked.near)!r}; write LAT,LON in degrees, as in -33.9,-70.6"
            ) from None
        regions.append(Region.disc((lat, lon), asked.radius_m, "near"))
    return None if not regions else regions[0] if len(regions) == 1 else regions[0].intersection(regions[1])


def _drawn(text: str) -> Region:
    try:
        node = json.loads(text)
    except ValueError as error:
        raise RegionError(f"region: not JSON: {error}") from None
    # Each position has a bracket of its own.
    if text.count("[") > _MAX_VERTICES:
        raise RegionError(f"region: more than {_MAX_VERTICES} vertices; simplify it")
    if not isinstance(node, dict):
        raise RegionError("region: not a GeoJSON object")
    return Region.from_geojson(node)


def _cut(region: Region, generation: Generation) -> Region:
    """Returns what of a region lies where the index does, once its cells have been found."""
    cut, level = region.intersection(generation.surroundings), generation.index.level
    lonlat, ring = shapely.get_coordinates(shapely.get_rings(shapely.get_parts(cut.geometry)), return_index=True)
    outline_m = distance_m(lonlat[:-1, ::-1], lonlat[1:, ::-1])[ring[1:] == ring[:-1]].sum()
    if outline_m > _MAX_OUTLINE_CELLS * _EDGE_M * 2.0**-level:
        raise RegionError(f"region: its outline, {outline_m / 1000:.0f} km, is too long; simplify it")
    cut.cell_ranges(level)  # here, and not while others wait for the worker
    return cut
