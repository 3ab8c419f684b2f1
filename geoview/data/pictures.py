"""Pairs as pictures: each side read from its file or cut from its imagery, both turned and mirrored alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

import tiles
from geoview.config import AerialView, AugmentConfig, GroundView, ViewSpec
from geoview.data.pairs import PairTable
from geoview.data.photos import load_image, read_metadata
from geoview.data.views import View, fit_view, photo_view
from geoview.geo.sphere import destination_deg

__all__ = ["PairPictures", "Side", "stack_pairs"]

#: (pixels (B, 3, H, W) uint8, valid (B, H, W) bool)
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Side:
    """Where one side of the pairs comes from.

    Attributes:
        paths: A file a pair, or an empty name: then the picture is cut from the imagery.
        imagery: None where every pair has a file.
        view: Geometry that the encoder sees.
    """

    paths: tuple[str, ...]
    imagery: tiles.ImagerySource | None
    view: ViewSpec


class PairPictures(Dataset[tuple[View, View]]):
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
        """
        self._table, self._query, self._reference = table, query, reference
        self._augment, self._seed = augment, seed

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, key: tuple[int, int]) -> tuple[View, View]:
        """Reads one pair.

        Args:
            key: (step, row): what is drawn depends on both and the seed, and on nothing else.

        Raises:
            UnreadableImageError: A file cannot be decoded.
            TilesError: A chip cannot be cut.
        """
        step, row = key
        rng = np.random.default_rng([self._seed, step, row])
        quarter = int(rng.integers(4)) if self._augment and self._augment.turn else 0
        mirrored = bool(self._augment and self._augment.flip and rng.random() < 0.5)
        sides = [self._picture(side, row, quarter, rng) for side in (self._query, self._reference)]
        if mirrored:
            sides = [View(side.pixels[:, ::-1], side.valid[:, ::-1]) for side in sides]
        return sides[0], sides[1]

    def _picture(self, side: Side, row: int, quarter: int, rng: np.random.Generator) -> View:
        path = side.paths[row]
        if isinstance(side.view, GroundView):
            view = photo_view(
                path,
                read_metadata(path),
                side.view,
                fov_deg=_known(self._table.fov_deg[row]),
                heading_deg=_known(self._table.heading_deg[row]),
            )
            return _rolled(view, quarter) if view.pixels.shape[1] == side.view.width_px else view
        if path:
            view = fit_view(load_image(path), side.view)
            return View(np.rot90(view.pixels, quarter), np.rot90(view.valid, quarter))
        assert side.imagery is not None, "fit.py opens imagery for sides without paths"
        return self._chip(side.imagery, side.view, self._table.latlon_deg[row], 90.0 * quarter, rng)

    def _chip(
        self,
        imagery: tiles.ImagerySource,
        view: AerialView,
        latlon_deg: NDArray[np.float64],
        heading_deg: float,
        rng: np.random.Generator,
    ) -> View:
        gsd_m = view.gsd_m
        if self._augment is not None:
            right, up = rng.uniform(-self._augment.offset_m, self._augment.offset_m, 2)
            bearing_deg = heading_deg + np.degrees(np.arctan2(right, up))
            latlon_deg = destination_deg(latlon_deg, bearing_deg, np.hypot(right, up))
            gsd_m *= 1 + rng.uniform(-self._augment.scale_jitter, self._augment.scale_jitter)
            heading_deg += rng.uniform(-self._augment.rotation_jitter_deg, self._augment.rotation_jitter_deg)
        chip = imagery.chip(latlon_deg, size_px=view.size_px, gsd_m=gsd_m, heading_deg=heading_deg)
        return View(chip.pixels, chip.valid)


def stack_pairs(pairs: Sequence[tuple[View, View]]) -> tuple[Batch, Batch]:
    """Stacks pairs to a batch of queries and a batch of references; narrower views are padded as not valid."""
    queries, references = zip(*pairs, strict=True)
    return _stack(queries), _stack(references)


def _stack(views: Sequence[View]) -> Batch:
    width = max(view.valid.shape[1] for view in views)
    pixels, valid = [], []
    for view in views:
        missing = width - view.valid.shape[1]
        pad = (missing // 2, missing - missing // 2)
        pixels.append(F.pad(torch.from_numpy(view.pixels.copy()).permute(2, 0, 1), pad))
        valid.append(F.pad(torch.from_numpy(view.valid.copy()), pad))
    return torch.stack(pixels), torch.stack(valid)


def _rolled(view: View, quarter: int) -> View:
    """Turns a panorama clockwise by quarters: what was at that heading comes to the middle."""
    shift = -quarter * view.valid.shape[1] // 4
    return View(np.roll(view.pixels, shift, axis=1), np.roll(view.valid, shift, axis=1))


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
