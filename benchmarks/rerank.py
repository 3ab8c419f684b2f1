"""What looking again at the first candidates brings, ingredient by ingredient, beside a denser index.

    python benchmarks/rerank.py
    python benchmarks/rerank.py --seeds 7301 7302 --side_m 800 --photos 120 --out chosen.json

Photos of rendered regions that the encoder has not seen are located with nothing told but their field of view, once by
the codes of the index, and once more by a closer look at its first cells. What that look consists of was chosen on the
regions of the second call, others than those of the first, which reports. All variants of `ingredients` see the same
first cells: photo and chips turned together, quarters of the cell, headings half as far apart, another ground size,
maps of features shifted against each other, and the first score blended in. `product` is what `geoview locate --rerank`
does, beside an index of one level finer, with bytes and seconds. Regions and indexes are kept in --work.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import circumstances
from numpy.typing import NDArray
from rendered import index_folder, number, region_folder, rendered, running, tell

import tiles
from geoview.config import PlanView
from geoview.data.photos import read_metadata
from geoview.data.queries import PhotoQuery
from geoview.data.views import StreetPhoto
from geoview.demo import DemoRegion, index_region
from geoview.embed import embed
from geoview.geo import cells
from geoview.geo.sphere import distance_m
from geoview.index.cell_index import CellIndex
from geoview.locate.localizer import Localizer, Search
from geoview.locate.rerank import TURNS
from geoview.metrics import bootstrap_interval
from geoview.models.encoder import CrossViewEncoder, find_encoder
from geoview.render.world import UNSEEN_STYLE

HERE = Path(__file__).parent
RADII_M = (25, 50, 100)
LEVEL = 19
GROUND_SIZES = (0.5, 0.75)  # metres a pixel, instead of 0.6
FEW = 5  # photos whose candidates nobody has asked for


@dataclass(frozen=True)
class Answers:
    """First places of all photos: (N,) distance from the truth, (N,) error of the heading."""

    error_m: NDArray[np.float64]
    heading_error_deg: NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="demo")
    parser.add_argument("--styles", nargs="+", default=["european_town", UNSEEN_STYLE])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7311, 7312], help="one a style")
    parser.add_argument("--photos", type=int, default=150, help="of each kind and region")
    parser.add_argument("--side_m", type=float, default=1000.0, help="of a region; cameras stand 100 m within")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path("runs/rerank"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "rerank.json")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = find_encoder(arguments.encoder)
    report: dict[str, Any] = {
        "what": "first places of street photos of rendered regions, by codes alone and looked at again",
        "encoder": {"name": arguments.encoder, "fingerprint": CrossViewEncoder.load(encoder).fingerprint()},
        "level": LEVEL,
        "candidates": arguments.candidates,
        "regions": [],
        "ingredients": [],
        "product": [],
        "costs": [],
    }
    found: list[tuple[NDArray[np.bool_], dict[str, Answers]]] = []
    asked: list[tuple[NDArray[np.bool_], dict[str, Answers]]] = []
    for style, seed in zip(arguments.styles, arguments.seeds, strict=True):
        region = rendered(style, seed, arguments)
        folder = region_folder(style, seed, arguments)
        index, finer = (
            index_region(
                region, encoder, index_folder(folder, "encoder", encoder, level), running(arguments), level=level
            )
            for level in (LEVEL, LEVEL + 1)
        )
        about = {"style": style, "seen_in_training": style != UNSEEN_STYLE, "seed": seed}
        panorama = np.array([photo.fov_deg == 360 for photo in region.photos])
        report["regions"] += tell([{**about, "cells": len(index), "photos": len(panorama)}])
        localizer = Localizer(index, running(arguments), imagery=tiles.open_source(str(region.reference)))
        answers, costs = product(localizer, finer, region, arguments)
        asked.append((panorama, answers))
        report["costs"] += tell({**about, **cost} for cost in costs)
        found.append((panorama, ingredients(localizer, region, arguments)))
    report["product"] += tell(compared(asked))
    report["ingredients"] += tell(compared(found))
    report |= {
        **circumstances(f"{arguments.threads} threads used"),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def compared(regions: Sequence[tuple[NDArray[np.bool_], dict[str, Answers]]]) -> list[dict[str, Any]]:
    """Pools regions, panoramas apart: a row a variant, and how much it finds beyond the first variant."""
    rows = []
    for kind, is_panorama in (("panoramas", True), ("perspective", False)):
        for name in regions[0][1]:
            of_kind = [(answers, which == is_panorama) for which, answers in regions]
            error_m = np.concatenate([answers[name].error_m[which] for answers, which in of_kind])
            heading_deg = np.concatenate([answers[name].heading_error_deg[which] for answers, which in of_kind])
            before_m = np.concatenate([next(iter(answers.values())).error_m[which] for answers, which in of_kind])
            row: dict[str, Any] = {"photos": kind, "n_photos": len(error_m), "variant": name}
            for radius_m in RADII_M:
                right, before = error_m <= radius_m, before_m <= radius_m
                gained = right.astype(float) - before
                row[f"recall_at_1_within_{radius_m}_m"] = number(float(right.mean()))
                row[f"recall_at_1_within_{radius_m}_m_interval"] = interval(right)
                row[f"gain_within_{radius_m}_m"] = number(float(gained.mean()))
                row[f"gain_within_{radius_m}_m_interval"] = interval(gained)
            right = error_m <= RADII_M[-1]
            row["median_error_of_right_m"] = number(float(np.median(error_m[right])))
            # By chance, a wrong place lies within 100 m, and its heading anywhere.
            row["median_heading_error_within_25_m_deg"] = number(float(np.median(heading_deg[error_m <= RADII_M[0]])))
            rows.append(row)
    return rows


def interval(values: NDArray[Any]) -> list[float | None]:
    return [number(v) for v in bootstrap_interval(values, seed=0)]


# -- what geoview does -------------------------------------------------------------------------------------------------


def product(
    localizer: Localizer, finer: CellIndex, region: DemoRegion, arguments: argparse.Namespace
) -> tuple[dict[str, Answers], list[dict[str, Any]]]:
    """Locates with and without a closer look, and in a finer index, and takes the time."""
    index, config, imagery = localizer.index, localizer.config, tiles.open_source(str(region.reference))
    photos = [PhotoQuery(photo.path, fov_deg=photo.fov_deg) for photo in region.photos]
    start = time.perf_counter()
    embedded = localizer.embed(photos)
    costs: list[dict[str, Any]] = [{"what": "to embed a photo", "seconds": taken(start, len(photos))}]

    def answered(where: Localizer, n: int, cost: str = "") -> Answers:
        start = time.perf_counter()
        places = [answer.places[0] for answer in where.answer(embedded, Search(top_k=1, rerank=n))]
        if cost:
            size = len(where.index) * where.index.manifest.dim * 2
            costs.append({"what": cost, "bytes_of_codes": size, "seconds": taken(start, len(photos))})
        headings_deg = np.array([place.heading_deg for place in places], np.float64)
        return held_against_truth(region, np.array([place.latlon_deg for place in places]), headings_deg)

    few = embedded[:: max(1, len(embedded) // FEW)][:FEW]
    for n in (10, 30, arguments.candidates):
        cold = Localizer(index, config, imagery=imagery)
        start = time.perf_counter()
        for photo in few:
            cold.answer([photo], Search(top_k=1, rerank=n))
        costs.append({"what": f"first {n} again, {FEW} photos", "seconds": taken(start, len(few))})
    most = arguments.candidates
    return {
        "codes": answered(localizer, 0, "search"),
        f"first {most} again": answered(localizer, most, f"first {most} again, all photos"),
        "first 30 again": answered(localizer, 30),
        "first 10 again": answered(localizer, 10),
        "codes, one level finer": answered(Localizer(finer, config), 0, "search, one level finer"),
    }, costs


def taken(start: float, n: int) -> float:
    """Seconds each, of n."""
    return round((time.perf_counter() - start) / n, 4)


def held_against_truth(
    region: DemoRegion, latlon_deg: NDArray[np.float64], heading_deg: NDArray[np.float64]
) -> Answers:
    true_deg = np.array([photo.heading_deg for photo in region.photos], np.float64)
    off_deg = np.abs((heading_deg - true_deg + 180.0) % 360.0 - 180.0)
    return Answers(distance_m(latlon_deg, region.truth_deg()), off_deg)


# -- what it is made of ------------------------------------------------------------------------------------------------


def ingredients(localizer: Localizer, region: DemoRegion, arguments: argparse.Namespace) -> dict[str, Answers]:
    """Orders the first cells of each photo by every variant, at headings tried evenly: no parabola between them."""
    encoder, config, reranker = localizer.encoder, localizer.config, localizer.reranker
    imagery, spec = tiles.open_source(str(region.reference)), encoder.ground
    assert isinstance(spec, PlanView), "headings are what plans are tried at"
    assert reranker is not None, "it was given imagery"
    opened = [StreetPhoto.open(photo.path, read_metadata(photo.path), fov_deg=photo.fov_deg) for photo in region.photos]

    def photos_seen(view: PlanView) -> NDArray[np.float32]:
        """(photos, headings, dim), each the mean direction over cameras, as photos are embedded."""
        headings_deg = [360.0 * i / view.headings for i in range(view.headings)]
        plans = (plan for photo in opened for plan, _ in photo.plans(view, headings_deg))
        vectors = np.array(list(embed(encoder, plans, config, seen="ground")))
        mean = vectors.reshape(len(opened), -1, view.headings, encoder.dim).mean(axis=1)
        return np.asarray(mean / np.linalg.norm(mean, axis=2, keepdims=True))

    ids = localizer.index.cell_ids()
    quarters = cells.children(ids)
    centre_deg, quarter_deg = cells.centers_deg(ids)[:, None], cells.centers_deg(quarters.ravel()).reshape(-1, 4, 2)
    at_centre = reranker.codes(ids, TURNS).astype(np.float32)
    at_quarter = reranker.codes(quarters.ravel(), TURNS).reshape(len(ids), 4, TURNS, -1)
    half = photos_seen(replace(spec, headings=2 * spec.headings))
    whole = half[:, ::2]
    first = (whole.reshape(-1, encoder.dim) @ at_centre[:, 0].T).reshape(len(opened), -1, len(ids))
    order = np.argsort(-first.max(axis=1), axis=1, kind="stable")[:, : arguments.candidates]

    def scored(photos: NDArray[np.float32], chips: NDArray[Any]) -> NDArray[np.float32]:
        """Scores (photos, headings, dim) and (cells, places, dim): (photos, candidates, places, headings)."""
        return np.stack([chips[mine].astype(np.float32) @ seen.T for mine, seen in zip(order, photos, strict=True)])

    def turned(photos: NDArray[np.float32], chips: NDArray[Any], turns: Iterable[int]) -> NDArray[np.float32]:
        """Scores the same, as the mean over turns of chips (cells, places, TURNS, dim)."""
        step = photos.shape[1] // TURNS
        each = [scored(np.roll(photos, turn * step, axis=1), chips[:, :, turn]) for turn in turns]
        return np.asarray(np.mean(each, axis=0))

    def chips_of(gsd_m: float) -> NDArray[np.float32]:
        cut = (imagery.chip(c[0], size_px=encoder.aerial.size_px, gsd_m=gsd_m) for c in centre_deg)
        return np.array(list(embed(encoder, cut, config, seen="aerial")))[:, None]

    alone, centred = scored(whole, at_centre[:, :1]), at_centre[:, None]
    best = turned(whole, at_quarter, range(TURNS))
    variants: dict[str, NDArray[np.floating]] = {
        "codes": alone,
        "quarters": scored(whole, at_quarter[:, :, 0]),
        "4 turns": turned(whole, centred, range(0, TURNS, TURNS // 4)),
        "8 turns": turned(whole, centred, range(TURNS)),
        "quarters, 8 turns": best,
        "quarters, 8 turns, half headings": turned(half, at_quarter, range(TURNS)),
        "quarters, 8 turns, first score blended": (best + alone) / 2,
        "half headings": scored(half, at_centre[:, :1]),
        "maps shifted": shifted(alone, whole, at_centre[:, 0], order),
    }
    for gsd_m in GROUND_SIZES:
        wide = scored(photos_seen(replace(spec, gsd_m=gsd_m)), chips_of(gsd_m))
        variants[f"scale of {gsd_m} m"] = (alone + wide) / 2
        variants[f"quarters, 8 turns, scale of {gsd_m} m"] = (best + wide) / 2
    answers = {}
    rows = np.arange(len(opened))
    for name, score in variants.items():
        cell, place, heading = np.unravel_index(score.reshape(len(score), -1).argmax(axis=1), score.shape[1:])
        where = quarter_deg if score.shape[2] == 4 else centre_deg
        answers[name] = held_against_truth(region, where[order[rows, cell], place], heading * 360.0 / score.shape[3])
    return answers


def shifted(
    alone: NDArray[np.float32], photos: NDArray[np.float32], chips: NDArray[np.float32], order: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Lays the squares of photo and chip on each other in nine ways: the best cosine of what overlaps."""
    squares = photos.reshape(len(photos), -1, 3, 3, photos.shape[-1] // 9)
    ground = chips.reshape(len(chips), 3, 3, -1)
    found = alone[:, :, 0].copy()
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if down == right == 0:
                continue
            here, there = ((slice(max(0, d), 3 + min(0, d)), slice(max(0, r), 3 + min(0, r)))
                           for d, r in ((down, right), (-down, -right)))  # fmt: skip
            part = squares[:, :, *here].reshape(*squares.shape[:2], -1)
            under = ground[:, *there].reshape(len(ground), -1)
            under = under / np.maximum(np.linalg.norm(under, axis=1, keepdims=True), 1e-3)
            part = part / np.maximum(np.linalg.norm(part, axis=2, keepdims=True), 1e-3)
            for i, mine in enumerate(order):
                found[i] = np.maximum(found[i], under[mine] @ part[i].T)
    return found[:, :, None]


if __name__ == "__main__":
    main()
