import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from geoview.config import AerialView, GroundView, InferenceConfig
from geoview.embed import embed, read_ahead, resolve_device, resolve_precision
from geoview.errors import ConfigError, EncoderError
from geoview.models import CrossViewEncoder

torch.set_num_threads(2)

CPU = InferenceConfig(batch_size=4, device="cpu", precision="fp32")


def picture(value, height=16, width=16, valid=True):
    return SimpleNamespace(
        pixels=np.full((height, width, 3), value, np.uint8), valid=np.full((height, width), valid, np.bool_)
    )


class Probe(nn.Module):
    """Answers (value of the picture, share of it that is valid), and keeps the shapes it was given."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, pixels, valid, *, seen):
        assert not torch.is_grad_enabled()
        self.shapes.append(tuple(pixels.shape))
        return torch.stack([pixels.float().mean(dim=(1, 2, 3)), valid.float().mean(dim=(1, 2))], dim=1)


# -- embed -------------------------------------------------------------------------------------------------------------


def test_keeps_the_order_whatever_the_sizes():
    sizes = [(16, 16)] * 3 + [(16, 32)] * 2 + [(16, 16)] + [(32, 16)] * 9
    pictures = [picture(i, *size, valid=i % 2 == 0) for i, size in enumerate(sizes)]
    probe = Probe()
    vectors = list(embed(probe, pictures, CPU, seen="aerial"))
    np.testing.assert_array_equal(vectors, [(i, i % 2 == 0) for i in range(len(sizes))])
    assert all(v.dtype == np.float32 for v in vectors)
    assert probe.shapes == [
        (3, 3, 16, 16), (2, 3, 16, 32), (1, 3, 16, 16), (4, 3, 32, 16), (4, 3, 32, 16), (1, 3, 32, 16)
    ]  # fmt: skip


def test_nothing_from_nothing():
    assert list(embed(Probe(), [], CPU, seen="aerial")) == []


@pytest.mark.parametrize("side_px", [16, 256])
def test_reads_at_most_two_batches_a_thread_ahead_and_lets_go(side_px):
    read, alive, ahead = [], [], 2 * torch.get_num_threads() * CPU.batch_size

    def pictures():
        for i in range(60):
            read.append(i)
            alive.append(sum(ref() is not None for ref in references))
            made = picture(i, side_px, side_px)
            references.append(weakref.ref(made.pixels))
            yield made
            del made

    references = []
    stream = embed(Probe(), pictures(), CPU, seen="aerial")
    assert read == []
    for i, _ in enumerate(stream):
        assert i < len(read) <= min(60, i + 1 + ahead + CPU.batch_size)
    gc.collect()
    assert max(alive) <= ahead + 2 * CPU.batch_size
    assert len(read) == 60


@pytest.mark.parametrize("side_px", [16, 256])
def test_an_early_end_closes_the_source(side_px):
    closed = []

    def pictures():
        try:
            while True:
                yield picture(1, side_px, side_px)
        finally:
            closed.append(True)

    source = pictures()
    stream = embed(Probe(), source, CPU, seen="aerial")
    next(stream)
    stream.close()
    del stream, source
    gc.collect()
    assert closed == [True]
    assert workers() == []


def test_threads_share_out_a_long_stream_and_each_computes_alone():
    seen_by, sizes = {}, []

    class Named(Probe):
        def forward(self, pixels, valid, *, seen):
            seen_by[threading.get_ident()] = torch.get_num_threads()
            sizes.append(len(pixels))
            return super().forward(pixels, valid, seen=seen)

    before = torch.get_num_threads()
    assert before > 1
    for n, side_px in ((7, 256), (40, 16)):  # too few pictures, and too little in a batch
        list(embed(Named(), [picture(i, side_px, side_px) for i in range(n)], CPU, seen="aerial"))
        assert seen_by == {threading.get_ident(): before}
    seen_by.clear()
    sizes.clear()
    plenty = replace(CPU, batch_size=64)
    vectors = list(embed(Named(), [picture(i, 256, 256) for i in range(40)], plenty, seen="aerial"))
    assert sorted(sizes) == [4, 4, 8, 8, 8, 8], "as few as may be until there is work for all threads"
    np.testing.assert_array_equal(vectors, [(i, 1) for i in range(40)])
    assert threading.get_ident() not in seen_by
    assert set(seen_by.values()) == {1}
    # What comes after is as it was, in this thread and in new ones.
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before


@pytest.mark.parametrize("side_px", [16, 256])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_refused(value, side_px):
    class Broken(Probe):
        def forward(self, pixels, valid, *, seen):
            return super().forward(pixels, valid, seen=seen).masked_fill(pixels[:, :1, 0, 0] == 6, value)

    stream = embed(Broken(), (picture(i, side_px, side_px) for i in range(9)), CPU, seen="aerial")
    assert [next(stream)[0] for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(EncoderError, match=r"not finite in torch\.float32: try --precision fp32"):
        next(stream)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    made = CrossViewEncoder(
        "convnext_atto",
        ground=GroundView(width_px=64, height_px=32),
        aerial=AerialView(size_px=32),
        backbone_args={"depths": [1, 1, 1, 1], "dims": [8, 16, 32, 64], "drop_path_rate": 0.5},
    )
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return made


def noise(n=6):
    rng = np.random.default_rng(0)
    return [
        SimpleNamespace(pixels=rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), valid=rng.random((32, 32)) < 0.8)
        for _ in range(n)
    ]


def test_equals_the_encoder_and_runs_it_in_evaluation_mode(encoder):
    pictures = noise()
    encoder.train()
    vectors = np.stack(list(embed(encoder, pictures, CPU, seen="aerial")))
    assert not encoder.training
    pixels = torch.from_numpy(np.stack([p.pixels for p in pictures])).permute(0, 3, 1, 2)
    valid = torch.from_numpy(np.stack([p.valid for p in pictures]))
    with torch.inference_mode():
        expected = encoder(pixels, valid).numpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_bfloat16_is_close_to_float32_and_not_the_same(encoder):
    pictures = noise()
    exact = np.stack(list(embed(encoder, pictures, CPU, seen="aerial")))
    half = np.stack(list(embed(encoder, pictures, InferenceConfig(device="cpu", precision="bf16"), seen="aerial")))
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-5)
    assert (exact * half).sum(axis=1).min() > 0.99
    assert np.abs(exact - half).max() > 1e-5


def test_views_turned_in_memory_can_be_embedded():
    turned = SimpleNamespace(pixels=picture(7).pixels[:, ::-1], valid=picture(7).valid[::-1])
    np.testing.assert_array_equal(list(embed(Probe(), [turned], CPU, seen="aerial")), [(7, 1)])


# -- devices and precisions --------------------------------------------------------------------------------------------


def test_resolve_device(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda a=available: a)
        assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x", ""])
def test_a_device_that_is_not_there_is_an_error_of_one_line(name):
    with pytest.raises(ConfigError, match=f"device '{name}' is not available here: .") as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value)


def test_resolve_precision(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [resolve_precision(p, cpu) for p in ("fp32", "bf16", "fp16")] == [
        torch.float32, torch.bfloat16, torch.float16
    ]  # fmt: skip
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("geoview.embed.bfloat16_is_faster", lambda s=supported: s)
        assert resolve_precision("auto", cpu) == expected
        assert resolve_precision("fp32", cpu) == torch.float32
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda s=supported: s)
        assert resolve_precision("auto", gpu) == expected
        assert resolve_precision("fp16", gpu) == torch.float16


# -- read_ahead --------------------------------------------------------------------------------------------------------


def workers():
    return [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


@pytest.mark.parametrize(("num_workers", "depth"), [(1, 1), (2, 1), (3, 8), (8, 3), (2, 100)])
def test_keeps_the_order(num_workers, depth):
    rng = np.random.default_rng(0)
    pauses = rng.random(30) * 0.004

    def work(i):
        time.sleep(pauses[i])
        return i * i

    assert list(read_ahead(work, range(30), num_workers=num_workers, depth=depth)) == [i * i for i in range(30)]
    assert workers() == []


def test_works_at_the_same_time():
    together = threading.Barrier(3, timeout=20)
    assert len(list(read_ahead(lambda _: together.wait(), range(3), num_workers=3, depth=3))) == 3


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_what_waits_is_bounded(depth):
    taken = []

    def items():
        for i in range(50):
            taken.append(i)
            yield i

    results = read_ahead(lambda i: i, items(), num_workers=2, depth=depth)
    assert taken == []
    for i in results:
        assert i < len(taken) <= i + depth
    assert len(taken) == 50


def test_an_exception_comes_where_its_result_would_have_come():
    started = []

    def work(i):
        started.append(i)
        if i == 5:
            raise OSError("five")
        return i

    results = read_ahead(work, range(1_000), num_workers=2, depth=4)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="five"):
        next(results)
    assert workers() == []
    assert max(started) < 10


def test_an_exception_of_the_items_stops_the_threads():
    def items():
        yield from range(3)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(read_ahead(lambda i: i, items(), num_workers=2, depth=8))
    assert workers() == []


def test_an_early_end_stops_the_threads_and_drops_what_waits():
    started, go = [], threading.Event()

    def work(i):
        started.append(i)
        if i:
            go.wait(20)
        return i

    results = read_ahead(work, range(100), num_workers=1, depth=20)
    assert next(results) == 0
    threading.Timer(0.05, go.set).start()
    results.close()
    assert workers() == []
    assert started in ([0], [0, 1])
