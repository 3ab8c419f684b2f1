"""How many street photos of rendered worlds are found, and what is found without looking at the streets.

    python benchmarks/rendered.py                    regions of all styles; the unseen style apart
    python benchmarks/rendered.py --levels           levels 16 to 19: on the same ground, and with as many bytes
    python benchmarks/rendered.py --naip             photos ray-cast from NAIP of 2018, chips from NAIP of 2020

Photos are located as `geoview demo` does it: neither position nor heading is told, places are 100 m apart. Photos and
chips are of different dates. World seeds are below those of the lessons. Beside each figure of the encoder stand guards
that must fail, on the same photos, cells and scores:

* untrained: the same architecture with random weights, several headings tried alike;
* colour histogram: of the lower half of the photo against that of the chips;
* above 30 deg: the photo painted over below that elevation, so that hardly anything but sky is left. To an encoder of
  plans, all photos are then the same;
* shuffled pairs: the encoder's answers, scored against where another photo was taken;
* by lot: places drawn at random, as far apart.

And once a region, a hundred photos without EXIF and XMP, and with false ones, their compressed pictures the same to the
byte, must have the same answers to the last digit. Runs resume: what is rendered and indexed is kept in --work.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guards import Answers, by_lot, histogram_answers, locate_above, metadata_check, random_weights
from machine import circumstances
from numpy.typing import NDArray
from shapely import Polygon

import tiles
from geoview.config import BuildConfig, DemoConfig, InferenceConfig, RenderPhotosConfig
from geoview.data.queries import PhotoQuery, find_queries
from geoview.demo import APART_M, LEVEL, DemoRegion, DemoSize, index_region, locate_unaided, make_region
from geoview.evaluate import score_places
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.metrics import wilson_interval
from geoview.models.encoder import CrossViewEncoder, find_encoder
from geoview.render.photos import write_shots, write_table
from geoview.render.region import PHOTO_EPOCH, REFERENCE_EPOCH, write_features, write_region
from geoview.render.shots import PhotoKind, Stand, draw_shots
from geoview.render.tour import photograph
from geoview.render.world import TRAINING_STYLES, UNSEEN_STYLE, make_world

HERE = Path(__file__).parent
DATA = Path(os.environ.get("GEOVIEW_REAL_DATA", HERE.parent.parent / "shared/data"))
CITIES = {"riverside": "trained on", "santa_monica": "tested only"}
FOV_BINS_DEG = ((60, 75), (75, 90), (90, 110))
SKY_DEG = (30.0,)
LEVELS = (16, 17, 18, 19)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--levels", dest="run", action="store_const", const=levels, default=worlds)
    mode.add_argument("--naip", dest="run", action="store_const", const=naip)
    parser.add_argument("--encoder", default="demo")
    parser.add_argument("--styles", nargs="+", help="all; for --levels the first and the unseen")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101])
    parser.add_argument("--level", type=int, default=LEVEL, help="of all but --levels")
    parser.add_argument("--photos", type=int, default=300, help="of each kind and region")
    parser.add_argument("--side_m", type=float, default=DemoSize().side_m, help="of a region")
    parser.add_argument(
        "--inner_m", type=float, default=350.0, help="of the ground that --levels compares at equal bytes"
    )
    parser.add_argument("--per_place", type=int, default=3, help="photos of each kind and NAIP square")
    parser.add_argument("--places", type=int, help="NAIP squares of a city, instead of all")
    parser.add_argument("--data", type=Path, default=DATA / "naip")
    parser.add_argument("--work", type=Path, default=Path("runs/rendered"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.styles is None:
        seen = TRAINING_STYLES[:1] if arguments.run is levels else TRAINING_STYLES
        arguments.styles = [*seen, UNSEEN_STYLE]
    torch.set_num_threads(arguments.threads)
    encoder = find_encoder(arguments.encoder)
    report = {
        "encoder": {"name": arguments.encoder, "fingerprint": CrossViewEncoder.load(encoder).fingerprint()},
        "apart_m": APART_M,
        **arguments.run(encoder, arguments),
        **circumstances(f"{arguments.threads} threads used"),
    }
    default = {worlds: "rendered.json", levels: "rendered_levels.json", naip: "rendered_naip.json"}[arguments.run]
    out = arguments.out or HERE / "results" / default
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")


# -- what is measured --------------------------------------------------------------------------------------------------


def worlds(encoder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Regions of each style: the encoder beside its guards."""
    rows: list[dict[str, Any]] = []
    checks = []
    untrained = random_weights(encoder, arguments.work)
    for style in arguments.styles:
        for seed in arguments.seeds:
            about = {"style": style, "seen_in_training": style != UNSEEN_STYLE, "seed": seed}
            region = rendered(style, seed, arguments)
            folder = region_folder(style, seed, arguments)
            indexes = [
                index_region(
                    region, weights, index_folder(folder, name, weights, arguments.level), running(arguments),
                    level=arguments.level,
                )
                for name, weights in (("encoder", encoder), ("untrained", untrained))
            ]  # fmt: skip
            found, check = guarded(indexes[0], indexes[1], region.reference, region.photos, folder, arguments)
            rows += tell({**about, **row} for row in found)
            checks.append({**about, **check})
    return {
        "what": "recall of street photos of rendered regions, by method and kind of photo",
        "pooled": pooled(rows),
        "rows": rows,
        "metadata": checks,
    }


def levels(encoder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Levels 16 to 19: the same photos on the same ground, and on as much ground as the same bytes can hold.

    Bytes are the number of codes times the length of one, and codes of all levels are equally long. So at equal bytes a
    coarser level holds four times the ground a step: the squares of side 1, 2, 4 and 8 around the same middle, for
    levels 19 to 16, with the photos of the innermost.
    """
    rows: list[dict[str, Any]] = []
    for style in arguments.styles:
        for seed in arguments.seeds:
            same = rendered(style, seed, arguments)
            folder = region_folder(style, seed, arguments)
            nested = nested_regions(style, seed, arguments)
            for level in LEVELS:
                for name, region, within in (
                    ("same ground", same, folder),
                    ("same bytes", nested[level], folder / "nested"),
                ):
                    weights_folder = index_folder(within, "encoder", encoder, level)
                    index = index_region(region, encoder, weights_folder, running(arguments), level=level)
                    answers = locate_unaided(index, region.photos, running(arguments))
                    about = {"style": style, "seed": seed, "comparison": name, **size_of(index, region)}
                    found = scored(index, region.photos, {"encoder": answers, "by lot": by_lot(index, len(answers))})
                    rows += tell({**about, **row} for row in found if row["photos"] in ("panoramas", "perspective"))
    return {"what": "recall by level of the cells, on the same ground and with the same bytes of codes", "rows": rows}


def naip(encoder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Photos ray-cast from the imagery of 2018 and the trees of two cities, located among the squares of 2020."""
    if not arguments.data.is_dir():
        raise SystemExit(f"{arguments.data}: no NAIP there; give --data, or set GEOVIEW_REAL_DATA")
    rows: list[dict[str, Any]] = []
    checks = []
    untrained = random_weights(encoder, arguments.work)
    for city, role in CITIES.items():
        folder = arguments.work / f"naip_{city}_{arguments.per_place}_{arguments.places}"
        photos = naip_photos(city, folder, arguments)
        chips = arguments.data / city / "2020"
        indexes = [
            naip_index(chips, weights, index_folder(folder, name, weights, arguments.level), arguments)
            for name, weights in (("encoder", encoder), ("untrained", untrained))
        ]
        found, check = guarded(indexes[0], indexes[1], chips, photos, folder, arguments)
        rows += tell({"city": city, "role": role, **row} for row in found)
        checks.append({"city": city, "role": role, **check})
    return {
        "what": "recall of photos ray-cast from NAIP of 2018 and trees, among all squares of the city in 2020",
        "heights": "trees as surveyed, sizes drawn; no buildings",
        "rows": rows,
        "metadata": checks,
    }


def guarded(
    index: CellIndex,
    untrained: CellIndex,
    imagery: Path,
    photos: list[PhotoQuery],
    folder: Path,
    arguments: argparse.Namespace,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns a row for each method and kind of photo, and whether what the files say changes answers.

    Changed photos are written to the region's own folder: several regions may be measured at once.
    """
    methods: dict[str, Answers] = {
        "encoder": locate_unaided(index, photos, running(arguments)),
        "untrained": locate_unaided(untrained, photos, running(arguments)),
        "colour histogram": histogram_answers(index, tiles.open_source(str(imagery)), photos),
        **{f"above {d:g} deg": locate_above(d, index, photos, running(arguments), folder) for d in SKY_DEG},
        "by lot": by_lot(index, len(photos)),
    }
    return scored(index, photos, methods), metadata_check(index, photos, running(arguments), folder)


def scored(index: CellIndex, photos: list[PhotoQuery], methods: dict[str, Answers]) -> list[dict[str, Any]]:
    """Returns a row for each method and kind of photo; the encoder's answers once more against shuffled truth."""
    centres_deg = cells.centers_deg(index.cell_ids())
    truth_deg = np.array([photo.latlon_deg for photo in photos], np.float64)
    fov_deg = np.array([photo.fov_deg for photo in photos], np.float64)
    kinds = {"panoramas": fov_deg == 360, "perspective": fov_deg < 360}
    kinds |= {f"perspective {a} to {b} deg": (fov_deg >= a) & (fov_deg < b + (b == 110)) for a, b in FOV_BINS_DEG}
    rows = []
    for kind, which in kinds.items():
        mine = np.flatnonzero(which)
        if not len(mine):
            continue
        lots = score_many(methods["by lot"], mine, truth_deg, centres_deg)
        # Each photo's answer is held against the next one's truth, in an order drawn by lot: none against its own.
        order = np.random.default_rng(0).permutation(mine)
        of_another = truth_deg.copy()
        of_another[order] = truth_deg[np.roll(order, 1)]
        for method, answers in (*methods.items(), ("shuffled pairs", methods["encoder"])):
            if method == "by lot":
                scores = lots
            else:
                truth = of_another if method == "shuffled pairs" else truth_deg
                scores = score_places([answers[i] for i in mine], truth[mine], centres_deg)
            row: dict[str, Any] = {"method": method, "photos": kind, "level": index.level}
            row |= {key: number(value) for key, value in scores.items()}
            row["ceiling_recall_within_100_m"] = number(reachable(truth_deg[mine], centres_deg))
            for k in (1, 10):
                share, n = row[f"recall_at_{k}_within_100_m"], len(mine)
                row[f"recall_at_{k}_within_100_m_interval"] = [round(v, 4) for v in wilson_interval(share, n)]
            chance = lots["recall_at_10_within_100_m"]
            row["chance_recall_at_10_within_100_m"] = number(chance)
            row["recall_at_10_over_chance"] = round(row["recall_at_10_within_100_m"] / chance, 2) if chance else None
            rows.append(row)
    return rows


def score_many(
    lots: Answers, mine: NDArray[np.intp], truth_deg: NDArray[np.float64], centres_deg: NDArray[np.float64]
) -> dict[str, float]:
    """Scores several draws for each photo together: `lots` holds one draw of all photos after another."""
    n = len(truth_deg)
    rows = (mine[None] + n * np.arange(len(lots) // n)[:, None]).ravel()
    scores = score_places([lots[i] for i in rows], np.tile(truth_deg[mine], (len(lots) // n, 1)), centres_deg)
    return {**scores, "n_photos": len(mine)}


def pooled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sums regions up: shares over all photos of the styles seen in training, and of the unseen one."""
    found = []
    groups = dict.fromkeys((row["seen_in_training"], row["method"], row["photos"]) for row in rows)
    for seen, method, kind in groups:
        mine = [r for r in rows if (r["seen_in_training"], r["method"], r["photos"]) == (seen, method, kind)]
        weights = np.array([row["n_photos"] for row in mine], np.float64)
        shares = [key for key in mine[0] if key.startswith(("recall_at", "chance", "ceiling")) and key[-2:] == "_m"]
        mean = {key: float(np.average([row[key] for row in mine], weights=weights)) for key in shares}
        chance = mean["chance_recall_at_10_within_100_m"]
        found.append(
            {
                "seen_in_training": seen,
                "method": method,
                "photos": kind,
                "regions": len(mine),
                "n_photos": int(weights.sum()),
                **{key: number(value) for key, value in mean.items()},
                "recall_at_10_over_chance": round(mean["recall_at_10_within_100_m"] / chance, 2) if chance else None,
            }
        )
    return found


def reachable(truth_deg: NDArray[np.float64], centres_deg: NDArray[np.float64]) -> float:
    """Returns the share of photos that have a cell within 100 m: no method can do better."""
    return float(np.mean([(distance_m(t, centres_deg) <= 100).any() for t in truth_deg]))


def size_of(index: CellIndex, region: DemoRegion) -> dict[str, Any]:
    return {
        "level": index.level,
        "codes": len(index),
        "dim": index.manifest.dim,
        "bytes_of_codes": len(index) * index.manifest.dim * 2,
        "area_km2": round(Region.from_geojson(region.outline).area_km2, 3),
    }


# -- regions and places ------------------------------------------------------------------------------------------------


def running(arguments: argparse.Namespace) -> InferenceConfig:
    return InferenceConfig(device="cpu", num_workers=arguments.threads)


def region_folder(style: str, seed: int, arguments: argparse.Namespace) -> Path:
    return Path(arguments.work) / f"{style}_{seed}_{arguments.side_m:g}_{arguments.photos}"


def index_folder(folder: Path, name: str, encoder: Path, level: int) -> Path:
    """Names an index by all that it depends on, so that another encoder does not find it."""
    return folder / f"index_{name}_{CrossViewEncoder.load(encoder).fingerprint()}_{level}"


def rendered(style: Any, seed: int, arguments: argparse.Namespace) -> DemoRegion:
    config = DemoConfig(out="", seed=seed, style=style, num_workers=arguments.threads)
    size = DemoSize(arguments.side_m, arguments.photos, arguments.photos, least_cells=1)
    return make_region(config, region_folder(style, seed, arguments), size)


def nested_regions(style: str, seed: int, arguments: argparse.Namespace) -> dict[int, DemoRegion]:
    """Renders one world with photos of its middle; covers it by squares of side 1, 2, 4, 8 for levels 19 to 16."""
    folder = region_folder(style, seed, arguments) / "nested"
    margin_m = 100.0
    side_m = 2.0 ** (LEVELS[-1] - LEVELS[0]) * arguments.inner_m + 2 * margin_m
    world = make_world(style, seed, size_m=(side_m, side_m))
    plan = write_region(
        world, folder / "region", n_panoramas=0, n_perspective=0, seed=seed, epochs=(REFERENCE_EPOCH,),
        num_workers=arguments.threads,
    )  # fmt: skip
    table = folder / "photos.csv"
    if not table.exists():
        state = world.state(PHOTO_EPOCH)
        rows, columns = (slice(*(round(v / world.grid.gsd_m) for v in middle(side_m, arguments.inner_m))),) * 2
        inner = np.zeros_like(state.standing)
        inner[rows, columns] = state.standing[rows, columns]
        stand = Stand(replace(state.scene(), standing=inner), margin_m, state.roads)
        shots = [
            shot
            for salt, kind in enumerate((PhotoKind("panorama", 512), PhotoKind("perspective", 320)))
            for shot in draw_shots(
                stand, folder / "photos", arguments.photos, kind, seed=2 * seed + salt, day=state.date
            )
        ]
        write_shots(stand.scene, shots, num_workers=arguments.threads)
        write_table(table, shots)
    photos = find_queries([table])
    regions = {}
    for level in LEVELS:
        low_m, high_m = middle(side_m, arguments.inner_m * 2 ** (LEVELS[-1] - level))
        outline = folder / f"outline_{level}.geojson"
        square = [(low_m, low_m), (high_m, low_m), (high_m, high_m), (low_m, high_m)]
        write_features(outline, world.grid, [(Polygon(square), {"name": f"as many cells of level {level}"})])
        regions[level] = DemoRegion(folder / "region" / plan["reference"], outline, photos)
    return regions


def middle(side_m: float, part_m: float) -> tuple[float, float]:
    return (side_m - part_m) / 2, (side_m + part_m) / 2


def naip_photos(city: str, folder: Path, arguments: argparse.Namespace) -> list[PhotoQuery]:
    """Takes photos of the squares of a city in 2018; 154 m wide, they let cameras stand near their middles only."""
    squares = sorted((arguments.data / city / "2018").glob("*.tif"))[: arguments.places]
    photos: list[PhotoQuery] = []
    for kind in ("panorama", "perspective"):
        config = RenderPhotosConfig(
            out=str(folder / kind), ortho=[str(path) for path in squares], trees=str(arguments.data / city / "trees"),
            n=arguments.per_place, kind=kind, num_workers=arguments.threads,
        )  # fmt: skip
        taken, failures = photograph(config)
        print(f"{city}: {taken} of kind {kind}; {len(failures)} squares without: {failures[:1]}", file=sys.stderr)
        photos += find_queries([folder / kind / "photos.csv"])
    return photos


def naip_index(chips: Path, encoder: Path, out: Path, arguments: argparse.Namespace) -> CellIndex:
    if (out / "manifest.json").exists():
        return CellIndex.open(out)
    config = BuildConfig(
        encoder=str(encoder), imagery=[str(chips)], out=str(out), level=arguments.level, device="cpu",
        num_workers=arguments.threads,
    )  # fmt: skip
    return build_index(CrossViewEncoder.load(encoder), tiles.open_source(config.imagery), None, out, config)


# -- report ------------------------------------------------------------------------------------------------------------


def tell(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = list(rows)
    for row in rows:
        print(json.dumps(row), flush=True)
    return rows


def number(value: float) -> float | None:
    """Rounds what is no count; JSON knows no infinity."""
    if not math.isfinite(value):
        return None
    return value if isinstance(value, int) else round(float(value), 4)


if __name__ == "__main__":
    main()
