"""Probabilities are of ground, not of cells: level, region and what is sampled do not change them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import destination_deg, distance_m
from geoview.locate.surface import WITHIN_M, Surface, disc_deg

TEMPERATURE = 0.02
PLACES = [(48.1, 11.6), (-33.9, -70.6), (0.3, 179.9995), (69.6, 18.9)]


def surface(score, centre_deg, radius_m=800.0, level=18, n_other=0, seed=0):
    """A surface over a disc whose scores are a function of the distance from its centre."""
    ids = Region.disc(centre_deg, radius_m).cells(level)
    scores = score(distance_m(np.array(centre_deg), cells.centers_deg(ids)))
    if not n_other:
        return Surface(level, ids, scores, np.empty(0), 0.0)
    far = distance_m(np.array(centre_deg), cells.centers_deg(ids)) > 300
    chosen = np.random.default_rng(seed).permutation(scores[far])[:n_other]
    return Surface(level, ids[~far], scores[~far], chosen, far.sum() / n_other)


def bump(distance):
    return 0.3 + 0.4 * np.exp(-((distance / 60.0) ** 2))


@pytest.mark.parametrize("place", PLACES)
def test_the_points_of_a_disc_share_its_ground(place):
    points = disc_deg(place)
    distance = distance_m(np.array(place), points)
    assert distance.max() < WITHIN_M
    assert (np.diff(distance) > 0).all()
    # Of a disc, a quarter lies within half of its radius, and the mean point is its centre.
    assert (distance < WITHIN_M / 2).mean() == pytest.approx(0.25, abs=0.005)
    around = destination_deg(np.array(place), np.arange(0, 360, 10.0), 70.0)
    shares = [(distance_m(one, points) < 40).mean() for one in around[None][0]]
    assert np.std(shares) < 0.005


@pytest.mark.parametrize("place", PLACES)
def test_of_even_ground_each_part_is_as_probable_as_it_is_large(place):
    even = surface(np.zeros_like, place)
    assert np.exp(even.log_mass(np.array(place), TEMPERATURE)) == pytest.approx(
        np.pi * WITHIN_M**2 / even.area_m2.sum(), rel=1e-6
    )
    assert even.probability(TEMPERATURE).sum() == pytest.approx(1)


@pytest.mark.parametrize("level", [17, 19, 20])
def test_probabilities_do_not_depend_on_the_level(level):

    def hill(distance):  # wider than any of the cells
        return 0.3 + 0.4 * np.exp(-((distance / 200.0) ** 2))

    fine, other = surface(hill, PLACES[0], level=18), surface(hill, PLACES[0], level=level)
    for at in (PLACES[0], destination_deg(np.array(PLACES[0]), 70.0, 90.0)):
        mass = [float(np.exp(one.log_mass(np.array(at), 0.1))) for one in (fine, other)]
        assert mass[1] == pytest.approx(mass[0], rel=0.06)


def test_a_sample_stands_for_the_rest():
    def rough(distance):
        return 0.3 + 0.05 * np.random.default_rng(3).normal(size=len(distance)) + 0.2 * (distance < 50)

    whole, sampled = surface(rough, PLACES[1]), surface(rough, PLACES[1], n_other=600)
    assert len(sampled.cell_id) < len(whole.cell_id) / 3
    assert sampled.log_total(TEMPERATURE) == pytest.approx(whole.log_total(TEMPERATURE), abs=0.05)


def test_a_region_leaves_the_rest_out():
    """Cells that are not searched score -inf: they take no part, and what is left adds up to 1."""
    whole = surface(bump, PLACES[0])
    inside = distance_m(np.array(PLACES[0]), cells.centers_deg(whole.cell_id)) < 200
    part = Surface(18, whole.cell_id, np.where(inside, whole.score, -np.inf), np.empty(0), 0.0)
    assert part.probability(TEMPERATURE)[~inside].max() == 0
    assert part.probability(TEMPERATURE).sum() == pytest.approx(1)
    assert part.log_mass(np.array(PLACES[0]), TEMPERATURE) > whole.log_mass(np.array(PLACES[0]), TEMPERATURE)


@given(st.floats(0, 360), st.floats(0, 12), st.sampled_from(PLACES))
def test_a_refined_position_is_nearer_than_the_centre_of_the_cell(bearing_deg, off_m, place):
    ids = Region.disc(place, 300.0).cells(18)
    start = cells.centers_deg(cells.cell_ids(np.array(place), 18))
    truth = destination_deg(start, bearing_deg, off_m)
    score = 0.7 - (distance_m(truth, cells.centers_deg(ids)) / 100.0) ** 2
    best = int(ids[score.argmax()])
    refined = Surface(18, ids, score, np.empty(0), 0.0).refined_deg(best, 0.08)
    centre = cells.centers_deg(np.array([best], np.uint64))[0]
    assert distance_m(truth, refined) <= max(3.0, 0.7 * distance_m(truth, centre))


def test_a_sharp_peak_is_a_small_radius():
    sharp, blunt = (surface(lambda d, w=w: 0.3 + 0.4 * np.exp(-((d / w) ** 2)), PLACES[0], level=20) for w in (20, 90))
    at = np.array(PLACES[0])
    radii = [one.quantile_m(at, 0.9, TEMPERATURE) for one in (sharp, blunt)]
    assert radii[0] < 20 < radii[1] < WITHIN_M
    assert sharp.quantile_m(at, 0.5, TEMPERATURE) < radii[0]


def test_evidence_is_a_soft_maximum_whatever_else_is_searched():
    one = surface(bump, PLACES[0])
    more = Surface(18, one.cell_id, one.score, np.full(1000, 0.6), 1000.0)
    at = np.array(PLACES[0])
    assert one.evidence(at, TEMPERATURE) == more.evidence(at, TEMPERATURE)
    assert one.score.max() - 0.1 < one.evidence(at, TEMPERATURE) < one.score.max()
    assert one.evidence(np.array([10.0, 10.0]), TEMPERATURE) == -np.inf
