"""What a training run is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from geoview.config.checks import require
from geoview.config.views import AerialView, GroundView, PlanView

__all__ = [
    "AugmentConfig",
    "ConditionsConfig",
    "DataConfig",
    "EncoderConfig",
    "OptimiserConfig",
    "PrototypesConfig",
    "TrainConfig",
]


@dataclass(frozen=True)
class EncoderConfig:
    """Architecture and views of an encoder.

    Attributes:
        backbone: Name of any timm model.
        backbone_args: Arguments for that timm model, such as `drop_path_rate`.
        pretrained: Weights to start from: an encoder folder, safetensors, or a state dict that holds tensors only; an
            encoder folder brings its head, if that is of the same form. Without it, training starts from random
            weights.
        colour: What pictures are scaled by: `dataset`, the mean and deviation of ImageNet, or `picture`, those of each
            picture, which takes out much of what sensor, light and season do.
        head: What makes the embedding of the network's features: their `mean`, what is where in a `grid` of three by
            three squares, which suits views of one geometry as plans and chips are, or `attention`.
        head_size: Values kept of each square of the grid; or how many attention heads.
        shared: One set of weights for both views; else street photos have their own, but for the head.
        ground: What a street photo shows the encoder: a strip of its panorama.
        plan: Instead of that strip: a plan of the ground before it.
        aerial: What a chip shows the encoder.
    """

    backbone: str = "convnext_base"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    colour: Literal["dataset", "picture"] = "dataset"
    head: Literal["mean", "grid", "attention"] = "mean"
    head_size: int = 64
    shared: bool = True
    ground: GroundView = field(default_factory=GroundView)
    plan: PlanView | None = None
    aerial: AerialView = field(default_factory=AerialView)

    def __post_init__(self) -> None:
        require(self.head_size >= 1, "encoder.head_size must be at least 1")

    @property
    def street(self) -> GroundView | PlanView:
        """What a street photo shows the encoder."""
        return self.plan or self.ground


@dataclass(frozen=True)
class DataConfig:
    """Pairs of pictures of the same ground.

    Attributes:
        pairs: CSV or Parquet with the columns `query_path` (or `path`), `reference_path, lat, lon, heading_deg,
            fov_deg`, where a side without a path is cut from that side's imagery at lat, lon; or a folder of photos
            whose EXIF, or `photos.csv`, tells where they were taken; or the folder of CVUSA, CVACT, VIGOR or
            University-1652.
        split: Which part of such a data set, such as `train` or `same_train`.
        labels: Whose labels of it: VIGOR has `corrected` ones too.
        query_view: What the query side shows: street photos, or imagery of another date.
        query_imagery: Imagery of the query side: rasters, folders, pyramids or manifests.
        reference_imagery: Imagery of the reference side.
        max_missing_share: Share of the pairs that may lack a picture: they are named and left out; 0 for none.
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
    max_missing_share: float = 0.01
    validation_share: float = 0.0
    blocks_per_batch: int = 0
    mining: Literal["none", "gps", "similarity"] = "none"
    mine_every_epochs: int = 4
    neighbours: int = 128
    neighbours_a_seed: int = 64

    def __post_init__(self) -> None:
        require(self.blocks_per_batch >= 0, "data.blocks_per_batch must not be negative")
        require(
            self.mining == "none" or not self.blocks_per_batch,
            "data.mining and data.blocks_per_batch exclude each other: each says which pairs meet in a batch",
        )
        for name in ("mine_every_epochs", "neighbours", "neighbours_a_seed"):
            require(getattr(self, name) >= 1, f"data.{name} must be at least 1")
        require(0 <= self.max_missing_share < 1, "data.max_missing_share must be in [0, 1)")
        require(0 <= self.validation_share < 1, "data.validation_share must be in [0, 1)")


@dataclass(frozen=True)
class ConditionsConfig:
    """What an analyst's photo may be that the training photos are not; drawn for street photos only, never for chips.

    Shares are of the pictures; how strong a condition is, from hardly to plainly, is drawn with it.

    Attributes:
        fov_min_deg: Least field of view: panoramas show a window, its width drawn between this and `fov_max_deg`.
        fov_max_deg: Greatest field of view. A strip shows the window in its middle, as it does perspective photos; a
            plan shows its sector, in any direction.
        unknown_heading: Turn panoramas by any angle while the chip keeps north up. For strips: plans are laid out by a
            heading.
        pitch_deg: How far the camera looks up or down at most, untold.
        roll_deg: How far it leans at most, untold.
        focal_jitter: Deviation of the logarithm of the focal length that perspective photos are taken to have.
        night_share: Share taken at night, by the light of lamps.
        snow_share: Share with snow on the ground, and falling.
        defocus_share: Share out of focus.
        shake_share: Share smeared by a moving camera.
        screenshot_share: Share with bars at its edges, taken for a part of the photo.
        jpeg_share: Share compressed once more, to a quality of 20 to 60 at the size that the encoder sees.
    """

    fov_min_deg: float = 360.0
    fov_max_deg: float = 360.0
    unknown_heading: bool = False
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    focal_jitter: float = 0.0
    night_share: float = 0.0
    snow_share: float = 0.0
    defocus_share: float = 0.0
    shake_share: float = 0.0
    screenshot_share: float = 0.0
    jpeg_share: float = 0.0

    def __post_init__(self) -> None:
        require(0 < self.fov_max_deg <= 360, "augment.conditions.fov_max_deg must be in (0, 360]")
        require(
            0 < self.fov_min_deg <= self.fov_max_deg,
            f"augment.conditions.fov_min_deg must be above 0 and at most fov_max_deg, {self.fov_max_deg:g}",
        )
        for name in ("pitch_deg", "roll_deg"):
            require(0 <= getattr(self, name) <= 45, f"augment.conditions.{name} must be in [0, 45]")
        require(0 <= self.focal_jitter < math.inf, "augment.conditions.focal_jitter must not be negative")
        for name in ("night", "snow", "defocus", "shake", "screenshot", "jpeg"):
            share = getattr(self, f"{name}_share")
            require(0 <= share <= 1, f"augment.conditions.{name}_share must be in [0, 1]")

    @property
    def is_off(self) -> bool:
        """Whether photos stay as they are."""
        return self == ConditionsConfig()


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
        grid_dropout_share: Share of the pictures that lose a grid of squares. Sample4Geo has 0.15 of this and of the
            next.
        coarse_dropout_share: Share of the pictures that lose 10 to 25 scattered rectangles.
        conditions: What an analyst's photo may be that the training photos are not.
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
    grid_dropout_share: float = 0.0
    coarse_dropout_share: float = 0.0
    conditions: ConditionsConfig = field(default_factory=ConditionsConfig)

    def __post_init__(self) -> None:
        require(0 < self.crop_min_share <= 1, "augment.crop_min_share must be in (0, 1]")
        require(
            0 <= self.crop_rotation_deg <= 45, "augment.crop_rotation_deg must be in [0, 45]; `turn` adds right angles"
        )
        for name in ("query_offset_m", "reference_offset_m"):
            require(getattr(self, name) >= 0, f"augment.{name} must not be negative")
        require(0 <= self.scale_jitter < 1, "augment.scale_jitter must be in [0, 1)")
        require(self.rotation_jitter_deg >= 0, "augment.rotation_jitter_deg must not be negative")
        for name in ("greyscale_share", "blur_share", "erase_share", "grid_dropout_share", "coarse_dropout_share"):
            require(0 <= getattr(self, name) <= 1, f"augment.{name} must be in [0, 1]")
        for name in ("gamma", "channel_mix", "gain", "saturation", "contrast", "brightness", "noise"):
            require(getattr(self, name) >= 0, f"augment.{name} must not be negative")


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
        loss: `info_nce` as Sample4Geo has it, `decoupled` as Fervers et al. have it, or `multi_similarity`, which knows
            neither temperature nor label smoothing.
        micro_batch_size: How many pictures go through the network at once; the loss and its gradient are still those
            of the whole batch, each picture goes through twice. Without it, all do.
        gradient_checkpointing: Keep less of each picture for the gradient, and compute the rest again.
        ema_decay: Train on, but validate and keep, a running mean of the weights that moves by 1 - ema_decay a step; 0
            keeps the weights themselves.
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
    loss: Literal["info_nce", "decoupled", "multi_similarity"] = "info_nce"
    micro_batch_size: int | None = None
    gradient_checkpointing: bool = False
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        require(self.steps >= 0, "optimiser.steps must not be negative")
        require(self.batch_size >= 2, "optimiser.batch_size must be at least 2: InfoNCE needs negatives")
        require(self.learning_rate > 0, "optimiser.learning_rate must be above 0")
        for name in ("weight_decay", "warmup_steps", "clip_norm", "ignore_within_m"):
            require(getattr(self, name) >= 0, f"optimiser.{name} must not be negative")
        require(self.temperature > 0, "optimiser.temperature must be above 0")
        require(0 <= self.label_smoothing < 1, "optimiser.label_smoothing must be in [0, 1)")
        require(
            self.micro_batch_size is None or self.micro_batch_size >= 1, "optimiser.micro_batch_size must be at least 1"
        )
        require(0 <= self.ema_decay < 1, "optimiser.ema_decay must be in [0, 1)")


@dataclass(frozen=True)
class PrototypesConfig:
    """A table of prototypes that is learnt beside the encoder: a vector for each cell that training photos speak for.

    Photos and chips are to find the prototype of where they are among others, in the form of `optimiser.loss`
    (`decoupled` is `info_nce` here). A published form does not exist; this is our reading of what is told of
    Lindenberger et al. (NeurIPS 2025).

    Attributes:
        level: S2 level of their cells; smaller cells need more photos, and say more of what a photo shows.
        border: Photos speak for the four prototypes around them, by their distance; else for that of their own cell.
        frustum: Photos whose heading and field of view are known speak for the ground in front of them.
        negatives: Prototypes that are drawn for each batch to be told from; 0 takes the whole table.
        learning_rate: Of row-wise AdaGrad: the length of a prototype's first step, by element; by the encoder's
            schedule.
        ground_weight: Of photos against prototypes, where that of photos against chips is 1.
        aerial_weight: Of chips against prototypes.
    """

    level: int = 15
    border: bool = True
    frustum: bool = False
    negatives: int = 8192
    learning_rate: float = 0.03
    ground_weight: float = 1.0
    aerial_weight: float = 1.0

    def __post_init__(self) -> None:
        require(10 <= self.level <= 20, "prototypes.level must be between 10 and 20")
        require(self.negatives >= 0, "prototypes.negatives must not be negative")
        require(self.learning_rate > 0, "prototypes.learning_rate must be above 0")
        for name in ("ground_weight", "aerial_weight"):
            require(getattr(self, name) >= 0, f"prototypes.{name} must not be negative")
        require(self.ground_weight + self.aerial_weight > 0, "prototypes: one of the weights must be above 0")


@dataclass(frozen=True)
class TrainConfig:
    """Trains an encoder on pairs of pictures of the same ground.

    Attributes:
        out: Run folder: resolved config, metrics, curves, checkpoint and the encoder. A run that was cut off goes on
            from here.
        data: Pairs of pictures of the same ground.
        encoder: Architecture and views.
        augment: Changes to the training pictures.
        optimiser: AdamW and its schedule.
        prototypes: Prototypes to learn beside the encoder, for `geoview index build --prototypes`.
        seed: Of everything that is drawn.
        device: `auto`, `cpu`, `cuda`.
        processes: How many share each batch, a GPU each where there are, else the threads; negatives come from all of
            it.
        precision: `auto` is bfloat16 where the device multiplies it faster, float32 elsewhere.
        num_workers: Processes that read pictures ahead of the model; 0 reads them in the training process.
        checkpoint_every_steps: A run that was killed repeats at most this many batches. After as many, the pairs held
            out for validation are searched; the encoder that finds most of them is the one that is kept.
    """

    out: str
    data: DataConfig
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    prototypes: PrototypesConfig | None = None
    seed: int = 0
    device: str = "auto"
    processes: int = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    num_workers: int = 2
    checkpoint_every_steps: int = 500

    def __post_init__(self) -> None:
        require(self.checkpoint_every_steps >= 1, "checkpoint_every_steps must be at least 1")
        require(self.num_workers >= 0, "num_workers must not be negative")
        require(
            1 <= self.processes <= self.optimiser.batch_size // 2,
            "processes must be at least 1, and at most half of optimiser.batch_size",
        )
        require(
            self.prototypes is None or self.data.query_view == "ground",
            "prototypes are learnt of street photos: set data.query_view to ground, or leave prototypes out",
        )
        require(
            self.prototypes is None or not (self.augment.turn or self.augment.flip),
            "prototypes are of places, and a place that is turned or mirrored is another: set augment.turn and "
            "augment.flip to false",
        )
