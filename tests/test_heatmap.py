"""Heat maps: no probability is lost, every cell is drawn where it lies, and a GIS knows where that is."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geoview import heatmap
from geoview.errors import ConfigError, OutputExistsError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.heatmap import HeatGrid, heat_map_files, heat_maps
from geoview.index.cell_index import CellIndex
from geoview.locate.localizer import Localization
from geoview.locate.posterior import Posterior

PLACES = [(48.2, 16.4), (-33.45, -70.66), (-17.0, 180.0), (-17.0, -179.9), (78.2, 15.6), (90.0, 0.0), (-90.0, 0.0)]


@pytest.fixture(scope="module")
def index(index_folder):
    """As if it were calibrated."""
    opened = CellIndex.open(index_folder)
    opened.manifest = replace(opened.manifest, calibration={})
    return opened


def around(latlon_deg, radius_m=700.0, level=16):
    return Region.disc(latlon_deg, radius_m).cells(level)


def certain(cell_id):
    return Posterior(np.array([cell_id], np.uint64), np.array([1.0]))


def mass_in(grid, density):
    return np.nan_to_num(density.astype(np.float64)) * grid.areas_km2[:, None]


def middles_deg(grid):
    """(H, W, 2) latitude and longitude of the middles of pixels, as GDAL has them."""
    row, column = np.indices(grid.cell.shape) + 0.5
    lat, lon = grid.transform.f + grid.transform.e * row, grid.transform.c + grid.transform.a * column
    return np.stack([lat, (lon + 180.0) % 360.0 - 180.0], axis=-1)


@pytest.fixture
def few_pixels(monkeypatch):
    """Pictures too small to show every cell."""
    monkeypatch.setattr(heatmap, "_MOST_PX", 12)
    monkeypatch.setattr(heatmap, "_LEAST_PX", 1)


@given(
    latlon_deg=st.tuples(st.floats(-90, 90), st.floats(-180, 180)) | st.sampled_from(PLACES),
    radius_m=st.floats(1.0, 900.0),
    level=st.integers(13, 17),
    seed=st.integers(0, 2**32 - 1),
    most_px=st.sampled_from([1, 7, 40, 200]),
)
@settings(max_examples=60, deadline=None)
def test_no_probability_is_lost(latlon_deg, radius_m, level, seed, most_px):
    rng = np.random.default_rng(seed)
    ids = around(latlon_deg, radius_m, level)
    chosen = np.flatnonzero(rng.random(len(ids)) < 0.5)
    share = rng.random() if len(chosen) < len(ids) else 1.0
    posterior = Posterior(ids[chosen], share * rng.dirichlet(np.ones(len(chosen))) if len(chosen) else np.empty(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heatmap, "_MOST_PX", most_px)
        patch.setattr(heatmap, "_LEAST_PX", min(most_px, 40))
        grid = HeatGrid.over(ids)
    density = grid.density(posterior)
    assert max(density.shape) <= most_px
    assert mass_in(grid, density).sum() == pytest.approx(1.0, abs=1e-5)
    assert np.nanmin(density) >= 0


@pytest.mark.parametrize("latlon_deg", PLACES)
def test_a_certain_cell_lies_where_it_should(latlon_deg):
    ids = around(latlon_deg)
    grid = HeatGrid.over(ids)
    for cell in ids[[0, len(ids) // 2, -1]]:
        mass = mass_in(grid, grid.density(certain(cell)))
        inside = cells.cell_ids(middles_deg(grid), 16) == cell
        assert (mass > 0).tolist() == inside.tolist()
        # All of it, and in its middle.
        assert mass.sum() == pytest.approx(1.0, abs=1e-5)
        mean_m = (mass[inside] * distance_m(cells.centers_deg(cell), middles_deg(grid)[inside])).sum()
        assert mean_m < 75


@pytest.mark.parametrize("latlon_deg", PLACES)
def test_the_ground_outside_the_cells_is_not_drawn(latlon_deg):
    ids = around(latlon_deg)
    grid = HeatGrid.over(ids)
    drawn = ~np.isnan(grid.density(certain(ids[0])))
    assert drawn.tolist() == np.isin(cells.cell_ids(middles_deg(grid), 16), ids).tolist()
    assert not drawn.all()
    assert (grid.n_pixels > 0).all()


@pytest.mark.parametrize("latlon_deg", PLACES[:5])
def test_densities_are_per_km2_and_pixels_are_square_on_the_ground(latlon_deg):
    ids = around(latlon_deg)
    grid = HeatGrid.over(ids)
    density = grid.density(Posterior(ids[:0], np.empty(0)))
    assert np.nanmedian(density) == pytest.approx(1e6 / (len(ids) * cells.areas_m2(ids).mean()), rel=0.02)
    height, width = grid.cell.shape
    assert max(height, width) == 512
    middle = middles_deg(grid)[height // 2, width // 2]
    down = distance_m(middle, middles_deg(grid)[height // 2 + 1, width // 2])
    right = distance_m(middle, middles_deg(grid)[height // 2, width // 2 + 1])
    assert right == pytest.approx(down, rel=0.01)


def test_a_picture_across_the_date_line_goes_on_beyond_180_degrees():
    grid = HeatGrid.over(around((-17.0, 180.0)))
    west, east = grid.transform.c, grid.transform.c + grid.transform.a * grid.cell.shape[1]
    assert 179.9 < west < 180 < east < 180.1
    assert (grid.cell[:, :200] >= 0).any() and (grid.cell[:, -200:] >= 0).any()


def test_round_a_pole_the_picture_has_all_longitudes():
    grid = HeatGrid.over(around((90.0, 0.0)))
    assert (grid.transform.c, grid.transform.f) == (-180.0, 90.0)
    assert grid.transform.a * grid.cell.shape[1] == pytest.approx(360.0)


def test_cells_smaller_than_pixels_are_summed_where_their_middles_are(few_pixels):
    ids = around((-33.45, -70.66), 2000.0)
    grid = HeatGrid.over(ids)
    assert max(grid.cell.shape) <= 12 < len(ids) ** 0.5
    hidden = np.flatnonzero(grid.n_pixels == 0)
    assert len(hidden) > 100
    for i in hidden[::50]:
        mass = mass_in(grid, grid.density(certain(ids[i])))
        row, column = np.unravel_index(mass.argmax(), mass.shape)
        assert mass[row, column] == pytest.approx(1.0, abs=1e-5)
        away = np.abs(cells.centers_deg(ids[i]) - middles_deg(grid)[row, column])
        assert (away <= [-grid.transform.e / 2 + 1e-12, grid.transform.a / 2 + 1e-12]).all()


def test_what_is_missing_to_one_is_spread_over_the_other_cells():
    ids = around((48.2, 16.4))
    grid = HeatGrid.over(ids)
    mass = mass_in(grid, grid.density(Posterior(ids[3:4], np.array([0.9]))))
    by_cell = np.bincount(grid.cell[grid.cell >= 0], mass[grid.cell >= 0])
    wanted = np.full(len(ids), 0.1 / (len(ids) - 1))
    wanted[3] = 0.9
    assert by_cell == pytest.approx(wanted, rel=1e-5)


def test_a_posterior_of_other_cells_is_an_error():
    ids = around((48.2, 16.4))
    with pytest.raises(ValueError, match="not searched"):
        HeatGrid.over(ids[1:]).density(certain(ids[0]))


def answer(index, at=30, **known):
    cell = np.unique(index.cell_ids())[at]
    return Localization("a.jpg", "ok", [], posterior=certain(cell), calibration="photos", **known)


def drawn(answers, files, index, searched=lambda answer: None):
    return list(heat_maps(answers, files, index, searched))


def test_the_geotiff_tells_a_gis_all_it_needs(tmp_path, index):
    path = tmp_path / "heat.tif"
    told = answer(index)
    assert drawn([told], [path], index) == [told]
    lat, lon = cells.centers_deg(told.posterior.cell_id)[0]
    with rasterio.open(path) as dataset:
        assert dataset.crs == rasterio.crs.CRS.from_epsg(4326)
        assert dataset.dtypes == ("float32",)
        assert np.isnan(dataset.nodata)
        assert (dataset.descriptions, dataset.units) == (("probability per km2",), ("km-2",))
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert "a.jpg" in dataset.tags()["TIFFTAG_IMAGEDESCRIPTION"]
        ((value,),) = dataset.sample([(lon, lat)])
        area_km2 = cells.areas_m2(told.posterior.cell_id)[0] / 1e6
        assert value == pytest.approx(1 / area_km2, rel=0.1)
        west, south, east, north = dataset.bounds
        assert west < lon < east and south < lat < north


def test_large_geotiffs_have_overviews(tmp_path, index, monkeypatch):
    monkeypatch.setattr(heatmap, "_LEAST_PX", 1100)
    drawn([answer(index)], [tmp_path / "heat.tif"], index)
    with rasterio.open(tmp_path / "heat.tif") as dataset:
        assert dataset.overviews(1) == [2, 4]


def test_the_png_is_clear_outside_and_shows_faint_places(tmp_path, index):
    path, ids = tmp_path / "heat.png", np.unique(index.cell_ids())
    posterior = Posterior(ids[[10, 20, 30]], np.array([0.9, 0.0009, 0.00009]))
    drawn([replace(answer(index), posterior=posterior)], [path], index)
    grid = HeatGrid.over(ids)
    with Image.open(path) as image:
        assert "a.jpg" in image.text["Description"]
        pixels = np.asarray(image.convert("RGBA")).astype(int)
    outside = grid.cell < 0
    assert (pixels[outside, 3] == 0).all()
    assert (pixels[~outside, 3] > 0).all()
    shown = [pixels[grid.cell == i].mean(axis=0) for i in (10, 20, 30)]
    for stronger, fainter in pairwise(shown):
        assert stronger[3] > fainter[3] + 10, "less opaque"
        assert np.abs(stronger[:3] - fainter[:3]).max() > 20, "and of another colour"


def test_the_world_file_places_the_png_where_the_geotiff_is(tmp_path, index):
    told = answer(index)
    drawn([told, told], [tmp_path / "heat.png", tmp_path / "heat.tif"], index)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heat.pgw", "heat.png", "heat.tif"]
    with rasterio.open(tmp_path / "heat.png") as png, rasterio.open(tmp_path / "heat.tif") as tif:
        assert png.shape == tif.shape
        assert tuple(png.bounds) == pytest.approx(tuple(tif.bounds), abs=1e-8)


def test_pictures_of_photos_searched_for_in_the_same_cells_lie_upon_one_another(tmp_path, index):
    files = [tmp_path / "1.tif", tmp_path / "2.tif"]
    drawn([answer(index, 3), answer(index, 40)], files, index)
    with rasterio.open(files[0]) as one, rasterio.open(files[1]) as other:
        assert (one.transform, one.shape) == (other.transform, other.shape)
        assert not np.array_equal(one.read(), other.read(), equal_nan=True)


def test_only_the_ground_that_was_searched_is_drawn(tmp_path, index):
    ids = np.unique(index.cell_ids())
    centres = cells.centers_deg(ids)
    answers = [answer(index, i, latlon_deg=tuple(centres[i].tolist())) for i in (5, 50)]
    files = [tmp_path / "1.tif", tmp_path / "2.tif"]
    drawn(answers, files, index, lambda told: Region.disc(told.latlon_deg, 100.0))
    for file, told in zip(files, answers, strict=True):
        with rasterio.open(file) as dataset:
            west, south, east, north = dataset.bounds
            assert (south + north) / 2 == pytest.approx(told.latlon_deg[0], abs=0.002)
            assert (west + east) / 2 == pytest.approx(told.latlon_deg[1], abs=0.002)
            assert north - south < 0.007


def test_a_photo_that_failed_has_no_picture(tmp_path, index):
    failed = Localization("b.jpg", "failed", [], None, "b.jpg: no such file")
    told = [failed, answer(index)]
    assert drawn(told, [tmp_path / "1.tif", tmp_path / "2.tif"], index) == told
    assert [path.name for path in tmp_path.iterdir()] == ["2.tif"]


def test_an_answer_without_probabilities_is_told(tmp_path, index, caplog):
    drawn([replace(answer(index), posterior=None)], [tmp_path / "1.tif"], index)
    assert "a.jpg: no heat map" in caplog.text
    assert not any(tmp_path.iterdir())


def test_each_photo_has_a_file_of_its_own(tmp_path, index):
    out = tmp_path / "heat.tif"
    assert heat_map_files(out, index, ["a/b.jpg"], overwrite=False) == [out]
    odd = b"caf\xe9\n/../x".decode("utf-8", "surrogateescape")
    queries = ["a/b.jpg", "c/b.jpg", odd + ".jpg", "東京 1.jpg", "y" * 200, *map(str, range(5))]
    files = heat_map_files(out, index, queries, overwrite=False)
    names = ["heat_01_b.tif", "heat_02_b.tif", "heat_03_x.tif", "heat_04_東京_1.tif", f"heat_05_{'y' * 40}.tif"]
    assert [file.name for file in files[:5]] == names
    assert {file.parent for file in files} == {tmp_path}
    assert len(set(files)) == len(queries)


def test_heat_maps_are_refused_before_any_work(tmp_path, index, index_folder):
    out = tmp_path / "heat.png"
    with pytest.raises(ConfigError, match=r"not calibrated.*geoview index calibrate"):
        heat_map_files(out, CellIndex.open(index_folder), ["a.jpg"], overwrite=True)
    with pytest.raises(ConfigError, match=r"unknown format \.jpg; write to \.tif, \.png"):
        heat_map_files(tmp_path / "heat.jpg", index, ["a.jpg"], overwrite=True)
    with pytest.raises(ConfigError, match="there is no folder"):
        heat_map_files(tmp_path / "none" / "heat.tif", index, ["a.jpg"], overwrite=True)
    (tmp_path / "heat_2_b.png").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"heat_2_b\.png.*--overwrite"):
        heat_map_files(out, index, ["a.jpg", "b.jpg"], overwrite=False)
    heat_map_files(out, index, ["a.jpg", "b.jpg"], overwrite=True)
    (tmp_path / "heat.pgw").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"heat\.pgw"):
        heat_map_files(out, index, ["a.jpg"], overwrite=False)
