"""How near panoramas in VIGOR's layout are placed, in metres, and how well their headings are known, in degrees.

    python benchmarks/vigor_positions.py --work DIR
    python benchmarks/vigor_positions.py --work DIR --root VIGOR

The first call renders four cities in VIGOR's layout, of which the encoder has learnt no place; the second reads the
published files with the corrected labels, so many panoramas of each city. Calibrated on NewYork and Seattle, asked in
Chicago and SanFrancisco (the cross-area split).

* Truth: the position is the offset in the label, from the middle of the positive tile. Each panorama, north in its
  middle, is turned by an angle of its own and written anew: the heading to be found is that angle.
* Imagery: the tiles of a city as one mosaic, each where its name says; an index of all cells that it covers.
* Asked in the footprint of the positive tile, as papers on VIGOR ask, and in the whole city: the middle of the best
  cell, the place that is answered, and the same with a second look; beside guesses, and what cells allow at best.

A tie, and what is not a number, counts as infinitely far and turned round. All is kept in --work, where the same call
goes on.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio.shutil
import shapely
import torch
from machine import circumstances
from numpy.typing import NDArray
from PIL import Image
from places import embedded
from pyproj import Transformer
from rendered import number, tell
from tqdm import tqdm

import tiles
from geoview.config import BuildConfig, InferenceConfig, RenderDatasetConfig
from geoview.data import vigor
from geoview.data.pairs import PairTable
from geoview.data.queries import PhotoQuery
from geoview.evaluate import calibration as fitting
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.index.fusion import Fusion
from geoview.locate.embedding import EmbeddedPhoto
from geoview.locate.localizer import Found, Localizer, Search
from geoview.metrics import wilson_interval
from geoview.models.encoder import CrossViewEncoder, find_encoder
from geoview.render import layouts
from geoview.render.datasets import write_dataset
from geoview.render.world import UNSEEN_STYLE

HERE = Path(__file__).parent
# Split of the published lists and cities of it. Of training splits a table has no tile but those that show a panorama.
FITTED = ("same_test", ("NewYork", "Seattle"))
ASKED = ("cross_test", ("Chicago", "SanFrancisco"))
# In the order of vigor.CITIES.
STYLES = ("american_grid", "european_town", UNSEEN_STYLE, "rural")
SEED = 841
TILE_PX = 640
# Web Mercator: metres of the map a pixel of zoom 20.
PX_M = 156_543.03392804097 / 2**20
LEVEL = 20
AGAIN = 30
WITHIN_M, WITHIN_DEG = (1, 3, 5, 10), (1, 5, 10, 30)
RIGHT_M = 25
GUESSES = 100
MIDDLE, PLACE, CLOSER = "middle of the best cell", "place", f"place, first {AGAIN} cells again"
AS_COPIED = {"driver": "GTiff", "tiled": True, "compress": "deflate", "bigtiff": "if_safer"}
# What a calibrated search weighs.
SEARCH = Search(10, kappa=Fusion(0.0), apart_m=100.0)

_TO_MAP = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True)


@dataclass(frozen=True)
class City:
    """A city with its index and N panoramas.

    Attributes:
        name: One of VIGOR's.
        imagery: The mosaic of its tiles.
        index: Of all ground that they show.
        photos: Panoramas, turned and embedded.
        truth_deg: (N, 2) where they were taken.
        heading_deg: (N,) heading of their middle columns.
        tile_deg: (N, 2) middles of their positive tiles.
        names_apart_m: (N,) how far the truth is from the position in the file's name.
    """

    name: str
    imagery: Path
    index: CellIndex
    photos: list[EmbeddedPhoto]
    truth_deg: NDArray[np.float64]
    heading_deg: NDArray[np.float64]
    tile_deg: NDArray[np.float64]
    names_apart_m: NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """How far off N answers are, or N times some guesses: metres and degrees."""

    error_m: NDArray[np.float64]
    off_deg: NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--root", type=Path, help="VIGOR as published, with the corrected labels")
    parser.add_argument("--encoder", default="demo")
    parser.add_argument("--panoramas", type=int, default=150, help="of each city")
    parser.add_argument("--size_m", type=float, default=700.0, help="of a rendered city; cameras stand 100 m within")
    parser.add_argument("--level", type=int, default=LEVEL)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=HERE / "results" / "vigor_positions.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = find_encoder(arguments.encoder)
    report: dict[str, Any] = {
        "what": "errors of position and heading of panoramas in VIGOR's layout, whose headings are not told",
        "data": "VIGOR, corrected labels" if arguments.root else f"rendered, seed {SEED}",
        "encoder": {"name": arguments.encoder, "fingerprint": CrossViewEncoder.load(encoder).fingerprint()},
        "level": arguments.level,
        "cities": [],
        "rows": [],
    }
    root = arguments.root or rendered(arguments)
    fitted, asked = (cities(root, *which, encoder, arguments) for which in (FITTED, ASKED))
    calibrations = [calibration(fitted, n, arguments) for n in (0, AGAIN)]
    report["calibrations"] = [{**said, "fitted_on": list(FITTED[1])} for said in calibrations]
    found: dict[str, dict[tuple[str, str], Errors]] = {}
    for city in asked:
        centres_deg = cells.centers_deg(city.index.cell_ids())
        about: dict[str, Any] = {"city": city.name, "panoramas": len(city.photos), "cells": len(centres_deg)}
        if not arguments.root:
            about["style"] = STYLES[vigor.CITIES.index(city.name)]
            about["seen_in_training"] = about["style"] != UNSEEN_STYLE
        about["edge_m"] = number(float(np.sqrt(cells.areas_m2(city.index.cell_ids()).mean())))
        west_deg, east_deg = (moved_deg(city.tile_deg, np.full_like(city.tile_deg, (x, 0))) for x in (0, TILE_PX))
        about["tile_m"] = number(float(distance_m(west_deg, east_deg).mean()))
        about["labels_from_names_m"] = {
            name: number(float(statistic(city.names_apart_m)))
            for name, statistic in (("median", np.median), ("most", np.max))
        }
        report["cities"] += tell([about])
        found[city.name] = {**guessed(city), **answered(city, calibrations, arguments)}
        report["rows"] += tell(rows(city.name, found[city.name]))
    both = {key: pooled([of_city[key] for of_city in found.values()]) for key in next(iter(found.values()))}
    report["rows"] += tell(rows("both", both))
    report |= {
        **circumstances(f"{arguments.threads} threads used"),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


# -- cities ------------------------------------------------------------------------------------------------------------


def rendered(arguments: argparse.Namespace) -> Path:
    """Makes the data set, unless it is there; returns its folder."""
    # One of the styles to learn from makes way for the one that no encoder has learnt from.
    layouts.TRAINING_STYLES = STYLES  # type: ignore[attr-defined]
    root = Path(arguments.work) / f"rendered_{arguments.panoramas}_{arguments.size_m:g}"
    write_dataset(
        RenderDatasetConfig(
            "vigor",
            str(root),
            seed=SEED,
            panoramas=arguments.panoramas,
            size_m=arguments.size_m,
            tile_px=TILE_PX // 2,
            panorama_px=1024,
            num_workers=arguments.threads,
        )
    )
    return root


def cities(root: Path, split: Any, names: Sequence[str], encoder: Path, arguments: argparse.Namespace) -> list[City]:
    """Reads some cities of a split. Rendered labels need no correction."""
    table = vigor.load(root, split, "corrected" if arguments.root else "original")
    return [city_of(table, name, encoder, arguments) for name in names]


def city_of(table: PairTable, name: str, encoder: Path, arguments: argparse.Namespace) -> City:
    """Makes the mosaic and the index of a city, and turns and embeds some of its panoramas."""
    folder = arguments.work / f"{name}_{arguments.panoramas}_{'published' if arguments.root else arguments.size_m}"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([SEED, vigor.CITIES.index(name)])
    mine = np.flatnonzero(np.array(table.city) == name)
    mine = np.sort(rng.permutation(mine)[: arguments.panoramas])
    where = Path(table.reference_path[table.positive[mine[0]]]).parent
    shown = [row for row, path in enumerate(table.reference_path) if Path(path).parent == where]
    names, middles_deg = [table.reference_path[row] for row in shown], table.reference_latlon_deg[shown]
    imagery = folder / "mosaic.tif"
    if not imagery.exists():
        plan = imagery.with_suffix(".vrt")
        plan.write_text(mosaic(names, middles_deg))
        # Copied once: from tiles that overlap, and are no pyramids, a chip takes seven times as long.
        rasterio.shutil.copy(plan, imagery.with_suffix(".part"), **AS_COPIED)
        imagery.with_suffix(".part").rename(imagery)
    index = index_of(imagery, middles_deg, encoder, folder, arguments)
    truth_deg = moved_deg(table.reference_latlon_deg[table.positive[mine]], table.offset_px[mine, 0])
    turned = [turned_copy(Path(table.query_path[row]), folder / "turned", rng) for row in mine]
    photos = embedded(folder / "photos.npz", [query for query, _ in turned], index)
    return City(
        name,
        imagery,
        index,
        photos,
        truth_deg,
        np.array([heading_deg for _, heading_deg in turned]),
        table.reference_latlon_deg[table.positive[mine]],
        distance_m(truth_deg, table.latlon_deg[mine]),
    )


def moved_deg(middle_deg: NDArray[np.float64], right_down_px: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns the (N, 2) positions so many pixels of a tile right of and below its middle."""
    x_m, y_m = _TO_MAP.transform(*middle_deg.T[::-1])
    right_m, down_m = np.asarray(right_down_px, np.float64).T * PX_M
    lon, lat = _TO_MAP.transform(x_m + right_m, y_m - down_m, direction="INVERSE")
    return np.stack([lat, lon], axis=-1)


def footprints(middle_deg: NDArray[np.float64]) -> NDArray[Any]:
    """Returns N squares in longitude and latitude, those of tiles."""
    half_px = np.full(middle_deg.shape, TILE_PX / 2)
    north, west = moved_deg(middle_deg, -half_px).T
    south, east = moved_deg(middle_deg, half_px).T
    return np.asarray(shapely.box(west, south, east, north))


def mosaic(paths: Sequence[str], middle_deg: NDArray[np.float64]) -> str:
    """Lays tiles where their names say, and returns that as a VRT: to whole pixels, 0.1 m off at most if published.

    Args:
        paths: R pictures of equal size.
        middle_deg: (R, 2).
    """
    with Image.open(paths[0]) as picture:
        size_px = picture.width
    px_m = PX_M * TILE_PX / size_px
    x_m, y_m = _TO_MAP.transform(*middle_deg.T[::-1])
    left, top = (np.rint((value - value.min()) / px_m).astype(int) for value in (x_m, -y_m))
    whole = f'xSize="{size_px}" ySize="{size_px}"/>'
    sources = [
        f'<SourceFilename relativeToVRT="0">{escape(str(Path(path).absolute()))}</SourceFilename>'
        f'<SourceProperties RasterXSize="{size_px}" RasterYSize="{size_px}" DataType="Byte"/>'
        f'<SrcRect xOff="0" yOff="0" {whole}<DstRect xOff="{x}" yOff="{y}" {whole}'
        for path, x, y in zip(paths, left, top, strict=True)
    ]
    # Ground that no tile shows is transparent; a tile is opaque, whatever its first band holds.
    opaque = "<ScaleOffset>255</ScaleOffset><ScaleRatio>0</ScaleRatio>"
    bands = []
    for band, colour, of_tile, kind, scaled in (
        (1, "Red", 1, "SimpleSource", ""),
        (2, "Green", 2, "SimpleSource", ""),
        (3, "Blue", 3, "SimpleSource", ""),
        (4, "Alpha", 1, "ComplexSource", opaque),
    ):
        laid = "".join(f"<{kind}><SourceBand>{of_tile}</SourceBand>{source}{scaled}</{kind}>" for source in sources)
        bands.append(
            f'<VRTRasterBand dataType="Byte" band="{band}"><ColorInterp>{colour}</ColorInterp>{laid}</VRTRasterBand>'
        )
    west_m, north_m = (float(value) for value in (x_m.min() - size_px / 2 * px_m, y_m.max() + size_px / 2 * px_m))
    return (
        f'<VRTDataset rasterXSize="{left.max() + size_px}" rasterYSize="{top.max() + size_px}"><SRS>EPSG:3857</SRS>'
        f"<GeoTransform>{west_m!r}, {px_m!r}, 0, {north_m!r}, 0, {-px_m!r}</GeoTransform>{''.join(bands)}</VRTDataset>"
    )


def index_of(
    imagery: Path, middle_deg: NDArray[np.float64], encoder: Path, folder: Path, arguments: argparse.Namespace
) -> CellIndex:
    """Builds the index of all ground that tiles show, or opens the one that is finished."""
    out = folder / f"index_{CrossViewEncoder.load(encoder).fingerprint()}_{arguments.level}"
    if (out / "manifest.json").exists():
        return CellIndex.open(out)
    config = BuildConfig(
        encoder=str(encoder), imagery=[str(imagery)], out=str(out), level=arguments.level, num_workers=arguments.threads
    )
    ground = Region.from_geometry(shapely.union_all(footprints(middle_deg)))
    return build_index(CrossViewEncoder.load(encoder), tiles.open_source(imagery), ground, out, config)


def turned_copy(panorama: Path, folder: Path, rng: np.random.Generator) -> tuple[PhotoQuery, float]:
    """Turns a panorama, north in its middle, by whole columns; returns it and the heading of its new middle.

    The copy holds pixels alone: neither EXIF nor XMP could tell, nor its name.
    """
    with Image.open(panorama) as picture:
        width_px = picture.width
        columns = int(rng.integers(width_px))
        copy = folder / f"{panorama.name.partition(',')[0]}.png"
        if not copy.exists():
            folder.mkdir(exist_ok=True)
            pixels = np.roll(np.asarray(picture.convert("RGB")), columns, axis=1)
            Image.fromarray(pixels).save(copy.with_suffix(".part"), "PNG")
            copy.with_suffix(".part").rename(copy)
    # What was so many columns to the left of north is in the middle now.
    return PhotoQuery(str(copy), fov_deg=360.0), -360.0 * columns / width_px % 360.0


# -- answers -----------------------------------------------------------------------------------------------------------


def localizer(city: City, *, closer: bool, arguments: argparse.Namespace) -> Localizer:
    imagery = tiles.open_source(city.imagery) if closer else None
    return Localizer(city.index, InferenceConfig(num_workers=arguments.threads), imagery=imagery)


def kept_beside(index: CellIndex, name: str) -> Path:
    """Names a file by the index that it depends on."""
    return index.folder.with_name(f"{index.folder.name}_{name.replace(' ', '_')}")


def calibration(fitted: Sequence[City], n_again: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fits how places are refined on whole cities, or reads what was fitted before."""
    path = kept_beside(fitted[0].index, f"calibration_{n_again}.json")
    if not path.exists():
        seen: list[fitting.Sighting] = []
        search = replace(SEARCH, rerank=n_again)
        for city in fitted:
            asks = localizer(city, closer=n_again > 0, arguments=arguments)
            for i in tqdm(range(len(city.photos)), f"{city.name}, first {n_again} again", dynamic_ncols=True):
                seen += fitting.sighted(asks, city.photos[i : i + 1], city.truth_deg[i : i + 1], search)
        made, notes = fitting.fit_calibration(seen, "photos" if arguments.root else "rendered", search)
        path.write_text(json.dumps({**made.to_manifest(), **notes}))
    said: dict[str, Any] = json.loads(path.read_text())
    return said


def answered(
    city: City, calibrations: Sequence[dict[str, Any]], arguments: argparse.Namespace
) -> dict[tuple[str, str], Errors]:
    """Asks for all panoramas of a city, in their tiles and everywhere, in three ways."""
    asks = []
    for said in calibrations:
        city.index.set_calibration(said)
        asks.append(localizer(city, closer=said["rerank"] > 0, arguments=arguments))
    plain, closer = asks
    in_tile = [Region.from_geometry(footprint) for footprint in footprints(city.tile_deg)]
    everywhere: list[Region | None] = [None] * len(in_tile)
    found: dict[tuple[str, str], Errors] = {}
    for protocol, regions in (("known tile", in_tile), ("whole city", everywhere)):
        path = kept_beside(city.index, f"{protocol}.npz")
        if not path.exists():
            answers: dict[str, list[NDArray[np.float64]]] = {MIDDLE: [], PLACE: [], CLOSER: []}
            of_all = zip(city.photos, regions, strict=True)
            for photo, region in tqdm(of_all, f"{city.name}, {protocol}", len(regions), dynamic_ncols=True):
                search = Search(1, region)
                for name, localized in ((PLACE, plain), (CLOSER, closer)):
                    (best,) = localized.find([photo], search)
                    (answer,) = localized.answer([photo], search)
                    answers[name].append(told(answer.places, photo, best))
                    if localized is plain:
                        answers[MIDDLE].append(told(best.places, photo, best))
            with path.with_suffix(".part").open("wb") as file:
                kept_rows: dict[str, Any] = {name: np.array(rows) for name, rows in answers.items()}
                np.savez(file, **kept_rows)
            path.with_suffix(".part").rename(path)
        with np.load(path) as kept:
            for name in kept.files:
                found[protocol, name] = errors(city, kept[name][:, :2], kept[name][:, 2])
    return found


def told(places: Sequence[Any], photo: EmbeddedPhoto, best: Found) -> NDArray[np.float64]:
    """Returns latitude, longitude and heading of a first place: NaN if there is none, or a tie decides for it."""
    score = best.candidates.score
    alike = len(np.unique(photo.vectors, axis=0)) < len(photo.vectors)
    if not places or alike or not np.isfinite(score[0]) or (score[1:] == score[0]).any():
        return np.full(3, np.nan)
    return np.array([*places[0].latlon_deg, places[0].heading_deg], np.float64)


def errors(city: City, latlon_deg: NDArray[np.float64], heading_deg: NDArray[np.float64]) -> Errors:
    """Holds (N, 2) places and (N,) headings against the truth."""
    error_m = distance_m(city.truth_deg, latlon_deg)
    off_deg = np.abs((heading_deg - city.heading_deg + 180.0) % 360.0 - 180.0)
    return Errors(np.where(np.isfinite(error_m), error_m, np.inf), np.where(np.isfinite(off_deg), off_deg, 180.0))


def guessed(city: City) -> dict[tuple[str, str], Errors]:
    """Returns what guesses reach, and what is the best that cells and headings allow."""
    rng, n = np.random.default_rng(0), len(city.truth_deg)
    off_px = rng.uniform(-TILE_PX / 2, TILE_PX / 2, (GUESSES, n, 2))
    in_tile_deg = np.array([moved_deg(city.tile_deg, each) for each in off_px])
    any_deg = rng.uniform(0.0, 180.0, (n, GUESSES))
    cell_ids = city.index.cell_ids()
    drawn_deg = cells.centers_deg(rng.choice(cell_ids, (n, GUESSES)).ravel()).reshape(n, GUESSES, 2)
    tried_deg = np.unique(np.concatenate([photo.headings_deg for photo in city.photos]))
    nearest_deg = np.abs((tried_deg - city.heading_deg[:, None] + 180.0) % 360.0 - 180.0).min(axis=1)
    best = {
        f"nearest middle of a {name}": Errors(
            np.array([distance_m(at_deg, centres_deg).min() for at_deg in city.truth_deg]), nearest_deg
        )
        for name, centres_deg in (
            ("cell", cells.centers_deg(cell_ids)),
            ("quarter of a cell", cells.centers_deg(cells.children(cell_ids).ravel())),
        )
    }
    return {
        ("known tile", "random place of the tile"): Errors(distance_m(city.truth_deg, in_tile_deg).T, any_deg),
        ("known tile", "middle of the tile"): Errors(distance_m(city.truth_deg, city.tile_deg), any_deg),
        **{("known tile", name): each for name, each in best.items()},
        ("whole city", "random cell"): Errors(distance_m(city.truth_deg[:, None], drawn_deg), any_deg),
        **{("whole city", name): each for name, each in best.items()},
    }


# -- figures -----------------------------------------------------------------------------------------------------------


def pooled(of_cities: Sequence[Errors]) -> Errors:
    return Errors(
        np.concatenate([each.error_m for each in of_cities]), np.concatenate([each.off_deg for each in of_cities])
    )


def rows(city: str, found: dict[tuple[str, str], Errors]) -> Iterable[dict[str, Any]]:
    """Yields the figures of each protocol and way; headings of all in a known tile, else of those that are right."""
    for (protocol, way), each in found.items():
        # Whether the heading of a wrong place is right is chance.
        counted = each.off_deg if protocol == "known tile" else each.off_deg[each.error_m <= RIGHT_M]
        row: dict[str, Any] = {"city": city, "protocol": protocol, "way": way, "panoramas": len(each.error_m)}
        row["tied_or_lost"] = int(np.isinf(each.error_m).sum())
        row |= figures(each.error_m, WITHIN_M if protocol == "known tile" else (*WITHIN_M, RIGHT_M), "m")
        if way in (PLACE, CLOSER):
            with np.errstate(invalid="ignore"):
                row["gain_over_middle_m"] = interval(found[protocol, MIDDLE].error_m - each.error_m, np.mean)
        row["headings_of"] = f"{len(counted)} of {each.error_m.size}"
        row["heading"] = figures(counted, WITHIN_DEG, "deg") if len(counted) else None
        yield row


def figures(off: NDArray[np.float64], within: Sequence[int], unit: str) -> dict[str, Any]:
    """Returns mean, median and shares of N errors, or of N times some guesses, with intervals over the N."""
    found: dict[str, Any] = {
        f"mean_error_{unit}": interval(off, np.mean),
        f"median_error_{unit}": interval(off, np.median),
    }
    for radius in within:
        share = float((off <= radius).mean())
        low, high = wilson_interval(share, len(off))
        found[f"within_{radius}_{unit}"] = {"share": number(share), "interval": [number(low), number(high)]}
    return found


def interval(values: NDArray[np.float64], statistic: Callable[..., Any]) -> dict[str, Any]:
    """Returns a statistic with its 95 % percentile bootstrap interval."""
    rng = np.random.default_rng(0)
    draws = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(1000)]
    return {
        "value": number(float(statistic(values))),
        "interval": [number(float(v)) for v in np.quantile(draws, (0.025, 0.975))],
    }


if __name__ == "__main__":
    main()
