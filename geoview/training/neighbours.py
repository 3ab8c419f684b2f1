"""Which places are like that of each pair, from one mining to the next."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoview.config import DataConfig, InferenceConfig, Seen
from geoview.data.pictures import PairPictures
from geoview.data.views import View
from geoview.embed import embed, read_ahead
from geoview.errors import PairTableError
from geoview.files import write_binary
from geoview.mining import gps_neighbours, similar_neighbours
from geoview.models.encoder import CrossViewEncoder

__all__ = ["Neighbours"]

log = logging.getLogger(__name__)


class Neighbours:
    """What was mined for a run; kept in its folder, so that a run that was cut off goes on with the same batches."""

    def __init__(self, folder: Path, pictures: PairPictures, config: DataConfig, inference: InferenceConfig) -> None:
        """Makes a store; nothing is mined yet.

        Args:
            folder: Where to keep them, one file a mining.
            pictures: The training pairs.
            config: What is mined, and how much of it.
            inference: How the encoder is run.
        """
        self._folder, self._pictures, self._config, self._inference = folder, pictures, config, inference
        # Padding would cost memory, and the batches take the width for how many neighbours a pair can have.
        self._k = min(config.neighbours, max(1, len(pictures) - 1))
        if config.mining != "none" and self._k < config.neighbours:
            log.info(
                "%s: data.neighbours is %d, but a pair has %d others to be mined: all of them are taken",
                pictures.table.name,
                config.neighbours,
                len(pictures) - 1,
            )

    def of(self, mining: int, encoder: CrossViewEncoder) -> NDArray[np.int64]:
        """Returns what the n-th mining found, or mines.

        Args:
            mining: From 0, before the first step.
            encoder: As it is at this point of the run; its mode is left as it was.

        Returns:
            (N, K) places, most alike first; -1 for none. K is no more than there are other pairs.

        Raises:
            PairTableError: Neighbours on the ground are asked for, and a position is not known.
        """
        path = self._folder / f"{mining}.npy"
        if path.exists():
            kept: NDArray[np.int64] = np.load(path, allow_pickle=False)
            return kept
        found = self._near() if mining == 0 else self._alike(encoder)
        self._folder.mkdir(exist_ok=True)
        with write_binary(path) as file:
            np.save(file, found)
        return found

    def _near(self) -> NDArray[np.int64]:
        table = self._pictures.table
        unknown = np.flatnonzero(~np.isfinite(table.latlon_deg).all(axis=1))
        if len(unknown) and self._config.mining == "gps":
            raise PairTableError(
                f"{table.name}: {len(unknown)} pairs tell no lat and lon (the first is pair {unknown[0] + 1}); "
                "fill them in, or set data.mining to similarity"
            )
        if len(unknown):
            return np.empty((len(table), 0), np.int64)
        rows = gps_neighbours(table.latlon_deg, self._k, place=table.place)
        return np.where(rows < 0, -1, table.place[rows])

    def _alike(self, encoder: CrossViewEncoder) -> NDArray[np.int64]:
        table, was_training = self._pictures.table, encoder.training
        shown, first = np.unique(table.positive, return_index=True)
        queries = self._embedded(encoder, self._pictures.query, list(range(len(table))), self._pictures.query_seen)
        references = self._embedded(encoder, self._pictures.reference, first.tolist(), "aerial")
        encoder.train(was_training)
        # Rows of all references to rows of those shown.
        row_of = np.full(len(table.reference_path) + 1, -1)
        row_of[shown] = np.arange(len(shown))
        found = similar_neighbours(
            queries,
            references,
            self._k,
            query_place=table.place,
            reference_place=table.reference_place[shown],
            semi_positive=row_of[table.semi_positive],
            device=self._inference.device if self._inference.device != "auto" else encoder.mean.device,
        )
        return np.where(found < 0, -1, table.reference_place[shown][found])

    def _embedded(
        self, encoder: CrossViewEncoder, read: Callable[[int], View], rows: list[int], seen: Seen
    ) -> NDArray[np.float32]:
        config = self._inference
        pictures = read_ahead(read, rows, num_workers=config.num_workers, depth=config.batch_size)
        return np.stack(list(embed(encoder, pictures, config, seen=seen, total=len(rows), progress=f"mine {seen}")))
