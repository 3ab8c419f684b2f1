"""Tile pyramids: folders and MBTiles."""

import io
import sqlite3

import numpy as np
import pytest
from PIL import Image

import tiles

PLACE = (70.0, 20.0)
WAVE = 1 / 2**12  # of the world: 16 tiles of zoom 16, 4096 px; 2^12 waves make the world repeat
ZOOM = 16


class Mercator:
    """A smooth pattern over the unit square of the world in Web Mercator, west to east and north to south."""

    @staticmethod
    def at(latlon_deg):
        lat = np.radians(latlon_deg[0])
        return (latlon_deg[1] + 180) / 360, 0.5 - np.arctanh(np.sin(lat)) / (2 * np.pi)

    @staticmethod
    def colour(x, y, wave):
        u, v = 2 * np.pi * x / wave, 2 * np.pi * y / wave
        return 128 + 100 * np.stack([np.sin(u), np.sin(v), np.sin(u + v)], axis=-1)

    @classmethod
    def tile(cls, zoom, column, row, size, wave):
        x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
        world = size * 2**zoom
        return np.rint(cls.colour((column * size + x) / world, (row * size + y) / world, wave)).astype(np.uint8)


def encoded(pixels, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, quality=95)
    return buffer.getvalue()


def write_pyramid(
    folder, latlon_deg=PLACE, zooms=(15, 16), size=256, reach=2, suffix=".png", form="PNG", waves=1 << 21
):
    """Write tiles around a place."""
    for zoom in zooms:
        x, y = Mercator.at(latlon_deg)
        for column in range(int(x * 2**zoom) - reach, int(x * 2**zoom) + reach + 1):
            for row in range(int(y * 2**zoom) - reach, int(y * 2**zoom) + reach + 1):
                place = folder / str(zoom) / str(column % 2**zoom) / f"{row}{suffix}"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(encoded(Mercator.tile(zoom, column, row, size, 1 / (waves // 2**4)), form))
    return folder


def as_mbtiles(folder, path, **metadata):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE metadata (name TEXT, value TEXT)")
        db.execute("CREATE TABLE tiles (zoom_level INT, tile_column INT, tile_row INT, tile_data BLOB)")
        db.execute("CREATE UNIQUE INDEX place ON tiles (zoom_level, tile_column, tile_row)")
        for tile in folder.rglob("*.png"):
            zoom, column, row = int(tile.parts[-3]), int(tile.parts[-2]), int(tile.stem)
            db.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", (zoom, column, 2**zoom - 1 - row, tile.read_bytes()))
        db.executemany("INSERT INTO metadata VALUES (?, ?)", metadata.items())
    db.close()
    return path


def expected(kit, latlon_deg, size_px, gsd_m, heading_deg, wave=1 / (1 << 17)):
    """Reuse the independent reference of the rasters: the pattern in EPSG:3857 metres."""
    world = 2 * np.pi * 6378137.0

    class Plane(kit.World):
        def colour(self, x, y):
            return np.moveaxis(Mercator.colour(x / world + 0.5, 0.5 - y / world, wave), -1, 0)

    return Plane("EPSG:3857", 1.0).expected(latlon_deg, size_px, gsd_m, heading_deg)


@pytest.mark.parametrize("heading_deg", [0.0, 70.0])
@pytest.mark.parametrize("size", [256, 512])
@pytest.mark.parametrize("kind", ["folder", "mbtiles"])
def test_geometry(tmp_path, kit, kind, size, heading_deg):
    folder = write_pyramid(tmp_path / "tiles", size=size)
    path = folder if kind == "folder" else as_mbtiles(folder, tmp_path / "a.mbtiles")
    source = tiles.open_source(path)
    gsd_m = 2.387 / 2 * np.cos(np.radians(70)) * 2 * 256 / size  # that of zoom 16
    assert source.native_gsd_m == pytest.approx(gsd_m, rel=0.01)
    chip = source.chip(PLACE, size_px=101, gsd_m=gsd_m, heading_deg=heading_deg)
    assert chip.valid.all()
    difference = np.abs(chip.pixels - expected(kit, PLACE, 101, gsd_m, heading_deg))
    assert difference.max() <= 4.0


def test_zoom_is_the_coarsest_that_is_not_coarser(tmp_path):
    for zoom, mark in [(14, 14), (15, 15), (16, 16)]:
        folder = write_pyramid(tmp_path / "tiles", zooms=(zoom,))
        for tile in (folder / str(zoom)).rglob("*.png"):
            tile.write_bytes(encoded(np.full((256, 256, 3), mark, np.uint8)))
    source = tiles.open_source(folder)
    finest = source.native_gsd_m
    seen = {}
    for factor in (0.5, 1.0, 1.9, 2.0, 3.9, 4.0, 9.0):
        (seen[factor],) = np.unique(source.chip(PLACE, size_px=30, gsd_m=finest * factor).pixels)
    assert seen == {0.5: 16, 1.0: 16, 1.9: 16, 2.0: 15, 3.9: 15, 4.0: 14, 9.0: 14}
    (tmp_path / "m.yaml").write_text("{uri: tiles, max_zoom: 15}")
    limited = tiles.open_source(tmp_path / "m.yaml")
    assert limited.native_gsd_m == pytest.approx(2 * finest, rel=1e-2)
    assert (limited.chip(PLACE, size_px=30, gsd_m=finest).pixels == 15).all()


def test_missing_tiles_are_not_valid_and_not_replaced(tmp_path):
    folder = write_pyramid(tmp_path / "tiles", reach=1)
    x, y = Mercator.at(PLACE)
    column, row = int(x * 2**16), int(y * 2**16)
    (folder / "16" / str(column) / f"{row}.png").unlink()
    source = tiles.open_source(folder)
    lat = np.degrees(np.arcsin(np.tanh(np.pi * (1 - 2 * (row + 0.5) / 2**16))))
    chip = source.chip((lat, (column + 0.5) / 2**16 * 360 - 180), size_px=300, gsd_m=source.native_gsd_m)
    assert (~chip.valid).sum() == pytest.approx(256 * 256, rel=0.02)
    assert not chip.pixels[~chip.valid].any()
    assert source.coverage().area == pytest.approx(8 * (360 / 2**16) ** 2 * np.cos(np.radians(70)), rel=0.01)


def test_suffixes_may_lie_and_differ(tmp_path, kit):
    folder = write_pyramid(tmp_path / "tiles", zooms=(16,), suffix=".png", form="JPEG")
    first = next(folder.rglob("*.png"))
    (first.rename(first.with_suffix(".webp"))).write_bytes(encoded(np.full((256, 256, 3), 9, np.uint8), "WEBP"))
    source = tiles.open_source(folder)
    chip = source.chip(PLACE, size_px=50, gsd_m=source.native_gsd_m)
    assert chip.valid.all()
    assert np.abs(chip.pixels - expected(kit, PLACE, 50, source.native_gsd_m, 0.0)).mean() < 4.0


def test_transparency_and_palettes(tmp_path):
    folder = write_pyramid(tmp_path / "tiles", zooms=(16,), reach=1)
    clear = np.full((256, 256, 4), 77, np.uint8)
    clear[..., 3] = np.where(np.arange(256)[:, None] < 128, 0, 255)
    for tile in folder.rglob("*.png"):
        tile.write_bytes(encoded(clear))
    source = tiles.open_source(folder)
    chip = source.chip(PLACE, size_px=256, gsd_m=source.native_gsd_m)
    assert 0.45 < chip.valid_fraction < 0.55
    assert (chip.pixels[chip.valid] == 77).all()
    for tile in folder.rglob("*.png"):
        buffer = io.BytesIO()
        Image.fromarray(clear[..., :3]).quantize(4).save(buffer, "PNG")
        tile.write_bytes(buffer.getvalue())
    assert (tiles.open_source(folder).chip(PLACE, size_px=64, gsd_m=1.0).pixels == 77).all()


@pytest.mark.parametrize("content", [b"broken", b"", encoded(np.zeros((9, 9, 3), np.uint8))])
def test_broken_tiles_are_named(tmp_path, content):
    folder = write_pyramid(tmp_path / "tiles", zooms=(16,), reach=1)
    x, y = Mercator.at(PLACE)
    (folder / "16" / str(int(x * 2**16)) / f"{int(y * 2**16)}.png").write_bytes(content)
    source = tiles.open_source(folder)
    with pytest.warns(tiles.SkippedRasterWarning, match=f"tiles: tile 16/{int(x * 2**16)}/{int(y * 2**16)}"):
        chip = source.chip(PLACE, size_px=300, gsd_m=source.native_gsd_m)
    assert not chip.valid[150, 150] and chip.valid.any()


def test_no_tile_can_be_decoded(tmp_path):
    folder = write_pyramid(tmp_path / "tiles", zooms=(16,), reach=0)
    next(folder.rglob("*.png")).write_bytes(b"broken")
    with pytest.raises(tiles.UnsupportedSourceError, match="tiles"):
        tiles.open_source(folder)


@pytest.mark.parametrize("lon_deg", [180.0, -179.9999, 179.9999])
def test_across_the_date_line(tmp_path, kit, lon_deg):
    folder = write_pyramid(tmp_path / "tiles", (10.0, 180.0 - 1e-9), zooms=(16,))
    source = tiles.open_source(folder)
    chip = source.chip((10.0, lon_deg), size_px=90, gsd_m=source.native_gsd_m, heading_deg=25.0)
    assert chip.valid.all()
    assert np.abs(chip.pixels - expected(kit, (10.0, lon_deg), 90, source.native_gsd_m, 25.0)).max() <= 10.0
    assert source.coverage().geom_type == "MultiPolygon"


def test_mbtiles_metadata(tmp_path):
    folder = write_pyramid(tmp_path / "tiles", zooms=(14, 15, 16))
    west, east = PLACE[1] - 0.001, PLACE[1] + 0.002
    path = as_mbtiles(
        folder, tmp_path / "a.mbtiles", attribution="Kartverket", minzoom="14", maxzoom="15", format="png",
        bounds=f"{west},69.0,{east},71.0",
    )  # fmt: skip
    source = tiles.open_source(path)
    assert source.attribution == "Kartverket" and source.zooms == (14, 15)
    assert source.coverage().bounds[0] == pytest.approx(west) and source.coverage().bounds[2] == pytest.approx(east)
    chip = source.chip(PLACE, size_px=100, gsd_m=2.0)  # bounds reach 38 m west and 76 m east
    assert chip.valid[50].sum() == pytest.approx((38.2 + 76.4) / 2, abs=2) and chip.valid[50, 32:86].all()
    assert source.parts()[0].crs == "EPSG:3857"


def test_mbtiles_defects(tmp_path):
    (tmp_path / "a.mbtiles").write_bytes(b"not a database at all" * 99)
    with pytest.raises(tiles.UnreadableRasterError, match=r"a\.mbtiles"):
        tiles.open_source(tmp_path / "a.mbtiles")
    with pytest.raises(tiles.SourceNotFoundError):
        tiles.open_source(tmp_path / "gone.mbtiles")
    folder = write_pyramid(tmp_path / "tiles", zooms=(16,), reach=0)
    vector = as_mbtiles(folder, tmp_path / "vector.mbtiles", format="pbf")
    with pytest.raises(tiles.UnsupportedSourceError, match="vector"):
        tiles.open_source(vector)
    odd = as_mbtiles(folder, tmp_path / "odd.mbtiles", bounds="everywhere")
    with pytest.raises(tiles.UnsupportedSourceError, match="bounds"):
        tiles.open_source(odd)
    beyond = as_mbtiles(folder, tmp_path / "beyond.mbtiles", maxzoom="3")
    with pytest.raises(tiles.UnsupportedSourceError, match=r"beyond\.mbtiles.*zooms"):
        tiles.open_source(beyond)


def test_outside_the_tiles(tmp_path):
    source = tiles.open_source(write_pyramid(tmp_path / "tiles", zooms=(16,)))
    for place in [(60.0, 20.0), (90.0, 0.0)]:
        with pytest.raises(tiles.OutsideCoverageError):
            source.chip(place, size_px=30, gsd_m=1.0)


def test_pyramid_and_raster_in_one_mosaic(tmp_path, make):
    raster, _ = make(tmp_path / "a.tif", "EPSG:32633", PLACE, size_px=50)
    write_pyramid(tmp_path / "tiles")
    (tmp_path / "m.yaml").write_text("sources: [{uri: a.tif, date: 2020-01-01}, {uri: tiles}]")
    source = tiles.open_source(tmp_path / "m.yaml")
    chip = source.chip(PLACE, size_px=80, gsd_m=1.0)
    assert chip.valid.all() and chip.date is None  # the pyramid gave most pixels
    assert [info.crs for info in source.parts()] == ["EPSG:32633", "EPSG:3857"]
    inner = tiles.open_source(raster).chip(PLACE, size_px=40, gsd_m=1.0).pixels
    assert (source.chip(PLACE, size_px=40, gsd_m=1.0).pixels == inner).all()
