"""What several photos of one spot, and of one walk, tell beside one alone.

    python benchmarks/walks.py --work DIR [--styles european_town waterfront] [--spots 30] [--walks 15]

Rendered regions that no encoder has learnt from. At each spot, five photos of one position: other headings, cameras,
days and light. On each walk, ten photos along a street, 14 m and 10 s apart: one camera, one light, other headings.
Panoramas and photos through a lens are never mixed. Nothing is told but fields of view and, on walks, times.

Of each way of asking, the share of photos whose first place lies within 25, 50 and 100 m, and how many are rejected:

* one alone: `locate`.
* five together: `locate --together`; also with the last of the five replaced by photos of three other spots in turn, as
  it is and with next to no room for strays (where `rejected` means little). The other four are scored.
* ten of a walk: `locate --sequence`, with the speed bound that is its default, 20 km/h, and with 6 km/h; also with the
  sixth of the ten replaced by a photo of another walk. Of such walks, the other nine are scored.

Intervals are of a bootstrap over spots, or walks, and of the differences from one alone, over the same photos. Each
index is calibrated on the same rendered photos of other regions, each taken alone: what is told of the first place, its
probability and its radius, is held against the truth. `nats`
tells how much likelier than by lot the cell nearest to the truth is made, in natural logarithms, by the temperature
that turns scores into probabilities: photos alone, and five of a spot together. `alike` tells which correlation of what
photos of one spot say makes the probabilities of all together truest.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import shapely
import torch
from machine import circumstances
from numpy.typing import NDArray

from geoview.config import CalibrateConfig, InferenceConfig
from geoview.data.queries import PhotoQuery, find_queries
from geoview.demo import LEVEL, DemoRegion, index_region
from geoview.errors import RenderError
from geoview.evaluate.calibration import calibrate
from geoview.geo import cells
from geoview.geo.sphere import distance_m
from geoview.locate import evidence
from geoview.locate.embedding import EmbeddedPhoto, PhotoView
from geoview.locate.evidence import evidence_of
from geoview.locate.localizer import Localization, Localizer, Search
from geoview.locate.sequence import locate_sequence
from geoview.locate.together import ALIKE, fused, locate_together
from geoview.metrics import bootstrap_interval, brier_score, calibration_error
from geoview.models.encoder import CrossViewEncoder, find_encoder
from geoview.render.photos import write_shots, write_table
from geoview.render.region import PHOTO_EPOCH, write_features, write_region
from geoview.render.shots import PhotoKind, Shot, Stand, shots_at
from geoview.render.world import State, make_world

RANGE_M = 100.0
KINDS: dict[Literal["panorama", "perspective"], int] = {"panorama": 1024, "perspective": 320}
PER_SPOT, PER_WALK = 5, 10
#: Of a walker: 14 m from one photo to the next.
SPEED_KMH, STEP_S = 5.0, 10.0
STEP_M = SPEED_KMH / 3.6 * STEP_S
RADII_M = (25, 50, 100)
#: Photos of other groups that take the place of one, in turn.
STRAYS = 3
TEMPERATURES = (0.015, 0.02, 0.025, 0.03, 0.04, 0.06, 0.08)
#: That photos of one spot may have.
CORRELATIONS = tuple(n / 20 for n in range(21))
TOP_1 = Search(top_k=1)
Answers = Sequence[Localization]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--encoder", default="demo")
    parser.add_argument("--styles", nargs="+", default=["european_town", "waterfront"])
    parser.add_argument("--seed", type=int, default=443)  # 441 chose how photos correlate
    parser.add_argument("--side_m", type=float, default=1100.0)
    parser.add_argument("--spots", type=int, default=30, help="of each kind of photo and style")
    parser.add_argument("--walks", type=int, default=15, help="of each kind of photo and style")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "walks.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = find_encoder(arguments.encoder)
    asked, nats, correlated, n_cells = [], [], [], {}
    fitted: dict[str, Any] = {}
    for style in arguments.styles:
        folder, region, photos = rendered(style, arguments)
        inference = InferenceConfig(device="cpu", num_workers=arguments.threads)
        index = index_region(region, encoder, folder / "index", inference)
        n_cells[style] = len(index)
        fitted = fitted or calibrate(index, CalibrateConfig(device="cpu", num_workers=arguments.threads))
        index.set_calibration(fitted)
        localizer = Remembering(index, inference)
        for kind in KINDS:
            asked += [replace(each, style=style, kind=kind) for each in asked_of(localizer, photos, kind)]
            spots_of_kind, about = photos[f"spots_{kind}"], {"style": style, "photos": kind}
            nats += [about | row for row in likelihoods(localizer, spots_of_kind)]
            correlated += [about | row for row in alike(localizer, spots_of_kind)]
    report = {
        "what": "first places of photos alone, of five of one spot together, and of ten of one walk",
        "encoder": {"name": arguments.encoder, "fingerprint": CrossViewEncoder.load(encoder).fingerprint()},
        "regions": [f"{style}, seed {arguments.seed}, {arguments.side_m:g} m wide" for style in arguments.styles],
        "level": LEVEL,
        "cells": n_cells,
        "learnt_temperature": round(math.exp(-CrossViewEncoder.load(encoder).notes["logit_scale"]), 4),
        "pooled": scored(asked, lambda each: {"photos": each.kind}),
        "rows": scored(asked, lambda each: {"style": each.style, "photos": each.kind}),
        "calibration": fitted,
        "nats": nats,
        "alike": correlated,
        **circumstances(f"{arguments.threads} threads used"),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["pooled"], indent=1))


# -- what is measured --------------------------------------------------------------------------------------------------


class Remembering(Localizer):
    """Embeds no photo twice, however often it is asked about, and is told no more than a search needs."""

    _known: dict[str, EmbeddedPhoto]

    def embed(self, photos: Sequence[PhotoQuery], view: PhotoView | None = None) -> list[EmbeddedPhoto]:
        """Embeds photos that are not known yet."""
        known = self.__dict__.setdefault("_known", {})
        new = [PhotoQuery(photo.path, fov_deg=photo.fov_deg) for photo in photos if photo.path not in known]
        known.update({photo.query.path: photo for photo in super().embed(new, view)})
        return [replace(known[photo.path], query=photo) for photo in photos]


@dataclass(frozen=True)
class Asked:
    """Answers of one region to groups of S photos of one kind, asked in one way, R times in all.

    Attributes:
        way: Of asking.
        group: (R,) spot or walk.
        error_m: (R, S) of the first place.
        alone_m: (R, S) of the first place of each photo alone.
        rejected: (R, S) whether the photo was said to show somewhere else.
        p_within_100m: (R, S) of the first place.
        radius_m: (R, S) of the first place.
        stray: Which of each group was replaced by a photo of another; not among the photos that are scored.
        style: Of the region.
        kind: Of the photos.
    """

    way: str
    group: NDArray[np.int64]
    error_m: NDArray[np.float64]
    alone_m: NDArray[np.float64]
    rejected: NDArray[np.bool_]
    p_within_100m: NDArray[np.float64]
    radius_m: NDArray[np.float64]
    stray: int | None
    style: str = ""
    kind: str = ""

    def own(self, values: NDArray[Any]) -> NDArray[Any]:
        """Returns (N,) what is known of the photos that are scored, group by group."""
        return values[:, np.arange(values.shape[1]) != self.stray].ravel()


def asked_of(localizer: Localizer, photos: dict[str, list[PhotoQuery]], kind: str) -> list[Asked]:
    """Asks about all spots and walks of a kind of photo, in all ways."""

    def alone(group: list[PhotoQuery]) -> Answers:
        return list(localizer.locate([PhotoQuery(photo.path, fov_deg=photo.fov_deg) for photo in group], top_k=1))

    def together(group: list[PhotoQuery]) -> Answers:
        return locate_together(localizer, group, TOP_1)

    def credulous(group: list[PhotoQuery]) -> Answers:
        with patch.object(evidence, "STRAY", 1e-12):
            return locate_together(localizer, group, TOP_1)

    def walked(group: list[PhotoQuery]) -> Answers:
        return locate_sequence(localizer, group, TOP_1)

    def walked_slowly(group: list[PhotoQuery]) -> Answers:
        return locate_sequence(localizer, group, TOP_1, max_speed_kmh=6.0)

    of_spots, of_walks = (
        [some[at : at + size] for at in range(0, len(some), size)]
        for some, size in ((photos[f"spots_{kind}"], PER_SPOT), (photos[f"walks_{kind}"], PER_WALK))
    )
    spots_m, walks_m = (asked_in("alone", alone, groups).error_m for groups in (of_spots, of_walks))
    foreign = "one of another spot among five"
    return [
        asked_in("one alone, of a spot", alone, of_spots, spots_m),
        asked_in("five together", together, of_spots, spots_m),
        asked_in(foreign, together, of_spots, spots_m, stray=PER_SPOT - 1),
        asked_in(f"{foreign}, no room for strays", credulous, of_spots, spots_m, stray=PER_SPOT - 1),
        asked_in("one alone, of a walk", alone, of_walks, walks_m),
        asked_in("ten of a walk", walked, of_walks, walks_m),
        asked_in("ten of a walk, 6 km/h", walked_slowly, of_walks, walks_m),
        asked_in("one of another walk among ten", walked, of_walks, walks_m, stray=PER_WALK // 2),
    ]


def asked_in(
    way: str,
    locate: Callable[[list[PhotoQuery]], Answers],
    groups: list[list[PhotoQuery]],
    alone_m: NDArray[np.float64] | None = None,
    *,
    stray: int | None = None,
) -> Asked:
    """Asks about groups of photos; if wanted, `STRAYS` times, with one of each replaced by that of another group."""
    n, rounds = len(groups), 1 if stray is None else STRAYS
    error_m = np.empty((rounds * n, len(groups[0])))
    rejected, p, radius_m = np.empty(error_m.shape, np.bool_), np.empty(error_m.shape), np.empty(error_m.shape)
    for number in range(rounds * n):
        group = groups[number % n]
        given = list(group)
        if stray is not None:
            other = groups[(number + 1 + number // n) % n][stray]
            given[stray] = replace(other, captured_at=group[stray].captured_at)
        answers = locate(given)
        first = [answer.places[0] for answer in answers]
        truth_deg = np.array([photo.latlon_deg for photo in group], np.float64)
        error_m[number] = distance_m(np.array([place.latlon_deg for place in first]), truth_deg)
        rejected[number] = [answer.status == "rejected" for answer in answers]
        p[number], radius_m[number] = np.array([[place.p_within_100m, place.radius_m] for place in first]).T
    alone_m = error_m if alone_m is None else np.tile(alone_m, (rounds, 1))
    return Asked(way, np.arange(rounds * n) % n, error_m, alone_m, rejected, p, radius_m, stray)


def scored(asked: list[Asked], about: Callable[[Asked], dict[str, str]]) -> list[dict[str, Any]]:
    """Returns a row for each way and whatever `about` tells apart, over all that it does not."""
    rows = []
    for key in dict.fromkeys((*about(each).items(), ("way", each.way)) for each in asked):
        mine = [each for each in asked if (*about(each).items(), ("way", each.way)) == key]
        error_m = np.concatenate([each.own(each.error_m) for each in mine])
        alone_m = np.concatenate([each.own(each.alone_m) for each in mine])
        groups = [np.broadcast_to(each.group[:, None], each.error_m.shape) + 10_000 * i for i, each in enumerate(mine)]
        group = np.concatenate([each.own(numbers) for each, numbers in zip(mine, groups, strict=True)])
        row: dict[str, Any] = {**dict(key), "n_answers": len(error_m), "n_groups": len(np.unique(group))}
        for within_m in RADII_M:
            right = error_m <= within_m
            row[f"recall_at_1_within_{within_m}_m"] = share(right, group)
            row[f"more_than_alone_within_{within_m}_m"] = share(right.astype(int) - (alone_m <= within_m), group)
        row["median_error_m"] = round(float(np.median(error_m)), 1)
        p, radius_m = (
            np.concatenate([each.own(getattr(each, name)) for each in mine]) for name in ("p_within_100m", "radius_m")
        )
        right = error_m <= RADII_M[-1]
        row["mean_probability"] = round(float(p.mean()), 4)
        row["brier"] = round(brier_score(p, right), 4)
        row["brier_of_base_rate"] = round(float(right.mean() * (1 - right.mean())), 4)
        row["calibration_error"] = round(calibration_error(p, right), 4)
        row["radius_covers"] = round(float((error_m <= radius_m)[right].mean()), 4)
        row["median_radius_m"] = round(float(np.median(radius_m[right])), 1)
        row["rejected"] = round(float(np.concatenate([each.own(each.rejected) for each in mine]).mean()), 4)
        if (stray := mine[0].stray) is not None:
            row["strays_rejected"] = round(float(np.concatenate([each.rejected[:, stray] for each in mine]).mean()), 4)
        rows.append(row)
    return rows


def share(values: NDArray[np.generic], group: NDArray[np.int64]) -> dict[str, Any]:
    low, high = bootstrap_interval(values.astype(float), 0, groups=group)
    return {"share": round(float(values.astype(float).mean()), 4), "interval": [round(low, 4), round(high, 4)]}


def likelihoods(localizer: Localizer, photos: list[PhotoQuery]) -> list[dict[str, float]]:
    """Returns how likely the cells nearest to the truth are made, by temperature."""
    rows = []
    for temperature in TEMPERATURES:
        alone, together = [], []
        of_encoder = patch.dict(localizer.encoder.notes, logit_scale=-math.log(temperature))
        with of_encoder, patch.object(localizer, "calibration", None):
            for at in range(0, len(photos), PER_SPOT):
                spot = photos[at : at + PER_SPOT]
                found = evidence_of(localizer, localizer.embed(spot), TOP_1)
                nearest = np.argmin(distance_m(np.array(spot[0].latlon_deg), cells.centers_deg(found.cell_id)))
                alone += found.log_ratio[:, nearest].tolist()
                together.append(fused(found)[0][nearest] + math.log(found.stands_for.sum()))
        rows.append(
            {
                "temperature": temperature,
                "alone": round(float(np.mean(alone)), 3),
                "five_together": round(float(np.mean(together)), 3),
            }
        )
    return rows


def alike(localizer: Localizer, photos: list[PhotoQuery]) -> list[dict[str, Any]]:
    """Returns how much photos of a spot must be taken to say the same for probabilities to be truest.

    Of so many photos of each spot: the correlation with the least Brier score, and the score of each.
    """
    rows = []
    for size in (2, 3, PER_SPOT):
        p, right = np.empty((len(photos) // PER_SPOT, len(CORRELATIONS))), np.empty(len(photos) // PER_SPOT)
        for number in range(len(right)):
            spot = photos[number * PER_SPOT :][:size]
            found = evidence_of(localizer, localizer.embed(spot), TOP_1)
            centres_deg = cells.centers_deg(found.cell_id)
            for column, correlation in enumerate(CORRELATIONS):
                with patch("geoview.locate.together.ALIKE", dict.fromkeys(ALIKE, correlation)):
                    log_probability, _ = fused(found)
                best = centres_deg[np.argmax(log_probability)]
                near = distance_m(best, centres_deg) <= RADII_M[-1]
                p[number, column] = (np.exp(log_probability) * found.stands_for)[near].sum()
            right[number] = distance_m(best, np.array(spot[0].latlon_deg)) <= RADII_M[-1]
        brier = [round(brier_score(each.clip(0, 1), right > 0), 4) for each in p.T]
        truest = int(np.argmin(brier))
        rows.append(
            {
                "photos_of_a_spot": size,
                "truest": CORRELATIONS[truest],
                "brier": dict(zip(CORRELATIONS, brier, strict=True)),
            }
        )
    return rows


# -- regions and photos ------------------------------------------------------------------------------------------------


def rendered(style: str, arguments: argparse.Namespace) -> tuple[Path, DemoRegion, dict[str, list[PhotoQuery]]]:
    """Renders a region and its photos, or takes what is there.

    Returns:
        Its folder, the region, and the photos: those of each spot, and of each walk, lie side by side.
    """
    seed, side_m = arguments.seed, arguments.side_m
    folder = arguments.work / f"{style}_{seed}_{side_m:g}_{arguments.spots}_{arguments.walks}"
    world = make_world(style, seed, size_m=(side_m, side_m))
    plan = write_region(world, folder / "region", n_panoramas=0, n_perspective=0, seed=seed, epochs=(1,), num_workers=1)
    outline = folder / "outline.geojson"
    ground = shapely.box(RANGE_M, RANGE_M, side_m - RANGE_M, side_m - RANGE_M)
    write_features(outline, world.grid, [(ground, {"name": "where cameras stand"})])
    photos: dict[str, list[PhotoQuery]] = {}
    state: State | None = None
    for salt, (kind, size_px) in enumerate(KINDS.items()):
        view = PhotoKind(kind, size_px, range_m=RANGE_M, least_range_m=RANGE_M)
        for what in ("spots", "walks"):
            table = folder / f"{what}_{kind}.csv"
            if not table.exists():
                state = state or world.state(PHOTO_EPOCH)
                stand = Stand(state.scene(), RANGE_M, state.roads)
                number = 4 * seed + 2 * salt + (what == "walks")
                take = spots if what == "spots" else walks
                shots = take(stand, folder / table.stem, view, number, getattr(arguments, what), state)
                write_shots(stand.scene, shots, num_workers=arguments.threads)
                write_table(table, shots)
            photos[table.stem] = find_queries([table])
    return folder, DemoRegion(folder / "region" / plan["reference"], outline, []), photos


def spots(stand: Stand, folder: Path, view: PhotoKind, seed: int, n: int, state: State) -> list[Shot]:
    """Draws photos of n spots, `PER_SPOT` each: of one position, in other light, with other cameras and headings."""
    rng = np.random.default_rng([seed, 1])
    xy_m = np.array([stand.drawn(rng) for _ in range(n)])
    latlon_deg = np.repeat(stand.scene.grid.latlon_deg(xy_m), PER_SPOT, axis=0)
    return taken(stand, latlon_deg, folder, view, seed, state)


def walks(stand: Stand, folder: Path, view: PhotoKind, seed: int, n: int, state: State) -> list[Shot]:
    """Draws photos of n walks along streets, `PER_WALK` each: in one light, with one camera turned as one likes."""
    rng = np.random.default_rng([seed, 1])
    latlon_deg = stand.scene.grid.latlon_deg(np.concatenate([walk(stand, rng, state.roads) for _ in range(n)]))
    shots = taken(stand, latlon_deg, folder, view, seed, state)
    found = []
    for number, shot in enumerate(shots):
        first = shots[number - number % PER_WALK]
        assert first.captured_at is not None, "the state has a date"
        time = first.captured_at + timedelta(seconds=STEP_S * (number % PER_WALK))
        projection = first.camera.projection
        camera = replace(shot.camera, projection=projection, eye_m=first.camera.eye_m)
        found.append(replace(shot, light=first.light, camera=camera, captured_at=time))
    return found


def taken(
    stand: Stand, latlon_deg: NDArray[np.float64], folder: Path, view: PhotoKind, seed: int, state: State
) -> list[Shot]:
    shots = shots_at(stand, latlon_deg, folder, view, seed=seed, day=state.date)
    faults = [shot for shot in shots if isinstance(shot, RenderError)]
    assert not faults, f"positions are drawn where one can stand: {faults[0]}"
    return [shot for shot in shots if isinstance(shot, Shot)]


def walk(stand: Stand, rng: np.random.Generator, roads: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns the positions of a walk in the local frame, (PER_WALK, 2): straight on along the road while one can."""
    gsd_m = stand.scene.grid.gsd_m

    def on_road(xy_m: NDArray[np.float64]) -> bool:
        try:
            stand.check((float(xy_m[0]), float(xy_m[1])))
        except RenderError:
            return False
        return bool(roads[int(xy_m[1] / gsd_m), int(xy_m[0] / gsd_m)])

    while True:
        path = [np.array(stand.drawn(rng))]
        heading = rng.uniform(0.0, 2 * np.pi)
        # All directions for the first step; then the least turn that stays on the road.
        turns = np.deg2rad([0, 8, -8, 16, -16, 30, -30, 50, -50, 70, -70, 90, -90])
        if not on_road(path[0]):
            continue
        tried = np.linspace(0.0, 2 * np.pi, 36, endpoint=False)
        while len(path) < PER_WALK:
            for turn in tried:
                ahead = np.array([np.sin(heading + turn), -np.cos(heading + turn)])
                if all(on_road(path[-1] + ahead * part * STEP_M) for part in (0.25, 0.5, 0.75, 1.0)):
                    path.append(path[-1] + ahead * STEP_M)
                    heading += turn
                    break
            else:
                break
            tried = turns
        if len(path) == PER_WALK:
            return np.array(path)


if __name__ == "__main__":
    main()
