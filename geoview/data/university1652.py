"""University-1652: buildings of universities, seen by drones and satellites (Zheng et al., ACM Multimedia 2020)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from geoview.data.missing import MAX_MISSING_SHARE
from geoview.data.pairs import PairTable
from geoview.data.published import Copy
from geoview.errors import DatasetError

__all__ = ["PAGE", "load"]

PAGE = "github.com/layumi/University1652-Baseline"

_FOLDERS = {
    "train": ("train/drone", "train/satellite"),
    "drone_to_satellite": ("test/query_drone", "test/gallery_satellite"),
    "satellite_to_drone": ("test/query_satellite", "test/gallery_drone"),
}
_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")


def load(
    root: Path,
    split: Literal["train", "drone_to_satellite", "satellite_to_drone"],
    *,
    max_missing_share: float = MAX_MISSING_SHARE,
) -> PairTable:
    """Reads University-1652; a place is a building, and a query's positive is the first picture of its building.

    Args:
        root: Folder with `train/` and `test/`.
        split: For training, buildings that only one side shows are left out; the galleries of the tests keep buildings
            that nobody asks for.
        max_missing_share: Share of the queries whose building the gallery may lack; they are left out.

    Raises:
        DatasetError: A folder, or of a greater share of the queries the building in the gallery, is missing.
    """
    copy = Copy(root, "University-1652", PAGE, max_missing_share)
    query_folder, reference_folder = _FOLDERS[split]
    queries, references = _pictures(copy, query_folder), _pictures(copy, reference_folder)
    shown = {picture.building for picture in references}
    gone = [[] if q.building in shown else [f"{reference_folder}/{q.building:04d}"] for q in queries]
    queries = [queries[i] for i in np.flatnonzero(copy.kept(gone))]
    if split == "train":
        asked = {picture.building for picture in queries}
        references = [picture for picture in references if picture.building in asked]
    place = np.array([picture.building for picture in queries])
    reference_place = np.array([picture.building for picture in references])
    return PairTable.of(
        [picture.path for picture in queries],
        [picture.path for picture in references],
        np.searchsorted(reference_place, place),
        place=place,
        reference_place=reference_place,
        name=f"University-1652 {split}",
    )


class _Picture(NamedTuple):
    building: int
    path: str


def _pictures(copy: Copy, folder: str) -> list[_Picture]:
    """Returns all pictures of a side, sorted by building, then by name."""
    found = []
    for building in copy.names(folder):
        if not building.isdecimal():
            raise DatasetError(f"{copy.root / folder / building}: is no building's number; move it elsewhere")
        for name in copy.names(f"{folder}/{building}"):
            if name.lower().endswith(_SUFFIXES):
                found.append(_Picture(int(building), copy.path(f"{folder}/{building}/{name}")))
    if not found:
        raise DatasetError(f"{copy.root / folder}: holds no picture; get {copy.name} as {copy.page} tells")
    return sorted(found)
