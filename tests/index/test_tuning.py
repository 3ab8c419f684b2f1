"""A tuned index finds what was wished, answers with exact scores, and stays right whatever happens to it later."""

import shutil
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from geoview.config import TuneConfig
from geoview.errors import ConfigError, IndexCorruptError
from geoview.geo.regions import Region
from geoview.index import cell_index, proposals, store, table, tuning
from geoview.index.ann import CODEC_FILE, LISTS_FILE, lists_for, memory_bytes
from geoview.index.cell_index import CellIndex
from geoview.index.fusion import Fusion
from geoview.index.ground import prototype_shards
from geoview.index.manifest import Point, PrototypeTable
from geoview.index.prototypes import Photo, Speech
from geoview.index.soundness import damage_of_lists
from geoview.index.upkeep import remove_region, vacuum

CENTRE_DEG = (34.0330513, -117.5495846)  # a corner of four shards
pytestmark = pytest.mark.usefixtures("small_is_large")

DIM = 24
WISH = TuneConfig(recall=0.9, latency_ms=None)


def clustered(rng, n):
    centres = rng.normal(size=(60, DIM))
    rows = centres[rng.integers(0, len(centres), n)] + 0.5 * rng.normal(size=(n, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, kit):
    """5,000 rows and more in four shards, not tuned."""
    rng = np.random.default_rng(0)
    ids = Region.disc(CENTRE_DEG, 5500.0).cells(16)
    folder = tmp_path_factory.mktemp("plain")
    index = kit.write_index(folder, ids, clustered(rng, len(ids)))
    assert len(index.manifest.shards) >= 3
    assert len(ids) > 5000
    return folder


@pytest.fixture(scope="module")
def tuned_once(plain, small_is_large, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "index"
    shutil.copytree(plain, folder)
    tuning.tune(folder, WISH)
    return folder


@pytest.fixture
def tuned(tuned_once, tmp_path):
    shutil.copytree(tuned_once, tmp_path / "index")
    return tmp_path / "index"


def queries(n=60):
    return clustered(np.random.default_rng(1), n)


def recall(folder, found, k=10, **search):
    with CellIndex.open(folder) as index:
        best = index.search(queries(), k, exact=True, **search)
    return np.mean([np.isin(a, b).mean() for a, b in zip(best.row, found.row, strict=True)])


def test_what_is_found_is_as_much_as_was_wished_and_scored_exactly(tuned):
    with CellIndex.open(tuned) as index:
        hits, table = index.search(queries(), 10), index.manifest.ann
        assert table.chosen.n_probe > 0
        assert table.chosen.recall >= WISH.recall
        assert recall(tuned, hits) > 0.85
        codes = index.codes_of(np.arange(len(index))).astype(np.float32)
        np.testing.assert_allclose(hits.score, np.einsum("qkd,qd->qk", codes[hits.row], queries()), atol=1e-5)
        assert np.array_equal(hits.cell_id, index.cell_ids()[hits.row])
        assert (np.diff(hits.score, axis=1) <= 0).all()


def test_points_that_were_measured_trade_time_for_recall(tuned):
    points = CellIndex.open(tuned).manifest.ann.points[:-1]
    assert len(points) > 2
    assert all(a.recall < b.recall and a.latency_ms <= b.latency_ms for a, b in pairwise(points))


def test_where_more_is_wanted_than_there_is_the_rest_is_empty(tuned):
    with CellIndex.open(tuned) as index:
        k = len(index) + 5
        everything = index.search(queries(3), k)
        proposed = index.search_at(index.manifest.ann.chosen, queries(3), k)
    assert (np.sort(everything.row, axis=1)[:, 5:] == np.arange(k - 5)).all()
    for hits in (everything, proposed):
        assert (hits.row[:, -5:] == -1).all()
        assert np.isneginf(hits.score[:, -5:]).all()
        found = [rows[rows >= 0] for rows in hits.row]
        assert all(len(rows) == len(np.unique(rows)) > 100 for rows in found)


def test_a_region_is_its_rows_and_no_others(tuned):
    region = Region.disc(CENTRE_DEG, 2500.0)
    with store.writing(tuned) as manifest:  # few lists, so that it shows how many are looked through
        chosen = Point(4, 10, 0.0, 0.0)
        store.commit(tuned, replace(manifest, ann=replace(manifest.ann, chosen=chosen)))
    with CellIndex.open(tuned) as index:
        hits = index.search(queries(), 10, region=region)
        assert np.isin(hits.cell_id, region.cells(16)).all()
        everywhere = recall(tuned, index.search(queries(), 10))
        as_few = index.search_at(chosen, queries(), 10, region=region)
    # As good as everywhere: more lists are looked through, for most of their rows are elsewhere.
    assert recall(tuned, hits, region=region) > everywhere - 0.03
    assert recall(tuned, hits, region=region) > recall(tuned, as_few, region=region)


def test_memory_that_is_given_back_changes_no_answer(tuned, monkeypatch):
    with CellIndex.open(tuned) as index:
        kept = index.search(queries(), 10)
    monkeypatch.setattr(table, "_ROOM_BYTES", -(2**40))
    with CellIndex.open(tuned) as index:
        assert np.array_equal(index.search(queries(), 10).row, kept.row)
        assert np.array_equal(index.search(queries(), 10).score, kept.score)


@pytest.mark.parametrize("limit", [{"_QUERIES": 7}, {"_CANDIDATES": 500}])
def test_queries_that_are_many_are_searched_in_parts(tuned, monkeypatch, limit):
    point = Point(16, 20, 0.0, 0.0)  # so many candidates that which of those at their end is one makes no difference
    with CellIndex.open(tuned) as index:
        at_once = index.search_at(point, queries(), 10)
        for name, value in limit.items():
            monkeypatch.setattr(cell_index, name, value)
        in_parts = index.search_at(point, queries(), 10)
    assert np.array_equal(in_parts.row, at_once.row)
    np.testing.assert_allclose(in_parts.score, at_once.score, atol=1e-6)


def test_one_region_after_another_is_searched(tuned):
    east, west = (Region.disc((CENTRE_DEG[0], CENTRE_DEG[1] + shift), 2000.0) for shift in (0.02, -0.02))
    with CellIndex.open(tuned) as index:
        for region in (east, west, east):
            assert np.isin(index.search(queries(), 10, region=region).cell_id, region.cells(16)).all()
        assert len(np.unique(index.search(queries(), 10).cell_id)) > 50


def test_a_small_region_is_searched_exactly(tuned):
    region = Region.disc(CENTRE_DEG, 500.0)
    with CellIndex.open(tuned) as index:
        hits = index.search(queries(), 10, region=region)
    assert recall(tuned, hits, region=region) == 1


def test_an_index_that_is_small_gets_no_lists(plain, tmp_path, monkeypatch):
    shutil.copytree(plain, tmp_path / "index")
    for module in (cell_index, tuning):
        monkeypatch.setattr(module, "ALWAYS_EXACT", 50_000)
    chosen, points = tuning.tune(tmp_path / "index", WISH)
    assert chosen.n_probe == 0
    assert points == [chosen]
    assert CellIndex.open(tmp_path / "index").manifest.ann is None
    assert not (tmp_path / "index" / "ann").exists()


def test_memory_decides_how_fine_codes_are(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "index")
    rows = len(CellIndex.open(plain))
    memory_gb = 1.3 * memory_bytes(rows, DIM, lists_for(rows), 4) / 1e9
    tuning.tune(tmp_path / "index", TuneConfig(recall=0.5, memory_gb=memory_gb))
    table = CellIndex.open(tmp_path / "index").manifest.ann
    assert table.dims_per_code == 4
    assert table.wish["memory_gb"] == memory_gb


def test_all_rows_are_searched_only_where_memory_has_room_for_them(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "index")
    rows_gb = 2 * DIM * len(CellIndex.open(plain)) / 1e9
    assert tuning.tune(tmp_path / "index", TuneConfig(recall=1.0, memory_gb=rows_gb))[0].n_probe == 0
    with pytest.raises(ConfigError, match=r"recall 1 within .* GB cannot be had here; there is recall 0\.\d+ in"):
        tuning.tune(tmp_path / "index", TuneConfig(recall=1.0, memory_gb=0.99 * rows_gb))
    with pytest.raises(ConfigError, match=r"recall 1 within 1e-09 ms and .* GB cannot be had here; there is recall 0"):
        tuning.tune(tmp_path / "index", TuneConfig(recall=1.0, memory_gb=0.99 * rows_gb, latency_ms=1e-9))
    assert tuning.tune(tmp_path / "index", TuneConfig(recall=0.5, memory_gb=0.99 * rows_gb))[0].n_probe > 0


@pytest.mark.parametrize("is_small", [False, True])
def test_memory_that_nothing_can_be_searched_in_is_told_with_what_is_enough(plain, tmp_path, monkeypatch, is_small):
    shutil.copytree(plain, tmp_path / "index")
    if is_small:
        monkeypatch.setattr(tuning, "ALWAYS_EXACT", 10**6)
    with pytest.raises(ConfigError, match=r"cannot be searched in 1e-09 GB; .* GB are enough") as refused:
        tuning.tune(tmp_path / "index", TuneConfig(recall=0.1, memory_gb=1e-9))
    enough_gb = float(str(refused.value).split()[-4])
    chosen = tuning.tune(tmp_path / "index", TuneConfig(recall=0.1, memory_gb=enough_gb))[0]
    assert (chosen.n_probe == 0) == is_small


def test_limited_memory_holds_few_rows_and_answers_alike(tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(proposals, "_LEAST_ROOM_BYTES", 0)
    limited = shutil.copytree(tuned, tmp_path / "limited")
    with store.writing(limited) as manifest:
        table = manifest.ann
        store.commit(limited, replace(manifest, ann=replace(table, wish=table.wish | {"memory_gb": 1e-9})))
    with CellIndex.open(tuned) as index, CellIndex.open(limited) as same:
        one, other = (each.search(queries(), 10) for each in (index, same))
        assert np.array_equal(one.row, other.row)
        assert np.array_equal(one.score, other.score)
        assert len(index.manifest.shards) * of_codes(limited) <= 2 * of_codes(tuned)


def test_however_little_memory_there_is_rows_are_not_let_go_of_one_by_one(tuned, monkeypatch):
    with store.writing(tuned) as manifest:
        wish = manifest.ann.wish | {"memory_gb": 1e-9}
        store.commit(tuned, replace(manifest, ann=replace(manifest.ann, wish=wish)))
    looked_up, counted = [], []
    aerial, held = table.Table.aerial, table._file_bytes
    monkeypatch.setattr(table.Table, "aerial", lambda self, rows: looked_up.append(len(rows)) or aerial(self, rows))
    monkeypatch.setattr(table, "_file_bytes", lambda: counted.append(1) or held())
    with CellIndex.open(tuned) as index:
        index.search(queries(), 10)
    assert sum(looked_up) > 500
    assert len(counted) < sum(looked_up) / 10


def of_codes(folder):
    """Bytes that are held of mapped codes."""
    held, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            counts = str(folder) in line and "/aerial/" in line
        elif counts and line.startswith("Rss:"):
            held += int(line.split()[1])
    return held


def test_a_wish_that_cannot_be_met_is_told_with_the_nearest_that_can(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "index")
    with pytest.raises(ConfigError, match=r"recall 1 within 1e-06 ms cannot be had here; there is recall 1 in"):
        tuning.tune(tmp_path / "index", TuneConfig(recall=1.0, latency_ms=1e-6))
    assert CellIndex.open(tmp_path / "index").manifest.ann is None
    assert not CellIndex.open(tmp_path / "index").search(queries(), 3).row.min() < 0


def test_a_tuning_that_was_cut_off_goes_on(plain, tmp_path, monkeypatch):
    shutil.copytree(plain, tmp_path / "index")
    written, write_codes = [], store.write_codes

    def cut_off(index, shard, lists, codes):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.parent)
        return write_codes(index, shard, lists, codes)

    monkeypatch.setattr(store, "write_codes", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(tmp_path / "index", WISH)
    (codec,) = (tmp_path / "index").glob(f"ann/*/{CODEC_FILE}")
    content = codec.read_bytes()
    monkeypatch.setattr(store, "write_codes", lambda *given: written.append(given[1].parent) or write_codes(*given))
    tuning.tune(tmp_path / "index", WISH)
    with CellIndex.open(tmp_path / "index") as index:
        assert sorted(written) == sorted(entry.parent for entry in index.manifest.shards)
        assert (tmp_path / "index" / index.manifest.ann.codec_folder / CODEC_FILE).read_bytes() == content


def test_what_was_changed_is_searched_exactly_until_it_is_coded_and_only_that_is_coded(tuned, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("geoview.index.upkeep.refresh", lambda path: None)
        remove_region(tuned, Region.disc((CENTRE_DEG[0] + 0.03, CENTRE_DEG[1] - 0.03), 900.0))
    with CellIndex.open(tuned) as index:
        before = index.search(queries(), 10)
        stale = {e.of for e in index.manifest.ann.shards} - {s.generation for s in index.manifest.shards}
        assert stale
        cell_ids = index.cell_ids()
    assert recall(tuned, before) > 0.85
    assert np.isin(before.cell_id, cell_ids).all()
    written, write_codes = [], store.write_codes
    monkeypatch.setattr(store, "write_codes", lambda *given: written.append(given[1].parent) or write_codes(*given))
    tuning.refresh(tuned)
    with CellIndex.open(tuned) as index:
        assert 0 < len(written) == len(stale) < len(index.manifest.shards)
        assert [e.of for e in index.manifest.ann.shards] == [s.generation for s in index.manifest.shards]
        assert recall(tuned, index.search(queries(), 10)) > 0.85
        assert index.manifest.ann.n_rows == len(index)


def test_commands_that_change_an_index_keep_its_lists_up_to_date(tuned):
    remove_region(tuned, Region.disc((CENTRE_DEG[0] + 0.03, CENTRE_DEG[1] - 0.03), 900.0))
    with CellIndex.open(tuned) as index:
        assert [e.of for e in index.manifest.ann.shards] == [s.generation for s in index.manifest.shards]
        assert len(list((tuned / index.manifest.ann.lists_folder).parent.iterdir())) == 1


def test_a_shard_that_is_gone_is_never_answered(tuned):
    with CellIndex.open(tuned) as index:
        store.commit(tuned, replace(index.manifest, shards=index.manifest.shards[1:]))
    with CellIndex.open(tuned) as index:
        hits = index.search(queries(), 10)
        assert np.isin(hits.cell_id, index.cell_ids()).all()
    assert recall(tuned, hits) > 0.85


def test_vacuum_keeps_what_a_tuned_index_needs(tuned):
    vacuum(tuned)
    with CellIndex.open(tuned) as index:
        assert index.search(queries(), 10).row.min() >= 0
        assert not damage_of_lists(tuned, index.manifest.ann)


def with_photos(folder):
    """Adds photos all over the index, which count by half."""
    rng = np.random.default_rng(3)
    offsets = rng.uniform(-0.03, 0.03, (200, 2))
    photos = [Photo(str(i), tuple(at), None, None, i + 1) for i, at in enumerate((CENTRE_DEG + offsets).tolist())]
    with store.writing(folder) as manifest:
        shards = prototype_shards(folder, photos, clustered(rng, len(photos)), Speech())
        table = PrototypeTable(15, True, False, shards)
        fusion = {**asdict(Fusion(0.5, 0.1)), "fitted_on_photos": 1}
        store.commit(folder, replace(manifest, prototypes=table, fusion=fusion))


@pytest.fixture
def tuned_with_photos(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "index")
    with_photos(tmp_path / "index")
    tuning.tune(tmp_path / "index", WISH)
    return tmp_path / "index"


def test_prototypes_are_in_the_codes_and_another_kappa_is_exact(tuned_with_photos):
    folder = tuned_with_photos
    with CellIndex.open(folder) as index:
        assert index.manifest.ann.kappa == 0.5
        assert recall(folder, index.search(queries(), 10)) > 0.8
        other = index.search(queries(), 10, kappa=0.0)
    assert recall(folder, other, kappa=0.0) == 1


def test_lists_made_before_photos_counted_are_not_used_when_they_do(tuned, caplog):
    with_photos(tuned)
    tuning.refresh(tuned)
    assert "geoview index tune" in caplog.text
    with CellIndex.open(tuned) as index:
        hits = index.search(queries(), 10)
    assert recall(tuned, hits) == 1


def test_codes_follow_the_photos_that_come_later(tuned_with_photos):
    folder = tuned_with_photos
    with store.writing(folder) as manifest:
        kept = manifest.prototypes.shards[1:]
        assert kept
        store.commit(folder, replace(manifest, prototypes=replace(manifest.prototypes, shards=kept)))
    tuning.refresh(folder)
    with CellIndex.open(folder) as index:
        assert [e.of for e in index.manifest.ann.shards] == list(map(index.manifest.coded, index.manifest.shards))
        assert recall(folder, index.search(queries(), 10)) > 0.8


def flip(path, at=-100):
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("what", ["lists", "code"])
def test_damage_is_found_named_and_repaired(tuned, what):
    with CellIndex.open(tuned) as index:
        table = index.manifest.ann
        entry = table.shards[1]
        folder = table.lists_folder if what == "lists" else entry.folder
        flip(tuned / folder / (LISTS_FILE if what == "lists" else "code/c/0/0"))
        assert [line for line in damage_of_lists(tuned, table) if str(folder) in line]
    if what == "lists":
        with CellIndex.open(tuned, checked=True) as index, pytest.raises(IndexCorruptError, match="--repair"):
            index.search(queries(), 10)
    assert tuning.repair(tuned)
    with CellIndex.open(tuned, checked=True) as index:
        assert not damage_of_lists(tuned, index.manifest.ann)
        assert recall(tuned, index.search(queries(), 10)) > 0.85
    assert not tuning.repair(tuned)


def test_a_damaged_codec_is_not_repaired_but_told(tuned):
    flip(next(tuned.glob(f"ann/*/{CODEC_FILE}")))
    with pytest.raises(IndexCorruptError, match="geoview index tune"):
        tuning.repair(tuned)


def test_lists_that_find_less_than_they_did_are_told(tuned, tmp_path):
    with CellIndex.open(tuned) as index:
        assert not index._worse()
        blind = replace(
            index.manifest.ann, chosen=replace(index.manifest.ann.chosen, n_probe=1, k_factor=1, recall=1.0)
        )
        store.commit(tuned, replace(index.manifest, ann=blind))
    with CellIndex.open(tuned) as index:
        (line,) = index._worse()
        assert "when it was tuned" in line
