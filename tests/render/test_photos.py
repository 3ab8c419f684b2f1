"""Street photos as files: where photographers stand, what the files say."""

import csv
import datetime
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geoview.data.photos import is_panorama, read_metadata
from geoview.data.queries import find_queries
from geoview.errors import RenderError
from geoview.geo.sphere import distance_m
from geoview.render import photos
from geoview.render.camera import Perspective
from geoview.render.photos import finish, write_shots
from geoview.render.scene import Cover, Grid, Scene
from geoview.render.shots import PhotoKind, Stand, draw_shots, shots_at

DAY = datetime.date(2021, 6, 15)
SMALL = PhotoKind("panorama", 64, range_m=40.0, least_range_m=40.0)
LENS = PhotoKind("perspective", 64, (60.0, 100.0), range_m=40.0, least_range_m=40.0)


def town(size_m=200, gsd_m=1.0, south=False):
    """Returns a scene of scattered houses on level ground, and its roads."""
    rng = np.random.default_rng(0)
    side = round(size_m / gsd_m)
    surface, cover = np.zeros((side, side), np.float32), np.zeros((side, side), np.uint8)
    texture = rng.integers(60, 160, (side, side, 3), dtype=np.uint8)
    for _ in range(25):
        row, column = rng.integers(0, side - 12, 2)
        at = slice(row, row + 10), slice(column, column + 12)
        surface[at], cover[at], texture[at] = rng.uniform(3, 9), Cover.BUILDING, (150, 70, 50)
    roads = np.zeros((side, side), bool)
    roads[:, side // 2 - 3 : side // 2 + 3] = True
    roads &= cover == Cover.GROUND
    grid = Grid(
        "EPSG:32719" if south else "EPSG:32633", 350_000.0, 6_250_000.0 if south else 5_000_000.0, gsd_m, (side, side)
    )
    return Scene(grid, texture, surface, np.zeros_like(surface), cover, cover == Cover.GROUND), roads


def write_photos(scene, out, n, kind, roads=None, num_workers=1):
    """Draws photos of a scene and takes them, as regions and tours do."""
    shots = draw_shots(Stand(scene, kind.least_range_m, roads), out / "photos", n, kind, seed=1, day=DAY)
    write_shots(scene, shots, num_workers=num_workers)
    photos.write_table(out / "photos.csv", shots)
    return shots


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """Six panoramas and eight photos through a lens, south of the equator and west of Greenwich."""
    out = tmp_path_factory.mktemp("photos")
    scene, roads = town(south=True)
    panoramas = write_photos(scene, out / "p", 6, SMALL, roads, num_workers=2)
    lens = write_photos(scene, out / "l", 8, LENS, roads)
    return SimpleNamespace(out=out, scene=scene, roads=roads, panoramas=panoramas, lens=lens)


def test_exif_is_read_back(taken):
    for shot in taken.panoramas + taken.lens:
        said = read_metadata(shot.path)
        assert said.warnings == ()
        assert distance_m(np.array(said.latlon_deg), np.array(shot.latlon_deg)) < 0.01
        assert said.latlon_deg[0] < 0 and said.latlon_deg[1] < 0
        assert said.heading_deg == pytest.approx(shot.camera.heading_deg, abs=0.006) and said.heading_ref == "T"
        assert said.captured_at == shot.captured_at.replace(microsecond=0)
        assert said.captured_at.utcoffset() == shot.captured_at.utcoffset() == datetime.timedelta(hours=-5)
        assert abs(said.captured_at.date() - DAY) <= datetime.timedelta(days=7)
        assert said.camera == "geoview renderer"


def test_panoramas_say_what_part_of_the_sphere_they_show(taken):
    for shot in taken.panoramas:
        said = read_metadata(shot.path)
        with Image.open(shot.path) as image:
            assert image.size == (64, 16)
            assert is_panorama(image.size, said)
        part = said.panorama
        assert said.fov_deg == 360 and part.projection == "equirectangular"
        assert part.pose_heading_deg == pytest.approx(shot.camera.heading_deg, abs=0.006)
        assert (part.full_width_px, part.full_height_px, part.crop_top_px, part.crop_height_px) == (64, 32, 8, 16)


def test_lenses_are_told_in_whole_millimetres(taken):
    shapes = set()
    for shot in taken.lens:
        said, projection = read_metadata(shot.path), shot.camera.projection
        with Image.open(shot.path) as image:
            assert image.size == (projection.width_px, projection.height_px)
            assert max(image.size) == 64 and not is_panorama(image.size, said)
            shapes.add(image.size)
        assert 60 <= shot.fov_deg <= 100 and said.fov_deg == pytest.approx(shot.fov_deg, abs=2.5)
    assert len(shapes) > 1


def test_the_table_is_a_photo_table(taken):
    for folder, shots in (("p", taken.panoramas), ("l", taken.lens)):
        queries = find_queries([taken.out / folder / "photos.csv"])
        assert [q.path for q in queries] == [str(s.path) for s in shots]
        for query, shot in zip(queries, shots, strict=True):
            assert query.latlon_deg == pytest.approx(shot.latlon_deg, abs=1e-8)
            assert query.heading_deg == pytest.approx(shot.camera.heading_deg, abs=1e-3)
            assert query.fov_deg == pytest.approx(shot.fov_deg, abs=1e-3)
            assert query.captured_at == shot.captured_at


def test_processes_and_their_number_change_nothing(taken, tmp_path):
    again = write_photos(taken.scene, tmp_path, 8, LENS, taken.roads, num_workers=3)
    assert [shot.path.read_bytes() for shot in again] == [shot.path.read_bytes() for shot in taken.lens]
    assert (tmp_path / "photos.csv").read_text() == (taken.out / "l" / "photos.csv").read_text()


def test_what_is_there_is_kept_and_what_is_missing_made_alike(taken, tmp_path):
    shots = write_photos(taken.scene, tmp_path, 3, LENS, taken.roads)
    before = [shot.path.read_bytes() for shot in shots]
    shots[1].path.unlink()
    shots[2].path.write_bytes(b"kept")
    times = [shots[0].path.stat().st_mtime_ns]
    write_shots(taken.scene, shots, num_workers=1)
    assert shots[1].path.read_bytes() == before[1]
    assert shots[2].path.read_bytes() == b"kept"
    assert [shots[0].path.stat().st_mtime_ns] == times


def test_a_photo_that_fails_leaves_no_part_of_itself(taken, tmp_path, monkeypatch):
    def broken(*_):
        raise RenderError("no light")

    monkeypatch.setattr(photos, "render", broken)
    with pytest.raises(RenderError, match="no light"):
        write_photos(taken.scene, tmp_path, 2, LENS)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_another_seed_other_photos(taken, tmp_path):
    stand = Stand(taken.scene, 40.0, taken.roads)
    one, other = (draw_shots(stand, tmp_path, 5, LENS, seed=s, day=DAY) for s in (1, 2))
    assert not {s.camera.xy_m for s in one} & {s.camera.xy_m for s in other}
    assert len({s.camera.heading_deg for s in one + other}) == 10


def test_the_first_of_many_are_those_of_few(taken, tmp_path):
    stand = Stand(taken.scene, 40.0, taken.roads)
    few, many = (draw_shots(stand, tmp_path, n, LENS, seed=4, day=DAY) for n in (3, 30))
    assert many[:3] == few


def test_photographers_stand_where_they_can():
    scene, roads = town()
    stand = Stand(scene, 40.0, roads)
    rng = np.random.default_rng(0)
    xy_m = np.array([stand.drawn(rng) for _ in range(600)])
    column, row = (xy_m / scene.grid.gsd_m).astype(int).T
    assert scene.standing[row, column].all()
    assert (xy_m >= 40).all() and (xy_m <= 160).all()
    assert 0.68 < roads[row, column].mean() < 0.85, "three quarters on roads, and some by chance"
    tall_row, tall_column = np.nonzero(scene.cover == Cover.BUILDING)
    # To the nearest edge of the nearest wall's pixel.
    gap = np.maximum(np.abs(xy_m[:, :1] - tall_column - 0.5), np.abs(xy_m[:, 1:] - tall_row - 0.5)).min(axis=1) - 0.5
    assert gap.min() >= 1.2


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_cameras_and_light_are_plausible(tmp_path_factory, seed):
    scene, roads = town()
    view = PhotoKind("perspective", 320, (70.0, 70.0), range_m=60.0, least_range_m=30.0)
    [shot] = draw_shots(Stand(scene, 30.0, roads), tmp_path_factory.getbasetemp(), 1, view, seed=seed, day=DAY)
    camera = shot.camera
    assert isinstance(camera.projection, Perspective) and shot.fov_deg == 70
    assert 0 <= camera.heading_deg < 360 and 1.4 <= camera.eye_m <= 2.6
    assert abs(camera.pitch_deg) <= 9 and abs(camera.roll_deg) <= 9
    assert 30 - 0.01 <= camera.range_m <= 60
    x, y = camera.xy_m
    assert camera.range_m < min(x, y, 200 - x, 200 - y), "the map reaches further than the camera sees"
    assert 8 <= shot.captured_at.hour < 17 and 5 < shot.light.sun_elevation_deg < 70
    assert 0 <= shot.light.overcast <= 1


def test_light_does_not_depend_on_the_place(tmp_path):
    lights = []
    for size_m in (200, 240):
        scene, _ = town(size_m)
        lights.append([s.light for s in draw_shots(Stand(scene, 40.0), tmp_path, 5, LENS, seed=1, day=DAY)])
    assert lights[0] == lights[1]


def test_without_a_date_photos_do_not_tell_one(taken, tmp_path):
    shots = draw_shots(Stand(taken.scene, 40.0), tmp_path, 1, LENS, seed=1, day=None)
    write_shots(taken.scene, shots, num_workers=1)
    photos.write_table(tmp_path / "photos.csv", shots)
    assert read_metadata(shots[0].path).captured_at is None
    assert next(csv.DictReader((tmp_path / "photos.csv").open()))["captured_at"] == ""


def test_voids_are_out_of_sight(tmp_path):
    scene, _ = town(300)
    valid = np.ones(scene.grid.shape, bool)
    valid[100:110, 140:150] = False
    stand = Stand(scene, 40.0, valid=valid)
    view = PhotoKind("panorama", 64, range_m=120.0, least_range_m=40.0)
    shots = draw_shots(stand, tmp_path, 200, view, seed=0, day=DAY)
    rows, columns = np.nonzero(~valid)
    for shot in shots:
        x, y = shot.camera.xy_m
        to_void_m = np.hypot(columns + 0.5 - x, rows + 0.5 - y).min() - math.sqrt(0.5)
        assert 40 - 0.01 <= shot.camera.range_m <= to_void_m + 1e-3


def test_given_positions(taken, tmp_path):
    scene = taken.scene
    free = np.argwhere(scene.standing[60:140, 60:140])[0] + 60
    house = np.argwhere(scene.cover[60:140, 60:140] == Cover.BUILDING)[0] + 60
    edge = np.argwhere(scene.standing[:, 5:6])[100] + [0, 5]
    xy_m = np.array([free, house, edge, [-50, 20]], float)[:, ::-1] + 0.5
    stand = Stand(scene, 40.0)
    results = shots_at(stand, scene.grid.latlon_deg(xy_m), tmp_path, LENS, seed=0, day=DAY)
    assert results[0].camera.xy_m == pytest.approx(tuple(xy_m[0]), abs=1e-3)
    assert "building" in str(results[1]) and "map ends in view" in str(results[2]) and "outside" in str(results[3])


def test_a_map_too_small_is_refused(tmp_path):
    scene, _ = town(75)
    with pytest.raises(RenderError, match=r"map ends in view: it is 75 x 75 m.*lower range_m"):
        draw_shots(Stand(scene, 40.0), tmp_path, 1, LENS, seed=0, day=DAY)


def test_nowhere_to_stand_is_said(tmp_path):
    scene, _ = town()
    nowhere = Scene(
        scene.grid, scene.texture, scene.surface_m, scene.terrain_m, scene.cover, np.zeros_like(scene.standing)
    )
    with pytest.raises(RenderError, match="no open ground or road"):
        draw_shots(Stand(nowhere, 40.0), tmp_path, 1, LENS, seed=0, day=DAY)


def test_without_roads_to_stand_on_photographers_stand_anywhere_open(tmp_path):
    scene, roads = town()
    assert len(draw_shots(Stand(scene, 40.0, np.zeros_like(roads)), tmp_path, 5, LENS, seed=0, day=DAY)) == 5


def test_electronics_differ_and_keep_the_picture():
    picture = np.kron(np.random.default_rng(0).integers(40, 200, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    one, again, other = (finish(picture, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == picture.shape and one.dtype == np.uint8
    assert (one == again).all() and (one != other).any()
    for made in (one, other):
        assert np.corrcoef(made.ravel().astype(float), picture.ravel().astype(float))[0, 1] > 0.8


def test_black_stays_finite():
    assert finish(np.zeros((20, 30, 3), np.uint8), np.random.default_rng(0)).mean() < 60
