"""Rows are found by their number, whichever shard they lie in."""

import numpy as np
import pytest

from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import table
from geoview.index.table import Table, n_rows

DIM = 8


@pytest.fixture
def index(tmp_path, kit):
    # A disc over several shards, and one shard that has skipped cells alone.
    ids = Region.disc(kit.CENTRE_DEG, 60_000.0).cells(13)[::7]
    far = Region.disc((-kit.CENTRE_DEG[0], kit.CENTRE_DEG[1]), 2_000.0).cells(13)
    codes = np.random.default_rng(0).normal(size=(len(ids), DIM))
    dates = np.arange(len(ids)) % 3 * 20_200_101
    index = kit.write_index(tmp_path / "index", ids, codes, dates, skipped=far, level=13)
    assert len(index.manifest.shards) > 2
    assert min(entry.rows for entry in index.manifest.shards) == 0
    order = np.argsort(ids)
    with index:
        yield index, ids[order], codes[order].astype(np.float16), dates[order]


def test_rows_are_numbered_through_all_shards(index):
    index, ids, codes, dates = index
    rows = Table(index.path, index.manifest, checked=True)
    assert len(rows) == len(ids)
    assert np.array_equal(np.concatenate(rows.columns("cell")), ids)
    numbers, blocks = zip(*rows.blocks(rows.everything), strict=True)
    assert np.array_equal(np.concatenate(numbers), np.arange(len(ids)))
    assert np.array_equal(np.concatenate(blocks), codes)
    assert np.array_equal(np.concatenate(rows.mapped()), codes)
    asked = np.random.default_rng(1).integers(-1, len(ids), (5, 9))
    assert np.array_equal(rows.cell_ids(asked), np.where(asked < 0, np.uint64(0), ids[asked]))
    assert np.array_equal(rows.dates(asked), np.where(asked < 0, 0, dates[asked]))


@pytest.mark.parametrize("room_bytes", [2**30, 2**18, 0])
def test_codes_are_looked_up_in_as_much_memory_as_there_is(index, room_bytes):
    index, ids, codes, _ = index
    rows = Table(index.path, index.manifest, checked=False)
    rows.room_bytes = room_bytes
    for wanted in (np.arange(0, len(ids), 5), np.arange(3), np.empty(0, np.int64)):
        assert np.array_equal(rows.aerial(wanted), codes[wanted])


@pytest.mark.parametrize(("step", "most_parts"), [(1, 24), (3, 24), (300, 10)])
def test_room_is_for_what_is_mapped_however_many_rows_share_it(tmp_path, kit, monkeypatch, step, most_parts):
    ids = Region.disc(kit.CENTRE_DEG, 60_000.0).cells(13)
    codes = np.random.default_rng(0).standard_normal((len(ids), 2048), np.float32)
    room_bytes, held = 2**24, []
    assert 2 * codes.size > 2 * room_bytes
    with kit.write_index(tmp_path / "index", ids, codes, level=13) as index:
        rows = Table(index.path, index.manifest, checked=False)
        rows.room_bytes = room_bytes
        rows.columns("cell")  # mapped, too
        take = rows._aerial
        monkeypatch.setattr(rows, "_aerial", lambda *of: (take(*of), held.append(table._file_bytes())))
        before = table._file_bytes()
        wanted = np.arange(0, len(ids), step)
        assert np.array_equal(rows.aerial(wanted), codes[np.argsort(ids)][wanted].astype(np.float16))
    assert max(held) <= before + room_bytes
    assert len(held) <= most_parts


def test_rows_of_a_region_are_its_cells(index, monkeypatch):
    index, ids, _, _ = index
    rows = Table(index.path, index.manifest, checked=False)
    ranges = Region.disc(tuple(cells.centers_deg(ids[:1])[0]), 9_000.0).cell_ranges(13)
    opened = []
    monkeypatch.setattr(
        table.store, "open_shard", lambda *of, real=table.store.open_shard: opened.append(of) or real(*of)
    )
    selection = rows.rows_in(ranges)
    inside = np.concatenate([rows.first_row[number] + of for number, of in selection])
    wanted = ((ids[:, None] >= ranges[:, 0]) & (ids[:, None] <= ranges[:, 1])).any(axis=1)
    assert np.array_equal(inside, np.flatnonzero(wanted))
    assert 0 < n_rows(selection) == len(inside) < len(ids)
    assert len(opened) < len(index.manifest.shards), "shards without any are not read"
