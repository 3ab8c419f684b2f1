"""`geoview render` as a user meets it: exit codes, one-line errors, what is on disk after it."""

import csv
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from geoview.cli import main
from geoview.config import RenderPhotosConfig, RenderRegionConfig
from geoview.data.photos import read_metadata
from geoview.errors import ConfigError
from geoview.render.scene import Grid
from geoview.render.world import STYLES

SIDE, GSD_M = 240, 1.0
GRIDS = {
    "north": Grid("EPSG:32633", 500_000.0, 5_000_000.0, GSD_M, (SIDE, SIDE)),
    "south": Grid("EPSG:32719", 350_000.0, 6_250_000.0, GSD_M, (SIDE, SIDE)),
}


def write(path, data, grid):
    options = {"driver": "GTiff", "count": len(data), "height": data.shape[1], "width": data.shape[2], "crs": grid.crs}
    transform = Affine(GSD_M, 0, grid.left_m, 0, -GSD_M, grid.top_m)
    with rasterio.open(path, "w", dtype=data.dtype, transform=transform, **options) as dataset:
        dataset.write(data)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Orthophoto and heights of two places, one south of the equator, and of one too small to look around in."""
    folder = tmp_path_factory.mktemp("places")
    rng = np.random.default_rng(0)
    made = {}
    for name, grid in GRIDS.items():
        colours = rng.integers(60, 180, (3, SIDE, SIDE), dtype=np.uint8)
        heights = np.full((1, SIDE, SIDE), 100, np.float32)
        heights[0, 100:120, 40:70] += 7
        made[name] = write(folder / f"{name}.tif", colours, grid)
        made[f"{name}_heights"] = write(folder / f"{name}_heights.tif", heights, grid)
    made["small"] = write(folder / "small.tif", colours[:, :90, :90], GRIDS["south"])
    return SimpleNamespace(**made)


def run(capsys, *words):
    """Runs a command; returns its exit code, its summary and its lines on stderr."""
    try:
        code = main(["render", *words])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    # Bars are drawn over one another on a terminal and not at all elsewhere.
    lines = [line for line in captured.err.splitlines() if line.startswith("geoview: ")]
    return code, json.loads(captured.out) if captured.out.startswith("{") else None, lines


def take(capsys, files, out, *words, place="south"):
    places = ("--ortho", getattr(files, place), "--heights", getattr(files, f"{place}_heights"))
    return run(capsys, "photos", *places, "--out", str(out), "--size_px", "64", "--num_workers", "1", *words)


def rows(out):
    with (out / "photos.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("words", [[], ["region"], ["photos"]])
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys\nfrom geoview.cli import main\n"
        f"try:\n    main(['render', *{words!r}, '--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "print([m for m in ('torch', 'rasterio', 'scipy', 'tiles', 'pyproj') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "usage" in done.stdout


def test_photos_of_a_real_place(capsys, files, tmp_path):
    code, summary, lines = take(capsys, files, tmp_path, "--n", "4", "--kind", "perspective", "--fov_deg", "70", "90")
    assert (code, summary["photos"], summary["failed"], lines) == (0, 4, 0, [])
    for row in rows(tmp_path):
        said = read_metadata(tmp_path / row["path"])
        assert row["path"].startswith("photos/south/perspective_")
        assert 70 <= float(row["fov_deg"]) <= 90 and float(row["lat"]) < 0 and row["captured_at"] == ""
        assert said.latlon_deg == pytest.approx((float(row["lat"]), float(row["lon"])), abs=1e-6)
        assert said.heading_deg == pytest.approx(float(row["heading_deg"]), abs=0.01)


def test_several_places_are_filed_by_name(capsys, files, tmp_path):
    places = "--ortho", files.north, files.south, "--heights", files.north_heights, files.south_heights
    code, summary, _ = run(capsys, "photos", *places, "--out", str(tmp_path), "--n", "2", "--size_px", "64")
    assert code == 0 and summary["photos"] == 4
    assert [row["path"] for row in rows(tmp_path)] == [
        f"photos/{place}/panorama_{i:05d}.jpg" for place in ("north", "south") for i in range(2)
    ]


def test_a_place_too_small_is_named_and_does_not_stop_the_others(capsys, files, tmp_path):
    places = "--ortho", files.small, files.south, "--heights", files.south_heights
    code, summary, lines = run(capsys, "photos", *places, "--out", str(tmp_path), "--n", "2", "--size_px", "64")
    assert (code, summary["photos"], summary["failed"]) == (1, 2, 1)
    assert sum(files.small in line and "map ends in view" in line for line in lines) == 1
    assert len(rows(tmp_path)) == 2


def test_a_single_place_too_small_writes_nothing(capsys, files, tmp_path):
    words = "--ortho", files.small, "--heights", files.south_heights, "--out", str(tmp_path / "out")
    code, _, lines = run(capsys, "photos", *words)
    assert code == 2 and "map ends in view" in lines[-1] and files.small in lines[-1]
    assert not (tmp_path / "out").exists()


def test_positions_outside_fail_and_the_others_go_on(capsys, files, tmp_path):
    latlon_deg = GRIDS["south"].latlon_deg(np.array([[120.0, 120.0], [500.0, 120.0], [60.0, 110.0], [150.0, 90.0]]))
    at = [f"{lat:.7f},{lon:.7f}" for lat, lon in latlon_deg]
    table = tmp_path / "at.csv"
    table.write_text("name,lat,lon\n" + f"d,{at[3]}\n")
    words = [f"--at={a}" for a in (*at[:3], table)]
    code, summary, lines = take(capsys, files, tmp_path / "out", *words)
    assert (code, summary["photos"], summary["failed"]) == (1, 2, 2)
    assert len(lines) == 2
    assert at[1] in lines[0] and "outside the map" in lines[0]
    assert at[2] in lines[1] and "building" in lines[1]
    found = rows(tmp_path / "out")
    assert [row["path"][-8:-4] for row in found] == ["0000", "0003"]
    for row, expected in zip(found, latlon_deg[[0, 3]], strict=True):
        assert (float(row["lat"]), float(row["lon"])) == pytest.approx(tuple(expected), abs=1e-6)


def test_a_position_is_taken_on_the_map_that_holds_it(capsys, files, tmp_path):
    lat, lon = GRIDS["south"].latlon_deg(np.array([120.0, 120.0]))
    places = "--ortho", files.north, files.south, "--heights", files.north_heights, files.south_heights
    code, summary, lines = run(
        capsys, "photos", *places, "--out", str(tmp_path), f"--at={lat},{lon}", "--size_px", "64"
    )
    assert (code, summary["photos"], lines) == (0, 1, [])
    assert rows(tmp_path)[0]["path"] == "photos/south/panorama_00000.jpg"


def test_going_on_and_overwriting(capsys, files, tmp_path):
    assert take(capsys, files, tmp_path, "--n", "3")[0] == 0
    photo = tmp_path / "photos" / "south" / "panorama_00001.jpg"
    content, table = photo.read_bytes(), (tmp_path / "photos.csv").read_text()
    photo.unlink()
    assert take(capsys, files, tmp_path, "--n", "3")[0] == 0
    assert photo.read_bytes() == content and (tmp_path / "photos.csv").read_text() == table
    code, _, lines = take(capsys, files, tmp_path, "--n", "1")
    assert code == 2 and "written with another n;" in lines[-1] and "--overwrite" in lines[-1]
    assert photo.read_bytes() == content
    assert take(capsys, files, tmp_path, "--n", "1", "--overwrite")[0] == 0
    assert not photo.exists() and len(rows(tmp_path)) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ortho", "o.tif"], "either heights or trees"),
        (["--ortho", "o.tif", "--heights", "h.tif", "--trees", "t.geojson"], "either heights or trees"),
        (["--heights", "h.tif"], "ortho names no file"),
        (["--ortho", "a.tif", "b.tif", "c.tif", "--heights", "h.tif", "i.tif"], "2 files for 3"),
        (["--ortho", "o.tif", "--trees", "t", "--heights_unit", "ft"], "heights_unit"),
        (["--ortho", "o.tif", "--trees", "t", "--n", "3", "--at=1,2"], "n and at exclude each other"),
        (["--ortho", "o.tif", "--trees", "t", "--at=1"], "write LAT,LON"),
        (["--ortho", "o.tif", "--trees", "t", "--at=91,0"], "within -90 and 90"),
        (["--ortho", "o.tif", "--trees", "t", "--at", "none.csv"], "none.csv: cannot be read"),
        (["--ortho", "a/o.tif", "b/o.tif", "--trees", "t"], "names two files"),
        (["--ortho", "gone.tif", "--trees", "t"], "gone.tif"),
        (["--ortho", "o.tif", "--trees", "t", "--knd", "panorama"], "knd"),
        *(
            (["--ortho", "o.tif", "--trees", "t", "--kind", "perspective", "--fov_deg", fov], "20 to 140")
            for fov in ("0", "400")
        ),
    ],
)
def test_bad_usage_is_one_line(capsys, tmp_path, words, said):
    code, _, lines = run(capsys, "photos", *words, "--out", str(tmp_path / "out"))
    assert code == 2 and len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("fov_deg", [[0.0], [19.9], [141.0], [float("nan")], [90.0, 60.0], [60.0, 70.0, 80.0], []]),
        ("n", [0]),
        ("size_px", [63, 8193]),
        ("range_m", [49.0, float("nan")]),
        ("seed", [-1]),
        ("num_workers", [0]),
    ],
)
def test_settings_of_photos_that_cannot_be(key, values):
    good = {"out": "x", "ortho": ["o"], "trees": "t", "kind": "perspective"}
    RenderPhotosConfig(**good)
    for value in values:
        with pytest.raises(ConfigError, match=key):
            RenderPhotosConfig(**good | {key: value})


def test_a_panorama_has_no_field_of_view_to_choose():
    with pytest.raises(ConfigError, match="360"):
        RenderPhotosConfig(out="x", ortho=["o"], trees="t", fov_deg=[90.0])


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seed", [-1]),
        ("n_panoramas", [-1]),
        ("n_perspective", [-1]),
        ("gsd_m", [0.0, 6.0, float("nan")]),
        ("width_m", [0.0, float("inf"), float("nan")]),
        ("height_m", [-5.0]),
        ("range_m", [19.0, float("nan")]),
        ("num_workers", [0]),
    ],
)
def test_settings_of_regions_that_cannot_be(key, values):
    for value in values:
        with pytest.raises(ConfigError, match=key):
            RenderRegionConfig(**{"style": "rural", "out": "x", key: value})


def test_styles_are_those_there_are():
    assert get_args(get_type_hints(RenderRegionConfig)["style"]) == STYLES


def test_a_region(capsys, tmp_path):
    words = (
        "--style",
        "rural",
        "--seed",
        "3",
        "--width_m",
        "300",
        "--height_m",
        "260",
        "--gsd_m",
        "1",
        "--range_m",
        "60",
    )
    counts = "--n_panoramas", "2", "--n_perspective", "1", "--num_workers", "1"
    code, summary, lines = run(capsys, "region", *words, *counts, "--out", str(tmp_path / "r"))
    assert (code, summary["photos"], lines) == (0, 3, [])
    plan = json.loads((tmp_path / "r" / "region.json").read_text())
    assert summary["reference"] == plan["reference"] and (tmp_path / "r" / plan["reference"]).exists()
    assert len(rows(tmp_path / "r")) == 3
    code, _, lines = run(capsys, "region", *words, "--out", str(tmp_path / "r"))
    assert code == 2 and "photos." in lines[-1] and "--overwrite" in lines[-1]


def test_a_region_too_small_for_its_range(capsys, tmp_path):
    words = "--style", "arid", "--width_m", "150", "--height_m", "400", "--gsd_m", "1", "--out", str(tmp_path / "r")
    code, _, lines = run(capsys, "region", *words)
    assert code == 2 and "150 x 400 m is too small" in lines[-1]
    assert not (tmp_path / "r").exists()


def test_an_unknown_style_is_one_line(capsys, tmp_path):
    code, _, lines = run(capsys, "region", "--style", "lunar", "--out", str(tmp_path / "r"))
    assert code == 2 and "lunar" in lines[-1] and "european_town" in lines[-1]
