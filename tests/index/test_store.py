"""The index folder: what is written is plain Zarr, what is damaged is told, what is committed is whole."""

import json
import os
import threading
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.errors import IndexCorruptError, IndexNotFoundError, IndexVersionError
from geoview.index import store

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


def read(index, entry):
    arrays = store.read_shard(index, entry)
    return store.Rows(**{name: store.read_rows(arrays[name], 0, 2**62) for name in NAMES})


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in NAMES
    )


@pytest.fixture
def manifest():
    return store.Manifest(
        level=16,
        dim=DIM,
        chip={"size_px": 32, "gsd_m": 4.8},
        encoder={"fingerprint": "f" * 16, "folder": "encoder/" + "f" * 16},
        min_coverage=0.5,
        imagery=["/imagery/ortho.tif"],
        sources=[{"uri": "ortho.tif", "date": "2020", "licence": None}],
        skipped_sources=[{"uri": "broken.tif", "reason": "broken.tif: truncated"}],
        shards=[store.ShardEntry("80c33", "0123456789abcdef", 3, 2, {"aerial": ["00"], "zarr.json": ["11"]})],
        created_at="2024-01-01T00:00:00+00:00",
        geoview="0.1.0",
    )


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 5), (1, 0), (7, 3), (4096, 1), (9000, 4097)])
def test_a_shard_comes_back_as_it_was_written(tmp_path, n, m):
    rows = store.Rows.concatenate([some_rows(n, m)])
    entry = store.write_shard(tmp_path, "80c33", rows)
    assert (entry.parent, entry.rows, entry.skipped) == ("80c33", n, m)
    assert same(read(tmp_path, entry), rows)
    assert np.array_equal(store.read_cells(tmp_path, entry), rows.cell)
    assert store.damaged_blocks(tmp_path, entry) == []


@pytest.mark.parametrize("n", [5, 4096, 9000])
def test_a_shard_is_plain_zarr_whose_file_is_the_matrix(tmp_path, n):
    rows = store.Rows.concatenate([some_rows(n, 3)])
    entry = store.write_shard(tmp_path, "80c33", rows)
    group = zarr.open_group(tmp_path / entry.folder, mode="r")
    assert group.metadata.zarr_format == 3
    assert sorted(group.array_keys()) == sorted(NAMES)
    for name in NAMES:
        array = group[name]
        assert array.compressors == ()
        assert np.array_equal(array[:], getattr(rows, name))
        data = [p for p in (tmp_path / entry.folder / name / "c").rglob("*") if p.is_file()]
        assert len(data) == 1, "one Zarr shard, one file"
        mapped = np.memmap(data[0], dtype=array.dtype, mode="r", shape=array.shape)
        assert np.array_equal(mapped, getattr(rows, name))


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


def test_a_flipped_bit_anywhere_in_a_shard_is_told(tmp_path):
    """Every second byte of the data, every thirteenth of the metadata: there one checksum covers all."""
    entry = store.write_shard(tmp_path, "80c33", store.Rows.concatenate([some_rows(4, 2)]))
    files = sorted(p for p in (tmp_path / entry.folder).rglob("*") if p.is_file())
    assert len(files) == 2 * len(NAMES) + 1
    silent = []
    for path in files:
        sound = path.read_bytes()
        for at in range(0, len(sound), 13 if path.name == "zarr.json" else 2):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ (1 << at % 8)]) + sound[at + 1 :])
            try:
                told = store.damaged_blocks(tmp_path, entry)
            except IndexCorruptError as error:
                told = [str(error)]
            if not told or not all(str(entry.folder) in line for line in told):
                silent.append((path.name, at, told))
        path.write_bytes(sound)
    assert silent == []
    assert store.damaged_blocks(tmp_path, entry) == []


def test_a_flipped_bit_names_its_block_and_no_other(tmp_path):
    entry = store.write_shard(tmp_path, "80c33", store.Rows.concatenate([some_rows(9000)]))
    path = tmp_path / entry.folder / "aerial" / "c" / "0" / "0"
    sound = bytearray(path.read_bytes())
    sound[5000 * DIM * 2] ^= 1
    path.write_bytes(sound)
    assert store.damaged_blocks(tmp_path, entry) == [
        f"{entry.folder}/aerial: rows 4096 to 8192 are not what was written"
    ]


def test_padding_behind_the_last_row_says_nothing(tmp_path):
    """9,000 rows fill two chunks and a part of the third; the rest of it is no row and no damage can matter there."""
    rows = store.Rows.concatenate([some_rows(9000)])
    entry = store.write_shard(tmp_path, "80c33", rows)
    path = tmp_path / entry.folder / "aerial" / "c" / "0" / "0"
    content = bytearray(path.read_bytes())
    content[9000 * DIM * 2 + 10] ^= 255
    path.write_bytes(content)
    assert store.damaged_blocks(tmp_path, entry) == []
    assert same(read(tmp_path, entry), rows)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("held", [None, 0, 0.3, 0.97])
def test_a_file_that_is_gone_or_truncated_is_told(tmp_path, name, held):
    entry = store.write_shard(tmp_path, "80c33", store.Rows.concatenate([some_rows(30, 20)]))
    (path,) = (p for p in (tmp_path / entry.folder / name / "c").rglob("*") if p.is_file())
    if held is None:
        path.unlink()
    else:
        os.truncate(path, int(path.stat().st_size * held))
    array = store.read_shard(tmp_path, entry)[name]
    with pytest.raises(IndexCorruptError) as caught:
        store.read_rows(array, 0, 5)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    (told,) = store.damaged_blocks(tmp_path, entry)
    assert told.startswith(f"{entry.folder}/{name}: ")


def test_a_shard_that_is_gone_while_it_is_read_is_told(tmp_path):
    """Another process may replace the index: zeros must not come back in place of codes."""
    entry = store.write_shard(tmp_path, "80c33", store.Rows.concatenate([some_rows(30, 20)]))
    array = store.read_shard(tmp_path, entry)["aerial"]
    store.remove_folder(tmp_path / entry.folder)
    with pytest.raises(IndexCorruptError, match="aerial"):
        store.read_rows(array, 0, 5)
    with pytest.raises(IndexCorruptError, match=str(entry.folder)):
        store.read_shard(tmp_path, entry)


def test_rows_that_are_not_those_of_the_manifest_are_told(tmp_path):
    entry = store.write_shard(tmp_path, "80c33", store.Rows.concatenate([some_rows(30)]))
    with pytest.raises(IndexCorruptError, match="29 rows"):
        store.read_shard(tmp_path, replace(entry, rows=29))
    short = replace(entry, checksums=entry.checksums | {"date": []})
    assert store.damaged_blocks(tmp_path, short) == [f"{entry.folder}/date: 0 checksums for 1 blocks"]
    with pytest.raises(IndexCorruptError, match=r"zarr\.json"):
        store.read_shard(tmp_path, replace(entry, checksums={}))


def test_a_cell_that_was_changed_is_never_read(tmp_path):
    entry = store.write_shard(tmp_path, "80c33", store.Rows.concatenate([some_rows(30)]))
    path = tmp_path / entry.folder / "cell" / "c" / "0"
    content = bytearray(path.read_bytes())
    content[3] ^= 4
    path.write_bytes(content)
    with pytest.raises(IndexCorruptError, match="cell"):
        store.read_cells(tmp_path, entry)


def test_a_shard_that_failed_leaves_nothing(tmp_path, monkeypatch):
    written = []

    def fail(group, name, values):
        written.append(name)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        group.create_array(name, data=values)

    monkeypatch.setattr(store, "_write_array", fail)
    with pytest.raises(OSError, match="No space"):
        store.write_shard(tmp_path, "80c33", some_rows(5))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_the_manifest_comes_back(tmp_path, manifest):
    store.commit(tmp_path, manifest)
    assert store.read_manifest(tmp_path) == manifest
    assert (manifest.n_rows, manifest.n_skipped) == (3, 2)
    assert json.loads((tmp_path / "manifest.json").read_text())["format_version"] == store.FORMAT_VERSION
    calibrated = replace(manifest, kappa=0.25, calibration={"on": "photos"})
    store.commit(tmp_path, calibrated)
    assert store.read_manifest(tmp_path) == calibrated
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_a_newer_format_is_refused(tmp_path, manifest):
    content = asdict(manifest) | {"format_version": store.FORMAT_VERSION + 1, "new_key": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(IndexVersionError, match="update geoview"):
        store.read_manifest(tmp_path)


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
        '{"format_version": 1}',
        '{"format_version": 1, "shards": 3}',
        '{"format_version": 1, "shards": [3]}',
        '{"format_version": 1, "shards": [{"parent": "80c"}]}',
        '{"format_version": 1, "shards": [], "surprise": 1}',
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
        store.commit(tmp_path, replace(manifest, kappa=float("nan")))

    def fail(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            store.commit(tmp_path, replace(manifest, level=18))
    assert store.read_manifest(tmp_path) == manifest
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_readers_see_one_manifest_or_the_next(tmp_path, manifest):
    large = [replace(manifest.shards[0], generation=str(i)) for i in range(300)]
    known = [manifest, replace(manifest, level=17, shards=large)]
    store.commit(tmp_path, known[0])
    seen, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            seen.append(known.index(store.read_manifest(tmp_path)))

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


def test_what_no_manifest_names_is_removed(tmp_path, manifest):
    entries = [store.write_shard(tmp_path, parent, some_rows(3)) for parent in ("80c33", "80c33", "80c35")]
    for name in ("f" * 16, "e" * 16):
        (tmp_path / "encoder" / name).mkdir(parents=True)
    (tmp_path / "shards" / "80c33" / ".0123").mkdir()
    store.remove_unnamed(tmp_path, replace(manifest, shards=entries[1:]))
    left = {str(p.relative_to(tmp_path)) for pattern in ("shards/*/*", "encoder/*") for p in tmp_path.glob(pattern)}
    assert left == {*(str(e.folder) for e in entries[1:]), "encoder/" + "f" * 16}


def test_a_cleared_journal_keeps_the_lock(tmp_path):
    build = tmp_path / "build"
    (build / "80c33").mkdir(parents=True)
    for name in ("lock", "plan.json", "80c33.json", "80c33/000000.npz"):
        (build / name).touch()
    store.clear_journal(tmp_path)
    assert [p.name for p in build.iterdir()] == ["lock"]
    store.remove_journal(tmp_path)
    assert not build.exists()
