"""A table of learnt prototypes: shared out, moved row by row, and kept in a file."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from geoview.errors import EncoderError
from geoview.models.prototypes import PROTOTYPES_FILE, LearntPrototypes, PrototypeRows


def learnt(n=5, dim=4):
    vector = F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(0))).numpy()
    # Above 2^63, as cells of three of the six faces are.
    cell = np.uint64(2**63) + np.arange(n, dtype=np.uint64) * np.uint64(2**31)
    return LearntPrototypes(cell, vector, "0123456789abcdef", 15, True, False)


def test_what_is_kept_is_read_again(tmp_path):
    kept = learnt()
    kept.save(tmp_path / PROTOTYPES_FILE)
    again = LearntPrototypes.open(tmp_path)
    assert np.array_equal(again.cell, kept.cell)
    assert again.cell.dtype == np.uint64
    assert np.array_equal(again.vector, kept.vector)
    assert (again.encoder, again.level, again.border, again.frustum) == ("0123456789abcdef", 15, True, False)


def test_a_run_without_prototypes_and_damaged_ones_are_told(tmp_path):
    with pytest.raises(EncoderError, match=rf"{tmp_path}: has no prototypes\.safetensors; give the folder of a fin"):
        LearntPrototypes.open(tmp_path)
    learnt().save(tmp_path / PROTOTYPES_FILE)
    content = (tmp_path / PROTOTYPES_FILE).read_bytes()
    for damaged in (content[:40], b"", b"\xff" * len(content)):
        (tmp_path / PROTOTYPES_FILE).write_bytes(damaged)
        with pytest.raises(EncoderError, match=r"prototypes\.safetensors: cannot be read"):
            LearntPrototypes.open(tmp_path)


@pytest.mark.parametrize("n_rows", [1, 3, 5000])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_out_one_table(n_rows, processes):
    whole = PrototypeRows(n_rows, 3, seed=7).vectors
    shares = [PrototypeRows(n_rows, 3, seed=7, rank=rank, processes=processes) for rank in range(processes)]
    assert torch.equal(torch.cat([share.vectors for share in shares]), whole)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(n_rows))
    rows = torch.arange(n_rows)
    assert torch.equal(sum(share.holds(rows).int() for share in shares), torch.ones(n_rows, dtype=torch.int32))
    if n_rows > 1:
        assert not torch.equal(PrototypeRows(n_rows, 3, seed=8).vectors, whole)


def test_rows_move_by_row_wise_adagrad_and_the_others_stay():
    table = PrototypeRows(6, 4, seed=0, rank=1, processes=2)  # rows 3, 4, 5
    before, rows = table.vectors.clone(), torch.tensor([3, 5])
    gradients = [torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0]]), torch.tensor([[0, 0, 3.0, 0], [0, 0, 0, 4.0]])]
    expected = before[[0, 2]].clone()
    for at in (0, 1):
        squares = sum(gradient.square().mean(dim=1) for gradient in gradients[: at + 1])
        expected = F.normalize(expected - 0.1 * gradients[at] / squares.sqrt()[:, None])
        table.move(rows, gradients[at], 0.1)
    torch.testing.assert_close(table.vectors[[0, 2]], expected)
    assert torch.equal(table.vectors[1], before[1])


def test_a_row_whose_gradient_is_not_finite_stays():
    table = PrototypeRows(2, 3, seed=0)
    before = table.vectors.clone()
    table.move(torch.tensor([0, 1]), torch.tensor([[float("nan"), 0, 0], [0, 1.0, 0]]), 0.1)
    assert torch.equal(table.vectors[0], before[0])
    assert not torch.equal(table.vectors[1], before[1])
    assert torch.isfinite(table.vectors).all()
