"""Photos of one spot are heard together: in any order, and whatever a stray among them shows."""

import csv
import io
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.special import logsumexp

import tiles
from geoview.cli import main
from geoview.config import InferenceConfig
from geoview.data.queries import PhotoQuery
from geoview.errors import RegionError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.index.cell_index import CellIndex
from geoview.locate.calibration import Calibration, OfKind
from geoview.locate.embedding import PhotoView
from geoview.locate.evidence import STRAY, Evidence
from geoview.locate.localizer import Localizer, Search
from geoview.locate.together import ALIKE, fused, locate_together

AERIAL = PhotoView("aerial", gsd_m=4.8)


@pytest.fixture(scope="module")
def localizer(index_folder):
    return Localizer(CellIndex.open(index_folder), InferenceConfig(batch_size=4, device="cpu"))


@pytest.fixture(scope="module")
def spots(tmp_path_factory, localizer, ortho):
    """Seven noisy pictures of one cell's ground and one of another's, and the two cells."""
    folder = tmp_path_factory.mktemp("spots")
    source, ids = tiles.open_source(str(ortho)), localizer.index.cell_ids()
    here, there = ids[len(ids) // 2], ids[len(ids) // 4]
    rng = np.random.default_rng(0)
    names = []
    for number, cell in enumerate([here] * 7 + [there]):
        chip = source.chip(cells.centers_deg(np.array([cell]))[0], size_px=32, gsd_m=4.8)
        noisy = chip.pixels + rng.normal(0.0, 12.0, chip.pixels.shape)
        names.append(str(folder / f"{number}.png"))
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(names[-1])
    return names, int(here), int(there)


def ids_of(answer):
    return [place.cell_id for place in answer.places]


PANORAMAS = frozenset(["panorama"])


def said(log_ratio, shown=PANORAMAS):
    """Evidence of cells that are looked at one and all; what a photo says is made a ratio of probabilities."""
    log_ratio = log_ratio - logsumexp(log_ratio, axis=1, keepdims=True) + np.log(log_ratio.shape[1])
    log_ratio = np.logaddexp(np.log1p(-STRAY) + log_ratio, np.log(STRAY))
    n = log_ratio.shape[1]
    none = np.full(log_ratio.shape, -1)
    ids, score = np.arange(n, dtype=np.uint64), log_ratio.astype(np.float32)
    return Evidence(ids, np.ones(n), score, none, log_ratio, np.zeros(n), shown)


EVIDENCE = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 9)), elements=st.floats(-30, 30))


@settings(deadline=None)
@given(EVIDENCE, st.randoms(use_true_random=False))
def test_the_order_of_photos_is_all_the_same(log_ratio, random):
    order = list(range(len(log_ratio)))
    random.shuffle(order)
    log_probability, stray = fused(said(log_ratio))
    shuffled, stray_shuffled = fused(said(log_ratio[order]))
    np.testing.assert_allclose(shuffled, log_probability, atol=1e-9)
    np.testing.assert_allclose(stray_shuffled, stray[order], atol=1e-9)
    assert np.exp(log_probability).sum() == pytest.approx(1)
    assert (stray >= 0).all() and (stray <= 1 + 1e-9).all()


@settings(deadline=None)
@given(st.integers(2, 6), st.floats(4, 200))
def test_no_stray_outvotes_two_photos_that_agree(n_cells, loud):
    log_ratio = np.zeros((3, n_cells))
    log_ratio[:2, 0], log_ratio[2, 1] = 4.0, loud
    log_probability, stray = fused(said(log_ratio))
    assert log_probability.argmax() == 0
    assert stray.argmax() == 2


@pytest.mark.parametrize("n_photos", [1, 2, 5, 50])
@pytest.mark.parametrize("shown", [["panorama"], ["perspective"], ["aerial"], ["perspective", "panorama"]])
def test_photos_of_a_spot_say_less_than_if_each_stood_for_itself(n_photos, shown):
    one = said(np.array([[3.0, 1.0, 0.0, -2.0]]), shown)
    several = said(np.repeat([[3.0, 1.0, 0.0, -2.0]], n_photos, axis=0), shown)
    (alone, _), (together, _) = fused(one), fused(several)
    alike = ALIKE[shown[-1]]  # a mixture is heard as if all of it were panoramas
    worth = n_photos / (1 + alike * (n_photos - 1))
    assert 1 <= worth < 1 / alike
    np.testing.assert_allclose(np.diff(together), worth * np.diff(alone))


def test_a_cell_that_speaks_for_others_counts_as_all_of_them():
    plain = said(np.random.default_rng(0).normal(size=(3, 5)))
    columns = [0, 1, 2, 3, 4, 4, 4]
    copied = Evidence(plain.cell_id, np.array([1, 1, 1, 1, 3.0]), *(3 * [plain.log_ratio]), np.zeros(5), PANORAMAS)
    spread = Evidence(plain.cell_id, np.ones(7), *(3 * [plain.log_ratio[:, columns]]), np.zeros(7), PANORAMAS)
    for one, other in zip(fused(copied), fused(spread), strict=True):
        np.testing.assert_allclose(one, other[: len(one)])


def test_all_photos_are_answered_with_the_place_that_is_best_for_all(localizer, spots):
    names, here, _ = spots
    answers = locate_together(localizer, names[:7], Search(top_k=3), view=AERIAL)
    assert [a.query for a in answers] == names[:7]
    assert all(a.status == "ok" and ids_of(a) == ids_of(answers[0]) for a in answers)
    assert ids_of(answers[0])[0] == here
    alone = [
        localizer.index.search(localizer.embed([PhotoQuery(n)], AERIAL)[0].vectors, 1).score[0, 0] for n in names[:2]
    ]
    for answer, score in zip(answers, alone, strict=False):
        assert answer.places[0].score <= score + 1e-5, "scores are the photo's own"
    backwards = locate_together(localizer, names[6::-1], Search(top_k=3), view=AERIAL)
    assert ids_of(backwards[0]) == ids_of(answers[0])


def test_in_a_calibrated_index_photos_that_agree_are_surer_than_each_alone(localizer, spots, tmp_path):
    names, here, _ = spots
    shutil.copytree(str(localizer.index.path), tmp_path / "index")
    with CellIndex.open(tmp_path / "index") as index:
        kind = OfKind(0.2, 0.3, (20.0, 1.0), None, None)
        index.set_calibration(Calibration("photos", kind, {}, kappa=0.0, offset=0.0, rerank=0).to_manifest())
        calibrated = Localizer(index, localizer.config)
        (one,) = locate_together(calibrated, names[:1], Search(top_k=3), view=AERIAL)
        several = locate_together(calibrated, names[:5], Search(top_k=3), view=AERIAL)
    centre = cells.centers_deg(np.array([here], np.uint64))[0]
    for answer in (one, *several):
        told = [place.p_within_100m for place in answer.places]
        assert answer.calibration == "photos"
        assert told == sorted(told, reverse=True) and sum(told) <= 1 + 1e-9
        assert distance_m(centre, np.array(answer.places[0].latlon_deg)) < 100
        assert all(place.radius_m > 0 for place in answer.places)
    assert several[0].places[0].p_within_100m > 1.2 * one.places[0].p_within_100m
    assert several[0].places[0].latlon_deg == several[4].places[0].latlon_deg


def test_neither_strays_nor_unreadable_photos_move_the_answer(localizer, spots, tmp_path):
    names, here, there = spots
    (tmp_path / "bad.jpg").write_bytes(b"none")
    given = [names[7], *names[:3], str(tmp_path / "bad.jpg")]
    answers = locate_together(localizer, given, Search(top_k=1), view=AERIAL)
    assert [a.query for a in answers] == given
    assert [ids_of(a) for a in answers] == [[here]] * 4 + [[]]
    assert [a.status for a in answers] == ["rejected", "ok", "ok", "ok", "failed"]
    assert "bad.jpg" in answers[-1].error
    (alone,) = locate_together(localizer, names[7:], Search(top_k=1), view=AERIAL)
    assert (alone.status, ids_of(alone)) == ("ok", [there]), "one photo is no stray among others"
    (failed,) = locate_together(localizer, [str(tmp_path / "bad.jpg")], view=AERIAL)
    assert failed.status == "failed"
    assert locate_together(localizer, []) == []


def test_the_region_is_kept(localizer, spots):
    names, here, _ = spots
    centre = cells.centers_deg(np.array([here], np.uint64))[0]
    region = Region.disc(np.add(centre, [0.004, 0.0]), 200.0)
    answers = locate_together(localizer, names[:2], Search(region=region), view=AERIAL)
    assert answers[0].places
    assert np.isin(ids_of(answers[0]), region.cells(localizer.index.level)).all()
    with pytest.raises(RegionError, match="no cell"):
        locate_together(localizer, names[:2], Search(region=Region.disc((0.0, 0.0), 100.0)), view=AERIAL)


def test_the_command_answers_every_photo_and_takes_no_contradiction(spots, index_folder, capsys, tmp_path):
    names, _, _ = spots
    words = [
        "locate",
        *names[:3],
        "--index",
        str(index_folder),
        "--view",
        "aerial",
        "--gsd_m",
        "4.8",
        "--device",
        "cpu",
    ]
    assert main([*words, "--together", "--top_k", "2"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["query"] for row in rows] == [name for name in names[:3] for _ in range(2)]
    assert len({row["cell"] for row in rows}) == 2
    for wrong, named in (
        (["--together", "--sequence"], "give one"),
        (["--together", "--near", "exif", "--radius_m", "5"], "near exif"),
        (["--sequence", "--heatmap", str(tmp_path / "heat.tif")], "not calibrated"),
        (["--together", "--step_s", "3"], "step_s"),
        (["--max_speed_kmh", "50"], "max_speed_kmh"),
    ):
        assert main([*words, *wrong]) == 2
        assert named in capsys.readouterr().err
