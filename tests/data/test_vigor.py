"""VIGOR as it is distributed, in small; and its real labels."""

import re
from pathlib import Path

import numpy as np
import pytest

from geoview.data import vigor
from geoview.errors import DatasetError
from geoview.geo.sphere import distance_m

ZOOM_20_M = 156_543.03392804097 / 2**20


def away_m(latlon_deg, tile_deg, offset_px):
    """How far a position is from where its offset in a tile of Web Mercator's zoom 20 puts it."""
    gsd_m = ZOOM_20_M * np.cos(np.radians(tile_deg[..., 0]))
    east_m, north_m = gsd_m * offset_px[..., 0], -gsd_m * offset_px[..., 1]
    scale = 111_319.49
    put_deg = tile_deg + np.stack([north_m / scale, east_m / scale / np.cos(np.radians(tile_deg[..., 0]))], axis=-1)
    return distance_m(put_deg, latlon_deg)


@pytest.mark.parametrize("layout", ["official", "sample4geo"])
def test_both_layouts(twins, tmp_path, layout):
    twins.write_vigor(tmp_path, layout=layout)
    table = vigor.load(tmp_path, "same_test")
    assert (len(table), len(table.reference_path)) == (12, 64)
    assert all(Path(path).is_file() for path in table.query_path + table.reference_path)
    assert len(set(table.reference_path)) == 64
    assert set(table.fov_deg) == {360.0}


def test_positions_come_from_the_names(twins, tmp_path):
    twins.write_vigor(tmp_path)
    table = vigor.load(tmp_path, "same_test")
    for path, latlon in zip(table.query_path, table.latlon_deg, strict=True):
        assert re.search(r"[^/]*,(-?[\d.]+),(-?[\d.]+),\.jpg$", path).groups() == tuple(f"{v:.6f}" for v in latlon)
    for path, latlon in zip(table.reference_path, table.reference_latlon_deg, strict=True):
        assert [float(v) for v in Path(path).stem.split("_")[1:]] == latlon.tolist()


@pytest.mark.parametrize(("labels", "far_m"), [("corrected", 0.15), ("original", 5.5)])
def test_offsets_are_right_and_down_of_a_tile_s_centre(twins, tmp_path, labels, far_m):
    twins.write_vigor(tmp_path, corrected=True)
    table = vigor.load(tmp_path, "same_train", labels)
    tiles = np.concatenate([table.positive[:, None], table.semi_positive], axis=1)
    assert tiles.min() >= 0
    errors_m = away_m(table.latlon_deg[:, None], table.reference_latlon_deg[tiles], table.offset_px)
    assert errors_m.max() < far_m
    # Where the original labels are off, it is by the ratio of the resolutions.
    assert (errors_m.max() > 1.0) == (labels == "original")
    assert np.abs(table.offset_px).max() <= 320 * 1.02


def test_either_labels_will_do_and_have_the_same_tiles(twins, tmp_path):
    twins.write_vigor(tmp_path, corrected=True)
    original, corrected = (vigor.load(tmp_path, "cross_test", labels) for labels in ("original", "corrected"))
    assert original.query_path == corrected.query_path
    assert original.reference_path == corrected.reference_path
    np.testing.assert_array_equal(original.positive, corrected.positive)
    assert (original.offset_px != corrected.offset_px).any()


def test_labels_that_are_not_there_are_named_with_their_page(twins, tmp_path):
    twins.write_vigor(tmp_path)
    with pytest.raises(DatasetError, match=r"splits__corrected/Chicago.*: not there.*tudelft-iv/SliceMatch"):
        vigor.load(tmp_path, "same_train", "corrected")
    (tmp_path / "splits/Seattle/same_area_balanced_test.txt").unlink()
    with pytest.raises(DatasetError, match=r"splits/Seattle/same_area_balanced_test\.txt: not there.*Jeff-Zilence/VIG"):
        vigor.load(tmp_path, "same_test")
    assert len(vigor.load(tmp_path, "cross_test"))


def test_corrected_labels_do_without_the_original_ones(twins, tmp_path):
    twins.write_vigor(tmp_path, corrected=True, original=False)
    assert len(vigor.load(tmp_path, "cross_train", "corrected")) == 12


def test_galleries(twins, tmp_path):
    twins.write_vigor(tmp_path, 1, 2, grid=5)
    tables = {split: vigor.load(tmp_path, split) for split in ("same_train", "same_test", "cross_train", "cross_test")}
    sizes = {split: (len(table), len(table.reference_path)) for split, table in tables.items()}
    assert sizes["same_test"] == (8, 100)
    assert sizes["cross_test"] == (6, 50)
    assert sizes["same_train"] == (4, 16)  # what shows a query, and nothing else
    assert sizes["cross_train"][0] == 6
    cities = {split: {Path(p).parts[-3] for p in table.reference_path} for split, table in tables.items()}
    assert cities["cross_train"] == {"NewYork", "Seattle"}
    assert cities["cross_test"] == {"Chicago", "SanFrancisco"}
    for table in tables.values():
        shown = np.unique(np.concatenate([table.positive, table.semi_positive.ravel()]))
        assert (len(shown) == len(table.reference_path)) == ("train" in table.name)
        np.testing.assert_array_equal(table.place, table.positive)
        np.testing.assert_array_equal(table.reference_place, np.arange(len(table.reference_path)))
        # A query lies in its own city's tiles, wherever these stand in the gallery.
        assert distance_m(table.latlon_deg, table.reference_latlon_deg[table.positive]).max() < 40


def test_each_query_has_its_city(twins, tmp_path):
    twins.write_vigor(tmp_path)
    table = vigor.load(tmp_path, "cross_test")
    assert set(table.city) == {"Chicago", "SanFrancisco"}
    assert all(f"/{city}/" in path for city, path in zip(table.city, table.query_path, strict=True))


def test_tiles_are_shared_between_panoramas(twins, tmp_path):
    twins.write_vigor(tmp_path, 30, 1, grid=3)
    table = vigor.load(tmp_path, "same_train")
    assert np.bincount(table.positive).max() > 1
    assert np.intersect1d(table.positive, table.semi_positive).size > 0
    assert not (table.positive[:, None] == table.semi_positive).any()


def labels_of(tmp_path, *lines):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(lines))
    return path


TILES = " ".join(f"satellite_41.85{i}_-87.69.png {dy} {dx}" for i, (dy, dx) in enumerate([(-71.0, -141.0)] * 4))


def test_names_and_numbers_as_they_occur(tmp_path):
    names = ["a_-,_b,41.5,-87.6,.jpg", "Kcu-_-q,41.854423,-87.682638,.jpg"]
    documented = TILES.replace(".png", ".jpg").replace("-71.0", "183").replace("-141.0", "-1.5e2")
    labels = vigor.read_labels(labels_of(tmp_path, f"{names[0]} {TILES}", f"{names[1]}\t{documented}"))
    assert labels.panorama == names
    assert labels.tile[0] == labels.tile[1] == [f"satellite_41.85{i}_-87.69.png" for i in range(4)]
    np.testing.assert_array_equal(labels.offset_px[0], [[141, -71]] * 4)
    np.testing.assert_array_equal(labels.offset_px[1], [[150, 183]] * 4)
    assert labels.offset_px.dtype == np.float32
    path = tmp_path / "satellite_list.txt"
    path.write_text("satellite_1_2.jpg\nsatellite_1_3.png")
    assert vigor.read_tiles(path) == ["satellite_1_2.png", "satellite_1_3.png"]


@pytest.mark.parametrize("line", ["a,1,2,.jpg", f"a,1,2,.jpg {TILES} 5", "a,1,2,.jpg " + TILES.replace("-71.0", "x")])
def test_a_line_that_cannot_be_is_named(tmp_path, line):
    path = labels_of(tmp_path, f"a,1,2,.jpg {TILES}", "", line)
    with pytest.raises(DatasetError, match=rf"{path}:3: 'a,1,2"):
        vigor.read_labels(path)


def first_label(root, split="same_area_balanced_train"):
    return vigor.read_labels(root / f"splits/Chicago/{split}.txt")


@pytest.mark.parametrize("which", ["panorama", "satellite"])
def test_too_many_missing_images_are_named(twins, tmp_path, which):
    twins.write_vigor(tmp_path)
    label = first_label(tmp_path)
    name = label.panorama[0] if which == "panorama" else label.tile[0][0]
    (tmp_path / "Chicago" / which / name).unlink()
    with pytest.raises(DatasetError, match=f"Chicago/{which}/{re.escape(name)}"):
        vigor.load(tmp_path, "same_train")


def test_a_few_missing_tiles_are_left_out_of_the_gallery(twins, tmp_path, caplog):
    twins.write_vigor(tmp_path, 2, 1, grid=6)
    whole = vigor.load(tmp_path, "same_train")
    label = first_label(tmp_path)
    gone = label.tile[0][3]
    assert gone not in [row[0] for row in label.tile], "the twin's seed no longer fits this test"
    (tmp_path / "Chicago/satellite" / gone).unlink()
    table = vigor.load(tmp_path, "same_train")
    assert gone in caplog.text
    assert not any(path.endswith(gone) for path in table.reference_path)
    assert table.query_path == whole.query_path
    assert table.semi_positive[0, 2] == -1
    assert np.isnan(table.offset_px[0, 3]).all()
    assert np.isfinite(table.offset_px[0, :3]).all()
    for one, other in ((whole, table), (table, whole)):
        assert [one.reference_path[i] for i in one.positive] == [other.reference_path[i] for i in other.positive]


def test_a_missing_positive_takes_its_query_along(twins, tmp_path, caplog):
    twins.write_vigor(tmp_path, 1, 1, grid=6)
    gone = first_label(tmp_path).tile[0][0]
    (tmp_path / "Chicago/satellite" / gone).unlink()
    table = vigor.load(tmp_path, "same_train")
    assert len(table) == 3
    assert not any("Chicago" in path for path in table.query_path)
    assert gone in caplog.text


def test_a_tile_that_the_list_lacks_is_named(twins, tmp_path):
    twins.write_vigor(tmp_path)
    path = tmp_path / "splits/Chicago/satellite_list.txt"
    gone = first_label(tmp_path).tile[1][2]
    path.write_text(path.read_text().replace(f"{gone}\n", ""))
    with pytest.raises(DatasetError, match=rf"names the tile {re.escape(gone)}, which satellite_list\.txt lacks"):
        vigor.load(tmp_path, "same_train")


def test_a_name_without_a_position_is_named(twins, tmp_path):
    twins.write_vigor(tmp_path)
    label = first_label(tmp_path)
    path = tmp_path / "splits/Chicago/same_area_balanced_train.txt"
    path.write_text(path.read_text().replace(label.panorama[0], "a,b,c,.jpg"))
    (tmp_path / "Chicago/panorama" / label.panorama[0]).rename(tmp_path / "Chicago/panorama/a,b,c,.jpg")
    with pytest.raises(DatasetError, match=r"a,b,c,\.jpg: a VIGOR image is named by"):
        vigor.load(tmp_path, "same_train")


# -- the real labels ---------------------------------------------------------------------------------------------------

#: City: tiles, panoramas for training and testing, unique positives of each and of both, rows with a nearer tile.
REAL = {
    "Chicago": (22_308, (12_740, 12_739), (9_599, 9_594, 12_977), 28),
    "NewYork": (23_279, (13_885, 13_884), (10_646, 10_630, 14_916), 33),
}


@pytest.fixture(scope="module")
def real_splits(real_data):
    folder = real_data / "vigor_splits"
    if not folder.is_dir():
        pytest.skip(f"no labels of VIGOR at {folder}")
    return folder


def test_real_lists_of_tiles(real_splits):
    for city, count in (("Chicago", 22_308), ("NewYork", 23_279), ("SanFrancisco", 24_255)):
        tiles = vigor.read_tiles(real_splits / city / "satellite_list.txt")
        assert len(tiles) == len(set(tiles)) == count


@pytest.mark.parametrize("city", REAL)
def test_real_labels(real_splits, city):
    n_tiles, counts, unique, nearer = REAL[city]
    tiles = set(vigor.read_tiles(real_splits / city / "satellite_list.txt"))
    assert len(tiles) == n_tiles
    names = [f"same_area_balanced_{kind}__corrected.txt" for kind in ("train", "test")]
    both = [vigor.read_labels(real_splits / city / name) for name in names]
    assert tuple(len(labels.panorama) for labels in both) == counts
    assert len({name for labels in both for name in labels.panorama}) == sum(counts)
    positives = [{row[0] for row in labels.tile} for labels in both]
    assert (*map(len, positives), len(positives[0] | positives[1])) == unique
    assert {tile for labels in both for row in labels.tile for tile in row} <= tiles
    distances_px = np.hypot(*np.concatenate([labels.offset_px for labels in both]).T).T
    assert (distances_px.argmin(axis=1) != 0).sum() == nearer


@pytest.mark.parametrize("city", REAL)
def test_real_offsets_are_where_the_coordinates_say(real_splits, city):
    labels = vigor.read_labels(real_splits / city / "same_area_balanced_train__corrected.txt")
    latlon_deg = np.array([name.split(",")[1:3] for name in labels.panorama], np.float64)
    tile_deg = np.array([[tile[:-4].split("_")[1:] for tile in row] for row in labels.tile], np.float64)
    errors_m = away_m(latlon_deg[:, None], tile_deg, labels.offset_px)
    assert np.median(errors_m[:, 0]) < 0.2
    assert errors_m.max() < 0.8
    # The other way round they would be tens of metres off.
    for mirror in ([-1, 1], [1, -1]):
        assert np.median(away_m(latlon_deg[:, None], tile_deg, labels.offset_px * mirror)) > 15
    assert np.abs(labels.offset_px[:, 0]).max() > 160
