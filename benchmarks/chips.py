"""Cutting chips: `tiles` against the two ways of plain rasterio, and how it grows with threads.

A tiled, JPEG-compressed COG with overviews is made in a temporary folder; chips of 154 m at 1.2 m/px are cut at random
places and headings of zero by four methods in turn, so that noise from other jobs hits all of them alike:

* ours: `tiles.open_source(...).chip(...)`;
* WarpedVRT: one per chip, into an azimuthal equidistant CRS at its centre, on an open dataset, bilinear. It reads the
  full resolution; so the same again on a dataset opened at the overview of 1.2 m/px, as an expert would;
* reproject: a decimated windowed read, then `rasterio.warp.reproject`, bilinear.

Each method reads through its own dataset, so none profits from blocks that another one has decoded. Once with a block
cache that holds the overview in use, once with one that holds next to nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
import rasterio.shutil
from machine import cpu_model
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject
from rasterio.windows import Window

import tiles

GSD_M, CHIP_GSD_M, CHIP_PX = 0.3, 1.2, 128
OVERVIEW = 1  # the second overview: 1.2 m/px
LEFT_M, TOP_M, CRS = 456_000.0, 3_760_000.0, "EPSG:26911"
RESULTS = Path(__file__).parent / "results" / "chips.json"

Method = Callable[[tuple[float, float]], NDArray[np.uint8]]


def make_cog(folder: Path, size_px: int) -> Path:
    """Write a COG of noise with the spectrum of natural images, a row of blocks at a time."""
    rng = np.random.default_rng(0)
    texture = np.stack([natural_noise(rng, 1024) for _ in range(3)])
    plain, cog = folder / "plain.tif", folder / "cog.tif"
    profile = {
        "driver": "GTiff", "width": size_px, "height": size_px, "count": 3, "dtype": "uint8", "crs": CRS,
        "transform": Affine(GSD_M, 0, LEFT_M, 0, -GSD_M, TOP_M), "tiled": True, "blockxsize": 512, "blockysize": 512,
        "interleave": "pixel", "photometric": "RGB",
    }  # fmt: skip
    with rasterio.open(plain, "w", **profile) as dataset:
        for top in range(0, size_px, 512):
            height = min(512, size_px - top)
            strip = np.tile(np.roll(texture, rng.integers(1024, size=2), (1, 2)), (1, 1, -(-size_px // 1024)))
            dataset.write(strip[:, :height, :size_px], window=Window(0, top, size_px, height))
    options = {"COMPRESS": "JPEG", "QUALITY": "90", "OVERVIEW_RESAMPLING": "AVERAGE", "NUM_THREADS": "2"}
    rasterio.shutil.copy(plain, cog, driver="COG", **options)
    plain.unlink()
    return cog


def natural_noise(rng: np.random.Generator, size_px: int) -> NDArray[np.uint8]:
    """Return (size_px, size_px) noise that repeats without a seam, its amplitude falling with frequency."""
    frequency = np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px)[None, :])
    spectrum = np.fft.rfft2(rng.standard_normal((size_px, size_px))) / np.maximum(frequency, 1.0 / size_px)
    field = np.fft.irfft2(spectrum)
    return np.asarray(np.clip(128 + 45 * field / field.std(), 0, 255), np.uint8)


def warped_vrt(dataset: rasterio.io.DatasetReader) -> Method:
    half_m = CHIP_PX * CHIP_GSD_M / 2
    transform = Affine(CHIP_GSD_M, 0, -half_m, 0, -CHIP_GSD_M, half_m)

    def cut(latlon_deg: tuple[float, float]) -> NDArray[np.uint8]:
        options = {"transform": transform, "width": CHIP_PX, "height": CHIP_PX, "resampling": Resampling.bilinear}
        with WarpedVRT(dataset, crs=aeqd(latlon_deg), **options) as vrt:
            return np.asarray(vrt.read())

    return cut


def decimated_reproject(dataset: rasterio.io.DatasetReader) -> Method:
    half_m = CHIP_PX * CHIP_GSD_M / 2
    transform = Affine(CHIP_GSD_M, 0, -half_m, 0, -CHIP_GSD_M, half_m)
    to_utm = pyproj.Transformer.from_crs("OGC:CRS84", CRS, always_xy=True)

    def cut(latlon_deg: tuple[float, float]) -> NDArray[np.uint8]:
        x_m, y_m = to_utm.transform(latlon_deg[1], latlon_deg[0])
        reach_m = half_m * 1.1  # grid north and true north differ
        columns = ((x_m - reach_m - LEFT_M) / GSD_M, (x_m + reach_m - LEFT_M) / GSD_M)
        rows = ((TOP_M - y_m - reach_m) / GSD_M, (TOP_M - y_m + reach_m) / GSD_M)
        step = int(CHIP_GSD_M / GSD_M)
        left, top = (int(low // step) * step for low in (columns[0], rows[0]))
        size = int(np.ceil(2 * reach_m / CHIP_GSD_M)) + 1
        read = dataset.read(window=Window(left, top, size * step, size * step), out_shape=(3, size, size))
        source_transform = Affine(CHIP_GSD_M, 0, LEFT_M + left * GSD_M, 0, -CHIP_GSD_M, TOP_M - top * GSD_M)
        out = np.zeros((3, CHIP_PX, CHIP_PX), np.uint8)
        options = {"src_crs": CRS, "dst_crs": aeqd(latlon_deg), "dst_transform": transform}
        reproject(read, out, src_transform=source_transform, resampling=Resampling.bilinear, **options)
        return out

    return cut


def aeqd(latlon_deg: tuple[float, float]) -> str:
    return f"+proj=aeqd +lat_0={latlon_deg[0]:.9f} +lon_0={latlon_deg[1]:.9f} +datum=WGS84 +units=m"


def ours(source: tiles.ImagerySource) -> Method:
    def cut(latlon_deg: tuple[float, float]) -> NDArray[np.uint8]:
        return np.moveaxis(source.chip(latlon_deg, size_px=CHIP_PX, gsd_m=CHIP_GSD_M).pixels, -1, 0)

    return cut


def random_places(size_px: int, count: int, seed: int) -> list[tuple[float, float]]:
    margin_m = CHIP_PX * CHIP_GSD_M
    x_m, y_m = np.random.default_rng(seed).uniform(margin_m, size_px * GSD_M - margin_m, (2, count))
    to_lonlat = pyproj.Transformer.from_crs(CRS, "OGC:CRS84", always_xy=True)
    lon, lat = to_lonlat.transform(LEFT_M + x_m, TOP_M - y_m)
    return list(zip(lat.tolist(), lon.tolist(), strict=True))


def compare(cog: Path, places: list[tuple[float, float]], cache_mb: int) -> dict[str, Any]:
    with (
        rasterio.Env(GDAL_CACHEMAX=cache_mb << 20),
        rasterio.open(cog) as first,
        rasterio.open(cog) as second,
        rasterio.open(cog, overview_level=OVERVIEW) as third,
    ):
        methods = {
            "ours": ours(tiles.open_source(cog)),
            "warped_vrt": warped_vrt(first),
            "warped_vrt_on_overview": warped_vrt(third),
            "reproject": decimated_reproject(second),
        }
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        differences = []
        for number, place in enumerate(places):
            names = list(methods)
            chips = {}
            first_name = number % len(names)
            for name in names[first_name:] + names[:first_name]:
                start = time.perf_counter()
                chips[name] = methods[name](place)
                seconds[name].append(time.perf_counter() - start)
            differences.append(float(np.abs(chips["ours"].astype(int) - chips["warped_vrt_on_overview"]).mean()))
    median_ms = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    mean_ms = {name: statistics.fmean(times) * 1e3 for name, times in seconds.items()}
    return {
        "cache_mb": cache_mb,
        "median_ms": median_ms,
        "mean_ms": mean_ms,
        "speed_over_warped_vrt": median_ms["warped_vrt"] / median_ms["ours"],
        "speed_over_warped_vrt_on_overview": median_ms["warped_vrt_on_overview"] / median_ms["ours"],
        "speed_over_reproject": median_ms["reproject"] / median_ms["ours"],
        "mean_difference_from_warped_vrt_on_overview_levels": statistics.fmean(differences),
    }


def per_second(work: Callable[[int], object], count: int, threads: int) -> tuple[float, float]:
    """Return calls a second where each thread does `count` of them: the first time, and the same once more.

    Handles and blocks belong to a thread: the first time includes decoding, the second none of it.
    """
    gate = threading.Barrier(threads + 1)

    def series(first: int) -> None:
        work(first)
        for _ in range(2):
            gate.wait()
            for number in range(first, first + count):
                work(number)
            gate.wait()

    rates = []
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(series, thread * count) for thread in range(threads)]
        for _ in range(2):
            gate.wait()
            start = time.perf_counter()
            gate.wait()
            rates.append(threads * count / (time.perf_counter() - start))
        for each in running:
            each.result()
    return rates[0], rates[1]


def scaling(cog: Path, places: list[tuple[float, float]], rounds: int) -> dict[str, Any]:
    """Return chips a second for 1 to all cores, beside what the machine gives to pure C that holds no lock."""
    source = tiles.open_source(cog)
    payload = np.random.default_rng(0).integers(0, 64, 200_000, dtype=np.uint8).tobytes()
    cores = len(os.sched_getaffinity(0))
    counts = sorted({1, 2, cores})

    def cut(number: int) -> object:
        return source.chip(places[number % len(places)], size_px=CHIP_PX, gsd_m=CHIP_GSD_M)

    def compress(_: int) -> object:
        return zlib.compress(payload, 6)

    rates: dict[str, dict[int, list[float]]] = {
        name: {n: [] for n in counts} for name in ("decoding", "decoded_before", "zlib")
    }
    for _ in range(rounds):
        for threads in counts:
            first, again = per_second(cut, len(places), threads)
            rates["decoding"][threads].append(first)
            rates["decoded_before"][threads].append(again)
            rates["zlib"][threads].append(per_second(compress, 60, threads)[0])
    report: dict[str, Any] = {"cores": cores}
    for name, by_threads in rates.items():
        median = {n: statistics.median(values) for n, values in by_threads.items()}
        report[name] = {"per_s": median, "share_of_linear": median[cores] / median[1] / cores}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size_px", type=int, default=20_000)
    parser.add_argument("--chips", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cog = make_cog(Path(folder), args.size_px)
        print(f"made {cog.stat().st_size / 1e6:.0f} MB in {time.perf_counter() - start:.0f} s", flush=True)
        places = random_places(args.size_px, args.chips, seed=1)
        result = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "cpu": cpu_model(),
            "versions": {
                "python": platform.python_version(), "numpy": np.__version__, "rasterio": rasterio.__version__,
                "gdal": rasterio.__gdal_version__, "pyproj": pyproj.__version__,
            },
            "raster": {"size_px": args.size_px, "gsd_m": GSD_M, "compression": "JPEG", "crs": CRS},
            "chip": {"size_px": CHIP_PX, "gsd_m": CHIP_GSD_M, "count": args.chips},
            "cached": compare(cog, places, cache_mb=512),
            "uncached": compare(cog, places[: args.chips // 3], cache_mb=4),
            "threads": scaling(cog, places[:300], args.rounds),
        }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
