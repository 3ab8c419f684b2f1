"""The made-up cities that several benchmarks train on."""

from __future__ import annotations

import os
from pathlib import Path

from geoview.config import RenderDatasetConfig
from geoview.render.datasets import write_dataset


def cities(
    root: Path, *, panoramas: int, size_m: float, tile_px: int | None = None, panorama_px: int | None = None
) -> Path:
    """Makes a data set in VIGOR's layout, unless it is there; returns its folder."""
    write_dataset(
        RenderDatasetConfig(
            "vigor",
            str(root),
            panoramas=panoramas,
            size_m=size_m,
            tile_px=tile_px,
            panorama_px=panorama_px,
            num_workers=os.cpu_count() or 1,
        )
    )
    return root
