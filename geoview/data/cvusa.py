"""CVUSA: panoramas and satellite pictures from all over the United States, paired one to one.

The 44,416 pairs of the CVPR subset (Workman et al., ICCV 2015; Zhai et al., CVPR 2017). Its panoramas are turned so
that north is in their middle (Shi et al., SAFA, NeurIPS 2019).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoview.data.missing import MAX_MISSING_SHARE
from geoview.data.pairs import PairTable
from geoview.data.published import Copy, numbered_lines
from geoview.errors import DatasetError

__all__ = ["PAGE", "load"]

PAGE = "mvrl.cse.wustl.edu/datasets/cvusa"

# What papers call the test set is the published validation list.
_LISTS = {"train": "splits/train-19zl.csv", "test": "splits/val-19zl.csv"}
_LOCATIONS = ("split_locations/all.csv", "all.csv")


def load(root: Path, split: Literal["train", "test"], *, max_missing_share: float = MAX_MISSING_SHARE) -> PairTable:
    """Reads CVUSA; a pair's place is its id, coordinates are known where the copy has `all.csv`.

    Args:
        root: Folder with `bingmap/`, `streetview/` and `splits/`.
        split: Which list.
        max_missing_share: Share of the pairs that may lack an image; they are left out.

    Raises:
        DatasetError: A file, or of a greater share of the pairs an image, is missing, or a list cannot be read.
    """
    copy = Copy(root, "CVUSA", PAGE, max_missing_share)
    path = root / copy.find(_LISTS[split])
    references, queries, ids = zip(*(_pair(path, *line) for line in numbered_lines(path)), strict=True)
    moved = {folder: _folder_on_disk(copy, folder) for folder in {_parted(name)[0] for name in references}}
    references = tuple(f"{moved[folder]}/{name}" for folder, name in map(_parted, references))
    whole = np.flatnonzero(copy.complete(queries, references))
    place = np.array(ids)[whole]
    query_latlon_deg, reference_latlon_deg = _locations(copy, place)
    return PairTable.of(
        [copy.path(queries[i]) for i in whole],
        [copy.path(references[i]) for i in whole],
        latlon_deg=query_latlon_deg,
        reference_latlon_deg=reference_latlon_deg,
        heading_deg=0.0,
        fov_deg=360.0,
        place=place,
        reference_place=place,
        name=f"CVUSA {split}",
    )


def _pair(path: Path, number: int, line: str) -> tuple[str, str, int]:
    """Parses (satellite, panorama, id); the third column, an annotation, is not used."""
    try:
        satellite, panorama, _ = line.strip().split(",")
        return satellite, panorama, int(Path(satellite).stem)
    except ValueError as error:
        raise DatasetError(
            f"{path}:{number}: {line.strip()[:80]!r} is not 'satellite,panorama,annotation' with the satellite "
            "picture named by a number; get the list again"
        ) from error


def _parted(name: str) -> tuple[str, str]:
    folder, _, file = name.rpartition("/")
    return folder, file


def _folder_on_disk(copy: Copy, folder: str) -> str:
    """One public copy has `bingmap/` twice, which its lists and its folders need not share."""
    other = folder.removeprefix("bingmap/") if folder.startswith("bingmap/bingmap/") else f"bingmap/{folder}"
    return copy.find(folder, other)


def _locations(copy: Copy, ids: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns (N, 2) positions of panoramas and of satellite pictures: line i of `all.csv` is that of id i."""
    path = next((copy.root / name for name in _LOCATIONS if (copy.root / name).exists()), None)
    if path is None:
        return np.full((len(ids), 2), np.nan), np.full((len(ids), 2), np.nan)
    of_id = {}
    for number, line in numbered_lines(path):
        try:
            satellite_lat, satellite_lon, lat, lon = map(float, line.split(",")[:4])
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: {line.strip()[:80]!r} does not start with four numbers") from error
        if not all(abs(v) <= most for v, most in ((satellite_lat, 90), (lat, 90), (satellite_lon, 180), (lon, 180))):
            raise DatasetError(f"{path}:{number}: {line.strip()[:80]!r} is no latitude and longitude twice, in degrees")
        of_id[number] = (lat, lon), (satellite_lat, satellite_lon)
    unknown = [i for i in ids.tolist() if i not in of_id]
    if unknown:
        raise DatasetError(f"{path}: has no line {unknown[0]}, which would place the pair of that id; get it again")
    both = np.array([of_id[i] for i in ids.tolist()])
    return both[:, 0], both[:, 1]
