"""Training and evaluation data by where it lies: the published data sets by name, and data of one's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from geoview.data import cvact, cvusa, folders, university1652, vigor
from geoview.data.missing import MAX_MISSING_SHARE
from geoview.data.pairs import PairTable
from geoview.errors import ConfigError

__all__ = ["DATASETS", "Dataset", "Published", "load", "load_own", "recognise"]


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
        loaders: `(root, split, max_missing_share=…) -> PairTable` by the name of the labels; most have no labels but
            their own, `original`.
        markers: Files and folders, any of which tells that a root is of this data set.
    """

    name: str
    page: str
    splits: Mapping[str, Published]
    loaders: Mapping[str, Callable[..., PairTable]]
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


def load(
    name: str,
    root: str | Path,
    split: str,
    *,
    labels: str = "original",
    max_missing_share: float = MAX_MISSING_SHARE,
) -> PairTable:
    """Reads a split of a published data set as it is distributed.

    Args:
        name: One of `DATASETS`.
        root: Its folder.
        split: One of the data set's.
        labels: Whose labels; VIGOR has `corrected` ones too.
        max_missing_share: Share of the images that may be missing; what lacks one is left out. 0 for none.

    Raises:
        ConfigError: There is no such data set, split or labels.
        DatasetError: The copy lacks files, or a greater share of the images.
    """
    _check(name, DATASETS, "data set")
    dataset = DATASETS[name]
    _check(split, dataset.splits, f"split of {name}")
    _check(labels, dataset.loaders, f"set of labels of {name}")
    return dataset.loaders[labels](Path(root), split, max_missing_share=max_missing_share)


def load_own(path: str | Path, *, max_missing_share: float = MAX_MISSING_SHARE) -> PairTable:
    """Reads pairs of one's own.

    Args:
        path: A folder of photos, a pair table in Parquet (`.parquet`), or, by any other suffix, one in CSV.
        max_missing_share: Share of the pairs that may lack a picture, or in a folder a position; they are left out.

    Raises:
        PairTableError: It cannot be read or holds what cannot be, or a greater share lacks something.
        PhotoTableError: The folder's `photos.csv` cannot be read, or holds a value that cannot be.
    """
    path = Path(path)
    if path.is_dir():
        return folders.load(path, max_missing_share=max_missing_share)
    read = PairTable.from_parquet if path.suffix.lower() == ".parquet" else PairTable.from_csv
    return read(path, max_missing_share=max_missing_share)


def recognise(root: str | Path) -> str | None:
    """Returns the name of the data set that a folder is a copy of, by the files it has; None where it is none."""
    found = (name for name, dataset in DATASETS.items() if any((Path(root) / m).exists() for m in dataset.markers))
    return next(found, None)


def _check(name: str, known: Collection[str], kind: str) -> None:
    if name not in known:
        raise ConfigError(f"{name!r} is no {kind}; known are {', '.join(known)}")
