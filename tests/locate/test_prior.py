"""A prior is a density: even on average, high where photos of known place are, and nothing where they say nothing."""

import csv
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from geoview.cli import main
from geoview.config import InferenceConfig
from geoview.errors import ConfigError, PhotoTableError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import destination_deg, distance_m, unit_vectors
from geoview.index.cell_index import CellIndex
from geoview.locate.localizer import Localizer
from geoview.locate.prior import LEAST_PHOTOS, Prior, learn_prior

LEVEL, RADIUS_M = 18, 1500.0
PLACES = [(48.1, 11.6), (-33.9, -70.6), (0.3, 179.9995)]


def ground(centre_deg):
    """What a prior asks an index: its cells, here those of a disc."""
    ids = Region.disc(centre_deg, RADIUS_M).cells(LEVEL)
    return SimpleNamespace(
        path="index",
        level=LEVEL,
        has_cells=lambda asked: np.isin(asked, ids),
        some_cells=lambda n: (ids[:: max(1, len(ids) // n)], len(ids)),
        ids=ids,
    )


def spread(centre_deg, n, radius_m, seed=0):
    """Points drawn evenly from a disc."""
    rng = np.random.default_rng(seed)
    return destination_deg(np.array(centre_deg), rng.uniform(0, 360, n), radius_m * np.sqrt(rng.random(n)))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("radius_m", [60.0, 400.0, RADIUS_M])
def test_it_is_a_density_over_the_ground(place, radius_m):
    index = ground(place)
    prior = Prior.of(spread(place, 600, radius_m), index)
    area_m2 = cells.areas_m2(index.ids)
    mean = (np.exp(prior.log_ratio(index.ids)) * area_m2).sum() / area_m2.sum()
    # What photos near the edge say of ground beyond it is lost.
    assert 0.75 < mean < 1.05


@pytest.mark.parametrize("place", PLACES)
def test_photos_make_their_surroundings_likelier_as_far_as_they_are_alike(place):
    index = ground(place)
    dense, even = (Prior.of(spread(place, 600, radius_m), index) for radius_m in (100.0, RADIUS_M))
    here, far = cells.cell_ids(np.array([place, destination_deg(np.array(place), 90.0, 1200.0)]), LEVEL)[:, None]
    assert dense.reach_m < even.reach_m
    # All photos are within 100 m, a 225th of the ground.
    assert np.exp(dense.log_ratio(here)) == pytest.approx(0.1 + 0.9 * 225, rel=0.3)
    assert np.exp(dense.log_ratio(far)) == pytest.approx(0.1)
    assert np.exp(even.log_ratio(np.concatenate([here, far]))) == pytest.approx(1.0, abs=0.8)


def test_photos_elsewhere_do_not_count():
    index = ground(PLACES[0])
    inside, elsewhere = spread(PLACES[0], 100, 300.0), spread((48.3, 11.6), 5_000, 300.0)
    alone, both = (Prior.of(points, index) for points in (inside, np.concatenate([elsewhere, inside])))
    assert both.photos.n == alone.photos.n == 100
    np.testing.assert_array_equal(both.log_ratio(index.ids), alone.log_ratio(index.ids))


def test_too_few_photos_are_told():
    points = spread(PLACES[0], LEAST_PHOTOS - 1, 300.0)
    with pytest.raises(ConfigError, match=f"{LEAST_PHOTOS - 1} photos of known place lie in index; of at least"):
        Prior.of(np.concatenate([points, spread((48.3, 11.6), 50, 300.0)]), ground(PLACES[0]))
    with pytest.raises(ConfigError, match="0 photos of known place"):
        learn_prior([], ground(PLACES[0]))


def test_photos_tell_their_places_by_table_or_exif(tmp_path, kit, caplog):
    index = ground(PLACES[0])
    at_deg = spread(PLACES[0], 40, 300.0)
    places = tmp_path / "places.csv"
    places.write_text("lat,lon\n" + "".join(f"{lat},{lon}\n" for lat, lon in at_deg[:20]))
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, latlon_deg in enumerate(at_deg[30:]):
        Image.new("RGB", (32, 32)).save(photos / f"{i}.jpg", exif=kit.exif_at(*latlon_deg))
    Image.new("RGB", (32, 32)).save(photos / "nowhere.jpg")
    table = tmp_path / "table.csv"
    told = [f"gone.jpg,{lat},{lon}\n" for lat, lon in at_deg[20:30]]
    table.write_text("".join(["path,lat,lon\n", *told, "gone.jpg,,\n", "photos/0.jpg,,\n"]))
    paths = tmp_path / "paths.csv"
    paths.write_text("path\nphotos/1.jpg\n")
    prior = learn_prior([places, photos, table, paths], index)
    assert prior.photos.n == 42
    assert "2 of 44 photos tell no place" in caplog.text
    paths.write_text("name\nphotos/1.jpg\n")
    with pytest.raises(PhotoTableError, match=r"paths\.csv: line 1: no column lat and lon or path in 'name'"):
        learn_prior([paths], index)


# -- in answers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated(index_folder, tmp_path_factory):
    """An index whose temperature leaves much to what is known beforehand."""
    folder = tmp_path_factory.mktemp("calibrated") / "index"
    shutil.copytree(index_folder, folder)
    general = {"temperature": 0.3, "sharpness": 0.01, "radius_m": [0.0, 1.0]}
    general |= {"least_evidence": None, "least_turning": None}
    with CellIndex.open(folder) as index:
        index.set_calibration(
            {"on": "rendered", "general": general, "kinds": {}, "kappa": 0.0, "offset": 0.0, "rerank": 0}
        )
        yield index


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.jpg")
    return str(tmp_path / "a.jpg")


def before(folder, points):
    """Writes a table of photos that are not there any more."""
    path = folder / "before.csv"
    path.write_text("path,lat,lon\n" + "".join(f"{i}.jpg,{lat},{lon}\n" for i, (lat, lon) in enumerate(points)))
    return str(path)


def test_a_place_where_photos_are_taken_is_more_probable(calibrated, photo):
    localizer = Localizer(calibrated, InferenceConfig(device="cpu"))
    (even,) = localizer.locate([photo], top_k=20)
    last = even.places[-1]
    prior = Prior.of(spread(last.latlon_deg, 300, 40.0), calibrated)
    (told,) = localizer.locate([photo], top_k=20, prior=prior)
    first = told.places[0]
    assert distance_m(np.array(first.latlon_deg), np.array(last.latlon_deg)) < 150
    assert first.p_within_100m > 3 * last.p_within_100m
    # What probabilities are of is the same ground, and scores are what they were.
    assert first.score <= max(place.score for place in even.places)
    assert told.posterior.probability.sum() <= 1 + 1e-9
    there = np.isin(told.posterior.cell_id, cells.cell_ids(np.array([first.latlon_deg]), calibrated.level))
    assert told.posterior.probability[there] > even.posterior.probability[there]


def test_an_even_prior_changes_next_to_nothing(calibrated, photo):
    localizer = Localizer(calibrated, InferenceConfig(device="cpu"))
    centres_deg = cells.centers_deg(calibrated.cell_ids())
    (even,) = localizer.locate([photo], top_k=3)
    (told,) = localizer.locate([photo], top_k=3, prior=Prior(cKDTree(unit_vectors(centres_deg)), 5000.0, 1.5e6))
    assert [place.cell_id for place in told.places] == [place.cell_id for place in even.places]
    np.testing.assert_allclose(
        [place.p_within_100m for place in told.places], [place.p_within_100m for place in even.places], rtol=1e-6
    )


@pytest.mark.parametrize("several", [[], ["--together"], ["--sequence", "--step_s", "5"]])
def test_the_command_learns_it_from_a_table(calibrated, photo, tmp_path, capsys, several):
    def first(*words):
        assert main(["locate", photo, photo, "--index", str(calibrated.path), "--top_k", "60", *several, *words]) == 0
        rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
        return next(row for row in rows if row["rank"] == "1"), rows

    _, rows = first()
    last = next(row for row in reversed(rows) if row["rank"])
    points = spread((float(last["lat"]), float(last["lon"])), 300, 40.0)
    told, _ = first("--prior", before(tmp_path, points))
    apart_m = distance_m(points.mean(axis=0), np.array([float(told["lat"]), float(told["lon"])]))
    assert apart_m < 150


@pytest.mark.parametrize("several", [[], ["--together"], ["--sequence", "--step_s", "5"]])
def test_it_needs_probabilities(index_folder, photo, tmp_path, capsys, several):
    south, west, north, east = CellIndex.open(index_folder).extent_deg()
    table = before(tmp_path, spread(((south + north) / 2, (west + east) / 2), 300, 200.0))
    assert main(["locate", photo, "--index", str(index_folder), "--prior", table, *several]) == 2
    assert "run `geoview index calibrate`" in capsys.readouterr().err
