"""Made-up cities as a data set in a published layout, that of VIGOR or of CVUSA, for any loader of those to read.

What loaders know of the real sets holds here: names, lists, units of the labels, north in the middle of panoramas. Only
sizes in pixels differ, and all that is shown is made up.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pyproj import Geod
from tqdm import tqdm

import tiles
from geoview.config import RenderDatasetConfig
from geoview.data.vigor import CITIES
from geoview.errors import RenderError
from geoview.files import full_disk_told, write_binary, write_text
from geoview.render.claim import claim
from geoview.render.photos import finish
from geoview.render.region import PHOTO_EPOCH, REFERENCE_EPOCH, write_region
from geoview.render.scene import Grid, Scene
from geoview.render.shading import render
from geoview.render.shots import PhotoKind, Shot, Stand, draw_shots
from geoview.render.world import TRAINING_STYLES, World, make_world

__all__ = ["FORMAT_VERSION", "PanoramaSize", "TileGrid", "panorama_size", "write_dataset"]

FORMAT_VERSION = 1

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

_DEFAULT_TILE_PX = {"vigor": 160, "cvusa": 320}
_DEFAULT_PANORAMA_PX = {"vigor": 512, "cvusa": _CVUSA_SHAPE_PX[0]}
# Photographers are drawn until enough have a place of their own; so many times as many as are wanted, then it is told.
_MOST_DRAWS = (1, 2, 4, 8, 16)
_MADE = (
    "README.txt",
    "splits/*.csv",
    "split_locations/all.csv",
    "bingmap/19/*.jpg",
    "streetview/panos/*.jpg",
    *(f"{city}/panorama/*_[0-9]*,.jpg" for city in CITIES),
    *(f"{city}/satellite/satellite_*.png" for city in CITIES),
    *(f"splits/{city}/*.txt" for city in CITIES),
    *(f"work/{name}/{made}" for name in (*CITIES, *TRAINING_STYLES) for made in ("*.tif", "*.json", "*.geojson")),
)


def write_dataset(config: RenderDatasetConfig) -> dict[str, Any]:
    """Writes a data set of four made-up cities, one of each style that encoders are trained on.

    Panoramas show a city at one date; satellite pictures are cut from an orthophoto of another date, with other light,
    colours and season, a share of the buildings replaced and errors of position, as `write_region` makes it. Lists and
    labels are written last. `work/<city>` holds the orthophoto and the true heights; it is kept, so that the same call
    goes on from there and an index of the same ground can be built.

    Each file is there whole or not at all, and kept where it is: the same call goes on with what was cut off.

    Args:
        config: Layout, size and seed.

    Returns:
        What was made: `dataset`, `layout`, and numbers of `panoramas` and of `satellite` pictures.

    Raises:
        OutputExistsError: The folder holds something else.
        RenderError: The cities have no room for so many panoramas.
        StorageFullError: The disk is full.
    """
    root = Path(config.out)
    size = panorama_size(config.layout, config.panorama_px or _DEFAULT_PANORAMA_PX[config.layout])
    tile_px = config.tile_px or _DEFAULT_TILE_PX[config.layout]
    # All is known before anything is written: a size that cannot be takes no folder.
    cities, lists = _LAYOUTS[config.layout](config, root, size)
    plan = _plan(config, cities, size, tile_px)
    claim(root / "dataset.json", plan, made=_MADE, overwrite=config.overwrite)
    _write_text(root / "README.txt", _readme(plan))
    for city in cities:
        _write_pictures(config, city, size, tile_px)
    for path, lines in lists.items():
        _write_text(path, "".join(f"{line}\n" for line in lines))
    return {
        "dataset": config.out,
        "layout": config.layout,
        "panoramas": sum(len(city.shots) for city in cities),
        "satellite": sum(len(city.cuts) for city in cities),
    }


# -- layouts -----------------------------------------------------------------------------------------------------------


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
class _Cut:
    """A satellite picture to be cut: its file and the position of its middle."""

    path: Path
    latlon_deg: tuple[float, float]


@dataclass(frozen=True)
class _City:
    """All pictures of a city; `edge_m` is the ground size of those from above."""

    name: str
    number: int
    style: str
    shots: list[Shot]
    cuts: list[_Cut]
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


def _vigor(config: RenderDatasetConfig, root: Path, size: PanoramaSize) -> tuple[list[_City], _Lists]:
    cities: list[_City] = []
    lists: _Lists = {}
    for number, (name, style) in enumerate(_bar(list(zip(CITIES, TRAINING_STYLES, strict=True)))):
        world = _world(config, style)
        grid = TileGrid.over(world.grid)
        shots = _drawn(config, world, number, size, _RANGE_M, _in_balance(grid))
        shots = [replace(shot, path=root / name / "panorama" / _vigor_name(style, shot)) for shot in shots]
        cuts = [_Cut(root / name / "satellite" / grid.name(tile), grid.latlon_deg(tile)) for tile in grid.there]
        cities.append(_City(name, number, style, shots, cuts, grid.edge_m))
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


def _cvusa(config: RenderDatasetConfig, root: Path, size: PanoramaSize) -> tuple[list[_City], _Lists]:
    cities: list[_City] = []
    locations: list[str] = []
    train: list[str] = []
    val: list[str] = []
    for number, style in enumerate(_bar(TRAINING_STYLES)):
        world = _world(config, style)
        grid = world.grid
        lat_deg = float(grid.latlon_deg(np.array(grid.size_m) / 2)[0])
        edge_m, turn = _edge_m(_CVUSA_TILE_PX, _CVUSA_ZOOM, lat_deg), math.radians(abs(grid.convergence_deg))
        # A square that is askew to the map reaches further, and pixels of the edge have no neighbours.
        reach_m = edge_m / 2 * (math.cos(turn) + math.sin(turn)) + 2 * grid.gsd_m
        shots = _drawn(config, world, number, size, max(_RANGE_M, reach_m), _apart())
        first = number * config.panoramas + 1
        shots = [replace(s, path=root / f"streetview/panos/{first + i:07d}.jpg") for i, s in enumerate(shots)]
        cuts = [_Cut(root / f"bingmap/19/{shot.path.name}", shot.latlon_deg) for shot in shots]
        cities.append(_City(style, number, style, shots, cuts, edge_m))
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


_LAYOUTS = {"vigor": _vigor, "cvusa": _cvusa}


def _edge_m(size_px: int, zoom: int, lat_deg: float) -> float:
    """Returns the ground size of so many pixels of Web Mercator."""
    return size_px * _ZOOM_0_M / 2.0**zoom * math.cos(math.radians(lat_deg))


# -- cities ------------------------------------------------------------------------------------------------------------


def _bar(cities: Sequence[_T]) -> Iterable[_T]:
    return tqdm(cities, desc="cities planned", unit="city", disable=None)


def _world(config: RenderDatasetConfig, style: str) -> World:
    return make_world(style, config.seed, size_m=(config.size_m, config.size_m))


def _seed(config: RenderDatasetConfig, number: int) -> int:
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
                stand, Path(), times * config.panoramas, view, seed=_seed(config, number), day=state.date
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


# -- pictures ----------------------------------------------------------------------------------------------------------


def _write_pictures(config: RenderDatasetConfig, city: _City, size: PanoramaSize, tile_px: int) -> None:
    shots = [shot for shot in city.shots if not shot.path.exists()]
    cuts = [cut for cut in city.cuts if not cut.path.exists()]
    if not shots and not cuts:
        return
    world = _world(config, city.style)
    if cuts:
        folder = Path(config.out) / "work" / city.name
        region = write_region(
            world,
            folder,
            n_panoramas=0,
            n_perspective=0,
            seed=_seed(config, city.number),
            epochs=(REFERENCE_EPOCH,),
            overwrite=config.overwrite,
        )
        source = tiles.open_source(folder / region["reference"])
        total, done = len(city.cuts), len(city.cuts) - len(cuts)
        for cut in tqdm(cuts, f"{city.name} from above", total, initial=done, unit="picture", disable=None):
            chip = source.chip(cut.latlon_deg, size_px=tile_px, gsd_m=city.edge_m / tile_px)
            _write_image(cut.path, chip.pixels, quality=90)
    if shots:
        _write_panoramas(world.state(PHOTO_EPOCH).scene(), city, shots, size, num_workers=config.num_workers)


def _write_panoramas(scene: Scene, city: _City, shots: Sequence[Shot], size: PanoramaSize, *, num_workers: int) -> None:
    # Found once, for all workers to share.
    _ = scene.trunks, scene.buildings
    total, left = len(city.shots), len(shots)
    with tqdm(total=total, initial=total - left, desc=f"{city.name} from streets", unit="photo", disable=None) as bar:
        if num_workers == 1:
            for shot in shots:
                _write_panorama(scene, size, shot)
                bar.update()
            return
        # A forked child has the scene's arrays without copying them, and runs NumPy and Pillow only.
        with ProcessPoolExecutor(num_workers, get_context("fork"), _hold, (scene, size)) as pool:
            for _ in pool.map(_write_held, shots, chunksize=4):
                bar.update()


_held: list[tuple[Scene, PanoramaSize]] = []


def _hold(scene: Scene, size: PanoramaSize) -> None:
    _held.append((scene, size))


def _write_held(shot: Shot) -> None:
    _write_panorama(*_held[-1], shot)


def _write_panorama(scene: Scene, size: PanoramaSize, shot: Shot) -> None:
    """Writes a panorama with north in its middle. It carries no EXIF: a position there would be the answer."""
    rng = np.random.default_rng([*shot.seed, 1])
    beyond_px = (size.height_px - size.rendered_px) // 2
    pixels = np.pad(render(scene, shot.camera, shot.light), ((beyond_px, beyond_px), (0, 0), (0, 0)), "edge")
    columns = round(shot.camera.heading_deg * size.width_px / 360.0)
    pixels = np.roll(finish(pixels, rng), columns, axis=1)
    _write_image(shot.path, pixels, quality=int(rng.integers(60, 96)))


def _write_image(path: Path, pixels: NDArray[np.uint8], *, quality: int) -> None:
    """Writes a PNG or a JPEG, as the name says."""
    buffer = io.BytesIO()
    if path.suffix == ".png":
        Image.fromarray(pixels).save(buffer, "PNG")
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with full_disk_told(path), write_binary(path) as file:
        file.write(buffer.getvalue())


def _write_text(path: Path, content: str) -> None:
    with full_disk_told(path), write_text(path) as file:
        file.write(content)


# -- what it says of itself --------------------------------------------------------------------------------------------

_README = {
    "vigor": """\
Made-up cities in the layout of VIGOR

Nothing here is real. Four procedural cities were rendered as street panoramas and as an orthophoto; the coordinates
are those of plausible places, and nothing shown here stands there. Folders have the names of VIGOR's cities, because
loaders ask for them:
{cities}

Made by geoview {geoview}, format version {format_version}, seed {seed}: {size_m:g} m a side, {panoramas} panoramas a
city. dataset.json says the same to programs. Licence of all pictures and lists: {licence}.

Panoramas have {width_px} x {height_px} px and are whole spheres: north in the middle column, the horizon in the middle
row, no EXIF. Above 85 degrees and below -85 the last row rendered is repeated.

Tiles have {tile_px} px, north up, and lie half a tile apart. Their ground is that of 640 px of Web Mercator zoom 20,
and offsets in the label files are in pixels of a tile of 640 px, as published: a panorama lies at x = 320 - dx,
y = 320 + dy of each of its four tiles, the positive, whose middle is nearest, first. No positive has more than two
panoramas. The same-area lists are random halves of each city, as published; pano_label_balanced.txt is both.
""",
    "cvusa": """\
Made-up cities in the layout of CVUSA

Nothing here is real. Four procedural cities were rendered as street panoramas and as an orthophoto; the coordinates
are those of plausible places, and nothing shown here stands there. Ids count through the cities in this order:
{cities}

Made by geoview {geoview}, format version {format_version}, seed {seed}: {size_m:g} m a side, {panoramas} panoramas a
city. dataset.json says the same to programs. Licence of all pictures and lists: {licence}.

Panoramas have {width_px} x {height_px} px: north in the middle column, the horizon in the middle row, rows at as many
degrees a pixel as columns, no EXIF.

Satellite pictures have {tile_px} px, north up, the panorama in the middle, and show the ground of 750 px of Web
Mercator zoom 19. Pairs are at least 20 m apart. The lists part them by blocks of ground, an eighth of a city's edge
wide, and not at random; about a fifth are for validation. Pictures on both sides of a block's border share ground.
Annotations, which the lists name, do not exist; the fifth column of all.csv means nothing.
""",
}
_README_END = """
Seen from above the same places have another date, light and season, and a share of the buildings is replaced. That
imagery is off by up to a few metres, as real imagery is; coordinates and labels say where the camera stood.

work/ holds the orthophoto, the heights at its date and the outlines of each city. The command that made this goes on
from there; work/ can be deleted afterwards.
"""


def _plan(config: RenderDatasetConfig, cities: Sequence[_City], size: PanoramaSize, tile_px: int) -> dict[str, Any]:
    return {
        "about": f"made-up cities, rendered by geoview, in the layout of {config.layout.upper()}: no place is real",
        "format_version": FORMAT_VERSION,
        "geoview": version("geoview"),
        "licence": "free to use for any purpose",
        "layout": config.layout,
        "seed": config.seed,
        "panoramas": config.panoramas,
        "size_m": config.size_m,
        "panorama_px": [size.width_px, size.height_px],
        "tile_px": tile_px,
        "cities": [
            {"name": city.name, "style": city.style, "world_seed": config.seed, "tile_m": round(city.edge_m, 3)}
            for city in cities
        ],
    }


def _readme(plan: dict[str, Any]) -> str:
    cities = "\n".join(
        f"  {city['name']}: style {city['style']}, a satellite picture shows {city['tile_m']:.1f} m"
        for city in plan["cities"]
    )
    width_px, height_px = plan["panorama_px"]
    named = plan | {"cities": cities, "width_px": width_px, "height_px": height_px}
    return _README[plan["layout"]].format(**named) + _README_END
