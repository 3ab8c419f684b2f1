"""Weights from elsewhere: safetensors or tensors-only state dicts, in the key layouts that users arrive with."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from geoview.errors import EncoderError, UnsafeFileError

__all__ = ["backbone_state", "logit_scale", "read_state_dict"]

# DataParallel, torch.compile, Lightning tasks and Sample4Geo's `TimmModel` each put their word in front.
_PREFIXES = ("module.", "_orig_mod.", "encoder.", "backbone.", "model.")
_LOGIT_SCALE = "logit_scale"
_CLASSIFIERS = ("head.fc.", "head.weight", "head.bias", "classifier.", "fc.")
# How a zip archive and a pickle begin: what torch.save has written, now and before 2020.
_MAGIC = (b"PK", b"\x80")
# What torch's reader raises on damaged bytes.
_FAULTS = (
    SafetensorError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads a weights file without running any code that it may hold.

    Args:
        path: safetensors, or a file of `torch.save` that holds tensors only (possibly under `state_dict` or `model`).

    Returns:
        Tensors by key, as they are in the file.

    Raises:
        EncoderError: No such file, or nothing in it that is a state dict.
        UnsafeFileError: Something in it is not a tensor.
    """
    if not path.is_file():
        raise EncoderError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            if not file.read(2).startswith(_MAGIC):
                raise EncoderError(f"{path}: not a weights file: neither safetensors nor written by torch.save")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(
            f"{path}: holds more than tensors and could run code; save its state dict alone and as safetensors"
        ) from error
    except EncoderError:
        raise
    except _FAULTS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise EncoderError(f"{path}: not a weights file, or damaged: {reason}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise EncoderError(f"{path}: holds no state dict (a mapping from names to tensors)")
    return dict(content)


def backbone_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns plain timm keys: wrappers' prefixes stripped, temperature and classifier left out.

    The published Sample4Geo weights have every key under `model.` and `logit_scale` beside them; weights trained for
    classification end in a classifier that an encoder does not have.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = _plain(key)
        if name != _LOGIT_SCALE and not name.startswith(_CLASSIFIERS):
            found[name] = tensor
    return found


def logit_scale(state: Mapping[str, Tensor]) -> float | None:
    """Returns the learnt temperature that came with the weights, as the logarithm of its inverse, or None."""
    for key, tensor in state.items():
        if _plain(key) == _LOGIT_SCALE:
            return float(tensor)
    return None


def _plain(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    return key
