"""Real places from files, and what is refused."""

import json
import logging

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine
from scipy import ndimage

from geoview.errors import RegionError, RenderError
from geoview.render.places import place_from_files, scene_from_files
from geoview.render.scene import Cover
from tiles import TilesError

CRS, LEFT, TOP, GSD_M, SIDE = "EPSG:26911", 456_500.0, 3_752_300.0, 0.5, 300
HOUSE, TREE = (slice(60, 90), slice(100, 140)), (slice(200, 216), slice(50, 66))


def write(path, data, *, crs=CRS, transform=None, names=(), units=(), **profile):
    transform = transform or Affine(GSD_M, 0, LEFT, 0, -GSD_M, TOP)
    options = {"driver": "GTiff", "count": len(data), "height": data.shape[1], "width": data.shape[2]}
    with rasterio.open(path, "w", dtype=data.dtype, crs=crs, transform=transform, **options, **profile) as dataset:
        dataset.write(data)
        for band, name in enumerate(names, 1):
            dataset.set_band_description(band, name)
        if units:
            dataset.units = units
    return path


def colours():
    data = np.full((3, SIDE, SIDE), 130, np.uint8)
    data[:, HOUSE[0], HOUSE[1]] = np.array([160, 80, 60])[:, None, None]
    data[:, TREE[0], TREE[1]] = np.array([50, 100, 40])[:, None, None]
    return data


def hills():
    y, x = np.mgrid[:SIDE, :SIDE] * GSD_M
    return (300 + 0.05 * x + 3 * np.sin(y / 60)).astype(np.float32)


def tops():
    surface = hills()
    surface[HOUSE] += 8
    surface[TREE] += 6
    return surface


@pytest.fixture
def ortho(tmp_path):
    return write(tmp_path / "o.tif", colours())


def points(path, lonlat_or_xy, crs=None):
    features = [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": list(p)}}
        for p in lonlat_or_xy
    ]
    content = {"type": "FeatureCollection", "features": features}
    if crs:
        content["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(content))
    return path


def test_a_surface_becomes_houses_and_trees_on_bare_ground(ortho, tmp_path):
    scene = scene_from_files(ortho, write(tmp_path / "h.tif", tops()[None]))
    assert (scene.grid.crs, scene.grid.left_m, scene.grid.top_m, scene.grid.gsd_m) == (CRS, LEFT, TOP, GSD_M)
    assert (scene.texture == np.moveaxis(colours(), 0, -1)).all()
    assert np.abs(scene.surface_m - tops()).max() < 1e-3
    assert np.abs(scene.terrain_m - hills()).max() < 1.0
    assert (scene.cover[HOUSE] == Cover.BUILDING).all()
    assert (scene.cover[TREE] == Cover.CANOPY).mean() > 0.9
    rest = np.ones((SIDE, SIDE), bool)
    rest[HOUSE] = rest[TREE] = False
    assert (scene.cover[rest] == Cover.GROUND).all()
    assert (scene.standing == (scene.cover == Cover.GROUND)).all()


def test_a_terrain_band_is_believed(ortho, tmp_path):
    bare = hills() - 1.5
    heights = write(tmp_path / "h.tif", np.stack([tops(), bare]), names=("surface", "Terrain"))
    assert np.abs(scene_from_files(ortho, heights).terrain_m - bare).max() < 1e-3


def test_heights_of_another_grid_are_aligned_and_said_so(ortho, tmp_path, caplog):
    coarse = tops().reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3))
    apart = np.pad(coarse, 20, mode="edge")
    transform = Affine(1.0, 0, LEFT - 20, 0, -1.0, TOP + 20)
    heights = write(tmp_path / "h.tif", apart[None], transform=transform)
    with caplog.at_level(logging.INFO, "geoview"):
        scene = scene_from_files(ortho, heights)
    assert "h.tif: not on the orthophoto's grid" in caplog.text
    inner = ndimage.binary_erosion(scene.cover == Cover.GROUND, iterations=6)
    assert np.abs(scene.surface_m - tops())[inner].max() < 0.1


def test_heights_of_another_crs_are_aligned(ortho, tmp_path):
    from rasterio.warp import reproject

    transform = Affine(5e-6, 0, -117.4715, 0, -5e-6, 33.9105)
    degrees = np.full((500, 700), np.nan, np.float32)
    source = {"src_transform": Affine(GSD_M, 0, LEFT, 0, -GSD_M, TOP), "src_crs": CRS}
    reproject(
        tops(), degrees, **source, dst_transform=transform, dst_crs="EPSG:4326", dst_nodata=np.nan, src_nodata=np.nan
    )
    place = place_from_files(ortho, write(tmp_path / "h.tif", degrees[None], crs="EPSG:4326", transform=transform))
    seen = place.valid & (place.scene.cover == Cover.GROUND)
    assert seen.mean() > 0.5
    inner = ndimage.binary_erosion(seen, iterations=6)
    assert np.abs(place.scene.surface_m - tops())[inner].max() < 0.2


def test_what_has_no_data_is_no_part_of_the_place(tmp_path):
    surface = tops()
    surface[:, 250:] = -9999
    place = place_from_files(
        write(tmp_path / "o.tif", colours(), nodata=None), write(tmp_path / "h.tif", surface[None], nodata=-9999)
    )
    assert place.valid[:, :250].all() and not place.valid[:, 250:].any()
    assert np.isfinite(place.scene.surface_m).all() and np.isfinite(place.scene.terrain_m).all()
    assert not place.scene.standing[:, 250:].any()


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(5e-6, 0, -117.47, 0, -5e-6, 33.91)),
        ("EPSG:3857", Affine(0.6, 0, -13_076_700.0, 0, -0.6, 4_016_000.0)),
        ("EPSG:2230", Affine(1.6, 0, 6_200_000.0, 0, -1.6, 2_250_000.0)),  # US survey feet
        (CRS, Affine(0.43, 0.25, LEFT, 0.25, -0.43, TOP)),  # turned
        ("EPSG:32719", None),
    ],
)
def test_any_crs_becomes_a_north_up_grid_of_true_metres(tmp_path, crs, transform, caplog):
    heights = np.full((1, SIDE, SIDE), 50.0, np.float32)
    files = [
        write(tmp_path / n, d, crs=crs, transform=transform) for n, d in (("o.tif", colours()), ("h.tif", heights))
    ]
    with caplog.at_level(logging.INFO, "geoview"):
        place = place_from_files(*files)
    grid = place.scene.grid
    assert ("reprojected to EPSG:" in caplog.text) == (crs != "EPSG:32719")
    assert grid.crs[:8] in ("EPSG:326", "EPSG:327")
    # The house is where it was: its middle, by the file's own georeference.
    with rasterio.open(files[0]) as dataset:
        x, y = rasterio.transform.xy(dataset.transform, 75.0, 120.0, offset="ul")
        [lon], [lat] = rasterio.warp.transform(dataset.crs, "OGC:CRS84", [x], [y])
    column, row = grid.xy_m(np.array([lat, lon])) / grid.gsd_m
    red = place.valid & (place.scene.texture[..., 0] > place.scene.texture[..., 1] + 50)
    rows, columns = np.nonzero(red)
    assert abs(rows.mean() + 0.5 - row) < 1.0 and abs(columns.mean() + 0.5 - column) < 1.0


def test_neither_or_both_of_heights_and_trees(ortho, tmp_path):
    heights = write(tmp_path / "h.tif", tops()[None])
    trees = points(tmp_path / "t.geojson", [(LEFT + 50, TOP - 50)], CRS)
    for both in ((), (heights, trees)):
        with pytest.raises(RenderError, match=r"o\.tif: .*heights .* or trees"):
            place_from_files(ortho, *both)


@pytest.mark.parametrize("unit", ["ft", "foot", "US-ft", "us survey foot"])
def test_heights_in_feet_are_refused_by_name_and_read_when_said(ortho, tmp_path, unit):
    heights = write(tmp_path / "h.tif", (tops() / 0.3048).astype(np.float32)[None], units=(unit,))
    with pytest.raises(RenderError, match=rf"h\.tif: .*'{unit}'.*--heights_unit ft"):
        place_from_files(ortho, heights)
    scene = place_from_files(ortho, heights, heights_unit="ft").scene
    assert np.abs(scene.surface_m - tops()).max() < 0.01


def test_feet_of_a_vertical_crs_are_found(ortho, tmp_path):
    heights = write(tmp_path / "h.tif", tops()[None], crs="EPSG:26911+6360")  # NAVD88 height (ftUS)
    with pytest.raises(RenderError, match="US survey foot"):
        place_from_files(ortho, heights)


@pytest.mark.parametrize("value", [-32768.0, 1e5])
def test_impossible_heights_are_named(ortho, tmp_path, value):
    surface = tops()
    surface[5, 5] = value
    with pytest.raises(RenderError, match=r"h\.tif: heights from .* cannot be.*a_nodata"):
        place_from_files(ortho, write(tmp_path / "h.tif", surface[None]))


def test_heights_elsewhere_missing_or_broken(ortho, tmp_path):
    elsewhere = write(tmp_path / "far.tif", tops()[None], transform=Affine(GSD_M, 0, LEFT + 5000, 0, -GSD_M, TOP))
    with pytest.raises(RenderError, match=r"far\.tif: has no heights where .*o\.tif has imagery"):
        place_from_files(ortho, elsewhere)
    with pytest.raises(RenderError, match=r"none\.tif: no such file"):
        place_from_files(ortho, tmp_path / "none.tif")
    (tmp_path / "broken.tif").write_bytes(b"II*\0nothing")
    with pytest.raises(RenderError, match=r"broken\.tif: cannot be read"):
        place_from_files(ortho, tmp_path / "broken.tif")
    with pytest.raises(RenderError, match=r"bare\.tif: has no CRS"):
        place_from_files(ortho, write(tmp_path / "bare.tif", tops()[None], crs=None))
    with pytest.raises(TilesError, match=r"gone\.tif"):
        place_from_files(tmp_path / "gone.tif", elsewhere)


def test_several_rasters_are_not_one_place(ortho, tmp_path):
    write(tmp_path / "p.tif", colours(), transform=Affine(GSD_M, 0, LEFT + 150, 0, -GSD_M, TOP))
    with pytest.raises(RenderError, match="one by one"):
        place_from_files(tmp_path, trees=tmp_path)


def test_an_orthophoto_too_large_to_hold(tmp_path):
    path = tmp_path / "large.tif"
    options = {"driver": "GTiff", "count": 3, "height": 20_000, "width": 20_000, "dtype": "uint8", "crs": CRS}
    with rasterio.open(path, "w", transform=Affine(1, 0, LEFT, 0, -1, TOP), sparse_ok=True, tiled=True, **options):
        pass
    with pytest.raises(RenderError, match=r"20000 x 20000.*gdal_translate"):
        place_from_files(path, trees=points(tmp_path / "t.geojson", [(LEFT + 5, TOP - 5)], CRS))


@given(st.lists(st.tuples(st.floats(0, 149), st.floats(0, 149)), min_size=1, max_size=12), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_trees_are_domes_where_they_stand(tmp_path_factory, at_m, seed):
    folder = tmp_path_factory.mktemp("trees")
    ortho = write(folder / "o.tif", colours())
    trees = points(folder / "t.geojson", [(LEFT + x, TOP - y) for x, y in at_m], "urn:ogc:def:crs:EPSG::26911")
    scene = place_from_files(ortho, trees=trees, seed=seed).scene
    assert (scene.terrain_m == 0).all() and scene.surface_m.max() < 14 * 1.5
    assert ((scene.cover == Cover.CANOPY) == (scene.surface_m > 0)).all()
    for x, y in at_m:
        column, row = min(int(x / GSD_M), SIDE - 1), min(int(y / GSD_M), SIDE - 1)
        assert scene.surface_m[row, column] > 2.5
    nearest_m = np.min(
        [np.hypot(*(np.mgrid[:SIDE, :SIDE] * GSD_M - np.array([y, x])[:, None, None])) for x, y in at_m], 0
    )
    assert (scene.surface_m[nearest_m > 6] == 0).all(), "no crown is wider than 5 m from its stem"
    assert (scene.surface_m[nearest_m < 1] > 0).all()


def test_trees_by_longitude_and_latitude_and_from_a_folder(ortho, tmp_path):
    (tmp_path / "trees").mkdir()
    metric = points(tmp_path / "m.geojson", [(LEFT + 40, TOP - 70)], CRS)
    [lon], [lat] = rasterio.warp.transform(CRS, "OGC:CRS84", [LEFT + 40], [TOP - 70])
    points(tmp_path / "trees" / "o.geojson", [(lon, lat)])
    one, other = place_from_files(ortho, trees=metric).scene, place_from_files(ortho, trees=tmp_path / "trees").scene
    assert one.surface_m.max() > 2.5
    assert np.abs(one.surface_m - other.surface_m).max() < 0.5


def test_the_seed_draws_the_trees(ortho, tmp_path):
    trees = points(tmp_path / "t.geojson", [(LEFT + 40, TOP - 70)], CRS)
    one, again, other = (place_from_files(ortho, trees=trees, seed=s).scene.surface_m for s in (1, 1, 2))
    assert (one == again).all() and (one != other).any()


def test_trees_that_cannot_be(ortho, tmp_path):
    for name, content, error, message in (
        ("a", points(tmp_path / "a.geojson", [(LEFT, TOP)]).read_text(), RenderError, "names no crs"),
        ("b", points(tmp_path / "b.geojson", [(LEFT - 900, TOP)], CRS).read_text(), RenderError, "none of its 1 trees"),
        ("c", points(tmp_path / "c.geojson", []).read_text(), RenderError, "no points"),
        ("d", '{"type": "Polygon"}', RenderError, "not a GeoJSON collection of points"),
        ("e", points(tmp_path / "e.geojson", [(0, 0)], "EPSG:none").read_text(), RenderError, "is not known"),
        ("f", "{", RegionError, "not JSON"),
    ):
        (tmp_path / f"{name}.geojson").write_text(content)
        with pytest.raises(error, match=message):
            place_from_files(ortho, trees=tmp_path / f"{name}.geojson")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RegionError, match=r"o\.geojson: no such file"):
        place_from_files(ortho, trees=tmp_path / "empty")


def test_naip_squares_with_their_trees(real_data):
    naip = real_data / "naip"
    place = place_from_files(naip / "riverside/2016/riverside_2016_3.tif", trees=naip / "riverside/trees")
    assert place.scene.grid.crs == "EPSG:26911" and place.scene.grid.size_m == pytest.approx((153.6, 153.6))
    assert place.valid.all() and 0.02 < (place.scene.cover == Cover.CANOPY).mean() < 0.6
    # Crowns stand on dark, green pixels more often than not.
    light = place.scene.texture.mean(axis=2)
    assert light[place.scene.cover == Cover.CANOPY].mean() < light[place.scene.cover == Cover.GROUND].mean()


def test_an_infrared_band_tagged_as_alpha_masks_nothing(real_data):
    naip = real_data / "naip"
    with pytest.warns(UserWarning, match="alpha"):
        place = place_from_files(naip / "original_4band/riverside_2016_3.tif", trees=naip / "riverside/trees")
    assert place.valid.all()
