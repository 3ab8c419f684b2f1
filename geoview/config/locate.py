"""How photos are located, from the command line and over HTTP, and how well that is scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from geoview.config.checks import require
from geoview.config.inference import InferenceConfig

__all__ = ["Dates", "EvaluateConfig", "LocateConfig", "ServeConfig"]

#: What counts of several dates of a cell: its best score, less what the best of so many gains by chance; the mean of
#: their scores; that of the newest.
Dates = Literal["max", "mean", "latest"]


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
