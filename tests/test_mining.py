import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.geo.sphere import distance_m
from geoview.mining import gps_neighbours, similar_neighbours

# -- by position -------------------------------------------------------------------------------------------------------

CITIES_DEG = {
    "Zurich": (47.3769, 8.5417), "Basel": (47.5596, 7.5886), "Milan": (45.4642, 9.1900),
    "Santiago": (-33.4489, -70.6693), "Suva": (-18.1416, 178.4415), "Apia": (-13.8333, -171.7667),
}  # fmt: skip


def test_cities_have_the_neighbours_that_maps_show():
    names = list(CITIES_DEG)
    found = gps_neighbours(np.array(list(CITIES_DEG.values())), 2)
    nearest = {name: [names[i] for i in row] for name, row in zip(names, found, strict=True)}
    assert nearest["Zurich"] == ["Basel", "Milan"]
    assert nearest["Suva"][0] == "Apia", "across the date line"
    assert nearest["Apia"][0] == "Suva"


positions = st.lists(
    st.tuples(st.floats(-90, 90), st.floats(-180, 180)) | st.just((np.nan, 3.0)), min_size=1, max_size=40
)


@given(positions, st.integers(1, 12), st.integers(1, 20))
@settings(deadline=None)
def test_neighbours_are_those_of_the_matrix_of_distances(latlon_deg, k, n_places):
    latlon_deg = np.array(latlon_deg)
    place = np.arange(len(latlon_deg)) % n_places
    found = gps_neighbours(latlon_deg, k, place=place)
    assert found.shape == (len(latlon_deg), k)
    known = np.isfinite(latlon_deg).all(axis=1)
    apart_m = np.where(known[:, None] & known, distance_m(latlon_deg[:, None], latlon_deg[None]), np.inf)
    apart_m[place[:, None] == place] = np.inf
    for row, distances in zip(found, apart_m, strict=True):
        n = min(k, int(np.isfinite(distances).sum()))
        assert (row[n:] == -1).all()
        assert len(set(row[:n])) == n
        np.testing.assert_allclose(distances[row[:n]], np.sort(distances)[:n], atol=0.05)


def test_points_upon_one_another_are_neighbours():
    latlon_deg = np.array([[10.0, 20.0]] * 5 + [[10.0, 20.001]])
    found = gps_neighbours(latlon_deg, 4)
    assert [set(row) for row in found[:5]] == [{0, 1, 2, 3, 4} - {i} for i in range(5)]


def test_degrees_are_no_radians():
    """A haversine of degrees taken for radians wraps every 6.28 degrees: it finds neighbours in another state."""
    latlon_deg = np.array([[40.0, -100.0], [41.0, -100.0], [40.0 + 2 * np.pi, -100.0], [40.0, -100.0 + 2 * np.pi]])
    assert gps_neighbours(latlon_deg, 1)[0] == [1]


def test_nothing_known_nothing_found():
    assert (gps_neighbours(np.full((3, 2), np.nan), 2) == -1).all()
    with pytest.raises(ValueError, match="k must be at least 1"):
        gps_neighbours(np.zeros((3, 2)), 0)


# -- by likeness -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 8), st.integers(0, 99))
@settings(deadline=None)
def test_likely_mistakes_are_those_of_the_matrix_of_products(n_queries, n_references, k, seed):
    rng = np.random.default_rng(seed)
    queries, references = (rng.standard_normal((n, 6)).astype(np.float32) for n in (n_queries, n_references))
    query_place, reference_place = rng.integers(0, 8, n_queries), rng.integers(0, 8, n_references)
    semi = rng.integers(-1, n_references, (n_queries, 2))
    found = similar_neighbours(
        queries, references, k, query_place=query_place, reference_place=reference_place, semi_positive=semi
    )
    assert found.shape == (n_queries, k)
    for i, row in enumerate(found):
        wrong = np.setdiff1d(np.flatnonzero(reference_place != query_place[i]), semi[i])
        n = min(k, len(wrong))
        product = references @ queries[i]
        assert (row[n:] == -1).all()
        assert np.isin(row[:n], wrong).all()
        assert len(set(row[:n])) == n
        np.testing.assert_allclose(product[row[:n]], -np.sort(-product[wrong])[:n], atol=1e-5)


def test_right_answers_are_never_mined():
    """Tiles that show the query's position are no mistakes, however alike they are."""
    queries = np.eye(4, dtype=np.float32)
    found = similar_neighbours(
        queries, queries, 3, query_place=np.arange(4), reference_place=np.arange(4), semi_positive=np.array([[1]] * 4)
    )
    assert not (found == np.arange(4)[:, None]).any()
    assert not (found[0] == 1).any()
    assert set(found[1]) == {0, 2, 3}, "one's own semi-positive may be oneself"


def test_what_overflowed_is_never_mined():
    references = np.eye(4, dtype=np.float32)
    references[2] = np.nan
    found = similar_neighbours(
        np.ones((1, 4), np.float32), references, 3, query_place=np.array([0]), reference_place=np.arange(4)
    )
    np.testing.assert_array_equal(found, [[1, 3, -1]])


def test_without_references_there_is_nothing_to_mine():
    with pytest.raises(ValueError, match="references"):
        similar_neighbours(
            np.ones((1, 4)), np.ones((0, 4)), 3, query_place=np.zeros(1), reference_place=np.zeros(0, np.int64)
        )
