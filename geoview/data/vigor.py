"""VIGOR: panoramas anywhere within satellite tiles that overlap (Zhu et al., CVPR 2021), four cities of the US.

A panorama's tile is its positive; the three others that show its position are semi-positive. Panoramas are turned so
that north is in their middle. The original labels took a wrong ground resolution; those corrected by Lentsch et al.
(SliceMatch, CVPR 2023) have other offsets and the same tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoview.data.missing import MAX_MISSING_SHARE
from geoview.data.pairs import PairTable
from geoview.data.published import Copy, numbered_lines
from geoview.errors import DatasetError

__all__ = ["CITIES", "PAGE", "PanoramaLabels", "load", "read_labels", "read_tiles"]

PAGE = "github.com/Jeff-Zilence/VIGOR"
CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")

_SPLITS = {
    "same_train": (CITIES, "same_area_balanced_train"),
    "same_test": (CITIES, "same_area_balanced_test"),
    "cross_train": (("NewYork", "Seattle"), "pano_label_balanced"),
    "cross_test": (("Chicago", "SanFrancisco"), "pano_label_balanced"),
}
# Folder, ending of the lists' names, and where to get them.
_LABELS = {
    "original": ("splits", ".txt", PAGE),
    "corrected": ("splits__corrected", "__corrected.txt", "github.com/tudelft-iv/SliceMatch"),
}
_FIELDS = 13


def load(
    root: Path,
    split: Literal["same_train", "same_test", "cross_train", "cross_test"],
    labels: Literal["original", "corrected"] = "original",
    *,
    max_missing_share: float = MAX_MISSING_SHARE,
) -> PairTable:
    """Reads VIGOR; a place is a tile.

    Args:
        root: Folder with `<City>/panorama` and `<City>/satellite`, or `ground/<City>` and `satellite/<City>`; and with
            `splits/` or, for the corrected labels, `splits__corrected/`.
        split: The references are all tiles of its cities for testing, those that show a query's position for training.
        labels: Which offsets.
        max_missing_share: Share of the panoramas, and of the tiles, that may be missing; they are left out.

    Raises:
        DatasetError: A file, or a greater share of the images, is missing, or a list cannot be read.
    """
    cities, name = _SPLITS[split]
    folder, ending, page = _LABELS[labels]
    images, lists = Copy(root, "VIGOR", PAGE, max_missing_share), Copy(root, f"VIGOR with {labels} labels", page)
    queries: list[str] = []
    references: list[str] = []
    covering, offset_px, cities_of_queries = [], [], []
    for city in cities:
        tile_list = root / lists.find(f"{folder}/{city}/satellite_list.txt", f"splits/{city}/satellite_list.txt")
        label_list = root / lists.find(f"{folder}/{city}/{name}{ending}")
        panoramas = images.find(f"{city}/panorama", f"ground/{city}")
        satellite = images.find(f"{city}/satellite", f"satellite/{city}")
        tiles = read_tiles(tile_list)
        found = read_labels(label_list)
        covering.append(len(references) + _rows(label_list, found.tile, tiles))
        offset_px.append(found.offset_px)
        cities_of_queries += [city] * len(found.panorama)
        queries += [f"{panoramas}/{panorama}" for panorama in found.panorama]
        references += [f"{satellite}/{tile}" for tile in tiles]
    return _table(
        images,
        queries,
        references,
        np.concatenate(covering),
        np.concatenate(offset_px),
        cities_of_queries,
        whole_gallery=split.endswith("test"),
        name=f"VIGOR {split}",
    )


@dataclass(frozen=True)
class PanoramaLabels:
    """The content of a label file.

    Attributes:
        panorama: N file names.
        tile: N times the names of four tiles: the positive, then the semi-positives.
        offset_px: (N, 4, 2) float32, where the panorama lies in each: pixels right and down of the tile's centre.
    """

    panorama: list[str]
    tile: list[list[str]]
    offset_px: NDArray[np.float32]


def read_labels(path: Path) -> PanoramaLabels:
    """Reads a label file: `panorama (tile dy dx) x 4` on each line, the panorama at (320 - dx, 320 + dy) of a tile.

    Args:
        path: `same_area_balanced_train.txt`, `pano_label_balanced__corrected.txt` and their like.

    Raises:
        DatasetError: It cannot be read; names the line.
    """
    panorama, tile, down_left = [], [], []
    for number, line in numbered_lines(path):
        fields = line.split()
        try:
            if len(fields) != _FIELDS:
                raise ValueError
            down_left.append([float(value) for i in (2, 5, 8, 11) for value in fields[i : i + 2]])
        except ValueError as error:
            raise DatasetError(
                f"{path}:{number}: {line.strip()[:60]!r}… is not a panorama and four times a tile and two numbers"
            ) from error
        panorama.append(fields[0])
        tile.append([_png(field) for field in fields[1::3]])
    dy_dx = np.array(down_left, np.float32).reshape(-1, 4, 2)
    return PanoramaLabels(panorama, tile, np.stack([-dy_dx[..., 1], dy_dx[..., 0]], axis=-1))


def read_tiles(path: Path) -> list[str]:
    """Reads a city's `satellite_list.txt`: the names of its tiles.

    Raises:
        DatasetError: It cannot be read.
    """
    return [_png(line.strip()) for _, line in numbered_lines(path)]


def _png(name: str) -> str:
    """The documentation names tiles `.jpg`; the files are `.png`."""
    return f"{name.removesuffix('.jpg')}.png" if name.endswith(".jpg") else name


def _rows(path: Path, named: Sequence[Sequence[str]], tiles: Sequence[str]) -> NDArray[np.int64]:
    """Looks (N, 4) names of tiles up. Names, not positions: the number of their decimals varies."""
    row_of = {tile: row for row, tile in enumerate(tiles)}
    unknown = [tile for row in named for tile in row if tile not in row_of]
    if unknown:
        raise DatasetError(f"{path}: names the tile {unknown[0]}, which satellite_list.txt lacks; get both again")
    return np.array([[row_of[tile] for tile in row] for row in named])


def _table(
    copy: Copy,
    queries: list[str],
    references: list[str],
    covering: NDArray[np.int64],
    offset_px: NDArray[np.float32],
    city: list[str],
    *,
    whole_gallery: bool,
    name: str,
) -> PairTable:
    """Leaves out what is not there.

    Args:
        copy: The data set.
        queries: Q panoramas.
        references: R tiles.
        covering: (Q, 4) rows of the tiles that show a query's position, the positive first.
        offset_px: (Q, 4, 2).
        city: Q names.
        whole_gallery: Keep tiles that show no query.
        name: Of the table.
    """
    tile_there = copy.complete(references)
    rows = np.flatnonzero(copy.complete(queries) & tile_there[covering[:, 0]])
    covering, offset_px = covering[rows], offset_px[rows]
    kept = tile_there if whole_gallery else tile_there & np.isin(np.arange(len(references)), covering)
    shown = np.where(kept, np.cumsum(kept) - 1, -1)[covering]
    query_names = [queries[i].rpartition("/")[2] for i in rows]
    tiles = [references[i] for i in np.flatnonzero(kept)]
    return PairTable.of(
        [copy.path(queries[i]) for i in rows],
        [copy.path(tile) for tile in tiles],
        shown[:, 0],
        latlon_deg=_positions_deg(query_names, ","),
        reference_latlon_deg=_positions_deg([tile.rpartition("/")[2] for tile in tiles], "_"),
        heading_deg=0.0,
        fov_deg=360.0,
        semi_positive=shown[:, 1:],
        offset_px=np.where(shown[..., None] < 0, np.float32(np.nan), offset_px),
        city=[city[i] for i in rows],
        name=name,
    )


def _positions_deg(names: Sequence[str], separator: str) -> NDArray[np.float64]:
    """Returns (N, 2) positions out of `<panoid>,<lat>,<lon>,.jpg` or `satellite_<lat>_<lon>.png`."""
    found = []
    for name in names:
        try:
            _, lat, lon = name.removesuffix(",.jpg").removesuffix(".png").rsplit(separator, 2)
            found.append((float(lat), float(lon)))
        except ValueError as error:
            raise DatasetError(f"{name}: a VIGOR image is named by its latitude and longitude; this is not") from error
    return np.array(found).reshape(-1, 2)
