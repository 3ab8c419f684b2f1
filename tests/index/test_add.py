"""An index that grows: imagery of another date beside the old, photos that join, and shards that nobody touched."""

import csv
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geoview.cli import main
from geoview.files import exclusive
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import build as build_module
from geoview.index import encoding, store
from geoview.index.cell_index import CellIndex

NAMES = ("aerial", "cell", "date", "coverage", "skipped_cell", "skipped_coverage")
ROWS = st.lists(st.tuples(st.integers(1, 12), st.sampled_from([20180000, 20200600])), unique=True, max_size=12)


def rows_of(pairs, skipped, mark):
    """Rows whose codes tell which side they come from."""
    ids = np.array([cell for cell, _ in pairs], np.uint64)
    dates = np.array([date for _, date in pairs], np.int32)
    without = np.array(sorted(set(skipped) - set(ids.tolist())), np.uint64)
    marks = np.full(len(ids), mark, np.float16)
    return store.Rows.concatenate(
        [store.Rows(marks[:, None], ids, dates, marks, without, np.full(len(without), mark, np.float16))]
    )


@given(ROWS, ROWS, st.lists(st.integers(1, 12), max_size=5), st.lists(st.integers(1, 12), max_size=5))
@settings(max_examples=200, deadline=None)
def test_of_a_cell_and_a_date_the_newer_code_counts(old, new, old_skipped, new_skipped):
    before, after = rows_of(old, old_skipped, 1), rows_of(new, new_skipped, 2)
    both = before.updated(after)
    wanted = {pair: 1 for pair in old} | {pair: 2 for pair in new}
    assert list(zip(both.cell.tolist(), both.date.tolist(), strict=True)) == sorted(wanted)
    assert both.aerial[:, 0].tolist() == [wanted[pair] for pair in sorted(wanted)]
    without = (set(before.skipped_cell.tolist()) | set(after.skipped_cell.tolist())) - {cell for cell, _ in wanted}
    assert both.skipped_cell.tolist() == sorted(without)
    newer = set(after.skipped_cell.tolist())
    assert both.skipped_coverage.tolist() == [2 if cell in newer else 1 for cell in sorted(without)]
    most = max([1, *(sum(cell == c for c, _ in wanted) for cell in range(13))])
    assert both.dates_a_cell == most


@pytest.fixture(scope="module")
def later(tmp_path_factory, kit):
    """Imagery of 2021 of the north-eastern quarter, and 300 m beyond it."""
    path = kit.write_ortho(
        tmp_path_factory.mktemp("later") / "later.tif",
        kit.texture(500, seed=4),
        centre_deg=np.add(kit.CENTRE_DEG, [0.004, 0.005]),
    )
    manifest = path.with_name("later.yaml")
    manifest.write_text(f"sources:\n- uri: {path}\n  date: 2021\n")
    return manifest


@pytest.fixture
def index(tmp_path, index_folder):
    shutil.copytree(index_folder, tmp_path / "index")
    return tmp_path / "index"


def columns(index):
    shards = [store.open_shard(index.path, entry) for entry in index.manifest.shards]
    return {name: np.concatenate([shard.read(name) for shard in shards]) for name in NAMES}


def add(index, *words):
    return main(["index", "add", str(index), "--device", "cpu", "--num_workers", "1", *map(str, words)])


def test_imagery_of_another_date_stands_beside_the_old(index, later, index_folder, capsys):
    old = CellIndex.open(index_folder)
    with CellIndex.open(index) as reader:
        assert add(index, "--imagery", later) == 0
        assert len(reader) == len(old), "a reader goes on with what it opened"
        assert (
            reader.search(np.ones((1, 32), np.float32), 3).row.tolist() == old.search(np.ones((1, 32)), 3).row.tolist()
        )
    new = CellIndex.open(index)
    assert json.loads(capsys.readouterr().out)["codes"] == len(new) > len(old)
    assert new.verify() == []
    before, after = columns(old), columns(new)
    fresh = after["date"] == 20210000
    for name in ("aerial", "cell", "date", "coverage"):
        assert np.array_equal(after[name][~fresh], before[name])
    assert new.dates_a_cell == 2
    beyond = ~np.isin(after["cell"][fresh], before["cell"])
    assert 0 < beyond.sum() < fresh.sum()
    assert [s["date"] for s in new.manifest.sources] == [None, "2021"]
    assert len(new.manifest.imagery) == 2
    untouched = [entry for entry in new.manifest.shards if entry in old.manifest.shards]
    assert 0 < len(untouched) < len(old.manifest.shards), "only shards that the imagery touches are written"
    # The same again changes nothing but the number of the commit.
    assert add(index, "--imagery", later) == 0
    again = columns(CellIndex.open(index))
    for name in NAMES:
        np.testing.assert_allclose(again[name].astype(np.float64), after[name].astype(np.float64), atol=6e-4)
    assert len(CellIndex.open(index).manifest.sources) == 2


def test_a_region_bounds_what_is_added(index, later, kit, tmp_path, capsys):
    region = Region.disc(np.add(kit.CENTRE_DEG, [0.003, 0.004]), 200.0)
    (tmp_path / "r.geojson").write_text(json.dumps(region.to_geojson()))
    assert add(index, "--imagery", later, "--region", tmp_path / "r.geojson") == 0
    rows = columns(CellIndex.open(index))
    fresh = rows["cell"][rows["date"] == 20210000]
    assert set(fresh.tolist()) <= set(region.cells(16).tolist())
    assert len(fresh) > 3
    capsys.readouterr()
    elsewhere = Region.disc([48.0, 11.0], 200.0)
    (tmp_path / "r.geojson").write_text(json.dumps(elsewhere.to_geojson()))
    assert add(index, "--imagery", later, "--region", tmp_path / "r.geojson") == 2
    assert "no ground in common" in capsys.readouterr().err
    assert not (index / "build" / "plan.json").exists()


def test_an_addition_that_was_cut_off_goes_on_and_no_other_does(index, later, ortho, index_folder, monkeypatch, capsys):
    monkeypatch.setattr(encoding, "_BLOCK_CELLS", 4)
    shards, write_rows = [], store.write_rows

    def once(*arguments):
        if shards:
            raise KeyboardInterrupt
        shards.append(arguments[1])
        return write_rows(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_rows", once)
        assert add(index, "--imagery", later) == 130
    assert CellIndex.open(index).manifest == CellIndex.open(index_folder).manifest, "the old index stays"
    assert main(["index", "vacuum", str(index)]) == 0
    assert json.loads(capsys.readouterr().out)["removed_folders"] == 0, "what is finished is kept for it"
    assert add(index, "--imagery", ortho) == 2
    assert "unfinished build with another" in capsys.readouterr().err
    assert add(index, "--imagery", later) == 0
    assert CellIndex.open(index).verify() == []
    assert (columns(CellIndex.open(index))["date"] == 20210000).any()
    assert {p.name for p in index.iterdir()} == {"manifest.json", "commits", "encoder", "shards"}


def test_what_a_kill_after_the_commit_leaves_is_in_nobodys_way(index, later, ortho, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "remove_journal", stop)
        assert add(index, "--imagery", later) == 130
    done = CellIndex.open(index).manifest
    assert done.number == 2
    assert (index / "build" / "plan.json").exists()
    assert add(index, "--imagery", ortho) == 0, "something else can be added"
    assert {p.name for p in index.iterdir()} == {"manifest.json", "commits", "encoder", "shards"}
    with monkeypatch.context() as patch:
        patch.setattr(store, "remove_journal", stop)
        assert add(index, "--imagery", later) == 130
    assert main(["index", "vacuum", str(index)]) == 0
    assert not (index / "build").exists()
    assert CellIndex.open(index).verify() == []


def test_what_is_committed_meanwhile_is_not_lost(index, later, ortho, kit, tmp_path, monkeypatch):
    """Another addition ends after this one has read what the index is, and before it begins to write."""
    other = kit.write_ortho(tmp_path / "other.tif", kit.texture(400, seed=9), centre_deg=kit.CENTRE_DEG)
    manifest = tmp_path / "other.yaml"
    manifest.write_text(f"sources:\n- uri: {other}\n  date: 2022\n")
    known, done = build_module._known, []

    def first(*arguments):
        if not done:
            done.append(1)
            assert add(index, "--imagery", manifest) == 0
        return known(*arguments)

    monkeypatch.setattr(build_module, "_known", first)
    assert add(index, "--imagery", later) == 0
    assert set(columns(CellIndex.open(index))["date"].tolist()) == {0, 20210000, 20220000}
    assert CellIndex.open(index).manifest.number == 3


def test_two_writers_do_not_mix(index, later, capsys):
    with exclusive(index / "build"):
        assert add(index, "--imagery", later) == 2
    assert "is writing there" in capsys.readouterr().err


def test_an_addition_of_nothing_is_refused(index, capsys, tmp_path):
    assert add(index) == 2
    assert "nothing to add" in capsys.readouterr().err
    assert add(tmp_path / "nowhere", "--imagery", "x.tif") == 2
    assert "not an index" in capsys.readouterr().err


def test_photos_join_an_index_and_no_photo_twice(index, kit, tmp_path, capsys):
    rng = np.random.default_rng(0)
    lines = [["path", "lat", "lon"]]
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (32, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        lines.append([f"{i}.png", *(kit.CENTRE_DEG + rng.uniform(-0.004, 0.004, 2))])

    def table(name, rows):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([lines[0], *rows])
        return tmp_path / name

    assert add(index, "--photos", table("some.csv", lines[1:8])) == 0
    some = CellIndex.open(index)
    assert some.manifest.prototypes.n_photos == 7
    assert some.manifest.fusion == {"kappa": 0.0, "offset": 0.0, "fitted_on_photos": 0}
    assert "kappa was not fitted" in capsys.readouterr().err
    queries = np.eye(4, 32, dtype=np.float32)
    assert np.array_equal(some.search(queries, 5).row, some.search(queries, 5, kappa=0.0).row)
    assert not np.array_equal(some.search(queries, 5).score, some.search(queries, 5, kappa=2.0).score)
    assert add(index, "--photos", table("more.csv", lines[6:])) == 0
    assert "2 of 7 photos are in the index already" in capsys.readouterr().err
    grown = CellIndex.open(index)
    assert grown.manifest.prototypes.n_photos == 12
    assert grown.manifest.shards == some.manifest.shards
    assert grown.verify() == []
    assert grown.prototypes().weight.sum() == pytest.approx(12)
    assert set(cells.levels(grown.prototypes().cell).tolist()) == {15}
