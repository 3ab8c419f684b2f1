"""Outlines on the globe."""

import numpy as np
import pyproj
from hypothesis import given, settings
from hypothesis import strategies as st

from tiles.footprint import lonlat_polygon, ring_on_rectangle


@given(st.integers(0, 359), st.floats(-70, 70), st.floats(200, 50_000), st.floats(200, 50_000))
@settings(deadline=None)
def test_the_outline_of_a_rectangle_of_a_map_is_one_clean_area(longitude, latitude, width_m, height_m):
    """Nothing but its area: rounding must not leave a line where the ring closes."""
    there = pyproj.Transformer.from_crs(
        f"+proj=tmerc +lon_0={longitude} +lat_0={latitude} +ellps=WGS84", "OGC:CRS84", always_xy=True
    )
    x, y = ring_on_rectangle(-width_m / 2, height_m / 2, width_m / 2, -height_m / 2, 21)
    outline = lonlat_polygon(*there.transform(x, y))
    assert outline.geom_type in ("Polygon", "MultiPolygon")
    assert outline.is_valid
    square_m = outline.area * np.radians(1) ** 2 * 6_371_000.0**2 * np.cos(np.radians(latitude))
    assert abs(square_m / (width_m * height_m) - 1) < 0.02
