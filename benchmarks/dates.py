"""What counts of several dates of a cell: are such cells right more often, or only answered more often?

    python benchmarks/dates.py --work DIR [--styles european_town waterfront] [--dates 3]

Rendered regions with orthophotos of several dates, each from a flight of its own in another season, with a share of the
buildings replaced in between. Half of the photos are older than all imagery, half are newer. Blocks of ground (level
15, about 280 m) are parted in two by lot: cells of the one half have codes of all dates, those of the other of the
first alone. Then the halves change places, so that every photo is asked once on each.

* one date everywhere: nobody has several.
* best score: the best of a cell's rows, as they are.
* max: the best less what geoview takes off, `SHARE` of what the best of n dates gains at any cell.
* best less all of that gain: `SHARE` as 1.
* mean, latest: as `geoview locate --dates` has them.

Of each, the share of photos whose first place lies within 100 m: of all, of those that stand on cells of several dates
and of those that stand on cells of one; and of the wrong first places, the share on cells of several dates, which half
of the ground has. Intervals are of a bootstrap over blocks, and of the differences from the best score, over the same
photos.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import shapely
import torch
from machine import circumstances
from numpy.typing import NDArray

from geoview.config import Dates, InferenceConfig
from geoview.data.queries import PhotoQuery, find_queries
from geoview.demo import LEVEL, DemoRegion, index_region
from geoview.geo import cells
from geoview.geo.sphere import distance_m
from geoview.index import dates, scoring, store
from geoview.index.cell_index import CellIndex
from geoview.locate.embedding import EmbeddedPhoto
from geoview.locate.localizer import Localizer, Search
from geoview.metrics import bootstrap_interval
from geoview.models.encoder import CrossViewEncoder, find_encoder
from geoview.render.photos import write_shots, write_table
from geoview.render.region import write_features, write_region
from geoview.render.shots import PhotoKind, Stand, draw_shots
from geoview.render.world import make_world

RANGE_M, WITHIN_M = 100.0, 100.0
BLOCK_LEVEL = 15
KINDS: tuple[Literal["panorama", "perspective"], ...] = ("panorama", "perspective")
#: What is counted, and how much of the gain of the best is taken off.
WAYS: dict[str, tuple[Dates, float]] = {
    "best score": ("max", 0.0),
    "max": ("max", dates.SHARE),
    "best less all of the gain": ("max", 1.0),
    "mean": ("mean", 0.0),
    "latest": ("latest", 0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--encoder", default="demo")
    parser.add_argument("--styles", nargs="+", default=["european_town", "waterfront"])
    parser.add_argument("--seed", type=int, default=431)
    parser.add_argument("--side_m", type=float, default=1100.0)
    parser.add_argument("--dates", type=int, default=3, help="of imagery, two at least")
    parser.add_argument("--photos", type=int, default=38, help="of each kind, older and newer than the imagery")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dates.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = find_encoder(arguments.encoder)
    asked = [each for style in arguments.styles for each in asked_in(style, encoder, arguments)]
    report = {
        "what": "first places within 100 m, where half of the cells have codes of several dates and half of one",
        "encoder": {"name": arguments.encoder, "fingerprint": CrossViewEncoder.load(encoder).fingerprint()},
        "regions": [f"{style}, seed {arguments.seed}, {arguments.side_m:g} m wide" for style in arguments.styles],
        "level": LEVEL,
        "dates": arguments.dates,
        "share_of_the_gain": dates.SHARE,
        "ways": scored(asked),
        **circumstances(f"{arguments.threads} threads used"),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["ways"], indent=1))


# -- what is measured --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """Photos that were asked of one region and half of it, (N,) each.

    Attributes:
        right: Whether the first place lies within 100 m, by way.
        on_several: Whether that place is a cell of several dates, by way.
        stands_on_several: Whether the photo stands on such a cell.
        newer: Whether it is newer than all imagery.
        block: Where it stands.
    """

    right: dict[str, NDArray[np.bool_]]
    on_several: dict[str, NDArray[np.bool_]]
    stands_on_several: NDArray[np.bool_]
    newer: NDArray[np.bool_]
    block: NDArray[np.uint64]


def asked_in(style: str, encoder: Path, arguments: argparse.Namespace) -> list[Asked]:
    """Asks all photos of a region twice: with one half of its ground of several dates, and with the other."""
    inference = InferenceConfig(device="cpu", num_workers=arguments.threads)
    folder, regions, newer = rendered(style, arguments)
    dated = [index_region(region, encoder, folder / region.reference.stem, inference) for region in regions]
    queries = [PhotoQuery(photo.path, fov_deg=photo.fov_deg) for photo in regions[0].photos]
    photos = Localizer(dated[0], inference).embed(queries)
    truth_deg = regions[0].truth_deg()
    block = cells.cell_ids(truth_deg, BLOCK_LEVEL)
    blocks = np.random.default_rng(arguments.seed).permutation(blocks_of(dated[0].cell_ids()))
    asked = []
    for half in (blocks[::2], blocks[1::2]):
        index = of_several_dates(dated, half, folder / "mixed")
        found = {"one date everywhere": first_places(dated[0], photos, "max", 0.0, inference)}
        found |= {name: first_places(index, photos, *way, inference) for name, way in WAYS.items()}
        right = {name: distance_m(cells.centers_deg(ids), truth_deg) <= WITHIN_M for name, ids in found.items()}
        on_several = {name: np.isin(cells.parents(ids, BLOCK_LEVEL), half) for name, ids in found.items()}
        asked.append(Asked(right, on_several, np.isin(block, half), newer, block))
    return asked


def blocks_of(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.unique(cells.parents(ids, BLOCK_LEVEL))


def first_places(
    index: CellIndex, photos: Sequence[EmbeddedPhoto], dates: Dates, share: float, inference: InferenceConfig
) -> NDArray[np.uint64]:
    """Returns the cells of the first places, (N,)."""
    with patch.object(scoring, "SHARE", share):
        answers = Localizer(index, inference).answer(photos, Search(top_k=1, dates=dates))
    return np.array([answer.places[0].cell_id for answer in answers], np.uint64)


def scored(asked: list[Asked]) -> dict[str, Any]:
    """Returns shares of photos by way, over all regions and both halves."""
    block = np.concatenate([each.block for each in asked])
    stands = np.concatenate([each.stands_on_several for each in asked])
    newer = np.concatenate([each.newer for each in asked])
    right, on_several = (
        {name: np.concatenate([getattr(each, what)[name] for each in asked]) for name in asked[0].right}
        for what in ("right", "on_several")
    )

    def share(values: NDArray[np.generic], of: NDArray[np.bool_]) -> dict[str, Any]:
        low, high = bootstrap_interval(values[of].astype(float), 0, groups=block[of])
        mean = float(values[of].astype(float).mean())
        return {"share": round(mean, 4), "interval": [round(low, 4), round(high, 4)], "n": int(of.sum())}

    everyone = np.ones(len(block), np.bool_)
    return {
        name: {
            "recall_at_1_within_100_m": share(found, everyone),
            "more_than_best_score": share(found.astype(int) - right["best score"], everyone),
            "of_photos_on_several_dates": share(found, stands),
            "of_photos_on_one_date": share(found, ~stands),
            "of_photos_older_than_the_imagery": share(found, ~newer),
            "of_photos_newer_than_the_imagery": share(found, newer),
            "wrong_places_on_several_dates": share(on_several[name], ~found),
        }
        for name, found in right.items()
    }


# -- regions and indexes -----------------------------------------------------------------------------------------------


def rendered(style: str, arguments: argparse.Namespace) -> tuple[Path, list[DemoRegion], NDArray[np.bool_]]:
    """Renders a region with orthophotos of all dates, or takes what is there.

    Returns:
        Its folder; the region with the orthophoto of each date and all photos; and which photos are newer than these.
    """
    seed, side_m = arguments.seed, arguments.side_m
    folder = arguments.work / f"{style}_{seed}_{side_m:g}_{arguments.dates}_{arguments.photos}"
    world = make_world(style, seed, size_m=(side_m, side_m))
    epochs = range(1, arguments.dates + 1)
    plan = write_region(
        world, folder / "region", n_panoramas=0, n_perspective=0, seed=seed, epochs=epochs, num_workers=1
    )
    outline = folder / "outline.geojson"
    ground = shapely.box(RANGE_M, RANGE_M, side_m - RANGE_M, side_m - RANGE_M)
    write_features(outline, world.grid, [(ground, {"name": "where cameras stand"})])
    photos: list[PhotoQuery] = []
    newer: list[bool] = []
    for epoch in (0, arguments.dates + 1):
        state = world.state(epoch)
        for salt, (kind, size_px) in enumerate(zip(KINDS, (1024, 320), strict=True)):
            table = folder / f"{kind}_{epoch}.csv"
            if not table.exists():
                view = PhotoKind(kind, size_px, range_m=RANGE_M, least_range_m=RANGE_M)
                stand = Stand(state.scene(), RANGE_M, state.roads)
                number = 10 * seed + 2 * epoch + salt
                shots = draw_shots(stand, folder / table.stem, arguments.photos, view, seed=number, day=state.date)
                write_shots(state.scene(), shots, num_workers=arguments.threads)
                write_table(table, shots)
            taken = find_queries([table])
            photos += taken
            newer += [epoch > 0] * len(taken)
    orthos = [folder / "region" / each["ortho"] for each in plan["epochs"]]
    return folder, [DemoRegion(ortho, outline, photos) for ortho in orthos], np.array(newer)


def of_several_dates(dated: list[CellIndex], half: NDArray[np.uint64], out: Path) -> CellIndex:
    """Writes the index of the first date, with the codes of all others in some blocks."""
    shutil.rmtree(out, ignore_errors=True)
    first = dated[0]
    shutil.copytree(first.folder / "encoder", out / "encoder")
    entries = []
    for i, entry in enumerate(first.manifest.shards):
        rows = store.read_rows(first.folder, entry)
        for other in dated[1:]:
            more = store.read_rows(other.folder, other.manifest.shards[i])
            rows = rows.updated(more.without(~np.isin(cells.parents(more.cell, BLOCK_LEVEL), half)))
        entries.append(store.write_rows(out, entry.parent, rows))
    store.commit(out, replace(first.manifest, shards=entries))
    return CellIndex.open(out)


if __name__ == "__main__":
    main()
