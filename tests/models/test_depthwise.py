"""Depthwise convolutions: what they compute and learn is torch's to rounding, in whatever precision."""

from functools import partial

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from geoview.models import depthwise
from geoview.models.depthwise import DepthwiseConv2d, depthwise_conv2d, with_fast_gradients

torch.set_num_threads(2)


def drawn(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def both(channels, size):
    """torch's convolution and ours, of the same weights."""
    torch.manual_seed(0)
    theirs, copy = (nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels) for _ in range(2))
    copy.load_state_dict(theirs.state_dict())
    return theirs, DepthwiseConv2d.of(copy)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 4),
    channels=st.integers(1, 5),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    size=st.sampled_from([1, 3, 5, 7]),
    bias=st.booleans(),
)
def test_gradients_are_those_of_torch(batch, channels, height, width, size, bias):
    upstream = drawn(batch, channels, height, width)
    found = []
    for convolve in (partial(F.conv2d, padding=size // 2, groups=channels), depthwise_conv2d):
        given = [drawn(batch, channels, height, width), drawn(channels, 1, size, size), drawn(channels)][: 2 + bias]
        y = convolve(*(t.requires_grad_() for t in given))
        y.backward(upstream)
        found.append([y, *(t.grad for t in given)])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_are_slopes():
    given = (
        drawn(2, 3, 4, 6, dtype=torch.float64),
        drawn(3, 1, 5, 5, dtype=torch.float64),
        drawn(3, dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(depthwise_conv2d, [t.requires_grad_() for t in given])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_half_the_mantissa_loses_no_more_than_in_torch(memory_format):
    theirs, ours = both(8, 7)
    x, upstream = (t.contiguous(memory_format=memory_format) for t in drawn(2, 16, 8, 12, 12))

    def gradients(convolution, enabled=True):
        convolution.zero_grad()
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = convolution(leaf)
        y.backward(upstream.to(y.dtype))
        return [y.detach(), leaf.grad, *(p.grad.clone() for p in convolution.parameters())]

    exact, torchs, own = gradients(theirs, enabled=False), gradients(theirs), gradients(ours)
    assert [t.dtype for t in own] == [t.dtype for t in torchs]
    for reference, *pair in zip(exact, torchs, own, strict=True):
        off = [float((t.float() - reference).norm() / reference.norm()) for t in pair]
        assert 0 < off[1] <= 1.5 * off[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_alone_learns_by_products(monkeypatch, dtype):
    _, ours = both(4, 7)
    asked = []
    monkeypatch.setattr(depthwise, "depthwise_conv2d", lambda x, *_: asked.append(x.dtype) or x)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        ours(drawn(2, 4, 9, 9))
    assert asked == ([torch.bfloat16] if dtype == torch.bfloat16 else [])


def test_without_gradients_it_is_torch_that_convolves():
    theirs, ours = both(4, 7)
    x = drawn(2, 4, 9, 9)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(x), theirs(x))


def test_only_the_convolutions_that_are_like_it_are_replaced():
    kept = [
        nn.Conv2d(4, 4, 3, padding=1),  # not depthwise
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, stride=2),
        nn.Conv2d(4, 4, 3, padding=2, groups=4, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4),  # a smaller map
        nn.Conv2d(4, 4, 4, padding=2, groups=4),
        nn.Conv2d(4, 4, (3, 5), padding=(1, 2), groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
    ]
    network = with_fast_gradients(nn.Sequential(*kept, nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4))))
    assert [type(m) for m in network[:-1]] == [nn.Conv2d] * len(kept)
    assert isinstance(network[-1][0], DepthwiseConv2d)


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_a_network_keeps_its_weights_and_their_names(name):
    network = timm.create_model(name, num_classes=0, depths=[1, 1, 1, 1], dims=[8, 16, 24, 32]).eval()
    state, x = {k: v.clone() for k, v in network.state_dict().items()}, torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = network(x)
    with_fast_gradients(network)
    assert sum(isinstance(m, DepthwiseConv2d) for m in network.modules()) == 4
    assert not any(m.training for m in network.modules())
    after = network.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[k], state[k]) for k in state)
    torch.testing.assert_close(network(x).detach(), before)
