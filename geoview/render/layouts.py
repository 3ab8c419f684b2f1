"""Cities in the layout of a published data set: where panoramas stand, what shows them from above, and the lists."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pyproj import Geod
from tqdm import tqdm

from geoview.config import RenderDatasetConfig
from geoview.data.vigor import CITIES
from geoview.errors import RenderError
from geoview.render.region import PHOTO_EPOCH
from geoview.render.scene import Grid
from geoview.render.shots import PhotoKind, Shot, Stand, draw_shots
from geoview.render.world import TRAINING_STYLES, World, make_world

__all__ = ["LAYOUTS", "City", "Cut", "PanoramaSize", "TileGrid", "city_seed", "city_world", "panorama_size"]

_RANGE_M = 100.0
# Web Mercator: metres a pixel at zoom 0 on the equator, 2 pi 6378137 / 256.
_ZOOM_0_M = 156_543.03392804097
_GEOD = Geod(ellps="WGS84")

# VIGOR: tiles of 640 px of zoom 20, half a tile apart; "balanced" is at most two panoramas to a positive tile.
_VIGOR_TILE_PX, _VIGOR_ZOOM, _VIGOR_MOST_A_TILE = 640, 20, 2
# CVUSA: pictures of 750 px of zoom 19. Pairs of the real set are far apart; nearer than this, two would be one place.
_CVUSA_TILE_PX, _CVUSA_ZOOM, _CVUSA_APART_M = 750, 19, 20.0
_CVUSA_BLOCKS_A_SIDE, _CVUSA_VAL_SHARE = 8, 0.2
_CVUSA_SHAPE_PX = 1232, 224
# Photographers are drawn until enough have a place of their own; so many times as many as are wanted, then it is told.
_MOST_DRAWS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class PanoramaSize:
    """How many pixels a panorama has, and how many of its rows are rendered.

    Attributes:
        width_px: Columns, for 360 degrees.
        height_px: Rows, at as many degrees a pixel.
        rendered_px: Rows about the horizon that are rendered; above and below, the last ones are repeated.
    """

    width_px: int
    height_px: int
    rendered_px: int

    @property
    def vertical_fov_deg(self) -> float:
        """Elevation that the rendered rows span."""
        return 360.0 * self.rendered_px / self.width_px


def panorama_size(layout: str, width_px: int) -> PanoramaSize:
    """Returns the size of a layout's panoramas: whole spheres in VIGOR, strips of 1232 x 224 in CVUSA, or smaller.

    Args:
        layout: `vigor` or `cvusa`.
        width_px: Columns, an even number.
    """
    if layout == "cvusa":
        height_px = round(width_px * _CVUSA_SHAPE_PX[1] / _CVUSA_SHAPE_PX[0])
        return PanoramaSize(width_px, height_px, height_px)
    # The camera looks at most 85 degrees up and down.
    return PanoramaSize(width_px, width_px // 2, width_px // 2 - 2 * math.ceil(width_px / 72))


@dataclass(frozen=True)
class Cut:
    """A satellite picture to be cut: its file and the position of its middle."""

    path: Path
    latlon_deg: tuple[float, float]


@dataclass(frozen=True)
class City:
    """All pictures of a city; `edge_m` is the ground size of those from above."""

    name: str
    number: int
    style: str
    shots: list[Shot]
    cuts: list[Cut]
    edge_m: float


# Text files and their lines.
_Lists = dict[Path, list[str]]
_T = TypeVar("_T")


@dataclass(frozen=True)
class TileGrid:
    """VIGOR's tiles of a city: squares of 640 px of Web Mercator zoom 20, half a tile apart, in rows of one latitude.

    A tile is named by its steps (north, east) from the one in the middle.

    Attributes:
        middle_deg: Latitude and longitude of the middle of tile (0, 0).
        step_deg: Degrees of a step north and of a step east, half a tile each.
        edge_m: Edge of a tile.
        there: Tiles that lie on the map wholly, from north to south and west to east.
    """

    middle_deg: tuple[float, float]
    step_deg: tuple[float, float]
    edge_m: float
    there: tuple[tuple[int, int], ...]

    @classmethod
    def over(cls, grid: Grid) -> TileGrid:
        """Returns the tiles of a map."""
        middle = grid.latlon_deg(np.array(grid.size_m) / 2)
        lat, lon = middle.tolist()
        edge_m = _edge_m(_VIGOR_TILE_PX, _VIGOR_ZOOM, lat)
        step = np.array([_GEOD.fwd(lon, lat, 0.0, edge_m / 2)[1] - lat, _GEOD.fwd(lon, lat, 90.0, edge_m / 2)[0] - lon])
        reach = math.ceil(math.hypot(*grid.size_m) / edge_m)
        north, east = (a.ravel() for a in np.mgrid[reach : -reach - 1 : -1, -reach : reach + 1])
        tile = np.stack([north, east], axis=-1)
        corner = tile[:, None] + np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
        xy_m = grid.xy_m(middle + corner * step)
        # Pixels of the edge itself have no neighbours to interpolate with.
        inside = ((xy_m >= grid.gsd_m) & (xy_m <= np.array(grid.size_m) - grid.gsd_m)).all(axis=(1, 2))
        there = tuple((int(n), int(e)) for n, e in tile[inside])
        return cls((lat, lon), (float(step[0]), float(step[1])), edge_m, there)

    def latlon_deg(self, tile: tuple[int, int]) -> tuple[float, float]:
        """Returns the position of a tile's middle, as its name tells it."""
        (lat, lon), (up, right) = self.middle_deg, self.step_deg
        return round(lat + tile[0] * up, 10), round(lon + tile[1] * right, 10)

    def name(self, tile: tuple[int, int]) -> str:
        """Returns the name of a tile's file."""
        lat, lon = self.latlon_deg(tile)
        return f"satellite_{lat:.10f}_{lon:.10f}.png"

    def covering(self, latlon_deg: tuple[float, float]) -> tuple[list[tuple[int, int]], NDArray[np.float64]]:
        """Finds the four tiles that show a position, whether they are there or not.

        Args:
            latlon_deg: The position.

        Returns:
            The tiles, the one with the nearest middle first; and (4, 2) where the position lies in each, in pixels of
            a tile of 640 px to the right of its middle and down.
        """
        at = (np.array(latlon_deg) - self.middle_deg) / self.step_deg
        tile = np.floor(at).astype(int) + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        tile = tile[np.argsort(((at - tile) ** 2).sum(axis=1), kind="stable")]
        up, right = ((at - tile) * (_VIGOR_TILE_PX / 2)).T
        return [(int(n), int(e)) for n, e in tile], np.stack([right, -up], axis=-1)


def _vigor(config: RenderDatasetConfig, root: Path, size: PanoramaSize) -> tuple[list[City], _Lists]:
    cities: list[City] = []
    lists: _Lists = {}
    for number, (name, style) in enumerate(_bar(list(zip(CITIES, TRAINING_STYLES, strict=True)))):
        world = city_world(config, style)
        grid = TileGrid.over(world.grid)
        shots = _drawn(config, world, number, size, _RANGE_M, _in_balance(grid))
        shots = [replace(shot, path=root / name / "panorama" / _vigor_name(style, shot)) for shot in shots]
        cuts = [Cut(root / name / "satellite" / grid.name(tile), grid.latlon_deg(tile)) for tile in grid.there]
        cities.append(City(name, number, style, shots, cuts, grid.edge_m))
        labels = [_vigor_label(grid, shot) for shot in shots]
        drawn = np.random.default_rng([config.seed, number, 17]).permutation(len(shots))
        for ending, rows in (("train", drawn[: (len(shots) + 1) // 2]), ("test", drawn[(len(shots) + 1) // 2 :])):
            lists[root / f"splits/{name}/same_area_balanced_{ending}.txt"] = [labels[i] for i in sorted(rows.tolist())]
        lists[root / f"splits/{name}/pano_label_balanced.txt"] = labels
        lists[root / f"splits/{name}/satellite_list.txt"] = [cut.path.name for cut in cuts]
    return cities, lists


def _in_balance(grid: TileGrid) -> Callable[[Shot], bool]:
    """Returns what takes a panorama that all four tiles show, while its positive has fewer than two."""
    there, taken = set(grid.there), Counter[tuple[int, int]]()

    def fits(shot: Shot) -> bool:
        covering, _ = grid.covering(shot.latlon_deg)
        if taken[covering[0]] == _VIGOR_MOST_A_TILE or not there.issuperset(covering):
            return False
        taken[covering[0]] += 1
        return True

    return fits


def _vigor_name(style: str, shot: Shot) -> str:
    lat, lon = shot.latlon_deg
    return f"{style}_{shot.seed[1]:05d},{lat:.7f},{lon:.7f},.jpg"


def _vigor_label(grid: TileGrid, shot: Shot) -> str:
    """Returns a line of a label file: the panorama lies at (320 - dx, 320 + dy) of each of its tiles."""
    covering, right_down_px = grid.covering(shot.latlon_deg)
    fields = [shot.path.name]
    for tile, (right, down) in zip(covering, right_down_px.round(1).tolist(), strict=True):
        fields += [grid.name(tile), f"{down + 0.0:.1f}", f"{0.0 - right:.1f}"]
    return " ".join(fields)


def _cvusa(config: RenderDatasetConfig, root: Path, size: PanoramaSize) -> tuple[list[City], _Lists]:
    cities: list[City] = []
    locations: list[str] = []
    train: list[str] = []
    val: list[str] = []
    for number, style in enumerate(_bar(TRAINING_STYLES)):
        world = city_world(config, style)
        grid = world.grid
        lat_deg = float(grid.latlon_deg(np.array(grid.size_m) / 2)[0])
        edge_m, turn = _edge_m(_CVUSA_TILE_PX, _CVUSA_ZOOM, lat_deg), math.radians(abs(grid.convergence_deg))
        # A square that is askew to the map reaches further, and pixels of the edge have no neighbours.
        reach_m = edge_m / 2 * (math.cos(turn) + math.sin(turn)) + 2 * grid.gsd_m
        shots = _drawn(config, world, number, size, max(_RANGE_M, reach_m), _apart())
        first = number * config.panoramas + 1
        shots = [replace(s, path=root / f"streetview/panos/{first + i:07d}.jpg") for i, s in enumerate(shots)]
        cuts = [Cut(root / f"bingmap/19/{shot.path.name}", shot.latlon_deg) for shot in shots]
        cities.append(City(style, number, style, shots, cuts, edge_m))
        rng = np.random.default_rng([config.seed, number, 17])
        held = _held_out([shot.camera.xy_m for shot in shots], grid.size_m[0] / _CVUSA_BLOCKS_A_SIDE, rng)
        for shot, is_held in zip(shots, held, strict=True):
            name, (lat, lon) = shot.path.stem, shot.latlon_deg
            locations.append(f"{lat:.8f},{lon:.8f},{lat:.8f},{lon:.8f},0")
            pair = f"bingmap/19/{name}.jpg,streetview/panos/{name}.jpg,streetview/annotations/{name}.png"
            (val if is_held else train).append(pair)
    return cities, {
        root / "split_locations/all.csv": locations,
        root / "splits/train-19zl.csv": train,
        root / "splits/val-19zl.csv": val,
    }


def _apart() -> Callable[[Shot], bool]:
    """Returns what takes a panorama that is not near one taken before."""
    taken: list[tuple[float, float]] = []

    def fits(shot: Shot) -> bool:
        if taken and np.hypot(*(np.array(taken) - shot.camera.xy_m).T).min() < _CVUSA_APART_M:
            return False
        taken.append(shot.camera.xy_m)
        return True

    return fits


def _held_out(xy_m: list[tuple[float, float]], block_m: float, rng: np.random.Generator) -> list[bool]:
    """Tells which of some positions are for testing: whole blocks, drawn until they hold a fifth; never all of them."""
    block = [(int(x // block_m), int(y // block_m)) for x, y in xy_m]
    count = Counter(block)
    drawn = sorted(count)
    rng.shuffle(drawn)
    held: set[tuple[int, int]] = set()
    for one in drawn[:-1]:
        if sum(count[b] for b in held) >= _CVUSA_VAL_SHARE * len(block):
            break
        held.add(one)
    return [b in held for b in block]


def _edge_m(size_px: int, zoom: int, lat_deg: float) -> float:
    """Returns the ground size of so many pixels of Web Mercator."""
    return size_px * _ZOOM_0_M / 2.0**zoom * math.cos(math.radians(lat_deg))


def _bar(cities: Sequence[_T]) -> Iterable[_T]:
    return tqdm(cities, desc="cities planned", unit="city", disable=None)


def city_world(config: RenderDatasetConfig, style: str) -> World:
    """Makes the world of a city."""
    return make_world(style, config.seed, size_m=(config.size_m, config.size_m))


def city_seed(config: RenderDatasetConfig, number: int) -> int:
    """Returns the seed of a city's flights, photographers and light: no two cities share them."""
    return config.seed * len(CITIES) + number


def _drawn(
    config: RenderDatasetConfig,
    world: World,
    number: int,
    size: PanoramaSize,
    margin_m: float,
    fits: Callable[[Shot], bool],
) -> list[Shot]:
    """Draws panoramas until there are as many as are wanted; each is asked once, in order, whether it fits."""
    state = world.state(PHOTO_EPOCH)
    stand = Stand(state.scene(), margin_m, state.roads)
    view = PhotoKind("panorama", size.width_px, vertical_fov_deg=size.vertical_fov_deg, range_m=_RANGE_M)
    found: list[Shot] = []
    asked = 0
    for times in _MOST_DRAWS:
        try:
            shots = draw_shots(
                stand, Path(), times * config.panoramas, view, seed=city_seed(config, number), day=state.date
            )
        except RenderError as fault:
            raise RenderError(
                f"{world.style} of seed {world.seed}: {config.size_m:.0f} m hold no place to stand; "
                "give a larger size_m or another seed"
            ) from fault
        for shot in shots[asked:]:
            if len(found) < config.panoramas and fits(shot):
                found.append(_on_columns(shot, size.width_px))
        asked = len(shots)
        if len(found) == config.panoramas:
            return found
    raise RenderError(
        f"{world.style} of seed {world.seed}: {config.size_m:.0f} m have room for {len(found)} panoramas, "
        f"not for {config.panoramas}; give a larger size_m or fewer panoramas"
    )


def _on_columns(shot: Shot, width_px: int) -> Shot:
    """Turns a camera by less than a column, so that north comes to the middle by whole columns."""
    columns = round(shot.camera.heading_deg * width_px / 360.0) % width_px
    return replace(shot, camera=replace(shot.camera, heading_deg=columns * 360.0 / width_px))


#: What places cities and makes lists, by the layout: `(config, root, size) -> (cities, lines of each file)`.
LAYOUTS = {"vigor": _vigor, "cvusa": _cvusa}
