"""How an encoder is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geoview.config.checks import require

__all__ = ["InferenceConfig"]


@dataclass(frozen=True)
class InferenceConfig:
    """How an encoder is run.

    Attributes:
        batch_size: Pictures a batch.
        device: `auto` takes a GPU where there is one; else a torch device such as `cpu` or `cuda:1`.
        precision: `auto` is bfloat16 where the device multiplies it faster, float32 elsewhere.
        num_workers: Threads that decode pictures and cut chips ahead of the encoder; of an index of thousands of cells,
            processes cut the chips.
    """

    batch_size: int = 64
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    num_workers: int = 2

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size must be at least 1")
        require(self.num_workers >= 1, "num_workers must be at least 1")
