"""What larger ground around each cell brings: recall, build time and chips a cell for indexes of one to three scales.

    python benchmarks/scales.py --photos 100 --threads 1

The same photos of rendered regions that the encoder has not seen are located in indexes of the same cells; only the
scales of their codes differ. Photos and chips are of different dates, nothing but the field of view is told, places are
100 m apart, as in `rendered.py`. An encoder that has learnt one ground size only has no reason to gain. Regions are
kept in --work, indexes are built anew.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from guards import by_lot
from machine import circumstances
from numpy.typing import NDArray
from rendered import index_folder, number, region_folder, rendered, running, scored, tell
from scipy.stats import binomtest

import tiles
from geoview.config import BuildConfig
from geoview.data.queries import PhotoQuery
from geoview.demo import APART_M, LEVEL, TOP_K, DemoRegion, DemoSize
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.locate.localizer import Localization, Localizer, Search
from geoview.metrics import wilson_interval
from geoview.models.encoder import CrossViewEncoder, find_encoder
from geoview.render.world import UNSEEN_STYLE

HERE = Path(__file__).parent
SCALES = ([1], [1, 2], [1, 2, 4])


class Counted:
    """An imagery source that counts its chips by ground size."""

    def __init__(self, source: tiles.ImagerySource) -> None:
        self._source, self.chips = source, Counter[float]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def chip(self, latlon_deg: NDArray[np.float64], *, size_px: int, gsd_m: float) -> tiles.Chip:
        """Cuts a chip, and counts it."""
        self.chips[gsd_m * size_px] += 1
        return self._source.chip(latlon_deg, size_px=size_px, gsd_m=gsd_m)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="demo")
    parser.add_argument("--styles", nargs="+", default=["european_town", UNSEEN_STYLE])
    parser.add_argument("--seeds", type=int, nargs="+", default=[101])
    parser.add_argument("--level", type=int, default=LEVEL)
    parser.add_argument("--photos", type=int, default=300, help="of each kind and region")
    parser.add_argument("--side_m", type=float, default=DemoSize().side_m, help="of a region")
    parser.add_argument("--work", type=Path, default=Path("runs/rendered"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scales.json")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = find_encoder(arguments.encoder)
    builds: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    hits: list[list[NDArray[np.bool_]]] = [[] for _ in SCALES]
    panorama: list[bool] = []
    for style in arguments.styles:
        for seed in arguments.seeds:
            about = {"style": style, "seen_in_training": style != UNSEEN_STYLE, "seed": seed}
            region = rendered(style, seed, arguments)
            photos = [PhotoQuery(photo.path, fov_deg=photo.fov_deg) for photo in region.photos]
            panorama += [photo.fov_deg == 360 for photo in photos]
            embedded = None
            for scales, mine in zip(SCALES, hits, strict=True):
                out = index_folder(region_folder(style, seed, arguments), "scales", encoder, arguments.level)
                index, cost = built(region, encoder, out, scales, arguments)
                builds += tell([{**about, "scales": scales, **cost}])
                localizer = Localizer(index, running(arguments))
                embedded = embedded or localizer.embed(photos)
                answers = localizer.answer(embedded, Search(top_k=TOP_K, apart_m=APART_M))
                found = scored(index, region.photos, {"encoder": answers, "by lot": by_lot(index, len(answers))})
                rows += tell(
                    {**about, "scales": scales, **row}
                    for row in found
                    if row["photos"] in ("panoramas", "perspective") and row["method"] == "encoder"
                )
                mine.append(found_by_rank(answers, region.photos))
    report = {
        "what": "recall of street photos of rendered regions, and what an index costs, by the scales of its codes",
        "encoder": {"name": arguments.encoder, "fingerprint": CrossViewEncoder.load(encoder).fingerprint()},
        "apart_m": APART_M,
        "pooled": compared([np.concatenate(mine) for mine in hits], np.array(panorama)),
        "builds": builds,
        "rows": rows,
        **circumstances(f"{arguments.threads} threads used"),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def found_by_rank(answers: list[Localization], photos: list[PhotoQuery]) -> NDArray[np.bool_]:
    """Returns which photos have a place within 100 m among their first 1, 2, ... places, (N, TOP_K)."""
    within = np.zeros((len(answers), TOP_K), np.bool_)
    for row, answer, photo in zip(within, answers, photos, strict=True):
        row[: len(answer.places)] = [
            distance_m(np.array(photo.latlon_deg), np.array(place.latlon_deg)) <= 100 for place in answer.places
        ]
    return np.logical_or.accumulate(within, axis=1)


def compared(hits: list[NDArray[np.bool_]], panorama: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Returns recalls over all regions, and a sign test of the photos that are found with or without larger ground."""
    rows = []
    for kind, which in (("panoramas", panorama), ("perspective", ~panorama)):
        for k in (1, 10):
            alone = hits[0][which, k - 1]
            for scales, found in zip(SCALES, hits, strict=True):
                mine = found[which, k - 1]
                gained, lost = int((mine & ~alone).sum()), int((alone & ~mine).sum())
                share = float(mine.mean())
                rows.append(
                    {
                        "photos": kind, "n_photos": len(mine), "scales": scales, "k": k,
                        "recall_within_100_m": number(share),
                        "interval": [number(v) for v in wilson_interval(share, len(mine))],
                        "gained": gained, "lost": lost,
                        "p_value": number(binomtest(gained, gained + lost).pvalue if gained + lost else 1.0),
                    }
                )  # fmt: skip
    return rows


def built(
    region: DemoRegion, encoder: Path, out: Path, scales: list[int], arguments: argparse.Namespace
) -> tuple[CellIndex, dict[str, Any]]:
    """Builds an index and tells what it cost; processor time says more than the clock on a machine that is shared."""
    config = BuildConfig(
        encoder=str(encoder), imagery=[str(region.reference)], out=str(out), level=arguments.level, scales=scales,
        device="cpu", num_workers=arguments.threads, overwrite=True,
    )  # fmt: skip
    source = Counted(tiles.open_source(config.imagery))
    loaded, outline = CrossViewEncoder.load(encoder), Region.from_geojson(region.outline)
    clock, processor = time.perf_counter(), time.process_time()
    index = build_index(loaded, cast(tiles.ImagerySource, source), outline, out, config)
    return index, {
        "cells": len(index),
        "chips_a_cell": round(source.chips.total() / len(index), 3),
        "chips_by_ground_m": {f"{ground_m:g}": n for ground_m, n in sorted(source.chips.items())},
        "build_s": round(time.perf_counter() - clock, 1),
        "processor_s": round(time.process_time() - processor, 1),
    }


if __name__ == "__main__":
    main()
