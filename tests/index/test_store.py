"""The index folder: what is written is plain Zarr, what is damaged is told, what is committed is whole."""

import json
import os
import threading
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.errors import IndexCorruptError, IndexNotFoundError, IndexVersionError
from geoview.index import store
from geoview.index.manifest import FORMAT_VERSION, Manifest, ShardEntry
from geoview.index.shards import checksum

DIM = 8
NAMES = [f.name for f in fields(store.Rows)]


def some_rows(n, m=0, seed=0):
    """N codes, the last third a second date of the first, and m cells without a code, in no order."""
    rng = np.random.default_rng(seed)
    aerial = rng.normal(size=(n, DIM))
    aerial /= np.linalg.norm(aerial, axis=1, keepdims=True)
    ids = rng.choice(2**40, n + m, replace=False).astype(np.uint64) + np.uint64(1 << 63)
    ids[n - n // 3 : n] = ids[: n // 3]
    dates = np.where(np.arange(n) < n - n // 3, 20200101, 20180630).astype(np.int32)
    return store.Rows(
        aerial.astype(np.float16), ids[:n], dates, rng.random(n).astype(np.float16), ids[n:], np.zeros(m, np.float16)
    )


@pytest.fixture
def manifest():
    return Manifest(
        level=16,
        dim=DIM,
        chip={"size_px": 32, "gsd_m": 4.8},
        encoder={"fingerprint": "f" * 16, "folder": "encoder/" + "f" * 16},
        min_coverage=0.5,
        imagery=["/imagery/ortho.tif"],
        sources=[{"uri": "ortho.tif", "date": "2020", "licence": None}],
        skipped_sources=[{"uri": "broken.tif", "reason": "broken.tif: truncated"}],
        shards=[ShardEntry("80c33", "0123456789abcdef", 3, 2, 1, "0" * 16)],
        created_at="2024-01-01T00:00:00+00:00",
        geoview="0.1.0",
    )


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 5), (7, 3)])
def test_rows_come_back_as_they_were_written(tmp_path, n, m):
    rows = store.Rows.concatenate([some_rows(n, m)])
    entry = store.write_rows(tmp_path, "80c33", rows)
    assert (entry.parent, entry.rows, entry.skipped) == ("80c33", n, m)
    shard = store.open_shard(tmp_path, entry)
    assert shard.damage() == []
    for name in NAMES:
        assert np.array_equal(shard.read(name), getattr(rows, name))
        assert shard.read(name).dtype == getattr(rows, name).dtype


@given(
    entries=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.sampled_from([0, 20180000, 20200101])), max_size=30),
    skipped=st.lists(st.integers(0, 2**64 - 1), max_size=10),
    cuts=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
@settings(max_examples=100, deadline=None)
def test_joined_parts_are_in_the_order_of_cell_and_date(entries, skipped, cuts):
    ids = np.array([e[0] for e in entries], np.uint64)
    dates = np.array([e[1] for e in entries], np.int32)
    numbers = np.arange(len(ids), dtype=np.float16)
    without = np.array(skipped, np.uint64)
    low, high = sorted(cuts)
    parts = [
        store.Rows(numbers[s, None], ids[s], dates[s], numbers[s], without[s], np.zeros(len(without[s]), np.float16))
        for s in (slice(0, low), slice(low, high), slice(high, None))
    ]
    joined = store.Rows.concatenate(parts)
    came = list(zip(joined.cell.tolist(), joined.date.tolist(), strict=True))
    assert came == sorted(entries)
    assert joined.skipped_cell.tolist() == sorted(skipped)
    # Every column was moved alike.
    place = joined.coverage.astype(int)
    assert np.array_equal(joined.aerial[:, 0], joined.coverage)
    assert np.array_equal(ids[place], joined.cell)
    assert np.array_equal(dates[place], joined.date)


def test_the_manifest_comes_back(tmp_path, manifest):
    assert store.commit(tmp_path, manifest) == replace(manifest, number=1)
    assert store.read_manifest(tmp_path) == replace(manifest, number=1)
    assert (manifest.n_rows, manifest.n_skipped) == (3, 2)
    assert json.loads((tmp_path / "manifest.json").read_text())["format_version"] == FORMAT_VERSION
    calibrated = replace(manifest, fusion={"kappa": 0.25, "offset": 0.0}, calibration={"on": "photos"})
    store.commit(tmp_path, calibrated)
    assert store.read_manifest(tmp_path) == replace(calibrated, number=2)
    assert {p.name for p in tmp_path.iterdir()} == {"manifest.json", "commits"}


@pytest.mark.parametrize(("version", "way_out"), [(FORMAT_VERSION + 1, "update geoview"), (1, "build the index anew")])
def test_another_format_is_refused(tmp_path, manifest, version, way_out):
    content = asdict(manifest) | {"format_version": version, "new_key": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(IndexVersionError, match=way_out):
        store.read_manifest(tmp_path)


@pytest.mark.parametrize(("version", "later"), [(2, ("ann", "scales")), (3, ("scales",))])
def test_an_older_index_is_read_and_what_it_becomes_is_of_todays_format(tmp_path, manifest, version, later):
    """One from before indexes were tuned, and one from before codes were of several scales."""
    content = {k: v for k, v in asdict(manifest).items() if k not in later} | {"format_version": version}
    content["checksum"] = checksum(json.dumps(content, sort_keys=True).encode())
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    old = store.read_manifest(tmp_path)
    assert old == replace(manifest, format_version=version)
    assert old.scales == [1]
    store.commit(tmp_path, old)
    assert store.read_manifest(tmp_path) == replace(manifest, number=1), "an older geoview does not take it for its own"


def test_a_flipped_bit_anywhere_in_the_manifest_is_told(tmp_path, manifest):
    store.commit(tmp_path, manifest)
    path = tmp_path / "manifest.json"
    sound = path.read_bytes()
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ (1 << at % 8)]) + sound[at + 1 :])
        try:
            # White space between the keys says nothing.
            assert store.read_manifest(tmp_path) == replace(manifest, number=1)
        except (IndexCorruptError, IndexVersionError) as error:
            assert str(tmp_path) in str(error)
            assert "\n" not in str(error)


def test_a_folder_that_is_no_index_is_told_from_an_unfinished_build(tmp_path):
    with pytest.raises(IndexNotFoundError, match="not an index"):
        store.read_manifest(tmp_path)
    with pytest.raises(IndexNotFoundError, match="not an index"):
        store.read_manifest(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(IndexNotFoundError, match="not an index"):
        store.read_manifest(tmp_path / "file")
    (tmp_path / "build").mkdir()
    with pytest.raises(IndexNotFoundError, match="not finished"):
        store.read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format_version": "1"}',
        '{"format_version": 2}',
        '{"format_version": 2, "shards": 3}',
        '{"format_version": 2, "shards": [], "checksum": "00"}',
        b"\xff\xfe\x00",
    ],
)
def test_a_manifest_that_cannot_be_read_is_named(tmp_path, text):
    path = tmp_path / "manifest.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(IndexCorruptError) as caught:
        store.read_manifest(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_commit_that_fails_changes_nothing(tmp_path, manifest, monkeypatch):
    store.commit(tmp_path, manifest)
    with pytest.raises(ValueError, match="JSON"):
        store.commit(tmp_path, replace(manifest, fusion={"kappa": float("nan")}))

    def fail(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            store.commit(tmp_path, replace(manifest, level=18))
    assert store.read_manifest(tmp_path) == replace(manifest, number=1)
    assert {p.name for p in tmp_path.iterdir()} == {"manifest.json", "commits"}
    assert {p.name for p in (tmp_path / "commits").iterdir()} == {"lock", "000001.json"}


def test_readers_see_one_manifest_or_the_next(tmp_path, manifest):
    large = [replace(manifest.shards[0], generation=str(i)) for i in range(300)]
    known = [manifest, replace(manifest, level=17, shards=large)]
    store.commit(tmp_path, known[0])
    seen, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            seen.append(known.index(replace(store.read_manifest(tmp_path), number=0)))

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    while len(set(seen)) < 2 or len(seen) < 200:
        for one in known:
            store.commit(tmp_path, one)
        assert any(reader.is_alive() for reader in readers), "a reader met something that is no manifest"
    stop.set()
    for reader in readers:
        reader.join()
    assert set(seen) == {0, 1}


def folders(index):
    return {str(p.relative_to(index)) for pattern in ("shards/*/*", "encoder/*") for p in index.glob(pattern)}


def test_what_no_manifest_names_is_swept_away(tmp_path, manifest):
    entries = [store.write_rows(tmp_path, parent, some_rows(3)) for parent in ("80c33", "80c33", "80c35")]
    for name in ("f" * 16, "e" * 16):
        (tmp_path / "encoder" / name).mkdir(parents=True)
    (tmp_path / "shards" / "80c33" / ".0123").mkdir()
    store.commit(tmp_path, replace(manifest, shards=entries[1:]))
    gone = store.sweep(tmp_path)
    assert {p.name for p in gone} == {".0123", "e" * 16, entries[0].generation}
    assert folders(tmp_path) == {*(str(e.folder) for e in entries[1:]), "encoder/" + "f" * 16}
    assert store.sweep(tmp_path) == {}


def test_what_a_reader_holds_is_not_swept_away(tmp_path, manifest):
    (tmp_path / "encoder" / ("f" * 16)).mkdir(parents=True)
    old, new = (store.write_rows(tmp_path, "80c33", some_rows(3, seed=seed)) for seed in (1, 2))
    store.commit(tmp_path, replace(manifest, shards=[old]))
    reader, other = store.Commit.open(tmp_path), store.Commit.open(tmp_path)
    store.commit(tmp_path, replace(manifest, shards=[new]))
    assert store.Commit.open(tmp_path).manifest.shards == [new]
    assert store.sweep(tmp_path) == {}
    reader.close()
    assert store.sweep(tmp_path) == {}
    assert store.open_shard(tmp_path, other.manifest.shards[0]).damage() == []
    other.close()
    assert [p.name for p in store.sweep(tmp_path)] == [old.generation]
    assert sorted(p.name for p in (tmp_path / "commits").iterdir()) == ["000002.json", "lock"]


def test_what_a_build_has_finished_is_not_swept_away(tmp_path, manifest):
    (tmp_path / "encoder" / ("f" * 16)).mkdir(parents=True)
    entry = store.write_rows(tmp_path, "80c33", some_rows(3))
    store.commit(tmp_path, replace(manifest, shards=[]))
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "80c33.json").write_text(json.dumps(asdict(entry)))
    (tmp_path / "build" / "plan.json").write_text(json.dumps({"level": 16}))
    assert store.sweep(tmp_path) == {}
    store.remove_journal(tmp_path)
    assert [p.name for p in store.sweep(tmp_path)] == [entry.generation]


def test_a_reader_always_holds_what_is_there(tmp_path, manifest):
    """Commits and sweeps as fast as they go; every commit that a reader opens still has its shard."""
    (tmp_path / "encoder" / ("f" * 16)).mkdir(parents=True)
    store.commit(tmp_path, replace(manifest, shards=[store.write_rows(tmp_path, "80c33", some_rows(2))]))
    stop, faults, opened = threading.Event(), [], []

    def read():
        while not stop.is_set():
            held = store.Commit.open(tmp_path)
            try:
                store.open_shard(tmp_path, held.manifest.shards[0]).check("cell")
            except IndexCorruptError as error:
                faults.append(str(error))
            opened.append(held.manifest.number)
            held.close()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for seed in range(15):
        store.commit(tmp_path, replace(manifest, shards=[store.write_rows(tmp_path, "80c33", some_rows(2, seed=seed))]))
        store.sweep(tmp_path)
    stop.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert len(set(opened)) > 1


def test_an_index_without_its_commits_can_be_read(tmp_path, manifest):
    store.commit(tmp_path, manifest)
    for path in (tmp_path / "commits").iterdir():
        path.unlink()
    assert store.Commit.open(tmp_path).manifest.number == 1


def test_a_cleared_journal_keeps_the_lock(tmp_path):
    build = tmp_path / "build"
    (build / "80c33").mkdir(parents=True)
    for name in ("lock", "plan.json", "80c33.json", "80c33/000000.npz"):
        (build / name).touch()
    store.clear_journal(tmp_path)
    assert [p.name for p in build.iterdir()] == ["lock"]
    store.remove_journal(tmp_path)
    assert not build.exists()
