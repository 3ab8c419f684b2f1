"""How fast coordinates become S2 cell ids, against s2sphere on the same points, one thread each.

python benchmarks/cells.py [--n 1000000] [--out benchmarks/results/cells.json]
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import time
from pathlib import Path

import numpy as np
import s2sphere
from machine import cpu_model

from geoview.geo.cells import cell_ids

LEVEL = 16
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000, help="number of points")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cells.json"))
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    lat_deg = np.rad2deg(np.arcsin(rng.uniform(-1.0, 1.0, args.n)))
    latlon_deg = np.column_stack([lat_deg, rng.uniform(-180.0, 180.0, args.n)])

    ours_s = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        ids = cell_ids(latlon_deg, LEVEL)
        ours_s.append(time.perf_counter() - start)

    points = latlon_deg.tolist()
    from_degrees, from_lat_lng = s2sphere.LatLng.from_degrees, s2sphere.CellId.from_lat_lng
    start = time.perf_counter()
    expected = [from_lat_lng(from_degrees(lat, lon)).parent(LEVEL).id() for lat, lon in points]
    theirs_s = time.perf_counter() - start
    if ids.tolist() != expected:
        raise SystemExit("ids differ from s2sphere's")

    # The median of ours against one run of theirs: it is long enough to average the machine's noise by itself.
    rate, reference_rate = args.n / float(np.median(ours_s)), args.n / theirs_s
    result = {
        "what": f"lat/lon to S2 cell ids of level {LEVEL}, single thread; all ids equal to s2sphere's",
        "points": args.n,
        "geoview_ids_per_s": round(rate),
        "geoview_s": [round(each, 4) for each in ours_s],
        "s2sphere_ids_per_s": round(reference_rate),
        "s2sphere_s": round(theirs_s, 3),
        "ratio": round(rate / reference_rate, 1),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "s2sphere": importlib.metadata.version("s2sphere"),
        "cpu": cpu_model(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"geoview {rate / 1e6:.2f} M/s, s2sphere {reference_rate / 1e6:.3f} M/s: {result['ratio']} times as fast")


if __name__ == "__main__":
    main()
