"""A scan finds what a full sort does, or says that it cannot tell."""

import os
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.index import cell_index, store
from geoview.index.cell_index import CellIndex
from geoview.index.scan import scan
from geoview.index.shards import write_shard
from geoview.topk import top_k

DIM = 16


def drawn(rng, sizes, values=None):
    draw = rng.normal if values is None else lambda size: rng.choice(values, size)
    return [draw(size=(n, DIM)).astype(np.float16) for n in sizes]


@pytest.mark.parametrize("part_rows", [64, 2**15])
@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("k", [1, 10, 700])
def test_a_scan_is_a_full_sort(k, num_workers, part_rows, monkeypatch):
    monkeypatch.setattr("geoview.index.scan._PART_ROWS", part_rows)
    rng = np.random.default_rng(0)
    blocks, query = drawn(rng, (300, 1, 0, 250)), rng.normal(size=DIM)
    rows, scores = scan(query, blocks, k, num_workers=num_workers)
    wanted, best = top_k(query[None], [(np.arange(551), np.concatenate(blocks))], k)
    assert rows.tolist() == wanted[0].tolist()
    np.testing.assert_allclose(scores, best[0], rtol=1e-4, atol=1e-5)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(1, 40))
@settings(deadline=None)
def test_where_many_tie_it_is_right_or_says_that_it_cannot_tell(seed, sizes, k):
    rng = np.random.default_rng(seed)
    blocks, query = drawn(rng, sizes, (-1.0, 0.0, 1.0)), rng.integers(-1, 2, DIM).astype(np.float32)
    found = scan(query, blocks, k, num_workers=1)
    if found is not None:
        everything = np.concatenate(blocks)
        wanted, best = top_k(query[None], [(np.arange(len(everything)), everything)], k)
        assert found[0].tolist() == wanted[0].tolist()
        assert found[1].tolist() == best[0].tolist()


def test_a_tie_for_the_last_place_cannot_be_told():
    assert scan(np.ones(DIM), [np.ones((5, DIM), np.float16)], 2, num_workers=1) is None
    rows, scores = scan(np.ones(DIM), [np.ones((5, DIM), np.float16)], 5, num_workers=1)
    assert rows.tolist() == [0, 1, 2, 3, 4]
    assert scores.tolist() == [DIM] * 5


def test_a_fork_has_threads_of_its_own():
    blocks, query = drawn(np.random.default_rng(0), (50,)), np.ones(DIM)
    wanted = scan(query, blocks, 3, num_workers=2)[0]
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(20)
            status = int(scan(query, blocks, 3, num_workers=2)[0].tolist() != wanted.tolist())
        finally:
            os._exit(status)  # whatever happened: the rest of the tests is not this process's
    assert os.waitpid(child, 0)[1] == 0


def test_rows_that_are_not_finite():
    blocks = drawn(np.random.default_rng(0), (20,))
    blocks[0][3], blocks[0][7] = np.nan, -np.inf
    rows, _ = scan(np.ones(DIM), blocks, 20, num_workers=1)
    assert not {3, 7} & {*rows.tolist()}
    assert (rows[-2:] == -1).all()
    blocks[0][5] = np.inf
    assert scan(np.ones(DIM), blocks, 3, num_workers=1) is None
    rows, _ = scan(np.full(DIM, np.nan), blocks[:1], 3, num_workers=1)
    assert rows.tolist() == [-1, -1, -1]


@pytest.fixture
def index(tmp_path, kit):
    rng = np.random.default_rng(0)
    ids = cell_index.Region.disc(kit.CENTRE_DEG, 2500.0).cells(16)
    codes = rng.normal(size=(len(ids), DIM))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    codes[100:200] = codes[99]  # snow, say: many chips that are the same
    kit.write_index(tmp_path / "index", ids, codes)
    return tmp_path / "index"


def test_one_query_is_answered_as_it_is_among_many(index):
    queries = np.random.default_rng(1).normal(size=(5, DIM)).astype(np.float32)
    with CellIndex.open(index) as opened:
        queries[0] = opened.codes_of(np.array([99]))[0]
        together = opened.search(queries, 10)
        assert together.row[0].tolist() == list(range(99, 109))
        for query, row, score in zip(queries, together.row, together.score, strict=True):
            alone = opened.search(query[None], 10)
            assert alone.row[0].tolist() == row.tolist()
            np.testing.assert_allclose(alone.score[0], score, atol=1e-5)


def test_compressed_shards_are_searched_alike(index, monkeypatch):
    query = np.random.default_rng(1).normal(size=(1, DIM)).astype(np.float32)
    with CellIndex.open(index) as opened:
        before = opened.search(query, 10)
        monkeypatch.setattr(store, "write_shard", lambda folder, columns: write_shard(folder, columns, compressed=True))
        with store.writing(index) as manifest:
            entries = [store.write_rows(index, e.parent, store.read_rows(index, e)) for e in manifest.shards]
            store.commit(index, cell_index.replace(manifest, shards=entries))
    with CellIndex.open(index) as opened:
        assert opened._scanned(query[0], 10) is None
        assert np.array_equal(opened.search(query, 10).row, before.row)
