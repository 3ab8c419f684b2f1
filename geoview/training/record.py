"""What a run tells of itself: a bar, metrics.csv, TensorBoard's files and a picture of the learning curves."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from geoview.files import write_binary, write_text

__all__ = ["Record"]

_LOG_EVERY_STEPS = 50
_COLUMNS = (
    "step",
    "loss",
    "batch_recall_at_1",
    "temperature",
    "learning_rate",
    "pairs_per_s",
    "validation_recall_at_1",
    "validation_recall_at_5",
    "validation_recall_at_10",
)
# What is drawn above one another.
_CURVES = (
    ("loss", ("loss",)),
    ("share found", ("batch_recall_at_1", "validation_recall_at_1", "validation_recall_at_10")),
    ("temperature", ("temperature",)),
)


class Record(Callback):
    """Rows of figures by the step; what a killed run had written beyond its checkpoint is dropped when it goes on."""

    def __init__(self, folder: Path, steps: int) -> None:
        """Makes the record of a run.

        Args:
            folder: Of the run: `metrics.csv`, `curves.png`, `tensorboard/`.
            steps: Of the whole run.
        """
        self._folder, self._steps = folder, steps

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Takes up what the run has written so far."""
        done = trainer.global_step
        self._bar = tqdm(total=self._steps, initial=done, desc="train", unit="step", disable=None, dynamic_ncols=True)
        self._rows = {step: row for step, row in self._read().items() if step <= done}
        self._write()
        self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=done + 1)
        self._pairs, self._since = 0, time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Writes a row every 50 steps, and after the last."""
        step = trainer.global_step
        self._bar.update()
        self._pairs += len(batch[2]) * trainer.world_size
        if step % _LOG_EVERY_STEPS and step != self._steps:
            return
        now = time.perf_counter()
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        values["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        values["pairs_per_s"] = self._pairs / (now - self._since)
        self._pairs, self._since = 0, now
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})
        self.add(step, values)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds figures to those of a step.

        Args:
            step: Steps done.
            values: By the name of their column.
        """
        row = self._rows.setdefault(step, {"step": str(step)})
        row |= {name: f"{value:.6g}" for name, value in values.items() if name in _COLUMNS}
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._write()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draws the curves at the end of a round."""
        self._board.flush()
        self._draw()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Ends bar and files."""
        self._bar.close()
        self._board.close()

    def _read(self) -> dict[int, dict[str, str]]:
        path = self._folder / "metrics.csv"
        if not path.exists():
            return {}
        with path.open(newline="", encoding="utf-8") as file:
            return {int(row["step"]): row for row in csv.DictReader(file)}

    def _write(self) -> None:
        with write_text(self._folder / "metrics.csv") as file:
            writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows[step] for step in sorted(self._rows))

    def _draw(self) -> None:
        figure = Figure(figsize=(7, 8), layout="constrained")
        for axes, (title, names) in zip(figure.subplots(len(_CURVES), sharex=True), _CURVES, strict=True):
            for name in names:
                points = [(step, float(row[name])) for step, row in sorted(self._rows.items()) if row.get(name)]
                if points:
                    axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), marker="." * (len(points) < 30))
            axes.set_ylabel(title)
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(loc="best", frameon=False)
        axes.set_xlabel("step")
        with write_binary(self._folder / "curves.png") as file:
            figure.savefig(file, format="png", dpi=100)
