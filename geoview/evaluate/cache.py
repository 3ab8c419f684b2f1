"""Embeddings that stay on disk, part by part: a killed run goes on, and a second scoring embeds nothing."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import tiles
from geoview.config import InferenceConfig, Seen
from geoview.embed import Picture, embed, read_ahead, resolve_device, resolve_precision
from geoview.errors import ImageTooLargeError, UnreadableImageError
from geoview.files import full_disk_told, write_binary, write_json
from geoview.models.encoder import CrossViewEncoder

__all__ = ["embeddings", "file_stamp"]

log = logging.getLogger(__name__)

_FORMAT = 1
_PART_ROWS = 4_096


def file_stamp(path: str) -> tuple[str, int, int]:
    """Returns what changes with a file: its absolute path, its size in bytes, and when it was written, in ns.

    What is no file, such as the address of imagery, has the size -1.
    """
    try:
        stat = Path(path).stat()
    except OSError:
        return path, -1, -1
    return str(Path(path).absolute()), stat.st_size, stat.st_mtime_ns


def embeddings(
    encoder: CrossViewEncoder,
    read: Callable[[int], Picture],
    n: int,
    folder: Path,
    about: dict[str, Any],
    stamps: list[Any],
    config: InferenceConfig,
    *,
    seen: Seen,
    progress: str,
) -> NDArray[np.float32]:
    """Embeds pictures 0 to n - 1, or takes what is on disk of it.

    Args:
        encoder: In evaluation mode.
        read: Reads a picture; called in threads.
        n: How many there are.
        folder: Where `<key>/000000.npy`, `000001.npy` … of 4,096 embeddings each are kept.
        about: What says how the pictures are shown. The encoder and the precision are added.
        stamps: What says which the pictures are, as JSON can hold it. All of this makes the key.
        config: Batch size, device, precision and threads.
        seen: What the pictures are of.
        progress: Label of the bar on stderr.

    Returns:
        (n, dim) float32 unit vectors. Those of pictures that cannot be read are NaN; each is named in the log, and
        tried again the next time.

    Raises:
        EncoderError: An embedding is not finite.
        StorageFullError: The disk is full; parts that are there stay.
    """
    precision = str(resolve_precision(config.precision, resolve_device(config.device))).removeprefix("torch.")
    about = {"format": _FORMAT, "encoder": encoder.fingerprint(), "precision": precision, "seen": seen, **about, "n": n}
    key = hashlib.sha256(json.dumps([about, stamps], sort_keys=True).encode()).hexdigest()[:16]
    place = folder / key
    if not (place / "about.json").exists():
        with full_disk_told(place):
            write_json(place / "about.json", about)
    vectors = np.full((n, encoder.dim), np.nan, np.float32)
    with tqdm(total=n, desc=progress, unit="img", disable=None, dynamic_ncols=True) as bar:
        for number, start in enumerate(range(0, n, _PART_ROWS)):
            part, file = vectors[start : start + _PART_ROWS], place / f"{number:06d}.npy"
            _fill(part, file)
            missing = np.flatnonzero(np.isnan(part[:, 0]))
            bar.update(len(part) - len(missing))
            if not len(missing):
                continue
            readable: list[int] = []
            pictures = _readable(read, start, missing, readable, config, bar)
            found = list(embed(encoder, pictures, config, seen=seen))
            if found:
                part[readable] = np.stack(found)
            if found or not file.exists():
                with full_disk_told(place), write_binary(file) as binary:
                    np.save(binary, part)
    return vectors


def _fill(part: NDArray[np.float32], file: Path) -> None:
    """Fills a part with what its file has; a damaged file has nothing, and goes."""
    if not file.exists():
        return
    try:
        kept = np.load(file, allow_pickle=False)
        if kept.shape != part.shape or kept.dtype != part.dtype:
            raise ValueError(f"has {kept.dtype} of shape {kept.shape}, not {part.dtype} of {part.shape}")
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s: is damaged and is made again (%s)", file, str(error).splitlines()[0])
        file.unlink(missing_ok=True)
        return
    part[:] = kept


def _readable(
    read: Callable[[int], Picture],
    start: int,
    missing: NDArray[np.intp],
    readable: list[int],
    config: InferenceConfig,
    bar: tqdm[Any],
) -> Iterator[Picture]:
    """Yields the pictures of a part that can be read, notes their rows in it, and names the others in the log."""

    def tried(row: int) -> Picture | str:
        try:
            return read(start + row)
        except (UnreadableImageError, ImageTooLargeError, tiles.TilesError) as error:
            return str(error)

    ahead = read_ahead(tried, missing.tolist(), num_workers=config.num_workers, depth=2 * config.batch_size)
    for row, picture in zip(missing.tolist(), ahead, strict=True):
        if isinstance(picture, str):
            log.warning("%s", " ".join(picture.split()))
        else:
            readable.append(row)
            yield picture
        bar.update()
