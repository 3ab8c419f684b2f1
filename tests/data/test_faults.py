"""Pictures that cannot be read are named, and other pairs stand for them: the same ones whenever a run goes on."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from geoview.config import AerialView, GroundView
from geoview.data.faults import TolerantPictures, stack_tolerantly
from geoview.data.pairs import PairTable
from geoview.data.pictures import PairPictures, Side
from geoview.errors import UnreadableImageError

GROUND, AERIAL = GroundView(64, 32), AerialView(32, 1.0)


@pytest.fixture
def pictures(tmp_path):
    """Twenty pairs, each of one grey level, of which three have a broken panorama and one a broken tile."""
    names = {}
    for kind, size in (("pano", (64, 32)), ("tile", (40, 40))):
        names[kind] = [str(tmp_path / f"{kind}{i}.png") for i in range(20)]
        for i, name in enumerate(names[kind]):
            Image.new("RGB", size, (10 * i, 10 * i, 10 * i)).save(name)
    for broken in (names["pano"][3], names["pano"][7], names["pano"][8], names["tile"][12]):
        os.truncate(broken, 40)
    table = PairTable.of(names["pano"], names["tile"], heading_deg=0.0, fov_deg=360.0)
    query, reference = Side(table.query_path, None, GROUND), Side(table.reference_path, None, AERIAL)
    return PairPictures(table, query, reference, None)


@pytest.mark.parametrize(("row", "named"), [(3, "pano3.png"), (12, "tile12.png")])
def test_another_pair_stands_for_one_that_cannot_be_read(pictures, row, named):
    tolerant = TolerantPictures(pictures)
    (query, reference, taken), faults = tolerant[5, row]
    assert taken != row
    assert taken not in (3, 7, 8, 12)
    assert named in faults[0]
    # Both sides are of the pair that stands for it.
    assert np.unique(query.pixels[query.valid]).tolist() == [10 * taken]
    assert np.unique(reference.pixels).tolist() == [10 * taken]
    again = TolerantPictures(pictures)[5, row]
    assert again[0][2] == taken, "a run that goes on has the same batches"
    assert {tolerant[step, row][0][2] for step in range(30)} != {taken}, "it is not always the same pair"


def test_what_can_be_read_is_read_as_ever(pictures):
    (query, _, row), faults = TolerantPictures(pictures)[0, 4]
    assert (row, faults) == (4, ())
    assert np.array_equal(query.pixels, pictures[0, 4][0].pixels)
    assert len(TolerantPictures(pictures)) == 20


def test_faults_of_a_batch_are_put_together(pictures):
    tolerant = TolerantPictures(pictures)
    queries, references, rows, faults = stack_tolerantly([tolerant[0, row] for row in (2, 3, 12, 5)])
    assert queries[0].shape[0] == references[0].shape[0] == 4
    assert rows[0] == 2
    assert rows[3] == 5
    assert torch.is_tensor(rows)
    assert {name for name in ("pano3.png", "tile12.png") if any(name in fault for fault in faults)} == {
        "pano3.png",
        "tile12.png",
    }


def test_a_folder_of_broken_pictures_is_an_error(pictures):
    for path in pictures.table.query_path:
        Path(path).write_bytes(b"no picture")
    with pytest.raises(UnreadableImageError):
        TolerantPictures(pictures)[0, 0]
