"""Lessons for the shipped encoder: rendered regions as training pairs, and the training on them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.resources import files
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from geoview.config import TrainConfig, from_mapping, merged
from geoview.files import write_text
from geoview.render.region import write_region
from geoview.render.world import TRAINING_STYLES, make_world
from geoview.training.fit import fit

__all__ = [
    "FIRST_LESSON_SEED",
    "Lessons",
    "aerial_recipe",
    "last_recipe",
    "render_lessons",
    "street_recipe",
    "train_encoder",
    "write_pairs",
    "write_places",
]

#: Worlds of this seed and above are for training; below are those that encoders are tested on.
FIRST_LESSON_SEED = 1_000_000

PAIR_FIELDS = ("query_path", "lat", "lon", "heading_deg", "fov_deg")


@dataclass(frozen=True)
class Lessons:
    """How much is rendered to learn from.

    Attributes:
        regions_a_style: Worlds of each training style.
        size_m: Width and height of a world; photos are taken `range_m` and more within.
        panoramas: Of each region.
        perspective: Photos through a lens, of each region.
    """

    regions_a_style: int = 10
    size_m: float = 1400.0
    panoramas: int = 270
    perspective: int = 270


def render_lessons(out: Path, lessons: Lessons, *, num_workers: int = 2) -> list[Path]:
    """Renders regions of all training styles; those that are there already are kept.

    Args:
        out: Folder to write to: one folder a region.
        lessons: How much.
        num_workers: Processes, each of which renders a region.

    Returns:
        The folders of the regions.
    """
    wanted = [(style, FIRST_LESSON_SEED + i) for i, style in product(range(lessons.regions_a_style), TRAINING_STYLES)]
    folders = [out / f"{style}_{seed}" for style, seed in wanted]
    with (
        ProcessPoolExecutor(num_workers, get_context("spawn")) as pool,
        tqdm(total=len(wanted), desc="lessons", unit="region", disable=None) as bar,
    ):
        for _ in pool.map(_render, folders, *zip(*wanted, strict=True), [lessons] * len(wanted)):
            bar.update()
    return folders


def _render(folder: Path, style: str, seed: int, lessons: Lessons) -> None:
    if (folder / "photos.csv").exists():  # written last
        return
    world = make_world(style, seed, size_m=(lessons.size_m, lessons.size_m))
    write_region(
        world,
        folder,
        n_panoramas=lessons.panoramas,
        n_perspective=lessons.perspective,
        seed=seed,
        num_workers=1,
    )


def write_pairs(path: Path, folders: Sequence[Path]) -> None:
    """Writes the pair table of the photos of several folders, each with a `photos.csv`.

    Args:
        path: The CSV file.
        folders: The regions.
    """
    with write_text(path) as file:
        table = csv.DictWriter(file, PAIR_FIELDS, lineterminator="\n")
        table.writeheader()
        for folder in folders:
            for row in _photos(folder):
                query = os.path.relpath(folder / row["path"], path.parent)
                table.writerow({"query_path": query, **{name: row[name] for name in PAIR_FIELDS[1:]}})


def write_places(path: Path, folders: Sequence[Path]) -> None:
    """Writes the pair table of where photos were taken: both sides are then cut from imagery.

    Args:
        path: The CSV file.
        folders: The regions.
    """
    with write_text(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("lat", "lon"))
        table.writerows((row["lat"], row["lon"]) for folder in folders for row in _photos(folder))


def train_encoder(
    out: Path,
    lessons: Lessons,
    *,
    places: Sequence[Path] = (),
    imagery: Sequence[Path] = (),
    start: Path | None = None,
    num_workers: int = 2,
) -> Path:
    """Renders lessons and trains on them: on imagery of two dates, on street photos, on street photos of neighbours.

    Goes on after a kill.

    Args:
        out: Folder to work in.
        lessons: How much is rendered.
        places: Further folders with a `photos.csv`, of real places.
        imagery: Where the chips of those are cut from.
        start: Encoder folder that knows imagery already; without, the first part makes one.
        num_workers: Processes that render.

    Returns:
        The encoder folder, weights in half precision.
    """
    folders = render_lessons(out / "lessons", lessons, num_workers=num_workers)
    if start is None:
        write_places(out / "places.csv", folders)
        fit(aerial_recipe(out, folders))
        start = out / "aerial" / "encoder"
    write_pairs(out / "pairs.csv", [*folders, *places])
    chips = [*(_orthos(folder)[-1] for folder in folders), *imagery]
    street = fit(street_recipe(out, chips, start))
    encoder = fit(last_recipe(out, chips))
    # What it has learnt from, instead of where that lay on this machine.
    encoder.notes["training"] = {
        "pairs": encoder.notes["training"]["pairs"],
        "steps": street.notes["training"]["steps"] + encoder.notes["training"]["steps"],
        "recipe": "lessons_street.yaml, lessons_last.yaml",
        "styles": list(TRAINING_STYLES),
        "seeds_from": FIRST_LESSON_SEED,
        **asdict(lessons),
        "places": [str(folder.parent.name) for folder in imagery],
    }
    return encoder.save(out / "encoder", overwrite=True, dtype=torch.float16)


def aerial_recipe(out: Path, folders: Sequence[Path]) -> TrainConfig:
    """Returns the training that `lessons_aerial.yaml` describes: pairs in `places.csv`, the run in `aerial/`.

    Args:
        out: Folder to work in.
        folders: Regions with orthophotos of two dates.
    """
    first, last = zip(*(_orthos(folder) for folder in folders), strict=True)
    data = {
        "pairs": str(out / "places.csv"),
        "query_imagery": list(map(str, first)),
        "reference_imagery": list(map(str, last)),
    }
    return _recipe("lessons_aerial.yaml", data, {}, out / "aerial")


def street_recipe(out: Path, imagery: Sequence[Path], start: Path) -> TrainConfig:
    """Returns the training that `lessons_street.yaml` describes: pairs in `pairs.csv`, the run in `street/`.

    Args:
        out: Folder to work in.
        imagery: Where chips are cut from.
        start: Encoder folder whose weights the run starts from.
    """
    data = {"pairs": str(out / "pairs.csv"), "reference_imagery": list(map(str, imagery))}
    return _recipe("lessons_street.yaml", data, {"pretrained": str(start / "model.safetensors")}, out / "street")


def last_recipe(out: Path, imagery: Sequence[Path]) -> TrainConfig:
    """Returns the training that follows upon `street/`: its recipe but for what `lessons_last.yaml` says.

    Args:
        out: Folder to work in; the run is in `last/`.
        imagery: Where chips are cut from.
    """
    street = asdict(street_recipe(out, imagery, out / "street" / "encoder"))
    return from_mapping(TrainConfig, merged(street, {**_read("lessons_last.yaml"), "out": str(out / "last")}))


def _recipe(name: str, data: dict[str, Any], encoder: dict[str, Any], out: Path) -> TrainConfig:
    values = _read(name)
    values["data"] |= data
    values["encoder"] |= encoder
    return from_mapping(TrainConfig, {**values, "out": str(out)})


def _read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(files("geoview").joinpath(name).read_text(encoding="utf-8"))
    return values


def _photos(folder: Path) -> Iterator[dict[str, str]]:
    with (folder / "photos.csv").open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _orthos(folder: Path) -> list[Path]:
    """The orthophotos of a region, oldest first; chips are cut from the last."""
    epochs = json.loads((folder / "region.json").read_text(encoding="utf-8"))["epochs"]
    return [folder / epoch["ortho"] for epoch in sorted(epochs, key=lambda e: int(e["epoch"]))]
