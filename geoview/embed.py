"""The only inference loop: pictures in, unit vectors out, in constant memory."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice, repeat
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from geoview.config import InferenceConfig, Seen
from geoview.errors import ConfigError, EncoderError
from geoview.models.encoder import CrossViewEncoder
from geoview.rounded_top_k import bfloat16_is_faster

__all__ = ["Picture", "embed", "read_ahead", "resolve_device", "resolve_precision"]

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

# Pixels that make a batch worth a thread of its own: with fewer, threads wait for each other's turn in Python. And
# those of a batch once every thread has one: the more, the less they wait.
_PIXELS_A_THREAD, _PIXELS_AT_ONCE = 2**18, 2**19

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Picture(Protocol):
    """What can be embedded: a chip, a ground view."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3)."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(H, W), False where the picture shows nothing."""


def resolve_device(device: str) -> torch.device:
    """Returns the device that a setting means; `auto` is the first GPU where there is one.

    Raises:
        ConfigError: There is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device!r} is not available here: {str(error).splitlines()[0]}") from error
    return found


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Returns the type that the network computes in: `auto` is bfloat16 where that is multiplied faster.

    It is on GPUs that have it, and on some CPUs (`bfloat16_is_faster`); elsewhere it is float32. Embeddings of one chip
    in both are alike to four digits of their cosine.
    """
    if precision != "auto":
        return _DTYPES[precision]
    if device.type == "cuda":
        is_faster = torch.cuda.is_bf16_supported()
    else:
        is_faster = device.type == "cpu" and bfloat16_is_faster()
    return torch.bfloat16 if is_faster else torch.float32


def embed(
    encoder: CrossViewEncoder,
    pictures: Iterable[Picture],
    config: InferenceConfig,
    *,
    seen: Seen,
    total: int | None = None,
    progress: str | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Embeds a stream of pictures.

    On a CPU, threads share out a stream that is long enough, each with a batch of its own, and a short one picture by
    picture. In the first way they never wait for each other, nor for a core that something else is using: what cuts
    the chips, as a rule.

    Args:
        encoder: In evaluation mode.
        pictures: Read as they are needed, two batches a thread ahead. Sizes may differ; a batch ends where they do.
        config: Batch size, device and precision.
        seen: What the pictures are of: encoders may have weights of their own for street photos.
        total: How many there are, for the progress bar.
        progress: Label of the progress bar on stderr; None shows none.

    Yields:
        (dim,) float32 unit vectors, one for each picture, in order.

    Raises:
        EncoderError: The next embedding is not finite: the weights are broken, or overflow in this precision.
    """
    device = resolve_device(config.device)
    dtype = resolve_precision(config.precision, device)
    encoder = encoder.eval().to(device)

    def vectors_of(batch: list[Picture]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.stack([p.pixels for p in batch])).to(device).permute(0, 3, 1, 2)
        valid = torch.from_numpy(np.stack([p.valid for p in batch])).to(device)
        enabled = dtype != torch.float32
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=enabled):
            return np.asarray(encoder(pixels, valid, seen=seen).cpu())

    n_threads = torch.get_num_threads() if device.type == "cpu" else 1
    found = _beside_each_other(vectors_of, pictures, config.batch_size, n_threads)
    with tqdm(total=total, desc=progress, disable=None if progress else True, unit="img", dynamic_ncols=True) as bar:
        for vectors in found:
            sound = np.isfinite(vectors).all(axis=1)
            bar.update(len(vectors))
            if not sound.all():
                # Up to the culprit all goes on, so that whoever counts knows which it is.
                yield from vectors[: int(np.argmin(sound))]
                raise EncoderError(f"embeddings are not finite in {dtype}: try --precision fp32, or another encoder")
            yield from vectors


def _beside_each_other(
    vectors_of: Callable[[list[Picture]], NDArray[np.float32]],
    pictures: Iterable[Picture],
    batch_size: int,
    n_threads: int,
) -> Iterator[NDArray[np.float32]]:
    """Yields the vectors of all pictures, batch by batch, of which as many are in work as there are threads."""
    if n_threads == 1:
        yield from map(vectors_of, _batches(pictures, batch_size))
        return
    enough_px = chain(repeat(_PIXELS_A_THREAD, n_threads), repeat(_PIXELS_AT_ONCE))
    batches = _batches(pictures, batch_size, enough_px)
    first = list(islice(batches, n_threads))
    if len(first) < n_threads or any(_n_px(batch) < _PIXELS_A_THREAD for batch in first):
        yield from map(vectors_of, _batches(chain.from_iterable(chain(first, batches)), batch_size))
        return

    def alone(batch: list[Picture]) -> NDArray[np.float32]:
        torch.set_num_threads(1)  # of this thread
        return vectors_of(batch)

    try:
        yield from read_ahead(alone, chain(first, batches), num_workers=n_threads, depth=2 * n_threads)
    finally:
        torch.set_num_threads(n_threads)  # of threads to come, which begin with what was set last


def _batches(
    pictures: Iterable[Picture], batch_size: int, enough_px: Iterable[float] = repeat(math.inf)
) -> Iterator[list[Picture]]:
    """Yields batches of pictures of one size: `batch_size` of them, or fewer if their pixels together are enough.

    What is enough is told for each batch.
    """
    batch: list[Picture] = []
    wanted_px = iter(enough_px)
    enough = next(wanted_px)
    for picture in pictures:
        if batch and (
            len(batch) == batch_size or picture.valid.shape != batch[0].valid.shape or _n_px(batch) >= enough
        ):
            yield batch
            batch, enough = [], next(wanted_px)
        batch.append(picture)
    if batch:
        yield batch


def _n_px(batch: list[Picture]) -> int:
    return len(batch) * batch[0].valid.size


def read_ahead(function: Callable[[T], R], items: Iterable[T], *, num_workers: int, depth: int) -> Iterator[R]:
    """Maps a function over items in threads, in order, with at most `depth` results waiting.

    Args:
        function: Decodes a picture or cuts a chip; releases the GIL for most of its time.
        items: Read lazily.
        num_workers: Threads.
        depth: Items in work or waiting; bounds the memory.

    Yields:
        The results, in the order of the items. An exception is raised where its result would have come.
    """
    with ThreadPoolExecutor(num_workers, thread_name_prefix="read-ahead") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
