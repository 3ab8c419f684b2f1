"""Chips and tiles: the right ground, to the pixel, and a reason where there is none."""

import io
import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.warp import Resampling, reproject

import tiles
from geoview.geo import cells
from geoview.index.cell_index import CellIndex
from geoview.serve.pictures import NoPictureError, Pictures, _Kept, deepest_zoom


@pytest.fixture(scope="module")
def generation(index_folder):
    """What of a generation is asked."""
    index = CellIndex.open(index_folder)
    south, west, north, east = index.extent_deg()
    return SimpleNamespace(
        index=index,
        number=1,
        imagery=tiles.open_source(index.manifest.imagery),
        bounds_deg=(west, south, east, north),
        has_cell=lambda cell_id: bool(index.has_cells(np.array([cell_id], np.uint64))[0]),
    )


def decoded(picture, mode="RGB"):
    return np.asarray(Image.open(io.BytesIO(picture)).convert(mode)).astype(int)


def tile_of(latlon_deg, zoom):
    """Returns x and y of the tile that a point lies in."""
    lat, lon = np.radians(latlon_deg)
    n = 2**zoom
    return int((lon + math.pi) / (2 * math.pi) * n), int((1 - math.asinh(math.tan(lat)) / math.pi) / 2 * n)


def test_a_chip_is_what_the_encoder_saw(generation):
    (cell_id,) = generation.index.cell_ids()[30:31]
    token = str(cells.tokens(np.array([cell_id]))[0])
    chip = decoded(Pictures().chip(generation, token, 128, 0.0))
    centre_deg = cells.centers_deg(np.array([cell_id]))[0]
    wanted = generation.imagery.chip(centre_deg, size_px=128, gsd_m=generation.index.chip.ground_size_m / 128)
    assert np.abs(chip - wanted.pixels).mean() < 12, "but for JPEG"
    turned = decoded(Pictures().chip(generation, token, 128, 90.0))
    assert np.abs(np.rot90(chip) - turned).mean() < 12


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("zz", "'zz' is not the token of a cell"),
        ("", "'' is not the token of a cell"),
        ("x" * 5000, "'xxxxxxxxxxxxxxxxxxxx' is not the token"),
        ("1", "the cells of this index are of level 16"),
        ("479e75f1d", "this cell is not in the index"),
    ],
)
def test_other_cells_have_no_chip(generation, token, why):
    with pytest.raises(NoPictureError) as caught:
        Pictures().chip(generation, token, 64, 0.0)
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize("zoom", [15, 16])
def test_a_tile_lies_where_the_web_expects_it(generation, ortho, kit, zoom):
    x, y = tile_of(kit.CENTRE_DEG, zoom)
    tile = decoded(Pictures().tile(generation, zoom, x, y), "RGBA")
    half_m = math.pi * 6378137.0
    side_m = 2 * half_m / 2**zoom

    def difference(right_px=0.0, down_px=0.0, larger=1.0):
        """Returns how far the tile is from what GDAL makes of the imagery, moved or enlarged about its middle."""
        px_m = side_m / 256 * larger
        west_m = (x + 0.5) * side_m - half_m - 128 * px_m + right_px * px_m
        north_m = half_m - (y + 0.5) * side_m + 128 * px_m - down_px * px_m
        to_tile = rasterio.transform.from_origin(west_m, north_m, px_m, px_m)
        wanted = np.zeros((3, 256, 256), np.uint8)
        with rasterio.open(ortho) as source:
            bands = rasterio.band(source, [1, 2, 3])
            reproject(bands, wanted, dst_transform=to_tile, dst_crs="EPSG:3857", resampling=Resampling.average)
        inside = (tile[..., 3] > 250) & (wanted > 0).all(axis=0)
        assert inside.mean() > 0.3
        return np.abs(tile[..., :3] - np.moveaxis(wanted, 0, -1).astype(int))[inside].mean()

    here = difference()
    assert all(here < difference(*by) for by in ((0.7, 0.0), (-0.7, 0.0), (0.0, 0.7), (0.0, -0.7))), "not a pixel off"
    assert here < difference(larger=0.99) and here < difference(larger=1.01), "nor at its edges"


def test_tiles_are_transparent_where_there_is_no_imagery(generation, kit):
    zoom = 14
    x, y = tile_of(kit.CENTRE_DEG, zoom)
    tile = decoded(Pictures().tile(generation, zoom, x, y), "RGBA")
    assert 0 < (tile[..., 3] == 255).mean() < 1
    assert Pictures().tile(generation, zoom, x + 5, y) is None


@pytest.mark.parametrize(
    ("zoom", "x", "y"), [(9, 1, 1), (23, 1, 1), (-1, 0, 0), (10**9, 0, 0), (12, 4096, 0), (12, 0, -1)]
)
def test_there_are_no_other_tiles(generation, zoom, x, y):
    with pytest.raises(NoPictureError, match="tiles have zooms from 10 to 22"):
        Pictures().tile(generation, zoom, x, y)


def test_the_deepest_zoom_shows_every_pixel(generation, kit):
    def gsd_m(zoom):
        return 40075016.686 * math.cos(math.radians(kit.CENTRE_DEG[0])) / 256 / 2**zoom

    deepest = deepest_zoom(generation)
    assert gsd_m(deepest) <= kit.GSD_M < gsd_m(deepest - 1)


def test_imagery_that_is_gone_is_the_reason(generation):
    without = SimpleNamespace(**{**vars(generation), "imagery": None})
    with pytest.raises(NoPictureError, match="not there any more"):
        Pictures().chip(without, "zz", 64, 0.0)

    class Broken:
        def chip(self, *args, **kwargs):
            raise tiles.UnreadableRasterError("/home/somebody/ortho.tif: gone")

    broken = SimpleNamespace(**{**vars(generation), "imagery": Broken()})
    token = str(cells.tokens(generation.index.cell_ids()[:1])[0])
    for show in (lambda: Pictures().chip(broken, token, 64, 0.0), lambda: Pictures().tile(broken, 16, 1, 1)):
        with pytest.raises(NoPictureError) as caught:
            show()
        assert str(caught.value) == "the imagery cannot be read any more", "and no path of this machine"


def test_what_was_asked_last_is_kept_in_bounded_memory():
    kept, made = _Kept(10_000), []

    def make(key):
        made.append(key)
        return bytes(1000)

    for key in [*range(5), 0, *range(5, 12), 0, 1]:
        assert kept.get(key, lambda key=key: make(key)) == bytes(1000)
    assert made == [*range(12), 1], "0 was asked again and again, 1 was not"
    assert kept._bytes <= 10_000
    kept.get("large", lambda: bytes(20_000))
    assert kept._bytes <= 10_000


def test_many_threads_may_ask(generation, kit):
    pictures, found = Pictures(), []
    tokens = cells.tokens(generation.index.cell_ids()[:12]).tolist()

    def ask():
        found.append([pictures.chip(generation, token, 64, 0.0) for token in tokens])

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and all(each == found[0] for each in found)
