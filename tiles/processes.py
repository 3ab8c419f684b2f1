"""Processes that cut chips: Python's lock lets the threads of one process wait for each other, and whoever needs chips.

A process is told a source, and then stretches of positions, each of which it answers with chips; both as pickles, by
its standard input and output. It ends when its input does: with whoever started it, however that ends.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tiles.chip import Chip, ChipSource
from tiles.errors import CutterEndedError, OutsideCoverageError

__all__ = ["ChipProcesses", "serve"]

# The modules are found where they are found here, wherever the process is started.
_COMMAND = "import sys; sys.path[:] = {path!r}; from tiles.processes import serve; serve()"


class ChipProcesses:
    """Processes that cut chips of one source, as many at once as there are."""

    def __init__(self, source: ChipSource, count: int) -> None:
        """Starts them.

        Args:
            source: What `open_source` returned.
            count: Processes.
        """
        self._source = source
        command = [sys.executable, "-c", _COMMAND.format(path=sys.path)]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)
        ]
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for process in self._processes:
            _send(process, source)
            self._free.put(process)

    def chips(self, latlon_deg: NDArray[np.float64], size_px: int, gsd_m: float) -> list[Chip | None]:
        """Cuts a stretch of chips in one of the processes, from any thread, of which others may ask meanwhile.

        Args:
            latlon_deg: (N, 2) centres.
            size_px: Width and height of each in pixels.
            gsd_m: Metres on the ground a pixel.

        Returns:
            The chips, north up; None where there is no imagery.

        Raises:
            CutterEndedError: The process has ended.
            TilesError: As `ImagerySource.chip` does.
        """
        process = self._free.get()
        try:
            _send(process, (latlon_deg, size_px, gsd_m))
            assert process.stdout is not None, "it is a pipe"
            try:
                found, warned, skipped = pickle.load(process.stdout)
            except (EOFError, pickle.UnpicklingError):
                raise _ended(process) from None
        finally:
            self._free.put(process)
        for message, category in warned:
            warnings.warn(message, category, stacklevel=2)
        if isinstance(self._source.skipped, list):  # a mosaic's, which grows while it is cut from
            self._source.skipped += [each for each in skipped if each not in self._source.skipped]
        if isinstance(found, BaseException):
            raise found
        chips: list[Chip | None] = found
        return chips

    def close(self) -> None:
        """Ends all of them."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def serve() -> None:
    """Cuts chips until there is no more input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever is interrupted ends this
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    questions = sys.stdin.buffer
    try:
        source: ChipSource = pickle.load(questions)
        while True:
            latlon_deg, size_px, gsd_m = pickle.load(questions)
            pickle.dump(_cut(source, latlon_deg, size_px, gsd_m), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
    except (EOFError, BrokenPipeError):
        os._exit(0)  # nobody is left to be told of anything


def _cut(
    source: ChipSource, latlon_deg: NDArray[np.float64], size_px: int, gsd_m: float
) -> tuple[list[Chip | None] | Exception, list[tuple[str, type[Warning]]], Sequence[tuple[str, str]]]:
    """Returns chips, or what went wrong; what was warned of; and what of the source cannot be used."""
    found: list[Chip | None] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            for at in latlon_deg:
                try:
                    found.append(source.chip(at, size_px=size_px, gsd_m=gsd_m))
                except OutsideCoverageError:
                    found.append(None)
        except Exception as error:
            return error, _told(warned), list(source.skipped)
    return found, _told(warned), list(source.skipped)


def _told(warned: Sequence[warnings.WarningMessage]) -> list[tuple[str, type[Warning]]]:
    return [(str(each.message), each.category) for each in warned]


def _send(process: subprocess.Popen[bytes], content: Any) -> None:
    assert process.stdin is not None, "it is a pipe"
    try:
        pickle.dump(content, process.stdin, pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
    except BrokenPipeError:
        raise _ended(process) from None


def _ended(process: subprocess.Popen[bytes]) -> CutterEndedError:
    code = process.wait()
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"has ended with {code}"
    return CutterEndedError(f"a process that cuts chips {how}; where memory is short, take a smaller num_workers")
