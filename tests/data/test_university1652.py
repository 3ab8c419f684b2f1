"""University-1652 as it is distributed, in small."""

from pathlib import Path

import numpy as np
import pytest

from geoview.data import university1652
from geoview.errors import DatasetError


def buildings(paths):
    return [int(Path(path).parent.name) for path in paths]


@pytest.mark.parametrize(
    ("split", "queries", "references"),
    [
        ("train", [1, 1, 1, 2, 2, 2], [1, 2]),
        ("drone_to_satellite", [3, 3, 3, 4, 4, 4, 5, 5, 5], [3, 4, 5, 6, 7]),
        ("satellite_to_drone", [3, 4, 5], [i for i in (3, 4, 5, 6, 7) for _ in range(3)]),
    ],
)
def test_places_are_buildings_and_galleries_keep_distractors(twins, tmp_path, split, queries, references):
    twins.write_university1652(tmp_path, 2, 3, 2)
    table = university1652.load(tmp_path, split)
    assert table.place.tolist() == buildings(table.query_path) == queries
    assert table.reference_place.tolist() == buildings(table.reference_path) == references
    assert list(table.query_path) == sorted(table.query_path)
    assert list(table.reference_path) == sorted(table.reference_path)
    # The first picture of the building.
    assert table.positive.tolist() == [references.index(building) for building in queries]
    assert np.isnan(table.latlon_deg).all()
    assert all(Path(path).is_file() for path in table.query_path + table.reference_path)


def test_several_satellite_pictures_of_a_building_are_true_matches_all(twins, tmp_path):
    twins.write_university1652(tmp_path, 2, 1)
    for name in ("0002_b.png", "0002_a.jpg"):
        twins.picture(tmp_path / "train/satellite/0002" / name, 2, (20, 20))
    table = university1652.load(tmp_path, "train")
    assert [Path(path).name for path in table.reference_path] == ["0001.jpg", "0002.jpg", "0002_a.jpg", "0002_b.png"]
    assert table.reference_place.tolist() == [1, 2, 2, 2]
    assert table.positive.tolist() == [0, 0, 0, 1, 1, 1]


def test_training_takes_buildings_of_both_sides(twins, tmp_path, caplog):
    twins.write_university1652(tmp_path, 101, 1, drones=1)
    twins.picture(tmp_path / "train/satellite/0900/0900.jpg", 900, (20, 20))
    (tmp_path / "train/satellite/0007/0007.jpg").unlink()  # the folder stays, empty
    table = university1652.load(tmp_path, "train")
    assert table.place.tolist() == table.reference_place.tolist() == [i for i in range(1, 102) if i != 7]
    assert table.positive.tolist() == list(range(100))
    assert "train/satellite/0007" in caplog.text


def test_too_many_buildings_without_a_picture_are_an_error(twins, tmp_path):
    twins.write_university1652(tmp_path, 2, 3)
    (tmp_path / "test/gallery_satellite/0004/0004.jpg").unlink()
    with pytest.raises(DatasetError, match=r"3 of 9 entries .*test/gallery_satellite/0004.*University1652-Baseline"):
        university1652.load(tmp_path, "drone_to_satellite")


def test_other_files_do_not_count(twins, tmp_path):
    twins.write_university1652(tmp_path, 2, 1)
    for name in ("train/drone/.DS_Store", "train/drone/0001/Thumbs.db", "train/drone/0001/.x.jpg"):
        (tmp_path / name).touch()
    assert len(university1652.load(tmp_path, "train")) == 6


def test_what_is_missing_is_named(twins, tmp_path):
    twins.write_university1652(tmp_path, 2, 1)
    (tmp_path / "train/drone/copy of 0001").mkdir()
    with pytest.raises(DatasetError, match=r"train/drone/copy of 0001: is no building's number"):
        university1652.load(tmp_path, "train")
    (tmp_path / "test/gallery_drone").rename(tmp_path / "gallery")
    with pytest.raises(DatasetError, match=r"test/gallery_drone: not there.*University1652-Baseline"):
        university1652.load(tmp_path, "satellite_to_drone")
    (tmp_path / "test/gallery_drone").mkdir()
    with pytest.raises(DatasetError, match=r"test/gallery_drone: holds no picture"):
        university1652.load(tmp_path, "satellite_to_drone")
