"""Calibration finds the temperature that scores were drawn at, tells radii and refusals that hold, or says why not."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform
from rasterio.windows import from_bounds

from geoview.cli import main
from geoview.config import CalibrateConfig
from geoview.data.queries import PhotoQuery
from geoview.errors import ConfigError
from geoview.evaluate import calibration as calibrating
from geoview.evaluate.calibration import Sighting, calibrate, fit_calibration, weighed
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import destination_deg, distance_m
from geoview.index import store
from geoview.index.cell_index import CellIndex
from geoview.index.fusion import Fusion
from geoview.locate.calibration import Calibration, turning
from geoview.locate.embedding import EmbeddedPhoto
from geoview.locate.localizer import Search
from geoview.locate.posterior import distinct_places
from geoview.locate.surface import Surface
from geoview.metrics import brier_score, calibration_error

LEVEL, CENTRE = 18, (48.1, 11.6)
CODES = Search(kappa=Fusion(0.0), rerank=0)


def drawn(n, temperature, seed=0, noise=0.08, fov_deg=360.0):
    """Photos whose places are drawn from what their scores say at a temperature."""
    rng = np.random.default_rng(seed)
    ids = Region.disc(CENTRE, 500.0).cells(LEVEL)
    centres = cells.centers_deg(ids)
    seen = []
    for i in range(n):
        score = rng.normal(0.3, noise, len(ids))
        # Some hills, as neighbours show much the same.
        for at in rng.integers(0, len(ids), 4):
            score += 0.3 * rng.random() * np.exp(-((distance_m(centres[at], centres) / 45.0) ** 2))
        p = np.exp((score - score.max()) / temperature)
        true = rng.choice(len(ids), p=p / p.sum())
        truth = destination_deg(centres[true], rng.uniform(0, 360), rng.uniform(0, 14))
        best = np.argsort(-score)
        places = distinct_places(ids[best], score[best].astype(np.float32), 10, apart_m=100.0)
        vectors = rng.normal(size=(16, 8)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        photo = EmbeddedPhoto(PhotoQuery(f"{i}.jpg"), vectors, np.arange(16) * 22.5, tuple(truth), fov_deg=fov_deg)
        seen.append(Sighting(photo, places, Surface(LEVEL, ids, score, np.empty(0), 0.0), truth))
    return seen


@pytest.mark.parametrize("temperature", [0.02, 0.03])
def test_the_temperature_that_places_were_drawn_at_is_found(temperature):
    calibration, notes = fit_calibration(drawn(150, temperature), "photos", CODES)
    assert calibration.of_kind("panorama").temperature == pytest.approx(temperature, rel=0.15)
    told = notes["reliability"]
    assert notes["photos"] == 150
    assert told["brier"] < told["brier_of_base_rate"]
    assert told["calibration_error"] < 0.15
    fresh = drawn(200, temperature, seed=1)
    first = [weighed(one, calibration)[0] for one in fresh]
    error_m = np.array([distance_m(one.truth_deg, place.latlon_deg) for one, place in zip(fresh, first, strict=True)])
    p, radius_m = (np.array([getattr(place, name) for place in first]) for name in ("p_within_100m", "radius_m"))
    assert abs(p.mean() - (error_m <= 100).mean()) < 0.08
    assert 0.8 < (error_m <= radius_m)[error_m <= 100].mean() < 0.98


def test_each_kind_of_photo_has_a_temperature_of_its_own():
    seen = [*drawn(100, 0.015), *drawn(100, 0.05, seed=1, fov_deg=80.0), *drawn(20, 0.03, seed=2, fov_deg=None)]
    calibration, _ = fit_calibration(seen, "photos", CODES)
    assert set(calibration.kinds) == {"panorama", "perspective"}, "of photos from above too few were seen"
    assert calibration.of_kind("panorama").temperature == pytest.approx(0.015, rel=0.2)
    assert calibration.of_kind("perspective").temperature == pytest.approx(0.05, rel=0.2)
    assert calibration.of_kind("aerial") == calibration.general
    one = seen[0]
    sure, unsure = (
        calibration.of_kind(shown).placed(one.surface, one.places[0]) for shown in ("panorama", "perspective")
    )
    assert sure.p_within_100m > unsure.p_within_100m
    narrow, wide = (calibration.posterior(one.surface, shown) for shown in ("panorama", "perspective"))
    assert narrow.probability.max() > wide.probability.max()


def test_each_kind_of_photo_has_a_radius_of_its_own():
    """Lens photos that are found 60 m off, as where they stand is not where they look: panoramas are none the wider."""
    lens = [
        Sighting(one.photo, one.places, one.surface, destination_deg(np.array(one.places[0].latlon_deg), 90.0, 60.0))
        for one in drawn(60, 0.02, seed=1, fov_deg=80.0)
    ]
    panoramas = drawn(100, 0.02)
    calibration, _ = fit_calibration([*panoramas, *lens], "photos", CODES)
    fresh = drawn(100, 0.02, seed=2)
    narrow = np.median([weighed(one, calibration)[0].radius_m for one in fresh])
    wide = np.median([calibration.of_kind("perspective").placed(one.surface, one.places[0]).radius_m for one in fresh])
    assert narrow < 50 < wide
    alone, _ = fit_calibration(panoramas, "photos", CODES)
    assert alone.kinds == {"panorama": calibration.kinds["panorama"]}


def test_floors_keep_most_of_what_is_there():
    seen = drawn(120, 0.02)
    calibration, _ = fit_calibration(seen, "photos", CODES)
    assert set(calibration.kinds) == {"panorama"}
    refused = [
        calibration.refuses(
            one.surface, weighed(one, calibration), turning(one.photo.vectors, one.photo.headings_deg), one.shown
        )
        for one in seen
    ]
    assert 0 < np.mean(refused) <= 0.05
    one = seen[0]
    alike = np.repeat(one.photo.vectors[:1], 16, axis=0)
    blank = turning(alike, one.photo.headings_deg)
    assert blank == pytest.approx(0, abs=1e-6)
    assert calibration.refuses(one.surface, weighed(one, calibration), blank, "panorama")
    assert not calibration.refuses(one.surface, weighed(one, calibration), blank, "perspective"), "none were seen"
    assert turning(alike[:3], np.array([90.0, 90.0, 90.0])) is None, "its heading was told"
    low = Surface(LEVEL, one.surface.cell_id, one.surface.score - 0.5, np.empty(0), 0.0)
    assert calibration.refuses(low, weighed(one, calibration), None, "panorama")


@pytest.mark.parametrize(("n", "temperature", "said"), [(20, 0.02, "20 photos"), (60, 5.0, "are found within 100 m")])
def test_too_little_to_fit_on_is_said(n, temperature, said):
    with pytest.raises(ConfigError, match=said):
        fit_calibration(drawn(n, temperature, noise=0.01), "photos", CODES)


def test_photos_off_the_index_do_not_count():
    seen = drawn(80, 0.02)
    away = [Sighting(one.photo, one.places, one.surface, np.array([10.0, 10.0])) for one in seen[:15]]
    calibration, notes = fit_calibration(seen[15:] + away, "photos", CODES)
    assert (notes["photos"], notes["uncovered_photos"]) == (65, 15)
    assert calibration == fit_calibration(seen[15:], "photos", CODES)[0]


def test_brier_and_calibration_error():
    p, right = np.array([0.9, 0.9, 0.1, 0.1, 0.5]), np.array([True, True, False, False, True])
    assert brier_score(p, right) == pytest.approx((4 * 0.01 + 0.25) / 5)
    assert brier_score(np.array([np.nan]), np.array([False])) == 1.0
    assert calibration_error(p, right, bins=5) == pytest.approx((4 * 0.1 + 0.5) / 5)
    assert calibration_error(np.full(100, 0.3), np.arange(100) < 30, bins=1) == pytest.approx(0)


@pytest.fixture(scope="module")
def crops(tmp_path_factory, ortho, kit):
    """Sixty pieces of the imagery, as photos from above that tell where they are: near the middles of cells."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    with rasterio.open(ortho) as source:
        for i in range(60):
            near = destination_deg(np.array(kit.CENTRE_DEG), rng.uniform(0, 360), 400 * np.sqrt(rng.random()))
            at = destination_deg(cells.centers_deg(cells.cell_ids(near, 18)), rng.uniform(0, 360), rng.uniform(0, 5))
            (x,), (y,) = transform("OGC:CRS84", source.crs, [at[1]], [at[0]])
            window = from_bounds(x - 90, y - 90, x + 90, y + 90, source.transform).round_offsets().round_lengths()
            profile = {"driver": "GTiff", "width": window.width, "height": window.height, "count": 3, "dtype": "uint8"}
            placed = {"crs": source.crs, "transform": source.window_transform(window)}
            with rasterio.open(folder / f"{i:02}.tif", "w", **profile, **placed) as target:
                target.write(source.read(window=window))
    return folder


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, encoder_folder, ortho, crops, kit):
    """An index that is calibrated by the command."""
    out = tmp_path_factory.mktemp("calibrated") / "index"
    kit.build(encoder_folder, ortho, out, level=18)
    assert main(["index", "calibrate", str(out), "--photos", str(crops), "--view", "aerial", "--device", "cpu"]) == 0
    return out


def test_answers_of_a_calibrated_index_are_probable(calibrated, crops, capsys):
    found = ["locate", str(crops), "--index", str(calibrated), "--view", "aerial", "--device", "cpu", "--top_k", "3"]
    assert main([*found, "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 60
    assert {answer["calibration"] for answer in answers} == {"photos"}
    assert sum(answer["status"] == "rejected" for answer in answers) <= 3
    for answer in answers:
        p = [place["p_within_100m"] for place in answer["candidates"]]
        assert p == sorted(p, reverse=True)
        assert 0 <= min(p) <= max(p) <= 1
        assert all(0 < place["radius_m"] < 300 for place in answer["candidates"])
    right = np.array([answer["candidates"][0]["exif_distance_m"] <= 100 for answer in answers])
    p = np.array([answer["candidates"][0]["p_within_100m"] for answer in answers])
    assert right.mean() > 0.6
    assert abs(p.mean() - right.mean()) < 0.15


def test_a_photo_that_cannot_be_used_is_named_and_the_others_are(calibrated, crops, tmp_path, capsys):
    shutil.copytree(calibrated, tmp_path / "index")
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    photos = [str(crops), str(tmp_path / "broken.tif")]
    words = ["index", "calibrate", str(tmp_path / "index"), "--view", "aerial", "--device", "cpu", "--photos", *photos]
    assert main(words) == 1
    captured = capsys.readouterr()
    told = json.loads(captured.out)["calibration"]
    assert (told["photos"], told["unusable_photos"]) == (60, 1)
    assert "broken.tif" in captured.err


def test_a_second_look_is_calibrated_for_itself(calibrated, crops, ortho, tmp_path, capsys):
    """Searches take it of their own, where there is imagery; scores without it are others."""
    shutil.copytree(calibrated, tmp_path / "index")
    common = [str(crops), "--view", "aerial", "--device", "cpu"]
    words = ["index", "calibrate", str(tmp_path / "index"), "--rerank", "6", "--photos", *common]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["calibration"]["rerank"] == 6

    def told(*flags):
        assert main(["locate", *common, "--index", str(tmp_path / "index"), "--json", "--top_k", "1", *flags]) == 0
        captured = capsys.readouterr()
        return [json.loads(line) for line in captured.out.splitlines()], captured.err

    answers, _ = told()
    assert {answer["calibration"] for answer in answers} == {"photos"}
    p = np.array([answer["candidates"][0]["p_within_100m"] for answer in answers])
    right = np.array([answer["candidates"][0]["exif_distance_m"] <= 100 for answer in answers])
    assert abs(p.mean() - right.mean()) < 0.15
    assert {answer["calibration"] for answer in told("--rerank", "0")[0]} == {"none"}
    assert {answer["calibration"] for answer in told("--rerank", "7")[0]} == {"none"}
    with CellIndex.open(tmp_path / "index") as index:
        gone = replace(index.manifest, imagery=[str(tmp_path / "none.tif")])
        store.commit(tmp_path / "index", gone)
    answers, said = told()
    assert {answer["calibration"] for answer in answers} == {"none"}
    assert "cannot be opened" in said
    assert main(words) == 2, "there is nothing to look at"
    assert main([*words, "--imagery", str(ortho)]) == 0


def test_a_small_region_makes_the_same_place_more_probable(calibrated, crops, kit, capsys):
    near = f"--near={kit.CENTRE_DEG[0]},{kit.CENTRE_DEG[1]}"
    common = ["locate", str(crops), "--index", str(calibrated), "--view", "aerial", "--device", "cpu", "--json"]
    told = []
    for where in ([], [near, "--radius_m", "450"]):
        assert main([*common, *where]) == 0
        told.append([json.loads(line)["candidates"][0] for line in capsys.readouterr().out.splitlines()])
    same = [(a, b) for a, b in zip(*told, strict=True) if a["cell"] == b["cell"]]
    assert len(same) > 30
    assert all(b["p_within_100m"] >= a["p_within_100m"] - 0.02 for a, b in same)


def test_a_heat_map_adds_up_to_one(calibrated, crops, tmp_path):
    heat = tmp_path / "heat.tif"
    common = ["--view", "aerial", "--device", "cpu", "--out", str(tmp_path / "a.csv"), "--heatmap", str(heat)]
    assert main(["locate", str(crops / "00.tif"), "--index", str(calibrated), *common]) == 0
    with rasterio.open(heat) as picture:
        density, affine = picture.read(1).astype(np.float64), picture.transform
    lat = np.deg2rad(affine.f + affine.e * np.arange(density.shape[0] + 1))
    area_km2 = -np.diff(np.sin(lat)) * np.deg2rad(affine.a) * 6371.0088**2
    assert np.nansum(density * area_km2[:, None]) == pytest.approx(1, abs=0.01)


def test_what_is_calibrated_holds_for_its_own_scores_only(calibrated):
    with CellIndex.open(calibrated) as index:
        calibration = Calibration.of(index)
        own = {"kappa": Fusion(0.0, 0.0), "dates": "max", "rerank": 0}
        assert calibration.is_of(index, **own)
        assert not replace(calibration, kappa=0.5).is_of(index, **own)
        assert not calibration.is_of(index, **(own | {"rerank": 10}))
        assert {**calibration.to_manifest(), "kinds": None}.items() >= {"on": "photos", "kappa": 0.0}.items()
        told = index.manifest.calibration
    assert told["photos"] == 60
    assert told["reliability"]["brier"] < 0.25


def test_without_photos_a_region_is_made_up_and_said_so(tmp_path, monkeypatch, kit):
    """The shipped encoder on a small world: here the rendered photos and the index are real ones."""
    ortho = kit.write_ortho(tmp_path / "ortho.tif", kit.texture(200), gsd_m=0.6)
    kit.build("geoview/encoders/demo", ortho, tmp_path / "index", level=18)
    monkeypatch.setattr(calibrating, "_WORLDS", (("rural", 700_003),))
    monkeypatch.setattr(calibrating, "_WORLD_M", 360.0)
    monkeypatch.setattr(calibrating, "_N_PHOTOS", 8)
    monkeypatch.setattr(calibrating, "_LEAST_FOUND", 5)
    monkeypatch.setattr(calibrating, "_LEAST_SHOWN", 8)
    with CellIndex.open(tmp_path / "index") as index:
        told = calibrate(index, CalibrateConfig(device="cpu", num_workers=1))
        assert index.manifest.calibration["on"] == "rendered"
    assert told["photos"] == 16
    assert set(told["kinds"]) == {"panorama", "perspective"}
    assert 0.005 < told["general"]["temperature"] < 0.2
