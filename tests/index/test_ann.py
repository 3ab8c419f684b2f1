"""Short codes are FAISS's own, laid out as it lays them out; what they propose obeys the mask."""

import faiss
import numpy as np
import pytest

from geoview.errors import IndexCorruptError
from geoview.index.ann import CODEC_FILE, LISTS_FILE, Codec, Lists, code_bytes, lists_for

N_LISTS = 16


def clustered(rng, n, dim):
    centres = rng.normal(size=(40, dim))
    rows = centres[rng.integers(0, len(centres), n)] + 0.5 * rng.normal(size=(n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module", params=[(32, 2), (33, 2), (30, 4)], ids=["even", "odd", "four dims a code"])
def coded(request, tmp_path_factory):
    """Rows in three shards, one of them empty; and the same rows in an index that FAISS filled."""
    dim, dims_per_code = request.param
    rows = clustered(np.random.default_rng(0), 3000, dim)
    codec = Codec.train(rows, N_LISTS, dims_per_code, seed=0)
    folder = tmp_path_factory.mktemp("ann")
    codec.write(folder)
    codec = Codec.read(folder, dim)
    codec.lay_out([codec.encode(part) for part in (rows[:1001], rows[:0], rows[1001:])], folder)
    width = -(-dim // dims_per_code) * dims_per_code
    own = faiss.read_index(str(folder / CODEC_FILE))
    own.add(np.pad(rows, ((0, 0), (0, width - dim))))
    return rows, Lists.open(folder), own, folder


def test_lists_are_those_that_faiss_makes_of_the_same_rows(coded):
    rows, lists, own, _ = coded
    queries = rows[::100]
    own.nprobe = 4
    wanted = own.search(np.pad(queries, ((0, 0), (0, own.d - rows.shape[1]))), 20)[1]
    assert np.array_equal(lists.candidates(queries, 20, 4), wanted)


def test_all_lists_with_enough_candidates_propose_the_best_row(coded):
    rows, lists, _, _ = coded
    queries = clustered(np.random.default_rng(1), 50, rows.shape[1])
    best = (queries @ rows.T).argmax(axis=1)
    proposed = lists.candidates(queries, 300, N_LISTS)
    assert (proposed == best[:, None]).any(axis=1).mean() > 0.95


def test_rows_outside_the_mask_are_never_proposed(coded):
    rows, lists, _, _ = coded
    wanted = np.zeros(len(rows), np.bool_)
    wanted[[5, 17, 1500, 2999]] = True
    proposed = lists.candidates(rows[:20], 10, N_LISTS, wanted)
    assert {*proposed.ravel().tolist()} == {-1, 5, 17, 1500, 2999}


@pytest.mark.parametrize("damage", ["gone", "truncated", "something else"])
def test_lists_that_cannot_be_read_are_named(coded, tmp_path, damage):
    if damage != "gone":
        content = (coded[3] / LISTS_FILE).read_bytes()
        (tmp_path / LISTS_FILE).write_bytes(content[:200] if damage == "truncated" else b"not an index" * 100)
    with pytest.raises(IndexCorruptError, match=LISTS_FILE):
        Lists.open(tmp_path)


def test_memory_is_what_was_promised(coded):
    rows, _, own, folder = coded
    promised = len(rows) * code_bytes(rows.shape[1], own.d // own.pq.M)
    # Beside them: the centres, the code book, and blocks of 32 that are not full.
    beside = 4 * own.d * N_LISTS + 4 * 16 * own.d + 32 * N_LISTS * own.code_size
    assert promised <= (folder / LISTS_FILE).stat().st_size <= promised + beside + 2000


def test_number_of_lists_grows_with_the_root_of_the_rows():
    assert [lists_for(n) for n in (0, 1000, 1_000_000, 20_000_000, 10**12)] == [16, 64, 2048, 8192, 65536]
