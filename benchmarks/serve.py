"""What the service adds to the encoder: latency and throughput for 1, 8 and 32 clients, memory; made-up requests.

python benchmarks/serve.py --work DIR [--seconds 20 --requests 10000]
python benchmarks/serve.py --work DIR --schemathesis [--cases 5000]

A made-up region is rendered and indexed with two encoders: the shipped one, which looks at a photo in 48 ways, and a
small network with weights drawn, which takes so little time that the service itself is what is measured; memory is told
of that one. The service runs as a process of its own, and clients in another ask it over loopback, a photo a request.
Beside them stands the rate at which the same photos are embedded in a process that does nothing else. The second call
has schemathesis make up requests from the service's description, and counts answers of 500 and above and those that
are not as described.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from machine import cpu_model

import tiles
from geoview.config import AerialView, BuildConfig, GroundView, InferenceConfig
from geoview.data.queries import PhotoQuery, find_queries
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.locate.localizer import Localizer
from geoview.models.encoder import CrossViewEncoder
from geoview.render.region import write_region
from geoview.render.world import make_world

CLIENTS = (1, 8, 32)
# Of the memory, after so many requests and at the end.
SETTLED = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of clients")
    parser.add_argument("--requests", type=int, default=10_000, help="after which memory is told")
    parser.add_argument("--most_s", type=float, default=1200.0, help="for those requests at most")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--schemathesis", action="store_true")
    parser.add_argument("--cases", type=int, default=5_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serve.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    photos = prepared(args.work)
    result: dict[str, Any]
    if args.schemathesis:
        result = {"made_up": made_up(args.work / "small", args)}
    else:
        result = {name: asked(args.work / name, photos, args) for name in ENCODERS}
        result["memory"] = remembered(args.work / "small", photos, args)
    about = {
        "threads": args.threads,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(args.out.read_text()) if args.out.exists() else {}
    args.out.write_text(json.dumps({**before, **result, **about}, indent=1) + "\n")


def prepared(work: Path) -> list[PhotoQuery]:
    """Makes an index with each encoder; returns photos of its region, in memory."""
    place = work / "region"
    if not (place / "region.json").exists():
        world = make_world("european_town", 1, size_m=(700.0, 700.0))
        write_region(world, place, n_panoramas=32, n_perspective=32, seed=1, num_workers=1)
    ortho = place / json.loads((place / "region.json").read_text())["reference"]
    for name in ENCODERS:
        if (work / name / "manifest.json").exists():
            continue
        encoder = ENCODERS[name]()
        folder = encoder.save(work / f"{name}_encoder", overwrite=True)
        config = BuildConfig(encoder=str(folder), imagery=[str(ortho)], out=str(work / name), level=18, device="cpu")
        build_index(encoder, tiles.open_source(config.imagery), None, config.out, config)
    files = [query.path for query in find_queries([place / "photos.csv"])]
    return [PhotoQuery(Path(path).name, content=Path(path).read_bytes()) for path in files]


def small() -> CrossViewEncoder:
    torch.manual_seed(0)
    return CrossViewEncoder(
        "convnext_atto",
        ground=GroundView(width_px=64, height_px=32),
        aerial=AerialView(size_px=32, gsd_m=4.8),
        backbone_args={"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    ).eval()


ENCODERS = {"shipped": lambda: CrossViewEncoder.load("geoview/encoders/demo"), "small": small}


def encoder_rate(index: Path, photos: list[PhotoQuery], seconds: float) -> float:
    """Returns how many photos a second are embedded when nothing else is done."""
    with CellIndex.open(index) as opened:
        localizer = Localizer(opened, InferenceConfig(device="cpu"))
        localizer.embed(photos[:4])
        n, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds:
            localizer.embed(photos[:16])
            n += 16
        return round(n / (time.perf_counter() - start), 2)


@contextmanager
def service(index: Path, threads: int) -> Iterator[tuple[str, int]]:
    """Yields the address of a service, and the number of its process."""
    words = ["serve", "--index", str(index), "--port", "0", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        [sys.executable, "-m", "geoview", *words], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stderr is not None
        yield process.stderr.readline().split()[-1], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def asked(index: Path, photos: list[PhotoQuery], args: argparse.Namespace) -> dict[str, Any]:
    """Measures the encoder alone, and the service for each number of clients."""
    alone = encoder_rate(index, photos, args.seconds)
    with service(index, args.threads) as (url, _):
        asyncio.run(many(url, photos, 4, requests=8, most_s=60.0))  # the first ones open files
        by_clients = {}
        for n in CLIENTS:
            took_s, wall_s = asyncio.run(many(url, photos, n, requests=10**9, most_s=args.seconds))
            by_clients[str(n)] = {
                "requests": len(took_s),
                "photos_per_s": round(len(took_s) / wall_s, 2),
                "p50_ms": round(1000 * float(np.percentile(took_s, 50)), 1),
                "p99_ms": round(1000 * float(np.percentile(took_s, 99)), 1),
            }
    result = {"encoder_photos_per_s": alone, "clients": by_clients}
    print(index.name, json.dumps(result), flush=True)
    return result


def remembered(index: Path, photos: list[PhotoQuery], args: argparse.Namespace) -> dict[str, Any]:
    """Measures the memory of a service that nobody has asked before: what it takes at first is no leak."""
    with service(index, args.threads) as (url, pid):
        asyncio.run(many(url, photos, 8, requests=SETTLED, most_s=args.most_s))
        settled_mb = memory_mb(pid)
        took_s, _ = asyncio.run(many(url, photos, 8, requests=args.requests - SETTLED, most_s=args.most_s))
        result = {"requests": SETTLED + len(took_s), f"mb_after_{SETTLED}": settled_mb, "mb_at_the_end": memory_mb(pid)}
    print(json.dumps(result), flush=True)
    return result


async def many(
    url: str, photos: list[PhotoQuery], n_clients: int, *, requests: int, most_s: float
) -> tuple[list[float], float]:
    """Asks with one photo a request; returns how long each took, and all of them."""
    took_s: list[float] = []
    begun, start = 0, time.perf_counter()

    async def one(client: httpx.AsyncClient) -> None:
        nonlocal begun
        while begun < requests and time.perf_counter() < start + most_s:
            photo, sent = photos[begun % len(photos)], time.perf_counter()
            assert photo.content is not None, "photos are sent as bytes"
            begun += 1
            answer = await client.post("/locate", files={"photos": (photo.path, photo.content)})
            assert answer.json()["answers"][0]["status"] == "ok", answer.text
            took_s.append(time.perf_counter() - sent)

    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=n_clients)) as client:
        await asyncio.gather(*(one(client) for _ in range(n_clients)))
    return took_s, time.perf_counter() - start


def memory_mb(pid: int) -> float:
    """Returns what a process holds in memory of its own (proc(5), smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kept = (line for line in lines if line.startswith(("Private_Dirty:", "Private_Clean:")))
    return round(sum(int(line.split()[1]) for line in kept) / 1024, 1)


def made_up(index: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Counts what is wrong with the answers to requests that schemathesis makes up."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import load_all_checks, not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    load_all_checks()
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    statuses: Counter[int] = Counter()
    failures: Counter[str] = Counter()
    with service(index, args.threads) as (url, _):
        schema: Any = schemathesis.openapi.from_url(f"{url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        rounds = 0
        while sum(statuses.values()) < args.cases:
            rounds += 1
            for operation in operations:
                for mode in schemathesis.GenerationMode:
                    if not (operation.body or operation.path_parameters or operation.query) and (
                        rounds > 1 or mode.is_negative
                    ):
                        continue

                    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
                    @given(case=operation.as_strategy(generation_mode=mode))
                    def ask(case: Any) -> None:
                        if sum(statuses.values()) >= args.cases:
                            return
                        answer = case.call()
                        statuses[answer.status_code] += 1
                        try:
                            case.validate_response(answer, checks=checks)
                        except BaseExceptionGroup as failure:
                            for each in failure.exceptions:
                                failures[
                                    f"{case.method} {case.path}: {type(each).__name__}: {str(each).splitlines()[0]}"
                                ] += 1

                    ask()
    result = {
        "cases": sum(statuses.values()),
        "statuses": {str(status): statuses[status] for status in sorted(statuses)},
        "server_errors": sum(n for status, n in statuses.items() if status >= 500),
        "not_as_described": dict(failures),
    }
    print(json.dumps(result, indent=1))
    return result


if __name__ == "__main__":
    main()
