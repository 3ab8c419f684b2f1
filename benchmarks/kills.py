"""What an index is worth when its writers die: SIGKILL at random moments, a reader asking all the while.

    python benchmarks/kills.py --work DIR [--kills 200]

Builds, tunings, additions of imagery and of photos, removals, merges and vacuums of a small index are each begun,
killed after a time drawn at random and begun again until they end by themselves. A reader in a process of its own opens
the index over and over, compares its exact answers with a search by hand through the rows that its own commit names,
every block checked, and where the index is tuned, the scores of what it finds there with those rows. After each
operation the index must hold exactly the rows and photos that it is to hold. What is counted: kills, of which kind, how
many left work half done, wrong answers, lost rows, runs that did not go on.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lists import always_search_by_lists
from machine import circumstances
from numpy.typing import NDArray
from PIL import Image

from geoview import cli
from geoview.config import AerialView, GroundView
from geoview.errors import GeoviewError
from geoview.geo.regions import Region
from geoview.index import cell_index, encoding, ground, store
from geoview.index.cell_index import CellIndex
from geoview.models.encoder import CrossViewEncoder
from geoview.render.region import write_region
from geoview.render.world import make_world

SIDE_M, DIM = 700.0, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "kills.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Small blocks: more moments between which a process can die.
    encoding._BLOCK_CELLS, ground._BLOCK_PHOTOS = 64, 8
    always_search_by_lists()
    # With twice the rows, the lists find less of them: that is told, and no damage.
    cell_index._WORSE = 1.0
    shutil.rmtree(arguments.work, ignore_errors=True)
    stage = Stage(arguments.work)
    report = {
        "what": "SIGKILL at random moments of index commands, with a reader",
        **circumstances(),
        **killed(stage, arguments.kills, np.random.default_rng(arguments.seed)),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


class Stage:
    """A small region with imagery of two dates, photos and an encoder of random weights."""

    def __init__(self, folder: Path) -> None:
        self.index, self.other, self.merged = folder / "index", folder / "other", folder / "merged"
        world = make_world("european_town", 5, size_m=(SIDE_M, SIDE_M), gsd_m=1.0)
        write_region(world, folder / "region", n_panoramas=0, n_perspective=0)
        self.old, self.new = sorted(str(path) for path in (folder / "region").glob("ortho_*.tif"))
        middle = world.grid.latlon_deg(np.array([SIDE_M / 2, SIDE_M / 2]))
        self.part = folder / "part.geojson"
        self.part.write_text(json.dumps(Region.disc(middle, 120.0).to_geojson()))
        torch.manual_seed(0)
        tiny = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, DIM]}
        ground_view, aerial_view = GroundView(width_px=64, height_px=32), AerialView(size_px=32, gsd_m=2.0)
        encoder = CrossViewEncoder("convnext_atto", ground=ground_view, aerial=aerial_view, backbone_args=tiny)
        self.encoder = encoder.eval().save(folder / "encoder")
        rng = np.random.default_rng(0)
        self.photos = folder / "photos.csv"
        with self.photos.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("path", "lat", "lon"))
            for i in range(40):
                Image.fromarray(rng.integers(0, 255, (32, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
                table.writerow((f"{i}.png", *(middle + rng.uniform(-0.002, 0.002, 2))))

    def operations(self) -> list[tuple[str, list[str], Path]]:
        """Commands in an order in which each can be done, and the index that each changes."""
        run = ["--device", "cpu", "--num_workers", "1"]
        make = ["index", "build", "--encoder", str(self.encoder), "--level", "19", *run]
        index, part = str(self.index), str(self.part)
        return [
            ("build", [*make, "--imagery", self.old, "--out", index], self.index),
            ("tune", ["index", "tune", index, "--recall", "0.8"], self.index),
            ("add imagery", ["index", "add", index, "--imagery", self.new, *run], self.index),
            ("add photos", ["index", "add", index, "--photos", str(self.photos), *run], self.index),
            ("remove cells", ["index", "remove", index, "--region", part], self.index),
            ("remove photos", ["index", "remove", index, "--photos", str(self.photos), *run], self.index),
            ("vacuum", ["index", "vacuum", index], self.index),
            (
                "build other",
                [*make, "--imagery", self.new, "--region", part, "--out", str(self.other)],
                self.other,
            ),
            ("merge", ["index", "merge", index, str(self.other), "--out", str(self.merged)], self.merged),
            ("build over it", [*make, "--imagery", self.old, "--out", index, "--overwrite"], self.index),
        ]


def killed(stage: Stage, kills: int, rng: np.random.Generator) -> dict[str, Any]:
    """Does all operations over and over, killing as many runs as asked for."""
    reader = Reader(stage.index)
    counts: Counter[str] = Counter()
    lost: list[str] = []
    rounds = 0
    held: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    try:
        while counts["kills"] < kills:
            rounds += 1
            for name, words, index in stage.operations():
                if name in ("build other", "merge"):
                    shutil.rmtree(index, ignore_errors=True)
                if name == "build over it" or (name == "build" and rounds > 1):
                    words = [*words, "--overwrite"] if "--overwrite" not in words else words
                budget = 3 if counts["kills"] < kills else 0
                tries = 0
                while True:
                    start = time.perf_counter()
                    limit_s = rng.uniform(0, 1.1) * seconds.get(name, 1.0) if tries < budget else None
                    code = ended(words, limit_s)
                    if code == -signal.SIGKILL:
                        tries += 1
                        counts["kills"] += 1
                        counts[f"kills of {name}"] += 1
                        counts["kills with work half done"] += (index / "build").exists()
                        continue
                    if limit_s is None:
                        seconds[name] = time.perf_counter() - start
                    # What had been committed before the kill is told, and is no failure.
                    if code not in (0, 2) or (code == 2 and not tries):
                        lost.append(f"round {rounds}: {name} ended with {code}")
                    break
                try:
                    found = content(index)
                    wanted = held.setdefault(name, found)
                    if found != wanted:
                        lost.append(f"round {rounds}: after {name}, {len(wanted[0] ^ found[0])} rows differ")
                    lost += [f"round {rounds}: after {name}: {line}" for line in CellIndex.open(index).verify()]
                except GeoviewError as error:
                    lost.append(f"round {rounds}: after {name}: {error}")
    finally:
        read = reader.stop()
    return {
        "rounds": rounds,
        **dict(sorted(counts.items())),
        "lost_or_not_resumed": lost,
        "reader": read,
        "rows": {name: len(rows) for name, (rows, _) in held.items()},
    }


def content(path: Path) -> tuple[frozenset[tuple[int, int]], frozenset[int]]:
    """Returns the (cell, date) of every row, and the keys of all photos."""
    with CellIndex.open(path, checked=True) as index:
        shards = [store.open_shard(path, entry) for entry in index.manifest.shards]
        rows = {pair for s in shards for pair in zip(s.read("cell").tolist(), s.read("date").tolist(), strict=True)}
        keys = index.prototypes().photo_key.tolist() if index.manifest.prototypes else []
    return frozenset(rows), frozenset(keys)


def ended(words: list[str], limit_s: float | None) -> int:
    """Runs a command in a child, killed after a time; returns its exit code, negative for a signal."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            code = cli.main(words)
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            os._exit(code)
    if limit_s is not None:
        time.sleep(limit_s)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Reader:
    """A process that opens an index and asks, until it is told to stop."""

    def __init__(self, index: Path) -> None:
        self._read, write = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._read)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
            said: Counter[str] = Counter()
            wrong: list[str] = []
            try:
                asked(index, said, wrong)
            finally:
                os.write(write, json.dumps({**said, "wrong_answers": wrong[:5], "n_wrong": len(wrong)}).encode())
                os._exit(0)
        os.close(write)

    def stop(self) -> dict[str, Any]:
        """Returns what it has seen."""
        os.kill(self._pid, signal.SIGTERM)
        with os.fdopen(self._read, "rb") as pipe:
            said: dict[str, Any] = json.loads(pipe.read())
        os.waitpid(self._pid, 0)
        return said


def asked(path: Path, said: Counter[str], wrong: list[str]) -> None:
    """Asks for ever."""
    rng = np.random.default_rng(0)
    numbers: set[int] = set()
    while True:
        queries = rng.normal(size=(4, DIM)).astype(np.float32)
        try:
            index = CellIndex.open(path, checked=True)
        except GeoviewError:
            said["not there yet"] += 1
            time.sleep(0.01)
            continue
        with index:
            numbers.add(index.manifest.number)
            said["searches"] += 1
            said["commits_seen"] = len(numbers)
            try:
                codes, newest = by_hand(index)
                scores = queries @ codes.T
                best = index.search(queries, 5, kappa=0.0, dates="latest", exact=True)
                if not np.allclose(best.score, -np.sort(-scores[:, newest], axis=1)[:, :5], atol=1e-4):
                    wrong.append(f"commit {index.manifest.number}: another answer than by hand")
                said["tuned_searches"] += index.manifest.ann is not None
                found = index.search(queries, 5, kappa=0.0, dates="latest")
                there = found.row >= 0
                if not np.allclose(found.score[there], np.take_along_axis(scores, found.row, 1)[there], atol=1e-4):
                    wrong.append(f"commit {index.manifest.number}: another score than by hand")
            except GeoviewError as error:
                wrong.append(f"commit {index.manifest.number}: {error}")


def by_hand(index: CellIndex) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Returns the codes of all rows that the index's commit names, read anew, and which are newest of a cell."""
    shards = [store.open_shard(index.path, entry) for entry in index.manifest.shards]
    cell, aerial = (np.concatenate([shard.read(name) for shard in shards]) for name in ("cell", "aerial"))
    return aerial.astype(np.float32), np.append(cell[1:] != cell[:-1], True)


if __name__ == "__main__":
    main()
