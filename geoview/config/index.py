"""How indexes are made, changed, tuned and calibrated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from geoview.config.checks import require
from geoview.config.inference import InferenceConfig

__all__ = ["AddConfig", "BuildConfig", "CalibrateConfig", "RemoveConfig", "TuneConfig"]

# The four of Fervers et al. (ECCV 2024).
_SCALES = (1, 2, 4, 8)


@dataclass(frozen=True)
class BuildConfig(InferenceConfig):
    """Builds an index: a code for every S2 cell of a region that the imagery covers.

    Attributes:
        encoder: Encoder folder.
        imagery: Rasters, folders of rasters, z/x/y or MBTiles pyramids, or manifests.
        out: Index folder to write.
        region: GeoJSON polygons to cover; without it, what the imagery covers.
        level: S2 level of the cells: 16 (about 130 m), 17 or 18.
        scales: Ground sizes of the chips that make up a code, as multiples of the encoder's own: 1, and any of 2, 4 and
            8 after it. Neighbouring cells share the larger chips: 2 costs a quarter of the chips again, 4 a sixteenth.
        min_coverage: Least share of valid ground in a cell's chip; below it the cell is recorded and gets no code, and
            a larger chip says nothing.
        photos: Ground photos of known place, whose prototypes are added to the codes: tables with `lat` and `lon`,
            photos that tell their position, or folders of such. A tenth of the ground that they cover is kept back to
            fit how much they count, and joins after that.
        border: Photos speak for the four prototypes around them, by their distance; else for that of their own cell.
        frustum: Photos whose heading and field of view are known speak for the ground in front of them.
        prototypes: Folder of a run of `geoview train` that has learnt prototypes: they are taken instead of the mean of
            photos, and its encoder is the one to give. `photos`, which the run has not learnt from, then only fit how
            much they count.
        overwrite: Replace an index that is there already.
    """

    encoder: str = field(kw_only=True)
    imagery: list[str] = field(kw_only=True)
    out: str = field(kw_only=True)
    region: str | None = None
    level: int = 16
    scales: list[int] = field(default_factory=lambda: [1])
    min_coverage: float = 0.5
    photos: list[str] = field(default_factory=list)
    border: bool = True
    frustum: bool = False
    prototypes: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(8 <= self.level <= 20, "level must be between 8 and 20; 16 to 18 are usual")
        require(
            1 in self.scales and self.scales == [scale for scale in _SCALES if scale in self.scales],
            "scales must be 1 and any of 2, 4 and 8 after it, in this order, such as 1 2 4",
        )
        require(0 < self.min_coverage <= 1, "min_coverage must be in (0, 1]")
        require(len(self.imagery) > 0, "imagery names no file")
        require(
            not self.photos or self.level >= 15, "photos need cells of level 15 or smaller; give a --level of 15 to 20"
        )


@dataclass(frozen=True)
class AddConfig(InferenceConfig):
    """Adds imagery or ground photos to an index.

    Attributes:
        imagery: Rasters, folders of rasters, z/x/y or MBTiles pyramids, or manifests.
        region: GeoJSON polygons to cover; without it, what the imagery covers.
        photos: Ground photos of known place: tables with `lat` and `lon`, photos that tell their position, or folders
            of such.
        overwrite: Start anew where an addition of something else was cut off.
    """

    imagery: list[str] = field(default_factory=list)
    region: str | None = None
    photos: list[str] = field(default_factory=list)
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.imagery or self.photos), "nothing to add: give imagery, photos or both")


@dataclass(frozen=True)
class RemoveConfig(InferenceConfig):
    """Takes cells or ground photos out of an index.

    Attributes:
        region: GeoJSON polygons: the cells that they touch go.
        photos: Ground photos that were added, with the places and headings that they were added with.
    """

    region: str | None = None
    photos: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        require((self.region is None) != (not self.photos), "give region or photos: what to remove")


@dataclass(frozen=True)
class TuneConfig(InferenceConfig):
    """Makes an index fast to search, and measures what that costs.

    Attributes:
        recall: Least share to find of the 10 best rows, and of the 100 best.
        latency_ms: Longest that a query may take, in the middle of all, on this machine.
        memory_gb: Most memory that what is searched may fill: short codes, and the rows that are read to score what
            these propose.
        photos: Photos to measure with, such as will be asked; without them, codes of the index with noise.
        seed: Of what is drawn.
    """

    recall: float = 0.95
    latency_ms: float | None = None
    memory_gb: float | None = None
    photos: list[str] = field(default_factory=list)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.recall <= 1, "recall must be in (0, 1]")
        require(self.latency_ms is None or self.latency_ms > 0, "latency_ms must be above 0")
        require(self.memory_gb is None or self.memory_gb > 0, "memory_gb must be above 0")
        require(self.seed >= 0, "seed must not be negative")


@dataclass(frozen=True)
class CalibrateConfig(InferenceConfig):
    """Makes an index's scores probabilities, and teaches it when a photo is of elsewhere.

    Attributes:
        photos: Photos of known place that the index has not seen, some hundred: tables with `lat` and `lon`, photos
            that tell their position, or folders of such. Without them, photos of made-up regions are rendered; all
            answers then say so.
        view: What the photos show: `ground` (street photos) or `aerial` (seen from above).
        fov_deg: Horizontal field of view of perspective photos that do not tell it themselves.
        gsd_m: Metres per pixel of aerial photos; a GeoTIFF brings its own.
        rerank: Calibrate for a second look at so many of the first cells of each photo, which searches then take unless
            they say otherwise.
        imagery: Imagery for `rerank`; without it, the one that the index was built from.
    """

    photos: list[str] = field(default_factory=list)
    view: Literal["ground", "aerial"] = "ground"
    fov_deg: float | None = None
    gsd_m: float | None = None
    rerank: int = 0
    imagery: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rerank >= 0, "rerank must be 0 or more")
        require(self.fov_deg is None or 0 < self.fov_deg <= 360, "fov_deg must be in (0, 360]")
        require(self.gsd_m is None or self.gsd_m > 0, "gsd_m must be above 0")
