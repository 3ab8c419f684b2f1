"""Regions: parts of the Earth's surface, read from GeoJSON or drawn as discs, and the S2 cells that cover them.

A region's edges are straight in longitude and latitude (RFC 7946, section 3.1.1), a cell's are great circles. To find
the cells that a region touches, its edges are cut into pieces short enough to be great-circle arcs as well; with those,
a piece and a cell meet where four linear functions of a point in space are all positive, on any face, at the date line
and at the poles alike. Only cells along the boundary are ever visited: a cell that no edge touches lies inside or
outside as its centre does, and is taken or left whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely import affinity
from shapely.geometry.base import BaseGeometry

from geoview.errors import RegionError
from geoview.geo.cells import cell_ids, centers_deg, children, ids_in_ranges, parents, ranges_of
from geoview.geo.cube import MAX_LEVEL, Floats, Ids, Ints, face_uvw, ids_of_squares, squares, st_to_uv
from geoview.geo.geojson import polygons_of, read_json
from geoview.geo.sphere import EARTH_RADIUS_M, check_latlon_deg, destination_deg, unit_vectors

__all__ = ["Region"]

_ARC_TOLERANCE_RAD = 1e-10  # 0.6 mm: how far a straight line in lon/lat may stray from the arcs that stand for it
_MAX_ARC_DEG = 10.0
_DISC_VERTICES = 720
_CELLS_AT_A_TIME = 1 << 18  # boundary cells followed together, which bounds the memory


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the Earth's surface. Make one with `from_geojson`, `from_geometry` or `disc`.

    Attributes:
        geometry: Polygon or MultiPolygon in (lon, lat) degrees, valid, within [-180, 180] by [-90, 90], cut at the
            antimeridian; overlapping parts are merged.
        name: What messages call it.
    """

    geometry: BaseGeometry
    name: str = "region"
    _ranges: dict[int, Ids] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        shapely.prepare(self.geometry)

    @classmethod
    def from_geojson(cls, source: str | Path | Mapping[str, Any], name: str | None = None) -> Region:
        """A region from GeoJSON (RFC 7946).

        A ring that jumps by more than 180 degrees of longitude between two vertices crosses the antimeridian there,
        whichever way it is written (179 to -179 or 179 to 181); only a jump of exactly 360 degrees is an edge round
        the whole Earth. An edge wider than 180 degrees needs a vertex in between.

        Args:
            source: A file, or the object itself: Polygon, MultiPolygon, GeometryCollection, Feature or
                FeatureCollection, with holes or without. Parts may overlap.
            name: What messages call the region; by default the file.

        Raises:
            RegionError: No such file, not JSON, no polygons, or a coordinate or a ring that cannot be; the message
                names the file and the spot.
        """
        if isinstance(source, Mapping):
            name = name or "region"
            return cls(_merged(polygons_of(source, f"{name}: "), name), name)
        name = name or str(source)
        return cls(_merged(polygons_of(read_json(Path(source)), f"{source}: "), str(source)), name)

    @classmethod
    def from_geometry(cls, geometry: BaseGeometry, name: str = "region") -> Region:
        """A region from a shapely Polygon, MultiPolygon or collection of them, in (lon, lat) degrees.

        Longitudes are read as in `from_geojson`.

        Raises:
            RegionError: As in `from_geojson`.
        """
        return cls.from_geojson(shapely.geometry.mapping(geometry), name)

    @classmethod
    def disc(cls, latlon_deg: ArrayLike, radius_m: float, name: str = "disc") -> Region:
        """All points within a distance of a point, as a polygon with at least 720 vertices on the rim.

        The polygon's edges cut the rim off by at most 1e-5 of the radius.

        Args:
            latlon_deg: (2,) centre.
            radius_m: Great-circle radius, metres.
            name: What messages call the region.

        Raises:
            RegionError: The centre or the radius cannot be.
        """
        try:
            center = check_latlon_deg(latlon_deg).reshape(2)
        except ValueError as error:
            raise RegionError(f"{name}: {error}") from error
        if not (np.isfinite(radius_m) and radius_m > 0.0):
            raise RegionError(f"{name}: radius_m must be positive, not {radius_m}")
        return cls(_merged([_disc(center, radius_m)], name), name)

    def intersection(self, other: Region) -> Region:
        """The ground that two regions share.

        Raises:
            RegionError: They share none.
        """
        common = [part for part in shapely.get_parts(self.geometry & other.geometry) if part.area > 0.0]
        if not common:
            raise RegionError(f"{self.name} and {other.name} have no ground in common")
        return Region(_merged(common, self.name), f"{self.name} within {other.name}")

    @property
    def area_km2(self) -> float:
        """Area on the sphere of mean Earth radius, exact for edges that are straight in lon/lat."""
        # Green's theorem: minus the sum of dlon times the mean of sin(lat) over each edge. Round a closed ring a
        # constant under the sum adds nothing; the sine of a latitude amid the region lets small ones keep their digits.
        start, end = _edges(shapely.orient_polygons(self.geometry))
        lat, other_lat = np.deg2rad(start[:, 1]), np.deg2rad(end[:, 1])
        _, south, _, north = np.deg2rad(self.geometry.bounds)
        middle, amid = 0.5 * (lat + other_lat), 0.5 * (south + north)
        mean_sin = 2.0 * np.cos(0.5 * (middle + amid)) * np.sin(0.5 * (middle - amid))
        mean_sin -= np.sin(middle) * (1.0 - np.sinc((other_lat - lat) / (2.0 * np.pi)))
        steradians = -float(np.sum(np.deg2rad(end[:, 0] - start[:, 0]) * mean_sin))
        return steradians * EARTH_RADIUS_M**2 / 1e6

    def contains(self, latlon_deg: ArrayLike) -> NDArray[np.bool_]:
        """Which points lie in the region or on its boundary.

        Args:
            latlon_deg: (..., 2) degrees.

        Returns:
            (...) bool.

        Raises:
            ValueError: A coordinate is out of range.
        """
        points = check_latlon_deg(latlon_deg)
        lat, lon = points[..., 0], points[..., 1]
        inside = np.asarray(shapely.intersects_xy(self.geometry, lon, lat))
        # The meridian of 180 degrees has two names, and a pole has as many as there are longitudes.
        seam = np.abs(lon) == 180.0
        if seam.any():
            inside |= seam & shapely.intersects_xy(self.geometry, -lon, lat)
        for pole_deg in (-90.0, 90.0):
            there = lat == pole_deg
            if there.any():
                line = shapely.LineString([(-180.0, pole_deg), (180.0, pole_deg)])
                inside |= there & bool(shapely.intersects(self.geometry, line))
        return inside

    def cells(self, level: int) -> Ids:
        """The cells of a level that have ground in common with the region.

        Exact to 0.6 mm; a cell that only touches the boundary may be in or out.

        Args:
            level: 0 to 30.

        Returns:
            (n,) sorted ids.
        """
        return ids_in_ranges(self.cell_ranges(level), level)

    def cell_ranges(self, level: int) -> Ids:
        """The same cells as few ranges of leaf ids, without ever listing those in the interior.

        Args:
            level: 0 to 30.

        Returns:
            (m, 2) sorted ranges [first leaf, last leaf], inclusive; kept for the next time, and not to be written to.
        """
        if level not in self._ranges:
            self._ranges[level] = self._covered(level)
            self._ranges[level].setflags(write=False)
        return self._ranges[level]

    def _covered(self, level: int) -> Ids:
        if level == 0:
            # A face can lie on both sides of the antimeridian, where the polygons are cut; smaller cells cannot.
            return ranges_of(np.unique(parents(self.cells(1), 0)))
        touched = _touched(*_arcs(self.geometry), level)
        whole = []
        boundary = ids_in_ranges(_EARTH, 0)
        for step in range(1, level + 1):
            candidates = children(boundary).ravel()
            boundary = np.unique(parents(touched, step))
            free = np.setdiff1d(candidates, boundary, assume_unique=True)
            lat, lon = centers_deg(free).T
            whole.append(free[shapely.contains_xy(self.geometry, lon, lat)])
        return ranges_of(np.concatenate([*whole, touched]))

    def count(self, level: int) -> int:
        """Number of cells of a level, without listing them.

        Args:
            level: 0 to 30.
        """
        ranges = self.cell_ranges(level)
        leaves = (ranges[:, 1] - ranges[:, 0]) // np.uint64(2) + np.uint64(1)
        return int((leaves >> np.uint64(2 * (MAX_LEVEL - level))).sum())

    def to_geojson(self) -> dict[str, Any]:
        """The region as a GeoJSON Feature, rings turned as RFC 7946 wants them."""
        geometry = shapely.geometry.mapping(shapely.orient_polygons(self.geometry))
        return {"type": "Feature", "properties": {"name": self.name}, "geometry": geometry}


_EARTH = np.array([[1, (6 << 61) - 1]], dtype=np.uint64)


def _merged(polygons: Iterable[BaseGeometry], name: str) -> BaseGeometry:
    """One geometry within [-180, 180] of polygons that may reach beyond."""
    parts: list[BaseGeometry] = []
    for polygon in polygons:
        west, _, east, _ = polygon.bounds
        if west >= -180.0 and east <= 180.0:
            parts.append(polygon)
            continue
        for turn in range(int(np.floor((west + 180.0) / 360.0)), int(np.ceil((east + 180.0) / 360.0))):
            window = shapely.box(360.0 * turn - 180.0, -90.0, 360.0 * turn + 180.0, 90.0)
            parts.append(affinity.translate(polygon & window, xoff=-360.0 * turn))
    # Intersections that only touch the window leave points and lines behind.
    parts = [part for part in shapely.get_parts(parts) if part.geom_type == "Polygon"]
    geometry = parts[0] if len(parts) == 1 else shapely.union_all(parts)
    if geometry.is_empty or geometry.area == 0.0:
        raise RegionError(f"{name}: the region is empty; it needs at least one polygon with an area")
    # What is written from here and read again must not seem to cross the antimeridian.
    return shapely.segmentize(shapely.force_2d(geometry), 180.0)


def _disc(center_deg: Floats, radius_m: float) -> BaseGeometry:
    """A disc with continuous longitudes."""
    world = shapely.box(-180.0, -90.0, 180.0, 90.0)
    half_turn_m = np.pi * EARTH_RADIUS_M
    if radius_m >= half_turn_m:
        return world
    if radius_m > 0.5 * half_turn_m:
        antipode = np.array([-center_deg[0], center_deg[1] + (180.0 if center_deg[1] < 0.0 else -180.0)])
        return world - _merged([_disc(antipode, half_turn_m - radius_m)], "disc")
    bearing = np.linspace(0.0, 360.0, _DISC_VERTICES + 1)
    while True:
        lat, lon = destination_deg(center_deg, bearing, radius_m).T
        lon = np.unwrap(lon, period=360.0)
        # Close to a pole neighbours on the rim are far apart in longitude, and a straight line there is no arc.
        wide = np.flatnonzero((np.abs(np.diff(lon)) > 1.0) & (np.diff(bearing) > 1e-6))
        if not wide.size:
            break
        bearing = np.insert(bearing, wide + 1, 0.5 * (bearing[wide] + bearing[wide + 1]))
    rim = np.column_stack([lon, lat])
    turns = round((lon[-1] - lon[0]) / 360.0)
    rim[-1] = rim[0] + [360.0 * turns, 0.0]
    if turns:
        pole_deg = np.copysign(90.0, center_deg[0])
        rim = np.vstack([rim, [rim[-1, 0], pole_deg], [rim[0, 0], pole_deg]])
    return shapely.Polygon(rim)


def _edges(geometry: BaseGeometry) -> tuple[Floats, Floats]:
    """Both ends of all edges, each (n, 2) lon, lat."""
    lonlat, ring = shapely.get_coordinates(shapely.get_rings(shapely.get_parts(geometry)), return_index=True)
    joined = ring[1:] == ring[:-1]
    return lonlat[:-1][joined], lonlat[1:][joined]


def _arcs(geometry: BaseGeometry) -> tuple[Floats, Floats]:
    """The boundary as great-circle arcs, both ends as (n, 3) unit vectors.

    A curve on the sphere strays from the arc between its ends by at most an eighth of its acceleration along the
    sphere, which for a straight line in (lat, lon) is (sin lat cos lat dlon^2, 2 sin lat dlat dlon) per unit of the
    parameter, squared: the geodesic equations.
    """
    start, end = _edges(geometry)
    # The cut along the antimeridian and the pole's side of the map are no borders on the ground.
    seam = (np.abs(start[:, 0]) == 180.0) & (start[:, 0] == end[:, 0])
    pole = (np.abs(start[:, 1]) == 90.0) & (start[:, 1] == end[:, 1])
    start, end = start[~(seam | pole)], end[~(seam | pole)]
    dlon, dlat = np.abs(np.deg2rad(end - start)).T
    steepest = np.deg2rad(np.maximum(np.abs(start[:, 1]), np.abs(end[:, 1])))
    acceleration = np.hypot(np.minimum(np.sin(steepest), 0.5) * dlon**2, 2.0 * np.sin(steepest) * dlat * dlon)
    pieces = np.sqrt(acceleration / (8.0 * _ARC_TOLERANCE_RAD))
    pieces = np.maximum(pieces, np.maximum(dlon, dlat) / np.deg2rad(_MAX_ARC_DEG))
    count = np.maximum(np.ceil(pieces), 1.0).astype(np.int64)
    edge = np.repeat(np.arange(len(count)), count)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)

    def at(part: Floats) -> Floats:
        lonlat = (1.0 - part)[:, None] * start[edge] + part[:, None] * end[edge]
        return unit_vectors(lonlat[:, ::-1])

    return at(step / count[edge]), at((step + 1) / count[edge])


def _touched(start: Floats, end: Floats, level: int) -> Ids:
    """Sorted ids of the cells of a level (1 or more) that arcs between (n, 3) unit vectors touch."""
    expected = 1.0 + 3.0 * np.linalg.norm(end - start, axis=1) * 2.0**level
    batch = (np.cumsum(expected) // _CELLS_AT_A_TIME).astype(np.int64)
    borders = np.searchsorted(batch, np.unique(batch)[1:])
    batches = zip(np.split(start, borders), np.split(end, borders), strict=True)
    return np.unique(np.concatenate([_touched_by_batch(a, b, level) for a, b in batches]))


def _touched_by_batch(start: Floats, end: Floats, level: int) -> Ids:
    """As `_touched`: each arc begins in the smallest cell that holds both its ends and descends to the level."""
    face, i, j, _ = squares(_leaves(start))
    end_face, end_i, end_j, _ = squares(_leaves(end))
    common = np.minimum(MAX_LEVEL - np.frexp(((i ^ end_i) | (j ^ end_j)).astype(np.float64))[1], level)
    arc = np.arange(len(start))
    # An arc over the edge of a face is looked for on all six.
    across = np.repeat(arc[face != end_face], 6)
    everywhere = np.stack([np.tile(np.arange(6), len(across) // 6), 0 * across, 0 * across, across])
    within = face == end_face
    held = np.stack([face, i >> (MAX_LEVEL - common), j >> (MAX_LEVEL - common), arc])[:, within]
    held_level = common[within]

    pairs = everywhere  # rows: face, i, j of a cell, and the arc that may touch it
    for step in range(level):
        pairs = np.concatenate([pairs, held[:, held_level == step]], axis=1)
        pairs = np.repeat(pairs, 4, axis=1)
        quadrant = np.arange(pairs.shape[1]) & 3
        pairs[1] = 2 * pairs[1] + (quadrant >> 1)
        pairs[2] = 2 * pairs[2] + (quadrant & 1)
        pairs = pairs[:, _meet(pairs, start, end, 0.5 ** (step + 1))]
    pairs = np.concatenate([pairs, held[:, held_level == level]], axis=1)
    return np.unique(ids_of_squares(pairs[0], pairs[1], pairs[2], level))


def _leaves(xyz: Floats) -> Ids:
    lat = np.arctan2(xyz[:, 2], np.hypot(xyz[:, 0], xyz[:, 1]))
    return cell_ids(np.rad2deg(np.column_stack([lat, np.arctan2(xyz[:, 1], xyz[:, 0])])), MAX_LEVEL)


def _meet(pairs: Ints, start: Floats, end: Floats, size: float) -> NDArray[np.bool_]:
    """Which arcs touch which squares of a side of `size`: Liang and Barsky's clipping (1984), on the cone of the cell.

    The cell is where u - u_lo w, u_hi w - u, v - v_lo w and v_hi w - v are all positive. Along the chord of an arc each
    is linear, so the four leave an interval of the chord, or nothing.
    """
    face, i, j, arc = pairs
    bounds = np.stack([st_to_uv(i * size), st_to_uv((i + 1) * size), st_to_uv(j * size), st_to_uv((j + 1) * size)])

    def margins(xyz: Floats) -> Floats:
        u, v, w = face_uvw(face, xyz[arc]).T
        limits = bounds * w
        return np.stack([u - limits[0], limits[1] - u, v - limits[2], limits[3] - v])

    first, last = margins(start), margins(end)
    outside, leaving = first < 0.0, last < 0.0
    drop = first - last
    crossing = np.divide(first, drop, out=np.zeros_like(first), where=drop != 0.0)
    enters = np.where(outside, crossing, 0.0).max(axis=0)
    leaves = np.where(leaving, crossing, 1.0).min(axis=0)
    return np.asarray(~(outside & leaving).any(axis=0) & (enters <= leaves))
