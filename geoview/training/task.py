"""What is optimised: an encoder and a temperature, on batches of pairs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from geoview.config import InferenceConfig, Seen, TrainConfig
from geoview.data.augment import change_light
from geoview.data.faults import TolerantPictures, stack_tolerantly
from geoview.data.pairs import PairTable
from geoview.data.pictures import Batch, Pair, PairPictures
from geoview.data.sampling import Batches, BlockBatches, HardBatches, Share, ShuffledBatches
from geoview.errors import ConfigError, TrainingError
from geoview.geo.sphere import distance_m
from geoview.losses import decoupled_info_nce, gathered, info_nce, multi_similarity
from geoview.models.encoder import CrossViewEncoder
from geoview.training.neighbours import Neighbours
from geoview.training.prototypes import PrototypeLearning

__all__ = ["UNREADABLE", "ContrastiveTask", "TrainingBatch", "no_negatives"]

log = logging.getLogger(__name__)

#: Queries, references, their rows in the table, and what was wrong with pictures that others stand for.
TrainingBatch = tuple[Batch, Batch, Tensor, tuple[str, ...]]

#: In a run's folder: the pictures that could not be read.
UNREADABLE = "unreadable.txt"

# CLIP's bound: beyond it the softmax is a maximum and its gradient noise (Radford et al., 2021).
_MAX_SCALE = 100.0


class ContrastiveTask(lightning.LightningModule):
    """A contrastive loss with a learnt temperature, over the batch of all processes.

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
        self.logit_scale = torch.nn.Parameter(
            torch.tensor(float(start)), requires_grad=config.optimiser.loss != "multi_similarity"
        )
        self._average: AveragedModel | None = None
        if config.optimiser.ema_decay:
            self._average = AveragedModel(encoder, multi_avg_fn=_moved(config.optimiser.ema_decay))
            self._average.requires_grad_(False)
        if config.optimiser.gradient_checkpointing:
            try:
                cast(Any, encoder.backbone).set_grad_checkpointing(True)
            except (AssertionError, AttributeError) as error:
                raise ConfigError(
                    f"optimiser.gradient_checkpointing: timm's {encoder.architecture} does not have it; leave it out, "
                    "or set optimiser.micro_batch_size"
                ) from error
        self._pictures, self._config = pictures, config
        self._unreadable: set[str] = set()
        inference = InferenceConfig(
            device=config.device, precision=config.precision, num_workers=max(1, config.num_workers)
        )
        self._neighbours = Neighbours(Path(config.out) / "neighbours", pictures, config.data, inference)
        self.prototypes: PrototypeLearning | None = None

    def setup(self, stage: str) -> None:
        """Makes this process's share of the prototypes, where some are learnt."""
        config = self._config
        if config.prototypes is not None:
            self.prototypes = PrototypeLearning(
                self._pictures.table,
                self.encoder.dim,
                config.prototypes,
                seed=config.seed,
                rank=self.trainer.global_rank,
                processes=self.trainer.world_size,
            )

    @property
    def learnt(self) -> CrossViewEncoder:
        """The encoder that is validated and kept: the one that is trained, or the running mean of its weights."""
        if self._average is None:
            return self.encoder
        return cast(CrossViewEncoder, self._average.module)

    def train_dataloader(self) -> DataLoader[tuple[Pair, tuple[str, ...]]]:
        """Returns this process's share of the batches of the next round."""
        batches = self._batches(self.trainer.global_step)
        return DataLoader(
            TolerantPictures(self._pictures),
            batch_sampler=Share(batches, self.trainer.global_rank, self.trainer.world_size),
            collate_fn=stack_tolerantly,
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
            self._mined(mining),
            size,
            neighbours_a_seed=data.neighbours_a_seed,
            seed=self._config.seed,
            first_step=first_step,
            last_step=min(last_step, (mining + 1) * steps_a_mining) if data.mining == "similarity" else last_step,
        )

    def _mined(self, mining: int) -> NDArray[np.int64]:
        if self.trainer.is_global_zero:
            self._neighbours.of(mining, self.encoder)
        self.trainer.strategy.barrier("mining")  # the others read what the first has kept
        return self._neighbours.of(mining, self.encoder)

    def on_train_batch_start(self, batch: TrainingBatch, batch_idx: int) -> None:
        """Seeds what the network draws (stochastic depth) by the step, so that a resumed run draws the same."""
        torch.manual_seed(self._drawn_from(0))

    def _drawn_from(self, what: int) -> int:
        return hash((self._config.seed, self.global_step, what, self.global_rank)) % 2**63

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Returns the loss of the batch of all processes.

        Raises:
            TrainingError: It is not finite, or most pictures of the batch cannot be read.
        """
        *sides, own_rows, faults = batch
        self._tell(faults, len(own_rows))
        generator = torch.Generator(self.device).manual_seed(self._drawn_from(1))
        query, reference = (
            gathered(self._embedded(*change_light(pixels, valid, self._config.augment, generator), seen))
            for (pixels, valid), seen in zip(sides, (self._pictures.query_seen, "aerial"), strict=True)
        )
        rows = gathered(own_rows).cpu().numpy()
        optimiser = self._config.optimiser
        ignore = no_negatives(self._pictures.table, rows, optimiser.ignore_within_m).to(self.device)
        if optimiser.loss == "multi_similarity":
            loss = multi_similarity(query, reference, ignore=ignore)
        else:
            form = info_nce if optimiser.loss == "info_nce" else decoupled_info_nce
            loss = form(query, reference, self.logit_scale, label_smoothing=optimiser.label_smoothing, ignore=ignore)
        if self.prototypes is not None:
            scale = None if optimiser.loss == "multi_similarity" else self.logit_scale
            loss = loss + self.prototypes.loss(rows, query, reference, scale, self.global_step)
        if not torch.isfinite(loss):
            table = self._pictures.table
            some = ", ".join(table.query_path[row] or f"pair {row + 1}" for row in rows[:3])
            raise TrainingError(
                f"the loss of step {self.global_step} (a batch with {some}) is not finite; the last checkpoint is "
                "sound: lower optimiser.learning_rate, or train with --precision fp32"
            )
        matched = (query @ reference.T).argmax(dim=1) == torch.arange(len(query), device=self.device)
        self.log_dict(
            {"loss": loss, "batch_recall_at_1": matched.float().mean(), "temperature": (-self.logit_scale).exp()}
        )
        return loss

    def _embedded(self, pixels: Tensor, valid: Tensor, seen: Seen) -> Tensor:
        """Embeds pictures, a few at once where that is asked for.

        What the others need for their gradients is then not kept but computed again when their turn comes: the gradient
        cache of Gao et al. (Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021).
        """
        size = self._config.optimiser.micro_batch_size
        if size is None or size >= len(pixels):
            embeddings: Tensor = self.encoder(pixels, valid, seen=seen)
            return embeddings
        parts = zip(torch.split(pixels, size), torch.split(valid, size), strict=True)
        return torch.cat([checkpoint(self.encoder, *part, seen=seen, use_reentrant=False) for part in parts])

    def _tell(self, faults: tuple[str, ...], n_pairs: int) -> None:
        """Names pictures that could not be read, each once, on stderr and in a file of the run."""
        for fault in dict.fromkeys(faults):
            if fault not in self._unreadable:
                self._unreadable.add(fault)
                log.warning("%s; another pair stands for it", fault)
                with Path(self._config.out, UNREADABLE).open("a", encoding="utf-8") as file:
                    file.write(f"{fault}\n")
        if len(faults) > n_pairs / 2:
            raise TrainingError(
                f"{len(faults)} pictures of the {n_pairs} pairs of step {self.global_step} cannot be read "
                f"({faults[0]}); see that the disk is there and run the same command again"
            )

    def on_after_backward(self) -> None:
        """Moves the prototypes of the batch; the optimiser moves the encoder."""
        if self.prototypes is not None:
            optimiser = self._config.optimiser
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            self.prototypes.move(
                _warmup_cosine(optimiser.warmup_steps, optimiser.steps)(self.global_step),
                scaler.get_scale() if scaler is not None else 1.0,
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts the whole table of prototypes into a checkpoint; all processes are here together."""
        if self.prototypes is not None:
            checkpoint["prototypes"] = self.prototypes.whole()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes this process's share of the prototypes out of a checkpoint."""
        if self.prototypes is not None:
            self.prototypes.rows.restore(*checkpoint["prototypes"])

    def on_train_batch_end(self, outputs: object, batch: TrainingBatch, batch_idx: int) -> None:
        """Keeps the temperature within its bound, and moves the running mean."""
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(_MAX_SCALE))
        if self._average is not None:
            self._average.update_parameters(self.encoder)

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


def _moved(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Returns what moves means towards the weights by 1 - decay."""

    @torch.no_grad()
    def move(means: Sequence[Tensor], weights: Sequence[Tensor], _: Tensor | int) -> None:
        torch._foreach_lerp_(list(means), list(weights), 1 - decay)

    return move


def _warmup_cosine(warmup_steps: int, steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))

    return factor
