"""Kills, full disks, two builders and damaged files: the old index stays, the work goes on, nothing is silent."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import tiles
from geoview.cli import main
from geoview.config import BuildConfig
from geoview.errors import BusyError, EncoderError, IndexCorruptError, IndexNotFoundError
from geoview.files import exclusive
from geoview.geo.regions import Region
from geoview.index import build as build_module
from geoview.index import encoding, store
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.models.encoder import CrossViewEncoder

BLOCK_CELLS = 3
# Runs commands in processes of their own, each of which stops itself (SIGKILL or SIGSTOP) at a moment of the build.
# They are forked from one process that has imported everything: that takes seconds.
STATION = f"""
import contextlib, io, json, os, resource, signal, sys
import torch
from geoview import cli, files
from geoview.index import build, encoding, shards, store

torch.set_num_threads(1)
encoding._BLOCK_CELLS = {BLOCK_CELLS}


def stop(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def pause():
    os.kill(os.getpid(), signal.SIGSTOP)


def arm(moment):
    blocks, block, write_json = 0, encoding.Encoding._kept, store.write_json

    def after_a_block(self, *args):
        nonlocal blocks
        rows, blocks = block(self, *args), blocks + 1
        if blocks == 3:
            pause() if moment == "pause" else stop()
        return rows

    @contextlib.contextmanager
    def half_a_block(path):
        whole = io.BytesIO()
        yield whole
        with files.write_binary(path) as file:
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            stop()

    def before_the_rename(path, content):
        files._flush = stop
        write_json(path, content)

    match moment:
        case "never":
            pass
        case "block finished" | "pause":
            encoding.Encoding._kept = after_a_block
        case "block half written":
            encoding.write_binary = half_a_block
        case "shard written, not renamed":
            shards.sync = stop
        case "shard finished":
            build.remove_folder = lambda folder: stop() if folder.parent.name == "build" else None
        case "all shards finished":
            store.commit = stop
        case "manifest written, not renamed":
            store.write_json = before_the_rename
        case "manifest renamed":
            store.remove_journal = stop
        case int():
            resource.setrlimit(resource.RLIMIT_FSIZE, (moment, moment))
        case _:
            raise ValueError(moment)


for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        _, status = os.waitpid(request["wait"], 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    pid = os.fork()
    if not pid:
        talk = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(talk, 2)
        os.dup2(talk, 1)
        code = 99
        try:
            arm(request["moment"])
            code = cli.main(request["argv"])
        except SystemExit as error:
            code = error.code
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    print(pid, flush=True)
"""
KILLS = [
    "block finished",
    "block half written",
    "shard written, not renamed",
    "shard finished",
    "all shards finished",
    "manifest written, not renamed",
]


class Station:
    def __init__(self, folder):
        self._talk = folder / "stderr"
        self._process = subprocess.Popen(
            [sys.executable, "-c", STATION], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, argv, moment="never"):
        return self._ask({"argv": argv, "moment": moment, "stderr": str(self._talk)})

    def wait(self, pid):
        """Returns the exit code, negative for a signal."""
        return self._ask({"wait": pid})

    def run(self, argv, moment="never"):
        """Returns the exit code and what came on stderr and stdout, progress bars left out."""
        code = self.wait(self.start(argv, moment))
        lines = self._talk.read_text().splitlines()
        return code, [line for line in lines if line.strip() and not line.startswith("index build:")]

    def close(self):
        self._process.communicate()


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    station = Station(tmp_path_factory.mktemp("station"))
    yield station
    station.close()


@pytest.fixture(scope="module")
def region(kit):
    """16 cells, four in each of four shards: two blocks a shard."""
    return Region.disc(kit.CENTRE_DEG, 250.0)


@pytest.fixture(scope="module")
def command(tmp_path_factory, encoder_folder, ortho, region):
    """Words of the command that builds the region's index."""
    path = tmp_path_factory.mktemp("region") / "region.geojson"
    path.write_text(json.dumps(region.to_geojson()))

    def words(out, *more):
        fixed = ["--encoder", str(encoder_folder), "--imagery", str(ortho), "--region", str(path)]
        return ["index", "build", *fixed, "--out", str(out), "--device", "cpu", "--num_workers", "1", *more]

    return words


@pytest.fixture(scope="module")
def whole(tmp_path_factory, station, command):
    """What comes out when nothing goes wrong."""
    out = tmp_path_factory.mktemp("whole") / "index"
    code, said = station.run(command(out))
    assert code == 0, said
    return CellIndex.open(out)


@pytest.fixture
def old(tmp_path, index_folder):
    """An index of all the imagery, about to be replaced by one of the region."""
    shutil.copytree(index_folder, tmp_path / "index")
    return tmp_path / "index"


def go_on(encoder_folder, ortho, out, region, monkeypatch, overwrite=False):
    """Runs the same build in this process; returns the index and the number of chips cut for it."""
    monkeypatch.setattr(encoding, "_BLOCK_CELLS", BLOCK_CELLS)
    source, cut = tiles.open_source(ortho), []
    chip = source.chip
    monkeypatch.setattr(type(source), "chip", lambda self, *args, **kwargs: cut.append(1) or chip(*args, **kwargs))
    config = BuildConfig(
        encoder=str(encoder_folder), imagery=[str(ortho)], out=str(out), device="cpu", overwrite=overwrite
    )
    index = build_index(CrossViewEncoder.load(encoder_folder), source, region, out, config)
    return index, len(cut)


def rows_of(index):
    parts = [store.open_shard(index.path, entry) for entry in index.manifest.shards]
    return {name: np.concatenate([part.read(name) for part in parts]) for name in parts[0].rows}


def assert_same(index, other):
    """Row for row the same; codes may differ by the last digit, for batches and threads round otherwise."""
    one, two = rows_of(index), rows_of(other)
    assert one.keys() == two.keys()
    for name in one:
        if name == "aerial":
            np.testing.assert_allclose(one[name].astype(np.float32), two[name].astype(np.float32), atol=6e-4)
        else:
            assert np.array_equal(one[name], two[name]), name


def assert_untouched(old, index_folder):
    """The old index answers as it did."""
    index, before = CellIndex.open(old), CellIndex.open(index_folder)
    assert index.manifest == before.manifest
    assert index.verify() == []
    query = rows_of(before)["aerial"][7:8]
    assert index.search(query, 1).row[0, 0] == before.search(query, 1).row[0, 0] == 7


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_build_goes_on(tmp_path, station, command, whole, region, encoder_folder, ortho, monkeypatch, moment):
    out = tmp_path / "index"
    assert station.run(command(out), moment)[0] == -signal.SIGKILL
    with pytest.raises(IndexNotFoundError, match="not finished"):
        CellIndex.open(out)
    blocks, shards = len(list(out.glob("build/*/*.npz"))), len(list(out.glob("build/80*.json")))
    finished = {
        "block finished": (1, 1),
        "block half written": (0, 0),
        "shard written, not renamed": (2, 0),
        "shard finished": (2, 1),
        "all shards finished": (0, 4),
        "manifest written, not renamed": (0, 4),
    }
    assert (blocks, shards) == finished[moment]

    index, chips = go_on(encoder_folder, ortho, out, region, monkeypatch)
    done = {"block finished": 4 + 3, "block half written": 0}.get(moment, 4 * max(shards, 1))
    assert chips == 16 - done, "finished blocks are not cut again"
    assert_same(index, whole)
    assert index.verify() == []
    assert {p.name for p in out.iterdir()} == {"manifest.json", "commits", "encoder", "shards"}, (
        "no trace of the kill is left"
    )
    named = {out / entry.folder for entry in index.manifest.shards}
    assert set(out.glob("shards/*/*")) == named


@pytest.mark.parametrize("moment", KILLS)
def test_a_kill_while_an_index_is_replaced_leaves_the_old_one(
    station, command, whole, old, index_folder, region, encoder_folder, ortho, monkeypatch, moment
):
    assert station.run(command(old, "--overwrite"), moment)[0] == -signal.SIGKILL
    assert_untouched(old, index_folder)
    index, chips = go_on(encoder_folder, ortho, old, region, monkeypatch, overwrite=True)
    assert chips <= 16
    assert_same(index, whole)
    assert CellIndex.open(old).verify() == []
    assert set(old.glob("shards/*/*")) == {old / entry.folder for entry in index.manifest.shards}


def test_a_kill_after_the_commit_leaves_the_new_index(station, command, whole, old):
    assert station.run(command(old, "--overwrite"), "manifest renamed")[0] == -signal.SIGKILL
    index = CellIndex.open(old)
    assert_same(index, whole)
    assert index.verify() == []


def test_a_kill_from_outside_at_any_time(tmp_path, command, whole):
    """The installed command, killed as soon as it has begun to write."""
    out = tmp_path / "index"
    words = [sys.executable, "-m", "geoview", *command(out)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while not (out / "build" / "plan.json").exists():
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    # The kill may have come too late on a quick machine.
    assert done.returncode == 0 or "an index is there already" in done.stderr
    assert_same(CellIndex.open(out), whole)


def test_a_truncated_block_is_made_again(tmp_path, station, command, whole, region, encoder_folder, ortho, monkeypatch):
    out = tmp_path / "index"
    station.run(command(out), "block finished")
    (block,) = out.glob("build/*/*.npz")
    os.truncate(block, block.stat().st_size // 2)
    index, chips = go_on(encoder_folder, ortho, out, region, monkeypatch)
    assert chips == 12, "the first shard is finished, its neighbour's block is not"
    assert_same(index, whole)


def paused_in_a_shard(out, station, command):
    """Starts a builder that stops in its first shard, which it goes on to hold, and a second that does the others."""
    first = station.start(command(out), "pause")
    while not list(out.glob("build/*/*.npz")) or "T (stopped)" not in Path(f"/proc/{first}/status").read_text():
        time.sleep(0.01)
    second = station.start(command(out))
    # Not by a pattern: folders of shards come and go while it is followed.
    while sum(p.name.startswith("80") and p.suffix == ".json" for p in (out / "build").iterdir()) < 3:
        time.sleep(0.01)
    assert not (out / "manifest.json").exists(), "nobody commits before all is done"
    return first, second


def test_two_builders_share_the_work(tmp_path, station, command, whole):
    out = tmp_path / "index"
    first, second = paused_in_a_shard(out, station, command)
    with pytest.raises(BusyError, match="is writing there"):
        exclusive(out / "build").__enter__()
    os.kill(first, signal.SIGCONT)
    assert (station.wait(first), station.wait(second)) == (0, 0)
    assert_same(CellIndex.open(out), whole)
    assert CellIndex.open(out).verify() == []
    assert {p.name for p in out.iterdir()} == {"manifest.json", "commits", "encoder", "shards"}


def test_a_builder_takes_over_from_one_that_died(tmp_path, station, command, whole):
    out = tmp_path / "index"
    first, second = paused_in_a_shard(out, station, command)
    os.kill(first, signal.SIGKILL)
    assert (station.wait(first), station.wait(second)) == (-signal.SIGKILL, 0)
    assert_same(CellIndex.open(out), whole)
    assert set(out.glob("shards/*/*")) == {out / entry.folder for entry in CellIndex.open(out).manifest.shards}


def test_a_builder_of_something_else_is_sent_away(tmp_path, station, command, whole):
    out = tmp_path / "index"
    first, second = paused_in_a_shard(out, station, command)
    code, said = station.run(command(out, "--level", "17", "--overwrite"))
    assert code == 2
    (line,) = said
    assert "another process is writing there, with another level" in line
    assert str(out) in line
    os.kill(first, signal.SIGCONT)
    assert (station.wait(first), station.wait(second)) == (0, 0)
    assert_same(CellIndex.open(out), whole)


def assert_says_disk_full(code, said, folder):
    assert code == 2, said
    (line,) = said
    assert line.startswith("geoview: ")
    assert str(folder) in line
    assert "disk full" in line


@pytest.mark.parametrize("limit_bytes", [900, 20_000])
def test_a_full_disk_while_an_index_is_made(tmp_path, station, command, whole, limit_bytes):
    """A limit on the size of files stands for the disk: 900 bytes hold no block, 20,000 no encoder."""
    out = tmp_path / "index"
    assert_says_disk_full(*station.run(command(out), limit_bytes), out)
    with pytest.raises(IndexNotFoundError, match="not finished"):
        CellIndex.open(out)
    code, said = station.run(command(out))
    assert code == 0, said
    assert_same(CellIndex.open(out), whole)


def test_a_full_disk_while_an_index_is_replaced(station, command, whole, old, index_folder):
    assert_says_disk_full(*station.run(command(old, "--overwrite"), 900), old)
    assert_untouched(old, index_folder)
    code, said = station.run(command(old, "--overwrite"))
    assert code == 0, said
    assert_same(CellIndex.open(old), whole)


def test_a_disk_that_fills_up(tmp_path, station, command, whole):
    """A file system of 1 MB, on which a file is in the way of all but the first shards."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=4k", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        out, ballast = disk / "index", disk / "ballast"
        ballast.write_bytes(bytes(760_000))
        assert_says_disk_full(*station.run(command(out)), out)
        assert list(out.glob("build/*.json")), "the failure comes after the plan"
        assert list(out.glob("encoder/*/geoview.json")), "and after the encoder"
        ballast.unlink()
        code, said = station.run(command(out))
        assert code == 0, said
        assert_same(CellIndex.open(out), whole)

        # Now an index is there, and its successor finds no room.
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        assert_says_disk_full(*station.run(command(out, "--level", "17", "--overwrite")), out)
        assert CellIndex.open(out).verify() == []
        assert_same(CellIndex.open(out), whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


FILES = ["aerial/c/0/0", "cell/c/0", "date/c/0", "coverage/c/0", "aerial/zarr.json", "cell/zarr.json", "zarr.json"]


@pytest.mark.parametrize("damage", ["deleted", "emptied", "truncated", "flipped"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_never_a_wrong_answer(tmp_path, capsys, index_folder, name, damage):
    out = tmp_path / "index"
    shutil.copytree(index_folder, out)
    whole = CellIndex.open(index_folder)
    entry = whole.manifest.shards[1]
    path = out / entry.folder / name
    content = bytearray(path.read_bytes())
    match damage:
        case "deleted":
            path.unlink()
        case "emptied":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "flipped":
            content[len(content) // 3] ^= 16
            path.write_bytes(content)

    index = CellIndex.open(out)
    problems = index.verify()
    assert problems
    assert all(str(entry.folder) in line and "\n" not in line for line in problems)
    if not name.startswith("zarr") and damage != "deleted":
        assert name.split("/")[0] in problems[0] or "zarr.json" in problems[0]
    assert main(["index", "verify", str(out)]) == 1
    assert str(entry.folder) in capsys.readouterr().out

    queries = rows_of(whole)["aerial"].astype(np.float32)
    if damage != "flipped" or name.startswith("aerial"):
        checked = CellIndex.open(out, checked=True)
        try:
            assert np.array_equal(checked.search(queries, 5).row, whole.search(queries, 5).row)
            assert not name.startswith("aerial"), "codes from this file must not be answered from"
        except IndexCorruptError as error:
            assert str(entry.folder) in str(error)
    right = whole.search(queries, 5)
    try:
        hits = index.search(queries, 5)
    except IndexCorruptError as error:
        assert str(entry.folder) in str(error)
        assert "\n" not in str(error)
        return
    assert not (name.endswith("zarr.json") or name == "cell/c/0"), "a search that reads this file must have noticed"
    first, stop = whole._table.first_row[1], whole._table.first_row[2]
    if name.startswith("aerial"):
        # `verify` reads checksums of codes, a search does not: a flipped bit spoils the score of its own row alone.
        assert damage == "flipped"
        everything, sound = index.search(queries, len(whole)), whole.search(queries, len(whole))
        scores, expected = (np.take_along_axis(h.score, h.row.argsort(axis=1), axis=1) for h in (everything, sound))
        changed = np.flatnonzero((scores != expected).any(axis=0))
        assert len(changed) <= 1
        assert all(first <= row < stop for row in changed)
    else:
        assert np.array_equal(hits.row, right.row)
        assert np.array_equal(hits.cell_id, right.cell_id)


def test_a_shard_that_is_gone_is_named(tmp_path, index_folder):
    out = tmp_path / "index"
    shutil.copytree(index_folder, out)
    index = CellIndex.open(out)
    entry = index.manifest.shards[2]
    shutil.rmtree(out / entry.folder)
    (problem,) = index.verify()
    assert str(entry.folder) in problem
    with pytest.raises(IndexCorruptError, match=entry.generation):
        index.search(np.ones((1, 32), np.float32), 3)
    # A region in other shards is searched as before.
    elsewhere = store.open_shard(out, index.manifest.shards[0]).read("cell")[:1]
    centre = build_module.cells.centers_deg(elsewhere)[0]
    hits = index.search(np.ones((1, 32), np.float32), 1, region=Region.disc(centre, 5.0))
    assert hits.cell_id[0, 0] == elsewhere[0]


def test_a_flipped_bit_in_any_file_is_found(tmp_path, index_folder):
    out = tmp_path / "index"
    shutil.copytree(index_folder, out)
    assert CellIndex.open(out).verify() == []
    files = [path for path in out.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 20
    assert {path.relative_to(out).parts[0] for path in files} == {"manifest.json", "commits", "encoder", "shards"}
    for path in files:
        sound = path.read_bytes()
        at = 2 * len(sound) // 3
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 16]) + sound[at + 1 :])
        try:
            assert CellIndex.open(out).verify(), path
        except IndexCorruptError as error:
            assert path.name == "manifest.json", error
        path.write_bytes(sound)


def test_a_code_that_is_not_finite_is_refused_and_its_cell_named(tmp_path, kit, ortho, monkeypatch):
    encoder = kit.make_encoder()
    forward, seen = type(encoder).forward, []

    def broken(self, pixels, valid, **views):
        vectors = forward(self, pixels, valid, **views)
        before = sum(seen)
        seen.append(len(vectors))
        return vectors.index_fill(0, torch.tensor([21 - before]), torch.nan) if before <= 21 < sum(seen) else vectors

    monkeypatch.setattr(type(encoder), "forward", broken)
    source = tiles.open_source([str(ortho)])
    config = BuildConfig(encoder="-", imagery=[str(ortho)], out=str(tmp_path / "index"), device="cpu", batch_size=16)
    with pytest.raises(EncoderError, match=r"^cell [0-9a-f]+: embeddings are not finite") as told:
        build_index(encoder, source, None, config.out, config)
    token = str(told.value).split()[1].rstrip(":")
    monkeypatch.undo()
    whole = build_index(encoder, source, None, config.out, config)
    assert build_module.cells.from_tokens([token])[0] == whole.cell_ids()[21]
