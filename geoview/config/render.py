"""How regions, photos and data sets are made up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from geoview.config.checks import require
from geoview.config.inference import InferenceConfig

__all__ = ["DemoConfig", "RenderDatasetConfig", "RenderPhotosConfig", "RenderRegionConfig"]


@dataclass(frozen=True)
class RenderRegionConfig:
    """Makes a region up and writes it as real files: orthophotos of two dates, heights, outlines, street photos.

    Attributes:
        style: What kind of country it is.
        out: Folder to write to.
        seed: Another number, another region of that kind, elsewhere.
        width_m: Extent from west to east.
        height_m: Extent from south to north.
        gsd_m: Metres per pixel of the orthophotos.
        n_panoramas: Street photos all round.
        n_perspective: Street photos through a lens.
        range_m: How far street cameras see; none stands nearer than this to the edge.
        num_workers: Processes that render photos.
        overwrite: Replace a region of other settings.
    """

    style: Literal["european_town", "american_grid", "arid", "rural", "waterfront"]
    out: str
    seed: int = 0
    width_m: float = 1500.0
    height_m: float = 1500.0
    gsd_m: float = 0.5
    n_panoramas: int = 300
    n_perspective: int = 300
    range_m: float = 100.0
    num_workers: int = 2
    overwrite: bool = False

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed must not be negative")
        for name in ("n_panoramas", "n_perspective"):
            require(getattr(self, name) >= 0, f"{name} must not be negative")
        require(0 < self.gsd_m <= 5, "gsd_m, metres per pixel, must be above 0, at most 5")
        for name in ("width_m", "height_m"):
            require(0 < getattr(self, name) < float("inf"), f"{name} must be above 0")
        require(self.range_m >= 20, "range_m must be at least 20")
        require(self.num_workers >= 1, "num_workers must be at least 1")


@dataclass(frozen=True)
class RenderPhotosConfig:
    """Takes street photos of real places: orthophotos with heights, or with the trees that stand there.

    Attributes:
        out: Folder to write to: `photos.csv` and the photos.
        ortho: Orthophotos, each a place of its own.
        heights: Raster of the surface in metres, or one for each orthophoto in their order; a band described as
            "terrain" is the bare ground.
        trees: GeoJSON points of trees, or a folder with one such file for each orthophoto, of the same name.
        heights_unit: Unit of the heights, `m` or `ft`, where the file does not say it or is wrong.
        n: Photos of each place; 100, if no positions are given.
        at: Positions `LAT,LON` to take one photo at each (write `--at=-33.9,-70.6` with a sign), or CSV tables of them
            with the columns `lat` and `lon`.
        kind: `panorama`, all round, or `perspective`.
        fov_deg: Horizontal field of view of perspective photos, or least and largest; 60 to 110 without it.
        size_px: Width of a panorama, long side of a perspective photo; 1024 and 320 without it.
        range_m: How far cameras see; less where the map ends before, but never less than 50 m.
        seed: Of everything that is drawn.
        num_workers: Processes that render photos.
        overwrite: Replace photos of other settings.
    """

    out: str
    ortho: list[str] = field(default_factory=list)
    heights: list[str] = field(default_factory=list)
    trees: str | None = None
    heights_unit: Literal["m", "ft"] | None = None
    n: int | None = None
    at: list[str] = field(default_factory=list)
    kind: Literal["panorama", "perspective"] = "panorama"
    fov_deg: list[float] | None = None
    size_px: int | None = None
    range_m: float = 100.0
    seed: int = 0
    num_workers: int = 2
    overwrite: bool = False

    def __post_init__(self) -> None:
        require(len(self.ortho) > 0, "ortho names no file; heights and trees say what stands on it, not how it looks")
        require(
            bool(self.heights) != (self.trees is not None),
            "what rises from the ground must be known, from one source: give either heights or trees",
        )
        require(
            len(self.heights) in (0, 1, len(self.ortho)),
            f"heights names {len(self.heights)} files for {len(self.ortho)} of ortho; give one, or one for each",
        )
        require(self.heights_unit is None or bool(self.heights), "heights_unit is of heights, and none are given")
        require(self.n is None or not self.at, "n and at exclude each other: one photo is taken at each position")
        require(self.n is None or self.n >= 1, "n must be at least 1")
        if self.fov_deg is not None:
            require(1 <= len(self.fov_deg) <= 2, "fov_deg is one number, or the least and the largest")
            for fov_deg in self.fov_deg:
                require(
                    20 <= fov_deg <= 140,
                    f"fov_deg is {fov_deg:g}: a perspective photo spans 20 to 140 degrees; for all round use panorama",
                )
            require(self.fov_deg[0] <= self.fov_deg[-1], "fov_deg: give the least first, then the largest")
            require(self.kind == "perspective", "fov_deg is of kind perspective; a panorama spans 360 degrees")
        require(self.size_px is None or 64 <= self.size_px <= 8192, "size_px must be within 64 and 8192")
        require(self.range_m >= 50, "range_m must be at least 50")
        require(self.seed >= 0, "seed must not be negative")
        require(self.num_workers >= 1, "num_workers must be at least 1")


@dataclass(frozen=True)
class RenderDatasetConfig:
    """Makes a benchmark set of four made-up cities in the layout of a published one, for any loader of that to read.

    Attributes:
        layout: Whose files and lists: `vigor` (tiles that overlap, several show a panorama) or `cvusa` (one to one).
        out: Folder to write to; the same call goes on with what was cut off.
        seed: Another number, other cities.
        panoramas: Of each city.
        size_m: Edge of each city; panoramas stand 100 m and more inside.
        tile_px: Edge of a satellite picture, whatever its ground size; 160 for vigor and 320 for cvusa without it.
        panorama_px: Width of a panorama; 512 (whole spheres) for vigor and 1232 (strips) for cvusa without it.
        num_workers: Processes that render panoramas.
        overwrite: Replace a data set of other settings.
    """

    layout: Literal["vigor", "cvusa"]
    out: str
    seed: int = 0
    panoramas: int = 1000
    size_m: float = 1400.0
    tile_px: int | None = None
    panorama_px: int | None = None
    num_workers: int = 2
    overwrite: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.seed < 1_000_000, "seed must be in [0, 1000000): above are the regions to learn from")
        require(self.panoramas >= 10, "panoramas must be at least 10")
        require(
            300 <= self.size_m <= 4000,
            "size_m must be within 300 and 4000: panoramas stand 100 m and more inside, larger cities would overlap",
        )
        require(self.tile_px is None or 16 <= self.tile_px <= 2048, "tile_px must be within 16 and 2048")
        require(
            self.panorama_px is None or (64 <= self.panorama_px <= 8192 and self.panorama_px % 2 == 0),
            "panorama_px must be an even number within 64 and 8192",
        )
        require(self.num_workers >= 1, "num_workers must be at least 1")


@dataclass(frozen=True)
class DemoConfig(InferenceConfig):
    """The whole story on a made-up region: renders and indexes it, locates photos of it, tells how many are right.

    Attributes:
        out: Folder to write to; the same call goes on with what was cut off.
        seed: Another number, another region.
        style: What kind of country it is. Shipped encoders have learnt from the first four, never from waterfronts.
        encoder: Encoder folder, or the name of a shipped encoder.
        train: Train the encoder first, on rendered regions of other seeds; takes hours.
        overwrite: Replace a demo of other settings.
    """

    out: str = "geoview-demo"
    seed: int = 0
    style: Literal["european_town", "american_grid", "arid", "rural", "waterfront"] = "european_town"
    encoder: str = "demo"
    train: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.seed < 1_000_000, "seed must be in [0, 1000000): above are the regions to learn from")
