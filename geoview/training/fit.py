"""A training run: its folder, its data, its end."""

from __future__ import annotations

import csv
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from tqdm import tqdm

from geoview.config import DataConfig, InferenceConfig, TrainConfig, differing_keys
from geoview.data.datasets import DATASETS, load, recognise
from geoview.data.pairs import PairTable
from geoview.data.pictures import PairPictures, open_sides
from geoview.embed import embed, resolve_device, resolve_precision
from geoview.errors import ConfigError, DatasetError, OutputExistsError, TrainingError
from geoview.files import exclusive, full_disk_told, write_text
from geoview.metrics import ranks, recall_at
from geoview.models.encoder import CrossViewEncoder
from geoview.training.task import ContrastiveTask

__all__ = ["fit"]

log = logging.getLogger(__name__)

_CHECKPOINT = "last.ckpt"
_LOG_EVERY_STEPS = 50
_PRECISIONS: dict[torch.dtype, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    torch.float32: "32-true",
    torch.bfloat16: "bf16-mixed",
    torch.float16: "16-mixed",
}
# What may differ when a run goes on: it changes how fast things are learnt, not what.
_FREE_KEYS = {"num_workers", "device", "checkpoint_every_steps"}


def fit(config: TrainConfig) -> CrossViewEncoder:
    """Trains an encoder, or goes on with a run that was cut off.

    Args:
        config: Everything; `config.out` is the run folder.

    Returns:
        The trained encoder, which is also in `<out>/encoder`.

    Raises:
        OutputExistsError: `config.out` holds something that is not a run.
        TrainingError: The run there has another config, names the keys; fewer pairs than a batch; loss not finite.
        PairTableError: The pair table cannot be used.
        DatasetError: The folder is no copy of a data set, or lacks files.
        BusyError: Another process trains there.
    """
    out = Path(config.out)
    with full_disk_told(out), exclusive(out):
        _refuse_another_run(out, config)
        table = _table(config.data)
        training, validation = table.split(config.data.validation_share, config.seed)
        if config.optimiser.steps and len(training) < config.optimiser.batch_size:
            raise TrainingError(
                f"{table.name}: {len(training)} training pairs are fewer than optimiser.batch_size "
                f"{config.optimiser.batch_size}; lower it to at most {len(training)}"
            )
        if (out / "encoder" / "geoview.json").exists():
            log.info("%s: finished already", out)
            return CrossViewEncoder.load(out / "encoder")
        torch.manual_seed(config.seed)
        encoder = CrossViewEncoder.from_config(config.encoder)
        task = ContrastiveTask(encoder, _pictures(training, config, augmented=True), config)
        # Not before all of it has proved usable: a mistake must not bind the folder.
        with write_text(out / "config.yaml") as file:
            yaml.safe_dump(_plain(asdict(config)), file, sort_keys=False)
        if config.optimiser.steps:
            _train(task, out, config)
        encoder.notes = {
            "logit_scale": task.logit_scale.item(),
            "training": {"data": asdict(config.data), "pairs": len(training), "steps": config.optimiser.steps},
            "metrics": _validate(encoder, validation, config),
        }
        encoder.eval().save(out / "encoder", overwrite=True)
        return encoder


def _refuse_another_run(out: Path, config: TrainConfig) -> None:
    """Lets nothing but the same run go on in a folder that is in use."""
    path = out / "config.yaml"
    if path.exists():
        differing = differing_keys(yaml.safe_load(path.read_text(encoding="utf-8")), _plain(asdict(config)))
        changed = [key for key in differing if key not in _FREE_KEYS]
        if changed:
            raise TrainingError(
                f"{out}: holds a run with another {', '.join(changed)}; give its own config to go on, or another --out"
            )
    elif any(p.name != "lock" for p in out.iterdir()):
        raise OutputExistsError(f"{out}: holds other files; choose an empty or a new folder")


def _table(data: DataConfig) -> PairTable:
    root = Path(data.pairs)
    if not root.is_dir():
        if data.split is not None:
            raise ConfigError(f"{root}: data.split is of data sets' folders, and this is none; leave it out")
        return PairTable.from_csv(root)
    name = recognise(root)
    if name is None:
        raise DatasetError(
            f"{root}: no copy of {', '.join(DATASETS)}; name a CSV, or the folder that holds the data set"
        )
    if data.split is None:
        raise ConfigError(f"{root}: is {name}; say which data.split: {', '.join(DATASETS[name].splits)}")
    return load(name, root, data.split, labels=data.labels)


def _plain(value: Any) -> Any:
    """Returns what YAML gives back: tuples as lists."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _pictures(table: PairTable, config: TrainConfig, *, augmented: bool) -> PairPictures:
    crops = config.augment.crop_min_share < 1 or config.augment.crop_rotation_deg > 0
    shown = tuple(table.reference_path[i] for i in np.unique(table.positive))
    if crops and (any(table.query_path) or any(shown)):
        raise ConfigError(
            "augment.crop_min_share and augment.crop_rotation_deg cut both sides to the same ground and need imagery "
            f"for both; {table.name} names picture files"
        )
    query_view = config.encoder.street if config.data.query_view == "ground" else config.encoder.aerial
    query, reference = open_sides(
        table,
        query_view,
        config.encoder.aerial,
        query_imagery=config.data.query_imagery,
        reference_imagery=config.data.reference_imagery,
        keys=("data.query_imagery", "data.reference_imagery"),
    )
    return PairPictures(table, query, reference, config.augment if augmented else None, seed=config.seed)


def _train(task: ContrastiveTask, out: Path, config: TrainConfig) -> None:
    device = resolve_device(config.device)
    # Its notes on hardware, tips and the checkpoint of the run that goes on are not for the user.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning|torch")
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=_PRECISIONS[resolve_precision(config.precision, device)],
        max_steps=config.optimiser.steps,
        max_epochs=-1,
        gradient_clip_val=config.optimiser.clip_norm,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[
            _Progress(out / "metrics.csv", config.optimiser.steps),
            ModelCheckpoint(
                out, filename="last", every_n_epochs=1, save_on_train_epoch_end=True, enable_version_counter=False
            ),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=out,
    )
    checkpoint = out / _CHECKPOINT
    trainer.fit(task, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)


class _Progress(Callback):
    """A bar on stderr, and a row in metrics.csv every 50 steps."""

    def __init__(self, path: Path, steps: int) -> None:
        self._path, self._steps = path, steps

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        done = trainer.global_step
        self._bar = tqdm(total=self._steps, initial=done, desc="train", unit="step", disable=None, dynamic_ncols=True)
        self._rows = [row for row in self._read() if int(row["step"]) <= done]
        self._write()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        self._bar.update()
        if step % _LOG_EVERY_STEPS and step != self._steps:
            return
        values = {name: f"{float(value):.6g}" for name, value in trainer.callback_metrics.items()}
        rate = f"{trainer.optimizers[0].param_groups[0]['lr']:.6g}"
        self._rows.append({"step": str(step), **values, "learning_rate": rate})
        self._bar.set_postfix(values)
        self._write()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._bar.close()

    def _read(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _write(self) -> None:
        with write_text(self._path) as file:
            writer = csv.DictWriter(file, ["step", "loss", "batch_recall_at_1", "temperature", "learning_rate"])
            writer.writeheader()
            writer.writerows(self._rows)


def _validate(encoder: CrossViewEncoder, table: PairTable, config: TrainConfig) -> dict[str, float]:
    """Retrieves each held-out query among the references of the held-out queries."""
    if not len(table):
        return {}
    pictures = _pictures(table, config, augmented=False)
    inference = InferenceConfig(device=config.device, precision=config.precision)
    _, first, positive = np.unique(table.positive, return_index=True, return_inverse=True)
    queries = embed(encoder, map(pictures.query, range(len(table))), inference)
    references = embed(encoder, map(pictures.reference, map(int, first)), inference)
    rank = ranks(np.stack(list(queries)), np.stack(list(references)), positive)
    return {"validation_pairs": len(table), **{f"validation_recall_at_{k}": recall_at(rank, k) for k in (1, 5, 10)}}
