"""What is optimised: an encoder and a temperature, on batches of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from geoview.config import InferenceConfig, TrainConfig
from geoview.data.augment import change_light
from geoview.data.pairs import PairTable
from geoview.data.pictures import Batch, Pair, PairPictures, stack_pairs
from geoview.data.sampling import Batches, BlockBatches, HardBatches, ShuffledBatches
from geoview.errors import TrainingError
from geoview.geo.sphere import distance_m
from geoview.losses import info_nce
from geoview.models.encoder import CrossViewEncoder
from geoview.training.neighbours import Neighbours

__all__ = ["ContrastiveTask", "no_negatives"]

# CLIP's bound: beyond it the softmax is a maximum and its gradient noise (Radford et al., 2021).
_MAX_SCALE = 100.0


class ContrastiveTask(lightning.LightningModule):
    """Symmetric InfoNCE with a learnt temperature.

    Lightning's epochs are rounds of `checkpoint_every_steps` batches here, and everything drawn depends on the seed and
    the step alone: a run that was killed goes on from the last round with the batches it would have had.
    """

    def __init__(self, encoder: CrossViewEncoder, pictures: PairPictures, config: TrainConfig) -> None:
        """Makes the task.

        Args:
            encoder: Trained in place.
            pictures: The training pairs.
            config: Optimiser, augmentation, seed, rounds.
        """
        super().__init__()
        self.encoder = encoder
        start = encoder.notes.get("logit_scale", math.log(1 / config.optimiser.temperature))
        self.logit_scale = torch.nn.Parameter(torch.tensor(float(start)))
        self._pictures, self._config = pictures, config
        inference = InferenceConfig(
            device=config.device, precision=config.precision, num_workers=max(1, config.num_workers)
        )
        self._neighbours = Neighbours(Path(config.out) / "neighbours", pictures, config.data, inference)

    def train_dataloader(self) -> DataLoader[Pair]:
        """Returns the batches of the next round."""
        return DataLoader(
            self._pictures,
            batch_sampler=self._batches(self.trainer.global_step),
            collate_fn=stack_pairs,
            num_workers=self._config.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _batches(self, first_step: int) -> Batches:
        data, optimiser, table = self._config.data, self._config.optimiser, self._pictures.table
        size, last_step = optimiser.batch_size, min(first_step + self._config.checkpoint_every_steps, optimiser.steps)
        if data.mining == "none":
            steps = {"seed": self._config.seed, "first_step": first_step, "last_step": last_step}
            if data.blocks_per_batch:
                return BlockBatches(table.blocks(), size, data.blocks_per_batch, **steps)
            return ShuffledBatches(len(table), size, **steps)
        # A round ends where neighbours are mined anew: what they say holds for whole epochs.
        steps_a_mining = HardBatches.batches_an_epoch(table.place, size) * data.mine_every_epochs
        mining = first_step // steps_a_mining if data.mining == "similarity" else 0
        return HardBatches(
            table.place,
            self._neighbours.of(mining, self.encoder),
            size,
            neighbours_a_seed=data.neighbours_a_seed,
            seed=self._config.seed,
            first_step=first_step,
            last_step=min(last_step, (mining + 1) * steps_a_mining) if data.mining == "similarity" else last_step,
        )

    def on_train_batch_start(self, batch: tuple[Batch, Batch, Tensor], batch_idx: int) -> None:
        """Seeds what the network draws (stochastic depth) by the step, so that a resumed run draws the same."""
        torch.manual_seed(hash((self._config.seed, self.global_step)) % 2**63)

    def training_step(self, batch: tuple[Batch, Batch, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss of a batch.

        Raises:
            TrainingError: It is not finite.
        """
        generator = torch.Generator(self.device).manual_seed(hash((self._config.seed, self.global_step, 1)) % 2**63)
        *sides, rows = batch
        query, reference = (
            self.encoder(*change_light(pixels, valid, self._config.augment, generator)) for pixels, valid in sides
        )
        optimiser = self._config.optimiser
        loss = info_nce(
            query,
            reference,
            self.logit_scale,
            label_smoothing=optimiser.label_smoothing,
            ignore=no_negatives(self._pictures.table, rows.cpu().numpy(), optimiser.ignore_within_m).to(self.device),
        )
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.global_step} is not finite; the last checkpoint is sound: "
                "lower optimiser.learning_rate, or train with --precision fp32"
            )
        matched = (query @ reference.T).argmax(dim=1) == torch.arange(len(query), device=self.device)
        self.log_dict(
            {"loss": loss, "batch_recall_at_1": matched.float().mean(), "temperature": (-self.logit_scale).exp()}
        )
        return loss

    def on_train_batch_end(self, outputs: object, batch: tuple[Batch, Batch, Tensor], batch_idx: int) -> None:
        """Keeps the temperature within its bound."""
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(_MAX_SCALE))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Returns AdamW, without decay on biases, norms and the temperature, with warm-up and cosine by the step."""
        optimiser = self._config.optimiser
        matrices = [p for p in self.encoder.parameters() if p.ndim > 1]
        others = [p for p in self.encoder.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": optimiser.weight_decay},
            {"params": [*others, self.logit_scale], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, lr=optimiser.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, _warmup_cosine(optimiser.warmup_steps, optimiser.steps))
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def no_negatives(table: PairTable, rows: NDArray[np.int64], within_m: float) -> Tensor:
    """Tells which references of a batch a query must not be pushed away from.

    Args:
        table: The pairs.
        rows: (B,) the batch.
        within_m: Pairs nearer than this to one another count too; 0 for none.

    Returns:
        (B, B) bool: of each query (row) the references (columns) of its own place, those that show its position as
        well, and those of near queries.
    """
    positive, place, latlon_deg = table.positive[rows], table.place[rows], table.latlon_deg[rows]
    shows = (table.semi_positive[rows][:, None, :] == positive[:, None]).any(axis=2)
    alike = (place[:, None] == place) | shows
    if within_m > 0:
        alike |= distance_m(latlon_deg[:, None], latlon_deg[None]) < within_m
    return torch.from_numpy(alike)


def _warmup_cosine(warmup_steps: int, steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))

    return factor
