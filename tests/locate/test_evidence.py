"""What several photos say of cells: the scores of a search, as ratios of probabilities that one photo cannot spoil."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from geoview.config import InferenceConfig
from geoview.data.queries import PhotoQuery
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.locate import evidence
from geoview.locate.calibration import Calibration, OfKind
from geoview.locate.embedding import EmbeddedPhoto
from geoview.locate.evidence import STRAY, answers_of, evidence_of, places_of
from geoview.locate.localizer import Search
from geoview.locate.together import fused

DIM, LEVEL = 12, 16


def photo(vectors, name="a.jpg"):
    vectors = np.atleast_2d(vectors).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return EmbeddedPhoto(PhotoQuery(name), vectors, 30.0 * np.arange(len(vectors)), None)


def localizer_of(index, **notes):
    """What is asked of a Localizer, without an encoder."""
    encoder, calibration = SimpleNamespace(notes=notes), Calibration.of(index)
    return SimpleNamespace(index=index, encoder=encoder, calibration=calibration, config=InferenceConfig(device="cpu"))


@pytest.fixture(scope="module")
def index(tmp_path_factory, kit):
    """About 600 cells around a point, each with a code drawn for it; every fifth has codes of two dates."""
    rng = np.random.default_rng(0)
    ids = np.unique(Region.disc(kit.CENTRE_DEG, 1900.0).cells(LEVEL))
    rows = np.append(ids, ids[::5])
    codes = rng.normal(size=(len(rows), DIM))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    dates = np.repeat([20180000, 20210700], [len(ids), len(ids[::5])])
    return kit.write_index(tmp_path_factory.mktemp("index") / "index", rows, codes, dates, level=LEVEL)


def drawn_photos(n, n_vectors=3, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, n_vectors, DIM))
    return [photo(each, f"{i}.jpg") for i, each in enumerate(vectors)]


def likelihood_ratio(found):
    return (np.exp(found.log_ratio) - STRAY) / (1 - STRAY)


@pytest.mark.parametrize("scores", [2**26, 5_000])
def test_scores_are_those_of_a_search_with_the_best_heading(index, monkeypatch, scores):
    monkeypatch.setattr(evidence, "_SCORES", scores)
    photos = drawn_photos(3)
    found = evidence_of(localizer_of(index), photos, Search())
    assert (found.cell_id == np.unique(index.cell_ids())).all(), "few cells are looked at one and all"
    assert (found.stands_for == 1).all()
    for i, each in enumerate(photos):
        hits = index.search(each.vectors, len(found.cell_id))
        by_cell = [
            dict(zip(*pair, strict=True)) for pair in zip(hits.cell_id.tolist(), hits.score.tolist(), strict=True)
        ]
        scores = np.array([[mine[cell] for cell in found.cell_id.tolist()] for mine in by_cell])
        np.testing.assert_allclose(found.score[i], scores.max(axis=0), atol=1e-5)
        assert (found.heading_deg[i] == 30.0 * scores.argmax(axis=0)).all()
    np.testing.assert_allclose(likelihood_ratio(found).mean(axis=1), 1.0)


def test_of_a_large_index_some_cells_speak_for_all_others(index, monkeypatch):
    photos = drawn_photos(2)
    every = evidence_of(localizer_of(index), photos, Search())
    monkeypatch.setattr(evidence, "_FOUND", 20)
    monkeypatch.setattr(evidence, "_FIRST", 2)
    monkeypatch.setattr(evidence, "_EVERY", 150)
    monkeypatch.setattr(evidence, "_OTHERS", 150)
    some = evidence_of(localizer_of(index), photos, Search(top_k=1))
    assert len(some.cell_id) < len(every.cell_id)
    assert some.stands_for.sum() == pytest.approx(len(every.cell_id))
    at = np.searchsorted(every.cell_id, some.cell_id)
    for i, each in enumerate(photos):
        best = index.search(each.vectors, 10).cell_id.ravel()
        best = best[np.isin(best, every.cell_id[np.argsort(-every.score[i])[:10]])]
        assert (some.stands_for[np.searchsorted(some.cell_id, best)] == 1).all()
        around = np.intersect1d(cells.neighbors(best), every.cell_id)
        assert np.isin(around, some.cell_id[some.stands_for == 1]).all(), "neighbours are looked at, too"
        np.testing.assert_allclose(some.log_ratio[i], every.log_ratio[i, at], atol=0.5)


def test_the_temperature_is_the_calibrated_one_or_the_encoders(index, tmp_path, kit):
    photos = drawn_photos(2)

    def differences(localizer):
        ratio = np.log(likelihood_ratio(evidence_of(localizer, photos, Search())))
        return ratio[:, 1:6] - ratio[:, :1]

    plain = evidence_of(localizer_of(index), photos, Search())
    score = plain.score[:, 1:6].astype(np.float64) - plain.score[:, :1]
    np.testing.assert_allclose(differences(localizer_of(index)), score / 0.07, rtol=1e-5)
    np.testing.assert_allclose(differences(localizer_of(index, logit_scale=np.log(5.0))), score / 0.2, rtol=1e-5)
    calibrated = kit.write_index(tmp_path / "index", plain.cell_id, index.codes_of(np.arange(len(plain.cell_id))))
    fitted = Calibration("rendered", OfKind(0.5, 0.1, (20.0, 1.0), None, None), {}, kappa=0.0, offset=0.0, rerank=0)
    calibrated.set_calibration(fitted.to_manifest())
    score = evidence_of(localizer_of(calibrated), photos, Search()).score
    score = score[:, 1:6].astype(np.float64) - score[:, :1]
    np.testing.assert_allclose(differences(localizer_of(calibrated, logit_scale=1.0)), score / 0.5, rtol=1e-4)
    other = localizer_of(calibrated, logit_scale=np.log(5.0))
    other.calibration = replace(fitted, kappa=1.0)
    np.testing.assert_allclose(differences(other), score / 0.2, rtol=1e-4)


def test_nothing_outside_the_region_is_looked_at(index, monkeypatch, kit):
    monkeypatch.setattr(evidence, "_FOUND", 20)
    region = Region.disc(np.add(kit.CENTRE_DEG, [0.004, 0.004]), 500.0)
    found = evidence_of(localizer_of(index), drawn_photos(2), Search(region=region))
    assert np.isin(found.cell_id, region.cells(LEVEL)).all()
    assert found.stands_for.sum() == pytest.approx(np.isin(np.unique(index.cell_ids()), region.cells(LEVEL)).sum())


@pytest.mark.parametrize("dates", ["max", "mean", "latest"])
def test_places_tell_the_photos_own_score_heading_and_imagery(index, dates):
    photos = drawn_photos(2)
    search = Search(top_k=4, dates=dates)
    found = evidence_of(localizer_of(index), photos, search)
    for i, each in enumerate(photos):
        order = np.argsort(-found.score[i], kind="stable")
        places = places_of(index, each, found, i, order, found.log_ratio[i], search)
        assert len(places) == 4
        assert all(index.cell_ids()[place.row] == place.cell_id for place in places)
        # Those that others found, too.
        last = places_of(index, each, found, i, order[::-1], found.log_ratio[i], search)
        assert all(place.imagery_date in ("2018", "2021-07") for place in places + last)
        hits = index.search(each.vectors, 1, dates=dates)
        best = np.unravel_index(hits.score.argmax(), hits.score.shape)
        assert places[0].cell_id == hits.cell_id[best]
        assert places[0].row == hits.row[best]
        assert places[0].score == pytest.approx(hits.score[best], abs=1e-5)
        assert places[0].heading_deg == 30.0 * best[0]


@pytest.mark.parametrize("n_every", [16_384, 150])
def test_probabilities_of_places_are_sums_over_cells(index, tmp_path, kit, monkeypatch, n_every):
    plain = evidence_of(localizer_of(index), drawn_photos(1), Search())
    calibrated = kit.write_index(tmp_path / "index", plain.cell_id, index.codes_of(np.arange(len(plain.cell_id))))
    kind = OfKind(0.1, 0.2, (20.0, 1.0), None, None)
    fitted = Calibration("rendered", kind, {}, kappa=0.0, offset=0.0, rerank=0)
    calibrated.set_calibration(fitted.to_manifest())
    monkeypatch.setattr(evidence, "_FOUND", 60)
    monkeypatch.setattr(evidence, "_EVERY", n_every)
    monkeypatch.setattr(evidence, "_OTHERS", n_every)
    found = evidence_of(localizer_of(calibrated), drawn_photos(3), Search())
    log_probability, _ = fused(found)
    mass = np.exp(log_probability) * found.stands_for
    assert mass.sum() == pytest.approx(1)
    surface = found.surface(LEVEL, log_probability)
    np.testing.assert_allclose(surface.probability(1.0), mass[found.stands_for == 1], rtol=1e-4)
    order = np.argsort(-log_probability, kind="stable")
    for place in places_of(calibrated, drawn_photos(3)[0], found, 0, order, log_probability, Search(top_k=3)):
        # Of cells that the disc cuts, it has the part that lies in it.
        apart_m = distance_m(np.array(place.latlon_deg), cells.centers_deg(found.cell_id))
        least, most = (mass[apart_m <= radius_m].sum() for radius_m in (20.0, 200.0))
        assert 0 <= place.p_within_100m <= most + 1e-9
        assert place.p_within_100m > 0.2 * least
        assert 20.0 <= place.radius_m <= 120.0


def test_the_scores_of_another_search_are_not_calibrated(index, tmp_path, kit):
    plain = evidence_of(localizer_of(index), drawn_photos(1), Search())
    calibrated = kit.write_index(tmp_path / "index", plain.cell_id, index.codes_of(np.arange(len(plain.cell_id))))
    kind = OfKind(0.1, 0.2, (20.0, 1.0), None, None)
    calibrated.set_calibration(Calibration("photos", kind, {}, kappa=0.0, offset=0.0, rerank=30).to_manifest())
    found = evidence_of(localizer_of(calibrated), drawn_photos(1), Search())
    (place,) = places_of(calibrated, drawn_photos(1)[0], found, 0, np.array([0]), found.log_ratio[0], Search())
    assert found.calibration is None
    assert (place.p_within_100m, place.radius_m) == (None, None)


@pytest.mark.parametrize("way", ["mean", "latest"])
def test_other_dates_than_were_calibrated_have_no_probabilities(index, way):
    kind = OfKind(0.1, 0.2, (20.0, 1.0), None, None)
    localizer = localizer_of(index)
    localizer.calibration = Calibration("photos", kind, {}, kappa=0.0, offset=0.0, rerank=0)
    assert evidence_of(localizer, drawn_photos(1), Search()).calibration is localizer.calibration
    assert evidence_of(localizer, drawn_photos(1), Search(dates=way)).calibration is None


def test_photos_that_cannot_be_read_have_failed_and_strays_are_rejected():
    unread = EmbeddedPhoto(PhotoQuery("b.jpg"), np.empty((0, DIM), np.float32), np.empty(0), (1.0, 2.0), "b.jpg: gone")
    answers = answers_of(
        [photo(np.ones(DIM)), unread, photo(np.ones(DIM), "c.jpg")], [([], 0.2, None), ([], 0.9, None)]
    )
    assert [(a.query, a.status, a.error) for a in answers] == [
        ("a.jpg", "ok", ""),
        ("b.jpg", "failed", "b.jpg: gone"),
        ("c.jpg", "rejected", ""),
    ]
    assert answers[1].latlon_deg == (1.0, 2.0)
