"""Depthwise convolutions whose gradients in bfloat16 a CPU computes by matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["DepthwiseConv2d", "depthwise_conv2d", "with_fast_gradients"]


def with_fast_gradients(network: nn.Module) -> nn.Module:
    """Puts `DepthwiseConv2d` in the place of a network's depthwise convolutions, where it can stand for them.

    Args:
        network: Changed in place; its weights, their names and what it computes stay the same.

    Returns:
        The network.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and _is_plain_depthwise(child):
                setattr(module, name, DepthwiseConv2d.of(child))
    return network


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that keeps the size of its maps; in bfloat16, a CPU learns it by `depthwise_conv2d`."""

    @classmethod
    def of(cls, convolution: nn.Conv2d) -> DepthwiseConv2d:
        """Returns one with the parameters of another; they are shared."""
        channels, size = convolution.in_channels, convolution.kernel_size[0]
        made = cls(channels, channels, size, padding=size // 2, groups=channels, device="meta")
        made.weight, made.bias = convolution.weight, convolution.bias
        return made.train(convolution.training)

    def forward(self, input: Tensor) -> Tensor:
        """Convolves (B, C, H, W)."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        if input.device.type != "cpu" or dtype != torch.bfloat16 or not torch.is_grad_enabled():
            return super().forward(input)
        return depthwise_conv2d(
            input.to(dtype), self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)
        )


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolves each channel with a kernel of its own, keeping the size of the maps.

    The gradient of the kernels is a matrix product for each of their rows, summed in float32 or better; that of the
    maps is a convolution with the kernels turned by 180 degrees. With torch's gradients, depthwise convolutions take
    half of a ConvNeXt's training step in bfloat16, with these a fourth to a third (`benchmarks/gradients.py`). In
    float32 these were no faster, and torch's are kept.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, K, K), K odd.
        bias: (C,).

    Returns:
        (B, C, H, W).
    """
    convolved: Tensor = _Depthwise.apply(x, weight, bias)
    return convolved


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        size = weight.shape[-1]
        return (
            F.conv2d(gradient, weight.flip(2, 3), padding=size // 2, groups=len(weight)) if of_x else None,
            _of_kernel(x, gradient, size).to(weight.dtype) if of_weight else None,
            gradient.sum(dim=(0, 2, 3)) if of_bias else None,
        )


def _of_kernel(x: Tensor, gradient: Tensor, size: int) -> Tensor:
    """Returns the gradient of the kernels, (C, 1, size, size), in float32 or better."""
    around = size // 2
    dtype = torch.promote_types(x.dtype, torch.float32)
    channels, height, width = x.shape[1:]
    wide = width + 2 * around
    # Both as C, rows, B, columns: rows that lie `dy` apart are then one matrix for each channel.
    x, gradient = (t.permute(1, 2, 0, 3).to(dtype, memory_format=torch.contiguous_format) for t in (x, gradient))
    kernels = x.new_zeros(channels, size, size)
    for dy in range(max(-around, 1 - height), min(around, height - 1) + 1):
        here = gradient[:, max(0, -dy) : height - max(0, dy)].flatten(1, 2)
        there = x[:, max(0, dy) : height - max(0, -dy)].flatten(1, 2)
        products = F.pad(here.mT @ there, (around, around))
        # Of the products of all pairs of columns, those that lie `dx` apart: a diagonal for each `dx`.
        diagonals = products.as_strided((channels, size, width), (width * wide, 1, wide + 1))
        kernels[:, dy + around] = diagonals.sum(dim=2)
    return kernels.unsqueeze(1)


def _is_plain_depthwise(convolution: nn.Conv2d) -> bool:
    size = convolution.kernel_size[0]
    return (
        convolution.groups == convolution.in_channels == convolution.out_channels > 1
        and convolution.kernel_size == (size, size)
        and size % 2 == 1
        and convolution.padding == (size // 2, size // 2)
        and convolution.stride == convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
    )
