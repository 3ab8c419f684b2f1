"""Lessons for the shipped encoder: rendered regions as training pairs, and the training on them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from geoview.config import TrainConfig, from_mapping
from geoview.files import write_text
from geoview.render.region import write_region
from geoview.render.world import TRAINING_STYLES, make_world
from geoview.training.fit import fit

__all__ = ["FIRST_LESSON_SEED", "Lessons", "render_lessons", "train_encoder", "write_pairs"]

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

    regions_a_style: int = 6
    size_m: float = 1400.0
    panoramas: int = 450
    perspective: int = 450


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
        epochs=(1,),
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


def _photos(folder: Path) -> Iterator[dict[str, str]]:
    with (folder / "photos.csv").open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def train_encoder(
    out: Path, lessons: Lessons, *, places: Sequence[Path] = (), imagery: Sequence[Path] = (), num_workers: int = 2
) -> Path:
    """Renders lessons and trains on them as `lessons.yaml` says; goes on with what was cut off.

    Args:
        out: Folder to work in.
        lessons: How much is rendered.
        places: Further folders with a `photos.csv`, of real places.
        imagery: Where the chips of those are cut from.
        num_workers: Processes that render.

    Returns:
        The encoder folder, weights in half precision.
    """
    folders = render_lessons(out / "lessons", lessons, num_workers=num_workers)
    write_pairs(out / "pairs.csv", [*folders, *places])
    recipe = yaml.safe_load(files("geoview").joinpath("lessons.yaml").read_text(encoding="utf-8"))
    recipe["data"] |= {
        "pairs": str(out / "pairs.csv"),
        "reference_imagery": [*(str(_reference(folder)) for folder in folders), *map(str, imagery)],
    }
    encoder = fit(from_mapping(TrainConfig, {**recipe, "out": str(out / "run")}))
    return encoder.save(out / "encoder", overwrite=True, dtype=torch.float16)


def _reference(folder: Path) -> Path:
    return folder / str(json.loads((folder / "region.json").read_text(encoding="utf-8"))["reference"])
