"""CVUSA as it is distributed, in small."""

from pathlib import Path

import numpy as np
import pytest

from geoview.data import cvusa
from geoview.data.photos import load_image
from geoview.errors import DatasetError


def test_pairs_are_those_of_the_list(twins, tmp_path):
    twins.write_cvusa(tmp_path, 5, 3)
    train, test = cvusa.load(tmp_path, "train"), cvusa.load(tmp_path, "test")
    assert (train.place.tolist(), test.place.tolist()) == ([1, 3, 5, 7, 8], [2, 4, 6])
    for table in (train, test):
        assert table.positive.tolist() == list(range(len(table)))
        assert table.place.tolist() == table.reference_place.tolist()
        assert table.query_path == tuple(f"{tmp_path}/streetview/panos/{i:07d}.jpg" for i in table.place)
        assert table.reference_path == tuple(f"{tmp_path}/bingmap/19/{i:07d}.jpg" for i in table.place)
        assert set(table.fov_deg) == {360.0}
        assert table.semi_positive.shape == (len(table), 0)
    assert load_image(train.query_path[0]).size == (88, 16)


@pytest.mark.parametrize("locations", ["split_locations/all.csv", "all.csv"])
def test_line_i_of_the_locations_is_id_i(twins, tmp_path, locations):
    twins.write_cvusa(tmp_path, 3, 2, locations=locations)
    table = cvusa.load(tmp_path, "test")
    assert table.place.tolist() == [2, 4]
    np.testing.assert_allclose(table.reference_latlon_deg, [[30.02, -99.96], [30.04, -99.92]])
    np.testing.assert_allclose(table.latlon_deg, [[30.0201, -99.9601], [30.0401, -99.9201]])


def test_without_locations_positions_are_unknown(twins, tmp_path):
    twins.write_cvusa(tmp_path, 2, 1, locations=None)
    table = cvusa.load(tmp_path, "train")
    assert np.isnan(table.latlon_deg).all()
    assert np.isnan(table.reference_latlon_deg).all()
    assert table.latlon_deg.shape == (2, 2)


@pytest.mark.parametrize("listed", ["bingmap/19", "bingmap/bingmap/19"])
@pytest.mark.parametrize("on_disk", ["bingmap/19", "bingmap/bingmap/19"])
def test_the_first_folder_may_be_doubled(twins, tmp_path, listed, on_disk):
    twins.write_cvusa(tmp_path, 2, 1, listed=listed, on_disk=on_disk)
    table = cvusa.load(tmp_path, "train")
    assert table.reference_path == tuple(f"{tmp_path}/{on_disk}/{i:07d}.jpg" for i in (1, 3))
    assert all(Path(path).is_file() for path in table.reference_path)


def test_panoramas_that_no_list_names_do_not_count(twins, tmp_path):
    twins.write_cvusa(tmp_path, 2, 1)
    for i in range(50, 60):
        (tmp_path / f"streetview/panos/{i:07d}.jpg").touch()
    assert len(cvusa.load(tmp_path, "train")) == 2


def test_a_few_missing_images_are_left_out_with_their_pairs(twins, tmp_path, caplog):
    twins.write_cvusa(tmp_path, 199, 1)
    (tmp_path / "streetview/panos/0000007.jpg").unlink()
    table = cvusa.load(tmp_path, "train")
    assert len(table) == len(table.reference_path) == 198
    assert 7 not in table.place
    np.testing.assert_allclose(table.reference_latlon_deg[:, 0], 30 + table.place / 100)
    assert "streetview/panos/0000007.jpg" in caplog.text


@pytest.mark.parametrize("gone", ["splits/train-19zl.csv", "streetview/panos", "bingmap/19"])
def test_what_is_missing_is_named(twins, tmp_path, gone):
    twins.write_cvusa(tmp_path, 2, 1)
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=rf"{tmp_path / gone}: not there.*mvrl\.cse\.wustl\.edu"):
        cvusa.load(tmp_path, "train")


def test_too_many_missing_images_are_an_error(twins, tmp_path):
    twins.write_cvusa(tmp_path, 4, 1)
    (tmp_path / "bingmap/19/0000003.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 4 entries of CVUSA.*bingmap/19/0000003\.jpg"):
        cvusa.load(tmp_path, "train")


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("splits/train-19zl.csv", "satellite,ground,annotation", "not 'satellite,panorama,annotation'"),
        ("splits/train-19zl.csv", "bingmap/19/0000001.jpg", "not 'satellite,panorama,annotation'"),
        ("split_locations/all.csv", "1,2,3,x,5", "does not start with four numbers"),
        ("split_locations/all.csv", "30,-100,30,-181,5", "no latitude and longitude"),
        ("split_locations/all.csv", "nan,-100,30,-100,5", "no latitude and longitude"),
    ],
)
def test_a_line_that_cannot_be_is_named(twins, tmp_path, file, line, message):
    twins.write_cvusa(tmp_path, 3, 1)
    lines = (tmp_path / file).read_text().splitlines()
    (tmp_path / file).write_text("\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(DatasetError, match=rf"{file}:2: .*{message}"):
        cvusa.load(tmp_path, "train")


def test_locations_of_other_pairs_are_an_error(twins, tmp_path):
    twins.write_cvusa(tmp_path, 3, 1)
    path = tmp_path / "split_locations/all.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(DatasetError, match="no line 3"):
        cvusa.load(tmp_path, "train")
