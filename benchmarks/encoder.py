"""Trains the encoder that geoview ships, `geoview/encoders/demo`.

Lessons are rendered regions of the four training styles, and street photos ray-cast from NAIP imagery of one city:
ground views of 2018, chips of 2020. The other city, the fifth style and all seeds below 1,000,000 stay unseen.

It starts from the weights that `benchmarks/naip.py` trains on the same city from above, 2016 against 2018.

    python benchmarks/naip.py --data ../shared/data/naip --work runs/naip --seeds 0
    python benchmarks/encoder.py --naip ../shared/data/naip --start runs/naip/train_riverside_0_1200/encoder --threads 3

About two and a half hours on four cores with nothing beside; a run that was cut off goes on. What the encoder can do
is for `benchmarks/rendered.py` to tell. The model card says how the shipped one came about, step by step.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path
from typing import Literal

import torch

from geoview.config import RenderPhotosConfig
from geoview.lessons import Lessons, train_encoder
from geoview.render.tour import photograph

CITY = "riverside"
PHOTOS_A_PLACE = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--naip", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/encoder"))
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "geoview/encoders/demo")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(arguments.threads)
    places = [photos(arguments.naip, arguments.work / kind, kind) for kind in ("panorama", "perspective")]
    encoder = train_encoder(
        arguments.work,
        Lessons(),
        places=places,
        imagery=[arguments.naip / CITY / "2020"],
        start=arguments.start,
        num_workers=arguments.threads,
    )
    shutil.copytree(encoder, arguments.out, dirs_exist_ok=True)


def photos(naip: Path, out: Path, kind: Literal["panorama", "perspective"]) -> Path:
    """Takes street photos of every square of the city in 2018."""
    _, failures = photograph(
        RenderPhotosConfig(
            ortho=sorted(map(str, (naip / CITY / "2018").glob("*.tif"))),
            trees=str(naip / CITY / "trees"),
            kind=kind,
            n=PHOTOS_A_PLACE,
            out=str(out),
        )
    )
    for failure in failures:
        print(failure)
    return out


if __name__ == "__main__":
    main()
