"""Photos of one walk: nobody is faster than he can be, and no way is likelier than the one that is answered."""

import csv
import io
import itertools
import shutil
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import IFD, Base
from scipy.special import logsumexp

import tiles
from geoview.cli import main
from geoview.config import InferenceConfig
from geoview.data.queries import PhotoQuery
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import destination_deg, distance_m
from geoview.index.cell_index import CellIndex
from geoview.locate import sequence
from geoview.locate.calibration import Calibration, OfKind
from geoview.locate.embedding import PhotoView
from geoview.locate.localizer import Localizer, Search
from geoview.locate.sequence import Links, locate_sequence, marginals, most_likely_way

AERIAL = PhotoView("aerial", gsd_m=4.8)
START = datetime(2024, 5, 1, 12, tzinfo=UTC)


# -- ways --------------------------------------------------------------------------------------------------------------


def drawn(seed, n_photos, n_cells):
    """What photos say of cells within a kilometre, and how far one gets between them."""
    rng = np.random.default_rng(seed)
    centre = np.array([rng.uniform(-89.9, 89.9), rng.uniform(-180, 180)])
    points = destination_deg(np.tile(centre, (n_cells, 1)), rng.uniform(0, 360, n_cells), rng.uniform(0, 500, n_cells))
    return rng.normal(0.0, 3.0, (n_photos, n_cells)), points, rng.uniform(0.0, 700.0, n_photos - 1)


def linked(points, reach_m):
    return Links.within(float(reach_m.max(initial=0.0)), points)


def all_ways(log_ratio, points, reach_m):
    """All ways within reach, (W, P), and what photos say of each."""
    apart = distance_m(points[:, None], points[None])
    ways = np.array(list(itertools.product(range(len(points)), repeat=len(log_ratio))))
    ways = ways[(apart[ways[:, :-1], ways[:, 1:]] <= reach_m).all(axis=1)]
    return ways, log_ratio[np.arange(len(log_ratio)), ways].sum(axis=1)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6))
def test_the_way_and_the_marginals_are_those_of_all_ways_there_are(seed, n_photos, n_cells):
    log_ratio, points, reach_m = drawn(seed, n_photos, n_cells)
    ways, said = all_ways(log_ratio, points, reach_m)
    links = linked(points, reach_m)
    way = most_likely_way(log_ratio, links, reach_m)
    assert (way == ways[said.argmax()]).all()
    share = np.exp(said - logsumexp(said))
    expected = [[share[ways[:, i] == cell].sum() for cell in range(n_cells)] for i in range(n_photos)]
    np.testing.assert_allclose(np.exp(marginals(log_ratio, links, reach_m)), expected, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 200))
def test_no_step_is_longer_than_one_gets(seed, n_photos, n_cells):
    log_ratio, points, reach_m = drawn(seed, n_photos, n_cells)
    way = points[most_likely_way(10 * log_ratio, linked(points, reach_m), reach_m)]
    assert (distance_m(way[1:], way[:-1]) <= reach_m).all()


def test_links_are_the_pairs_within_reach():
    _, points, _ = drawn(3, 2, 300)
    apart = distance_m(points[:, None], points[None])
    links = Links.within(250.0, points)
    for reach_m in (0.0, 60.0, 250.0):
        assert all((np.sort(links.of(i, reach_m)) == np.flatnonzero(apart[i] <= reach_m)).all() for i in range(300))
    around = Links.within(1e9, np.array([[0.0, 0.0], [0.0, 180.0], [90.0, 0.0]]))
    assert around.distance_m.nnz == 9, "nobody gets further than around the world"


def test_photos_that_contradict_each_other_beyond_all_numbers_still_have_an_answer():
    points = np.array([[0.0, 0.0], [0.0, 0.1]])
    log_ratio = np.zeros((400, 2))
    log_ratio[:200, 0] = log_ratio[200:, 1] = 12.0
    reach_m = np.full(399, 10.0)
    probability = np.exp(marginals(log_ratio, linked(points, reach_m), reach_m))
    np.testing.assert_allclose(probability.sum(axis=1), 1.0)


# -- photos ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def localizer(index_folder):
    return Localizer(CellIndex.open(index_folder), InferenceConfig(batch_size=4, device="cpu"))


@pytest.fixture(scope="module")
def walk(tmp_path_factory, localizer, ortho):
    """A folder with pictures from above of six cells in a row, a minute between them; and the cells."""
    folder = tmp_path_factory.mktemp("walk")
    source, ids = tiles.open_source(str(ortho)), localizer.index.cell_ids()
    way = [ids[np.argmin(distance_m(cells.centers_deg(ids), cells.centers_deg(ids).mean(axis=0)))]]
    for _ in range(3):
        way = [cells.edge_neighbors(way[0])[3], *way, cells.edge_neighbors(way[-1])[1]][-6:]
    for number, centre in enumerate(cells.centers_deg(way)):
        exif = Image.Exif()
        exif.get_ifd(IFD.Exif)[Base.DateTimeOriginal] = f"2024:05:01 12:{number:02d}:00"
        chip = source.chip(centre, size_px=32, gsd_m=4.8)
        Image.fromarray(chip.pixels).save(folder / f"{number}.jpg", exif=exif, quality=95)
    return folder, np.array(way)


def names(folder, order):
    return [str(folder / f"{number}.jpg") for number in order]


def firsts(answers):
    return np.array([answer.places[0].cell_id for answer in answers], np.uint64)


def test_photos_are_put_in_order_by_their_times_and_answered_as_given(localizer, walk):
    folder, way = walk
    order = [3, 0, 5, 1, 4, 2]
    answers = locate_sequence(localizer, names(folder, order), Search(top_k=3), max_speed_kmh=6, view=AERIAL)
    assert [a.query for a in answers] == names(folder, order)
    in_memory = [PhotoQuery(name, content=Path(name).read_bytes()) for name in names(folder, order)]
    assert locate_sequence(localizer, in_memory, Search(top_k=3), max_speed_kmh=6, view=AERIAL) == answers
    assert all(a.status == "ok" and len(a.places) == 3 for a in answers)
    assert (firsts(answers) == way[order]).all()
    for answer in answers:
        ids = np.array([place.cell_id for place in answer.places], np.uint64)
        assert not np.isin(ids[1:], cells.neighbors(ids[:1])).any(), "places of an answer never touch"


def test_a_way_is_less_probable_than_if_each_photo_stood_for_itself(index_folder, walk, tmp_path, monkeypatch):
    shutil.copytree(index_folder, tmp_path / "index")
    kind = OfKind(0.2, 0.3, (20.0, 1.0), None, None)
    with CellIndex.open(tmp_path / "index") as index:
        index.set_calibration(Calibration("photos", kind, {}, kappa=0.0, offset=0.0, rerank=0).to_manifest())
        localizer = Localizer(index, InferenceConfig(batch_size=4, device="cpu"))
        told = {}
        for alike in (0.0, 0.05, 1.0):
            monkeypatch.setattr(sequence, "_ALIKE", alike)
            answers = locate_sequence(localizer, names(walk[0], range(6)), max_speed_kmh=6, view=AERIAL)
            assert (firsts(answers) == walk[1]).all()
            assert all(answer.status == "ok" for answer in answers)
            told[alike] = np.mean([answer.places[0].p_within_100m for answer in answers])
    assert 1 >= told[0.0] > told[0.05] > told[1.0] > 0


def test_a_stray_is_placed_on_the_way_and_rejected(localizer, walk, ortho, tmp_path):
    folder, way = walk
    ids = localizer.index.cell_ids()
    far = ids[np.argmax(distance_m(cells.centers_deg(ids), cells.centers_deg(way[2])))]
    chip = tiles.open_source(str(ortho)).chip(cells.centers_deg(far), size_px=32, gsd_m=4.8)
    Image.fromarray(chip.pixels).save(tmp_path / "stray.png")
    photos = [
        PhotoQuery(name, captured_at=START + timedelta(minutes=i)) for i, name in enumerate(names(folder, range(6)))
    ]
    photos.append(PhotoQuery(str(tmp_path / "stray.png"), captured_at=START + timedelta(minutes=2.5)))
    answers = locate_sequence(localizer, photos, Search(top_k=1), max_speed_kmh=6, view=AERIAL)
    assert [a.status for a in answers] == ["ok"] * 6 + ["rejected"]
    assert (firsts(answers[:6]) == way).all()
    assert distance_m(*cells.centers_deg([firsts(answers)[6], way[2]])) < 300
    (alone,) = locate_sequence(localizer, photos[6:], Search(top_k=1), view=AERIAL)
    assert (alone.status, firsts([alone])[0]) == ("ok", far)


def test_photos_without_a_time_fail_unless_their_order_is_said_to_be_that_of_the_walk(localizer, walk, tmp_path):
    folder, way = walk
    for number in range(6):
        Image.open(folder / f"{number}.jpg").convert("RGB").save(tmp_path / f"{number}.jpg", exif=b"", quality=95)
    bare = str(tmp_path / "2.jpg")
    answers = locate_sequence(localizer, [*names(folder, [0, 1]), bare], max_speed_kmh=6, view=AERIAL)
    assert [a.status for a in answers] == ["ok", "ok", "failed"]
    assert bare in answers[2].error
    assert "--step_s" in answers[2].error
    assert [a.status for a in locate_sequence(localizer, [bare], view=AERIAL)] == ["failed"]

    def stepped():
        photos = names(tmp_path, range(6))
        return locate_sequence(localizer, photos, Search(top_k=1), max_speed_kmh=3, step_s=60, view=AERIAL)

    assert (firsts(stepped()) == way).all()
    (tmp_path / "4.jpg").write_bytes(b"none")
    answers = stepped()
    assert [a.status for a in answers] == ["ok"] * 4 + ["failed", "ok"]
    assert "4.jpg" in answers[4].error
    sound = [0, 1, 2, 3, 5]
    assert (firsts([answers[i] for i in sound]) == way[sound]).all(), "two steps lie before the last"


@pytest.mark.parametrize(
    ("zones", "seconds"),
    [
        ((UTC, UTC), 60.0),
        ((UTC, timezone(timedelta(hours=2))), 60.0 - 7200),
        ((None, timezone(timedelta(hours=2))), 60.0),
        ((None, None), 60.0),
    ],
)
def test_times_are_compared_by_the_clock_where_an_offset_is_missing(zones, seconds):
    times = [(START + timedelta(minutes=i)).replace(tzinfo=zone) for i, zone in enumerate(zones)]
    first, second = sequence._times_s([PhotoQuery("a.jpg", captured_at=time) for time in times])
    assert second - first == seconds


def test_the_speed_bounds_the_way_and_the_region_holds(localizer, walk):
    folder, way = walk
    region = Region.disc(cells.centers_deg(way[0]), 250.0)
    answers = locate_sequence(localizer, names(folder, range(6)), Search(top_k=1, region=region), view=AERIAL)
    assert np.isin(firsts(answers), region.cells(localizer.index.level)).all()
    answers = locate_sequence(localizer, names(folder, range(6)), Search(top_k=1), max_speed_kmh=0.01, view=AERIAL)
    centres_deg = cells.centers_deg(firsts(answers))
    assert (distance_m(centres_deg[1:], centres_deg[:-1]) < 250).all(), "as far as from corner to corner of two cells"


def test_where_there_would_be_too_many_links_the_best_cells_are_left(localizer, walk, monkeypatch):
    folder, way = walk
    monkeypatch.setattr(sequence, "_LINKS", 50)
    monkeypatch.setattr(sequence, "_FEW", 30)
    answers = locate_sequence(localizer, names(folder, range(6)), Search(top_k=1), max_speed_kmh=6, view=AERIAL)
    assert (firsts(answers) == way).all()


def test_the_command_takes_a_table_with_times(walk, index_folder, capsys, tmp_path):
    folder, way = walk
    lines = [f"{folder / f'{i}.jpg'},{(START + timedelta(minutes=i)).isoformat()}" for i in (2, 0, 1)]
    (tmp_path / "photos.csv").write_text("\n".join(["path,captured_at", *lines]) + "\n")
    words = ["locate", str(tmp_path / "photos.csv"), "--index", str(index_folder), "--view", "aerial", "--gsd_m", "4.8"]
    assert main([*words, "--sequence", "--max_speed_kmh", "6", "--top_k", "1", "--device", "cpu"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["cell"] for row in rows] == cells.tokens(way[[2, 0, 1]]).tolist()
