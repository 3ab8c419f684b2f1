"""The published data sets by name, and as pictures."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from geoview.config import AerialView, GroundView
from geoview.data.datasets import DATASETS, load, load_own, recognise
from geoview.data.pictures import PairPictures, Side
from geoview.errors import ConfigError, DatasetError, PairTableError, UnreadableImageError

WRITERS = {
    "cvusa": lambda twins, root: twins.write_cvusa(root, 3, 2),
    "cvact": lambda twins, root: twins.write_cvact(root, 3, 1, 2),
    "vigor": lambda twins, root: twins.write_vigor(root, 2, 2, corrected=True),
    "university1652": lambda twins, root: twins.write_university1652(root, 2, 2, 1),
}


def test_every_data_set_has_a_twin():
    assert WRITERS.keys() == DATASETS.keys()


@pytest.mark.parametrize("name", DATASETS)
def test_every_split_is_read_and_shown(twins, tmp_path, name):
    WRITERS[name](twins, tmp_path)
    assert recognise(tmp_path) == name
    for labels in DATASETS[name].loaders:
        for split in DATASETS[name].splits:
            table = load(name, str(tmp_path), split, labels=labels)
            assert len(table) > 0
            assert table.name.endswith(split)
            assert len(table.reference_path) == len(table.reference_place) == len(table.reference_latlon_deg)
            assert table.positive.max() < len(table.reference_path)
            assert (table.reference_place[table.positive] == table.place).all()
            view = AerialView(32) if name == "university1652" else GroundView(64, 32)
            pictures = PairPictures(
                table, Side(table.query_path, None, view), Side(table.reference_path, None, AerialView(32)), None
            )
            for row in (0, len(table) - 1):
                query, reference, _ = pictures[0, row]
                assert reference.pixels.shape == (32, 32, 3)
                # Panoramas go round by their shape: no part of the strip's width is empty.
                assert query.valid.any(axis=0).all()
                assert query.pixels.shape[1] == (32 if name == "university1652" else 64)


def test_folders_of_something_else_are_not_taken_for_one(tmp_path):
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "none") is None
    (tmp_path / "splits").mkdir()
    (tmp_path / "train").mkdir()
    assert recognise(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "split", "labels", "message"),
    [
        ("cvxyz", "train", "original", "'cvxyz' is no data set; known are cvusa, cvact, vigor, university1652"),
        ("vigor", "train", "original", "'train' is no split of vigor; known are same_train, same_test"),
        ("cvusa", "train", "corrected", "'corrected' is no set of labels of cvusa; known are original"),
    ],
)
def test_names_that_are_not_known(tmp_path, name, split, labels, message):
    with pytest.raises(ConfigError, match=message):
        load(name, tmp_path, split, labels=labels)


@pytest.mark.parametrize("name", DATASETS)
def test_a_root_that_is_not_there(tmp_path, name):
    for split in DATASETS[name].splits:
        with pytest.raises(DatasetError, match=rf"{tmp_path}/none/.*: not there.*{DATASETS[name].page}") as caught:
            load(name, tmp_path / "none", split)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "split", "gone"),
    [
        ("cvusa", "train", "streetview/panos/0000001.jpg"),
        ("cvact", "test", "ANU_data_test/streetview/*3_grdView.jpg"),
        ("vigor", "same_test", "Chicago/satellite/*.png"),
        ("university1652", "drone_to_satellite", "test/gallery_satellite/0003"),
    ],
)
def test_how_much_may_be_missing_reaches_every_data_set(twins, tmp_path, name, split, gone):
    WRITERS[name](twins, tmp_path)
    whole = len(load(name, tmp_path, split, max_missing_share=0))
    next(iter(sorted(tmp_path.glob(gone)))).rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"more than max_missing_share 0\.01: "):
        load(name, tmp_path, split)
    assert 0 < len(load(name, tmp_path, split, max_missing_share=0.9)) <= whole


def test_data_of_one_s_own_is_read_by_its_suffix(tmp_path):
    pq.write_table(pa.table({"lat": [1.0], "lon": [2.0]}), tmp_path / "pairs.Parquet")
    for name in ("pairs.csv", "pairs.txt"):
        (tmp_path / name).write_text("lat,lon\n1,2\n")
    for name in ("pairs.Parquet", "pairs.csv", "pairs.txt"):
        np.testing.assert_array_equal(load_own(str(tmp_path / name)).latlon_deg, [[1, 2]])
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "photos/a.png")
    (tmp_path / "photos/photos.csv").write_text("path,lat,lon\na.png,1,2\n")
    np.testing.assert_array_equal(load_own(tmp_path / "photos").latlon_deg, [[1, 2]])
    for name in ("pairs.parquet", "none.csv", "none"):
        with pytest.raises(PairTableError, match=rf"{name}: cannot be read .*No such file"):
            load_own(tmp_path / name)


def test_how_much_may_be_missing_reaches_data_of_one_s_own(tmp_path):
    pq.write_table(pa.table({"path": ["a.png", "b.png"], "lat": [1.0, 2.0], "lon": [2.0, 3.0]}), tmp_path / "p.parquet")
    (tmp_path / "photos.csv").write_text("path,lat,lon\na.png,1,2\nb.png,2,3\n")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    for path in (tmp_path / "p.parquet", tmp_path / "photos.csv", tmp_path):
        with pytest.raises(PairTableError, match=r"1 of 2 (pairs|photos).*b\.png"):
            load_own(path)
        assert load_own(path, max_missing_share=0.5).query_path == (str(tmp_path / "a.png"),)


def test_an_image_is_known_by_its_content_and_a_broken_one_is_named(twins, tmp_path):
    twins.write_vigor(tmp_path)
    table = load("vigor", tmp_path, "cross_test")
    tile = table.reference_path[table.positive[0]]
    Image.open(tile).convert("RGB").save(tile, format="JPEG")
    pictures = PairPictures(
        table, Side(table.query_path, None, GroundView(64, 32)), Side(table.reference_path, None, AerialView(32)), None
    )
    assert pictures[0, 0][1].valid.all()
    with open(table.query_path[0], "r+b") as file:  # noqa: PTH123
        file.truncate(200)
    with pytest.raises(UnreadableImageError, match=r",\.jpg"):
        pictures[0, 0]
