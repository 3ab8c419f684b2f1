"""Pairs as pictures: each side read from its file or cut from its imagery, both turned and mirrored alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

import tiles
from geoview.config import AerialView, AugmentConfig, ConditionsConfig, GroundView, PlanView, Seen, ViewSpec
from geoview.data.conditions import taken_otherwise
from geoview.data.pairs import PairTable
from geoview.data.photos import load_image, read_metadata
from geoview.data.views import Pose, StreetPhoto, View, fit_view
from geoview.errors import ConfigError, PairTableError
from geoview.geo.sphere import destination_deg

__all__ = ["Batch", "Pair", "PairPictures", "Side", "open_sides", "stack_pairs"]

#: (pixels (B, 3, H, W) uint8, valid (B, H, W) bool)
Batch = tuple[Tensor, Tensor]

# Tells the stream that conditions are drawn from apart from the one of the same seed, step and row.
_CONDITIONS = 1


@dataclass(frozen=True)
class Side:
    """Where one side of the pairs comes from.

    Attributes:
        paths: A file a query or a reference, or an empty name: then the picture is cut from the imagery.
        imagery: None where every picture has a file.
        view: Geometry that the encoder sees.
    """

    paths: tuple[str, ...]
    imagery: tiles.ImagerySource | None
    view: ViewSpec


def open_sides(
    table: PairTable,
    query_view: ViewSpec,
    reference_view: AerialView,
    *,
    query_imagery: Sequence[str],
    reference_imagery: Sequence[str],
    keys: tuple[str, str],
) -> tuple[Side, Side]:
    """Opens what the two sides of a table come from.

    Args:
        table: The pairs.
        query_view: Geometry of the query side.
        reference_view: Geometry of the reference side.
        query_imagery: Where query pictures without a file are cut from.
        reference_imagery: The same for references.
        keys: The settings that name the two imageries, for messages.

    Raises:
        ConfigError: A side has pictures without a file, and no imagery.
        PairTableError: A street photo without a file, or one to be laid out as a plan without a heading.
        TilesError: Imagery cannot be opened.
    """
    sides = (
        (table.query_path, query_imagery, query_view, keys[0]),
        (table.reference_path, reference_imagery, reference_view, keys[1]),
    )
    query, reference = (Side(paths, _imagery(uris, paths, key, table), view) for paths, uris, view, key in sides)
    if isinstance(query_view, GroundView | PlanView) and not all(table.query_path):
        raise PairTableError(f"{table.name}: street photos are files; every pair needs a query_path")
    if isinstance(query_view, PlanView) and np.isnan(table.heading_deg).any():
        raise PairTableError(
            f"{table.name}: plans of photos are laid out by their heading; fill in every pair's heading_deg, or "
            "take an encoder of strips, without encoder.plan"
        )
    return query, reference


def _imagery(uris: Sequence[str], paths: tuple[str, ...], key: str, table: PairTable) -> tiles.ImagerySource | None:
    if all(paths):
        return None
    if not uris:
        raise ConfigError(f"{table.name}: has pairs without a file on one side; name their imagery in {key}")
    return tiles.open_source(list(uris))


#: The views of a pair, and its row in the table.
Pair = tuple[View, View, int]


class PairPictures(Dataset[Pair]):
    """The pictures of a pair table, with the geometry of the augmentation drawn anew for each step.

    Chips that are cut from imagery are shifted, scaled and turned in the one resampling that cuts them. Pictures from
    files are turned by right angles and mirrored only.
    """

    def __init__(
        self, table: PairTable, query: Side, reference: Side, augment: AugmentConfig | None, *, seed: int = 0
    ) -> None:
        """Makes the data set.

        Args:
            table: The pairs.
            query: Where the query side comes from.
            reference: Where the reference side comes from.
            augment: None for pictures as they are.
            seed: Of what is drawn.

        Raises:
            ConfigError: The augmentation is not for such queries.
        """
        if augment is not None:
            _refuse_conditions(augment.conditions, query.view)
        self.table, self._query, self._reference = table, query, reference
        self._augment, self._seed = augment, seed

    @property
    def query_seen(self) -> Seen:
        """What queries are of."""
        return "aerial" if isinstance(self._query.view, AerialView) else "ground"

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: tuple[int, int]) -> Pair:
        """Reads one pair.

        Args:
            key: (step, row): what is drawn depends on both and the seed, and on nothing else.

        Raises:
            UnreadableImageError: A file cannot be decoded.
            TilesError: A chip cannot be cut.
        """
        step, row = key
        rng = np.random.default_rng([self._seed, step, row])
        ground = _Ground.drawn(self._augment, rng)
        mirrored = bool(self._augment and self._augment.flip and rng.random() < 0.5)
        query = self._query_side(step, row, self._augment, ground, rng)
        reference = self._reference_side(row, self._augment, ground, rng)
        return (_mirrored(query), _mirrored(reference), row) if mirrored else (query, reference, row)

    def query(self, row: int) -> View:
        """Reads the query of a pair as it is, nothing drawn."""
        return self._query_side(0, row, None, _UPRIGHT, np.random.default_rng(0))

    def reference(self, row: int) -> View:
        """Reads the reference of a pair as it is, nothing drawn."""
        return self._reference_side(row, None, _UPRIGHT, np.random.default_rng(0))

    def gallery(self, at: int) -> View:
        """Reads a reference by its own row among all of them, as it is; distractors are of no pair."""
        return self._reference_at(at, None, _UPRIGHT, np.random.default_rng(0))

    def window(self, row: int, *, turn_deg: float, window_deg: float) -> View:
        """Reads the query of a pair, which goes all round, as a strip that shows a part of it.

        Args:
            row: The pair.
            turn_deg: Heading of the strip's middle column.
            window_deg: Azimuth that the strip shows.

        Raises:
            ConfigError: The photo does not go all round.
            UnreadableImageError: It cannot be decoded.
        """
        view = self._query.view
        assert isinstance(view, GroundView), "evaluate asks for windows of strips alone"
        photo, heading_deg = self._photo(row)
        if not photo.goes_round:
            raise ConfigError(
                f"{self._query.paths[row]}: spans {photo.fov_deg:g} degrees; only panoramas that go all round can be "
                "turned, or shown in part: leave fov_deg and turned out"
            )
        shown = replace(photo, pose=Pose(fov_deg=window_deg))
        return shown.strip(view, (0.0 if heading_deg is None else heading_deg) - turn_deg)

    def _query_side(
        self, step: int, row: int, augment: AugmentConfig | None, ground: _Ground, rng: np.random.Generator
    ) -> View:
        if isinstance(self._query.view, GroundView | PlanView):
            conditions = None if augment is None or augment.conditions.is_off else augment.conditions
            return self._street(step, row, self._query.view, 90.0 * ground.quarter, conditions)
        offset_m = augment.query_offset_m if augment else 0.0
        return _from_above(
            self._query, self._query.view, row, self.table.latlon_deg[row], augment, ground, offset_m, rng
        )

    def _reference_side(
        self, row: int, augment: AugmentConfig | None, ground: _Ground, rng: np.random.Generator
    ) -> View:
        return self._reference_at(int(self.table.positive[row]), augment, ground, rng)

    def _reference_at(self, at: int, augment: AugmentConfig | None, ground: _Ground, rng: np.random.Generator) -> View:
        assert isinstance(self._reference.view, AerialView), "references are seen from above"
        offset_m = augment.reference_offset_m if augment else 0.0
        return _from_above(
            self._reference,
            self._reference.view,
            at,
            self.table.reference_latlon_deg[at],
            augment,
            ground,
            offset_m,
            rng,
        )

    def _street(
        self, step: int, row: int, view: GroundView | PlanView, turn_deg: float, conditions: ConditionsConfig | None
    ) -> View:
        photo, heading_deg = self._photo(row)
        assert heading_deg is not None or isinstance(view, GroundView), "open_sides asks for headings of plans"
        heading_deg = (heading_deg or 0.0) - turn_deg
        if conditions is None:
            return photo.laid_out(view, heading_deg)
        # A stream of its own: what both sides share is drawn alike whatever the conditions.
        rng = np.random.default_rng([self._seed, step, row, _CONDITIONS])
        return taken_otherwise(photo, view, heading_deg, conditions, rng)

    def _photo(self, row: int) -> tuple[StreetPhoto, float | None]:
        """Returns a query's photo and its heading: that of the table, or else of the file."""
        path = self._query.paths[row]
        metadata = read_metadata(path)
        heading_deg = _known(self.table.heading_deg[row])
        photo = StreetPhoto.open(path, metadata, fov_deg=_known(self.table.fov_deg[row]))
        return photo, metadata.heading_deg if heading_deg is None else heading_deg


@dataclass(frozen=True)
class _Ground:
    """The square of ground that both sides of a pair show, relative to the pair's own north-up square.

    Attributes:
        quarter: Right angles that its top is turned clockwise from north.
        tilt_deg: Further turn.
        share: Its edge.
        centre: (east, north) of its centre from that of the pair, in edges of the pair's square.
    """

    quarter: int
    tilt_deg: float
    share: float
    centre: NDArray[np.float64]

    @classmethod
    def drawn(cls, augment: AugmentConfig | None, rng: np.random.Generator) -> Self:
        if augment is None:
            return cls(0, 0.0, 1.0, np.zeros(2))
        quarter = int(rng.integers(4)) if augment.turn else 0
        tilt_deg = rng.uniform(-augment.crop_rotation_deg, augment.crop_rotation_deg)
        # A turned square's upright bounds are this much wider than itself: they must fit into the pair's square.
        spread = abs(np.cos(np.radians(tilt_deg))) + abs(np.sin(np.radians(tilt_deg)))
        share = np.exp(rng.uniform(np.log(augment.crop_min_share), 0.0)) / spread
        room = (1.0 - share * spread) / 2
        return cls(quarter, tilt_deg, float(share), rng.uniform(-room, room, 2) if room > 0 else np.zeros(2))

    @property
    def heading_deg(self) -> float:
        return 90.0 * self.quarter + self.tilt_deg

    @property
    def is_crop(self) -> bool:
        return self.share < 1.0


_UPRIGHT = _Ground(0, 0.0, 1.0, np.zeros(2))


def _from_above(
    side: Side,
    view: AerialView,
    at: int,
    latlon_deg: NDArray[np.float64],
    augment: AugmentConfig | None,
    ground: _Ground,
    offset_m: float,
    rng: np.random.Generator,
) -> View:
    """Reads picture `at` of a side from its file, or cuts it from the side's imagery."""
    if side.paths[at]:
        seen = fit_view(load_image(side.paths[at]), view)
        return View(np.rot90(seen.pixels, ground.quarter), np.rot90(seen.valid, ground.quarter))
    assert side.imagery is not None, "open_sides opens imagery for sides without paths"
    scale, tilt_deg, offset = 1.0, 0.0, np.zeros(2)
    if augment is not None:
        scale += rng.uniform(-augment.scale_jitter, augment.scale_jitter)
        tilt_deg = rng.uniform(-augment.rotation_jitter_deg, augment.rotation_jitter_deg)
        offset = rng.uniform(-offset_m, offset_m, 2) / view.ground_size_m
    centre_m = (ground.centre + ground.share * _turned(offset, ground.heading_deg)) * view.ground_size_m
    chip = side.imagery.chip(
        destination_deg(latlon_deg, np.degrees(np.arctan2(*centre_m)), np.hypot(*centre_m)),
        size_px=view.size_px,
        gsd_m=view.gsd_m * ground.share * scale,
        heading_deg=ground.heading_deg + tilt_deg,
    )
    if not ground.is_crop:
        return View(chip.pixels, chip.valid)
    across = (np.arange(view.size_px) + 0.5) / view.size_px - 0.5
    right, up = np.meshgrid(across, -across)
    shown = _turned(np.stack([right, up], axis=-1), tilt_deg) * scale + offset
    return View(chip.pixels, chip.valid & (np.abs(shown) <= 0.5).all(axis=-1))


def _refuse_conditions(conditions: ConditionsConfig, view: ViewSpec) -> None:
    """Refuses conditions that cannot be drawn for such queries."""
    if isinstance(view, AerialView) and not conditions.is_off:
        raise ConfigError(
            "augment.conditions are those of street photos, and data.query_view is aerial; leave augment.conditions out"
        )
    if isinstance(view, PlanView) and conditions.unknown_heading:
        raise ConfigError(
            "augment.conditions.unknown_heading is for strips, and plans (encoder.plan) are laid out by a heading; "
            "leave it out: augment.rotation_jitter_deg and the headings that are tried make up for it"
        )


def _turned(right_up: NDArray[np.float64], heading_deg: float) -> NDArray[np.float64]:
    """Turns (..., 2) vectors (right, up) of a frame whose top has a heading to (east, north)."""
    sine, cosine = np.sin(np.radians(heading_deg)), np.cos(np.radians(heading_deg))
    turned: NDArray[np.float64] = right_up @ np.array([[cosine, -sine], [sine, cosine]])
    return turned


def stack_pairs(pairs: Sequence[Pair]) -> tuple[Batch, Batch, Tensor]:
    """Stacks pairs: queries, references, and (B,) rows of the table; narrower views are padded as not valid."""
    queries, references, rows = zip(*pairs, strict=True)
    return _stack(queries), _stack(references), torch.tensor(rows)


def _stack(views: Sequence[View]) -> Batch:
    width = max(view.valid.shape[1] for view in views)
    pixels, valid = [], []
    for view in views:
        missing = width - view.valid.shape[1]
        pad = (missing // 2, missing - missing // 2)
        pixels.append(F.pad(torch.from_numpy(view.pixels.copy()).permute(2, 0, 1), pad))
        valid.append(F.pad(torch.from_numpy(view.valid.copy()), pad))
    return torch.stack(pixels), torch.stack(valid)


def _mirrored(view: View) -> View:
    return View(view.pixels[:, ::-1], view.valid[:, ::-1])


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
