"""A region as files: what is in them, and that a run that was cut off goes on."""

import datetime
import json
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import shapely

import tiles
from geoview.data.queries import find_queries
from geoview.errors import OutputExistsError, RenderError
from geoview.render import region
from geoview.render.places import place_from_files
from geoview.render.region import write_region
from geoview.render.scene import Cover, Grid, Scene

FILES = {"region.json", "heights.tif", "districts.geojson", "objects.geojson", "photos.csv"}
DATES = (datetime.date(2021, 6, 1), datetime.date(2023, 10, 1))


def world(size_m=(260, 220), seed=1):
    """Returns a world of one house and one road on a slope; the house is higher at the second date."""
    width, height = size_m
    grid = Grid("EPSG:32719", 350_000.0, 6_250_000.0, 1.0, (height, width))

    def state(epoch):
        rng = np.random.default_rng([seed, epoch])
        terrain = np.repeat(np.linspace(500, 510, height, dtype=np.float32)[:, None], width, axis=1)
        surface, cover = terrain.copy(), np.zeros(grid.shape, np.uint8)
        house = slice(100, 120), slice(20, 60)
        surface[house] += 6.0 + epoch
        cover[house] = Cover.BUILDING
        coarse = rng.integers(60, 180, (-(-height // 10), -(-width // 10), 3))
        albedo = np.kron(coarse, np.ones((10, 10, 1)))[:height, :width].astype(np.uint8)
        roads = np.zeros(grid.shape, bool)
        roads[:, 120:130] = True
        road = SimpleNamespace(
            kind="road", geometry=shapely.LineString([(125, 0), (125, height)]), properties={"lanes": 2}
        )
        parts = {"surface_m": surface, "terrain_m": terrain, "cover": cover, "standing": cover == Cover.GROUND}
        return SimpleNamespace(
            albedo=albedo,
            roads=roads,
            date=DATES[epoch],
            objects=[road],
            scene=lambda: Scene(grid, albedo, seed=seed, **parts),
            **parts,
        )

    districts = [("District 1", shapely.box(0, 0, 125, height)), ("District 2", shapely.box(125, 0, width, height))]
    return SimpleNamespace(style="toy", seed=seed, grid=grid, districts=districts, state=state)


def write(out, n=(2, 2), a_world=None, **changes):
    settings = {"seed": 3, "range_m": 60.0, "num_workers": 1} | changes
    return write_region(a_world or world(), out, n_panoramas=n[0], n_perspective=n[1], **settings)


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("region")
    return SimpleNamespace(out=out, plan=write(out))


def test_all_files_are_there(written):
    names = set(content(written.out))
    photos = {f"photos/{kind}_{i:05d}.jpg" for kind in ("panorama", "perspective") for i in range(2)}
    assert names == FILES | photos | {"ortho_2021-06-01.tif", "ortho_2023-10-01.tif"}


def test_the_plan_tells_the_chips_from_the_rest(written):
    plan = json.loads((written.out / "region.json").read_text())
    assert plan == written.plan
    assert plan["reference"] == "ortho_2023-10-01.tif" and plan["photos"]["epoch"] == 0
    assert [e["date"] for e in plan["epochs"]] == ["2021-06-01", "2023-10-01"]
    assert plan["epochs"][0]["sensor"] != plan["epochs"][1]["sensor"]
    assert (plan["style"], plan["world_seed"], plan["seed"]) == ("toy", 1, 3)


@pytest.mark.parametrize("date", DATES)
def test_orthophotos_are_cogs_on_the_worlds_grid(written, date):
    path = written.out / f"ortho_{date}.tif"
    with rasterio.open(path) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.shape == (220, 260) and dataset.count == 3
        assert dataset.crs.to_epsg() == 32719 and dataset.transform == world().grid.transform
    source = tiles.open_source(str(path))
    assert source.date == date.isoformat()
    chip = source.chip(tuple(world().grid.latlon_deg(np.array([130.0, 110.0]))), size_px=64, gsd_m=1.0)
    assert chip.valid.all() and chip.pixels.std() > 10


def test_large_rasters_have_overviews(tmp_path):
    grid = Grid("EPSG:32633", 500_000.0, 5_000_000.0, 0.5, (1300, 1100))
    region.write_ortho(tmp_path / "o.tif", np.zeros((1300, 1100, 3), np.uint8), grid, DATES[0])
    with rasterio.open(tmp_path / "o.tif") as dataset:
        assert dataset.overviews(1) == [2, 4]


def test_heights_carry_names_and_units(written):
    with rasterio.open(written.out / "heights.tif") as dataset:
        assert dataset.descriptions == ("surface", "terrain") and dataset.units == ("metre", "metre")
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        state = world().state(0)
        assert np.abs(dataset.read(1) - state.surface_m).max() < 0.01
        assert np.abs(dataset.read(2) - state.terrain_m).max() < 0.01


def test_outlines_are_longitude_first_and_where_they_should(written):
    grid = world().grid
    for name, properties in (("districts", {"name": "District 1"}), ("objects", {"kind": "road", "lanes": 2})):
        feature = json.loads((written.out / f"{name}.geojson").read_text())["features"][0]
        assert feature["properties"] == properties
        lonlat = shapely.get_coordinates(shapely.geometry.shape(feature["geometry"]))
        xy_m = grid.xy_m(lonlat[:, ::-1])
        expected = shapely.get_coordinates(
            world().districts[0][1] if name == "districts" else world().state(1).objects[0].geometry
        )
        assert np.abs(xy_m - expected).max() < 0.02


def test_photos_are_listed_and_far_from_the_edge(written):
    queries = find_queries([written.out / "photos.csv"])
    assert [q.fov_deg == 360 for q in queries] == [True, True, False, False]
    xy_m = world().grid.xy_m(np.array([q.latlon_deg for q in queries]))
    assert (xy_m >= 59.9).all() and (xy_m <= np.array(world().grid.size_m) - 59.9).all()
    for query in queries:
        assert abs(query.captured_at.date() - DATES[0]) <= datetime.timedelta(days=7)


def test_the_files_are_a_place_to_photograph(written):
    place = place_from_files(written.out / "ortho_2021-06-01.tif", written.out / "heights.tif")
    assert place.day == DATES[0] and place.scene.grid == world().grid
    # Green roofs would be taken for trees: that something stands there is what heights tell.
    assert ((place.scene.cover != Cover.GROUND) == (world().state(0).cover != Cover.GROUND)).mean() > 0.99


def test_it_is_the_same_every_time(written, tmp_path):
    write(tmp_path / "again", num_workers=2)
    assert content(tmp_path / "again") == content(written.out)


def test_what_was_cut_off_goes_on_and_what_is_there_is_kept(written, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(region, "write_features", full)
        with pytest.raises(OSError, match="No space"):
            write(tmp_path)
    assert set(content(tmp_path)) == {"region.json", "heights.tif", "ortho_2021-06-01.tif", "ortho_2023-10-01.tif"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tif")}
    write(tmp_path)
    assert content(tmp_path) == content(written.out)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_need_another_folder_or_overwriting(tmp_path):
    write(tmp_path, n=(3, 0))
    with pytest.raises(OutputExistsError, match=r"region\.json: written with another photos\.panoramas"):
        write(tmp_path, n=(1, 0))
    write(tmp_path, n=(1, 0), overwrite=True)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["panorama_00000.jpg"]


def test_only_what_is_needed_is_written(tmp_path):
    plan = write(tmp_path, n=(0, 0), epochs=(1,))
    assert set(content(tmp_path)) == FILES - {"photos.csv"} | {"ortho_2023-10-01.tif"}
    assert plan["reference"] == "ortho_2023-10-01.tif" and len(plan["epochs"]) == 1


def test_a_region_too_small_for_its_photos_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(RenderError, match=r"110 x 300 m is too small for photos that see 60 m"):
        write(tmp_path / "out", a_world=world((110, 300)))
    assert not (tmp_path / "out").exists()
    assert write(tmp_path / "out", n=(0, 0), a_world=world((110, 300)))["size_m"] == [110, 300]
