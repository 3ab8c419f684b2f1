"""Scores against the definition, written out plainly, and what must never count as found."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.errors import ConfigError
from geoview.evaluate import RADII_M, RANKS, errors_m, places, score_places
from geoview.geo.sphere import destination_deg, distance_m
from geoview.locate.localizer import Localization
from geoview.locate.posterior import Place

HOME_DEG = (-33.9, -70.6)


def at(bearing_deg, metres, home_deg=HOME_DEG):
    return tuple(destination_deg(np.array(home_deg), bearing_deg, metres).tolist())


def answer(*places_deg, status="ok"):
    places = [Place(i, (float(lat), float(lon)), 1.0 - i / 100) for i, (lat, lon) in enumerate(places_deg)]
    return Localization("photo.jpg", status, places)


FAILED = answer(status="failed")
CENTRES = np.array([at(90, metres) for metres in (0, 40, 95, 150, 900)])


def test_a_photo_is_found_at_the_rank_and_radius_of_its_nearest_place():
    far = at(0, 5000)
    first = answer(at(0, 30), far)
    fifth = answer(far, far, far, far, at(10, 80))
    tenth = answer(*[far] * 9, at(200, 190))
    scores = score_places([first, fifth, tenth, answer(far)], np.array([HOME_DEG] * 4), CENTRES)
    wanted = {1: (0.25, 0.25, 0.25), 5: (0.25, 0.5, 0.5), 10: (0.25, 0.5, 0.75)}
    for rank, shares in wanted.items():
        assert tuple(scores[f"recall_at_{rank}_within_{radius}_m"] for radius in (50, 100, 200)) == shares
    assert scores["median_error_m"] == pytest.approx(5000, abs=1e-3)
    assert scores["n_photos"] == 4
    assert scores["n_cells"] == 5


def test_a_place_beyond_the_tenth_does_not_count():
    late = answer(*[at(0, 5000)] * 10, at(0, 1))
    scores = score_places([late], np.array([HOME_DEG]), CENTRES)
    assert not any(value for name, value in scores.items() if name.startswith("recall"))


def test_what_is_failed_unanswered_or_of_unknown_truth_is_a_miss():
    good = answer(at(0, 10))
    truth = np.array([HOME_DEG, HOME_DEG, HOME_DEG, (np.nan, np.nan)])
    scores = score_places([good, FAILED, answer(), good], truth, CENTRES)
    assert {scores[f"recall_at_{k}_within_{r}_m"] for k in RANKS for r in RADII_M} == {0.25}
    assert scores["median_error_m"] == math.inf
    assert scores["ceiling_recall_within_50_m"] == 0.75, "no cell is near a photo of unknown position"
    assert scores["chance_recall_at_1_within_100_m"] == pytest.approx(0.75 * 3 / 5)
    assert np.isinf(errors_m([FAILED], np.array([HOME_DEG]))).all()
    assert score_places([FAILED, good], truth[:2], CENTRES)["recall_at_1_within_50_m"] == 0.5


def test_chance_and_ceiling_follow_the_cells_alone():
    scores = score_places([FAILED] * 2, np.array([HOME_DEG, at(90, 500)]), CENTRES)
    assert scores["chance_recall_at_1_within_100_m"] == pytest.approx((3 / 5 + 0) / 2)
    assert scores["ceiling_recall_within_50_m"] == 0.5


positions = st.tuples(st.floats(-0.004, 0.004), st.floats(-0.004, 0.004))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([HOME_DEG, (60.0, 24.9), (0.0, 179.999)]),
    st.lists(st.tuples(positions, st.lists(positions, max_size=12)), min_size=1, max_size=8),
    st.lists(positions, min_size=1, max_size=30),
    st.integers(1, 100),
)
def test_scores_are_those_of_the_definition(home_deg, photos, cells, block):
    def moved(offset):
        lon = home_deg[1] + offset[1]
        return home_deg[0] + offset[0], (lon + 180) % 360 - 180

    truth = np.array([moved(offset) for offset, _ in photos])
    answers = [answer(*map(moved, places)) for _, places in photos]
    centres = np.array([moved(offset) for offset in cells])
    before = places._BLOCK
    places._BLOCK = block
    try:
        scores = score_places(answers, truth, centres)
    finally:
        places._BLOCK = before
    for k in RANKS:
        for radius in RADII_M:
            found = [
                any(distance_m(t, np.array(p.latlon_deg)) <= radius for p in a.places[:k])
                for t, a in zip(truth, answers, strict=True)
            ]
            assert scores[f"recall_at_{k}_within_{radius}_m"] == pytest.approx(np.mean(found))
    away = [[float(distance_m(t, c)) for c in centres] for t in truth]
    # A millimetre either side of a radius may fall to either.
    share = [np.mean(np.array(away) <= 100 + slack) for slack in (-1e-3, 1e-3)]
    assert share[0] - 1e-12 <= scores["chance_recall_at_1_within_100_m"] <= share[1] + 1e-12
    near = [np.mean([min(row) <= 50 + slack for row in away]) for slack in (-1e-3, 1e-3)]
    assert near[0] - 1e-12 <= scores["ceiling_recall_within_50_m"] <= near[1] + 1e-12
    first = [
        float(distance_m(t, np.array(a.places[0].latlon_deg))) if a.places else math.inf
        for t, a in zip(truth, answers, strict=True)
    ]
    assert scores["median_error_m"] == pytest.approx(np.median(first))


def test_nothing_to_score_is_refused():
    with pytest.raises(ConfigError, match="0 photos, 5 cells"):
        score_places([], np.empty((0, 2)), CENTRES)
    with pytest.raises(ConfigError, match="1 photos, 0 cells"):
        score_places([FAILED], np.array([HOME_DEG]), np.empty((0, 2)))


def test_answers_and_truth_must_match():
    with pytest.raises(ValueError, match="2 answers"):
        score_places([FAILED] * 2, np.array([HOME_DEG]), CENTRES)
