"""A shard is plain Zarr, is mapped as it lies, and tells every byte that is not what was written."""

import os

import numpy as np
import pytest
import zarr

from geoview.errors import IndexCorruptError
from geoview.index import shards
from geoview.index.shards import Shard, write_shard
from geoview.index.table import _file_bytes

DIM = 8


def columns(n, m=3):
    rng = np.random.default_rng(n)
    return {
        "code": rng.normal(size=(n, DIM)).astype(np.float16),
        "cell": rng.integers(0, 2**63, n).astype(np.uint64),
        "date": rng.integers(0, 2**31, n).astype(np.int32),
        "sum": rng.normal(size=(m, 2)).astype(np.float32),
        "count": np.arange(m, dtype=np.uint32),
        "short": rng.integers(0, 256, (n, 3)).astype(np.uint8),
    }


def written(folder, n, m=3, *, compressed=False):
    """Returns what was written, and how to open it."""
    content = columns(n, m)
    rows = {name: len(values) for name, values in content.items()}
    wanted = write_shard(folder, content, compressed=compressed)
    return content, lambda: Shard.open(folder, rows, wanted)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("n", "m"), [(0, 0), (1, 0), (7, 3), (4096, 1), (9000, 4097)])
def test_a_shard_comes_back_as_it_was_written(tmp_path, n, m, compressed):
    content, opened = written(tmp_path / "shard", n, m, compressed=compressed)
    shard = opened()
    assert shard.damage() == []
    for name, values in content.items():
        shard.check(name)
        assert shard.read(name).dtype == values.dtype
        assert np.array_equal(shard.read(name), values)
    assert [p.name for p in tmp_path.iterdir()] == ["shard"]


@pytest.mark.parametrize("compressed", [False, True])
def test_rows_are_taken_by_number_in_any_order(tmp_path, compressed):
    content, opened = written(tmp_path / "shard", 9000, compressed=compressed)
    shard = opened()
    for rows in ([5, 6, 7], [0, 4095, 4096, 8999], [7, 3, 5], [0, 2, 1, 3], [4], []):
        rows = np.array(rows, np.int64)
        for name in ("code", "cell"):
            assert np.array_equal(shard.take(name, rows), content[name][rows])
            out = np.empty_like(content[name][: len(rows)])
            assert shard.take(name, rows, out) is out
            assert np.array_equal(out, content[name][rows])
    assert np.array_equal(shard.take("code", slice(100, 200)), content["code"][100:200])


@pytest.mark.parametrize("row", [-1, 9000])
def test_rows_that_there_are_not_are_no_others(tmp_path, row):
    _, opened = written(tmp_path / "shard", 9000)
    with pytest.raises(IndexError, match="9000 rows"):
        opened().take("code", np.array([3, row]))


@pytest.mark.parametrize("compressed", [False, True])
def test_what_was_released_is_read_again(tmp_path, compressed):
    content, opened = written(tmp_path / "shard", 9000, compressed=compressed)
    shard = opened()
    before = shard.read("code")
    for name in ("code", "cell", "date"):
        shard.release(name)
        assert np.array_equal(shard.read(name), content[name])
    assert np.array_equal(before, content["code"])


def test_releasing_gives_memory_back(tmp_path):
    codes = np.random.default_rng(0).normal(size=(65_536, 256)).astype(np.float16)  # 32 MB
    shard = Shard.open(tmp_path / "shard", {"code": len(codes)}, write_shard(tmp_path / "shard", {"code": codes}))
    assert np.array_equal(shard.read("code"), codes)
    held = _file_bytes()
    shard.release("code")
    assert _file_bytes() < held - 30e6


@pytest.mark.parametrize("n", [5, 4096, 9000])
def test_a_shard_is_plain_zarr_whose_file_is_the_matrix(tmp_path, n):
    content, opened = written(tmp_path / "shard", n)
    group = zarr.open_group(tmp_path / "shard", mode="r")
    assert group.metadata.zarr_format == 3
    assert sorted(group.array_keys()) == sorted(content)
    for name, values in content.items():
        assert group[name].compressors == ()
        assert np.array_equal(group[name][:], values)
        (file,) = (p for p in (tmp_path / "shard" / name / "c").rglob("*") if p.is_file())
        assert np.array_equal(np.memmap(file, dtype=values.dtype, mode="r", shape=values.shape), values)
        assert opened().read(name).base is not None, "a view of the file, not a copy"


@pytest.mark.parametrize("compressed", [False, True])
def test_a_flipped_bit_anywhere_in_a_shard_is_told(tmp_path, compressed):
    _, opened = written(tmp_path / "shard", 5, compressed=compressed)
    files = sorted(p for p in (tmp_path / "shard").rglob("*") if p.is_file())
    assert len(files) == 2 * 6 + 1
    silent = []
    for path in files:
        sound = path.read_bytes()
        for at in range(0, len(sound), 13 if path.suffix == ".json" else 2):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ (1 << at % 8)]) + sound[at + 1 :])
            try:
                told = opened().damage()
            except IndexCorruptError as error:
                told = [str(error)]
            if not told or not all(str(tmp_path / "shard") in line and "\n" not in line for line in told):
                silent.append((path.name, at, told))
        path.write_bytes(sound)
    assert silent == []
    assert opened().damage() == []


def test_a_flipped_bit_names_its_block_and_spoils_no_other(tmp_path):
    content, opened = written(tmp_path / "shard", 9000)
    path = tmp_path / "shard" / "code" / "c" / "0" / "0"
    damaged = bytearray(path.read_bytes())
    damaged[5000 * DIM * 2] ^= 1
    path.write_bytes(damaged)
    shard = opened()
    (told,) = shard.damage()
    assert told.endswith("shard/code: rows 4096 to 8192 are not what was written")
    shard.check("code", np.array([0, 4095, 8192]))
    assert np.array_equal(shard.read("code")[:4096], content["code"][:4096])
    with pytest.raises(IndexCorruptError, match="rows 4096 to 8192"):
        shard.check("code", np.array([6000]))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["code", "cell"])
@pytest.mark.parametrize("held", [None, 0, 0.3, 0.97])
def test_a_file_that_is_gone_or_truncated_is_told(tmp_path, name, held, compressed):
    _, opened = written(tmp_path / "shard", 5000, compressed=compressed)
    (path,) = (p for p in (tmp_path / "shard" / name / "c").rglob("*") if p.is_file())
    if held is None:
        path.unlink()
    else:
        os.truncate(path, int(path.stat().st_size * held))
    with pytest.raises(IndexCorruptError) as caught:
        opened().read(name)
    assert str(tmp_path / "shard" / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert any(f"shard/{name}: rows" in line for line in opened().damage())


def test_a_shard_that_is_mapped_outlives_its_files(tmp_path):
    content, opened = written(tmp_path / "shard", 5000)
    shard = opened()
    shard.read("code")
    for path in (tmp_path / "shard").rglob("*"):
        if path.is_file():
            path.unlink()
    assert np.array_equal(shard.read("code"), content["code"])
    with pytest.raises(IndexCorruptError, match="cell"):
        shard.read("cell")
    with pytest.raises(IndexCorruptError, match="missing"):
        opened()


def test_columns_of_another_length_are_told(tmp_path):
    content = columns(30)
    wanted = write_shard(tmp_path / "shard", content)
    rows = {name: len(values) for name, values in content.items()}
    with pytest.raises(IndexCorruptError, match="29 rows"):
        Shard.open(tmp_path / "shard", rows | {"cell": 29}, wanted).read("cell")
    with pytest.raises(IndexCorruptError, match="other"):
        Shard.open(tmp_path / "shard", rows | {"other": 3}, wanted)
    with pytest.raises(IndexCorruptError, match=r"shard/zarr\.json"):
        Shard.open(tmp_path / "shard", rows, "0" * 16)


def test_a_shard_that_failed_leaves_nothing(tmp_path, monkeypatch):
    synced = []

    def fail(path):
        synced.append(path)
        if len(synced) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "sync", fail)
    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path / "shard", columns(5))
    assert list(tmp_path.iterdir()) == []
