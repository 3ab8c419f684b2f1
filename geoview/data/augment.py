"""Changes of light and sensor, drawn for each picture of a batch: what differs between two dates or two cameras."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from geoview.config import AugmentConfig

__all__ = ["change_light"]

# Largest edges of an erased rectangle, as a share of the picture's.
_ERASE_EDGE = 0.5
# The dropout of Sample4Geo (Deuser et al., ICCV 2023): edge of the lost squares as a share of the grid's step, which is
# a tenth of the width; and how many rectangles are scattered, their edges as shares of the height.
_GRID_RATIO, _GRID_STEP = 0.4, 0.1
_HOLES, _HOLE_EDGE = (10, 25), (0.1, 0.2)


def change_light(
    pixels: Tensor, valid: Tensor, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Changes colours, sharpness and noise of each picture on its own, and erases parts.

    Args:
        pixels: (B, 3, H, W) uint8.
        valid: (B, H, W) bool.
        config: Strengths; normal deviations, of logarithms where the change is a factor.
        generator: Source of what is drawn, on the pixels' device.

    Returns:
        pixels: (B, 3, H, W) float in [0, 255].
        valid: (B, H, W) bool, False in the erased parts too.
    """
    n, device = len(pixels), pixels.device

    def normal(strength: float, *shape: int) -> Tensor:
        return strength * torch.randn(n, *shape, generator=generator, device=device)

    def chosen(share: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=generator, device=device) < share

    x = (pixels.float() / 255) ** normal(config.gamma, 1, 1, 1).exp()
    mix = torch.eye(3, device=device) + normal(config.channel_mix, 3, 3)
    x = torch.einsum("bij,bjhw->bihw", mix, x) * normal(config.gain, 3, 1, 1).exp()
    grey = x.mean(dim=1, keepdim=True)
    saturation = normal(config.saturation, 1, 1, 1).exp().masked_fill(chosen(config.greyscale_share), 0.0)
    x = grey + saturation * (x - grey)
    mean = x.mean(dim=(2, 3), keepdim=True)
    x = mean + normal(config.contrast, 1, 1, 1).exp() * (x - mean) + normal(config.brightness, 1, 1, 1)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(n, 1, 1, 1, generator=generator, device=device)
    x = torch.where(chosen(config.blur_share), x + share * (blurred - x), x)
    level = config.noise * torch.rand(n, 1, 1, 1, generator=generator, device=device)
    x = x + level * torch.randn(x.shape, generator=generator, device=device)
    lost = _rectangles(valid, generator) & chosen(config.erase_share)[:, 0]
    # What is off draws nothing: a run draws what it drew before these were there.
    if config.grid_dropout_share > 0:
        lost |= _grid(valid, generator) & chosen(config.grid_dropout_share)[:, 0]
    if config.coarse_dropout_share > 0:
        lost |= _holes(valid, generator) & chosen(config.coarse_dropout_share)[:, 0]
    return x.clamp(0, 1) * 255, valid & ~lost


def _rectangles(valid: Tensor, generator: torch.Generator) -> Tensor:
    """Draws a rectangle for each picture: (B, H, W) bool, True inside."""
    n, height, width = valid.shape
    draw = torch.rand(4, n, 1, 1, generator=generator, device=valid.device)
    rows = torch.arange(height, device=valid.device)[None, :, None] / height
    columns = torch.arange(width, device=valid.device)[None, None, :] / width
    half = _ERASE_EDGE / 2
    return ((rows - draw[0]).abs() < half * draw[2]) & ((columns - draw[1]).abs() < half * draw[3])


def _grid(valid: Tensor, generator: torch.Generator) -> Tensor:
    """Lays a grid of squares over each picture: (B, H, W) bool, True inside."""
    n, height, width = valid.shape
    step_px = max(2, round(width * _GRID_STEP))
    hole_px = min(max(1, round(step_px * _GRID_RATIO)), step_px - 1)
    offset = torch.randint(step_px, (2, n, 1, 1), generator=generator, device=valid.device)
    rows = torch.arange(height, device=valid.device)[None, :, None]
    columns = torch.arange(width, device=valid.device)[None, None, :]
    return ((rows + offset[0]) % step_px < hole_px) & ((columns + offset[1]) % step_px < hole_px)


def _holes(valid: Tensor, generator: torch.Generator) -> Tensor:
    """Scatters rectangles over each picture: (B, H, W) bool, True inside."""
    n, height, width = valid.shape
    device = valid.device
    least, most = _HOLES
    count = torch.randint(least, most + 1, (n, 1, 1), generator=generator, device=device)
    edges = torch.rand(most, 2, n, 1, 1, generator=generator, device=device)
    edges_px = ((_HOLE_EDGE[0] + (_HOLE_EDGE[1] - _HOLE_EDGE[0]) * edges) * height).clamp(min=1.0)
    corners = torch.rand(most, 2, n, 1, 1, generator=generator, device=device)
    rows = torch.arange(height, device=device)[None, :, None]
    columns = torch.arange(width, device=device)[None, None, :]
    inside = torch.zeros_like(valid)
    for i, (edge_px, corner) in enumerate(zip(edges_px, corners, strict=True)):
        top = corner[0] * (height - edge_px[0]).clamp(min=0.0)
        left = corner[1] * (width - edge_px[1]).clamp(min=0.0)
        hole = (rows >= top) & (rows < top + edge_px[0]) & (columns >= left) & (columns < left + edge_px[1])
        inside |= hole & (i < count)
    return inside
