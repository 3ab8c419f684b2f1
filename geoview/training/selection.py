"""Which of a run's encoders is kept: the one that finds most of the pairs held out from its training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback

from geoview.config import InferenceConfig
from geoview.data.pictures import PairPictures
from geoview.embed import embed
from geoview.metrics import ranks, recall_at
from geoview.models.encoder import CrossViewEncoder
from geoview.training.record import Record
from geoview.training.task import ContrastiveTask

__all__ = ["BEST_PROTOTYPES", "BestEncoder", "search_held_out"]

#: Beside the folder of the best encoder: the prototypes learnt with it.
BEST_PROTOTYPES = "best.safetensors"

_NAMES = tuple(f"validation_recall_at_{k}" for k in (1, 5, 10))


class BestEncoder(Callback):
    """Searches the held-out pairs at the end of each round, and keeps the encoder that has found most of them."""

    def __init__(self, folder: Path, pictures: PairPictures, inference: InferenceConfig, record: Record) -> None:
        """Makes the callback.

        Args:
            folder: Encoder folder of the best so far.
            pictures: The held-out pairs, nothing drawn.
            inference: How the encoder is run.
            record: Where figures are written.
        """
        self._folder, self._pictures, self._inference, self._record = folder, pictures, inference, record

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Searches in the first process; the others wait."""
        assert isinstance(pl_module, ContrastiveTask)
        prototypes = pl_module.prototypes
        vectors = None if prototypes is None else prototypes.whole()[0]
        if trainer.is_global_zero:
            was_training = pl_module.training
            found = search_held_out(pl_module.learnt, self._pictures, self._inference)
            pl_module.train(was_training)
            self._record.add(trainer.global_step, found)
            # The later of equals has learnt more; a run that goes on repeats its last round, and finds the same.
            if self._score(found) >= self._score(self._kept()):
                pl_module.learnt.notes = {
                    "logit_scale": pl_module.logit_scale.item(),
                    "metrics": {**found, "step": trainer.global_step},
                }
                pl_module.learnt.save(self._folder, overwrite=True)
                if prototypes is not None and vectors is not None:
                    learnt = prototypes.learnt(pl_module.learnt.fingerprint(), vectors)
                    learnt.save(self._folder.with_name(BEST_PROTOTYPES))
        trainer.strategy.barrier("validation")

    def _kept(self) -> dict[str, Any]:
        """The figures of the best so far; a run that goes on after a kill has written them before."""
        path = self._folder / "geoview.json"
        if not path.exists():
            return {}
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["metrics"]
        return metrics

    @staticmethod
    def _score(metrics: dict[str, Any]) -> list[float]:
        return [metrics.get(name, -1.0) for name in _NAMES]


def search_held_out(encoder: CrossViewEncoder, pictures: PairPictures, inference: InferenceConfig) -> dict[str, float]:
    """Searches each held-out query among the references of the held-out queries.

    Args:
        encoder: Left in evaluation mode.
        pictures: The held-out pairs, nothing drawn.
        inference: How the encoder is run.

    Returns:
        `validation_pairs` and `validation_recall_at_{1,5,10}`; nothing without pairs.
    """
    if not len(pictures):
        return {}
    _, first, positive = np.unique(pictures.table.positive, return_index=True, return_inverse=True)
    queries = embed(encoder, map(pictures.query, range(len(pictures))), inference, seen=pictures.query_seen)
    references = embed(encoder, map(pictures.reference, first.tolist()), inference, seen="aerial")
    rank = ranks(np.stack(list(queries)), np.stack(list(references)), positive)
    recalls = {name: recall_at(rank, k) for name, k in zip(_NAMES, (1, 5, 10), strict=True)}
    return {"validation_pairs": len(pictures), **recalls}
