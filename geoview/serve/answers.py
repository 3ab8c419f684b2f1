"""What comes back, as JSON: candidates, answers, the index."""

from __future__ import annotations

import base64
import json
from typing import Any, Literal

import numpy as np
import shapely
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from geoview.geo import cells
from geoview.locate.candidates import rows
from geoview.locate.localizer import Localization
from geoview.locate.posterior import Posterior
from geoview.locate.why import Drawn
from geoview.serve.generations import Generation, outlines_of
from geoview.serve.pictures import MIN_ZOOM, deepest_zoom, jpeg
from geoview.serve.requests import Asked

__all__ = [
    "STREAM_EXAMPLE",
    "About",
    "Answer",
    "Basemap",
    "Fault",
    "Health",
    "IndexState",
    "Located",
    "Reasons",
    "about",
    "answer_of",
    "reasons_of",
    "state_of",
]

_MAX_HEAT_CELLS = 2_000
Calibration = Literal["none", "photos", "rendered"]


class Fault(BaseModel):
    """Why a request was not answered, on one line."""

    detail: str
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"detail": "top_k: Input should be greater than or equal to 1"}]}
    )


class Candidate(BaseModel):
    """One place of an answer, as a row of `geoview locate`."""

    rank: int
    lat: float
    lon: float
    radius_m: float | None = Field(description="Null until the index is calibrated.")
    score: float = Field(description="A similarity, and no probability.")
    p_within_100m: float | None = Field(description="Null until the index is calibrated.")
    cell: str = Field(description="S2 token.")
    heading_deg: float | None
    exif_distance_m: float | None = Field(
        description="From the photo's own position; null unless `exif` was asked for."
    )
    imagery_date: str | None
    chip: str = Field(description="Where its aerial picture is.")


class Answer(BaseModel):
    """The answer for one photo."""

    query: str = Field(description="The file name, without folders.")
    status: Literal["ok", "rejected", "failed"]
    error: str
    calibration: Calibration = Field(description="What radius_m and p_within_100m were fitted on.")
    exif_lat: float | None = Field(description="Null unless `exif` was asked for.")
    exif_lon: float | None = Field(description="Null unless `exif` was asked for.")
    candidates: list[Candidate]
    heat: dict[str, Any] | None = Field(
        description="FeatureCollection of cells with their probability `p`, the most probable first; null unless it "
        "was asked for and the index is calibrated."
    )


class IndexState(BaseModel):
    """The commit of the index that was asked."""

    number: int
    level: int
    calibration: Calibration


# Nothing is null: FastAPI leaves that out of examples.
_RING: list[Any] = [[11.36, 48.06], [11.72, 48.06], [11.72, 48.25], [11.36, 48.25], [11.36, 48.06]]
_CANDIDATE: dict[str, Any] = {
    "rank": 1,
    "lat": 48.1371,
    "lon": 11.5754,
    "radius_m": 85.2,
    "score": 0.7312,
    "p_within_100m": 0.6214,
    "cell": "479e75f1",
    "heading_deg": 135.0,
    "exif_distance_m": 41.8,
    "imagery_date": "2023-06",
    "chip": "/chips/479e75f1.jpg",
}
_ANSWER: dict[str, Any] = {
    "query": "street.jpg",
    "status": "ok",
    "error": "",
    "calibration": "photos",
    "exif_lat": 48.1374,
    "exif_lon": 11.5751,
    "candidates": [_CANDIDATE],
    "heat": {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [_RING]},
                "properties": {"p": 0.31, "cell": "479e75f1"},
            }
        ],
    },
}
_STATE: dict[str, Any] = {"number": 3, "level": 16, "calibration": "photos"}
#: One object a line, as `Accept: application/x-ndjson` has it.
STREAM_EXAMPLE = "\n".join(
    json.dumps(event)
    for event in (
        {"event": "received", "photos": 1},
        {"event": "progress", "done": 1, "of": 1},
        {"event": "answer", "answer": _ANSWER},
        {"event": "end", "index": _STATE},
    )
)


class Located(BaseModel):
    """The answers for the photos of a request, in their order."""

    index: IndexState
    answers: list[Answer]
    model_config = ConfigDict(json_schema_extra={"examples": [{"index": _STATE, "answers": [_ANSWER]}]})


class Reasons(BaseModel):
    """Why a photo may be of a cell, in pictures: red speaks for it, blue against it."""

    query: str = Field(description="The file name, without folders.")
    cell: str = Field(description="S2 token.")
    heading_deg: float | None = Field(description="With which the photo was laid out; null where that does not matter.")
    cosine: float = Field(description="Of photo and chip: what all squares of either add up to.")
    photo: str | None = Field(description="The photo, as the data URL of a JPEG; null for photos from above.")
    seen: str = Field(description="The photo as the encoder sees it, likewise.")
    chip: str = Field(description="The chip of the cell, north up, likewise.")
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "street.jpg",
                    "cell": "479e75f1",
                    "heading_deg": 135.0,
                    "cosine": 0.7312,
                    **dict.fromkeys(("photo", "seen", "chip"), "data:image/jpeg;base64,/9j/4AAQSkZJRg=="),
                }
            ]
        }
    )


class Health(BaseModel):
    """The service answers."""

    status: Literal["ok"] = "ok"
    index: int = Field(description="Number of the commit that is asked.")
    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok", "index": 3}]})


class TileLayer(BaseModel):
    """The imagery of the index as a map."""

    url: str
    minzoom: int
    maxzoom: int


class Basemap(BaseModel):
    """A map of another host, which the operator has allowed."""

    url: str
    attribution: str


class About(BaseModel):
    """What the index is."""

    name: str = Field(description="Of its folder, without the path.")
    number: int
    level: int
    cells: int
    bounds: tuple[float, float, float, float] = Field(
        description="West, south, east, north in degrees; west is above east across the date line."
    )
    coverage: dict[str, Any] = Field(description="GeoJSON geometry of the imagery, or of the cells where it is gone.")
    dates: list[str]
    licences: list[str]
    attribution: str
    chip_m: float = Field(description="Ground size of a chip.")
    calibration: dict[str, Any] | None
    tiles: TileLayer | None = Field(description="Null where the imagery is gone.")
    imagery: Literal["there", "gone"] = Field(description="Whether there are chips and tiles.")
    why: bool = Field(description="Whether there are reasons to show: not without imagery, nor of every encoder.")
    basemap: Basemap | None
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "munich",
                    "number": 3,
                    "level": 16,
                    "cells": 18_250,
                    "bounds": [11.36, 48.06, 11.72, 48.25],
                    "coverage": {"type": "Polygon", "coordinates": [_RING]},
                    "dates": ["2023-06"],
                    "licences": ["CC-BY-4.0"],
                    "attribution": "City of Munich",
                    "chip_m": 153.6,
                    "calibration": {"on": "photos"},
                    "tiles": {"url": "/tiles/{z}/{x}/{y}.webp?v=3", "minzoom": 10, "maxzoom": 19},
                    "imagery": "there",
                    "why": True,
                    "basemap": {"url": "https://tiles.example.org/{z}/{x}/{y}.png", "attribution": "Somebody"},
                }
            ]
        }
    )


def answer_of(localization: Localization, asked: Asked) -> Answer:
    """Returns the answer for a photo, with its position and its heat only if they were asked for."""
    found = list(rows([localization]))
    if not asked.exif:
        hidden = dict.fromkeys(("exif_lat", "exif_lon", "exif_distance_m"))
        found = [row | hidden for row in found]
    heat = _heat(localization.posterior) if asked.heat and localization.posterior is not None else None
    candidates = [
        Candidate.model_validate(row | {"chip": f"/chips/{row['cell']}.jpg"})
        for row in found
        if row["rank"] is not None
    ]
    return Answer.model_validate(found[0] | {"candidates": candidates, "heat": heat})


def reasons_of(drawn: Drawn, query: str, cell: str) -> Reasons:
    """Returns what speaks for a photo being of a cell."""
    photo = None if drawn.photo is None else _data_url(drawn.photo)
    return Reasons(
        query=query,
        cell=cell,
        heading_deg=drawn.heading_deg,
        cosine=round(drawn.cosine, 4),
        photo=photo,
        seen=_data_url(drawn.seen),
        chip=_data_url(drawn.chip),
    )


def state_of(generation: Generation, answers: list[Answer]) -> IndexState:
    """Returns which commit was asked."""
    told = [answer.calibration for answer in answers if answer.status != "failed"]
    calibration = told[0] if told else "none"
    return IndexState(number=generation.number, level=generation.index.level, calibration=calibration)


def about(generation: Generation, basemap: Basemap | None) -> About:
    """Returns what the index is, and no path of this machine."""
    index, manifest = generation.index, generation.index.manifest
    said = {
        key: sorted({str(s[key]) for s in manifest.sources if s[key]}) for key in ("date", "licence", "attribution")
    }
    layer = None
    if generation.imagery is not None:
        url = f"/tiles/{{z}}/{{x}}/{{y}}.webp?v={generation.number}"
        layer = TileLayer(url=url, minzoom=MIN_ZOOM, maxzoom=deepest_zoom(generation))
    return About(
        name=str(index.path).rpartition("/")[2],
        number=generation.number,
        level=index.level,
        cells=generation.n_cells,
        bounds=generation.bounds_deg,
        coverage=shapely.geometry.mapping(shapely.orient_polygons(generation.coverage)),
        dates=said["date"],
        licences=said["licence"],
        attribution="; ".join(said["attribution"]),
        chip_m=index.chip.ground_size_m,
        calibration=manifest.calibration,
        tiles=layer,
        imagery="gone" if layer is None else "there",
        why=generation.explainer is not None,
        basemap=basemap,
    )


def _data_url(image: Image.Image) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(np.asarray(image))).decode()}"


def _heat(posterior: Posterior) -> dict[str, Any]:
    """Returns the most probable cells as GeoJSON (RFC 7946: longitude first, counter-clockwise)."""
    best = np.argsort(-posterior.probability, kind="stable")[:_MAX_HEAT_CELLS]
    ids, probability = posterior.cell_id[best], posterior.probability[best]
    outlines = zip(outlines_of(ids), probability.tolist(), cells.tokens(ids).tolist(), strict=True)
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring.round(7).tolist()]},
            "properties": {"p": float(f"{p:.4g}"), "cell": token},
        }
        for ring, p, token in outlines
    ]
    return {"type": "FeatureCollection", "features": features}
