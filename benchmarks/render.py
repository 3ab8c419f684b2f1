"""Rendering street panoramas: how many a second, on one core and on all, against plain ray marching.

A procedural region is photographed from random places with panoramas of 256 x 64 px, as lessons for encoders are. The
peers see the same scene from the same places with the same samples along each ray, in the same run, and shade more
cheaply: colours from the map, no shadows, no facades, no grain. One marches ray by ray, as one would write it first;
the other marches all rays of a picture at once. How often their hits are ours stands beside their speed.

What bounds it is shown by two limits of the machine: how many random reads of the map NumPy does a second, and how much
faster processes copy memory together than one does alone.

    python benchmarks/render.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# One thread a process: what is counted is cores.
os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})

import numpy as np
from machine import circumstances
from numpy.typing import NDArray

from geoview.render.camera import Camera, Panorama, cast
from geoview.render.scene import Cover, Scene
from geoview.render.shading import render
from geoview.render.sky import Light
from geoview.render.world import TRAINING_STYLES, make_world

RESULTS = Path(__file__).parent / "results" / "render.json"
PANORAMA = Panorama(256, 64)
RANGE_M = 100.0
# As far apart as the samples of the renderer: 0.5 m, and 2 % of the distance where that is more.
NEAREST_M, STEP_M, STEP_GROWTH = 0.5, 0.5, 0.02
CROWN_BASE, HEDGE_M = 0.3, 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", default=TRAINING_STYLES[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size_m", type=float, default=1500.0)
    parser.add_argument("--panoramas", type=int, default=200, help="of each process and round")
    parser.add_argument("--peer_panoramas", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs="+", default=sorted({1, 2, len(os.sched_getaffinity(0))}))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    scene = make_world(arguments.style, arguments.seed, size_m=(arguments.size_m,) * 2).state(0).scene()
    _ = scene.trunks, scene.buildings  # found once a scene
    cameras, lights = views(scene, 256)
    result = {
        "what": "street panoramas of 256 x 64 px rendered a second; peers shade more cheaply",
        "style": arguments.style,
        "seed": arguments.seed,
        "scene_px": list(scene.grid.shape),
        "range_m": RANGE_M,
        "cover": {kind.name.lower(): round(float(np.mean(scene.cover == kind)), 4) for kind in Cover},
        "one_core": one_core(scene, cameras, lights, arguments.peer_panoramas),
        "processes": scaling(scene, cameras, lights, arguments),
        "bound": bound(scene, cameras, lights),
        **circumstances("one thread a process"),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def views(scene: Scene, n: int) -> tuple[list[Camera], list[Light]]:
    """Returns cameras at random places where one may stand, each with a light of its own."""
    rng = np.random.default_rng(0)
    margin_px = int(np.ceil(RANGE_M / scene.grid.gsd_m)) + 1
    inside = np.zeros(scene.grid.shape, np.bool_)
    inside[margin_px:-margin_px, margin_px:-margin_px] = True
    places = rng.permutation(np.argwhere(scene.standing & inside))[:n]
    cameras = [
        Camera(
            xy_m=(float(column + 0.5) * scene.grid.gsd_m, float(row + 0.5) * scene.grid.gsd_m),
            heading_deg=float(rng.uniform(0, 360)),
            projection=PANORAMA,
            pitch_deg=float(rng.normal(0, 0.7)),
            roll_deg=float(rng.normal(0, 0.7)),
            range_m=RANGE_M,
        )
        for row, column in places
    ]
    lights = [
        Light(float(rng.uniform(0, 360)), float(rng.uniform(15, 60)), float(rng.uniform(0, 1)), sky_seed=i)
        for i in range(len(cameras))
    ]
    return cameras, lights


# -- against peers -----------------------------------------------------------------------------------------------------


def one_core(scene: Scene, cameras: list[Camera], lights: list[Light], n: int) -> dict[str, Any]:
    """Measures ours and the peers in turn, picture by picture, so that noise from other jobs hits all of them alike."""
    # Level cameras: then rows and elevations are the same thing for all, and hits can be compared.
    level = [replace(camera, pitch_deg=0.0, roll_deg=0.0) for camera in cameras[:n]]
    methods: dict[str, Callable[[int], Any]] = {
        "ours": lambda i: render(scene, level[i], lights[i]),
        "ray by ray": lambda i: shaded(scene, level[i], lights[i], march_each_ray),
        "all rays at once": lambda i: shaded(scene, level[i], lights[i], march_all_rays),
        "hits of ours": lambda i: cast(scene, level[i]),
        "hits of ray by ray": lambda i: march_each_ray(scene, level[i]),
        "hits of all rays at once": lambda i: march_all_rays(scene, level[i]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    agreement: list[float] = []
    methods["ours"](0)
    for i in range(len(level)):
        for name, method in methods.items():
            start = time.perf_counter()
            method(i)
            seconds[name].append(time.perf_counter() - start)
        hits = cast(scene, level[i])
        distance, _ = march_each_ray(scene, level[i])
        agreement.append(float(np.mean(same(hits.distance_m, distance))))
        if not np.array_equal(distance, march_all_rays(scene, level[i])[0]):
            raise AssertionError("the two peers differ")
    per_s = {name: 1 / statistics.median(times) for name, times in seconds.items()}
    return {
        "panoramas": len(level),
        "panoramas_per_s": {name: round(per_s[name], 2) for name in methods if "hits" not in name},
        "ms_finding_hits": {
            name.removeprefix("hits of "): round(1e3 / per_s[name], 2) for name in methods if "hits" in name
        },
        "speed_over_ray_by_ray": round(per_s["ours"] / per_s["ray by ray"], 1),
        "speed_over_all_rays_at_once": round(per_s["ours"] / per_s["all rays at once"], 1),
        "share_of_rays_that_end_within_a_step_of_the_peers": round(statistics.fmean(agreement), 4),
        "peers_shade": "colour of the map at the hit, sky and haze; no shadows, facades, leaves or grain",
    }


def same(ours_m: NDArray[np.float32], theirs_m: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tells which rays end at the same distance, within a step of the samples and half a map pixel, or both nowhere."""
    nowhere = np.isinf(ours_m) & np.isinf(theirs_m)
    with np.errstate(invalid="ignore"):
        return nowhere | (np.abs(ours_m - theirs_m) <= STEP_M + STEP_GROWTH * theirs_m + 0.25)


def samples_m() -> NDArray[np.float64]:
    distances = [NEAREST_M]
    while distances[-1] < RANGE_M - STEP_M:
        distances.append(min(RANGE_M, distances[-1] + max(STEP_M, STEP_GROWTH * distances[-1])))
    return np.array(distances)


Hit = tuple[NDArray[np.float64], NDArray[np.intp]]


def march_each_ray(scene: Scene, camera: Camera) -> Hit:
    """Marches ray by ray, NumPy along each: (H, W) distance, inf where nothing is met, and pixel of the map."""
    azimuth, rise, eye_m, distances = *rays(scene, camera), samples_m()
    gsd_m, columns = scene.grid.gsd_m, scene.grid.shape[1]
    surface, terrain, cover = scene.surface_m.ravel(), scene.terrain_m.ravel(), scene.cover.ravel()
    trunks = scene.trunks.ravel()
    found, where = np.full((len(rise), len(azimuth)), np.inf), np.zeros((len(rise), len(azimuth)), np.intp)
    for row in range(len(rise)):
        for column in range(len(azimuth)):
            x = camera.xy_m[0] + distances * np.sin(azimuth[column])
            y = camera.xy_m[1] - distances * np.cos(azimuth[column])
            at = (y / gsd_m).astype(np.intp) * columns + (x / gsd_m).astype(np.intp)
            z = eye_m + rise[row] * distances
            stops = stopped(z, surface[at], terrain[at], cover[at], trunks[at])
            first = int(np.argmax(stops))
            if stops[first]:
                found[row, column], where[row, column] = distances[first], at[first]
    return found, where


def march_all_rays(scene: Scene, camera: Camera) -> Hit:
    """Marches all rays of a picture at once: every ray reads the map for itself."""
    azimuth, rise, eye_m, distances = *rays(scene, camera), samples_m()
    gsd_m, columns = scene.grid.gsd_m, scene.grid.shape[1]
    every_azimuth, every_rise = (a.ravel()[:, None] for a in np.meshgrid(azimuth, rise))
    x = camera.xy_m[0] + distances * np.sin(every_azimuth)
    y = camera.xy_m[1] - distances * np.cos(every_azimuth)
    at = (y / gsd_m).astype(np.intp) * columns + (x / gsd_m).astype(np.intp)
    z = eye_m + every_rise * distances
    maps = scene.surface_m, scene.terrain_m, scene.cover, scene.trunks
    stops = stopped(z, *(m.ravel()[at] for m in maps))
    first = np.argmax(stops, axis=1)
    every = np.arange(len(first))
    met, shape = stops[every, first], (len(rise), len(azimuth))
    found = np.where(met, distances[first], np.inf)
    return found.reshape(shape), np.where(met, at[every, first], 0).reshape(shape)


def rays(scene: Scene, camera: Camera) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Returns azimuths from grid north (W,), tangents of elevations (H,) and the height of the eye."""
    width, height = PANORAMA.width_px, PANORAMA.height_px
    turn_rad = np.radians(camera.heading_deg - scene.grid.convergence_deg)
    azimuth = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi + turn_rad
    elevation_deg = (0.5 - (np.arange(height) + 0.5) / height) * PANORAMA.vertical_fov_deg
    x, y = (int(v / scene.grid.gsd_m) for v in camera.xy_m)
    return azimuth, np.tan(np.radians(elevation_deg)), float(scene.surface_m[y, x]) + camera.eye_m


def stopped(
    z: NDArray[Any], top: NDArray[Any], terrain: NDArray[Any], cover: NDArray[Any], trunk: NDArray[Any]
) -> NDArray[np.bool_]:
    """Tells where a ray at height z is inside something: free are the air and what is below a crown, but its trunk."""
    tall = top - terrain
    below_crown = (cover == Cover.CANOPY) & (tall > HEDGE_M) & (z < terrain + CROWN_BASE * tall) & ~trunk
    return np.asarray(np.where(below_crown, z < terrain, z < top))


def shaded(scene: Scene, camera: Camera, light: Light, march: Callable[[Scene, Camera], Hit]) -> NDArray[np.uint8]:
    azimuth, rise, _ = rays(scene, camera)
    distance, at = march(scene, camera)
    colour = light.far(*np.meshgrid(azimuth.astype(np.float32), rise.astype(np.float32)))
    clear = np.where(np.isfinite(distance), np.exp(-np.minimum(distance, 1e6) / light.haze_m), 0.0)[..., None]
    lit = colour + (scene.texture.reshape(-1, 3)[at] / 255.0 - colour) * clear
    return np.clip(lit * 255, 0, 255).astype(np.uint8)


# -- over processes ----------------------------------------------------------------------------------------------------


def scaling(scene: Scene, cameras: list[Camera], lights: list[Light], arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns panoramas a second over processes, beside gigabytes of memory that they copy a second."""
    source = np.random.default_rng(0).integers(0, 256, 64 << 20, np.uint8)
    target = np.empty_like(source)

    def draw(i: int) -> None:
        render(scene, cameras[i % len(cameras)], lights[i % len(lights)])

    def copy(_: int) -> None:
        np.copyto(target, source)

    work = {"panoramas": (draw, arguments.panoramas, 1.0), "copied_gb": (copy, 40, source.nbytes / 1e9)}
    rates: dict[str, dict[int, list[float]]] = {name: {n: [] for n in arguments.processes} for name in work}
    for _ in range(arguments.rounds):
        for n in arguments.processes:
            for name, (job, count, unit) in work.items():
                rates[name][n].append(unit * per_second(job, count, n))
    report = {}
    for name, by_processes in rates.items():
        median = {n: statistics.median(values) for n, values in by_processes.items()}
        least, most = min(median), max(median)
        report[name] = {
            "per_s": {str(n): round(value, 1) for n, value in median.items()},
            "spread": {str(n): [round(min(values), 1), round(max(values), 1)] for n, values in by_processes.items()},
            "share_of_linear": round(median[most] / median[least] * least / most, 3),
        }
    return report


def per_second(job: Callable[[int], None], count: int, processes: int) -> float:
    """Returns calls a second where each of so many processes does `count` of them, all at the same time."""
    context = get_context("fork")  # so that all share the scene
    gate, spans = context.Barrier(processes), context.SimpleQueue()

    def work(first: int) -> None:
        job(first)
        gate.wait()
        start = time.perf_counter()
        for i in range(first, first + count):
            job(i)
        spans.put((start, time.perf_counter()))

    running = [context.Process(target=work, args=(number * count,)) for number in range(processes)]
    for each in running:
        each.start()
    times = [spans.get() for _ in running]
    for each in running:
        each.join()
    # The clock is the system's, the same in all processes.
    return float(processes * count / (max(end for _, end in times) - min(start for start, _ in times)))


# -- what bounds it ----------------------------------------------------------------------------------------------------


def bound(scene: Scene, cameras: list[Camera], lights: list[Light]) -> dict[str, Any]:
    """Parts the time of a panorama, and compares the reads of its profiles with the machine's rate of such reads."""
    distances = samples_m()
    azimuth = np.arange(PANORAMA.width_px) * 2 * np.pi / PANORAMA.width_px
    maps = scene.surface_m, scene.terrain_m, scene.cover, scene.trunks
    cast_s, render_s, read_s = [], [], []
    for camera, light in zip(cameras[:100], lights, strict=False):
        start = time.perf_counter()
        cast(scene, camera)
        middle = time.perf_counter()
        render(scene, camera, light)
        end = time.perf_counter()
        cast_s.append(middle - start)
        render_s.append(end - middle)
        x = camera.xy_m[0] + distances[:, None] * np.sin(azimuth)
        y = camera.xy_m[1] - distances[:, None] * np.cos(azimuth)
        at = (y / scene.grid.gsd_m).astype(np.int32) * scene.grid.shape[1] + (x / scene.grid.gsd_m).astype(np.int32)
        start = time.perf_counter()
        for each in maps:
            each.ravel()[at]
        read_s.append(time.perf_counter() - start)
    reads = len(maps) * len(distances) * len(azimuth)
    whole, found, read = (statistics.median(s) for s in (render_s, cast_s, read_s))
    return {
        "ms_a_panorama": round(whole * 1e3, 2),
        "ms_finding_hits": round(found * 1e3, 2),
        "ms_shading": round((whole - found) * 1e3, 2),
        "reads_of_the_map_for_profiles": reads,
        "reads_if_each_ray_read_for_itself": reads * PANORAMA.height_px,
        "million_reads_per_s_of_this_machine": round(reads / read / 1e6, 1),
        "share_of_time_in_those_reads": round(read / whole, 3),
    }


if __name__ == "__main__":
    main()
