"""The demo in small: its figures are true, nothing helps it, and after a kill it goes on."""

import csv
import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import shapely
from PIL import Image

from geoview import demo as story
from geoview.cli import main
from geoview.config import AerialView, DemoConfig, PlanView
from geoview.demo import DemoSize, demo, index_region, locate_unaided, make_region, summary
from geoview.errors import ConfigError, EncoderError, OutputExistsError, RenderError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.index.cell_index import CellIndex
from geoview.lessons import FIRST_LESSON_SEED
from geoview.render.world import STYLES

SMALL = DemoSize(side_m=400.0, n_panoramas=5, n_perspective=4, least_cells=30)
KINDS = ("panoramas", "perspective")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, kit):
    views = {
        "ground": PlanView(32, 2.7, headings=4, eye_heights_m=(2.0, 1.6), pitches_deg=(0.0,)),
        "aerial": AerialView(32, 2.7),
    }
    return kit.make_encoder(**views).save(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture
def config(encoder, tmp_path):
    return DemoConfig(out=str(tmp_path / "demo"), encoder=str(encoder), device="cpu", num_workers=1)


@pytest.fixture(scope="module")
def done(encoder, tmp_path_factory):
    """A finished demo; not to be written to."""
    out = tmp_path_factory.mktemp("done") / "demo"
    config = DemoConfig(out=str(out), encoder=str(encoder), device="cpu", num_workers=1)
    return out, config, demo(config, SMALL)


def truth(out):
    with (out / "region" / "photos.csv").open(newline="") as file:
        return {str(out / "region" / row["path"]): row for row in csv.DictReader(file)}


def stamps(*paths):
    return {path: path.stat().st_mtime_ns for path in paths}


def made_by(out):
    photos = sorted((out / "region" / "photos").iterdir())
    return [*photos, *(out / "region").glob("*.tif"), *(out / "index" / "shards").rglob("zarr.json")]


def test_everything_is_there_to_look_at(done):
    out, _, report = done
    assert json.loads((out / "report.json").read_text()) == report
    with Image.open(out / "sheet.jpg") as sheet:
        assert sheet.width > 1000
        assert sheet.height > 9 * 176, "a row for each of the photos, which are fewer than it could show"
    page = (out / "map.html").read_text()
    assert all(path.rsplit("/", 1)[1] in page for path in truth(out))
    assert len(truth(out)) == 9
    assert len(list((out / "region").glob("ortho_*.tif"))) == 1, "the chips' date alone is needed"


def test_the_index_covers_where_cameras_stand_and_all_of_that(done):
    out, _, report = done
    index, outline = CellIndex.open(out / "index"), Region.from_geojson(out / "outline.geojson")
    assert index.cell_ids().tolist() == outline.cells(story.LEVEL).tolist()
    assert index.level == story.LEVEL
    assert len(index) >= SMALL.least_cells
    positions = np.array([[float(row["lat"]), float(row["lon"])] for row in truth(out).values()])
    assert outline.contains(positions).all()
    for kind in KINDS:
        assert report[kind]["n_cells"] == len(index)
        assert report[kind]["level"] == story.LEVEL
        assert report[kind]["ceiling_recall_within_50_m"] == 1.0


def test_the_report_is_what_the_answers_say(done):
    out, config, report = done
    taken = truth(out)
    features = json.loads((out / "candidates.geojson").read_text())["features"]
    errors = defaultdict(list)
    for feature in features:
        row = feature["properties"]
        at = np.array([float(taken[row["query"]][name]) for name in ("lat", "lon")])
        assert distance_m(np.array([row["exif_lat"], row["exif_lon"]]), at) < 0.02, "the photo's own position beside it"
        errors[row["query"]].append(float(distance_m(np.array([row["lat"], row["lon"]]), at)))
        assert len(errors[row["query"]]) == row["rank"]
    centres = cells.centers_deg(CellIndex.open(out / "index").cell_ids())
    for kind in KINDS:
        mine = [q for q, row in taken.items() if (float(row["fov_deg"]) == 360) == (kind == "panoramas")]
        assert report[kind]["n_photos"] == len(mine) == getattr(SMALL, f"n_{kind}")
        assert report[kind]["n_failed"] == 0
        for k in (1, 5, 10):
            for radius_m in (50, 100, 200):
                found = np.mean([min(errors[q][:k]) <= radius_m for q in mine])
                assert report[kind][f"recall_at_{k}_within_{radius_m}_m"] == pytest.approx(found)
        assert report[kind]["median_error_m"] == pytest.approx(np.median([errors[q][0] for q in mine]), abs=0.1)
        at = np.array([[float(taken[q][name]) for name in ("lat", "lon")] for q in mine])
        near = (distance_m(at[:, None], centres) <= 100).mean()
        assert report[kind]["chance_recall_at_1_within_100_m"] == pytest.approx(near, abs=1e-9)
    assert report["seed"] == 0
    assert report["style"] == config.style
    assert report["encoder"]["name"] == config.encoder
    assert report["encoder"]["fingerprint"] == CellIndex.open(out / "index").encoder().fingerprint()
    assert set(report["seconds"]) == {"region", "index", "locate", "write"}


def test_places_are_apart(done):
    out, _, _ = done
    places = defaultdict(list)
    for feature in json.loads((out / "candidates.geojson").read_text())["features"]:
        lon, lat = feature["geometry"]["coordinates"]
        places[feature["properties"]["query"]].append((lat, lon))
    assert len(places) == 9
    for points in places.values():
        assert 1 < len(points) <= 10
        away = distance_m(np.array(points)[:, None], np.array(points))
        assert away[~np.eye(len(points), dtype=bool)].min() >= 99.9


def test_nothing_but_the_field_of_view_is_told(done):
    out, config, _ = done
    photos = make_region(config, out, SMALL).photos
    index = CellIndex.open(out / "index")
    told = locate_unaided(index, photos, config)
    misled = [replace(photo, latlon_deg=(0.0, 0.0), heading_deg=77.0) for photo in photos]
    for one, other in zip(told, locate_unaided(index, misled, config), strict=True):
        assert one.places == other.places
        assert one.latlon_deg == other.latlon_deg != (0.0, 0.0), "what the file itself says, for the record"
    assert {place.heading_deg for answer in told for place in answer.places} > {0.0}, "several headings are tried"
    wider = [replace(photo, fov_deg=30.0) for photo in photos if photo.fov_deg != 360]
    narrow = [answer.places for answer in locate_unaided(index, wider, config)]
    assert narrow != [answer.places for answer in told[SMALL.n_panoramas :]], "that is told"


def test_a_finished_demo_is_not_done_again(done):
    out, config, report = done
    files = [path for path in out.rglob("*") if path.is_file()]
    before = stamps(*files)
    assert demo(config, SMALL) == report
    assert stamps(*files) == before


def test_a_demo_that_was_cut_off_goes_on(config, tmp_path, monkeypatch, done):
    out, _, wanted = tmp_path / "demo", *done[1:]

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(story, "build_index", killed)
        with pytest.raises(KeyboardInterrupt):
            demo(config, SMALL)
    photos = stamps(*(out / "region" / "photos").iterdir())
    assert len(photos) == 9
    with monkeypatch.context() as patch:
        patch.setattr(story, "draw_sheet", killed)
        with pytest.raises(KeyboardInterrupt):
            demo(config, SMALL)
    assert not (out / "report.json").exists()
    before = stamps(*made_by(out))
    assert photos.items() <= before.items()
    report = demo(config, SMALL)
    assert stamps(*made_by(out)) == before
    for name in ("seed", "style", "encoder", *KINDS):
        assert report[name] == wanted[name], "as in one go"


def test_a_folder_of_something_else_is_left_alone(config, tmp_path):
    mine = tmp_path / "demo" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"demo.*--overwrite"):
        demo(config, SMALL)
    assert [path.name for path in mine.parent.iterdir()] == ["thesis.txt"]


def test_a_finished_index_of_another_encoder_is_not_taken_for_its_own(done, encoder, tmp_path, kit):
    out, config, _ = done
    region, index = make_region(config, out, SMALL), out / "index"
    assert len(index_region(region, encoder, index, config)) == len(CellIndex.open(index))
    other = kit.make_encoder(aerial=AerialView(32, 2.5)).save(tmp_path / "other")
    with pytest.raises(OutputExistsError, match="another encoder"):
        index_region(region, other, index, config)


def test_another_seed_needs_another_folder_or_overwrite(config, tmp_path):
    size = replace(SMALL, n_panoramas=2, n_perspective=2)
    first = demo(config, size)
    out = tmp_path / "demo"
    with pytest.raises(OutputExistsError, match="seed"):
        demo(replace(config, seed=5), size)
    assert json.loads((out / "report.json").read_text()) == first
    old_cells = CellIndex.open(out / "index").cell_ids()
    (out / "notes.txt").write_text("mine")
    again = demo(replace(config, seed=5, overwrite=True), size)
    assert again["seed"] == 5
    new_cells = CellIndex.open(out / "index").cell_ids()
    assert not np.isin(new_cells, old_cells).any(), "another region lies elsewhere"
    assert len(truth(out)) == 4
    assert (out / "notes.txt").read_text() == "mine"


def test_too_few_cells_are_told_before_anything_is_rendered(config, tmp_path):
    with pytest.raises(RenderError, match=rf"cells of level {story.LEVEL} .* at least 50000"):
        demo(config, replace(SMALL, least_cells=50000))
    assert not (tmp_path / "demo" / "region").exists()


def test_the_demo_as_shipped_is_large_enough_wherever_its_region_lies():
    size = DemoSize()
    assert size.least_cells >= 1500
    assert min(size.n_panoramas, size.n_perspective) >= 300
    rng = np.random.default_rng(0)
    # Cells are largest around the middle of a cube's face, as at (0, 0), and differ by a factor of two.
    places = [(0.0, 0.0), (0.0, 90.0), (-23.0, -69.4), *rng.uniform((-70, -180), (70, 180), (40, 2)).tolist()]
    inner_m = size.side_m - 200.0
    for lat, lon in places:
        half_lat = inner_m / 2 / 111_195
        half_lon = half_lat / np.cos(np.radians(lat))
        lon = float(np.clip(lon, -179, 179))
        square = shapely.box(lon - half_lon, lat - half_lat, lon + half_lon, lat + half_lat)
        assert Region.from_geometry(square).count(story.LEVEL) >= size.least_cells, (lat, lon)


def test_an_unknown_encoder_is_told_before_anything_is_written(config, tmp_path):
    with pytest.raises(EncoderError, match="nobody"):
        demo(replace(config, encoder="nobody"), SMALL)
    assert not (tmp_path / "demo").exists()


def test_regions_to_learn_from_cannot_be_asked_for(config):
    assert replace(config, seed=FIRST_LESSON_SEED - 1).seed == FIRST_LESSON_SEED - 1
    for seed in (FIRST_LESSON_SEED, -1):
        with pytest.raises(ConfigError, match="seed"):
            replace(config, seed=seed)


def test_every_style_can_be_asked_for():
    assert get_args(get_type_hints(DemoConfig)["style"]) == STYLES


def test_it_can_train_its_own_encoder(config, encoder, tmp_path, monkeypatch):
    asked = []

    def train_encoder(out, lessons, *, num_workers):
        asked.append(out)
        return encoder

    monkeypatch.setattr("geoview.lessons.train_encoder", train_encoder)
    size = replace(SMALL, n_panoramas=1, n_perspective=1)
    report = demo(replace(config, train=True, encoder="nobody"), size)
    assert asked == [tmp_path / "demo" / "training"]
    assert report["encoder"]["name"] == "training"
    assert "train" in report["seconds"]


def run(capsys, monkeypatch, *words):
    monkeypatch.setattr(story, "DemoSize", lambda: replace(SMALL, n_panoramas=2, n_perspective=2))
    code = main(["demo", "--device", "cpu", "--num_workers", "1", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_prints_a_table_and_where_to_look(capsys, monkeypatch, encoder, tmp_path):
    out = tmp_path / "demo"
    code, table, talk = run(capsys, monkeypatch, "--out", str(out), "--encoder", str(encoder), "--style", "arid")
    assert code == 0
    assert "2 panoramas" in table
    assert "2 perspective" in table
    assert json.loads((out / "report.json").read_text())["style"] == "arid"
    for name in ("sheet.jpg", "map.html", "candidates.geojson", "report.json"):
        assert f"{out / name}: " in talk
        assert (out / name).exists()

    # A photo that cannot be read is a miss, is named, and changes the exit code.
    (out / "report.json").unlink()
    bad = out / "region" / "photos" / "panorama_00001.jpg"
    bad.write_bytes(b"not a picture")
    kept = stamps(*made_by(out))
    code, table, talk = run(capsys, monkeypatch, "--out", str(out), "--encoder", str(encoder), "--style", "arid")
    assert code == 1
    assert str(bad) in talk
    assert stamps(*made_by(out)) == kept
    report = json.loads((out / "report.json").read_text())
    assert report["panoramas"]["n_failed"] == 1
    assert report["panoramas"]["n_photos"] == 2
    assert report["panoramas"]["recall_at_10_within_200_m"] <= 0.5
    assert report["panoramas"]["median_error_m"] is None, "half of the errors are infinite"
    assert "none" in table
    assert report["perspective"]["n_failed"] == 0


def test_the_summary_shows_the_reports_figures():
    scores = {f"recall_at_{k}_within_100_m": share for k, share in ((1, 0.5), (5, 0.75), (10, 0.875))}
    scores |= {"chance_recall_at_1_within_100_m": 0.0125, "ceiling_recall_within_50_m": 1.0}
    scores |= {"n_photos": 320, "n_cells": 1600, "level": 18, "median_error_m": 61.6}
    head, first, second, foot = summary({"panoramas": scores, "perspective": scores}).splitlines()
    assert head.split("  ")[0] == "found within 100 m"
    assert " ".join(first.split()) == "320 panoramas 50.0 % 75.0 % 87.5 % 1.2 % 100.0 % 62 m"
    assert second.startswith("320 perspective")
    assert len(head) == len(first) == len(second)
    assert "1600 cells of level 18" in foot


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom geoview.cli import main\n"
        "try:\n    main(['demo', '--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "print([m for m in ('torch', 'rasterio', 'zarr', 'tiles', 'scipy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    for flag in ("--out", "--seed", "--style", "--train", "--overwrite"):
        assert flag in done.stdout
