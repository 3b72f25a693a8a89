"""Class-wise neural PCA: values by hand, identities, and removing components."""

from __future__ import annotations

import pytest
import torch

from truecue.audit.pca import neural_pca, separability, spufix, spufix_other, transfer
from truecue.errors import DataError

W = torch.tensor([1.0, -2, 0.5])
PHI = torch.tensor([[1.0, 0, 2], [2, 1, 0], [0, 1, 1], [3, 2, 1]])


def drawn(n: int = 200, f: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, f, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_components_by_hand():
    found = neural_pca(PHI, W)
    assert found.variances.tolist() == pytest.approx([3.629974, 0.747116, 0.122910], abs=1e-6)
    alpha = found.alpha(PHI)
    assert alpha.sum(1).tolist() == pytest.approx([2, 0, -1.5, -0.5], abs=1e-6)
    flipped = found._replace(vectors=-found.vectors)
    torch.testing.assert_close(flipped.alpha(PHI), alpha)


def test_all_components_add_up_to_the_logit():
    phi, other = drawn(), drawn(30, seed=1)
    weight = torch.randn(6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = neural_pca(phi, weight)
    expected = other @ weight - (phi @ weight).mean()
    torch.testing.assert_close(found.alpha(other).sum(1), expected)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(6).double())
    few = neural_pca(phi, weight, 2)
    torch.testing.assert_close(few.alpha(other), found.alpha(other)[:, :2])
    with pytest.raises(DataError, match="at least one image"):
        neural_pca(phi[:0], weight)


def test_a_few_components_of_many_features_are_the_first_of_all():
    phi, weight = drawn(90, 300), drawn(1, 300, seed=5)[0] - 0.3
    few, all_of_them = neural_pca(phi, weight, 3), neural_pca(phi, weight)
    torch.testing.assert_close(few.variances, all_of_them.variances[:3])
    torch.testing.assert_close(few.alpha(phi), all_of_them.alpha(phi)[:, :3], atol=1e-8, rtol=1e-6)
    again = neural_pca(phi, weight, 3)
    assert torch.equal(again.vectors, few.vectors)
    nothing = neural_pca(phi[:1].expand(5, -1), weight, 3)  # all images are the same
    assert nothing.variances.tolist() == pytest.approx([0, 0, 0], abs=1e-20)
    assert bool(nothing.alpha(phi).isfinite().all())


def test_spufix_takes_away_what_raises_the_logit_and_nothing_else():
    phi = drawn()
    weight = drawn(3, seed=3) - 0.5
    logits = phi @ weight.T
    found = {1: neural_pca(phi, weight[1])}
    fixed = spufix(logits, phi, found, {1: [0, 2, 2], 0: []})
    alpha = found[1].alpha(phi)
    taken = alpha[:, 0].clamp(min=0) + alpha[:, 2].clamp(min=0)
    torch.testing.assert_close(fixed[:, 1], logits[:, 1] - taken)
    assert torch.equal(fixed[:, [0, 2]], logits[:, [0, 2]])
    assert (taken > 0).any()


def test_a_direction_is_found_again_in_the_same_model():
    phi = drawn()
    weight = torch.tensor([2.0, -1, 0.5, 1, 3, -2], dtype=torch.float64)
    found = neural_pca(phi, weight)
    directions = transfer(found.alpha(phi)[:, :2], phi, weight)
    # within one model the direction of a component is the component, but for its sign
    same = (directions.vectors * found.vectors[:2]).sum(1).abs()
    torch.testing.assert_close(same, torch.ones(2).double())
    logits = (phi @ weight)[:, None]
    ours = spufix(logits, phi, {0: found}, {0: [0, 1]})
    torch.testing.assert_close(spufix_other(logits, phi, {0: directions}), ours)


def test_a_cue_is_removed_from_another_model():
    rng = torch.Generator().manual_seed(0)
    cue, core = (torch.randn(400, generator=rng).double() for _ in range(2))
    mine = torch.stack([3 * cue, core], 1)
    theirs = torch.stack([core + 2 * cue, 0.5 * core, -cue], 1)
    alpha = neural_pca(mine, torch.ones(2)).alpha(mine)[:, :1]
    weight = torch.tensor([1.0, 1, -1], dtype=torch.float64)
    direction = transfer(alpha, theirs, weight)
    logits = (theirs @ weight)[:, None]
    fixed = spufix_other(logits, theirs, {0: direction})
    high = cue > 0.5

    def slope(values: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([values[high, 0], cue[high]]))[0, 1])

    assert slope(logits) > 0.6
    assert abs(slope(fixed)) < 0.3
    with pytest.raises(DataError, match="component 0"):
        transfer(torch.zeros(400, 1), theirs, weight)


def test_auroc_and_average_precision_by_hand():
    found = separability(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0.7, 0.2]))
    assert found.auroc == pytest.approx(0.833333, abs=1e-6)
    assert found.ap == pytest.approx(0.916667, abs=1e-6)
    with pytest.raises(DataError, match="both"):
        separability(torch.tensor([]), torch.tensor([0.1]))
