"""What machine a benchmark ran on, when, and with what."""

from __future__ import annotations

import os
import platform
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
