"""Encoders whose scores are known beforehand, and the settings to score them with."""

import math

import numpy as np
import pytest
import torch

from geoview.config import AerialView, EvaluateConfig, GroundView


class StandIn(torch.nn.Module):
    """What scoring asks of an encoder; counts the pictures that it is shown."""

    name, dim = "stand-in", 12

    def __init__(self):
        super().__init__()
        self.ground, self.aerial = GroundView(width_px=64, height_px=16), AerialView(size_px=32, gsd_m=1.0)
        self.notes = {"metrics": {"loss": math.nan}}
        self.shown = 0

    def fingerprint(self):
        return self.name

    def forward(self, pixels, valid, *, seen):
        self.shown += len(pixels)
        return self.vectors(pixels.float(), valid[:, None].float())


class Colours(StandIn):
    """Knows a picture by the colours of its halves, which the twins' pairs share: each is right."""

    name = "colours"

    def vectors(self, pixels, valid):
        middle = pixels.shape[2] // 2
        halves = [(pixels[:, :, rows], valid[:, :, rows]) for rows in (slice(None, middle), slice(middle, None))]
        mean = [(p * v).sum(dim=(2, 3)) / v.sum(dim=(2, 3)) for p, v in halves]
        # On a circle each, so that the product is largest where the colours are equal.
        angle = torch.cat(mean, dim=1) * math.pi / 255
        return torch.cat([angle.cos(), angle.sin()], dim=1) / math.sqrt(6)


class Constant(StandIn):
    """Has collapsed."""

    name = "constant"

    def vectors(self, pixels, valid):
        return torch.ones(len(pixels), self.dim) / math.sqrt(self.dim)


class Untouchable(Colours):
    """Is the encoder of colours, and must not be asked."""

    def vectors(self, pixels, valid):
        raise AssertionError("a picture was embedded anew")


@pytest.fixture
def stand_ins():
    return {"colours": Colours, "constant": Constant, "untouchable": Untouchable}


@pytest.fixture
def settings(tmp_path):
    """Returns the config of a data set in `tmp_path / "data"`."""

    def make(dataset, **values):
        given = {"root": str(tmp_path / "data"), "encoder": "e", "out": str(tmp_path / "results.json"), "device": "cpu"}
        return EvaluateConfig(**(given | {"dataset": dataset, "batch_size": 4} | values))

    return make


@pytest.fixture
def spoilt():
    """Returns a function that makes a picture unreadable."""

    def spoil(path):
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(b"\xff\xd8\xff" + bytes(np.arange(40, dtype=np.uint8)))

    return spoil
