"""What machine a benchmark ran on, when, and with what; and results of several machines in one file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def circumstances(note: str = "") -> dict[str, Any]:
    """Returns what a result tells of where, when and with what it was measured.

    Args:
        note: What else matters, such as the number of threads.
    """
    machine = f"{cpu_model()}, {os.cpu_count()} cores"
    return {
        "machine": f"{machine}, {note}" if note else machine,
        "load": [round(each, 1) for each in os.getloadavg()],
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy")},
    }


def cpu_model() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def keep(result: dict[str, Any], path: Path, alike: Sequence[str]) -> None:
    """Writes a result to a list of them, in place of the one that is the same in what is named by these keys."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    others = [row for row in before if any(row[key] != result[key] for key in alike)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*others, result], indent=1) + "\n", encoding="utf-8")
