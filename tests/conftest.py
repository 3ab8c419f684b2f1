"""A real place in small: an orthophoto, an encoder with random weights, and the index that they make.

The orthophoto lies around a corner where four S2 cells of level 8 meet, so that every index of it has four shards.
"""

import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyproj
import pytest
import rasterio
import torch
from PIL import Image
from PIL.ExifTags import GPS, IFD
from rasterio.transform import Affine

import tiles
from geoview.config import AddConfig, AerialView, BuildConfig, GroundView
from geoview.geo import cells
from geoview.index import cell_index, store, tuning
from geoview.index.build import add_to_index, build_index
from geoview.index.cell_index import CellIndex
from geoview.index.manifest import Manifest, Point
from geoview.models.encoder import CrossViewEncoder

torch.set_num_threads(2)

CRS = "EPSG:32611"
CENTRE_DEG = cells.vertices_deg(cells.cell_ids([34.05, -117.4], 8)).reshape(4, 2)[0]
SIZE_PX, GSD_M = 1000, 1.2


def texture(size_px=SIZE_PX, seed=0):
    """Returns (3, size_px, size_px) uint8: colour that varies at every scale from 2 to 500 pixels."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((3, size_px, size_px), np.float32)
    at = (np.arange(size_px) + 0.5) / size_px
    for nodes in (3, 9, 30, 100, 500):
        grid = rng.normal(size=(3, nodes + 1, nodes + 1)).astype(np.float32)
        low = np.minimum((at * nodes).astype(int), nodes - 1)
        part = (at * nodes - low).astype(np.float32)
        rows = grid[:, low] * (1 - part)[:, None] + grid[:, low + 1] * part[:, None]
        picture += rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
    return np.clip(128 + 45 * picture, 1, 255).astype(np.uint8)


def write_ortho(path, data, centre_deg=CENTRE_DEG, gsd_m=GSD_M, crs=CRS, **profile):
    """Writes (bands, H, W) as a GeoTIFF around a place."""
    x, y = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform(centre_deg[1], centre_deg[0])
    bands, height, width = data.shape
    transform = Affine(gsd_m, 0, x - gsd_m * width / 2, 0, -gsd_m, y + gsd_m * height / 2)
    options = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": data.dtype, "crs": crs}
    with rasterio.open(path, "w", transform=transform, **(options | profile)) as dataset:
        dataset.write(data)
    return Path(path)


def make_encoder(seed=0, **views):
    """Makes a tiny encoder whose random weights are large enough to tell chips apart."""
    views = {"ground": GroundView(width_px=64, height_px=32), "aerial": AerialView(size_px=32, gsd_m=4.8)} | views
    torch.manual_seed(seed)
    encoder = CrossViewEncoder(
        "convnext_atto", backbone_args={"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "ls_init_value": 1.0}, **views
    )
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
    return encoder.eval()


def write_index(folder, ids, aerial, dates=None, skipped=(), level=16):
    """Writes an index of given cells and codes, in any order, without an encoder; returns it opened."""
    ids, skipped = np.asarray(ids, np.uint64), np.asarray(skipped, np.uint64)
    dates = np.zeros(len(ids), np.int32) if dates is None else np.asarray(dates, np.int32)
    aerial = np.asarray(aerial, np.float16)
    above, skipped_above = cells.parents(ids, level - 8), cells.parents(skipped, level - 8)
    entries = []
    for parent in np.union1d(above, skipped_above):
        here, without = above == parent, skipped_above == parent
        ones, zeros = np.ones(here.sum(), np.float16), np.zeros(without.sum(), np.float16)
        rows = store.Rows(aerial[here], ids[here], dates[here], ones, skipped[without], zeros)
        token = str(cells.tokens(np.array([parent]))[0])
        entries.append(store.write_rows(folder, token, store.Rows.concatenate([rows])))
    manifest = Manifest(
        level=level,
        dim=aerial.shape[1],
        chip={"size_px": 32, "gsd_m": 4.8},
        encoder={"fingerprint": "0" * 16, "folder": "encoder/none"},
        min_coverage=0.5,
        imagery=[],
        sources=[],
        skipped_sources=[],
        shards=entries,
        created_at="2024-01-01T00:00:00+00:00",
        geoview="0",
    )
    store.commit(folder, manifest)
    return CellIndex.open(folder)


def exif_at(lat, lon):
    """Returns EXIF with a position."""
    exif = Image.Exif()
    gps = exif.get_ifd(IFD.GPSInfo)
    gps[GPS.GPSLatitudeRef], gps[GPS.GPSLatitude] = "N" if lat >= 0 else "S", (abs(lat), 0.0, 0.0)
    gps[GPS.GPSLongitudeRef], gps[GPS.GPSLongitude] = "E" if lon >= 0 else "W", (abs(lon), 0.0, 0.0)
    return exif


def write_photo(path, size_px=(120, 90), seed=0, latlon_deg=None):
    """Writes a photo of coloured blocks; returns its path."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(blocks).resize(size_px, Image.Resampling.BICUBIC)
    image.save(path, **({} if latlon_deg is None else {"exif": exif_at(*latlon_deg)}))
    return str(path)


@pytest.fixture(scope="module")
def small_is_large():
    """Indexes of thousands are searched as those of millions are, and exact search is as slow as there."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (cell_index, tuning):
            patch.setattr(module, "ALWAYS_EXACT", 100)
        patch.setattr(tuning, "_exact", lambda index, queries: Point(0, 1, 1.0, 1e6))
        yield


@pytest.fixture(scope="session")
def kit():
    """The names above, for tests that make their own."""
    return SimpleNamespace(
        CENTRE_DEG=CENTRE_DEG,
        CRS=CRS,
        GSD_M=GSD_M,
        SIZE_PX=SIZE_PX,
        build=build,
        exif_at=exif_at,
        make_encoder=make_encoder,
        texture=texture,
        write_index=write_index,
        write_ortho=write_ortho,
        write_photo=write_photo,
    )


def build(encoder_folder, imagery, out, region=None, **settings):
    """Builds an index of imagery, as the command does."""
    imagery = [str(path) for path in (imagery if isinstance(imagery, list) else [imagery])]
    config = BuildConfig(
        encoder=str(encoder_folder), imagery=imagery, out=str(out), **({"device": "cpu", "batch_size": 32} | settings)
    )
    encoder = CrossViewEncoder.load(encoder_folder)
    return build_index(encoder, tiles.open_source(config.imagery), region, out, config)


@pytest.fixture(scope="session")
def ortho(tmp_path_factory):
    """A GeoTIFF of 1.2 km by 1.2 km at 1.2 m a pixel."""
    return write_ortho(tmp_path_factory.mktemp("imagery") / "ortho.tif", texture(), tiled=True)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    return make_encoder().save(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="session")
def index_folder(tmp_path_factory, encoder_folder, ortho):
    """A built index of the orthophoto; not to be written to."""
    out = tmp_path_factory.mktemp("index") / "index"
    build(encoder_folder, ortho, out)
    return out


@pytest.fixture(scope="session")
def dated(tmp_path_factory, encoder_folder, ortho):
    """A folder with an index of imagery of June 2018, and of 2021 (`new.tif`) in its north-eastern quarter."""
    folder = tmp_path_factory.mktemp("dated")
    new = write_ortho(folder / "new.tif", texture(500, seed=4), centre_deg=np.add(CENTRE_DEG, [0.003, 0.004]))
    for name, path, date in (("old", ortho, "2018-06"), ("new", new, "2021")):
        (folder / f"{name}.yaml").write_text(f"sources:\n- uri: {path}\n  date: {date}\n")
    build(encoder_folder, folder / "old.yaml", folder / "index")
    config = AddConfig(imagery=[str(folder / "new.yaml")], device="cpu")
    add_to_index(folder / "index", tiles.open_source(config.imagery), None, config)
    return folder


@pytest.fixture(scope="session")
def real_data():
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GEOVIEW_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set GEOVIEW_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def twins():
    """Writers of published data sets in small, in the layouts they are distributed in."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "data" / "twins.py")))
