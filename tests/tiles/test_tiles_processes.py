"""Processes cut the chips that this one would, tell what goes wrong, and are gone when nobody asks them any more."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tiles
from tiles.processes import ChipProcesses

CRS, CENTRE = "EPSG:32632", (48.1, 11.6)


@pytest.fixture
def raster(tmp_path, kit):
    """A square of 400 m, of a metre a pixel."""
    transform = kit.centred(CRS, CENTRE, (1.0, 1.0))
    return kit.World(CRS, 40.0).write(tmp_path / "a.tif", transform, 400, 400)


def around(n, spread_deg=0.0015, seed=0):
    return np.array(CENTRE) + np.random.default_rng(seed).uniform(-spread_deg, spread_deg, (n, 2))


def here(source, places_deg, size_px, gsd_m):
    found = []
    for place in places_deg:
        try:
            found.append(source.chip(place, size_px=size_px, gsd_m=gsd_m))
        except tiles.OutsideCoverageError:
            found.append(None)
    return found


@pytest.mark.parametrize("as_list", [False, True])
def test_chips_are_those_that_this_process_would_cut(raster, as_list):
    source = tiles.open_source([raster] if as_list else raster)
    places_deg = np.concatenate([around(20), around(20, 0.01)])
    with ChipProcesses(source, 2) as processes:
        for size_px, gsd_m in ((32, 1.0), (16, 3.0)):
            wanted = here(source, places_deg, size_px, gsd_m)
            found = processes.chips(places_deg, size_px, gsd_m)
            assert 10 < sum(chip is None for chip in wanted) < 30
            for chip, other in zip(found, wanted, strict=True):
                if other is None:
                    assert chip is None
                else:
                    np.testing.assert_array_equal(chip.pixels, other.pixels)
                    np.testing.assert_array_equal(chip.valid, other.valid)
                    assert (chip.date, chip.licence, chip.gsd_m) == (other.date, other.licence, other.gsd_m)


def test_what_cannot_be_read_is_told_as_here(raster):
    source = tiles.open_source(raster)
    content = raster.read_bytes()
    raster.write_bytes(content[: len(content) // 2])
    with ChipProcesses(source, 1) as processes:
        with pytest.raises(tiles.UnreadableRasterError, match=r"a\.tif"):
            processes.chips(around(8), 64, 1.0)
        raster.write_bytes(content)
        with pytest.raises(tiles.InvalidChipError, match="size_px must be"):
            processes.chips(around(1), 0, 1.0)
        assert len(processes.chips(around(1, seed=3), 32, 1.0)) == 1, "the next is answered"


def test_a_part_that_fails_is_left_out_and_named_once(tmp_path, raster, kit):
    for name in ("b.tif", "c.tif"):
        (tmp_path / name).write_bytes(raster.read_bytes())
    source = tiles.open_source(tmp_path)
    raster.write_bytes(b"II*\0")
    with ChipProcesses(source, 2) as processes, pytest.warns(tiles.SkippedRasterWarning, match=r"left out: .*a\.tif"):
        for seed in range(4):
            assert all(chip.valid.all() for chip in processes.chips(around(8, 0.0005, seed), 32, 1.0))
    assert [Path(uri).name for uri, _ in source.skipped] == ["a.tif"]


def test_a_process_that_is_killed_is_told(raster):
    with ChipProcesses(tiles.open_source(raster), 1) as processes:
        processes.chips(around(1), 16, 1.0)
        (process,) = processes._processes
        process.kill()
        with pytest.raises(tiles.CutterEndedError, match="was ended by SIGKILL; where memory is short"):
            processes.chips(around(1), 16, 1.0)
    assert issubclass(tiles.CutterEndedError, tiles.TilesError)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid, within_s=20.0):
    end = time.monotonic() + within_s
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_running(pid)


def test_they_end_with_who_started_them(raster):
    with ChipProcesses(tiles.open_source(raster), 2) as processes:
        pids = [process.pid for process in processes._processes]
        assert all(map(is_running, pids))
    assert all(gone(pid, 0.0) for pid in pids)
    script = (
        "import sys, time, tiles, numpy as np\n"
        f"processes = tiles.ChipProcesses(tiles.open_source({str(raster)!r}), 2)\n"
        f"processes.chips(np.array([{CENTRE!r}]), 16, 1.0)\n"
        "print(*(process.pid for process in processes._processes), flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as starter:
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        assert len(pids) == 2 and all(map(is_running, pids))
        starter.send_signal(signal.SIGKILL)
    assert all(map(gone, pids)), "even if it is killed"
