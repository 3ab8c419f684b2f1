"""One thread that works on the photos of all requests that wait: together where they are alike, and in turns."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

import tiles
from geoview.data.photos import read_size_px
from geoview.data.queries import PhotoQuery
from geoview.errors import GeoviewError, UnreadableImageError
from geoview.geo import cells
from geoview.locate.embedding import EmbeddedPhoto, PhotoView
from geoview.locate.localizer import Localization, Localizer, Search
from geoview.locate.why import Drawn, Explainer
from geoview.serve.generations import Generation
from geoview.serve.metrics import Metrics

__all__ = ["Claim", "Job", "QueueFullError", "Worker"]

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer", Localization, Drawn)
_Item = TypeVar("_Item")
_Out = TypeVar("_Out")


class QueueFullError(Exception):
    """More photos wait than will be answered soon."""


@dataclass(frozen=True)
class Claim:
    """That a photo is of a cell, for which reasons are asked.

    Attributes:
        cell_id: The cell.
        explainer: Draws them.
    """

    cell_id: int
    explainer: Explainer


@dataclass(eq=False)
class Job(Generic[_Answer]):
    """The photos of a request: searches are answered with localizations, claims with drawings.

    Attributes:
        photos: What to work on.
        view: What they show.
        question: What is asked of each.
        generation: What is asked, held open by who made the job.
    """

    photos: Sequence[PhotoQuery]
    view: PhotoView
    question: Search | Claim
    generation: Generation
    _next: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _done: asyncio.Queue[_Answer | Exception] = field(default_factory=asyncio.Queue)

    async def answers(self, within_s: float) -> AsyncIterator[_Answer]:
        """Yields the answers in the order of the photos, as they come.

        Raises:
            TimeoutError: They have not all come within that time.
            GeoviewError: The search cannot be answered for any photo; or the photo of a claim cannot be read.
            TilesError: There is no imagery of the cell of a claim.
        """
        deadline = self._loop.time() + within_s
        for _ in self.photos:
            # No longer than for waiting: what is done between the answers belongs to who asks.
            async with asyncio.timeout_at(deadline):
                answer = await self._done.get()
            if isinstance(answer, Exception):
                raise answer
            yield answer

    @property
    def kind(self) -> object:
        """What is equal where photos can be worked on together: those of claims have nothing in common."""
        return (self.generation, self.view) if isinstance(self.question, Search) else self

    @property
    def n_waiting(self) -> int:
        """Photos that nobody works on yet."""
        return len(self.photos) - self._next

    def take(self) -> PhotoQuery:
        """Returns the next photo that waits."""
        self._next += 1
        return self.photos[self._next - 1]

    def put(self, answer: _Answer | Exception) -> None:
        """Hands an answer over, from another thread."""
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            self._loop.call_soon_threadsafe(self._done.put_nowait, answer)


class Worker:
    """Works until it is closed. Photos of different requests share the batches of the encoder and of the search.

    A photo that cannot be worked on is answered as failed, whatever is wrong with it, and takes none down with it.
    """

    def __init__(self, metrics: Metrics, *, at_once: int, max_waiting: int, max_photo_px: int) -> None:
        """Starts the thread.

        Args:
            metrics: Where to count.
            at_once: Photos that are embedded together at most.
            max_waiting: Photos that may wait.
            max_photo_px: Pixels of a photo at most.
        """
        self._metrics, self._at_once, self._max_waiting = metrics, at_once, max_waiting
        self._max_photo_px = max_photo_px
        self._jobs: list[Job[Any]] = []
        self._changed = threading.Condition()
        self._closing = False
        metrics.waiting.set_function(self.n_waiting)
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def n_waiting(self) -> int:
        """Returns how many photos nobody works on yet."""
        with self._changed:
            return sum(job.n_waiting for job in self._jobs)

    @contextmanager
    def queued(self, job: Job[_Answer]) -> Iterator[Job[_Answer]]:
        """Has a job done; what of it still waits when this ends is dropped.

        Raises:
            QueueFullError: Too many photos wait.
        """
        with self._changed:
            if self._closing or sum(each.n_waiting for each in self._jobs) + len(job.photos) > self._max_waiting:
                raise QueueFullError
            self._jobs.append(job)
            self._changed.notify()
        try:
            yield job
        finally:
            with self._changed:
                self._jobs = [each for each in self._jobs if each is not job]

    def close(self, timeout_s: float) -> None:
        """Ends the thread when its batch is done; waits for that no longer than told."""
        with self._changed:
            self._closing = True
            self._jobs.clear()
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if self._closing:
                    return
                batch = self._batch()
            try:
                if isinstance(batch[0][0].question, Claim):
                    self._explain(*batch[0])
                else:
                    self._locate(batch)
            except Exception as error:
                log.exception("a batch of photos could not be answered")
                for job, _ in batch:
                    job.put(error)

    def _batch(self) -> list[tuple[Job[Any], PhotoQuery]]:
        """Takes photos in turns from jobs that can be worked on together with the first; these then come last."""
        kind = self._jobs[0].kind
        alike = [job for job in self._jobs if job.kind == kind]
        others = [job for job in self._jobs if job not in alike]
        batch: list[tuple[Job[Any], PhotoQuery]] = []
        while alike and len(batch) < self._at_once:
            job = alike.pop(0)
            batch.append((job, job.take()))
            if job.n_waiting:
                alike.append(job)
        self._jobs = others + alike
        return batch

    def _explain(self, job: Job[Drawn], photo: PhotoQuery) -> None:
        start, claim = time.perf_counter(), job.question
        assert isinstance(claim, Claim)
        lat, lon = cells.centers_deg(np.array([claim.cell_id], np.uint64))[0].tolist()
        try:
            if error := self._refusal(photo):
                raise UnreadableImageError(error)
            job.put(claim.explainer.drawn(photo, (lat, lon), job.view))
        except (GeoviewError, tiles.TilesError) as error:
            job.put(error)
        except Exception as error:
            job.put(UnreadableImageError(_unworkable(photo, error)))
        self._metrics.seconds.labels("why").observe(time.perf_counter() - start)

    def _locate(self, batch: list[tuple[Job[Localization], PhotoQuery]]) -> None:
        first, start = batch[0][0], time.perf_counter()
        localizer = first.generation.localizer
        photos = self._embedded([photo for _, photo in batch], localizer, first.view)
        embedded = time.perf_counter()
        together: dict[Search, list[int]] = {}
        for i, (job, _) in enumerate(batch):
            assert isinstance(job.question, Search)
            together.setdefault(job.question, []).append(i)
        for search, numbers in together.items():
            answers = _each([photos[i] for i in numbers], partial(localizer.answer, search=search), _unanswered)
            for i, answer in zip(numbers, answers, strict=True):
                if isinstance(answer, Localization):
                    self._metrics.photos.labels(answer.status).inc()
                batch[i][0].put(answer)
        self._metrics.seconds.labels("embed").observe(embedded - start)
        self._metrics.seconds.labels("search").observe(time.perf_counter() - embedded)

    def _embedded(self, photos: list[PhotoQuery], localizer: Localizer, view: PhotoView) -> list[EmbeddedPhoto]:
        refused = {i: error for i, photo in enumerate(photos) if (error := self._refusal(photo))}
        sound = [photo for i, photo in enumerate(photos) if i not in refused]
        embedded = iter(_each(sound, partial(localizer.embed, view=view), _unreadable) if sound else [])
        return [_failed(photo, refused[i]) if i in refused else next(embedded) for i, photo in enumerate(photos)]

    def _refusal(self, photo: PhotoQuery) -> str | None:
        """Returns why a photo is not even decoded."""
        try:
            width, height = read_size_px(photo.photo)
        except GeoviewError as error:
            return str(error)
        if width * height <= self._max_photo_px:
            return None
        limit = self._max_photo_px / 1e6
        return f"{photo.path}: {width} x {height} pixels are more than {limit:g} megapixels; scale it down"


def _each(
    items: Sequence[_Item],
    function: Callable[[Sequence[_Item]], Sequence[_Out]],
    fault: Callable[[_Item, Exception], _Out],
) -> Sequence[_Out]:
    """Maps items together; where that fails, each for itself, so that one takes no other down with it."""
    try:
        return function(items)
    except Exception as error:
        if len(items) == 1:
            return [fault(items[0], error)]
        return [out for item in items for out in _each([item], function, fault)]


def _unreadable(photo: PhotoQuery, error: Exception) -> EmbeddedPhoto:
    if isinstance(error, GeoviewError):
        return _failed(photo, f"{photo.path}: {error}")
    return _failed(photo, _unworkable(photo, error))


def _unworkable(photo: PhotoQuery, error: Exception) -> str:
    """Returns what is told of a fault of ours, which is left to the log."""
    log.error("a photo could not be worked on", exc_info=error)
    return f"{photo.path}: cannot be worked on ({type(error).__name__})"


def _unanswered(_: EmbeddedPhoto, error: Exception) -> Localization | Exception:
    return error


def _failed(photo: PhotoQuery, error: str) -> EmbeddedPhoto:
    return EmbeddedPhoto(photo, np.empty((0, 0), np.float32), np.empty(0), None, error)
