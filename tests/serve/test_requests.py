"""What may be asked: every field checked, regions bounded, and each fault one line that names its field."""

import json
from types import SimpleNamespace

import pytest
import shapely
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import FormData

from geoview.geo.regions import Region
from geoview.serve.requests import Asked, search_of

SQUARE = [[10.0, 47.0], [10.1, 47.0], [10.1, 47.1], [10.0, 47.1], [10.0, 47.0]]


def index(west=9.0, south=46.0, east=11.0, north=48.0, level=16):
    """What of a generation is asked."""
    opened = SimpleNamespace(level=level, manifest=SimpleNamespace(prototypes=None))
    return SimpleNamespace(
        surroundings=Region.from_geometry(shapely.box(west, south, east, north), "the index"), index=opened
    )


def polygon(ring):
    return json.dumps({"type": "Polygon", "coordinates": [ring]})


def refused(**fields):
    """Returns why fields are refused."""
    with pytest.raises(HTTPException) as caught:
        search_of(Asked.of(FormData([(k, str(v)) for k, v in fields.items()])), index())
    assert caught.value.status_code == 422
    assert "\n" not in caught.value.detail
    assert len(caught.value.detail) <= 500
    return caught.value.detail


def test_fields_that_are_left_out_or_empty_are_as_they_are_on_the_command_line():
    asked = Asked.of(FormData([("region", ""), ("near", " "), ("top_k", "")]))
    search = search_of(asked, index())
    assert (search.top_k, search.region, search.kappa, search.dates, asked.exif, asked.heat) == (
        10,
        None,
        None,
        "max",
        False,
        False,
    )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"top_k": 0}, "top_k: Input should be greater than or equal to 1"),
        ({"top_k": 101}, "top_k: Input should be less than or equal to 100"),
        ({"top_k": "many"}, "top_k: Input should be a valid integer"),
        ({"topk": 5}, "topk: Extra inputs are not permitted"),
        ({"view": "sideways"}, "view: Input should be 'ground' or 'aerial'"),
        ({"view": "aerial"}, "gsd_m, metres per pixel, is for photos from above"),
        ({"gsd_m": 0.5}, "gsd_m, metres per pixel, is for photos from above"),
        ({"fov_deg": 0}, "fov_deg: "),
        ({"fov_deg": "nan"}, "fov_deg: "),
        ({"heading_deg": "inf"}, "heading_deg: "),
        ({"kappa": 1}, "kappa: this index has no ground photos"),
        ({"dates": "oldest"}, "dates: "),
        ({"exif": "perhaps"}, "exif: "),
        ({"near": "48,11"}, "near and radius_m go together"),
        ({"radius_m": 100}, "near and radius_m go together"),
        ({"near": "Munich", "radius_m": 100}, "near is 'Munich'; write LAT,LON"),
        ({"near": "91,0", "radius_m": 100}, "near: latitude"),
        ({"near": "nan,0", "radius_m": 100}, "near: latitude"),
        ({"near": "0,0", "radius_m": 100}, "near and the index have no ground in common"),
    ],
)
def test_values_that_cannot_be_are_named(fields, told):
    assert refused(**fields).startswith(told)


def test_a_field_that_is_given_twice_is_not_guessed():
    with pytest.raises(HTTPException) as caught:
        Asked.of(FormData([("top_k", "1"), ("top_k", "2")]))
    assert caught.value.detail == "top_k: is given twice"


@pytest.mark.parametrize(
    ("region", "told"),
    [
        ("{", "region: not JSON"),
        ("[]", "region: not a GeoJSON object"),
        ("NaN", "region: not a GeoJSON object"),
        ("[" * 100_000, "region: "),
        ('{"a":' * 900 + "1" + "}" * 900, "region: "),
        ('{"type":"GeometryCollection","geometries":[' * 900 + "]}" * 900, "region: nested too deeply"),
        ("9" * 5000, "region: not JSON"),
        ('{"type": "Point", "coordinates": [10, 47]}', "region: type is 'Point'"),
        ('{"type": ' + json.dumps("x" * 10_000) + "}", "region: type is 'xxx"),
        (polygon([[10, 47], [10.1, 47], [10, 47]]), "region: coordinates[0] has 3 positions"),
        (polygon([[10, 147], *SQUARE]), "region: coordinates[0][0]: latitude 147"),
        (
            polygon([[10, 47], [10.1, 47.1], [10.1, 47], [10, 47.1], [10, 47]]),
            "region: coordinates is not a valid polygon",
        ),
        (polygon([[1e400, 47], *SQUARE]), "region: coordinates[0][0]: longitude inf"),
        (polygon([[10**400, 47], *SQUARE]), "region: "),
        (polygon([["10", "47"], *SQUARE]), "region: coordinates[0] is not a list of positions"),
        (polygon([[20 + x, y] for x, y in SQUARE]), "region and the index have no ground in common"),
        (polygon([[10 + i * 1e-5, 47] for i in range(2500)]), "region: more than 2000 vertices"),
        (
            polygon([[9.5, 46]] + [[9.5 + i / 1000, 47 + i % 2] for i in range(900)] + [[10.5, 46], [9.5, 46]]),
            "region: its outline",
        ),
    ],
)
def test_regions_that_cannot_be_searched_are_refused(region, told):
    assert refused(region=region).startswith(told)


@pytest.mark.parametrize(
    "region",
    [
        {"type": "Polygon", "coordinates": [SQUARE]},
        {"type": "MultiPolygon", "coordinates": [[SQUARE]]},
        {"type": "Feature", "properties": None, "geometry": {"type": "Polygon", "coordinates": [SQUARE]}},
        {
            "type": "FeatureCollection",
            "features": [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [SQUARE]}}],
        },
    ],
)
def test_a_region_is_searched_as_it_was_drawn(region):
    search = search_of(Asked(region=json.dumps(region)), index())
    wanted = Region.from_geojson({"type": "Polygon", "coordinates": [SQUARE]})
    assert search.region.cells(16).tolist() == wanted.cells(16).tolist()


def test_a_region_far_larger_than_the_index_costs_no_more_than_the_index():
    world = [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]
    search = search_of(Asked(region=polygon(world)), index(level=19))
    assert search.region.geometry.bounds == (9.0, 46.0, 11.0, 48.0)


def test_near_and_a_region_are_both_held_to():
    search = search_of(Asked(region=polygon(SQUARE), near="47.0,10.0", radius_m=2000), index())
    assert search.region.contains([47.005, 10.005])
    assert not search.region.contains([47.005, 9.995]), "outside the region"
    assert not search.region.contains([47.09, 10.09]), "too far"


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.just("Polygon"),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(["type", "coordinates", "features", "geometry", "geometries"]), inner, max_size=3
        )
    ),
    max_leaves=20,
)


@given(_JSON)
def test_whatever_a_region_is_made_of_it_is_searched_or_refused(node):
    try:
        assert search_of(Asked(region=json.dumps(node)), index()).region is not None
    except HTTPException as refusal:
        assert refusal.status_code == 422
