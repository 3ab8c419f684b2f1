"""What hard negatives are worth, at equal time: random batches, neighbours on the ground, likeness, and peers' ways.

    python benchmarks/ablation.py --work DIR [--budget_s 120] [--seeds 3]
    python benchmarks/ablation.py --work DIR --panoramas 4000 --size_m 2600 --budget_s 480 --rates 1e-3 \
        --arms random similarity both_kept --out benchmarks/results/ablation_large.json

The second asks the same of four times as many places.

On made-up cities in VIGOR's layout (`geoview render dataset`, made in DIR where they are not there yet), same area and
cross area. Each arm has the same time: steps are as many as fit into the budget at the machine's own rate, less what
its mining takes; both are measured before, in the same process. Each arm has a sweep of learning rates of its own,
chosen on held-out training pairs of the same-area split, and the seeds of both splits run at the best, and at one rate
that all arms share. The spread is the seeds' standard deviation.

Runs are kept in DIR/runs.jsonl: the same call goes on with what is missing. As steps are counted before, several calls
with different --arms may run at once when the first has measured the pace; a last call with all arms then collects.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from cities import cities
from machine import circumstances
from miners import published
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geoview.config import (
    AerialView,
    AugmentConfig,
    DataConfig,
    EncoderConfig,
    EvaluateConfig,
    InferenceConfig,
    OptimiserConfig,
    PlanView,
    TrainConfig,
)
from geoview.data.datasets import load
from geoview.data.pictures import PairPictures
from geoview.data.sampling import Batches, HardBatches
from geoview.embed import embed
from geoview.evaluate.dataset import evaluate_dataset
from geoview.evaluate.protocols import open_table
from geoview.geo.sphere import distance_m
from geoview.models.encoder import CrossViewEncoder, find_encoder
from geoview.training import fit as fitting
from geoview.training import task as tasks
from geoview.training.neighbours import Neighbours

SETTINGS = {"same_area": ("same_train", "same_test"), "cross_area": ("cross_train", "cross_test")}
RATES = (3e-4, 1e-3, 3e-3)
# The held-out pairs are few, and which rate finds most of them is partly chance: all arms are told at this one, too.
COMMON_RATE = 1e-3
# Small, so that eighty trainings are a matter of two hours on four cores.
PLAN, AERIAL = PlanView(64, 1.1), AerialView(64, 1.1)
TILE_PX, PANORAMA_PX = 128, 640
BATCH, NEIGHBOURS, WITH_SEED, MINE_EVERY = 64, 64, 32, 4
# Fervers et al., ECCV 2024: logits are 36 times the cosine, negatives are at least 30 m away.
FERVERS_TEMPERATURE, FERVERS_APART_M = 1 / 36, 30.0


@dataclass(frozen=True)
class Arm:
    """A way to make batches.

    Attributes:
        what: In words.
        mining: As `DataConfig` has it; `none` for arms that are not trained, too.
        published_sampler: Batches by the rule of Sample4Geo's code, whose hardness decays through an epoch.
        in_degrees: Neighbours on the ground as its code finds them, degrees taken for radians.
        alike_from_the_start: Likeness of the starting weights instead of neighbours on the ground before the first
            mining.
        fervers: Loss and mining of Fervers et al.
        head: Of the encoder.
        shared: Whether both views have the same weights.
        shipped: Whether it starts from the shipped encoder, and not from random weights.
        trained: Whether it is trained at all.
    """

    what: str
    mining: Literal["none", "gps", "similarity"] = "none"
    published_sampler: bool = False
    in_degrees: bool = False
    alike_from_the_start: bool = False
    fervers: bool = False
    head: Literal["grid", "attention"] = "grid"
    shared: bool = True
    shipped: bool = True
    trained: bool = True


ARMS = {
    "random": Arm("random batches"),
    "gps_as_published": Arm(
        "neighbours on the ground, degrees for radians, published sampler", "gps", True, in_degrees=True
    ),
    "gps": Arm("neighbours on the ground, published sampler", "gps", True),
    "similarity": Arm("similarity from the start, published sampler", "similarity", True, alike_from_the_start=True),
    "both": Arm("ground, then similarity, published sampler", "similarity", True),
    "both_kept": Arm("ground, then similarity, hardness kept (geoview)", "similarity"),
    "fervers": Arm("decoupled loss and clusters of Fervers et al.", fervers=True),
    "attention": Arm("as both_kept, with an attention head", "similarity", head="attention"),
    "own_weights": Arm("as both_kept, weights of their own for street photos", "similarity", shared=False),
    "shipped": Arm("the shipped encoder as it is", trained=False),
    "untrained": Arm("a frozen untrained backbone", shipped=False, trained=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--budget_s", type=float, default=120.0, help="of training and mining together")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--panoramas", type=int, default=1000)
    parser.add_argument("--size_m", type=float, default=1400.0)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="of the sweep")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ablation.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    root = small_cities(arguments)
    pace = Pace.measured(root, arguments)
    log = arguments.work / "runs.jsonl"
    report: dict[str, Any] = {
        "what": "hard negatives at equal time, mining counted, on made-up cities in VIGOR's layout",
        **circumstances(f"{arguments.threads} threads, device {arguments.device}"),
        "budget_s": arguments.budget_s,
        "pace": asdict(pace),
        "cities": json.loads((root / "dataset.json").read_text()),
        "arms": {},
    }
    for name in arguments.arms:
        report["arms"][name] = {"what": ARMS[name].what, **scored(name, root, pace, arguments, log)}
        print(json.dumps({name: report["arms"][name]}), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def small_cities(arguments: argparse.Namespace) -> Path:
    """Makes the cities, unless they are there; returns their folder."""
    return cities(
        arguments.work / "cities",
        panoramas=arguments.panoramas,
        size_m=arguments.size_m,
        tile_px=TILE_PX,
        panorama_px=PANORAMA_PX,
    )


@dataclass(frozen=True)
class Pace:
    """What this machine takes.

    Attributes:
        step_s: A batch of training.
        mining_s: Embedding all training pairs and finding each one's neighbours.
        clustering_s: The same, and clusters of them.
    """

    step_s: float
    mining_s: float
    clustering_s: float

    @classmethod
    def measured(cls, root: Path, arguments: argparse.Namespace) -> Pace:
        """Measures on the first setting, or takes what was measured before: all arms have one pace."""
        path = arguments.work / "pace.json"
        if path.exists():
            return cls(**json.loads(path.read_text()))
        folder = arguments.work / "pace"
        steps = 40
        config = training(root, "same_area", ARMS["random"], folder, steps, COMMON_RATE, 0, arguments)
        marks: list[float] = []
        original = tasks.ContrastiveTask.on_train_batch_start

        def marked(self: Any, *given: Any) -> None:
            marks.append(time.perf_counter())
            original(self, *given)

        with patch.object(tasks.ContrastiveTask, "on_train_batch_start", marked):
            encoder = fitting.fit(config)
        step_s = float(np.median(np.diff(marks[5:])))
        table = load("vigor", root, "same_train")
        pictures = fitting.pictures_of(table, config, augmented=False)
        seconds = []
        for made in (lambda: neighbours(pictures, config, encoder), lambda: clusters(pictures, config, encoder, 0)):
            start = time.perf_counter()
            made()
            seconds.append(time.perf_counter() - start)
        shutil.rmtree(folder)
        pace = cls(step_s, *seconds)
        path.write_text(json.dumps(asdict(pace)))
        return pace

    def steps(self, arm: Arm, pairs: int, budget_s: float) -> int:
        """Returns how many steps fit into the budget."""
        an_epoch = math.ceil(pairs / BATCH)
        each_s = self.clustering_s if arm.fervers else self.mining_s if arm.mining == "similarity" else 0.0
        # The first similarity mining of an arm that begins on the ground comes after so many epochs.
        begins_free = arm.mining == "similarity" and not arm.alike_from_the_start
        steps = 0
        while True:
            minings = math.ceil((steps + 1) / (an_epoch * MINE_EVERY)) - begins_free
            if (steps + 1) * self.step_s + max(0, minings) * each_s > budget_s:
                return steps
            steps += 1


def scored(name: str, root: Path, pace: Pace, arguments: argparse.Namespace, log: Path) -> dict[str, Any]:
    """Runs an arm: the sweep with the first seed, then the other seeds at the best rate."""
    rates = arguments.rates if ARMS[name].trained else arguments.rates[:1]
    sweep = [run(name, "same_area", rate, 0, root, pace, arguments, log) for rate in rates]
    best = max(sweep, key=lambda each: each["validation_recall_at_1"])["learning_rate"]
    found: dict[str, Any] = {
        "learning_rate": best,
        "sweep": {f"{each['learning_rate']:g}": round(each["validation_recall_at_1"], 4) for each in sweep},
    }
    for what, rate in (("", best), (f"_at_{COMMON_RATE:g}", COMMON_RATE if ARMS[name].trained else best)):
        for setting in arguments.settings:
            seeds = [run(name, setting, rate, seed, root, pace, arguments, log) for seed in range(arguments.seeds)]
            found[f"{setting}{what}"] = {
                "steps": seeds[0]["steps"],
                **{
                    figure: {
                        "mean": round(float(np.mean([each[figure] for each in seeds])), 4),
                        "spread": round(float(np.std([each[figure] for each in seeds], ddof=1)), 4)
                        if len(seeds) > 1
                        else None,
                        "seeds": [round(each[figure], 4) for each in seeds],
                    }
                    for figure in ("recall_at_1", "recall_at_10", "hit_rate")
                },
            }
    return found


def run(
    name: str,
    setting: str,
    rate: float,
    seed: int,
    root: Path,
    pace: Pace,
    arguments: argparse.Namespace,
    log: Path,
) -> dict[str, Any]:
    """Trains and scores once, or takes what was found before."""
    key = {"arm": name, "setting": setting, "learning_rate": rate, "seed": seed, "budget_s": arguments.budget_s}
    for line in log.read_text().splitlines() if log.exists() else []:
        known: dict[str, Any] = json.loads(line)
        if key.items() <= known.items():
            return known
    arm = ARMS[name]
    train_split, test_split = SETTINGS[setting]
    table = load("vigor", root, train_split)
    steps = pace.steps(arm, round(0.9 * len(table)), arguments.budget_s) if arm.trained else 0
    folder = arguments.work / "run" / name
    shutil.rmtree(folder, ignore_errors=True)
    config = training(root, setting, arm, folder, steps, rate, seed, arguments)
    start = time.perf_counter()
    with in_the_way_of(arm, config):
        encoder = fitting.fit(config)
    seconds = time.perf_counter() - start
    settings = EvaluateConfig(
        out=str(folder / "results.json"),
        dataset="vigor",
        root=str(root),
        encoder=str(folder / "encoder"),
        split=test_split,
        device=arguments.device,
        num_workers=os.cpu_count() or 1,
    )
    figures = evaluate_dataset(encoder.eval(), open_table(settings), settings)["views"]["360"]
    found = {
        **key,
        "steps": steps,
        "seconds": round(seconds, 1),
        "validation_recall_at_1": encoder.notes["metrics"].get("validation_recall_at_1", 0.0),
        **{figure: figures[figure] for figure in ("recall_at_1", "recall_at_5", "recall_at_10", "hit_rate")},
    }
    with log.open("a") as file:
        file.write(json.dumps(found) + "\n")
    return found


def training(
    root: Path,
    setting: str,
    arm: Arm,
    folder: Path,
    steps: int,
    rate: float,
    seed: int,
    arguments: argparse.Namespace,
) -> TrainConfig:
    """Returns an arm's training: from the shipped encoder, with its head where the arm's is of that form."""
    start = str(find_encoder("demo")) if arm.shipped else None
    return TrainConfig(
        out=str(folder),
        data=DataConfig(
            str(root),
            SETTINGS[setting][0],
            validation_share=0.1,
            mining=arm.mining,
            mine_every_epochs=MINE_EVERY,
            neighbours=NEIGHBOURS,
            neighbours_a_seed=WITH_SEED,
        ),
        encoder=EncoderConfig(
            "convnext_atto",
            pretrained=start,
            colour="picture",
            head=arm.head,
            shared=arm.shared,
            plan=PLAN,
            aerial=AERIAL,
        ),
        augment=AugmentConfig(greyscale_share=0.0, erase_share=0.0),
        optimiser=OptimiserConfig(
            steps=steps,
            batch_size=BATCH,
            learning_rate=rate,
            weight_decay=0.03,
            warmup_steps=min(20, max(1, steps)),
            label_smoothing=0.1,
            temperature=FERVERS_TEMPERATURE if arm.fervers else 0.04,
            loss="decoupled" if arm.fervers else "info_nce",
            ignore_within_m=FERVERS_APART_M if arm.fervers else 0.0,
        ),
        seed=seed,
        device=arguments.device,
        precision="bf16",
        num_workers=1,
        # One round: all of it is training; what is held out is searched once, at the end.
        checkpoint_every_steps=max(1, steps),
    )


# -- peers' ways -------------------------------------------------------------------------------------------------------


@contextmanager
def in_the_way_of(arm: Arm, config: TrainConfig) -> Iterator[None]:
    """Puts an arm's way of making batches in the place of ours."""
    changes: list[Any] = []
    if arm.published_sampler:
        changes.append(patch.object(tasks, "HardBatches", PublishedBatches))
    if arm.in_degrees:
        changes.append(patch.object(Neighbours, "_near", near_in_degrees))
    if arm.alike_from_the_start:
        changes.append(patch.object(Neighbours, "of", alike_from_the_start(Neighbours.of)))
    if arm.fervers:
        changes.append(patch.object(tasks.ContrastiveTask, "_batches", clustered(config)))
    for change in changes:
        change.start()
    try:
        yield
    finally:
        for change in changes:
            change.stop()


class PublishedBatches(HardBatches):
    """Batches by the rule of Sample4Geo's code; what it drops at the end of an epoch is made up for by another pass."""

    def epoch(self, number: int) -> list[NDArray[np.int64]]:
        """Returns as many batches as an epoch has here."""
        rng = self._rng(number)
        # A place's pairs in turn; the published sampler knows places alone.
        order = rng.permutation(len(self._place))
        pairs = {int(place): order[self._place[order] == place] for place in range(self._n_places)}
        first = np.array([pairs[place][0] for place in range(self._n_places)])
        near = self._neighbours[first].copy()
        # Where there are fewer neighbours, others stand in by chance, as a list of fixed length asks for.
        gaps = near >= self._n_places
        near[gaps] = rng.integers(0, self._n_places, int(gaps.sum()))
        turn = dict.fromkeys(range(self._n_places), number)
        batches: list[NDArray[np.int64]] = []
        while len(batches) < self._n_batches:
            for batch in published(near, rng, batch_size=BATCH, with_seed=WITH_SEED):
                chosen = [pairs[place][turn[place] % len(pairs[place])] for place in batch.tolist()]
                for place in batch.tolist():
                    turn[place] += 1
                batches.append(np.array(chosen))
        return batches[: self._n_batches]


def near_in_degrees(self: Neighbours) -> NDArray[np.int64]:
    """Neighbours by the haversine of degrees that are taken for radians, as the published scripts compute them."""
    table = self._pictures.table
    lat, lon = table.latlon_deg.T
    # The haversine of such "radians" is that of points on a sphere, at those angles.
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    rows = cKDTree(points).query(points, k=NEIGHBOURS + 8)[1]
    found = np.full((len(table), NEIGHBOURS), -1, np.int64)
    for i, row in enumerate(rows):
        others = row[table.place[row] != table.place[i]][:NEIGHBOURS]
        found[i, : len(others)] = table.place[others]
    return found


def alike_from_the_start(of: Callable[..., NDArray[np.int64]]) -> Callable[..., NDArray[np.int64]]:
    """Mines likeness where neighbours on the ground would come first."""

    def found(self: Neighbours, mining: int, encoder: CrossViewEncoder) -> NDArray[np.int64]:
        with patch.object(Neighbours, "_near", lambda store: store._alike(encoder)):
            return of(self, mining, encoder)

    return found


def neighbours(pictures: PairPictures, config: TrainConfig, encoder: CrossViewEncoder) -> NDArray[np.int64]:
    """One mining of likeness, for its time."""
    inference = InferenceConfig(device=config.device, precision=config.precision, num_workers=1)
    data = replace(config.data, mining="similarity")
    return Neighbours(Path(config.out) / "unused", pictures, data, inference)._alike(encoder)


class ListedBatches(Batches):
    """Batches that are given, epoch after epoch the same."""

    def __init__(self, batches: list[NDArray[np.int64]], *, first_step: int, last_step: int) -> None:
        super().__init__(seed=0, first_step=first_step, last_step=last_step)
        self._batches = batches

    def epoch(self, number: int) -> list[NDArray[np.int64]]:
        """Returns the batches, in another order each epoch."""
        return [self._batches[i] for i in self._rng(number).permutation(len(self._batches))]


def clustered(config: TrainConfig) -> Callable[..., Batches]:
    """Makes clusters anew every few epochs, as `hem.py` of Fervers et al. does."""
    kept: dict[int, list[NDArray[np.int64]]] = {}

    def batches(self: tasks.ContrastiveTask, first_step: int) -> Batches:
        pictures = self._pictures
        length = math.ceil(len(pictures) / BATCH) * MINE_EVERY
        mining = first_step // length
        if mining not in kept:
            was_training = self.encoder.training
            kept[mining] = clusters(pictures, config, self.encoder, mining)
            self.encoder.train(was_training)
        last = min((mining + 1) * length, config.optimiser.steps)
        return ListedBatches(kept[mining], first_step=first_step, last_step=last)

    return batches


def clusters(
    pictures: PairPictures, config: TrainConfig, encoder: CrossViewEncoder, mining: int
) -> list[NDArray[np.int64]]:
    """Parts all pairs into batches: from a random seed, the unused pair most alike to all photos of the batch joins.

    Pairs within 30 m of one in the batch do not join it.
    """
    inference = InferenceConfig(device=config.device, precision=config.precision, num_workers=1)
    table = pictures.table
    rows = range(len(table))
    photos = torch.from_numpy(
        np.stack(list(embed(encoder, map(pictures.query, rows), inference, seen=pictures.query_seen)))
    )
    chips = torch.from_numpy(np.stack(list(embed(encoder, map(pictures.reference, rows), inference, seen="aerial"))))
    rng = np.random.default_rng([config.seed, mining])
    free = np.ones(len(table), np.bool_)
    batches = []
    while free.any():
        batch = [int(rng.choice(np.flatnonzero(free)))]
        alike = torch.zeros(len(table))
        apart = np.ones(len(table), np.bool_)
        free[batch[0]] = False
        while len(batch) < BATCH:
            alike += chips @ photos[batch[-1]]
            apart &= distance_m(table.latlon_deg, table.latlon_deg[batch[-1]]) > FERVERS_APART_M
            open_ = free & apart
            if not open_.any():
                break
            score = np.where(open_, alike.numpy(), -np.inf)
            batch.append(int(score.argmax()))
            free[batch[-1]] = False
        batches.append(np.array(batch))
    # Leftovers too small for a contrast join the batch before them.
    whole = [batch for batch in batches if len(batch) >= BATCH // 2]
    return whole or batches


if __name__ == "__main__":
    main()
