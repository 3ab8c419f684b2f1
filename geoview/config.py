"""One dataclass a command: the YAML schema and the flags come from these fields, their help from these docstrings.

Imports nothing heavy, so that `--help` stays quick. Units are in the names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import jsonargparse

from geoview.errors import ConfigError

__all__ = [
    "AerialView",
    "AugmentConfig",
    "BuildConfig",
    "DataConfig",
    "DemoConfig",
    "EncoderConfig",
    "GroundView",
    "InferenceConfig",
    "LocateConfig",
    "OptimiserConfig",
    "PlanView",
    "RenderPhotosConfig",
    "RenderRegionConfig",
    "TrainConfig",
    "ViewSpec",
    "differing_keys",
    "from_mapping",
]


_MIN_VIEW_PX = 16


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class GroundView:
    """What a street photo shows the encoder: a window of an equirectangular panorama.

    Columns are azimuth, rows are elevation, the horizon is in the middle. Perspective photos are laid on the same grid
    at the same pixels per degree, so that one set of weights sees a house at one size whatever the camera. The default
    is the geometry in which Sample4Geo sees CVUSA.

    Attributes:
        width_px: Width of the full view.
        height_px: Height of the view.
        fov_deg: Azimuth that `width_px` spans; 360 for panoramas.
        vertical_fov_deg: Elevation that `height_px` spans.
    """

    width_px: int = 768
    height_px: int = 140
    fov_deg: float = 360.0
    vertical_fov_deg: float = 65.6

    def __post_init__(self) -> None:
        _require(self.width_px >= _MIN_VIEW_PX, f"width_px of a ground view must be at least {_MIN_VIEW_PX}")
        _require(self.height_px >= _MIN_VIEW_PX, f"height_px of a ground view must be at least {_MIN_VIEW_PX}")
        _require(0 < self.fov_deg <= 360, "fov_deg of a ground view must be in (0, 360]")
        _require(0 < self.vertical_fov_deg <= 180, "vertical_fov_deg of a ground view must be in (0, 180]")


@dataclass(frozen=True)
class PlanView:
    """What a street photo shows the encoder: the level ground that it would be of, seen from above, north up.

    Streets then run in a photo as they do in a chip of the same size, whatever the camera; what stands on the ground is
    drawn out away from the photographer, and what is above the horizon is not seen. What nobody knows of a camera is
    tried in turn: its heading, and what bends the plan most, the height of panoramas and the tilt of other photos.

    Attributes:
        size_px: Edge of the picture, the photographer in the middle.
        gsd_m: Metres per pixel, best those of the aerial view.
        headings: How many headings, evenly spaced, are tried for a photo whose heading is not known.
        eye_heights_m: Heights of cameras above the ground; all are tried for panoramas. Training lays photos out from
            the first.
        pitches_deg: How far cameras look up; all are tried for perspective photos.
    """

    size_px: int = 96
    gsd_m: float = 0.6
    headings: int = 16
    eye_heights_m: tuple[float, ...] = (2.0, 1.6, 2.4)
    pitches_deg: tuple[float, ...] = (0.0, -3.0, 3.0)

    def __post_init__(self) -> None:
        for name in ("eye_heights_m", "pitches_deg"):  # JSON knows lists only
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        _require(self.size_px >= _MIN_VIEW_PX, f"size_px of a plan view must be at least {_MIN_VIEW_PX}")
        _require(self.gsd_m > 0, "gsd_m of a plan view, metres per pixel, must be above 0")
        _require(self.headings >= 1, "headings of a plan view must be at least 1")
        _require(
            len(self.eye_heights_m) > 0 and all(height_m > 0 for height_m in self.eye_heights_m),
            "eye_heights_m of a plan view must be heights above 0",
        )
        _require(
            len(self.pitches_deg) > 0 and all(abs(pitch_deg) < 90 for pitch_deg in self.pitches_deg),
            "pitches_deg of a plan view must be angles between -90 and 90",
        )

    @property
    def reach_m(self) -> float:
        """How far it shows the ground, from the photographer to the middle of an edge."""
        return self.size_px * self.gsd_m / 2


@dataclass(frozen=True)
class AerialView:
    """What a chip shows the encoder: a square of known ground size. The default is about one level-16 cell.

    Attributes:
        size_px: Edge of the picture.
        gsd_m: Metres per pixel.
    """

    size_px: int = 384
    gsd_m: float = 0.4

    def __post_init__(self) -> None:
        _require(self.size_px >= _MIN_VIEW_PX, f"size_px of an aerial view must be at least {_MIN_VIEW_PX}")
        _require(self.gsd_m > 0, "gsd_m of an aerial view, metres per pixel, must be above 0")

    @property
    def ground_size_m(self) -> float:
        """Edge of the ground square."""
        return self.size_px * self.gsd_m


#: Geometry of a view.
ViewSpec = GroundView | PlanView | AerialView


@dataclass(frozen=True)
class EncoderConfig:
    """Architecture and views of an encoder.

    Attributes:
        backbone: Name of any timm model.
        backbone_args: Arguments for that timm model, such as `drop_path_rate`.
        pretrained: Weights to start from: safetensors, or a state dict that holds tensors only. Without it, training
            starts from random weights.
        colour: What pictures are scaled by: `dataset`, the mean and deviation of ImageNet, or `picture`, those of each
            picture, which takes out much of what sensor, light and season do.
        ground: What a street photo shows the encoder: a strip of its panorama.
        plan: Instead of that strip: a plan of the ground before it.
        aerial: What a chip shows the encoder.
    """

    backbone: str = "convnext_base"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    colour: Literal["dataset", "picture"] = "dataset"
    ground: GroundView = field(default_factory=GroundView)
    plan: PlanView | None = None
    aerial: AerialView = field(default_factory=AerialView)

    @property
    def street(self) -> GroundView | PlanView:
        """What a street photo shows the encoder."""
        return self.plan or self.ground


@dataclass(frozen=True)
class DataConfig:
    """Pairs of pictures of the same ground.

    Attributes:
        pairs: CSV with the columns `query_path, reference_path, lat, lon, heading_deg, fov_deg`, where a side without a
            path is cut from that side's imagery at lat, lon; or the folder of CVUSA, CVACT, VIGOR or University-1652.
        split: Which part of such a data set, such as `train` or `same_train`.
        labels: Whose labels of it: VIGOR has `corrected` ones too.
        query_view: What the query side shows: street photos, or imagery of another date.
        query_imagery: Imagery of the query side: rasters, folders, pyramids or manifests.
        reference_imagery: Imagery of the reference side.
        validation_share: Share of the pairs held out for validation, drawn by blocks of about 1 km.
        blocks_per_batch: A batch meets pairs of this many blocks of about 1 km, so that its negatives are neighbours;
            0 mixes all pairs.
        mining: What batches are made of instead: `gps`, pairs that are near each other; `similarity`, pairs whose
            references the encoder takes for one another, mined anew every few epochs, and before the first time pairs
            that are near each other, if all positions are known.
        mine_every_epochs: How often similarity is mined.
        neighbours: How many neighbours of each pair are mined.
        neighbours_a_seed: How many of them come with a pair into its batch, half of them the nearest.
    """

    pairs: str
    split: str | None = None
    labels: Literal["original", "corrected"] = "original"
    query_view: Literal["ground", "aerial"] = "ground"
    query_imagery: list[str] = field(default_factory=list)
    reference_imagery: list[str] = field(default_factory=list)
    validation_share: float = 0.0
    blocks_per_batch: int = 0
    mining: Literal["none", "gps", "similarity"] = "none"
    mine_every_epochs: int = 4
    neighbours: int = 128
    neighbours_a_seed: int = 64

    def __post_init__(self) -> None:
        _require(self.blocks_per_batch >= 0, "data.blocks_per_batch must not be negative")
        _require(
            self.mining == "none" or not self.blocks_per_batch,
            "data.mining and data.blocks_per_batch exclude each other: each says which pairs meet in a batch",
        )
        for name in ("mine_every_epochs", "neighbours", "neighbours_a_seed"):
            _require(getattr(self, name) >= 1, f"data.{name} must be at least 1")
        _require(0 <= self.validation_share < 1, "data.validation_share must be in [0, 1)")


@dataclass(frozen=True)
class AugmentConfig:
    """Changes to the training pictures.

    Cropping, turning and mirroring change both sides of a pair alike; what is drawn for each side apart is what the
    encoder learns to overlook. Crops, offsets and jitter need imagery to cut from: picture files are turned and
    mirrored only.

    Attributes:
        crop_min_share: Both sides are cut to one random square within the pair's ground, its edge at least this share
            of the ground's; what an offset shows beyond it is hidden, as at the edge of imagery. 1 keeps the whole.
        crop_rotation_deg: Largest turn of that square; it still lies within the pair's ground.
        query_offset_m: Largest shift of a query chip's centre along each axis.
        reference_offset_m: Largest shift of a reference chip's centre along each axis: cells are not centred on photos.
        scale_jitter: Largest relative change of a chip's gsd, drawn for each side.
        rotation_jitter_deg: Largest turn of a chip, drawn for each side.
        turn: Turn both sides by the same random multiple of 90 degrees: a panorama is rolled, a chip or plan rotated.
        flip: Mirror both sides, half of the time.
        gamma: Deviation of the logarithm of gamma.
        channel_mix: Deviation of the matrix that mixes the colour channels from the identity.
        gain: Deviation of the logarithm of each channel's gain.
        saturation: Deviation of the logarithm of the saturation.
        contrast: Deviation of the logarithm of the contrast.
        brightness: Deviation of the brightness, in units of the full scale.
        greyscale_share: Share of the pictures that lose their colour.
        blur_share: Share of the pictures that are blurred.
        noise: Largest deviation of the noise, in units of the full scale.
        erase_share: Share of the pictures that lose a rectangle.
    """

    crop_min_share: float = 1.0
    crop_rotation_deg: float = 0.0
    query_offset_m: float = 0.0
    reference_offset_m: float = 0.0
    scale_jitter: float = 0.0
    rotation_jitter_deg: float = 0.0
    turn: bool = True
    flip: bool = True
    gamma: float = 0.2
    channel_mix: float = 0.05
    gain: float = 0.1
    saturation: float = 0.2
    contrast: float = 0.2
    brightness: float = 0.05
    greyscale_share: float = 0.1
    blur_share: float = 0.1
    noise: float = 0.02
    erase_share: float = 0.2

    def __post_init__(self) -> None:
        _require(0 < self.crop_min_share <= 1, "augment.crop_min_share must be in (0, 1]")
        _require(
            0 <= self.crop_rotation_deg <= 45, "augment.crop_rotation_deg must be in [0, 45]; `turn` adds right angles"
        )
        for name in ("query_offset_m", "reference_offset_m"):
            _require(getattr(self, name) >= 0, f"augment.{name} must not be negative")
        _require(0 <= self.scale_jitter < 1, "augment.scale_jitter must be in [0, 1)")
        _require(self.rotation_jitter_deg >= 0, "augment.rotation_jitter_deg must not be negative")
        for name in ("greyscale_share", "blur_share", "erase_share"):
            _require(0 <= getattr(self, name) <= 1, f"augment.{name} must be in [0, 1]")
        for name in ("gamma", "channel_mix", "gain", "saturation", "contrast", "brightness", "noise"):
            _require(getattr(self, name) >= 0, f"augment.{name} must not be negative")


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with linear warm-up and a cosine schedule.

    Attributes:
        steps: Batches to train on. 0 writes the encoder as it starts: the way to convert published weights.
        batch_size: Pairs a batch; every pair is another pair's negative.
        learning_rate: Peak of the schedule.
        weight_decay: On matrices and kernels only, never on biases, norms or the temperature.
        warmup_steps: Batches until the peak.
        label_smoothing: Of the cross entropy.
        temperature: Start of the learnt temperature of InfoNCE; pretrained weights that bring one start from theirs.
        clip_norm: Largest norm of the gradient.
        ignore_within_m: Other pairs of a batch this near are no negatives: they show the same ground.
    """

    steps: int = 10_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 250
    label_smoothing: float = 0.1
    temperature: float = 0.07
    clip_norm: float = 1.0
    ignore_within_m: float = 0.0

    def __post_init__(self) -> None:
        _require(self.steps >= 0, "optimiser.steps must not be negative")
        _require(self.batch_size >= 2, "optimiser.batch_size must be at least 2: InfoNCE needs negatives")
        _require(self.learning_rate > 0, "optimiser.learning_rate must be above 0")
        for name in ("weight_decay", "warmup_steps", "clip_norm", "ignore_within_m"):
            _require(getattr(self, name) >= 0, f"optimiser.{name} must not be negative")
        _require(self.temperature > 0, "optimiser.temperature must be above 0")
        _require(0 <= self.label_smoothing < 1, "optimiser.label_smoothing must be in [0, 1)")


@dataclass(frozen=True)
class InferenceConfig:
    """How an encoder is run.

    Attributes:
        batch_size: Pictures a batch.
        device: `auto` takes a GPU where there is one; else a torch device such as `cpu` or `cuda:1`.
        precision: `auto` is bfloat16 on a GPU that has it and float32 elsewhere.
        num_workers: Threads that decode pictures and cut chips ahead of the encoder.
    """

    batch_size: int = 64
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    num_workers: int = 2

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "batch_size must be at least 1")
        _require(self.num_workers >= 1, "num_workers must be at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """Trains an encoder on pairs of pictures of the same ground.

    Attributes:
        out: Run folder: resolved config, metrics, checkpoint and the encoder. A run that was cut off goes on from here.
        data: Pairs of pictures of the same ground.
        encoder: Architecture and views.
        augment: Changes to the training pictures.
        optimiser: AdamW and its schedule.
        seed: Of everything that is drawn.
        device: `auto`, `cpu`, `cuda`.
        precision: `auto` is bfloat16 on a GPU that has it and float32 elsewhere.
        num_workers: Processes that read pictures ahead of the model; 0 reads them in the training process.
        checkpoint_every_steps: A run that was killed repeats at most this many batches.
    """

    out: str
    data: DataConfig
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    num_workers: int = 2
    checkpoint_every_steps: int = 500

    def __post_init__(self) -> None:
        _require(self.checkpoint_every_steps >= 1, "checkpoint_every_steps must be at least 1")
        _require(self.num_workers >= 0, "num_workers must not be negative")


@dataclass(frozen=True)
class BuildConfig(InferenceConfig):
    """Builds an index: a code for every S2 cell of a region that the imagery covers.

    Attributes:
        encoder: Encoder folder.
        imagery: Rasters, folders of rasters, z/x/y or MBTiles pyramids, or manifests.
        out: Index folder to write.
        region: GeoJSON polygons to cover; without it, what the imagery covers.
        level: S2 level of the cells: 16 (about 130 m), 17 or 18.
        min_coverage: Least share of valid ground in a cell's chip; below it the cell is recorded and gets no code.
        overwrite: Replace an index that is there already.
    """

    encoder: str = field(kw_only=True)
    imagery: list[str] = field(kw_only=True)
    out: str = field(kw_only=True)
    region: str | None = None
    level: int = 16
    min_coverage: float = 0.5
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(8 <= self.level <= 20, "level must be between 8 and 20; 16 to 18 are usual")
        _require(0 < self.min_coverage <= 1, "min_coverage must be in (0, 1]")
        _require(len(self.imagery) > 0, "imagery names no file")


@dataclass(frozen=True)
class LocateConfig(InferenceConfig):
    """Tells where photos were taken.

    Attributes:
        index: Index folder.
        top_k: Places to answer for each photo; they never touch one another.
        region: GeoJSON polygons to search in.
        near: Search around this point, `LAT,LON` (write `--near=-33.9,-70.6` with a sign), or each photo's own
            position, `exif`.
        radius_m: Radius around `near`.
        view: What the photos show: `ground` (street photos) or `aerial` (seen from above).
        fov_deg: Horizontal field of view of perspective photos that do not tell it themselves.
        gsd_m: Metres per pixel of aerial photos; a GeoTIFF brings its own.
        out: File to write, by suffix: .csv, .geojson or .html. Without it, CSV goes to standard output.
        imagery: Imagery for the chips and the map of an HTML answer; without it, the one that the index was built from.
        overwrite: Replace `out` if it is there already.
    """

    index: str = field(kw_only=True)
    top_k: int = 10
    region: str | None = None
    near: str | None = None
    radius_m: float | None = None
    view: Literal["ground", "aerial"] = "ground"
    fov_deg: float | None = None
    gsd_m: float | None = None
    out: str | None = None
    imagery: list[str] = field(default_factory=list)
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.top_k >= 1, "top_k must be at least 1")
        _require(self.fov_deg is None or 0 < self.fov_deg <= 360, "fov_deg must be in (0, 360]")
        _require(self.gsd_m is None or self.gsd_m > 0, "gsd_m must be above 0")
        _require((self.near is None) == (self.radius_m is None), "near and radius_m go together")
        _require(self.radius_m is None or self.radius_m > 0, "radius_m must be above 0")


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
        _require(self.seed >= 0, "seed must not be negative")
        for name in ("n_panoramas", "n_perspective"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative")
        _require(0 < self.gsd_m <= 5, "gsd_m, metres per pixel, must be above 0, at most 5")
        for name in ("width_m", "height_m"):
            _require(0 < getattr(self, name) < float("inf"), f"{name} must be above 0")
        _require(self.range_m >= 20, "range_m must be at least 20")
        _require(self.num_workers >= 1, "num_workers must be at least 1")


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
        _require(len(self.ortho) > 0, "ortho names no file; heights and trees say what stands on it, not how it looks")
        _require(
            bool(self.heights) != (self.trees is not None),
            "what rises from the ground must be known, from one source: give either heights or trees",
        )
        _require(
            len(self.heights) in (0, 1, len(self.ortho)),
            f"heights names {len(self.heights)} files for {len(self.ortho)} of ortho; give one, or one for each",
        )
        _require(self.heights_unit is None or bool(self.heights), "heights_unit is of heights, and none are given")
        _require(self.n is None or not self.at, "n and at exclude each other: one photo is taken at each position")
        _require(self.n is None or self.n >= 1, "n must be at least 1")
        if self.fov_deg is not None:
            _require(1 <= len(self.fov_deg) <= 2, "fov_deg is one number, or the least and the largest")
            for fov_deg in self.fov_deg:
                _require(
                    20 <= fov_deg <= 140,
                    f"fov_deg is {fov_deg:g}: a perspective photo spans 20 to 140 degrees; for all round use panorama",
                )
            _require(self.fov_deg[0] <= self.fov_deg[-1], "fov_deg: give the least first, then the largest")
            _require(self.kind == "perspective", "fov_deg is of kind perspective; a panorama spans 360 degrees")
        _require(self.size_px is None or 64 <= self.size_px <= 8192, "size_px must be within 64 and 8192")
        _require(self.range_m >= 50, "range_m must be at least 50")
        _require(self.seed >= 0, "seed must not be negative")
        _require(self.num_workers >= 1, "num_workers must be at least 1")


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
        _require(0 <= self.seed < 1_000_000, "seed must be in [0, 1000000): above are the regions to learn from")


Config = TypeVar("Config")


def from_mapping(kind: type[Config], values: dict[str, Any]) -> Config:
    """Makes a config from nested mappings, as YAML holds them.

    Args:
        kind: One of the dataclasses above.
        values: Its fields; those left out keep their defaults.

    Raises:
        ConfigError: A value that cannot be.
        jsonargparse.ArgumentError: A key that is none of the fields, or a value of the wrong type.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "config")
    try:
        config: Config = parser.instantiate(parser.parse_object({"config": values})).config
    except ValueError as error:
        # What a part that may be left out refuses comes wrapped in many lines.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ConfigError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None
    return config


def differing_keys(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns the dotted keys in which two resolved configs differ, sorted."""
    found: list[str] = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}")
    return found
