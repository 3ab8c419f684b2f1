"""Real photographs: are they read as exiftool reads them, and does `locate` take them all?

    python benchmarks/photos.py --photos ../shared/data/photos --index INDEX

Reads every photo below --photos with `geoview.data.photos.read_metadata` and with exiftool, which has to be installed,
and counts, field by field, where they agree; positions count as equal within 1e-9 degrees, a tenth of a millimetre.
Then runs `geoview locate` on the folder against an index of any other place, and counts answers and distances.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from geoview.data.exif import PhotoMetadata
from geoview.data.photos import read_metadata
from geoview.data.queries import find_queries

FIELDS = ("lat", "lon", "orientation", "heading", "time")
TAGS = (
    "-Composite:GPSLatitude",
    "-Composite:GPSLongitude",
    "-IFD0:Orientation",
    "-GPS:GPSImgDirection",
    "-ExifIFD:DateTimeOriginal",
    "-ExifIFD:SubSecTimeOriginal",
    "-ExifIFD:OffsetTimeOriginal",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos, searched recursively")
    parser.add_argument("--index", type=Path, required=True, help="an index that does not cover the photos")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "photos.json")
    args = parser.parse_args()
    paths = [Path(query.path) for query in find_queries([args.photos])]

    start_s = time.perf_counter()
    ours = [_ours(read_metadata(path)) for path in paths]
    geoview_s = time.perf_counter() - start_s
    theirs = [_theirs(report) for report in _exiftool(paths)]

    counts = {field: Counter(equal=0, both_absent=0, different=0) for field in FIELDS}
    differences = []
    for path, mine, other in zip(paths, ours, theirs, strict=True):
        for field in FIELDS:
            verdict = _verdict(mine[field], other[field])
            counts[field][verdict] += 1
            if verdict == "different":
                name = path.relative_to(args.photos).as_posix()
                differences.append(
                    {"photo": name, "field": field, "geoview": str(mine[field]), "exiftool": str(other[field])}
                )
    result = {
        "photos": len(paths),
        "exiftool_version": subprocess.run(
            ["exiftool", "-ver"], check=True, capture_output=True, text=True
        ).stdout.strip(),
        "tolerance_deg": 1e-9,
        "fields": counts,
        "differences": differences,
        "geoview_ms_per_photo": round(1000 * geoview_s / len(paths), 2),
        "locate": _located(args.photos, args.index),
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")

    print(f"{len(paths)} photos, exiftool {result['exiftool_version']}")
    for field, count in counts.items():
        print(f"{field:12}", *(f"{verdict.replace('_', ' ')} {number:4} " for verdict, number in count.items()))
    print(result["locate"])
    for difference in differences:
        print(difference, file=sys.stderr)
    return 1 if differences else 0


def _located(photos: Path, index: Path) -> dict[str, Any]:
    """Runs the command as an analyst does."""
    command = [sys.executable, "-m", "geoview", "locate", str(photos), "--index", str(index), "--top_k", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    first = [row for row in rows if row["rank"] == "1"]
    distances_km = [float(row["exif_distance_m"]) / 1000 for row in first if row["exif_distance_m"]]
    return {
        "exit_code": done.returncode,
        "ok": len(first),
        "failed": sum(row["status"] == "failed" for row in rows),
        "with_exif_distance": len(distances_km),
        "nearest_exif_distance_km": round(min(distances_km)),
        "calibration": sorted({row["calibration"] for row in rows}),
    }


def _exiftool(paths: list[Path]) -> list[dict[str, Any]]:
    command = ["exiftool", "-n", "-json", *TAGS, *map(str, paths)]
    found: list[dict[str, Any]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def _ours(metadata: PhotoMetadata) -> dict[str, Any]:
    lat_deg, lon_deg = metadata.latlon_deg or (None, None)
    return {
        "lat": lat_deg,
        "lon": lon_deg,
        "orientation": metadata.orientation,
        "heading": metadata.heading_deg,
        "time": metadata.captured_at,
    }


def _theirs(report: dict[str, Any]) -> dict[str, Any]:
    taken = report.get("DateTimeOriginal")
    if taken:
        day, clock = taken.split()
        fraction = f".{report['SubSecTimeOriginal']}" if "SubSecTimeOriginal" in report else ""
        taken = datetime.fromisoformat(
            f"{day.replace(':', '-')}T{clock}{fraction}{report.get('OffsetTimeOriginal', '')}"
        )
    return {
        "lat": report.get("GPSLatitude"),
        "lon": report.get("GPSLongitude"),
        "orientation": report.get("Orientation", 1),  # what the tag's absence means
        "heading": report.get("GPSImgDirection"),
        "time": taken,
    }


def _verdict(mine: Any, other: Any) -> str:
    if mine is None and other is None:
        return "both_absent"
    if isinstance(mine, float) and isinstance(other, int | float):
        return "equal" if abs(mine - other) <= 1e-9 else "different"
    return "equal" if mine == other else "different"


if __name__ == "__main__":
    sys.exit(main())
