"""The worker: together what is alike, in turns, and nobody suffers for another."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import tiles
from geoview.data.queries import PhotoQuery
from geoview.errors import RegionError
from geoview.locate.embedding import EmbeddedPhoto, PhotoView
from geoview.locate.localizer import Localization, Search
from geoview.serve.metrics import Metrics
from geoview.serve.worker import Claim, Job, QueueFullError, Worker

SEARCH = Search()


class Slow:
    """A localizer that waits to be let go, and tells what it was given; photos named `bomb` go off."""

    def __init__(self):
        self.batches, self.searches, self.free = [], [], threading.Event()

    def embed(self, photos, view):
        self.free.wait(20)
        names = [photo.path for photo in photos]
        self.batches.append(names)
        if any(name.startswith("bomb") for name in names):
            raise ZeroDivisionError("a fault of ours")
        return [EmbeddedPhoto(photo, np.ones((1, 2), np.float32), np.zeros(1), None) for photo in photos]

    def answer(self, photos, search):
        self.searches.append((search, [photo.query.path for photo in photos]))
        if search.top_k == 99:
            raise RegionError("/home/machine/index: no cell lies there")
        return [
            Localization(photo.query.path, "failed" if photo.error else "ok", [], error=photo.error) for photo in photos
        ]


@pytest.fixture
def localizer():
    return Slow()


@pytest.fixture
def worker():
    worker = Worker(Metrics(), at_once=8, max_waiting=20, max_photo_px=20_000)
    yield worker
    worker.close(5)


@pytest.fixture
def job(localizer, tools):
    """Makes jobs of photos by their names."""
    generation, jpeg = SimpleNamespace(localizer=localizer), tools.picture()

    def make(*names, question=SEARCH, view=PhotoView(), content=jpeg):  # noqa: B008
        return Job([PhotoQuery(name, content=content) for name in names], view, question, generation)

    return make


async def answers(worker, job, within_s=20):
    """Has a job done."""
    with worker.queued(job):
        return [answer async for answer in job.answers(within_s)]


async def busy(worker, job):
    """Keeps the worker at a first photo, so that what comes now has to wait."""
    task = asyncio.create_task(answers(worker, job("first")))
    await asyncio.sleep(0)
    await waiting(worker, 0)
    return task


async def waiting(worker, n):
    async with asyncio.timeout(10):
        while worker.n_waiting() != n:
            await asyncio.sleep(0.005)


def test_photos_of_several_requests_share_a_batch_and_a_search(worker, localizer, job):
    async def story():
        first = await busy(worker, job)
        other = Search(top_k=3)
        tasks = [
            asyncio.create_task(answers(worker, job(f"{i}", question=s))) for i, s in enumerate([SEARCH, other, SEARCH])
        ]
        await waiting(worker, 3)
        localizer.free.set()
        return [answer.query for task in (first, *tasks) for answer in await task]

    assert asyncio.run(story()) == ["first", "0", "1", "2"]
    assert localizer.batches == [["first"], ["0", "1", "2"]]
    assert [names for _, names in localizer.searches[1:]] == [["0", "2"], ["1"]]


def test_a_large_request_does_not_hold_up_small_ones(worker, localizer, job):
    async def story():
        first = await busy(worker, job)
        large = asyncio.create_task(answers(worker, job(*(f"large {i}" for i in range(12)))))
        await waiting(worker, 12)
        small = asyncio.create_task(answers(worker, job("small")))
        await waiting(worker, 13)
        localizer.free.set()
        found = [answer.query for answer in await large]
        await first
        await small
        return found

    assert asyncio.run(story()) == [f"large {i}" for i in range(12)], "in their order"
    assert localizer.batches[1][:2] == ["large 0", "small"]
    assert len(localizer.batches[1]) == 8


def test_photos_from_above_and_from_the_street_are_worked_on_in_turns(worker, localizer, job):
    async def story():
        first = await busy(worker, job)
        views = (PhotoView(), PhotoView("aerial", gsd_m=1.0))
        tasks = [
            asyncio.create_task(answers(worker, job(*names, view=view)))
            for names, view in zip((["a"] * 10, ["b"] * 2), views, strict=True)
        ]
        await waiting(worker, 12)
        localizer.free.set()
        await asyncio.gather(first, *tasks)

    asyncio.run(story())
    assert localizer.batches[1:] == [["a"] * 8, ["b"] * 2, ["a"] * 2]


def test_reasons_wait_for_their_turn_and_one_that_cannot_be_told_takes_no_other_down(worker, localizer, job):
    class Explainer:
        def drawn(self, photo, latlon_deg, view):
            localizer.batches.append([f"why {photo.path}"])
            if photo.path == "gone":
                raise tiles.UnreadableRasterError("/home/machine/ortho.tif: gone")
            return latlon_deg

    async def story():
        first = await busy(worker, job)
        claim = Claim(0x479E75F100000000, Explainer())
        asked = [job("a"), job("gone", question=claim), job("b", question=claim), job("c")]
        tasks = [asyncio.create_task(answers(worker, each)) for each in asked]
        await waiting(worker, 4)
        localizer.free.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    a, gone, ((lat, lon),), c = asyncio.run(story())
    assert [answer.query for answer in (*a, *c)] == ["a", "c"]
    assert isinstance(gone, tiles.UnreadableRasterError)
    assert (lat, lon) == pytest.approx((48.1, 11.6), abs=1)
    assert localizer.batches[1:] == [["a", "c"], ["why gone"], ["why b"]]


def run(worker, make, within_s=20):
    async def story():
        return await answers(worker, make(), within_s)

    return asyncio.run(story())


def test_a_photo_that_goes_off_fails_alone_and_the_fault_is_not_told(worker, localizer, job, caplog):
    localizer.free.set()
    (one, bomb, two) = run(worker, lambda: job("one", "bomb.jpg", "two"))
    assert (one.status, two.status) == ("ok", "ok")
    assert (bomb.status, bomb.error) == ("failed", "bomb.jpg: cannot be worked on (ZeroDivisionError)")
    assert "a fault of ours" in caplog.text


def test_a_search_that_cannot_be_answered_is_the_error_of_its_request(worker, localizer, job):
    async def story():
        localizer.free.set()
        bad = asyncio.create_task(answers(worker, job("a", "b", question=Search(top_k=99))))
        good = asyncio.create_task(answers(worker, job("c")))
        with pytest.raises(RegionError):
            await bad
        return await good

    assert [answer.status for answer in asyncio.run(story())] == ["ok"]


def test_too_many_pixels_are_refused_before_they_are_decoded(worker, localizer, job, tools):
    async def story():
        wide = job("wide.png", content=tools.picture(size_px=(300, 100), kind="PNG"))
        wide.photos.append(PhotoQuery("b.jpg", content=tools.picture()))
        return await answers(worker, wide)

    localizer.free.set()
    refused, sound = asyncio.run(story())
    assert refused.error == "wide.png: 300 x 100 pixels are more than 0.02 megapixels; scale it down"
    assert sound.status == "ok"
    assert localizer.batches == [["b.jpg"]]


def test_a_full_queue_refuses_and_what_nobody_waits_for_any_more_leaves_it(worker, localizer, job):
    async def story():
        first = await busy(worker, job)
        left = asyncio.create_task(answers(worker, job(*["w"] * 20)))
        await waiting(worker, 20)
        with pytest.raises(QueueFullError):
            await answers(worker, job("more"))
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert worker.n_waiting() == 0
        localizer.free.set()
        await first
        return await answers(worker, job("more"))

    assert [answer.status for answer in asyncio.run(story())] == ["ok"]
    assert localizer.batches == [["first"], ["more"]], "nothing is done for those who have left"


def test_answers_that_do_not_come_in_time_are_an_error(worker, localizer, job):
    with pytest.raises(TimeoutError):
        run(worker, lambda: job("slow"), within_s=0.05)
    localizer.free.set()


def test_a_worker_that_is_closed_ends_its_thread_and_takes_nothing_more(worker, localizer, job, tools):
    localizer.free.set()
    worker.close(5)
    tools.until(lambda: not worker._thread.is_alive())
    with pytest.raises(QueueFullError):
        run(worker, lambda: job("late"))
