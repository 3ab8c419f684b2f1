"""CVACT as it is distributed, in small."""

import logging

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from geoview.data import cvact
from geoview.errors import DatasetError
from geoview.geo.sphere import distance_m


@pytest.mark.parametrize("mat", ["ACT_data.mat", "ANU_data_small/ACT_data.mat"])
def test_lists_count_from_one_and_are_found_by_name(twins, tmp_path, mat):
    names = twins.write_cvact(tmp_path, 4, 2, 3, mat=mat)
    for split, folder, place in (
        ("train", "ANU_data_small", [3, 2, 1, 0]),
        ("val", "ANU_data_small", [4, 5]),
        ("val_all", "ANU_data_test", [4, 5, 6]),
        ("test", "ANU_data_test", [4, 5, 6]),
    ):
        table = cvact.load(tmp_path, split)
        assert table.place.tolist() == table.reference_place.tolist() == place
        assert table.positive.tolist() == list(range(len(place)))
        assert table.query_path == tuple(f"{tmp_path}/{folder}/streetview/{names[i]}_grdView.jpg" for i in place)
        assert table.reference_path == tuple(
            f"{tmp_path}/{folder}/satview_polish/{names[i]}_satView_polish.jpg" for i in place
        )
        assert set(table.fov_deg) == {360.0}
        np.testing.assert_array_equal(table.latlon_deg, table.reference_latlon_deg)


def test_positions_are_in_canberra_and_as_far_apart_as_utm_says(twins, tmp_path):
    twins.write_cvact(tmp_path, 5, 1, 1)
    latlon_deg = cvact.load(tmp_path, "train").latlon_deg
    assert distance_m(latlon_deg[0], [-35.31, 149.12]) < 3_000
    steps_m = distance_m(latlon_deg[1:], latlon_deg[:-1])
    np.testing.assert_allclose(steps_m, np.hypot(50, 70), rtol=5e-3)
    # Number 4 is listed first and lies furthest to the south and east.
    assert (np.diff(latlon_deg, axis=0) * [1, -1] > 0).all()


def test_the_test_set_needs_no_list(twins, tmp_path):
    names = twins.write_cvact(tmp_path, 2, 1, 3, mat=None)
    table = cvact.load(tmp_path, "test")
    assert [path.rpartition("/")[2] for path in table.query_path] == [f"{name}_grdView.jpg" for name in names[2:]]
    assert table.place.tolist() == [0, 1, 2]
    assert np.isnan(table.latlon_deg).all()
    with pytest.raises(DatasetError, match=rf"{tmp_path}/ACT_data\.mat: not there.*ANU_data_small.*OriCNN"):
        cvact.load(tmp_path, "val")


@pytest.mark.parametrize("split", ["test", "val_all"])
@pytest.mark.parametrize("side", ["streetview", "satview_polish"])
def test_a_few_missing_images_are_left_out_with_their_pairs(twins, tmp_path, caplog, split, side):
    twins.write_cvact(tmp_path, 1, 1, 120)
    gone = sorted((tmp_path / "ANU_data_test" / side).iterdir())[7]
    gone.unlink()
    with caplog.at_level(logging.WARNING):
        table = cvact.load(tmp_path, split)
    assert len(table) == len(table.reference_path) == 119
    assert table.place.tolist() == [i for i in range(1, 121) if i != 8]
    (record,) = caplog.records
    assert "1 of 120 entries of CVACT" in record.getMessage()
    assert gone.name in record.getMessage()


def test_too_many_missing_images_are_an_error(twins, tmp_path):
    twins.write_cvact(tmp_path, 3, 1, 2)
    for path in (tmp_path / "ANU_data_test/streetview").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="2 of 2 entries of CVACT"):
        cvact.load(tmp_path, "test")
    for path in (tmp_path / "ANU_data_test/satview_polish").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="holds no image"):
        cvact.load(tmp_path, "test")


def changed(content, **fields):
    kept = {key: value for key, value in content.items() if not key.startswith("__")}
    return {key: value for key, value in (kept | fields).items() if value is not None}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainSet": None}, "has no field trainSet.trainInd"),
        ({"trainSet": {"valInd": [1]}}, "has no field trainSet.trainInd"),
        ({"panoIds": None}, "has no field panoIds"),
        ({"trainSet": {"trainInd": [0, 1]}}, "does not count from 1"),
        ({"trainSet": {"trainInd": [1, 99]}}, "does not count from 1"),
        ({"utm": np.zeros((2, 2))}, "2 positions utm for 5 panoIds"),
        ({"utm": np.tile([6_090_000.0, 693_000.0], (5, 1))}, "not easting and northing in Canberra"),
    ],
)
def test_a_list_that_cannot_be_is_named(twins, tmp_path, fields, message):
    twins.write_cvact(tmp_path, 3, 1, 2)
    path = tmp_path / "ACT_data.mat"
    savemat(path, changed(loadmat(path, simplify_cells=True), **fields))
    with pytest.raises(DatasetError, match=message) as caught:
        cvact.load(tmp_path, "train")
    assert str(path) in str(caught.value)


def test_a_list_that_is_no_matlab_file(twins, tmp_path):
    twins.write_cvact(tmp_path, 3, 1, 2)
    path = tmp_path / "ACT_data.mat"
    whole = path.read_bytes()
    savemat(path, {"panoIds": np.array(["a" * 22] * 50)}, do_compression=True)
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    for content in (b"", b"<html>", whole[:300], damaged):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match="cannot be read as a MATLAB file") as caught:
            cvact.load(tmp_path, "train")
        assert "\n" not in str(caught.value)


def test_an_image_of_an_unlisted_place_is_named(twins, tmp_path):
    twins.write_cvact(tmp_path, 3, 1, 2)
    for side, ending in (("streetview", "grdView"), ("satview_polish", "satView_polish")):
        (tmp_path / f"ANU_data_test/{side}/zzz_{ending}.jpg").touch()
    with pytest.raises(DatasetError, match="panoIds lacks zzz"):
        cvact.load(tmp_path, "test")
