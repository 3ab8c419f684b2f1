"""Made-up data sets as loaders of the published ones read them: pictures, labels, and going on after a stop."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyproj import Geod

import tiles
from geoview.cli import main
from geoview.config import RenderDatasetConfig
from geoview.data.datasets import load
from geoview.data.photos import is_panorama, read_metadata
from geoview.data.vigor import CITIES
from geoview.describe import describe
from geoview.errors import ConfigError, OutputExistsError, RenderError, StorageFullError
from geoview.geo.sphere import distance_m
from geoview.render import datasets, layouts
from geoview.render.datasets import write_dataset
from geoview.render.layouts import TileGrid, panorama_size
from geoview.render.scene import Grid
from geoview.render.shading import render
from geoview.render.shots import PhotoKind, Stand, draw_shots
from geoview.render.world import TRAINING_STYLES, make_world

GEOD = Geod(ellps="WGS84")
ZOOM_20_M = 156_543.03392804097 / 2**20
N = 14
SETTINGS = {"seed": 3, "panoramas": N, "size_m": 320.0, "tile_px": 48, "panorama_px": 128, "num_workers": 1}


@pytest.fixture(scope="module", autouse=True)
def coarse_worlds():
    """Pixels of a metre: a quarter of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layouts, "make_world", partial(make_world, gsd_m=1.0))
        yield


def write(out, layout="vigor", **changes):
    return write_dataset(RenderDatasetConfig(layout=layout, out=str(out), **SETTINGS | changes))


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module", params=["vigor", "cvusa"])
def either(request):
    return SimpleNamespace(layout=request.param, root=request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def vigor(tmp_path_factory):
    out = tmp_path_factory.mktemp("vigor") / "set"
    words = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    assert main(["render", "dataset", "--layout", "vigor", "--out", str(out), *words]) == 0
    return out


@pytest.fixture(scope="module")
def cvusa(tmp_path_factory):
    out = tmp_path_factory.mktemp("cvusa")
    assert write(out, "cvusa") == {"dataset": str(out), "layout": "cvusa", "panoramas": 4 * N, "satellite": 4 * N}
    return out


def east_north_m(from_deg, to_deg):
    """Returns (n, 2): how far east and north `to_deg` (n, 2) lies of `from_deg` (n, 2), along the geodesic."""
    azimuth, _, length = GEOD.inv(from_deg[:, 1], from_deg[:, 0], to_deg[:, 1], to_deg[:, 0])
    return np.stack([length * np.sin(np.radians(azimuth)), length * np.cos(np.radians(azimuth))], axis=-1)


# -- VIGOR -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "cities", "n"),
    [
        ("same_train", CITIES, 4 * N // 2),
        ("same_test", CITIES, 4 * N // 2),
        ("cross_train", ("NewYork", "Seattle"), 2 * N),
        ("cross_test", ("Chicago", "SanFrancisco"), 2 * N),
    ],
)
def test_labels_agree_with_the_coordinates(vigor, split, cities, n):
    table = load("vigor", vigor, split)
    assert len(table) == n
    assert {Path(path).parts[-3] for path in table.query_path} == set(cities)
    gsd_m = ZOOM_20_M * np.cos(np.radians(table.latlon_deg[:, 0]))[:, None]
    covering = np.concatenate([np.asarray(table.positive)[:, None], table.semi_positive], axis=1)
    assert (covering >= 0).all()
    for k in range(4):
        centre_deg = table.reference_latlon_deg[covering[:, k]]
        east_m, north_m = (east_north_m(centre_deg, table.latlon_deg)).T
        said_m = table.offset_px[:, k] * gsd_m
        assert np.abs(said_m - np.stack([east_m, -north_m], axis=-1)).max() < 0.1


def test_the_positive_is_nearest_and_the_semi_positives_are_the_other_tiles_that_cover(vigor):
    table = load("vigor", vigor, "same_test")
    half_m = 320 * ZOOM_20_M * np.cos(np.radians(table.latlon_deg[:, 0]))
    for i in range(len(table)):
        here_deg = np.repeat(table.latlon_deg[i][None], len(table.reference_latlon_deg), axis=0)
        offset_m = east_north_m(table.reference_latlon_deg, here_deg)
        # A position on the very edge of a tile may be rounded to either side of it.
        assert not (np.abs(np.abs(offset_m).max(axis=1) - half_m[i]) < 0.02).any()
        covers = set(np.flatnonzero(np.abs(offset_m).max(axis=1) < half_m[i]).tolist())
        nearest = int(np.hypot(*offset_m.T).argmin())
        assert int(table.positive[i]) == nearest
        assert covers == {nearest, *table.semi_positive[i].tolist()} and len(covers) == 4
        assert np.abs(offset_m[nearest]).max() <= half_m[i] / 2 + 0.05


def test_halves_are_disjoint_and_together_are_all(vigor):
    for city in CITIES:
        lists = {
            name: (vigor / "splits" / city / f"{name}.txt").read_text().splitlines()
            for name in ("same_area_balanced_train", "same_area_balanced_test", "pano_label_balanced")
        }
        train, test, both = (set(lines) for lines in lists.values())
        assert not train & test and train | test == both and len(both) == N
        most = Counter(line.split()[1] for line in both).most_common(1)[0][1]
        assert most <= 2


def test_all_files_that_the_lists_name_are_there_and_no_others(vigor):
    for city in CITIES:
        folder = vigor / "splits" / city
        named = {line.split()[0] for line in (folder / "pano_label_balanced.txt").read_text().splitlines()}
        assert {p.name for p in (vigor / city / "panorama").iterdir()} == named
        tile_names = (folder / "satellite_list.txt").read_text().splitlines()
        assert {p.name for p in (vigor / city / "satellite").iterdir()} == set(tile_names)
        labelled = {
            name
            for line in (folder / "pano_label_balanced.txt").read_text().splitlines()
            for name in line.split()[1::3]
        }
        assert len(tile_names) == len(set(tile_names)) > len(labelled), "tiles without panorama are there too"


def test_tiles_overlap_by_half(vigor):
    for city in CITIES:
        names = (vigor / "splits" / city / "satellite_list.txt").read_text().splitlines()
        at_deg = np.array([name.removesuffix(".png").split("_")[1:] for name in names], float)
        edge_m = 640 * ZOOM_20_M * math.cos(math.radians(at_deg[:, 0].mean()))
        lats, lons = np.unique(at_deg[:, 0]), np.unique(at_deg[:, 1])
        middle = np.array([lats[len(lats) // 2], lons[len(lons) // 2]])
        for values, column in ((lats, 1), (lons, 0)):
            points = np.repeat(middle[None], len(values), axis=0)
            points[:, 1 - column] = values
            steps_m = np.abs(east_north_m(points[:-1], points[1:])).max(axis=1)
            assert steps_m == pytest.approx(edge_m / 2, rel=1e-3)


def test_a_tile_is_the_orthophoto_at_its_place(vigor):
    for city in CITIES:
        work = vigor / "work" / city
        source = tiles.open_source(work / json.loads((work / "region.json").read_text())["reference"])
        edge_m = next(
            c["tile_m"] for c in json.loads((vigor / "dataset.json").read_text())["cities"] if c["name"] == city
        )
        for path in sorted((vigor / city / "satellite").iterdir())[::7]:
            lat, lon = map(float, path.stem.split("_")[1:])
            assert edge_m == pytest.approx(640 * ZOOM_20_M * math.cos(math.radians(lat)), rel=1e-3)
            chip = source.chip((lat, lon), size_px=48, gsd_m=edge_m / 48)
            assert chip.valid.all()
            difference = np.abs(np.asarray(Image.open(path)).astype(int) - chip.pixels)
            # The edge is told to a millimetre.
            assert difference.max() <= 1 and chip.pixels.std() > 3


# -- CVUSA -------------------------------------------------------------------------------------------------------------


def test_pairs_are_one_to_one_and_centred(cvusa):
    found = {split: load("cvusa", cvusa, split) for split in ("train", "test")}
    train, test = (set(table.place.tolist()) for table in found.values())
    assert not train & test and train | test == set(range(1, 4 * N + 1))
    assert 0.2 <= len(test) / (4 * N) <= 0.6
    for table in found.values():
        assert (table.latlon_deg == table.reference_latlon_deg).all() and (np.asarray(table.heading_deg) == 0).all()
        assert [Path(p).name for p in table.query_path] == [
            Path(table.reference_path[i]).name for i in np.asarray(table.positive)
        ]
    at_deg = np.concatenate([table.latlon_deg for table in found.values()])
    apart_m = distance_m(at_deg[:, None], at_deg[None]) + 1e9 * np.eye(len(at_deg))
    assert apart_m.min() > 19.8


def test_a_satellite_picture_is_the_orthophoto_around_the_panorama(cvusa):
    cities = json.loads((cvusa / "dataset.json").read_text())["cities"]
    lines = (cvusa / "split_locations" / "all.csv").read_text().splitlines()
    for number, city in enumerate(cities):
        work = cvusa / "work" / city["name"]
        source = tiles.open_source(work / json.loads((work / "region.json").read_text())["reference"])
        for i in (number * N + 1, number * N + N):
            lat, lon = map(float, lines[i - 1].split(",")[:2])
            assert city["tile_m"] == pytest.approx(750 * 2 * ZOOM_20_M * math.cos(math.radians(lat)), rel=1e-3)
            chip = source.chip((lat, lon), size_px=48, gsd_m=city["tile_m"] / 48)
            assert chip.valid.all()
            picture = np.asarray(Image.open(cvusa / f"bingmap/19/{i:07d}.jpg")).astype(int)
            assert np.abs(picture.mean(axis=2) - chip.pixels.mean(axis=2)).mean() < 4
            assert np.abs(picture.mean(axis=2) - chip.pixels[::-1, ::-1].mean(axis=2)).mean() > 6


@given(st.lists(st.tuples(st.floats(0, 99), st.floats(0, 99)), min_size=1, max_size=60), st.integers(0, 9))
def test_blocks_are_never_parted(xy_m, seed):
    held = layouts._held_out(xy_m, 25.0, np.random.default_rng(seed))
    side = {}
    for (x, y), is_held in zip(xy_m, held, strict=True):
        assert side.setdefault((x // 25.0, y // 25.0), is_held) == is_held
    assert not all(held)
    if len(side) > 1:
        assert any(held)


# -- both --------------------------------------------------------------------------------------------------------------


def test_panoramas_tell_nothing_but_their_pixels(either):
    pattern, size = {"vigor": ("*/panorama/*.jpg", (128, 64)), "cvusa": ("streetview/panos/*.jpg", (128, 23))}[
        either.layout
    ]
    paths = sorted(either.root.glob(pattern))
    assert len(paths) == 4 * N
    for path in paths:
        with Image.open(path) as image:
            assert image.size == size and len(image.getexif()) == 0 and "xmp" not in image.info
        said = read_metadata(path)
        assert said.latlon_deg is None and said.heading_deg is None and said.captured_at is None
        assert is_panorama(size, said)


def test_it_is_recognised(either):
    said = describe(either.root)
    assert said["kind"] == "data set" and said["name"] == either.layout
    of = [split for split in said["splits"] if split["labels"] == "original"]
    assert of and all("error" not in split for split in of)
    assert sum(split["queries"] for split in of) == {"vigor": 8 * N, "cvusa": 4 * N}[either.layout]


def test_it_says_that_it_is_made_up(either):
    readme = (either.root / "README.txt").read_text()
    said = json.loads((either.root / "dataset.json").read_text())
    assert "Nothing here is real" in readme and "free to use" in readme and "seed 3" in readme and "{" not in readme
    assert max(map(len, readme.splitlines())) <= 120
    assert "made-up" in said["about"] and said["seed"] == 3 and said["format_version"] == 1 and said["geoview"]
    assert [city["style"] for city in said["cities"]] == list(TRAINING_STYLES)
    assert all(f"{city['name']}: style {city['style']}" in readme for city in said["cities"])


def test_it_is_the_same_every_time_and_goes_on(either, tmp_path):
    whole = content(either.root)
    write(tmp_path / "again", either.layout, num_workers=2)
    assert content(tmp_path / "again") == whole
    gone = [name for name in sorted(whole) if name.endswith((".jpg", ".png", ".txt", ".csv"))][::3]
    for name in gone:
        (tmp_path / "again" / name).unlink()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "again").rglob("*.[jp][pn]g")}
    write(tmp_path / "again", either.layout)
    assert content(tmp_path / "again") == whole
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_another_seed_is_another_set(vigor, tmp_path):
    write(tmp_path, seed=4, panoramas=10)
    names = {p.name for p in tmp_path.glob("*/*/*.*g")}
    assert names and not names & {p.name for p in vigor.glob("*/*/*.*g")}


def test_a_full_disk_is_told_and_the_same_call_goes_on(vigor, tmp_path, monkeypatch):
    left = 30
    whole = datasets.write_binary

    def filling(path):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return whole(path)

    with monkeypatch.context() as patched:
        patched.setattr(datasets, "write_binary", filling)
        with pytest.raises(StorageFullError, match="disk full"):
            write(tmp_path)
    assert len(list(tmp_path.glob("*/*/*.*g"))) == 30
    assert not (tmp_path / "splits").exists(), "lists come last: half a set is not taken for one"
    write(tmp_path)
    assert content(tmp_path) == content(vigor)


def test_a_killed_run_leaves_whole_files_and_goes_on(vigor, tmp_path):
    code = (
        "from functools import partial\nfrom geoview.config import RenderDatasetConfig\n"
        "from geoview.render import datasets, layouts\nfrom geoview.render.world import make_world\n"
        "layouts.make_world = partial(make_world, gsd_m=1.0)\n"
        f"datasets.write_dataset(RenderDatasetConfig(layout='vigor', out={str(tmp_path)!r}, **{SETTINGS!r}))"
    )
    running = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=os.environ)
    while running.poll() is None and len(list(tmp_path.glob("*/panorama/*.jpg"))) < 3:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    expected = content(vigor)
    there = {name: data for name, data in content(tmp_path).items() if not Path(name).name.startswith(".")}
    assert there and len(there) < len(expected)
    assert all(expected[name] == data for name, data in there.items())
    write(tmp_path)
    assert {n: d for n, d in content(tmp_path).items() if not Path(n).name.startswith(".")} == expected


def test_other_settings_need_another_folder_or_overwriting(tmp_path):
    write(tmp_path, panoramas=10)
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(OutputExistsError, match=r"dataset\.json: written with another panoramas; give another folder"):
        write(tmp_path, panoramas=11)
    write(tmp_path, "cvusa", panoramas=10, overwrite=True)
    assert len(load("cvusa", tmp_path, "train")) > 0 and (tmp_path / "mine.txt").exists()
    assert not [
        name for name in content(tmp_path) if name.startswith((*CITIES, *(f"splits/{city}" for city in CITIES)))
    ]
    assert {p.parent.name for p in (tmp_path / "work").rglob("*.*")} == set(TRAINING_STYLES)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(OutputExistsError, match="is not empty"):
        write(tmp_path)
    assert set(content(tmp_path)) == {"mine.txt"}


@pytest.mark.parametrize("layout", ["vigor", "cvusa"])
def test_too_many_panoramas_are_refused_before_anything_is_written(tmp_path, layout):
    with pytest.raises(RenderError, match=r"european_town of seed 3: 300 m have room for \d+ panoramas, not for 90"):
        write(tmp_path / "out", layout, size_m=300.0, panoramas=90)
    assert not (tmp_path / "out").exists()


def test_a_world_without_a_place_to_stand_is_named(tmp_path, monkeypatch):
    def nowhere(*_, **__):
        raise RenderError("no open ground")

    monkeypatch.setattr(layouts, "draw_shots", nowhere)
    with pytest.raises(
        RenderError, match="european_town of seed 3: 320 m hold no place to stand; give a larger size_m"
    ):
        write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seed", [-1, 1_000_000]),
        ("panoramas", [9]),
        ("size_m", [299.0, 4001.0, float("nan"), float("inf")]),
        ("tile_px", [0, 15, 2049]),
        ("panorama_px", [62, 129, 8194]),
        ("num_workers", [0]),
    ],
)
def test_settings_that_cannot_be(key, values):
    for value in values:
        with pytest.raises(ConfigError, match=key):
            RenderDatasetConfig(layout="vigor", out="x", **{key: value})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layout", "kitti"], "kitti"),
        ([], "layout"),
        (["--layout", "vigor", "--size_m", "200"], "size_m must be within 300 and 4000"),
        (["--layout", "vigor", "--panorama", "20"], "panorama"),
    ],
)
def test_bad_usage_is_one_line(capsys, tmp_path, words, said):
    try:
        code = main(["render", "dataset", *words, "--out", str(tmp_path / "out")])
    except SystemExit as stop:
        code = stop.code
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "out").exists()


# -- geometry ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heading_deg", [0.0, 47.3, 180.0, 271.0, 359.9])
def test_north_is_in_the_middle(tmp_path, monkeypatch, heading_deg):
    world = make_world("american_grid", 3, size_m=(300.0, 300.0), gsd_m=1.0)
    state = world.state(0)
    scene = state.scene()
    size = panorama_size("vigor", 256)
    view = PhotoKind("panorama", 256, vertical_fov_deg=size.vertical_fov_deg)
    shot = draw_shots(Stand(scene, 100.0, state.roads), tmp_path, 1, view, seed=1, day=state.date)[0]
    level = replace(shot.camera, pitch_deg=0.0, roll_deg=0.0)
    monkeypatch.setattr(datasets, "finish", lambda pixels, _: pixels)
    turned = layouts._on_columns(replace(shot, camera=replace(level, heading_deg=heading_deg)), 256)
    # Drawn headings have two decimals; whole columns are at most half a column from them.
    turn_deg = (turned.camera.heading_deg - heading_deg + 180) % 360 - 180
    assert abs(turn_deg) <= 180 / 256 + 1e-9
    datasets._write_panorama(scene, size, turned)
    written = np.asarray(Image.open(shot.path)).astype(int)
    north = render(scene, replace(level, heading_deg=0.0), shot.light).astype(int)
    beyond = (128 - size.rendered_px) // 2
    inside = written[beyond : beyond + size.rendered_px]
    off = [np.abs(inside - np.roll(north, columns, axis=1)).mean() for columns in (0, 3, -3, 64, 128)]
    assert off[0] < 6 and off[0] < 0.8 * min(off[1:])


@given(st.integers(32, 4096).map(lambda half: 2 * half), st.sampled_from(["vigor", "cvusa"]))
def test_rendered_rows_are_square_pixels_about_the_horizon(width_px, layout):
    size = panorama_size(layout, width_px)
    view = PhotoKind("panorama", width_px, vertical_fov_deg=size.vertical_fov_deg)
    assert round(view.size_px * view.vertical_fov_deg / 360.0) == size.rendered_px
    assert size.vertical_fov_deg <= 170 and (size.height_px - size.rendered_px) % 2 == 0
    if layout == "vigor":
        assert width_px == 2 * size.height_px and size.vertical_fov_deg > 160
    else:
        assert size.height_px == size.rendered_px == pytest.approx(width_px * 224 / 1232, abs=0.5)


GRIDS = [
    Grid("EPSG:32633", 500_000.0, 5_400_000.0, 0.5, (1400, 1600)),
    Grid("EPSG:32630", 720_000.0, 6_000_000.0, 1.0, (900, 700)),
    Grid("EPSG:32719", 300_000.0, 6_250_000.0, 1.0, (700, 700)),
]
TILES = [TileGrid.over(grid) for grid in GRIDS]


@given(st.integers(0, 2), st.floats(0.25, 0.75), st.floats(0.25, 0.75))
def test_four_tiles_cover_a_position_and_the_first_is_nearest(which, right, down):
    grid, tile_grid = GRIDS[which], TILES[which]
    here = grid.latlon_deg(np.array(grid.size_m) * (right, down))
    covering, offset_px = tile_grid.covering(tuple(here.tolist()))
    assert len(set(covering)) == 4 and set(covering) <= set(tile_grid.there)
    centres = np.array([tile_grid.latlon_deg(tile) for tile in covering])
    east_m, north_m = east_north_m(centres, np.repeat(here[None], 4, axis=0)).T
    expected_px = np.stack([east_m, -north_m], axis=-1) * 640 / tile_grid.edge_m
    assert np.abs(offset_px - expected_px).max() < 0.5
    assert np.abs(offset_px).max() <= 320 and np.abs(offset_px[0]).max() <= 160
    lengths = np.hypot(*offset_px.T)
    assert lengths[0] == lengths.min()


@pytest.mark.parametrize("which", range(3))
def test_tiles_lie_on_the_map_wholly_and_none_is_left_out(which):
    grid, tile_grid = GRIDS[which], TILES[which]
    there = set(tile_grid.there)
    half = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * tile_grid.edge_m / 2

    def within_m(tile):
        """Distance of the tile's outermost corner from the edge of the map, negative outside."""
        lat, lon = tile_grid.latlon_deg(tile)
        azimuth = np.degrees(np.arctan2(half[:, 0], half[:, 1]))
        lon_c, lat_c, _ = GEOD.fwd(np.full(4, lon), np.full(4, lat), azimuth, np.hypot(*half.T))
        xy_m = grid.xy_m(np.stack([lat_c, lon_c], axis=-1))
        return min(xy_m.min(), (np.array(grid.size_m) - xy_m).min())

    assert all(within_m(tile) > grid.gsd_m - 0.05 for tile in there)
    around = {(n + i, e + j) for n, e in there for i in (-1, 0, 1) for j in (-1, 0, 1)} - there
    assert all(within_m(tile) < grid.gsd_m + 0.05 for tile in around)
