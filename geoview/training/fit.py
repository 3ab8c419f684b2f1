"""A training run: its folder, its data, its end."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
import yaml
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from geoview.config import DataConfig, InferenceConfig, TrainConfig, differing_keys, from_mapping
from geoview.data.datasets import DATASETS, load, load_own, recognise
from geoview.data.pairs import PairTable
from geoview.data.pictures import PairPictures, open_sides
from geoview.embed import resolve_device, resolve_precision
from geoview.errors import ConfigError, OutputExistsError, TrainingError
from geoview.files import exclusive, full_disk_told, write_binary, write_text
from geoview.models.encoder import CrossViewEncoder
from geoview.models.prototypes import PROTOTYPES_FILE
from geoview.training.record import Record
from geoview.training.selection import BEST_PROTOTYPES, BestEncoder, search_held_out
from geoview.training.task import UNREADABLE, ContrastiveTask

__all__ = ["fit", "is_first_process", "pictures_of"]

log = logging.getLogger(__name__)

_CHECKPOINT = "last.ckpt"
_BEST = "best"
# One process mines or validates while the others wait.
_PATIENCE = timedelta(hours=12)
_PRECISIONS: dict[torch.dtype, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    torch.float32: "32-true",
    torch.bfloat16: "bf16-mixed",
    torch.float16: "16-mixed",
}
# What may differ when a run goes on: it changes how fast things are learnt, not what.
_FREE_KEYS = {"num_workers", "device", "checkpoint_every_steps"}


def is_first_process() -> bool:
    """Tells whether this is the process that a user started, and not one that shares its batches."""
    return getattr(rank_zero_only, "rank", 0) == 0


def fit(config: TrainConfig) -> CrossViewEncoder:
    """Trains an encoder, or goes on with a run that was cut off.

    With several processes, each runs this; the first alone writes, mines and validates.

    Args:
        config: Everything; `config.out` is the run folder.

    Returns:
        The trained encoder, which is also in `<out>/encoder`: of all rounds, the one that found most of the held-out
        pairs; the last where none are held out.

    Raises:
        OutputExistsError: `config.out` holds something that is not a run.
        TrainingError: The run there has another config, names the keys; fewer pairs than a batch; loss not finite.
        PairTableError: The pair table cannot be used, or lacks positions that prototypes are learnt of.
        DatasetError: The folder is no copy of a data set, or lacks files.
        BusyError: Another process trains there.
    """
    out, first = Path(config.out), is_first_process()
    if not first:  # the first tells of what all of them see
        logging.getLogger("geoview").setLevel(logging.ERROR)
    with full_disk_told(out), exclusive(out) if first else nullcontext():
        if first:
            _refuse_another_run(out, config)
        table = _table(config.data)
        training, validation = table.split(config.data.validation_share, config.seed)
        if config.optimiser.steps and len(training) < config.optimiser.batch_size:
            raise TrainingError(
                f"{table.name}: {len(training)} training pairs are fewer than optimiser.batch_size "
                f"{config.optimiser.batch_size}; lower it to at most {len(training)}"
            )
        if config.data.validation_share and not len(validation):
            log.warning(
                "%s: all pairs lie within one block of about 1 km, and none can be held out for validation; the last "
                "encoder is kept",
                table.name,
            )
        if len(validation) > 2 * config.data.validation_share * len(table):
            log.warning(
                "%s: %d of %d pairs are held out for validation, those of one block of about 1 km; no block has fewer",
                table.name,
                len(validation),
                len(table),
            )
        if first and (out / "encoder" / "geoview.json").exists():
            log.info("%s: finished already", out)
            return CrossViewEncoder.load(out / "encoder")
        torch.manual_seed(config.seed)
        encoder = CrossViewEncoder.from_config(config.encoder)
        task = ContrastiveTask(encoder, pictures_of(training, config, augmented=True), config)
        held_out = pictures_of(validation, config, augmented=False)
        # Not before all of it has proved usable: a mistake must not bind the folder.
        if first:
            with write_text(out / "config.yaml") as file:
                yaml.safe_dump(_plain(asdict(config)), file, sort_keys=False)
        if config.optimiser.steps:
            _train(task, held_out, out, config)
        prototypes = task.prototypes
        vectors = None if prototypes is None else prototypes.whole()[0]
        if not first:
            return encoder
        if config.optimiser.steps and len(held_out):
            learnt = CrossViewEncoder.load(out / _BEST)
        else:
            learnt = task.learnt
            learnt.notes = {
                "logit_scale": task.logit_scale.item(),
                "metrics": search_held_out(learnt, held_out, _inference(config)),
            }
        learnt.notes["training"] = {
            "data": asdict(config.data),
            "pairs": len(training),
            "steps": config.optimiser.steps,
            "unreadable": len(_lines(out / UNREADABLE)),
        }
        if prototypes is not None and vectors is not None:
            if len(held_out):
                with write_binary(out / PROTOTYPES_FILE) as file:
                    file.write((out / BEST_PROTOTYPES).read_bytes())
            else:
                prototypes.learnt(learnt.fingerprint(), vectors).save(out / PROTOTYPES_FILE)
        learnt.eval().save(out / "encoder", overwrite=True)
        return learnt


def _refuse_another_run(out: Path, config: TrainConfig) -> None:
    """Lets nothing but the same run go on in a folder that is in use."""
    path = out / "config.yaml"
    if path.exists():
        # Settings that have come since the run began are as they were then: their defaults.
        begun = from_mapping(TrainConfig, yaml.safe_load(path.read_text(encoding="utf-8")))
        differing = differing_keys(asdict(begun), asdict(config))
        changed = [key for key in differing if key not in _FREE_KEYS]
        if changed:
            raise TrainingError(
                f"{out}: holds a run with another {', '.join(changed)}; give its own config to go on, or another --out"
            )
    elif any(p.name != "lock" for p in out.iterdir()):
        raise OutputExistsError(f"{out}: holds other files; choose an empty or a new folder")


def _table(data: DataConfig) -> PairTable:
    root, share = Path(data.pairs), data.max_missing_share
    name = recognise(root) if root.is_dir() else None
    if name is None and data.split is not None:
        raise ConfigError(
            f"{root}: data.split is of the folders of {', '.join(DATASETS)}, and this is none; leave it out, or name "
            "the folder that holds the data set"
        )
    if name is None:
        return load_own(root, max_missing_share=share)
    if data.split is None:
        raise ConfigError(f"{root}: is {name}; say which data.split: {', '.join(DATASETS[name].splits)}")
    return load(name, root, data.split, labels=data.labels, max_missing_share=share)


def _plain(value: Any) -> Any:
    """Returns what YAML gives back: tuples as lists."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def pictures_of(table: PairTable, config: TrainConfig, *, augmented: bool) -> PairPictures:
    """Returns the pictures of pairs as a run reads them.

    Args:
        table: The pairs.
        config: Of the run.
        augmented: As they are trained on; else nothing is drawn.

    Raises:
        ConfigError: The augmentation is not for such pairs, or a side has neither files nor imagery.
        PairTableError: A street photo lacks its file or, for plans, its heading.
    """
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


def _train(task: ContrastiveTask, held_out: PairPictures, out: Path, config: TrainConfig) -> None:
    device = resolve_device(config.device)
    # Its notes on hardware, tips and the checkpoint of the run that goes on are not for the user.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning|torch")
    record = Record(out, config.optimiser.steps)
    callbacks: list[Callback] = [
        *([BestEncoder(out / _BEST, held_out, _inference(config), record)] if len(held_out) else []),
        *([record] if is_first_process() else []),
        ModelCheckpoint(
            out, filename="last", every_n_epochs=1, save_on_train_epoch_end=True, enable_version_counter=False
        ),
    ]
    one = [device.index or 0] if device.type == "cuda" else 1
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=one if config.processes == 1 else config.processes,
        # A backbone's own pooling has weights that no gradient reaches where a head stands in for it.
        strategy="auto" if config.processes == 1 else DDPStrategy(timeout=_PATIENCE, find_unused_parameters=True),
        precision=_PRECISIONS[resolve_precision(config.precision, device)],
        max_steps=config.optimiser.steps,
        max_epochs=-1,
        gradient_clip_val=config.optimiser.clip_norm,
        reload_dataloaders_every_n_epochs=1,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=out,
    )
    checkpoint = out / _CHECKPOINT
    with _own_threads(config.processes) if device.type == "cpu" else nullcontext():
        trainer.fit(task, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)


@contextmanager
def _own_threads(processes: int) -> Iterator[None]:
    """Shares the threads of torch among processes: each believes that the machine is its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // processes))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _inference(config: TrainConfig) -> InferenceConfig:
    return InferenceConfig(device=config.device, precision=config.precision, num_workers=max(1, config.num_workers))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
