"""The published data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from geoview.data import cvact, cvusa, university1652, vigor
from geoview.data.pairs import PairTable
from geoview.errors import ConfigError

__all__ = ["DATASETS", "Dataset", "Published", "load", "recognise"]


@dataclass(frozen=True)
class Published:
    """How many pictures a split has by its publication.

    Attributes:
        queries: Pairs of the split.
        references: Pictures to find them among; None where that is not told.
    """

    queries: int
    references: int | None


@dataclass(frozen=True)
class Dataset:
    """A published data set.

    Attributes:
        name: As `load` takes it.
        page: Where to get it.
        splits: Published counts by the name of the split.
        loaders: `(root, split) -> PairTable` by the name of the labels; most have no labels but their own, `original`.
        markers: Files and folders, any of which tells that a root is of this data set.
    """

    name: str
    page: str
    splits: Mapping[str, Published]
    loaders: Mapping[str, Callable[[Path, Any], PairTable]]
    markers: tuple[str, ...]


_ALL = (
    Dataset(
        "cvusa",
        cvusa.PAGE,
        {"train": Published(35_532, 35_532), "test": Published(8_884, 8_884)},
        {"original": cvusa.load},
        ("splits/train-19zl.csv", "splits/val-19zl.csv"),
    ),
    Dataset(
        "cvact",
        cvact.PAGE,
        {
            "train": Published(35_532, 35_532),
            "val": Published(8_884, 8_884),
            "val_all": Published(92_802, 92_802),
            "test": Published(92_802, 92_802),
        },
        {"original": cvact.load},
        ("ACT_data.mat", "ANU_data_small", "ANU_data_test"),
    ),
    Dataset(
        "vigor",
        vigor.PAGE,
        {
            "same_train": Published(52_609, None),
            "same_test": Published(52_605, 90_618),
            "cross_train": Published(51_520, None),
            "cross_test": Published(53_694, 46_563),
        },
        {"original": vigor.load, "corrected": partial(vigor.load, labels="corrected")},
        tuple(f"{f}/{c}/satellite_list.txt" for f, c in product(("splits", "splits__corrected"), vigor.CITIES)),
    ),
    Dataset(
        "university1652",
        university1652.PAGE,
        {
            "train": Published(37_854, 701),
            "drone_to_satellite": Published(37_855, 951),
            "satellite_to_drone": Published(701, 51_355),
        },
        {"original": university1652.load},
        ("train/drone", "test/query_drone", "test/gallery_drone"),
    ),
)
DATASETS: Mapping[str, Dataset] = {dataset.name: dataset for dataset in _ALL}


def load(name: str, root: str | Path, split: str, *, labels: str = "original") -> PairTable:
    """Reads a split of a published data set as it is distributed.

    Args:
        name: One of `DATASETS`.
        root: Its folder.
        split: One of the data set's.
        labels: Whose labels; VIGOR has `corrected` ones too.

    Raises:
        ConfigError: There is no such data set, split or labels.
        DatasetError: The copy lacks files.
    """
    _check(name, DATASETS, "data set")
    dataset = DATASETS[name]
    _check(split, dataset.splits, f"split of {name}")
    _check(labels, dataset.loaders, f"set of labels of {name}")
    return dataset.loaders[labels](Path(root), split)


def recognise(root: str | Path) -> str | None:
    """Returns the name of the data set that a folder is a copy of, by the files it has; None where it is none."""
    found = (name for name, dataset in DATASETS.items() if any((Path(root) / m).exists() for m in dataset.markers))
    return next(found, None)


def _check(name: str, known: Collection[str], kind: str) -> None:
    if name not in known:
        raise ConfigError(f"{name!r} is no {kind}; known are {', '.join(known)}")
