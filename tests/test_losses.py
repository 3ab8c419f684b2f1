import math

import pytest
import torch
from torch.nn import functional as F

from geoview.losses import info_nce

torch.set_num_threads(2)


def unit(n=6, dim=8, seed=0, **options):
    vectors = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    return F.normalize(vectors, dim=1).to(**options) if options else F.normalize(vectors, dim=1)


SCALE = torch.tensor(math.log(1 / 0.07))


def half_cross_entropy(query, reference, smoothing):
    """The mean over rows of -sum(target * log softmax), written out."""
    n = len(query)
    logits = SCALE.exp() * torch.tensor([[float(q @ r) for r in reference] for q in query])
    target = torch.full((n, n), smoothing / n) + torch.eye(n) * (1 - smoothing)
    log_softmax = logits - logits.exp().sum(dim=1, keepdim=True).log()
    return -(target * log_softmax).sum() / n


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_is_the_mean_of_two_cross_entropies(smoothing):
    query, reference = unit(seed=1), unit(seed=2)
    there, back = half_cross_entropy(query, reference, smoothing), half_cross_entropy(reference, query, smoothing)
    assert not torch.isclose(there, back, rtol=1e-3)
    loss = info_nce(query, reference, SCALE, label_smoothing=smoothing)
    torch.testing.assert_close(loss, (there + back) / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_is_symmetric(smoothing):
    query, reference = unit(seed=1), unit(seed=2)
    torch.testing.assert_close(
        info_nce(query, reference, SCALE, label_smoothing=smoothing),
        info_nce(reference, query, SCALE, label_smoothing=smoothing),
    )


def test_known_values():
    same = torch.ones(5, 4) / 2
    torch.testing.assert_close(info_nce(same, same, SCALE), torch.tensor(math.log(5)))
    assert info_nce(torch.eye(5), torch.eye(5), SCALE) < 1e-5
    assert info_nce(torch.eye(5), torch.eye(5).roll(1, 0), SCALE) == pytest.approx(1 / 0.07, rel=1e-4)


def test_smoothing_costs_where_the_match_is_perfect():
    plain, smoothed = (info_nce(torch.eye(5), torch.eye(5), SCALE, label_smoothing=s) for s in (0.0, 0.1))
    assert smoothed - plain == pytest.approx(0.1 * 4 / 5 / 0.07, rel=1e-3)


def test_gradients():
    query, reference, scale = unit(seed=1).requires_grad_(), unit(seed=2).requires_grad_(), SCALE.clone()
    scale.requires_grad_()
    info_nce(query, reference, scale).backward()
    logits = (SCALE.exp() * query @ reference.T).detach()
    n = len(query)
    # d loss / d logits of the mean of two softmax cross entropies.
    slope = (logits.softmax(dim=1) + logits.softmax(dim=0) - 2 * torch.eye(n)) / (2 * n)
    torch.testing.assert_close(query.grad, SCALE.exp() * slope @ reference.detach())
    torch.testing.assert_close(reference.grad, SCALE.exp() * slope.T @ query.detach())
    torch.testing.assert_close(scale.grad, (slope * logits).sum())


def test_a_step_along_the_gradient_lowers_the_loss():
    query, reference = unit(seed=1).requires_grad_(), unit(seed=2)
    before = info_nce(query, reference, SCALE)
    before.backward()
    after = info_nce(query.detach() - 1e-3 * query.grad, reference, SCALE)
    assert (after - before).item() == pytest.approx(-1e-3 * float(query.grad.square().sum()), rel=0.05)


def test_is_computed_in_single_precision_under_autocast():
    query, reference, scale = unit(64, 32, seed=1), unit(64, 32, seed=2), torch.tensor(math.log(100.0))
    expected = info_nce(query, reference, scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (query @ reference.T).dtype == torch.bfloat16
        loss = info_nce(query, reference, scale)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)


def test_half_precision_vectors_give_a_single_precision_loss():
    query, reference = unit(seed=1, dtype=torch.bfloat16), unit(seed=2, dtype=torch.bfloat16)
    loss = info_nce(query, reference, SCALE)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, info_nce(query.float(), reference.float(), SCALE), rtol=0, atol=0)


def test_ignored_pairs_are_no_negatives():
    """Pairs of the same ground drop out of the sum: as if each row had been scored without them."""
    query, reference = (
        F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(i)), dim=1) for i in (1, 2)
    )
    ignore = torch.zeros(5, 5, dtype=torch.bool)
    ignore[1, 3] = ignore[3, 1] = True
    ignore |= torch.eye(5, dtype=torch.bool)
    for smoothing in (0.0, 0.1):
        expected = []
        for logits in (SCALE.exp() * query @ reference.T, SCALE.exp() * reference @ query.T):
            for i in range(5):
                kept = [j for j in range(5) if j == i or not ignore[i, j]]
                row = logits[i, kept][None]
                expected.append(F.cross_entropy(row, torch.tensor([kept.index(i)]), label_smoothing=smoothing))
        loss = info_nce(query, reference, SCALE, label_smoothing=smoothing, ignore=ignore)
        torch.testing.assert_close(loss, torch.stack(expected).mean())
        assert loss < info_nce(query, reference, SCALE, label_smoothing=smoothing)
