"""Real imagery over time: places of two cities in 2016, found again from imagery of 2020.

One index over all places of both cities from 2016, at levels 16, 17 and 18, queried with the 2020 picture of every
place of one city. The encoder is trained from scratch on 2016 and 2018 of the other city only. Beside it: the same
network untrained, a colour histogram, and the ceiling that the cells with a code allow. The training recipe was chosen
with these cities' results in view, so its figures lean to the bright side.

    python benchmarks/naip.py --data ../shared/data/naip --work runs/naip --seeds 0 1

Runs resume: trained encoders are kept in --work.
"""

from __future__ import annotations

import argparse
import csv
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import torch
import yaml
from machine import circumstances
from numpy.typing import NDArray
from pyproj import Transformer

import tiles
from geoview.config import (
    AerialView,
    AugmentConfig,
    BuildConfig,
    DataConfig,
    EncoderConfig,
    GroundView,
    InferenceConfig,
    OptimiserConfig,
    TrainConfig,
)
from geoview.geo import cells
from geoview.geo.sphere import distance_m
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.locate.embedding import PhotoView
from geoview.locate.localizer import Localizer
from geoview.locate.posterior import Place, cells_a_place, distinct_places
from geoview.metrics import recall_within, wilson_interval
from geoview.models.encoder import CrossViewEncoder
from geoview.topk import top_k
from geoview.training.fit import fit

HERE = Path(__file__).parent
CITIES = ("riverside", "santa_monica")
RADIUS_M = 100.0
HISTOGRAM_BINS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared/data/naip")
    parser.add_argument("--work", type=Path, default=Path("runs/naip"))
    parser.add_argument("--out", type=Path, default=HERE / "results/naip.json")
    parser.add_argument("--steps", type=int, help="training steps instead of the config's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--levels", type=int, nargs="+", default=[16, 17, 18])
    parser.add_argument("--cities", nargs="+", default=list(CITIES), help="cities to test on")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [row for seed in arguments.seeds for city in arguments.cities for row in measure(city, seed, arguments)]
    report = {
        "what": "recall within 100 m of 2020 queries in an index of 2016, by test city, level and method",
        "rows": rows,
        **circumstances(f"{arguments.threads} threads used"),
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def measure(city: str, seed: int, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Returns a row for each level and method, with `city` as the one that was not trained on."""
    (other,) = set(CITIES) - {city}
    run = train_config(other, seed, arguments)
    trained = fit(run)
    torch.manual_seed(seed)
    untrained = CrossViewEncoder.from_config(run.encoder).eval()
    truth = places(arguments.data / city / "2020")
    imagery = [str(arguments.data / c / "2016") for c in CITIES]
    source = tiles.open_source(imagery)
    rows: list[dict[str, object]] = []
    for level in arguments.levels:
        answers = {}
        for name, encoder in (("trained", trained), ("untrained", untrained)):
            config = BuildConfig(encoder="", imagery=imagery, out="", level=level, overwrite=True)
            index = build_index(encoder, source, None, arguments.work / f"index_{city}_{seed}_{level}_{name}", config)
            answers[name] = locate(index, truth)
        answers["colour histogram"] = histogram_answers(index, source, truth)
        ceiling = reachable(index, truth)
        for name, distances in answers.items():
            row: dict[str, object] = {
                "test_city": city,
                "level": level,
                "method": name,
                "seed": seed,
                "queries": len(truth),
                "codes": len(index),
                "ceiling": round(ceiling, 4),
            }
            for k in (1, 5):
                share = recall_within(distances, k, RADIUS_M)
                low, high = wilson_interval(share, len(truth))
                row[f"recall_at_{k}"] = round(share, 4)
                row[f"recall_at_{k}_interval"] = [round(low, 4), round(high, 4)]
            if name == "trained":
                row["trained_on"], row["steps"] = other, run.optimiser.steps
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def train_config(city: str, seed: int, arguments: argparse.Namespace) -> TrainConfig:
    """Returns the shipped config for imagery of two dates, on this city's places."""
    content = yaml.safe_load((HERE.parent / "configs/train/aerial_two_dates.yaml").read_text())
    centres = places(arguments.data / city / "2016")
    arguments.work.mkdir(parents=True, exist_ok=True)
    pairs = arguments.work / f"{city}.csv"
    with pairs.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lat", "lon"])
        writer.writerows(centres.values())
    encoder = content["encoder"]
    encoder |= {"aerial": AerialView(**encoder["aerial"]), "ground": GroundView(**encoder["ground"])}
    optimiser = OptimiserConfig(**content["optimiser"] | {"batch_size": len(centres)})
    if arguments.steps is not None:
        optimiser = replace(optimiser, steps=arguments.steps)
    return TrainConfig(
        out=str(arguments.work / f"train_{city}_{seed}_{optimiser.steps}"),
        data=DataConfig(
            str(pairs),
            query_view="aerial",
            query_imagery=[str(arguments.data / city / "2016")],
            reference_imagery=[str(arguments.data / city / "2018")],
        ),
        encoder=EncoderConfig(**encoder),
        augment=AugmentConfig(**content["augment"]),
        optimiser=optimiser,
        seed=seed,
        device="cpu",
        checkpoint_every_steps=content["checkpoint_every_steps"],
    )


def places(folder: Path) -> dict[str, tuple[float, float]]:
    """Returns (lat, lon) of the middle of each raster of a folder."""
    found = {}
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as raster:
            x, y = raster.xy(raster.height / 2 - 0.5, raster.width / 2 - 0.5)
            lat, lon = Transformer.from_crs(raster.crs, "EPSG:4326").transform(x, y)
            found[str(path)] = (lat, lon)
    return found


def locate(index: CellIndex, truth: dict[str, tuple[float, float]]) -> np.ndarray:
    """Returns (Q, 5) distances of the answers from the truth."""
    answers = Localizer(index, InferenceConfig(device="cpu")).locate(truth, top_k=5, view=PhotoView("aerial"))
    return np.stack([distances(a.places, truth[a.query]) for a in answers])


def distances(found: list[Place], true_deg: tuple[float, float]) -> NDArray[np.float64]:
    row = np.full(5, np.inf)
    row[: len(found)] = [distance_m(np.array(p.latlon_deg), np.array(true_deg)) for p in found]
    return row


def histogram_answers(
    index: CellIndex, source: tiles.ImagerySource, truth: dict[str, tuple[float, float]]
) -> NDArray[np.float64]:
    """Ranks the same cells by the inner product of joint RGB histograms (Hellinger kernel)."""
    ids = index.cell_ids()
    view = index.chip
    chips = [source.chip(c, size_px=view.size_px, gsd_m=view.gsd_m) for c in cells.centers_deg(ids)]
    references = np.stack([histogram(chip) for chip in chips])
    queries = np.stack(
        [
            histogram(tiles.open_source(path).chip(centre, size_px=view.size_px, gsd_m=view.gsd_m))
            for path, centre in truth.items()
        ]
    )
    rows, scores = top_k(queries, [(np.arange(len(references)), references)], 5 * cells_a_place(index.level))
    found = [distinct_places(ids[r], s, 5) for r, s in zip(rows, scores, strict=True)]
    return np.stack([distances(f, centre) for f, centre in zip(found, truth.values(), strict=True)])


def histogram(chip: tiles.Chip) -> NDArray[np.float32]:
    pixels = chip.pixels[chip.valid].astype(np.int64) * HISTOGRAM_BINS // 256
    counts = np.bincount(pixels @ [HISTOGRAM_BINS**2, HISTOGRAM_BINS, 1], minlength=HISTOGRAM_BINS**3)
    return np.asarray(np.sqrt(counts / max(1, counts.sum())), np.float32)


def reachable(index: CellIndex, truth: dict[str, tuple[float, float]]) -> float:
    """Returns the share of queries that have a cell with a code within 100 m: no method can do better."""
    centres = cells.centers_deg(index.cell_ids())
    return float(np.mean([(distance_m(np.array(t), centres) <= RADIUS_M).any() for t in truth.values()]))


if __name__ == "__main__":
    warnings.simplefilter("default")
    main()
