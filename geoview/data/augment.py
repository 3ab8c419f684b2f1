"""Changes of light and sensor, drawn for each picture of a batch: what differs between two dates or two cameras."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from geoview.config import AugmentConfig

__all__ = ["change_light"]

# Largest edges of an erased rectangle, as a share of the picture's.
_ERASE_EDGE = 0.5


def change_light(
    pixels: Tensor, valid: Tensor, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Changes colours, sharpness and noise of each picture on its own, and erases rectangles.

    Args:
        pixels: (B, 3, H, W) uint8.
        valid: (B, H, W) bool.
        config: Strengths; normal deviations, of logarithms where the change is a factor.
        generator: Source of what is drawn, on the pixels' device.

    Returns:
        pixels: (B, 3, H, W) float in [0, 255].
        valid: (B, H, W) bool, False in the erased rectangles too.
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
    erased = _rectangles(valid, generator) & chosen(config.erase_share)[:, 0]
    return x.clamp(0, 1) * 255, valid & ~erased


def _rectangles(valid: Tensor, generator: torch.Generator) -> Tensor:
    """Draws a rectangle for each picture: (B, H, W) bool, True inside."""
    n, height, width = valid.shape
    draw = torch.rand(4, n, 1, 1, generator=generator, device=valid.device)
    rows = torch.arange(height, device=valid.device)[None, :, None] / height
    columns = torch.arange(width, device=valid.device)[None, None, :] / width
    half = _ERASE_EDGE / 2
    return ((rows - draw[0]).abs() < half * draw[2]) & ((columns - draw[1]).abs() < half * draw[3])
