"""A training step of ConvNeXts on the CPU: with torch's gradients of depthwise convolutions, and with ours.

    python benchmarks/gradients.py [--threads 1]

The same weights and pictures, forward and backward, in turn; the best of each. In float32 the gradients are torch's;
in bfloat16 they are torch's, ours, and, as the limit of what can be gained, there are no depthwise convolutions at all.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import timm
import torch
from machine import circumstances
from torch import Tensor, nn

from geoview.models.depthwise import DepthwiseConv2d, with_fast_gradients

#: Backbone, pixels, pictures at once.
NETWORKS = (("convnext_atto", 96, 64), ("convnext_tiny", 224, 8), ("convnext_base", 384, 2))
ARMS = ("float32", "bfloat16_torch", "bfloat16_geoview", "bfloat16_without")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gradients.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps = [step_of(*network, arguments.repeats) for network in NETWORKS]
    report = {
        "what": "seconds of a training step, forward and backward, by the gradients of depthwise convolutions",
        **circumstances(f"{arguments.threads} threads"),
        "steps": steps,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def step_of(backbone: str, size_px: int, pictures: int, repeats: int) -> dict[str, Any]:
    """Measures one network."""
    networks = {arm: made(backbone, arm) for arm in ARMS}
    x = torch.randn(pictures, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    best_s = dict.fromkeys(ARMS, float("inf"))
    found = {}
    for _ in range(repeats):
        for arm, network in networks.items():
            started = time.perf_counter()
            found[arm] = gradients(network, x, arm)
            best_s[arm] = min(best_s[arm], time.perf_counter() - started)
    theirs, ours = found["bfloat16_torch"], found["bfloat16_geoview"]
    off = max(float((a - b).norm() / a.norm()) for a, b in zip(theirs, ours, strict=True))
    return {
        "backbone": backbone,
        "size_px": size_px,
        "pictures": pictures,
        "s": {arm: round(seconds, 3) for arm, seconds in best_s.items()},
        "times_as_fast_as_torch": round(best_s["bfloat16_torch"] / best_s["bfloat16_geoview"], 2),
        "gradients_differ_by": float(f"{off:.1e}"),
    }


def made(backbone: str, arm: str) -> nn.Module:
    """Makes the network of an arm, of the same weights as the others'."""
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(backbone, num_classes=0).train()
    if arm == "bfloat16_geoview":
        with_fast_gradients(network)
    elif arm == "bfloat16_without":
        for module in with_fast_gradients(network).modules():
            if isinstance(module, DepthwiseConv2d):
                module.forward = lambda x: x  # type: ignore[assignment, method-assign]
    return network


def gradients(network: nn.Module, x: Tensor, arm: str) -> list[Tensor]:
    """Takes a step without moving the weights."""
    network.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arm != "float32"):
        features = network(x)
    features.float().square().mean().backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


if __name__ == "__main__":
    main()
