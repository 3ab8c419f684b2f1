"""How the commands but `train` are set: one dataclass each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from geoview.config.checks import require

__all__ = [
    "AddConfig",
    "BuildConfig",
    "CalibrateConfig",
    "Dates",
    "DemoConfig",
    "EvaluateConfig",
    "InferenceConfig",
    "LocateConfig",
    "RemoveConfig",
    "RenderDatasetConfig",
    "RenderPhotosConfig",
    "RenderRegionConfig",
    "ServeConfig",
    "TuneConfig",
]

#: What counts of several dates of a cell: its best score, less what the best of so many gains by chance; the mean of
#: their scores; that of the newest.
Dates = Literal["max", "mean", "latest"]

# The four of Fervers et al. (ECCV 2024).
_SCALES = (1, 2, 4, 8)


@dataclass(frozen=True)
class InferenceConfig:
    """How an encoder is run.

    Attributes:
        batch_size: Pictures a batch.
        device: `auto` takes a GPU where there is one; else a torch device such as `cpu` or `cuda:1`.
        precision: `auto` is bfloat16 where the device multiplies it faster, float32 elsewhere.
        num_workers: Threads that decode pictures and cut chips ahead of the encoder; of an index of thousands of cells,
            processes cut the chips.
    """

    batch_size: int = 64
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    num_workers: int = 2

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size must be at least 1")
        require(self.num_workers >= 1, "num_workers must be at least 1")


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


@dataclass(frozen=True)
class LocateConfig(InferenceConfig):
    """Tells where photos were taken.

    Attributes:
        index: Index folder, or the address of one: s3://bucket/index, gs://bucket/index, https://host/index.
        top_k: Places to answer for each photo; they never touch one another.
        region: GeoJSON polygons to search in.
        near: Search around this point, `LAT,LON` (write `--near=-33.9,-70.6` with a sign), or each photo's own
            position, `exif`.
        radius_m: Radius around `near`.
        prior: Photos of known place (folders, or tables of `lat` and `lon`): the more of them were taken somewhere, the
            more probable it is that others were, too. The index has to be calibrated.
        kappa: Weight of ground photos against imagery, in an index that has both; 0 is imagery alone. Without it, what
            was fitted when the index was built.
        dates: What counts where a cell has codes of several dates: the best (`max`, less what the best of so many gains
            by chance), their `mean`, or the `latest` alone.
        view: What the photos show: `ground` (street photos) or `aerial` (seen from above).
        fov_deg: Horizontal field of view of perspective photos that do not tell it themselves.
        gsd_m: Metres per pixel of aerial photos; a GeoTIFF brings its own.
        together: All photos show one spot: each is answered with the places that are best for all of them together.
        sequence: Photos are of one walk or drive, in any order: each is answered with its place on the most likely way,
            by the times that photos tell.
        max_speed_kmh: Bound on the speed of a `sequence`; 20 is for who walks or cycles.
        step_s: Seconds at most from one photo of a `sequence` to the next, in the order given, whatever times they
            tell.
        out: File to write, by suffix: .csv, .geojson, .gpkg (GeoPackage), .kml, .parquet (GeoParquet) or .html. Without
            it, CSV goes to standard output.
        heatmap: Picture of where the photo may have been taken, from a calibrated index: .tif (GeoTIFF of probability
            per km²) or .png (to look at, with a world file). Each of several photos has its own: `heat_2_b.tif`.
        json: Write JSON to standard output instead of CSV, one object a photo and line; with `out` or without.
        rerank: Look again at so many of the first cells of each photo, in the imagery; 0 looks at codes alone. Without
            it, as many as the index was calibrated with. Takes longer, by 32 chips a cell that no photo before has
            asked for.
        why: Folder for pictures of what in each photo speaks for its first three places; made if it is not there.
        imagery: Imagery for `rerank`, `why`, and the chips and the map of an HTML answer; without it, the one that the
            index was built from.
        checked: Compare every code that is read with its checksum: slower, and never an answer from a damaged file.
        exact: Score every code, whatever the index was tuned to.
        overwrite: Replace `out`, `heatmap` and the pictures in `why` if they are there already.
    """

    index: str = field(kw_only=True)
    top_k: int = 10
    region: str | None = None
    near: str | None = None
    radius_m: float | None = None
    prior: list[str] = field(default_factory=list)
    kappa: float | None = None
    dates: Dates = "max"
    view: Literal["ground", "aerial"] = "ground"
    fov_deg: float | None = None
    gsd_m: float | None = None
    together: bool = False
    sequence: bool = False
    max_speed_kmh: float = 20.0
    step_s: float | None = None
    out: str | None = None
    heatmap: str | None = None
    json: bool = False
    rerank: int | None = None
    why: str | None = None
    imagery: list[str] = field(default_factory=list)
    checked: bool = False
    exact: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.top_k >= 1, "top_k must be at least 1")
        require(self.fov_deg is None or 0 < self.fov_deg <= 360, "fov_deg must be in (0, 360]")
        require(self.gsd_m is None or self.gsd_m > 0, "gsd_m must be above 0")
        require((self.near is None) == (self.radius_m is None), "near and radius_m go together")
        require(self.radius_m is None or self.radius_m > 0, "radius_m must be above 0")
        require(self.kappa is None or self.kappa >= 0, "kappa must be 0 or more")
        require(
            not (self.together and self.sequence), "together is of one spot and sequence of a way: give one of them"
        )
        several = self.together or self.sequence
        require(
            not several or self.near != "exif", "near exif searches around each photo alone; give LAT,LON or a region"
        )
        require(0 < self.max_speed_kmh < float("inf"), "max_speed_kmh must be above 0")
        require(self.sequence or self.max_speed_kmh == 20.0, "max_speed_kmh is of a sequence")
        require(self.step_s is None or 0 < self.step_s < float("inf"), "step_s must be above 0")
        require(self.step_s is None or self.sequence, "step_s is of a sequence")
        require(
            not several or (not self.rerank and self.why is None),
            "rerank and why are of photos alone, not of several together",
        )
        require(self.rerank is None or self.rerank >= 0, "rerank must be 0 or more")


@dataclass(frozen=True)
class ServeConfig(InferenceConfig):
    """Answers over HTTP, with a page to ask from. Photos stay in memory, and only this machine may ask without a token.

    Attributes:
        index: Index folder, or the address of one; a newer commit of it is asked as soon as it is there.
        host: Address to listen on; any but this machine's own needs a token.
        port: Port to listen on; 0 is a free one.
        token_file: File with the token that whoever asks must send; without it, the environment's GEOVIEW_TOKEN.
        imagery: Imagery for chips and the map; without it, the one that the index was built from.
        basemap: Address of another map to lay below, as in https://tiles.example.org/{z}/{x}/{y}.png; whoever looks at
            the page then tells that host where.
        basemap_attribution: Whom to name on it.
        max_upload_mb: Megabytes of a request.
        max_photos: Photos of a request.
        max_photo_mpx: Megapixels of a photo.
        max_waiting: Photos that may wait, of all requests together.
        upload_s: Longest that a request may take to arrive.
        answer_s: Longest that it may wait for its answers.
        shutdown_s: Longest that requests are still answered after the service is told to end.
    """

    index: str = field(kw_only=True)
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: str | None = None
    imagery: list[str] = field(default_factory=list)
    basemap: str | None = None
    basemap_attribution: str | None = None
    max_upload_mb: float = 64.0
    max_photos: int = 50
    max_photo_mpx: float = 64.0
    max_waiting: int = 500
    upload_s: float = 60.0
    answer_s: float = 120.0
    shutdown_s: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.port <= 65535, "port must be within 0 and 65535")
        for name in ("max_upload_mb", "max_photo_mpx", "upload_s", "answer_s", "shutdown_s"):
            require(0 < getattr(self, name) < float("inf"), f"{name} must be above 0")
        require(1 <= self.max_photos <= self.max_waiting, "max_photos must be at least 1, and at most max_waiting")
        require(self.basemap_attribution is None or self.basemap is not None, "basemap_attribution is of basemap")


@dataclass(frozen=True)
class EvaluateConfig(InferenceConfig):
    """Scores an encoder on a data set, or an index on photos whose positions are known.

    Attributes:
        out: JSON file to write; embeddings are kept in a folder beside it, `embeddings`, for the next time.
        dataset: What to score an encoder on; `pairs` is a pair table of your own.
        root: Folder of the data set, or the pair table.
        encoder: Encoder folder, or the name of a shipped encoder.
        split: Part of the data set; without it, the one that papers report first.
        labels: Whose labels of it: VIGOR has `corrected` ones too.
        fov_deg: Fields of view to show of panoramas, one row of results each.
        turned: Turn each panorama by an angle drawn for it, so that its heading is not known; else north is ahead.
        as_published: Score University-1652 without its distractors too, as the code of Sample4Geo does.
        query_view: What the queries of `pairs` show: street photos, or imagery of another date.
        query_imagery: Imagery of the query side of `pairs`.
        imagery: Imagery of the reference side of `pairs`.
        index: Index folder or address, to score on photos.
        photos: Photo tables with `lat` and `lon`, photos that tell their position, or folders of such.
        dates: What counts where a cell of the index has codes of several dates: the best (`max`, less what the best of
            so many gains by chance), their `mean`, or the `latest` alone.
        seed: Of the angles of `turned` and of the bootstrap.
        overwrite: Replace `out` if it is there already.
    """

    out: str = field(kw_only=True)
    dataset: Literal["cvusa", "cvact", "vigor", "university1652", "pairs"] | None = None
    root: str | None = None
    encoder: str | None = None
    split: str | None = None
    labels: Literal["original", "corrected"] = "original"
    fov_deg: list[float] = field(default_factory=lambda: [360.0])
    turned: bool = False
    as_published: bool = False
    query_view: Literal["ground", "aerial"] = "ground"
    query_imagery: list[str] = field(default_factory=list)
    imagery: list[str] = field(default_factory=list)
    index: str | None = None
    photos: list[str] = field(default_factory=list)
    dates: Dates = "max"
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            (self.dataset is None) != (self.index is None),
            "give either dataset, with root and encoder, or index, with photos",
        )
        if self.index is not None:
            require(len(self.photos) > 0, "photos names no file; an index is scored on photos of known position")
            given = [name for name in ("root", "encoder", "split") if getattr(self, name) is not None]
            given += [name for name in ("turned", "as_published") if getattr(self, name)]
            given += ["labels"] if self.labels != "original" else []
            require(
                not given, f"{', '.join(given)}: of data sets; an index has its own encoder, and is scored on photos"
            )
            require(self.fov_deg == [360.0], "fov_deg is of data sets; photos tell theirs, or their table does")
        else:
            require(not self.photos, "photos are for an index; give a data set's root")
            require(self.dates == "max", "dates are for an index; a data set has one picture of each place")
            for name in ("root", "encoder"):
                require(getattr(self, name) is not None, f"dataset {self.dataset} needs {name}")
        for name in ("query_imagery", "imagery"):
            require(
                not getattr(self, name) or self.dataset == "pairs", f"{name} is of dataset pairs; others have files"
            )
        require(self.query_view == "ground" or self.dataset == "pairs", "query_view is of dataset pairs")
        require(self.split is None or self.dataset != "pairs", "split is of published data sets; pairs have none")
        require(self.labels == "original" or self.dataset != "pairs", "labels are of published data sets")
        require(
            not self.as_published or self.dataset == "university1652",
            "as_published is of university1652, whose published scores may leave the distractors out",
        )
        require(
            len(self.fov_deg) > 0 and all(0 < fov_deg <= 360 for fov_deg in self.fov_deg),
            "fov_deg must be in (0, 360]",
        )
        require(len(set(self.fov_deg)) == len(self.fov_deg), "fov_deg names a field of view twice")
        require(self.seed >= 0, "seed must not be negative")


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
