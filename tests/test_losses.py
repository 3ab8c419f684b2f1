import math

import pytest
import torch
from torch.nn import functional as F

from geoview import losses
from geoview.losses import (
    decoupled_info_nce,
    gathered,
    info_nce,
    multi_similarity,
    prototype_info_nce,
    prototype_multi_similarity,
)

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


# -- across processes --------------------------------------------------------------------------------------------------


def gradients_of_a_process(rank, world, folder):
    """What a process of data-parallel training has of a batch of 8 pairs that is dealt out."""
    if world > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
        )
    weight = unit(10, 8, seed=3).T.clone().requires_grad_()
    scale = SCALE.clone().requires_grad_()
    mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
    query, reference = (F.normalize(unit(8, 8, seed=seed)[mine] @ weight, dim=1) for seed in (1, 2))
    ignore = torch.zeros(8, 8, dtype=torch.bool)
    ignore[0, 5] = True
    loss = info_nce(gathered(query), gathered(reference), scale, label_smoothing=0.1, ignore=ignore)
    loss.backward()
    torch.save((loss.detach(), weight.grad, scale.grad), folder / f"{world}_{rank}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 3])  # three have 2, 3 and 3 of the 8 pairs
def test_processes_have_the_loss_and_the_gradients_of_one(processes, tmp_path):
    gradients_of_a_process(0, 1, tmp_path)
    torch.multiprocessing.start_processes(
        gradients_of_a_process_apart, (processes, tmp_path), nprocs=processes, start_method="fork"
    )
    whole = torch.load(tmp_path / "1_0.pt")
    parts = [torch.load(tmp_path / f"{processes}_{rank}.pt") for rank in range(processes)]
    for own in parts:
        torch.testing.assert_close(own[0], whole[0], rtol=0, atol=1e-5)
    # Data-parallel training takes the mean of the processes' gradients.
    for i in (1, 2):
        torch.testing.assert_close(sum(part[i] for part in parts) / processes, whole[i], rtol=0, atol=1e-5)
    assert (parts[0][1] - parts[1][1]).abs().max() > 1e-3, "each has its own rows' part"


def gradients_of_a_process_apart(rank, world, folder):
    torch.set_num_threads(1)
    gradients_of_a_process(rank, world, folder)


def test_one_process_gathers_what_it_has():
    x = unit()
    assert gathered(x) is x


# -- other forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignoring", [False, True])
def test_the_decoupled_form_written_out(smoothing, ignoring):
    query, reference, n = unit(seed=1), unit(seed=2), 6
    ignore = torch.zeros(n, n, dtype=torch.bool)
    if ignoring:
        ignore[0, 1] = ignore[4, 2] = ignore[3, 3] = True
    both = 0.0
    for s, skip in ((SCALE.exp() * query @ reference.T, ignore), (SCALE.exp() * reference @ query.T, ignore.T)):
        for i in range(n):
            counted = [j for j in range(n) if j == i or not skip[i, j]]
            ell = {j: s[i, j] - torch.stack([s[i, k] for k in counted if k != j]).exp().sum().log() for j in counted}
            others = torch.stack([ell[j] for j in counted if j != i]).mean()
            both += -((1 - smoothing) * ell[i] + smoothing * others) / (2 * n)
    options = {"label_smoothing": smoothing, "ignore": ignore if ignoring else None}
    torch.testing.assert_close(decoupled_info_nce(query, reference, SCALE, **options), both, rtol=1e-4, atol=1e-4)


def test_decoupling_takes_the_match_out_of_the_denominator():
    query, reference = unit(seed=1), unit(seed=2)
    assert decoupled_info_nce(query, reference, SCALE) < info_nce(query, reference, SCALE)
    # Perfect matches, and all others at right angles: log(5) less the scale, and nothing overflows.
    loss = decoupled_info_nce(torch.eye(6), torch.eye(6), SCALE, label_smoothing=0.1)
    assert torch.isfinite(loss)
    assert decoupled_info_nce(torch.eye(6), torch.eye(6), SCALE) == pytest.approx(math.log(5) - 1 / 0.07, rel=1e-4)


def multi_similarity_written_out(s, skip, alpha, beta, base, margin):
    rows = []
    for i in range(len(s)):
        wrong = [s[i, j] for j in range(len(s)) if j != i and not skip[i, j]]
        pull = [s[i, i]] if wrong and s[i, i] - margin < max(wrong) else []
        push = [x for x in wrong if x + margin > s[i, i]]
        rows.append(
            math.log(1 + sum(math.exp(-alpha * (float(x) - base)) for x in pull)) / alpha
            + math.log(1 + sum(math.exp(beta * (float(x) - base)) for x in push)) / beta
        )
    return sum(rows) / len(rows)


@pytest.mark.parametrize("ignoring", [False, True])
def test_multi_similarity_written_out(ignoring):
    query, reference = unit(seed=1), F.normalize(unit(seed=1) + 0.4 * unit(seed=2), dim=1)
    ignore = torch.zeros(6, 6, dtype=torch.bool)
    ignore[1, 4] = ignoring
    options = {"alpha": 2.0, "beta": 20.0, "base": 0.3, "margin": 1.2}
    s = query @ reference.T
    halves = multi_similarity_written_out(s, ignore, **options), multi_similarity_written_out(s.T, ignore.T, **options)
    loss = multi_similarity(query, reference, ignore=ignore if ignoring else None, **options)
    assert float(loss) == pytest.approx(sum(halves) / 2, abs=1e-5)
    assert min(halves) > 0


def test_multi_similarity_is_content_where_all_is_far_apart():
    assert multi_similarity(torch.eye(6), torch.eye(6)) == 0
    query = torch.eye(6).requires_grad_()
    multi_similarity(query, torch.eye(6).roll(1, 0)).backward()
    assert query.grad.abs().max() > 0


@pytest.mark.parametrize("loss", [decoupled_info_nce, multi_similarity])
def test_other_forms_are_symmetric_and_in_single_precision(loss):
    query, reference = unit(seed=1, dtype=torch.bfloat16), unit(seed=2, dtype=torch.bfloat16)
    arguments = (SCALE,) if loss is decoupled_info_nce else ()
    value = loss(query, reference, *arguments)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(reference, query, *arguments))


# -- prototypes --------------------------------------------------------------------------------------------------------


def test_multi_similarity_of_prototypes_equals_its_formula():
    embedding, own, others = unit(3, 8, seed=1), unit(3, 8, seed=2), unit(5, 8, seed=3)
    ignore = torch.zeros(3, 5, dtype=torch.bool)
    ignore[1, 2] = True
    alpha, beta, base = 2.0, 30.0, 0.1
    expected = 0.0
    for i in range(3):
        negatives = [torch.exp(beta * (embedding[i] @ others[n] - base)) for n in range(5) if not ignore[i, n]]
        expected += torch.log(1 + torch.exp(-alpha * (embedding[i] @ own[i] - base))) / alpha / 3
        expected += torch.log(1 + torch.stack(negatives).sum()) / beta / 3
    loss = prototype_multi_similarity(embedding, own, others, alpha=alpha, beta=beta, base=base, ignore=ignore)
    torch.testing.assert_close(loss, expected)


def test_prototypes_in_parts_have_the_loss_and_gradient_of_the_whole(monkeypatch):
    ignore = torch.rand(3, 7, generator=torch.Generator().manual_seed(0)) < 0.3
    found = []
    for size in (65_536, 2):
        monkeypatch.setattr(losses, "_PROTOTYPES", size)
        leaves = [unit(n, 8, seed=seed).requires_grad_() for n, seed in ((3, 1), (3, 2), (7, 3))]
        loss = prototype_info_nce(*leaves, SCALE, ignore=ignore)
        loss.backward()
        found.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(found[0], found[1])


def test_an_embedding_with_nothing_to_be_told_from_costs_nothing():
    leaf = unit(2, 8, seed=1).requires_grad_()
    for ignore in (torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 0, dtype=torch.bool)):
        loss = prototype_info_nce(leaf, unit(2, 8, seed=2), unit(ignore.shape[1], 8, seed=3), SCALE, ignore=ignore)
        loss.backward()
        assert loss == 0
        assert (leaf.grad == 0).all()
