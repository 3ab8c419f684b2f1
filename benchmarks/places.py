"""How near places are, how true their probabilities, and what is refused, on rendered regions that nobody has seen.

    python benchmarks/places.py --work DIR [--inside 500] [--outside 150]
    python benchmarks/places.py --work DIR --rerank 30 --every 2 --out benchmarks/results/places_reranked.json

Two regions are calibrated on (a European town and a rural one), two others asked, of another style each: one that the
encoder has learnt from, and one that it has not. Photos are told their field of view alone.

* Position: the middle of the best cell against the place that is answered, same photos, at two levels of cells.
* Calibration: at masks of 100, 10 and 1 % of the index (discs that hold the place), and after the index has grown to
  twice its size.
* Refusal: photos of another region of the same style, of the other region, pictures that show nothing (flat, shaded,
  blurred, noisy), and, if --real names a folder, real photos of elsewhere.

The second call has a second look at the first cells of each photo, calibrated for that, and asks every other photo in
the whole index. Embeddings are kept in --work, where the same call goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import circumstances
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

import tiles
from geoview.config import AddConfig, DemoConfig, InferenceConfig
from geoview.data.queries import PhotoQuery, find_queries
from geoview.demo import DemoRegion, DemoSize, index_region, make_region
from geoview.evaluate import calibration as fitting
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import destination_deg, distance_m
from geoview.index.build import add_to_index
from geoview.index.cell_index import CellIndex
from geoview.index.fusion import Fusion
from geoview.locate.embedding import EmbeddedPhoto
from geoview.locate.localizer import Localization, Localizer, Search
from geoview.metrics import bootstrap_interval, brier_score, calibration_error, wilson_interval
from geoview.models.encoder import CrossViewEncoder, find_encoder

FITTED = (("european_town", 811), ("rural", 812))
ASKED = (("american_grid", 821), ("waterfront", 822))
ELSEWHERE = {"american_grid": 831, "waterfront": 832}
LEVELS = (18, 19)
RADII_M = (25, 50, 100)
SIDE_M = 1400.0
KINDS = ("panoramas", "perspective")
# What a calibrated search weighs.
SEARCH = Search(10, kappa=Fusion(0.0), apart_m=100.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--inside", type=int, default=500, help="photos of each kind and region that is asked")
    parser.add_argument("--outside", type=int, default=150, help="photos of each kind that show something else")
    parser.add_argument("--rerank", type=int, default=0, help="cells that are looked at again")
    parser.add_argument("--every", type=int, default=1, help="ask every so-manieth photo")
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS)
    parser.add_argument("--real", type=Path, help="folder of real photos")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "places.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report: dict[str, Any] = {
        "what": "places, probabilities and refusals on rendered regions",
        **circumstances(f"{arguments.threads} threads"),
        "rerank": arguments.rerank,
        "fitted_on": [f"{style} {seed}" for style, seed in FITTED],
        "encoder": {"name": "demo", "fingerprint": CrossViewEncoder.load(find_encoder("demo")).fingerprint()},
        "levels": {},
    }
    fit_size, ask_size = (
        DemoSize(SIDE_M, n, n, least_cells=1) for n in (max(60, 3 * arguments.inside // 10), arguments.inside)
    )
    size = DemoSize(SIDE_M, arguments.outside, arguments.outside, least_cells=1)
    fitted = {made: Made(arguments.work, *made, fit_size) for made in FITTED}
    asked = {style: Made(arguments.work, style, seed, ask_size) for style, seed in ASKED}
    elsewhere = {style: Made(arguments.work, style, seed, size) for style, seed in ELSEWHERE.items()}
    blank = embedded(arguments.work / "blank.npz", blanks(arguments), next(iter(asked.values())).index(LEVELS[-1]))
    real = (
        embedded(
            arguments.work / "real.npz", find_queries([arguments.real]), next(iter(asked.values())).index(LEVELS[-1])
        )
        if arguments.real
        else []
    )
    search = replace(SEARCH, rerank=arguments.rerank)
    for level in arguments.levels:
        seen = [one for made in fitted.values() for one in sighted(made, level, search, arguments.every)]
        calibration, notes = fitting.fit_calibration(seen, "photos", search)
        said = {**calibration.to_manifest(), **notes}
        found: dict[str, Any] = {"calibration": said}
        for style, made in asked.items():
            index = made.index(level)
            index.set_calibration(said)
            localizer = made.localizer(level)
            (other,) = (one for name, one in asked.items() if name != style)
            foreign = other.photos()[:: max(1, len(other.photos()) // (2 * arguments.outside))]
            outside = {
                "same style": elsewhere[style].photos(),
                "other style": foreign,
                "shows nothing": blank,
                **({"real photos": real} if real else {}),
            }
            found[style] = scored(localizer, made, other, outside, level, arguments)
            print(json.dumps({f"{level} {style}": found[style]}), flush=True)
        report["levels"][str(level)] = found
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


class Made:
    """A region that is made, with its photos embedded."""

    def __init__(self, work: Path, style: Any, seed: int, size: DemoSize) -> None:
        self.folder = work / f"{style}_{seed}"
        config = DemoConfig(out=str(self.folder), style=style, seed=seed, num_workers=os.cpu_count() or 1)
        self.region: DemoRegion = make_region(config, self.folder, size)
        self.truth_deg = self.region.truth_deg()

    def index(self, level: int) -> CellIndex:
        """Returns its index."""
        return index_region(
            self.region,
            find_encoder("demo"),
            self.folder / f"index_{level}",
            InferenceConfig(device="cpu"),
            level=level,
        )

    def localizer(self, level: int) -> Localizer:
        """Returns what asks its index, with its imagery."""
        imagery = tiles.open_source([str(self.region.reference)])
        return Localizer(self.index(level), InferenceConfig(device="cpu"), imagery=imagery)

    def photos(self) -> list[EmbeddedPhoto]:
        """Returns its photos, embedded."""
        queries = [PhotoQuery(photo.path, fov_deg=photo.fov_deg) for photo in self.region.photos]
        return embedded(self.folder / "photos.npz", queries, self.index(LEVELS[-1]))


def embedded(path: Path, queries: Sequence[PhotoQuery], index: CellIndex) -> list[EmbeddedPhoto]:
    """Embeds photos, or takes what the same encoder made of them before."""
    path = path.with_stem(f"{path.stem}_{index.manifest.encoder['fingerprint']}")
    if not path.exists():
        localizer = Localizer(index, InferenceConfig(device="cpu", num_workers=2))
        made: list[EmbeddedPhoto] = []
        for start in tqdm(range(0, len(queries), 32), desc=path.parent.name, dynamic_ncols=True):
            made += localizer.embed(queries[start : start + 32])
        for photo in made:
            if photo.error:
                raise SystemExit(photo.error)
        vectors = np.stack([photo.vectors for photo in made])
        headings_deg = np.stack([photo.headings_deg for photo in made])
        with path.with_suffix(".part").open("wb") as file:
            np.savez(file, vectors=vectors, headings_deg=headings_deg, fov_deg=[photo.fov_deg or 0.0 for photo in made])
        path.with_suffix(".part").rename(path)
    kept = np.load(path)
    vectors, headings_deg, fov_deg = (kept[name] for name in ("vectors", "headings_deg", "fov_deg"))
    return [
        EmbeddedPhoto(query, vectors[i], headings_deg[i], None, fov_deg=float(fov_deg[i]))
        for i, query in enumerate(queries)
    ]


def sighted(made: Made, level: int, search: Search, every: int) -> Iterable[fitting.Sighting]:
    """Yields what an index makes of photos of its own region."""
    localizer, photos, truth_deg = made.localizer(level), made.photos()[::every], made.truth_deg[::every]
    for start in range(0, len(photos), 64):
        part = slice(start, start + 64)
        yield from fitting.sighted(localizer, photos[part], truth_deg[part], search)


def blanks(arguments: argparse.Namespace) -> list[PhotoQuery]:
    """Writes pictures that show nothing; returns them."""
    folder = arguments.work / "blank"
    folder.mkdir(parents=True, exist_ok=True)
    rng, queries = np.random.default_rng(0), []
    for kind, (width, height), fov_deg in (("panorama", (1024, 512), 360.0), ("perspective", (640, 480), 75.0)):
        for i in range(arguments.outside):
            path = folder / f"{kind}_{i:03}.jpg"
            colours = rng.uniform(0, 255, (2, 3))
            noise = rng.normal(0, 3, (height, width, 3))
            flat, shaded = np.full((height, width, 3), colours[0]), np.linspace(colours[0], colours[1], height)[:, None]
            noisy = rng.uniform(0, 255, (height, width, 3))
            coarse = Image.fromarray(rng.integers(0, 255, (6, 12, 3), dtype=np.uint8))
            blurred = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
            picture = (flat, shaded, blurred, noisy)[i % 4] + noise
            if not path.exists():
                Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(path, quality=90)
            queries.append(PhotoQuery(str(path), fov_deg=fov_deg))
    return queries


def scored(
    localizer: Localizer,
    made: Made,
    other: Made,
    outside: dict[str, list[EmbeddedPhoto]],
    level: int,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Asks an index for its own photos and for others."""
    photos, truth_deg = made.photos()[:: arguments.every], made.truth_deg[:: arguments.every]
    centres_deg = cells.centers_deg(localizer.index.cell_ids())
    edge_m = math.sqrt(float(cells.areas_m2(localizer.index.cell_ids()).mean()))
    answers = asked(localizer, photos)
    middles = [found.places[0].latlon_deg for found in localizer.find(photos, Search(1, rerank=0))]
    middle_m = distance_m(truth_deg, np.array(middles))
    nearest_m = np.array([distance_m(at, centres_deg).min() for at in truth_deg])
    panorama = np.array([photo.fov_deg == 360.0 for photo in photos])
    found: dict[str, Any] = {"cells": len(centres_deg), "edge_m": round(edge_m, 2)}
    asked_in: dict[str, list[Localization]] = {"all": answers}
    if not arguments.rerank:
        asked_in |= {
            "10 %": asked_in_part(localizer, photos, truth_deg, 0.1),
            "1 %": asked_in_part(localizer, photos, truth_deg, 0.01),
            "twice the cells": asked(grown_by(localizer, made, other, level), photos),
        }
    for kind, mine in zip(KINDS, (panorama, ~panorama), strict=True):
        error_m = errors_m(answers, truth_deg)
        right = [each[mine & (each <= 100)] for each in (middle_m, error_m)]
        found[kind] = {
            "photos": int(mine.sum()),
            "position": {
                **{
                    f"within_{radius}_m": {
                        "middle of the best cell": share(middle_m[mine] <= radius),
                        "place": share(error_m[mine] <= radius),
                        "difference": interval((error_m[mine] <= radius) * 1.0 - (middle_m[mine] <= radius)),
                        "ceiling of middles": round(float((nearest_m[mine] <= radius).mean()), 4),
                    }
                    for radius in RADII_M
                },
                "median_error_of_right_m": [round(float(np.median(each)), 2) for each in right],
                "median_error_of_right_in_edges": [round(float(np.median(each)) / edge_m, 3) for each in right],
            },
            "calibration": {name: reliability(told, truth_deg, mine) for name, told in asked_in.items()},
            "kept": share(np.array([answer.status == "ok" for answer in answers])[mine]),
            "refused": {},
            "evidence_auroc": {},
        }
        inside = evidence(localizer, [photo for photo, is_mine in zip(photos, mine, strict=True) if is_mine])
        for name, strangers in outside.items():
            of_kind = [photo for photo in strangers if (photo.fov_deg == 360.0) == (kind == "panoramas")]
            of_kind = of_kind[:: arguments.every]
            if of_kind:
                refused = [answer.status == "rejected" for answer in asked(localizer, of_kind)]
                found[kind]["refused"][name] = share(np.array(refused))
                found[kind]["evidence_auroc"][name] = round(auroc(inside, evidence(localizer, of_kind)), 3)
    return found


def asked(localizer: Localizer, photos: Sequence[EmbeddedPhoto], search: Search | None = None) -> list[Localization]:
    found: list[Localization] = []
    for start in range(0, len(photos), 64):
        found += localizer.answer(photos[start : start + 64], search or Search(1))
    return found


def asked_in_part(
    localizer: Localizer, photos: Sequence[EmbeddedPhoto], truth_deg: NDArray[np.float64], part: float
) -> list[Localization]:
    """Asks for each photo in a disc of its own that holds its place anywhere, and so much of the index."""
    rng = np.random.default_rng(0)
    area_m2 = float(cells.areas_m2(localizer.index.cell_ids()).sum())
    radius_m = math.sqrt(part * area_m2 / math.pi)
    found = []
    for photo, at_deg in zip(photos, truth_deg, strict=True):
        middle_deg = destination_deg(at_deg, rng.uniform(0, 360), radius_m * math.sqrt(rng.uniform(0, 0.9)))
        found += localizer.answer([photo], Search(1, Region.disc(middle_deg, radius_m)))
    return found


def grown_by(localizer: Localizer, made: Made, other: Made, level: int) -> Localizer:
    """Returns the index with the other region's imagery added."""
    folder = made.folder / f"grown_{level}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(localizer.index.folder, folder)
    config = AddConfig(imagery=[str(other.region.reference)], device="cpu")
    add_to_index(
        folder, tiles.open_source(config.imagery), Region.from_geojson(other.region.outline), config, photos=[]
    )
    return Localizer(CellIndex.open(folder), InferenceConfig(device="cpu"))


def errors_m(answers: Sequence[Localization], truth_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    places_deg = np.array([answer.places[0].latlon_deg for answer in answers])
    return distance_m(truth_deg, places_deg)


def reliability(
    answers: Sequence[Localization], truth_deg: NDArray[np.float64], mine: NDArray[np.bool_]
) -> dict[str, Any]:
    """Holds probabilities and radii against what was true."""
    error_m = errors_m(answers, truth_deg)[mine]
    p, radius_m = (
        np.array([getattr(answer.places[0], name) for answer in answers])[mine]
        for name in ("p_within_100m", "radius_m")
    )
    right = error_m <= 100
    sure = np.argsort(-p, kind="stable")[: len(p) // 2]
    gain = (right.mean() - right) ** 2 - (p - right) ** 2
    rng = np.random.default_rng(0)
    return {
        "right": share(right),
        "mean_probability": round(float(p.mean()), 4),
        "brier": round(brier_score(p, right), 4),
        "brier_of_base_rate": round(float(right.mean() * (1 - right.mean())), 4),
        "brier_gained": interval(gain),
        "calibration_error": round(calibration_error(p, right), 4),
        # What so many answers have if their probabilities are true to the last digit.
        "calibration_error_by_chance": round(
            float(np.mean([calibration_error(p, rng.random(len(p)) < p) for _ in range(200)])), 4
        ),
        "radius_covers": share((error_m <= radius_m)[right]),
        "median_radius_m": round(float(np.median(radius_m[right])), 1),
        "wrong": round(float(1 - right.mean()), 4),
        "wrong_among_the_surer_half": round(float(1 - right[sure].mean()), 4),
        "risk_by_coverage": {
            f"{part:.0%}": round(
                float(1 - right[np.argsort(-p, kind="stable")[: max(1, int(part * len(p)))]].mean()), 4
            )
            for part in (0.1, 0.25, 0.5, 0.75, 1.0)
        },
    }


def evidence(localizer: Localizer, photos: Sequence[EmbeddedPhoto]) -> NDArray[np.float64]:
    """Returns what photos' best places score."""
    assert localizer.calibration is not None
    calibration, found = localizer.calibration, []
    search = replace(SEARCH, rerank=calibration.rerank)
    for start in range(0, len(photos), 64):
        part = photos[start : start + 64]
        for sighting in fitting.sighted(localizer, part, np.zeros((len(part), 2)), search):
            first = fitting.weighed(sighting, calibration)[0]
            temperature = calibration.of_kind(sighting.shown).temperature
            found.append(sighting.surface.evidence(np.array(first.latlon_deg), temperature))
    return np.array(found)


def auroc(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Returns how often a photo of here has more than one of elsewhere (Mann & Whitney, 1947)."""
    more, equal = (compare(inside[:, None], outside).mean() for compare in (np.greater, np.equal))
    return float(more + equal / 2)


def share(values: NDArray[np.bool_]) -> dict[str, Any]:
    low, high = wilson_interval(float(values.mean()), len(values))
    return {"share": round(float(values.mean()), 4), "interval": [round(low, 4), round(high, 4)]}


def interval(values: NDArray[np.float64]) -> dict[str, Any]:
    low, high = bootstrap_interval(values, 0)
    return {"mean": round(float(values.mean()), 4), "interval": [round(low, 4), round(high, 4)]}


if __name__ == "__main__":
    main()
