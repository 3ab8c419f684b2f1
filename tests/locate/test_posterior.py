"""From scores of cells to places that do not touch."""

import numpy as np
import pytest
import s2sphere
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.geo import cells
from geoview.geo.sphere import distance_m
from geoview.locate.posterior import cells_a_place, distinct_places

# The middle of a face, an edge of two faces, a corner of three, the date line, a pole.
PLACES = {
    "Paris": (48.8566, 2.3522),
    "edge of two faces": (10.0, 45.0),
    "corner of three faces": (35.264389682754654, 45.0),
    "date line": (-17.0, 180.0),
    "south pole": (-90.0, 0.0),
}


def patch(latlon_deg, rings=4, level=16):
    """The cells around a place: those within some steps from neighbour to neighbour."""
    found = cells.cell_ids(latlon_deg, level).reshape(-1)
    for _ in range(rings):
        found = np.unique(np.concatenate([found, cells.neighbors(found).ravel()]))
    return found


def touch(one, other):
    """Whether two cells share an edge or a corner, or are the same; by another implementation of S2."""
    around = s2sphere.CellId(one).get_all_neighbors(s2sphere.CellId(one).level())
    return one == other or other in {cell.id() for cell in around}


def ranked(ids, scores):
    order = np.argsort(-scores, kind="stable")
    return ids[order], scores[order].astype(np.float32)


@pytest.mark.parametrize("place", PLACES)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_places_are_the_best_cells_of_which_no_two_touch(place, data):
    around = patch(PLACES[place])
    # Drawn with replacement: a cell with several dates comes several times.
    chosen = data.draw(st.lists(st.sampled_from(range(len(around))), min_size=1, max_size=60))
    scores = np.array(data.draw(st.lists(st.floats(-1, 1, width=16), min_size=len(chosen), max_size=len(chosen))))
    k = data.draw(st.integers(1, 8))
    ids, scores = ranked(around[chosen], scores)
    places = distinct_places(ids, scores, k)
    picked = [p.cell_id for p in places]

    assert 1 <= len(places) <= k
    assert not any(touch(a, b) for i, a in enumerate(picked) for b in picked[:i])
    # Greedy by another way: each place is the best cell that touches none before it.
    left = list(zip(ids.tolist(), scores.tolist(), strict=True))
    for one in places:
        assert (one.cell_id, one.score) == left[0]
        left = [entry for entry in left if not touch(entry[0], one.cell_id)]
    assert len(places) == k or not left
    if len(set(ids.tolist())) >= cells_a_place(16) * (k - 1) + 1:
        assert len(places) == k, "nine cells a place are enough"
    centres = cells.centers_deg(np.array(picked, np.uint64))
    assert [p.latlon_deg for p in places] == [tuple(c) for c in centres.tolist()]


@pytest.mark.parametrize("place", PLACES)
def test_one_bright_patch_is_one_place(place):
    """A cell and all around it agree: one answer, and the next comes from outside the patch."""
    around = patch(PLACES[place], rings=5)
    best = cells.cell_ids(PLACES[place], 16).reshape(-1)
    near = np.concatenate([best, cells.neighbors(best)[0]])
    scores = np.where(np.isin(around, near), 0.9, 0.1)
    scores[around == best[0]] = 1.0
    first, second = distinct_places(*ranked(around, scores), 2)
    assert first.cell_id == best[0]
    assert second.cell_id not in near.tolist()
    assert second.score == pytest.approx(0.1)


def test_entries_that_are_no_hits_are_no_places():
    ids = np.array([*patch(PLACES["Paris"], 1)[:2], 0, 0], np.uint64)
    none = np.full(4, -np.inf, np.float32)
    assert distinct_places(ids, none, 3) == []
    assert distinct_places(ids[:0], none[:0], 3) == []
    mixed = np.array([0.5, -np.inf, -np.inf, np.nan], np.float32)
    (place,) = distinct_places(ids, mixed, 3)
    assert (place.cell_id, place.score) == (int(ids[0]), 0.5)


def test_a_cell_with_many_dates_is_one_place():
    far = [cells.cell_ids(PLACES[name], 16).reshape(-1)[0] for name in ("Paris", "date line")]
    ids = np.array([far[0]] * 20 + [far[1]], np.uint64)
    scores = np.linspace(1, 0, 21).astype(np.float32)
    assert [p.cell_id for p in distinct_places(ids, scores, 5)] == [int(c) for c in far]


def test_a_place_is_plain_numbers():
    (place,) = distinct_places(cells.cell_ids([PLACES["Paris"]], 16), np.ones(1, np.float32), 1)
    assert (type(place.cell_id), type(place.score), *map(type, place.latlon_deg)) == (int, float, float, float)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("apart_m", [60.0, 250.0])
def test_places_lie_as_far_apart_as_was_asked(place, apart_m):
    around = patch(PLACES[place], rings=12, level=18)
    ids, scores = ranked(around, np.random.default_rng(3).uniform(-1, 1, len(around)))
    places = distinct_places(ids, scores, 6, apart_m=apart_m)
    at = np.array([p.latlon_deg for p in places])
    between = distance_m(at[:, None], at[None])
    assert len(places) > 1
    assert between[~np.eye(len(at), dtype=bool)].min() >= apart_m
    # The best rows by number hold as many places as the whole list has.
    few = cells_a_place(18, apart_m) * len(places)
    assert [p.cell_id for p in distinct_places(ids[:few], scores[:few], 6, apart_m=apart_m)] == [
        p.cell_id for p in places
    ]


def test_a_place_tells_the_heading_of_its_best_score():
    ids = patch(PLACES["Paris"])[[3, 3, 70]]
    places = distinct_places(ids, np.float32([0.9, 0.8, 0.5]), 5, heading_deg=np.array([45.0, 90.0, 0.0]))
    assert [(p.cell_id, p.heading_deg) for p in places] == [(int(ids[0]), 45.0), (int(ids[2]), 0.0)]


def test_a_place_tells_the_row_of_its_best_score():
    ids = patch(PLACES["Paris"])[[3, 3, 70]]
    places = distinct_places(ids, np.float32([0.9, 0.8, 0.5]), 5, row=np.array([7, 6, 90]))
    assert [(p.cell_id, p.row) for p in places] == [(int(ids[0]), 7), (int(ids[2]), 90)]
