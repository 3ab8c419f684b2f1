"""Short codes are FAISS's own, laid out as it lays them out; what they propose obeys the mask."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path
from unittest import mock

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.errors import IndexCorruptError
from geoview.index import ann
from geoview.index.ann import CODEC_FILE, LISTS_FILE, Codec, Lists, lists_for, memory_bytes

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
    return rows, Lists.open(folder / CODEC_FILE, folder / LISTS_FILE), own, folder


def test_lists_are_those_that_faiss_makes_of_the_same_rows(coded):
    rows, lists, own, _ = coded
    queries = rows[::100]
    own.nprobe = 4
    wanted = own.search(np.pad(queries, ((0, 0), (0, own.d - rows.shape[1]))), 20)[1]
    assert np.array_equal(lists.candidates(queries, 20, 4), wanted)


def test_lists_that_our_own_search_has_chosen_propose_what_others_do(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows, queries = clustered(rng, 8000, 33), clustered(rng, 300, 33)
    codec = Codec.train(rows, 256, 2, seed=0)
    codec.write(tmp_path)
    codec.lay_out([codec.encode(rows)], tmp_path)
    lists = Lists.open(tmp_path / CODEC_FILE, tmp_path / LISTS_FILE)
    some = lists.only(rng.random(len(rows)) < 0.5)
    wanted = [each.candidates(queries, 20, 2) for each in (lists, some)]
    own = mock.Mock(wraps=ann.top_k)
    monkeypatch.setattr(ann, "top_k", own)
    monkeypatch.setattr(ann, "bfloat16_is_faster", lambda: True)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [each.candidates(queries, 20, 2) for each in (lists, some)]
    finally:
        torch.set_num_threads(n_threads)
    assert own.call_count == 2
    assert np.array_equal(found, wanted)


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
    for masked in (lists.only(wanted), lists.only(wanted).cut_out()):
        proposed = masked.candidates(rows[:20], 10, N_LISTS)
        assert {*proposed.ravel().tolist()} == {-1, 5, 17, 1500, 2999}


@given(st.data())
@settings(deadline=None)
def test_what_is_cut_out_proposes_what_the_whole_does(coded, data):
    rows, lists, _, _ = coded
    wanted = np.zeros(len(rows), np.bool_)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(rows) - 1))
        wanted[start : start + data.draw(st.integers(1, 500))] = True
    n_probe = data.draw(st.sampled_from([1, 4, N_LISTS]))
    queries = rows[data.draw(st.integers(0, 100)) :: 311]
    whole = lists.only(wanted)
    part = whole.cut_out()
    assert wanted.sum() <= len(part) < len(rows)
    # All that count: of fewer, those may differ that seem as good as the last.
    one, other = (np.sort(each.candidates(queries, int(wanted.sum()), n_probe)) for each in (part, whole))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in (CODEC_FILE, LISTS_FILE) for damage in ("gone", "cut short", "something else")),
        (LISTS_FILE, "one byte less"),
        (LISTS_FILE, "one byte more"),
    ],
)
def test_files_that_cannot_be_read_are_named(coded, tmp_path, name, damage):
    codec, lists = (Path(shutil.copy(coded[3] / each, tmp_path)) for each in (CODEC_FILE, LISTS_FILE))
    content = (tmp_path / name).read_bytes()
    damaged = {
        "cut short": content[:100],
        "one byte less": content[:-1],
        "one byte more": content + b"x",
        "something else": b"not a list" * 100,
    }
    (tmp_path / name).unlink()
    if damage != "gone":
        (tmp_path / name).write_bytes(damaged[damage])
    with pytest.raises(IndexCorruptError, match=name):
        Lists.open(codec, lists)


def test_rows_that_there_are_not_are_no_answer(coded, tmp_path):
    rows, _, _, folder = coded
    content = bytearray((folder / LISTS_FILE).read_bytes())
    (size,) = struct.unpack_from("<q", content, 8 * (N_LISTS - 1))
    assert size
    struct.pack_into("<q", content, len(content) - 8, 2**40)
    (tmp_path / LISTS_FILE).write_bytes(content)
    damaged = Lists.open(folder / CODEC_FILE, tmp_path / LISTS_FILE)
    with pytest.raises(IndexCorruptError, match=LISTS_FILE):
        damaged.candidates(rows[::100], len(rows), N_LISTS)


def test_memory_is_what_was_promised(coded):
    rows, _, own, folder = coded
    promised = memory_bytes(len(rows), rows.shape[1], N_LISTS, own.d // own.pq.M)
    centres = 4 * rows.shape[1] * N_LISTS
    # Beside them: how many rows each list has, and blocks of 32 that are not full.
    beside = 8 * N_LISTS + 32 * N_LISTS * own.code_size
    assert promised <= (folder / LISTS_FILE).stat().st_size + centres <= promised + beside


def test_only_what_is_looked_through_is_read(tmp_path):
    """Lists of 16 MB in a process of its own, which looks through one of 256."""
    script = """
import sys
from pathlib import Path
import numpy as np
from geoview.index.ann import CODEC_FILE, LISTS_FILE, Codec, Lists

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
codec = Codec.train(rng.standard_normal((1024, 64)).astype(np.float32), 256, 2, seed=0)
codec.write(folder)
n = 400_000
of = np.sort(rng.integers(0, 256, n)).astype(np.int32)
codec.lay_out([(of, np.zeros((n, codec.nothing[1].shape[1]), np.uint8))], folder)

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssFile"))) / 1024

queries = rng.standard_normal((1, 64)).astype(np.float32)
before = held()
lists = Lists.open(folder / CODEC_FILE, folder / LISTS_FILE)
lists.candidates(queries, 10, 1)
one = held() - before
lists.candidates(queries, 10, 256)
print(one, held() - before)
"""
    run = subprocess.run([sys.executable, "-c", script, tmp_path], check=True, capture_output=True, text=True)
    one, all_of_them = map(float, run.stdout.split())
    assert one < 8 < all_of_them


def test_number_of_lists_grows_with_the_root_of_the_rows():
    assert [lists_for(n) for n in (0, 1000, 1_000_000, 20_000_000, 10**12)] == [16, 128, 4096, 16384, 65536]
