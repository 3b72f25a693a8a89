"""Disentanglement metrics: given tables, borders, and codes that know their factors."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import mutual_info_score

from truecue.errors import DataError
from truecue.metrics import disentangle as dis
from truecue.metrics.disentangle import DCI, FactorTable

SIZES = (4, 3)
A, B = (g.flatten().float() for g in torch.meshgrid(*map(torch.arange, SIZES), indexing="ij"))


def table(*codes: torch.Tensor, sizes: tuple[int, ...] = SIZES) -> FactorTable:
    return FactorTable(torch.stack(codes, 1), sizes)


def test_mig_of_given_codes() -> None:
    assert dis.mig(table(A, B)) == pytest.approx(1)
    assert dis.mig(table(A, A)) == pytest.approx(0)
    assert dis.mig(table(A + B, A - B)) == pytest.approx(0)
    assert dis.mig(table(A, B, torch.ones(12))) == pytest.approx(1)
    assert dis.mig(table(torch.ones(12), torch.ones(12))) == 0


def test_mutual_information_of_given_codes() -> None:
    values = torch.stack([A, B], 1).long()
    found = dis.mutual_information(torch.stack([A + B, A - B], 1), values)
    wanted = torch.tensor([[0.6059, 0.3183], [0.6059, 0.3183]], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    own = dis.mutual_information(torch.stack([A, B], 1), values)
    assert own.diagonal().tolist() == pytest.approx([math.log(4), math.log(3)])


def test_mutual_information_against_scikit_learn() -> None:
    rng = torch.Generator().manual_seed(0)
    codes = torch.randn(500, 3, generator=rng)
    values = torch.randint(0, 5, (500, 2), generator=rng)
    found = dis.mutual_information(codes, values)
    for k in range(3):
        edges = torch.linspace(float(codes[:, k].min()), float(codes[:, k].max()), 21)[1:-1]
        bins = torch.bucketize(codes[:, k].contiguous(), edges, right=True)
        for j in range(2):
            wanted = mutual_info_score(bins.numpy(), values[:, j].numpy())
            assert float(found[k, j]) == pytest.approx(wanted, abs=0.01)


def test_dci_of_given_importances() -> None:
    eye = torch.eye(2)
    assert dis.purity(eye) == pytest.approx((1, 1), abs=1e-6)
    assert dis.purity(torch.full((2, 2), 0.5)) == pytest.approx((0, 0), abs=1e-6)
    mixed = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0, 0]])
    assert dis.purity(mixed) == pytest.approx((0.531004, 0.704097), abs=1e-5)
    assert dis.purity(torch.zeros(3, 2))[0] == 0
    single = torch.tensor([[0.5, 0.5]])
    assert dis.purity(single) == pytest.approx((0, 1), abs=1e-6)
    assert dis.purity(0 * single) == (0, 0)


def test_dci_mean_and_the_released_one() -> None:
    made = DCI(0.8, 0.7, 0.9, torch.eye(2))
    assert made.score == pytest.approx(0.8)
    assert made.score_as_released == pytest.approx(0.533333, abs=1e-6)


def test_dci_of_factors_as_codes() -> None:
    made = dis.dci(table(A, B), n=300)
    assert made[:3] == pytest.approx((1, 1, 1), abs=1e-3)
    mixed = dis.dci(table(A + 0.5 * B, A - 0.5 * B), n=300)
    assert mixed.disentanglement < 0.5
    assert mixed.informativeness > 0.99


def test_factor_vae() -> None:
    votes = torch.tensor([[8, 2], [1, 9]])
    assert dis.majority_accuracy(votes, votes) == pytest.approx(0.85)
    assert dis.majority_accuracy(torch.tensor([[1, 0], [1, 0]]), votes) == pytest.approx(9 / 20)
    assert dis.factor_vae(table(A, B), votes=200) == 1
    assert dis.factor_vae(table(A, B, torch.ones(12)), votes=200) == 1  # a dead code has no vote
    assert dis.factor_vae(table(0.01 * A, 0.01 * B), votes=200) == 0  # all are
    assert dis.factor_vae(table(A, A), votes=500) < 0.75


def test_the_scale_of_a_code_does_not_matter() -> None:
    noise = 0.3 * torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    one, other = A + noise[:, 0], B + noise[:, 1]
    for metric in (dis.factor_vae, dis.beta_vae):
        found = metric(table(one, other), votes=200)
        assert found > 0.9
        assert metric(table(one, 2.0**10 * other), votes=200) == found
        assert metric(table(2.0**10 * one, other), votes=200) == found
    found = dis.beta_vae(table(one, other), votes=200)
    assert dis.beta_vae(table(2.0**-14 * one, 2.0**-14 * other), votes=200) == found


def test_as_many_images_as_the_grid_has_are_the_grid() -> None:
    codes = table(A + 0.5 * B, A - 0.2 * B)
    assert dis.mig(codes, n=12) == dis.mig(codes) == dis.mig(codes, n=13, seed=5)


def test_local_variance_is_0_at_the_shared_factor() -> None:
    rng = torch.Generator().manual_seed(0)
    j = torch.tensor([0, 1, 0])
    variance = dis._sharing(table(A, B), j, rng).var(1)
    assert variance.gather(1, j[:, None]).abs().max() == 0
    assert bool((variance.gather(1, 1 - j[:, None]) > 0.1).all())


def test_beta_vae() -> None:
    rng = torch.Generator().manual_seed(0)
    features, j = dis._agreeing(table(A, B), 50, rng)
    assert features.gather(1, j[:, None]).abs().max() == 0
    assert bool((features.gather(1, 1 - j[:, None]) > 0.1).all())
    assert dis.beta_vae(table(A, B), votes=200) == 1
    rng = torch.Generator().manual_seed(1)
    assert dis.beta_vae(table(*torch.randn(2, 12, generator=rng)), votes=200) < 1
    assert dis.beta_vae(table(torch.ones(12)), votes=200) < 0.65


def test_pairs_agree_in_one_factor_and_differ_from_pair_to_pair() -> None:
    index = torch.arange(12.0)
    seen: list[torch.Tensor] = []

    class Spy(FactorTable):
        def at(self, values: torch.Tensor) -> torch.Tensor:
            seen.append(values)
            return FactorTable.at(self, values)

    dis._agreeing(Spy(index[:, None], SIZES), 20, torch.Generator().manual_seed(0))
    first, second = seen
    same = (first == second).all(1)
    assert bool(same.any(1).all())
    assert bool((first.float().std(1) > 0).all())


def test_sap() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.1, 0.3]])
    assert float(dis.gap(scores).mean()) == pytest.approx(0.6)
    assert float(dis.gap(scores[:1]).mean()) == pytest.approx(0.5)  # one code alone
    assert dis.sap(table(A, B)) == pytest.approx(1, abs=0.01)
    assert dis.sap(table(A, A)) == pytest.approx(0, abs=0.01)
    chance = (1 / 4 + 1 / 3) / 2  # of the code that knows nothing of the factor
    assert dis.sap(table(A, B), categorical=(0, 1)) == pytest.approx(1 - chance, abs=0.05)


def test_sap_where_a_value_was_not_drawn() -> None:
    values = torch.tensor([[0, 0], [1, 1], [3, 2], [3, 0]])  # of the first factor's values, no 2
    found = dis._predictability(values[:, :1].double(), values, (0,))
    assert found[0, 0] == 1


def test_places_on_the_grid() -> None:
    sizes = (10, 10, 10, 8, 4, 15)  # 3D Shapes
    count = torch.tensor(sizes)
    bases = [48000, 4800, 480, 60, 15, 1]
    index = FactorTable(torch.arange(480_000)[:, None], sizes)
    for k, base in enumerate(bases):
        assert int(index.at(torch.eye(6, dtype=torch.int64)[k])) == base
    assert int(index.at(count - 1)) == 479_999


def test_tables_that_cannot_be() -> None:
    with pytest.raises(DataError, match="4 x 3 factors has 12 images"):
        dis.mig(table(A[:-1], B[:-1]))
    with pytest.raises(DataError, match="a code is not finite"):
        dis.beta_vae(table(A, B / 0))
    for sizes in ((12,), (12, 1), ()):
        wrong = table(A, B, sizes=sizes)
        for metric in (dis.beta_vae, dis.factor_vae, dis.mig, dis.dci, dis.sap):
            with pytest.raises(DataError, match="at least two factors of at least two values"):
                metric(wrong)


def test_the_same_seed_gives_the_same_numbers() -> None:
    noisy = table(A + torch.randn(12, generator=torch.Generator().manual_seed(3)), B)
    for metric in (dis.beta_vae, dis.factor_vae):
        assert metric(noisy, votes=100, seed=1) == metric(noisy, votes=100, seed=1)
