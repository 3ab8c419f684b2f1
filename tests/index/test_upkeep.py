"""What keeps an index in shape, through the real command, while others read it."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geoview.cli import main
from geoview.errors import BusyError, IndexNotFoundError
from geoview.files import exclusive
from geoview.geo.regions import Region
from geoview.index import store
from geoview.index.cell_index import CellIndex
from geoview.index.upkeep import vacuum


@pytest.fixture
def index(tmp_path, index_folder):
    shutil.copytree(index_folder, tmp_path / "index")
    return tmp_path / "index"


def test_vacuum_leaves_what_is_read(index, capsys):
    queries = np.ones((1, 32), np.float32)
    with CellIndex.open(index) as reader:
        before = reader.search(queries, 3).row
        manifest = reader.manifest
        shard = store.open_shard(index, manifest.shards[0])
        rows = store.Rows(**{name: shard.read(name) for name in shard.rows})
        again = store.write_rows(index, manifest.shards[0].parent, rows)
        store.commit(index, replace(manifest, shards=[again, *manifest.shards[1:]]))
        late = CellIndex.open(index)
        assert vacuum(index) == (0, 0)
        fresh = CellIndex(index, reader._commit, checked=True)
        assert np.array_equal(fresh.search(queries, 3).row, before)
        assert np.array_equal(late.search(queries, 3).row, before)
    assert main(["index", "vacuum", str(index)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["removed_folders"] == 1
    assert said["removed_bytes"] > len(rows) * 64
    assert not (index / manifest.shards[0].folder).exists()
    assert not (index / "build").exists()
    assert late.verify() == []


def test_vacuum_waits_for_no_builder(index, tmp_path):
    with exclusive(index / "build"), pytest.raises(BusyError, match="is writing there"):
        vacuum(index)
    with pytest.raises(IndexNotFoundError, match="not an index"):
        vacuum(tmp_path)
    assert not (tmp_path / "build").exists()


# -- remove ------------------------------------------------------------------------------------------------------------


def everything(path):
    index = CellIndex.open(path)
    shards = [store.open_shard(path, entry) for entry in index.manifest.shards]
    return {name: np.concatenate([shard.read(name) for shard in shards]) for name in shards[0].rows}


def region_file(folder, region):
    path = folder / "region.geojson"
    path.write_text(json.dumps(region.to_geojson()))
    return str(path)


def test_a_region_goes_and_nothing_else(index, kit, tmp_path, capsys):
    before, old = everything(index), CellIndex.open(index)
    region = Region.disc(np.add(kit.CENTRE_DEG, [0.002, 0.002]), 150.0)
    assert main(["index", "remove", str(index), "--region", region_file(tmp_path, region)]) == 0
    gone = np.isin(before["cell"], region.cells(16))
    assert json.loads(capsys.readouterr().out)["removed_codes"] == gone.sum() > 3
    after = everything(index)
    assert np.array_equal(after["cell"], before["cell"][~gone])
    assert np.array_equal(after["aerial"], before["aerial"][~gone])
    kept = [entry for entry in CellIndex.open(index).manifest.shards if entry in old.manifest.shards]
    assert kept, "shards that the region does not touch are not written anew"
    assert CellIndex.open(index).verify() == []
    assert old.search(np.ones((1, 32), np.float32), 2).row.shape == (1, 2), "a reader goes on"
    assert main(["index", "remove", str(index), "--region", region_file(tmp_path, region)]) == 2
    assert "no cell of" in capsys.readouterr().err
    whole = Region.disc(kit.CENTRE_DEG, 3000.0)
    assert main(["index", "remove", str(index), "--region", region_file(tmp_path, whole)]) == 0
    assert CellIndex.open(index).manifest.shards == []


# -- photos ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path, kit):
    """Writes tables of photos, which differ from one another."""
    rng = np.random.default_rng(0)
    places = kit.CENTRE_DEG + rng.uniform(-0.004, 0.004, (10, 2))
    for i in range(10):
        Image.fromarray(rng.integers(0, 255, (32, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")

    def write(*numbers):
        path = tmp_path / f"{'_'.join(map(str, numbers))}.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "lat", "lon"), *((f"{i}.png", *places[i]) for i in numbers)])
        return str(path)

    return write


def test_photos_that_go_leave_what_the_others_say(index, tmp_path, table, capsys):
    shutil.copytree(index, tmp_path / "few")
    few = ["index", "add", str(tmp_path / "few"), "--device", "cpu", "--photos", table(0, 1, 2, 3)]
    assert main(few) == 0
    assert main(["index", "add", str(index), "--device", "cpu", "--photos", table(*range(10))]) == 0
    capsys.readouterr()
    assert main(["index", "remove", str(index), "--device", "cpu", "--photos", table(*range(4, 10))]) == 0
    assert json.loads(capsys.readouterr().out)["removed_photos"] == 6
    left, wanted = CellIndex.open(index), CellIndex.open(tmp_path / "few").prototypes()
    assert np.array_equal(left.prototypes().cell, wanted.cell)
    assert np.array_equal(left.prototypes().photo_key, wanted.photo_key)
    np.testing.assert_allclose(left.prototypes().sum, wanted.sum, atol=1e-5)
    assert left.verify() == []
    assert main(["index", "remove", str(index), "--device", "cpu", "--photos", table(3, 4)]) == 2
    assert "4.png: is not in the index, or was another file then; nothing was removed" in capsys.readouterr().err
    assert CellIndex.open(index).manifest == left.manifest
    assert main(["index", "remove", str(index)]) == 2
    assert "what to remove" in capsys.readouterr().err


@pytest.mark.parametrize("shift_deg", [0.002, 0.02, 2.0])
def test_photos_that_were_added_elsewhere_are_not_taken_out_here(index, tmp_path, table, capsys, shift_deg):
    given = table(0, 1)
    assert main(["index", "add", str(index), "--device", "cpu", "--photos", given]) == 0
    before = CellIndex.open(index)
    rows = list(csv.reader(Path(given).read_text().splitlines()))
    with (tmp_path / "moved.csv").open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *((path, float(lat) + shift_deg, lon) for path, lat, lon in rows[1:])])
    capsys.readouterr()
    assert main(["index", "remove", str(index), "--device", "cpu", "--photos", str(tmp_path / "moved.csv")]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("geoview: "))
    assert "added with another place" in line
    assert "nothing was removed" in line
    assert CellIndex.open(index).manifest == before.manifest
    assert not (index / "build").exists()


# -- merge -------------------------------------------------------------------------------------------------------------


def test_two_indexes_become_one(index, tmp_path, kit, table, capsys):
    whole = everything(index)
    other = tmp_path / "other"
    shutil.copytree(index, other)
    north = Region.disc(np.add(kit.CENTRE_DEG, [0.004, 0.0]), 350.0)
    assert main(["index", "remove", str(index), "--region", region_file(tmp_path, north)]) == 0
    assert main(["index", "add", str(index), "--device", "cpu", "--photos", table(0, 1, 2)]) == 0
    assert main(["index", "add", str(other), "--device", "cpu", "--photos", table(3, 4)]) == 0
    capsys.readouterr()
    assert main(["index", "merge", str(index), str(other), "--out", str(tmp_path / "both")]) == 0
    assert json.loads(capsys.readouterr().out)["photos"] == 5
    both = everything(tmp_path / "both")
    for name in whole:
        assert np.array_equal(both[name], whole[name]), name
    merged = CellIndex.open(tmp_path / "both")
    assert merged.verify() == []
    assert len(merged.manifest.sources) == 1
    assert merged.prototypes().weight.sum() == pytest.approx(5)
    shutil.rmtree(index)
    assert merged.encoder().dim == 32, "it stands on its own"

    assert main(["index", "merge", str(other), str(tmp_path / "both"), "--out", str(tmp_path / "third")]) == 2
    assert "2 photos in common" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()
    assert main(["index", "merge", str(other), str(other), "--out", str(tmp_path / "both")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_indexes_that_do_not_go_together_are_not_merged(index, tmp_path, kit, encoder_folder, ortho, capsys):
    region = Region.disc(kit.CENTRE_DEG, 200.0)
    finer = kit.build(encoder_folder, ortho, tmp_path / "finer", region, level=17)
    assert main(["index", "merge", str(index), str(finer.path), "--out", str(tmp_path / "out")]) == 2
    assert "differ in their level" in capsys.readouterr().err
    kit.make_encoder(seed=3).save(tmp_path / "encoder")
    strange = kit.build(tmp_path / "encoder", ortho, tmp_path / "strange", region)
    assert main(["index", "merge", str(index), str(strange.path), "--out", str(tmp_path / "out")]) == 2
    assert "is of encoder" in capsys.readouterr().err


def test_a_merge_that_was_cut_off_begins_anew(index, tmp_path, monkeypatch, capsys):
    shutil.copytree(index, tmp_path / "other")
    words = ["index", "merge", str(index), str(tmp_path / "other"), "--out", str(tmp_path / "out")]
    shards, write_rows = [], store.write_rows

    def once(*arguments):
        if shards:
            raise KeyboardInterrupt
        shards.append(arguments)
        return write_rows(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_rows", once)
        assert main(words) == 130
    with pytest.raises(IndexNotFoundError, match="not finished; run the same command again"):
        CellIndex.open(tmp_path / "out")
    assert main([*words[:3], str(index), *words[4:]]) == 2
    assert "holds something else that is not finished" in capsys.readouterr().err
    assert main(words) == 0
    merged = CellIndex.open(tmp_path / "out")
    assert merged.verify() == []
    assert set(merged.path.glob("shards/*/*")) == {merged.path / entry.folder for entry in merged.manifest.shards}
