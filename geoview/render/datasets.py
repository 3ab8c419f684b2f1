"""Made-up cities as a data set in a published layout, that of VIGOR or of CVUSA, for any loader of those to read.

What loaders know of the real sets holds here: names, lists, units of the labels, north in the middle of panoramas. Only
sizes in pixels differ, and all that is shown is made up.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

import tiles
from geoview.config import RenderDatasetConfig
from geoview.data.vigor import CITIES
from geoview.files import full_disk_told, write_binary, write_text
from geoview.render.claim import claim
from geoview.render.layouts import LAYOUTS, City, PanoramaSize, city_seed, city_world, panorama_size
from geoview.render.photos import finish
from geoview.render.region import PHOTO_EPOCH, REFERENCE_EPOCH, write_region
from geoview.render.scene import Scene
from geoview.render.shading import render
from geoview.render.shots import Shot
from geoview.render.world import TRAINING_STYLES

__all__ = ["FORMAT_VERSION", "write_dataset"]

FORMAT_VERSION = 1

_DEFAULT_TILE_PX = {"vigor": 160, "cvusa": 320}
_DEFAULT_PANORAMA_PX = {"vigor": 512, "cvusa": 1232}
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
    cities, lists = LAYOUTS[config.layout](config, root, size)
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


# -- pictures ----------------------------------------------------------------------------------------------------------


def _write_pictures(config: RenderDatasetConfig, city: City, size: PanoramaSize, tile_px: int) -> None:
    shots = [shot for shot in city.shots if not shot.path.exists()]
    cuts = [cut for cut in city.cuts if not cut.path.exists()]
    if not shots and not cuts:
        return
    world = city_world(config, city.style)
    if cuts:
        folder = Path(config.out) / "work" / city.name
        region = write_region(
            world,
            folder,
            n_panoramas=0,
            n_perspective=0,
            seed=city_seed(config, city.number),
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


def _write_panoramas(scene: Scene, city: City, shots: Sequence[Shot], size: PanoramaSize, *, num_workers: int) -> None:
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


def _plan(config: RenderDatasetConfig, cities: Sequence[City], size: PanoramaSize, tile_px: int) -> dict[str, Any]:
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
