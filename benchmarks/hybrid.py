"""What ground photos add to imagery: aerial codes alone, prototypes alone, both, and every photo kept as it is.

    python benchmarks/hybrid.py --work DIR [--styles european_town] [--side_m 1200] [--block_level 18]

A rendered region of each style. Its western half is photographed densely, its eastern a thirtieth as densely, half of
the photos panoramas and half through a lens. Photos of the index are of one date, those that kappa is fitted on of
another, those that are asked of a third, by other cameras in other light; imagery is of a fourth. Ground is parted in
blocks (level 17 is about 70 m, 18 about 35 m): photos of the index stand in five of ten, photos to fit kappa in one,
photos that are asked in four. Headings are told of photos in the index and never of those asked. What is reported is
recall of the first place within 100 and 200 m, with the interval of a bootstrap over larger blocks, by how densely the
ground is photographed and by how far the nearest photo of the index is, and the bytes of codes.

All arms are trained on the photos of the index and the imagery, from the shipped encoder, for as many steps: one
encoder alone, and one for each level of learnt prototypes, beside which its imagery alone is reported too. Averaged
prototypes and the rival have the encoder that was trained alone.

The rival is nearest neighbours over all photos of the index, alone (its place is the photo's) and fused late (a cell's
score is its aerial one and a weight times that of the best photo near it; weight and nearness are fitted as kappa is).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
import torch
from machine import circumstances
from numpy.typing import NDArray
from scipy.spatial import cKDTree

import tiles
from geoview.config import (
    AugmentConfig,
    BuildConfig,
    DataConfig,
    EncoderConfig,
    InferenceConfig,
    OptimiserConfig,
    PlanView,
    PrototypesConfig,
    TrainConfig,
)
from geoview.data.queries import PhotoQuery, find_queries
from geoview.evaluate.fusion import KAPPAS, fusion_for
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import EARTH_RADIUS_M, distance_m, unit_vectors
from geoview.index import store
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.index.fusion import Fusion
from geoview.index.ground import learnt_shards, prototype_shards
from geoview.index.manifest import PrototypeTable
from geoview.index.prototypes import Photo, Speech, embed_photos, known_photos
from geoview.locate.embedding import EmbeddedPhoto
from geoview.locate.localizer import Localizer, Search
from geoview.metrics import bootstrap_interval
from geoview.models.encoder import CrossViewEncoder, find_encoder
from geoview.models.prototypes import LearntPrototypes
from geoview.render.photos import write_shots, write_table
from geoview.render.region import write_features, write_region
from geoview.render.shots import PhotoKind, Stand, draw_shots
from geoview.render.world import make_world
from geoview.training.fit import fit

RANGE_M = 100.0
RADII_M = (100, 200)
BOOTSTRAP_LEVEL = 15
LEVELS = (15, 17, 18, 19)
LEARNT_LEVELS = (15, 18)
NEARS_M = (12.5, 25.0, 50.0, 100.0)
# Steps from a photo that is asked to the nearest of the index.
DISTANCES_M = (0, 10, 20, 40, 80, 1e9)
# What the shipped encoder was trained with, but for turns: prototypes are of places as they lie.
AUGMENT = AugmentConfig(
    turn=False,
    flip=False,
    reference_offset_m=9.0,
    rotation_jitter_deg=10.0,
    scale_jitter=0.05,
    gamma=0.1,
    gain=0.05,
    saturation=0.1,
    contrast=0.1,
    brightness=0.02,
    channel_mix=0.03,
    greyscale_share=0.03,
    noise=0.01,
    erase_share=0.0,
)
# Epochs of the rendered world: photos of the index, imagery, photos that are asked, photos to fit kappa on.
INDEXED, IMAGED, ASKED, FITTED = 0, 1, 2, 3
# Of ten blocks, those whose photos are taken for each.
BLOCKS = {"asked": range(4), "fitted": range(4, 5), "indexed": range(5, 10)}
SPARSE = 1 / 30
KINDS: tuple[Literal["panorama", "perspective"], ...] = ("panorama", "perspective")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--encoder", default="demo")
    parser.add_argument("--styles", nargs="+", default=["european_town"])
    parser.add_argument("--seed", type=int, default=301)
    parser.add_argument("--side_m", type=float, default=1200.0)
    parser.add_argument("--level", type=int, default=19)
    parser.add_argument("--block_level", type=int, default=18)
    parser.add_argument("--photos_a_ha", type=float, default=40.0, help="of the western half")
    parser.add_argument("--asked", type=int, default=300, help="photos that are asked, of each kind")
    parser.add_argument("--steps", type=int, default=250, help="of training, 64 pairs each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "hybrid.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shipped = CrossViewEncoder.load(find_encoder(arguments.encoder))
    report: dict[str, Any] = {
        "what": "recall of the first place with imagery, with ground photos, and with both, on rendered regions",
        **circumstances(f"{arguments.threads} threads used"),
        "encoder": {"name": arguments.encoder, "fingerprint": shipped.fingerprint()},
        "steps": arguments.steps,
        "level": arguments.level,
        "side_m": arguments.side_m,
        "block_level": arguments.block_level,
        "styles": {},
    }
    for style in arguments.styles:
        report["styles"][style] = measured(style, shipped, arguments)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps(report["styles"][style], indent=1), flush=True)


def measured(style: str, shipped: CrossViewEncoder, arguments: argparse.Namespace) -> dict[str, Any]:
    """Makes a region, its index and its photos, and scores every way."""
    ground = Ground.made(style, arguments)
    indexed, fitted, asked = parted(ground)
    stage = Stage.of(trained(ground, indexed, shipped, None, arguments), ground, fitted, asked, arguments)
    photos, vectors, failed = embed_photos(stage.localizer.encoder, indexed, stage.localizer.config)
    assert not failed, failed
    report: dict[str, Any] = {
        "cells": len(stage.index),
        "photos_in_index": len(photos),
        "photos_to_fit": len(fitted),
        "bytes_of_aerial_codes": len(stage.index) * shipped.dim * 2,
        "arms": {},
    }
    score = partial(scored, ground=ground, photos=photos)
    arms = report["arms"]
    arms["imagery"] = score(stage.asked, partial(first_places, stage.localizer, kappa=0.0))
    ways = [Speech(15, border, frustum) for border in (False, True) for frustum in (False, True)]
    for speech in [*ways, *(Speech(level, True, frustum) for level in LEVELS[1:] for frustum in (False, True))]:
        switches = f"border {'on' if speech.border else 'off'}, frustum {'on' if speech.frustum else 'off'}"
        shards = prototype_shards(stage.index.folder, photos, vectors, speech)
        table = PrototypeTable(speech.level, speech.border, speech.frustum, shards)
        arms |= hybrids(f"averaged, level {speech.level}, {switches}", stage, table, score)
    for level in LEARNT_LEVELS:
        run = trained(ground, indexed, shipped, level, arguments)
        learning = Stage.of(run, ground, fitted, asked, arguments)
        learnt = LearntPrototypes.open(run)
        shards = learnt_shards(learning.index.folder, learnt, learning.index.cell_ids())
        table = PrototypeTable(learnt.level, learnt.border, learnt.frustum, shards, learnt=True)
        arms[f"imagery, encoder of prototypes of level {level}"] = score(
            learning.asked, partial(first_places, learning.localizer, kappa=0.0)
        )
        arms |= hybrids(f"learnt, level {level}", learning, table, score)
    rival = Rival(stage.index, photos, vectors)
    near_m, weight = rival.fitted(stage.fitted)
    rivals: dict[str, Callable[[list[EmbeddedPhoto]], NDArray[np.float64]]] = {
        "all photos alone": rival.nearest,
        "all photos, fused late": partial(rival.fused, near_m=near_m, weight=weight),
    }
    for how, places in rivals.items():
        arms[how] = {
            **({"weight": weight, "near_m": near_m} if "late" in how else {}),
            "bytes_of_photos": len(photos) * shipped.dim * 2,
            **score(stage.asked, places),
        }
    return report


@dataclass(frozen=True)
class Stage:
    """An encoder, the index that it makes of the imagery, and the photos as it sees them.

    Attributes:
        index: Without prototypes.
        localizer: Of the index.
        fitted: Photos to fit kappa on.
        asked: Photos that are asked, by kind.
    """

    index: CellIndex
    localizer: Localizer
    fitted: list[EmbeddedPhoto]
    asked: dict[str, list[EmbeddedPhoto]]

    @classmethod
    def of(
        cls,
        run: Path,
        ground: Ground,
        fitted: list[Photo],
        asked: dict[str, list[PhotoQuery]],
        arguments: argparse.Namespace,
    ) -> Stage:
        """Builds the index, or opens it, and embeds the photos."""
        index = indexed_imagery(ground, run / "encoder", arguments)
        localizer = Localizer(index, InferenceConfig(device="cpu", num_workers=arguments.threads))
        queries = [PhotoQuery(p.path, latlon_deg=p.latlon_deg, fov_deg=p.fov_deg) for p in fitted]
        return cls(
            index,
            localizer,
            in_parts(localizer, queries),
            {kind: in_parts(localizer, each) for kind, each in asked.items()},
        )


def hybrids(
    name: str, stage: Stage, table: PrototypeTable, score: Callable[..., dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Scores prototypes alone, with imagery at kappa 1, and at the kappa that is fitted."""
    manifest = replace(stage.index.manifest, prototypes=table, fusion=asdict(Fusion(1.0)))
    localizer = Localizer(
        CellIndex(stage.index.path, store.Commit(manifest, None), checked=False), stage.localizer.config
    )
    truth_deg = np.array([photo.query.latlon_deg for photo in stage.fitted])
    fitted, notes = fusion_for(localizer, stage.fitted, truth_deg)
    ways = {"prototypes alone": Fusion(math.inf), "both, kappa 1": Fusion(1.0), "both, kappa fitted": fitted}
    return {
        f"{how}; {name}": {
            "kappa": None if math.isinf(fusion.kappa) else fusion.kappa,
            "offset": fusion.offset,
            "bytes_of_prototypes": table.n_rows * manifest.dim * 4,
            **({"fit": notes} if fusion is fitted else {}),
            **score(stage.asked, partial(first_places, localizer, kappa=fusion)),
        }
        for how, fusion in ways.items()
    }


def trained(
    ground: Ground, indexed: list[Photo], shipped: CrossViewEncoder, level: int | None, arguments: argparse.Namespace
) -> Path:
    """Trains the shipped encoder on with the photos of the index and the imagery; returns the run folder.

    Args:
        ground: The region.
        indexed: Photos of the index.
        shipped: Where it starts.
        level: Of the prototypes that are learnt beside it; None for none.
        arguments: Steps and threads.
    """
    assert isinstance(shipped.ground, PlanView)
    (ortho,) = (ground.folder / "region").glob("ortho_*.tif")
    pairs = ground.folder / "pairs.csv"
    with pairs.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "lat", "lon", "heading_deg", "fov_deg"))
        table.writerows((Path(p.path).resolve(), *p.latlon_deg, p.heading_deg, p.fov_deg) for p in indexed)
    run = ground.folder / f"run_{level or 'imagery'}_{arguments.steps}_{shipped.fingerprint()}"
    fit(
        TrainConfig(
            out=str(run),
            data=DataConfig(str(pairs), reference_imagery=[str(ortho)]),
            encoder=EncoderConfig(
                "convnext_atto",
                pretrained=str(find_encoder(arguments.encoder)),
                colour="picture",
                head="grid",
                plan=shipped.ground,
                aerial=shipped.aerial,
            ),
            augment=AUGMENT,
            optimiser=OptimiserConfig(
                steps=arguments.steps,
                batch_size=64,
                learning_rate=1e-3,
                weight_decay=0.03,
                warmup_steps=30,
                label_smoothing=0.0,
                temperature=0.025,
                ignore_within_m=40.0,
            ),
            prototypes=None if level is None else PrototypesConfig(level=level, negatives=0),
            device="cpu",
            precision="bf16",
            num_workers=1,
            checkpoint_every_steps=100,
        )
    )
    return run


# -- ground and photos -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """A region on disk.

    Attributes:
        folder: Where it lies.
        middle_lon: West of it photos are dense.
    """

    folder: Path
    middle_lon: float

    @classmethod
    def made(cls, style: str, arguments: argparse.Namespace) -> Ground:
        """Renders it, or takes what is there."""
        side_m = arguments.side_m
        folder = arguments.work / f"{style}_{arguments.seed}_{side_m:.0f}_{arguments.photos_a_ha:g}_{arguments.asked}"
        folder = folder.with_name(f"{folder.name}_{arguments.block_level}")
        world = make_world(style, arguments.seed, size_m=(side_m, side_m))
        middle = world.grid.latlon_deg(np.array([side_m / 2, side_m / 2]))
        if not (folder / "done").exists():
            write_region(world, folder / "region", n_panoramas=0, n_perspective=0, epochs=(IMAGED,))
            inside = shapely.box(RANGE_M, RANGE_M, side_m - RANGE_M, side_m - RANGE_M)
            write_features(folder / "outline.geojson", world.grid, [(inside, {})])
            n_indexed = round(arguments.photos_a_ha * side_m**2 / 1e4)
            for name, epoch, n, most in (
                ("indexed", INDEXED, n_indexed, None),
                ("asked", ASKED, 8 * arguments.asked, arguments.asked),
                ("fitted", FITTED, 16 * arguments.asked, arguments.asked // 2),
            ):
                state = world.state(epoch)
                stand = Stand(state.scene(), RANGE_M, state.roads)
                for salt, kind in enumerate(KINDS):
                    view = PhotoKind(kind, 768 if kind == "panorama" else 320, range_m=RANGE_M, least_range_m=RANGE_M)
                    seed = 10 * arguments.seed + 2 * epoch + salt
                    shots = draw_shots(stand, folder / name, n // 2, view, seed=seed, day=state.date)
                    rng = np.random.default_rng([seed, 1])
                    standing = np.array([shot.latlon_deg for shot in shots])
                    kept = np.isin(tenths(standing, arguments.block_level), BLOCKS[name])
                    if name == "indexed":
                        kept &= (standing[:, 1] < middle[1]) | (rng.random(len(shots)) < SPARSE)
                    shots = [shots[i] for i in np.flatnonzero(kept)][:most]
                    write_shots(state.scene(), shots, num_workers=arguments.threads)
                    write_table(folder / f"{name}_{kind}.csv", shots)
                del state, stand
            (folder / "done").touch()
        return cls(folder, float(middle[1]))

    def photos(self, name: str) -> list[PhotoQuery]:
        """Returns the photos of a table."""
        return find_queries([self.folder / f"{name}.csv"])


def tenths(latlon_deg: NDArray[np.float64], level: int) -> NDArray[np.uint64]:
    """Returns in which tenth of all blocks of a level places lie, 0 to 9: blocks are drawn by their numbers."""
    blocks = cells.cell_ids(latlon_deg, level) >> np.uint64(61 - 2 * level)
    return blocks * np.uint64(0x9E3779B1) % np.uint64(2**32) * np.uint64(10) >> np.uint64(32)


def parted(ground: Ground) -> tuple[list[Photo], list[Photo], dict[str, list[PhotoQuery]]]:
    """Returns photos of the index, photos to fit kappa on, and photos that are asked, by kind, told of nothing."""
    indexed, fitted = (
        known_photos([*ground.photos(f"{name}_panorama"), *ground.photos(f"{name}_perspective")], needs_heading=True)
        for name in ("indexed", "fitted")
    )
    assert not indexed[1] and not fitted[1], (indexed[1], fitted[1])
    asked = {kind: ground.photos(f"asked_{kind}") for kind in ("panorama", "perspective")}
    return (
        indexed[0],
        fitted[0],
        {kind: [replace(query, heading_deg=None) for query in queries] for kind, queries in asked.items()},
    )


def indexed_imagery(ground: Ground, encoder: Path, arguments: argparse.Namespace) -> CellIndex:
    """Builds the index of the imagery, or opens it."""
    opened = CrossViewEncoder.load(encoder)
    out = ground.folder / f"index_{arguments.level}_{opened.fingerprint()}"
    if (out / "manifest.json").exists():
        return CellIndex.open(out)
    (ortho,) = (ground.folder / "region").glob("ortho_*.tif")
    settings = BuildConfig(
        encoder=str(encoder),
        imagery=[str(ortho)],
        out=str(out),
        level=arguments.level,
        device="cpu",
        num_workers=arguments.threads,
    )
    outline = Region.from_geojson(ground.folder / "outline.geojson")
    return build_index(opened, tiles.open_source(settings.imagery), outline, out, settings)


# -- scores ------------------------------------------------------------------------------------------------------------


def in_parts(localizer: Localizer, queries: list[PhotoQuery]) -> list[EmbeddedPhoto]:
    """Embeds photos, a few at a time: each is held in all the ways that it may have been taken."""
    return [each for i in range(0, len(queries), 32) for each in localizer.embed(queries[i : i + 32])]


def first_places(localizer: Localizer, photos: list[EmbeddedPhoto], kappa: float | Fusion) -> NDArray[np.float64]:
    """Returns the (N, 2) first places."""
    places = []
    for start in range(0, len(photos), 128):
        answers = localizer.answer(photos[start : start + 128], Search(top_k=1, kappa=kappa))
        places += [answer.places[0].latlon_deg for answer in answers]
    return np.array(places)


def scored(
    embedded: dict[str, list[EmbeddedPhoto]],
    places: Callable[[list[EmbeddedPhoto]], NDArray[np.float64]],
    ground: Ground,
    photos: list[Photo],
) -> dict[str, Any]:
    """Scores first places, by kind of photo, by how densely the ground is photographed, and by the nearest photo."""
    tree = cKDTree(unit_vectors(np.array([photo.latlon_deg for photo in photos])))
    found: dict[str, Any] = {}
    for kind, each in embedded.items():
        truth_deg = np.array([photo.query.latlon_deg for photo in each])
        error_m = distance_m(places(each), truth_deg)
        nearest_m = tree.query(unit_vectors(truth_deg))[0] * EARTH_RADIUS_M
        heard, dense = nearest_m <= NEARS_M[-1], truth_deg[:, 1] < ground.middle_lon
        blocks = cells.cell_ids(truth_deg, BOOTSTRAP_LEVEL)
        groups = {"all": heard | True, "dense": dense & heard, "sparse": ~dense & heard, "no photo near": ~heard}
        groups |= {
            f"nearest photo {low} to {high:g} m": (nearest_m >= low) & (nearest_m < high)
            for low, high in pairwise(DISTANCES_M)
        }
        for group, here in groups.items():
            if here.any():
                found[f"{kind}, {group}"] = {
                    "n": int(here.sum()),
                    "nearest_photo_m": round(float(np.median(nearest_m[here])), 1),
                    **{
                        f"recall_at_1_within_{radius_m}_m": {
                            "share": round(float((error_m[here] <= radius_m).mean()), 4),
                            "interval": bootstrap_interval(error_m[here] <= radius_m, 0, groups=blocks[here]),
                        }
                        for radius_m in RADII_M
                    },
                }
    return found


class Rival:
    """Nearest neighbours over all photos, alone or beside aerial codes."""

    def __init__(self, index: CellIndex, photos: list[Photo], vectors: NDArray[np.float32]) -> None:
        self._vectors = torch.from_numpy(vectors)
        self._standing = np.array([photo.latlon_deg for photo in photos])
        shards = [store.open_shard(index.path, entry) for entry in index.manifest.shards]
        self._aerial = torch.from_numpy(np.concatenate([shard.read("aerial") for shard in shards]).astype(np.float32))
        self._centres = cells.centers_deg(index.cell_ids())
        tree = cKDTree(unit_vectors(self._standing))
        #: By nearness: which cells have a photo near, these photos, and where those of each cell begin.
        self._near = {}
        for near_m in NEARS_M:
            near = tree.query_ball_point(unit_vectors(self._centres), near_m / EARTH_RADIUS_M)
            some = [rows for rows in near if rows]
            starts = np.cumsum([0, *map(len, some)])[:-1]
            self._near[near_m] = np.array([len(rows) > 0 for rows in near]), np.concatenate(some), starts

    def nearest(self, photos: list[EmbeddedPhoto]) -> NDArray[np.float64]:
        """Returns where the most alike photo of all stands, (N, 2)."""
        best = [int((torch.from_numpy(photo.vectors) @ self._vectors.T).amax(dim=0).argmax()) for photo in photos]
        return np.asarray(self._standing[best])

    def fused(self, photos: list[EmbeddedPhoto], near_m: float, weight: float) -> NDArray[np.float64]:
        """Returns the cell of the best sum, (N, 2)."""
        best = [int(self._sums(photo, near_m, (weight,))[0].argmax()) for photo in photos]
        return np.asarray(self._centres[best])

    def fitted(self, photos: list[EmbeddedPhoto]) -> tuple[float, float]:
        """Returns the nearness and the weight with which most photos are found within 100 m."""
        found = np.zeros((len(NEARS_M), len(KAPPAS)))
        for photo in photos:
            truth_deg = np.array(photo.query.latlon_deg)
            for i, near_m in enumerate(NEARS_M):
                for j, sums in enumerate(self._sums(photo, near_m, KAPPAS)):
                    found[i, j] += distance_m(self._centres[int(sums.argmax())], truth_deg) <= RADII_M[0]
        best = np.unravel_index(int(found.argmax()), found.shape)
        return NEARS_M[int(best[0])], KAPPAS[int(best[1])]

    def _sums(self, photo: EmbeddedPhoto, near_m: float, weights: tuple[float, ...]) -> list[NDArray[np.float32]]:
        query = torch.from_numpy(photo.vectors)
        aerial = (query @ self._aerial.T).numpy()
        alike = (query @ self._vectors.T).numpy()
        has, near, starts = self._near[near_m]
        ground = np.zeros_like(aerial)
        ground[:, has] = np.maximum.reduceat(alike[:, near], starts, axis=1)
        # Cells without a photo have what a photo of elsewhere typically has.
        ground[:, ~has] = np.median(alike, axis=1, keepdims=True)
        return [(aerial + np.float32(weight) * ground).max(axis=0) for weight in weights]


if __name__ == "__main__":
    main()
