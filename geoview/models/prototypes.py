"""Learnt prototypes: a vector for each cell of the ground, trained beside an encoder.

The table is no parameter of the encoder: it may have millions of rows, of which a batch touches thousands. These are
taken out, used as leaves of the batch's graph, and put back moved; the optimiser's state is one number a row (row-wise
AdaGrad, as recommendation models train their tables: Naumov et al., DLRM, 2019). Several processes share it out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from geoview.errors import EncoderError
from geoview.files import write_binary

__all__ = ["PROTOTYPES_FILE", "LearntPrototypes", "PrototypeRows"]

#: Name of the file in a run folder.
PROTOTYPES_FILE = "prototypes.safetensors"

_TINY = 1e-12
# Drawn at once: a process draws no more than two blocks of others' rows.
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class LearntPrototypes:
    """What a run has learnt.

    Attributes:
        cell: (P,) uint64 cells, ascending.
        vector: (P, dim) float32 unit vectors.
        encoder: Fingerprint of the encoder that they were learnt beside.
        level: Of the cells.
        border: Whether photos spoke for the four cells around them, or for their own.
        frustum: Whether they spoke for the ground that they look at.
    """

    cell: NDArray[np.uint64]
    vector: NDArray[np.float32]
    encoder: str
    level: int
    border: bool
    frustum: bool

    def save(self, path: Path) -> None:
        """Writes a file, whole or not at all."""
        said = {name: getattr(self, name) for name in ("encoder", "level", "border", "frustum")}
        # Signed, since not all readers of the format know unsigned integers of 64 bits.
        tensors = {"cell": torch.from_numpy(self.cell.view(np.int64)), "vector": torch.from_numpy(self.vector)}
        with write_binary(path) as file:
            file.write(save(tensors, {"geoview": json.dumps(said)}))

    @classmethod
    def open(cls, run: str | Path) -> Self:
        """Reads what a run has learnt.

        Args:
            run: Run folder.

        Raises:
            EncoderError: It has learnt none, or they cannot be read.
        """
        path = Path(run) / PROTOTYPES_FILE
        if not path.exists():
            raise EncoderError(
                f"{run}: has no {PROTOTYPES_FILE}; give the folder of a finished run of `geoview train` whose config "
                "has prototypes"
            )
        try:
            with safe_open(path, "np") as file:
                said: dict[str, Any] = json.loads(file.metadata()["geoview"])
                return cls(file.get_tensor("cell").view(np.uint64), file.get_tensor("vector"), **said)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise EncoderError(f"{path}: cannot be read ({error}); train again, or restore it") from error


class PrototypeRows:
    """One process's share of a table of prototypes: the rows from `first` on.

    Attributes:
        first: Row of the whole table that is the first here.
        vectors: (n, dim) float32 unit vectors, on the CPU.
    """

    def __init__(self, n_rows: int, dim: int, *, seed: int, rank: int = 0, processes: int = 1) -> None:
        """Draws a table at random: in many dimensions, directions that are drawn are nearly orthogonal.

        Args:
            n_rows: Of the whole table.
            dim: Length of a prototype.
            seed: Of what is drawn; the table is the same for any number of processes.
            rank: Number of this process, from 0.
            processes: How many there are.
        """
        self.first, last = (n_rows * part // processes for part in (rank, rank + 1))
        blocks = range(self.first // _BLOCK_ROWS, -(-last // _BLOCK_ROWS))
        drawn = [np.random.default_rng([seed, b]).standard_normal((_BLOCK_ROWS, dim), np.float32) for b in blocks]
        rows = np.concatenate([np.empty((0, dim), np.float32), *drawn])[self.first % _BLOCK_ROWS :][: last - self.first]
        self.vectors = F.normalize(torch.from_numpy(rows))
        self._squares = torch.zeros(len(self.vectors))

    def __len__(self) -> int:
        return len(self.vectors)

    def holds(self, rows: Tensor) -> Tensor:
        """Tells which rows of the whole table are here."""
        return (rows >= self.first) & (rows < self.first + len(self))

    def taken(self, rows: Tensor, device: torch.device) -> Tensor:
        """Returns some of the rows that are here, (n, dim), as a leaf that collects a gradient."""
        return self.vectors[rows - self.first].to(device).requires_grad_()

    def move(self, rows: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Moves rows against their gradient, and makes them unit vectors again.

        A row's step is the gradient by the root of the sum of all its mean squares so far. A row whose gradient is not
        finite, as scaled half precision may have it, stays where it is.

        Args:
            rows: (n,) rows that are here, each once.
            gradient: (n, dim).
            learning_rate: Length of the first step, by element.
        """
        gradient = gradient.float().cpu()
        sound = torch.isfinite(gradient).all(dim=1)
        at, gradient = (rows - self.first)[sound], gradient[sound]
        self._squares[at] += gradient.square().mean(dim=1)
        steps = gradient / (self._squares[at].sqrt() + _TINY)[:, None]
        self.vectors[at] = F.normalize(self.vectors[at] - learning_rate * steps)

    def state(self) -> tuple[Tensor, Tensor]:
        """Returns the vectors, and the sums of squares of their gradients."""
        return self.vectors, self._squares

    def restore(self, vectors: Tensor, squares: Tensor) -> None:
        """Takes this share out of the state of the whole table."""
        here = slice(self.first, self.first + len(self))
        self.vectors, self._squares = vectors[here].clone(), squares[here].clone()
