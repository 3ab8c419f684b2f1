"""CVACT: panoramas and satellite pictures of Canberra, paired one to one (Liu and Li, CVPR 2019).

Panoramas are turned so that north is in their middle (Shi et al., SAFA, NeurIPS 2019).
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from geoview.data.missing import MAX_MISSING_SHARE
from geoview.data.pairs import PairTable
from geoview.data.published import Copy
from geoview.errors import DatasetError

__all__ = ["PAGE", "load"]

PAGE = "github.com/Liumouliu/OriCNN"

_MAT = ("ACT_data.mat", "ANU_data_small/ACT_data.mat")
# Folder of the images, and the field of ACT_data.mat that has the pairs' numbers.
_LISTED = {
    "train": ("ANU_data_small", "trainSet.trainInd"),
    "val": ("ANU_data_small", "valSet.valInd"),
    "val_all": ("ANU_data_test", "valSetAll.valInd"),
}
_QUERY, _REFERENCE = "streetview/{}_grdView.jpg", "satview_polish/{}_satView_polish.jpg"

# What SciPy's reader raises on damaged bytes, and on files of MATLAB 7.3.
_MAT_FAULTS = (OSError, ValueError, TypeError, IndexError, NotImplementedError, MatReadError, zlib.error)

# UTM zone 55 south, and a box around the Australian Capital Territory: south, west, north, east.
_UTM = "EPSG:32755"
_ACT_DEG = (-36.5, 148.0, -34.5, 150.0)


def load(
    root: Path,
    split: Literal["train", "val", "val_all", "test"],
    *,
    max_missing_share: float = MAX_MISSING_SHARE,
) -> PairTable:
    """Reads CVACT; a pair's place is its number in `ACT_data.mat`.

    Args:
        root: Folder with `ANU_data_small/` and `ANU_data_test/`; `ACT_data.mat` lies in either it or the first.
        split: `test` is every pair whose two images are in `ANU_data_test`, as Sample4Geo takes it; it needs no
            `ACT_data.mat`, and without has no coordinates and numbers of its own. `val_all` is OriCNN's test set, the
            same images by the list `valSetAll`.
        max_missing_share: Share of the pairs that may lack an image; they are left out.

    Raises:
        DatasetError: A file, or of a greater share of the pairs an image, is missing, or `ACT_data.mat` cannot be read.
    """
    copy = Copy(root, "CVACT", PAGE, max_missing_share)
    if split == "test":
        folder, panoramas = "ANU_data_test", _panoramas_in(copy, "ANU_data_test")
        place, latlon_deg = _known(copy, panoramas)
    else:
        folder, field = _LISTED[split]
        path = root / copy.find(*_MAT)
        act = _read(path)
        place = _field(path, act, field).astype(np.int64).ravel() - 1
        all_panoramas, all_latlon_deg = _panoramas(path, act)
        if not len(place) or place.min() < 0 or place.max() >= len(all_panoramas):
            raise DatasetError(f"{path}: {field} does not count from 1 to {len(all_panoramas)} panoIds; get it again")
        panoramas, latlon_deg = [all_panoramas[i] for i in place], all_latlon_deg[place]
    queries = [f"{folder}/{_QUERY.format(name)}" for name in panoramas]
    references = [f"{folder}/{_REFERENCE.format(name)}" for name in panoramas]
    whole = np.flatnonzero(copy.complete(queries, references))
    return PairTable.of(
        [copy.path(queries[i]) for i in whole],
        [copy.path(references[i]) for i in whole],
        latlon_deg=latlon_deg[whole],
        reference_latlon_deg=latlon_deg[whole],
        heading_deg=0.0,
        fov_deg=360.0,
        place=place[whole],
        reference_place=place[whole],
        name=f"CVACT {split}",
    )


def _panoramas_in(copy: Copy, folder: str) -> list[str]:
    """Returns the ids that a folder has an image of, sorted."""
    found = set()
    for pattern in (_QUERY, _REFERENCE):
        place, _, ending = f"{folder}/{pattern}".partition("/{}")
        found |= {name.removesuffix(ending) for name in copy.names(place) if name.endswith(ending)}
    if not found:
        raise DatasetError(f"{copy.root / folder}: holds no image; get {copy.name} as {copy.page} tells")
    return sorted(found)


def _known(copy: Copy, panoramas: list[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns the numbers and (N, 2) positions of panoramas that `ACT_data.mat` has; without it, they are made up."""
    if not any((copy.root / name).exists() for name in _MAT):
        return np.arange(len(panoramas)), np.full((len(panoramas), 2), np.nan)
    path = copy.root / copy.find(*_MAT)
    all_panoramas, latlon_deg = _panoramas(path, _read(path))
    number = {name: i for i, name in enumerate(all_panoramas)}
    unknown = [name for name in panoramas if name not in number]
    if unknown:
        raise DatasetError(f"{path}: panoIds lacks {unknown[0]}, which {copy.root / 'ANU_data_test'} has an image of")
    place = np.array([number[name] for name in panoramas])
    return place, latlon_deg[place]


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = loadmat(path, simplify_cells=True)
    except _MAT_FAULTS as error:
        raise DatasetError(f"{path}: cannot be read as a MATLAB file: {error}; get it again") from error
    return content


def _field(path: Path, act: dict[str, Any], name: str) -> NDArray[Any]:
    value: Any = act
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise DatasetError(f"{path}: has no field {name}; get it again, see {PAGE}")
        value = value[part]
    return np.atleast_1d(value)


def _panoramas(path: Path, act: dict[str, Any]) -> tuple[list[str], NDArray[np.float64]]:
    """Returns the names of all panoramas and their (N, 2) positions."""
    panoramas = [str(name).strip() for name in _field(path, act, "panoIds").ravel()]
    utm_m = _field(path, act, "utm").reshape(-1, 2).astype(np.float64)
    if len(utm_m) != len(panoramas):
        raise DatasetError(f"{path}: {len(utm_m)} positions utm for {len(panoramas)} panoIds; get it again")
    lon_deg, lat_deg = Transformer.from_crs(_UTM, "EPSG:4326", always_xy=True).transform(*utm_m.T)
    latlon_deg = np.stack([lat_deg, lon_deg], axis=-1)
    south, west, north, east = _ACT_DEG
    outside = ~((latlon_deg >= (south, west)) & (latlon_deg <= (north, east))).all(axis=1)
    if outside.any():
        first = int(outside.argmax())
        raise DatasetError(
            f"{path}: utm {utm_m[first].tolist()} of {panoramas[first]} is not easting and northing in Canberra "
            f"({_UTM}); get it again"
        )
    return panoramas, latlon_deg
