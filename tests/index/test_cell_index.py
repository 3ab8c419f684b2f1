"""Search is exact, a region is its rows and no others, and what does not fit the index is refused."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.errors import EncoderMismatchError, IndexCorruptError, IndexNotFoundError, RegionError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import store, table
from geoview.index.cell_index import CellIndex
from geoview.index.upkeep import vacuum

PATAGONIA = (-46.6, -70.9)
DIM = 16


def unit(rng, n, dim=DIM):
    vectors = rng.normal(size=(n, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def all_codes(index):
    parts = [store.open_shard(index.path, entry).read("aerial") for entry in index.manifest.shards]
    return np.concatenate(parts).astype(np.float32)


def brute_force(codes, queries, k, rows=None):
    """Rows and scores of the best codes, equal scores by row."""
    rows = np.arange(len(codes)) if rows is None else rows
    scores = queries.astype(np.float32) @ codes[rows].T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows[order], np.take_along_axis(scores, order, axis=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory, kit):
    """1,000 rows and more around a corner of four parents."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(Region.disc(kit.CENTRE_DEG, 2500.0).cells(16))
    folder = tmp_path_factory.mktemp("made")
    return kit.write_index(folder, ids, unit(rng, len(ids)))


@pytest.fixture(params=[table._READ_ROWS, 100])
def read_rows_at_once(request, monkeypatch):
    monkeypatch.setattr(table, "_READ_ROWS", request.param)


@pytest.mark.parametrize("k", [1, 7, 300])
@pytest.mark.usefixtures("read_rows_at_once")
def test_search_is_brute_force_over_all_codes(made, k):
    queries = unit(np.random.default_rng(1), 20)
    hits = made.search(queries, k)
    rows, scores = brute_force(all_codes(made), queries, k)
    assert hits.cell_id.shape == hits.row.shape == hits.score.shape == (20, k)
    np.testing.assert_allclose(hits.score, scores, atol=1e-5)
    # Rounding may swap rows whose scores agree to the last digit.
    assert (hits.row == rows).mean() > 0.99
    assert np.array_equal(hits.cell_id, made.cell_ids()[hits.row])
    assert (np.diff(hits.score, axis=1) <= 0).all()


@pytest.mark.parametrize(("shift_m", "radius_m"), [((0, 0), 300.0), ((900, 200), 450.0), ((-1500, 1500), 900.0)])
@pytest.mark.usefixtures("read_rows_at_once")
def test_search_in_a_region_is_brute_force_over_its_rows(made, kit, shift_m, radius_m):
    centre = kit.CENTRE_DEG + np.array(shift_m) / [111_195, 92_000]
    region = Region.disc(centre, radius_m)
    inside = np.flatnonzero(np.isin(made.cell_ids(), region.cells(16)))
    assert 10 < len(inside) < len(made)
    queries = unit(np.random.default_rng(2), 10)
    hits = made.search(queries, 10, region=region)
    rows, scores = brute_force(all_codes(made), queries, 10, inside)
    np.testing.assert_allclose(hits.score, scores, atol=1e-5)
    assert (hits.row == rows).mean() > 0.98
    assert np.array_equal(hits.cell_id, made.cell_ids()[hits.row])


def test_a_region_of_several_parts_is_searched_whole(made, kit):
    parts = [Region.disc(kit.CENTRE_DEG + np.array(d), 200.0).geometry for d in ([0.01, 0.01], [-0.01, 0.012])]
    region = Region.from_geometry(shapely.union_all(parts))
    hits = made.search(unit(np.random.default_rng(3), 1), len(made), region=region)
    found = hits.cell_id[0][hits.row[0] >= 0]
    assert set(found.tolist()) == set(region.cells(16).tolist())
    assert all(np.isin(Region.from_geometry(part).cells(16), found).all() for part in parts)


def test_a_region_reads_its_own_shards_only(made, kit, monkeypatch):
    inside = Region.disc(cells.centers_deg(made.cell_ids()[5:6])[0], 10.0)
    read, open_shard = [], store.open_shard

    def watch(index, entry):
        read.append(entry.parent)
        return open_shard(index, entry)

    monkeypatch.setattr(store, "open_shard", watch)
    made = CellIndex.open(made.path)
    made.search(unit(np.random.default_rng(3), 1), 1, region=inside)
    assert set(read) == {made.manifest.shards[0].parent}


def test_a_region_without_cells_of_the_index_is_refused(made):
    with pytest.raises(RegionError, match=r"paris: no cell of .* lies in it"):
        made.search(unit(np.random.default_rng(4), 2), 3, region=Region.disc([48.85, 2.35], 500.0, name="paris"))
    # Within the parent of a shard, where the index has no row.
    far = cells.centers_deg(cells.from_tokens([made.manifest.shards[0].parent]))[0]
    with pytest.raises(RegionError, match="no cell of"):
        made.search(unit(np.random.default_rng(4), 2), 3, region=Region.disc(far, 500.0))


def test_more_hits_than_rows_are_marked_as_none(index_folder):
    index = CellIndex.open(index_folder)
    hits = index.search(unit(np.random.default_rng(5), 3, 32), len(index) + 4)
    assert sorted(hits.row[0][:-4]) == list(range(len(index)))
    assert (hits.row[:, -4:] == -1).all()
    assert (hits.cell_id[:, -4:] == 0).all()
    assert np.isneginf(hits.score[:, -4:]).all()
    assert np.isfinite(hits.score[:, :-4]).all()


def test_cells_that_have_a_code_are_known(index_folder):
    index = CellIndex.open(index_folder)
    ids = index.cell_ids()
    asked = np.concatenate([ids[::5], cells.from_tokens(["479e75f1d", "80dccaab4"]), ids[:1]])
    assert index.has_cells(asked).tolist() == np.isin(asked, ids).tolist()
    assert index.has_cells(asked).sum() == len(ids[::5]) + 1
    assert index.has_cells(asked[:0]).tolist() == []


def test_no_query_has_no_hits(index_folder):
    hits = CellIndex.open(index_folder).search(np.empty((0, 32), np.float32), 5)
    assert hits.cell_id.shape == hits.row.shape == hits.score.shape == (0, 5)


def test_a_query_that_is_a_code_finds_its_row(made):
    codes = all_codes(made)
    rows = np.arange(0, len(made), 97)
    hits = made.search(codes[rows], 1)
    assert np.array_equal(hits.row[:, 0], rows)
    np.testing.assert_allclose(hits.score[:, 0], 1.0, atol=2e-3)


def test_equal_scores_come_in_s2_order(tmp_path, kit):
    ids = Region.disc(PATAGONIA, 800.0).cells(16)
    codes = np.tile(unit(np.random.default_rng(6), 1), (len(ids), 1))
    index = kit.write_index(tmp_path, ids, codes)
    hits = index.search(codes[:1], 20)
    assert np.array_equal(hits.cell_id[0], ids[:20])


@given(
    marks=st.lists(st.integers(0, 2), min_size=30, max_size=30),
    chosen=st.lists(st.integers(0, 29), min_size=1, max_size=5, unique=True),
)
@settings(max_examples=6, deadline=None)
def test_any_mixture_of_missing_single_and_double_cells_is_searched_right(tmp_path_factory, kit, marks, chosen):
    """Shards without rows, cells with two dates, and cells without a code, around a corner of four parents."""
    around = Region.disc(kit.CENTRE_DEG, 350.0).cells(16)[:30]
    rng = np.random.default_rng(sum(marks))
    ids = np.repeat(around, marks)
    skipped = around[np.array(marks) == 0]
    dates = np.arange(len(ids))
    index = kit.write_index(tmp_path_factory.mktemp("any"), ids, unit(rng, len(ids)).reshape(-1, DIM), dates, skipped)
    assert np.array_equal(index.cell_ids(), ids)
    assert np.array_equal(index.skipped_cell_ids(), skipped)
    assert index.manifest.n_skipped == len(skipped)
    region = Region.from_geometry(
        shapely.union_all([Region.disc(c, 1.0).geometry for c in cells.centers_deg(around[chosen])])
    )
    inside = np.flatnonzero(np.isin(ids, around[chosen]))
    query = unit(rng, 1)
    if not len(inside):
        with pytest.raises(RegionError):
            index.search(query, 3, region=region)
        return
    hits = index.search(query, 3, region=region, dates="latest")
    newest = inside[np.append(ids[inside][1:] != ids[inside][:-1], True)]
    _, scores = brute_force(all_codes(index), query, 3, newest)
    found = hits.row[0] >= 0
    assert found.sum() == min(3, len(newest))
    np.testing.assert_allclose(hits.score[0][found], scores[0], atol=1e-5)
    assert set(hits.row[0][found]) <= set(newest)
    assert np.array_equal(hits.cell_id[0][found], ids[hits.row[0][found]])


@pytest.mark.parametrize("shape", [(3, 31), (3, 33), (32,), (1, 3, 32)])
def test_queries_of_another_encoder_are_refused(index_folder, shape):
    with pytest.raises(EncoderMismatchError, match="codes have 32 elements"):
        CellIndex.open(index_folder).search(np.ones(shape, np.float32), 1)


def test_a_swapped_encoder_is_refused(tmp_path, kit, index_folder):
    shutil.copytree(index_folder, tmp_path / "index")
    index = CellIndex.open(tmp_path / "index")
    assert index.verify() == []
    kit.make_encoder(seed=1).save(index.path / index.manifest.encoder["folder"], overwrite=True)
    with pytest.raises(EncoderMismatchError, match=index.manifest.encoder["fingerprint"]):
        index.encoder()
    (problem,) = index.verify()
    assert str(index.path) in problem
    shutil.rmtree(index.path / "encoder")
    (problem,) = index.verify()
    assert index.manifest.encoder["folder"] in problem


def test_the_extent_is_around_all_cells(made):
    centres = cells.centers_deg(made.cell_ids())
    south, west, north, east = made.extent_deg()
    assert (south, north) == (centres[:, 0].min(), centres[:, 0].max())
    assert (west, east) == (centres[:, 1].min(), centres[:, 1].max())


def test_the_extent_across_the_date_line_is_narrow(tmp_path, kit):
    ids = np.concatenate([Region.disc([-17.0, lon], 900.0).cells(16) for lon in (179.995, -179.99)])
    index = kit.write_index(tmp_path, ids, unit(np.random.default_rng(7), len(ids)))
    south, west, north, east = index.extent_deg()
    centres = cells.centers_deg(ids)
    assert west == centres[centres[:, 1] > 0, 1].min()
    assert east == centres[centres[:, 1] < 0, 1].max()
    assert 179 < west < 180
    assert -180 < east < -179
    assert -17.1 < south < -17.0 < north < -16.9


def test_the_extent_of_one_cell_is_a_point_and_of_none_is_none(tmp_path, kit):
    cell = cells.cell_ids(PATAGONIA, 16).reshape(1)
    lat, lon = cells.centers_deg(cell)[0]
    one = kit.write_index(tmp_path / "one", cell, unit(np.random.default_rng(8), 1))
    assert one.extent_deg() == (lat, lon, lat, lon)
    none = kit.write_index(tmp_path / "none", [], np.empty((0, DIM)), skipped=cell)
    assert none.extent_deg() is None
    assert len(none) == 0
    assert np.array_equal(none.skipped_cell_ids(), cell)
    hits = none.search(unit(np.random.default_rng(8), 2), 3)
    assert (hits.row == -1).all()


def sound_index(tmp_path, kit, change):
    """An index whose rows were changed before they were written, so that all checksums fit."""
    rng = np.random.default_rng(9)
    ids = Region.disc(PATAGONIA, 300.0).cells(16)
    rows = store.Rows(
        unit(rng, len(ids)).astype(np.float16),
        ids,
        np.full(len(ids), 20200101, np.int32),
        np.ones(len(ids), np.float16),
        ids[:0],
        np.ones(0, np.float16),
    )
    index = kit.write_index(tmp_path / "index", ids, rows.aerial)
    change(rows)
    entry = store.write_rows(index.path, index.manifest.shards[0].parent, rows)
    index.manifest.shards[:] = [entry]
    return index, entry


def test_verify_sees_what_checksums_cannot(tmp_path, kit, monkeypatch):
    monkeypatch.setattr(CellIndex, "encoder", lambda self: None)

    def verify(change):
        index, entry = sound_index(tmp_path / str(len(list(tmp_path.iterdir()))), kit, change)
        return [line.replace(str(entry.folder), "SHARD") for line in index.verify()]

    def swap(rows):
        rows.cell[[0, 1]] = rows.cell[[1, 0]]

    def elsewhere(rows):
        rows.cell[-1] = cells.cell_ids([PATAGONIA[0], PATAGONIA[1] + 30], 16)

    def coarser(rows):
        rows.cell[0] = cells.parents(rows.cell[:1], 14)[0]

    def longer(rows):
        rows.aerial[3] *= 1.1

    def broken(rows):
        rows.aerial[4] = np.nan

    assert verify(lambda rows: None) == []
    assert verify(swap) == ["SHARD/cell: not in the order of (cell, date)"]
    assert "SHARD/cell: holds cells of another level or another shard" in verify(elsewhere)
    assert "SHARD/cell: holds cells of another level or another shard" in verify(coarser)
    assert verify(longer) == ["SHARD/aerial: row 3 is not a unit vector"]
    assert verify(broken) == ["SHARD/aerial: row 4 is not a unit vector"]


def test_opening_reads_the_manifest_and_nothing_else(tmp_path, index_folder):
    shutil.copy(index_folder / "manifest.json", tmp_path)
    index = CellIndex.open(str(tmp_path))
    assert len(index) == len(CellIndex.open(index_folder))
    assert index.chip.ground_size_m == pytest.approx(153.6)
    with pytest.raises(IndexCorruptError, match="missing"):
        index.cell_ids()
    with pytest.raises(IndexNotFoundError):
        CellIndex.open(tmp_path / "nowhere")


def test_what_others_committed_meanwhile_is_read_with_ones_own_calibration(tmp_path, kit):
    rng = np.random.default_rng(2)
    ids = Region.disc(PATAGONIA, 60_000.0).cells(13)
    index = kit.write_index(tmp_path / "index", ids, unit(rng, len(ids)), level=13)
    queries, gone = unit(rng, 3), index.manifest.shards[0]
    with store.writing(index.path) as latest:
        store.commit(index.path, replace(latest, shards=latest.shards[1:]))
    assert len(index) == len(ids) == len(index.cell_ids()), "it reads what it was opened with"
    index.set_calibration({})
    left = CellIndex.open(index.path)
    assert len(index) == len(left) == len(ids) - gone.rows
    for way in ({}, {"region": Region.disc(PATAGONIA, 20_000.0)}):
        found, wanted = index.search(queries, 40, **way), left.search(queries, 40, **way)
        assert np.array_equal(found.cell_id, wanted.cell_id)
        assert np.array_equal(found.score, wanted.score)
        assert np.array_equal(index.cell_ids()[found.row], found.cell_id)


def test_an_index_on_a_read_only_disk_opens_and_searches(tmp_path, kit):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        rng = np.random.default_rng(1)
        ids = Region.disc(PATAGONIA, 600.0).cells(16)
        kit.write_index(disk / "index", ids, unit(rng, len(ids)))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with CellIndex.open(disk / "index", checked=True) as index:
            assert index.search(unit(rng, 2), 3).row.shape == (2, 3)
        with pytest.raises(OSError, match="Read-only"):
            vacuum(disk / "index")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_search_on_disk_reads_without_zarr_and_obstore(made):
    """Importing them takes longer than a search; only compressed shards and addresses need them."""
    code = (
        "import sys, numpy as np; from geoview.index.cell_index import CellIndex; "
        f"hits = CellIndex.open({str(made.path)!r}).search(np.ones((1, {DIM}), np.float32), 1); "
        "print(hits.row[0, 0]); assert not {'zarr', 'obstore'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == made.search(np.ones((1, DIM), np.float32), 1).row[0, 0]
