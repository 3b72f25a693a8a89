"""Logit correction: the formulas, a slow loop, cases in which it does nothing, and partners."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from unfitted import Unfitted

from truecue.data.loader import Batch
from truecue.engine.device import Device
from truecue.engine.plan import Plan
from truecue.engine.run import Run
from truecue.errors import ConfigError
from truecue.losses.classification import ce, gce
from truecue.methods import lc
from truecue.methods.lc import FLOOR, LC, Corrected, corrected_ce, majority_partners
from truecue.nets.build import build
from truecue.nets.classifier import Classifier
from truecue.testing import check_continuation, shortened, small_gratings


def net(seed: int, classes: int = 3) -> Classifier:
    torch.manual_seed(seed)
    return build("mlp-3", channels=3, size=4, n_classes=classes)


def corrected(*, decay: float = 0.9, mixup: bool = True) -> Corrected:
    return Corrected(net(0), net(1), q=0.7, decay=decay, mixup=mixup)


def batch(y: Tensor, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (len(y), 3, 4, 4), generator=rng).to(torch.uint8)
    return Batch((x,), y, torch.arange(len(y)))


# --- the loss -----------------------------------------------------------------------------------


def random_case(n: int = 6, k: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(n, k, generator=rng, dtype=torch.float64)
    prior = torch.rand(n, k, generator=rng, dtype=torch.float64) + 1e-3
    return logits, prior, torch.arange(n) % k


def test_loss_is_the_margin_form_of_the_paper() -> None:
    """Equation (8): `ln(1 + sum over y' != y of exp(f_y' - f_y + ln(prior_y' / prior_y)))`."""
    logits, prior, y = random_case()
    wanted = []
    for f, d, c in zip(logits.tolist(), prior.tolist(), y.tolist(), strict=True):
        others = [k for k in range(4) if k != c]
        wanted.append(math.log1p(sum(math.exp(f[k] - f[c]) * d[k] / d[c] for k in others)))
    assert corrected_ce(logits, prior, y).tolist() == pytest.approx(wanted, rel=1e-12)


def test_equal_priors_give_plain_cross_entropy() -> None:
    logits, _, y = random_case()
    for level in (1e-6, 0.1, 1.0):
        found = corrected_ce(logits, torch.full_like(logits, level), y)
        torch.testing.assert_close(found, ce(logits, y))


def test_gradient_is_that_of_the_loss() -> None:
    logits, prior, y = random_case()
    assert torch.autograd.gradcheck(lambda z: corrected_ce(z, prior, y), logits.requires_grad_())


def test_a_network_that_knows_the_groups_needs_no_logits_of_its_own() -> None:
    """What the bias explains is learned already: the loss is the entropy of class given bias."""
    joint = torch.tensor([[0.45, 0.05], [0.05, 0.45]])
    prior = joint.t()[torch.tensor([0, 1])]  # a sample of either bias
    found = corrected_ce(torch.zeros(2, 2), prior, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.full((2,), -math.log(0.9)))


# --- the prior ----------------------------------------------------------------------------------


def test_the_prior_starts_equal_and_stays_a_distribution() -> None:
    learner = corrected()
    torch.testing.assert_close(learner.prior, torch.full((3, 3), 1 / 9))
    for seed in range(5):
        y = torch.tensor([0, 1, 1, 2, 0])
        learner(batch(y, seed))
        assert float(learner.prior.sum()) == pytest.approx(1)
    assert "prior" in learner.state_dict()


def test_the_prior_is_the_share_of_class_and_bias() -> None:
    learner = corrected(decay=0.0)
    learner.update(torch.eye(3)[[0, 0, 1, 2]], torch.tensor([0, 1, 1, 0]))
    wanted = torch.tensor([[0.25, 0, 0.25], [0.25, 0.25, 0], [0, 0, 0]])
    torch.testing.assert_close(learner.prior, wanted)


def test_the_prior_follows_batches_as_fast_as_it_may() -> None:
    learner = corrected(decay=0.75)
    for _ in range(2):
        learner.update(torch.eye(3)[[0, 1]], torch.tensor([0, 1]))
    wanted = torch.full((3, 3), 0.75**2 / 9)
    wanted[0, 0] += 0.5 * (1 - 0.75**2)
    wanted[1, 1] += 0.5 * (1 - 0.75**2)
    torch.testing.assert_close(learner.prior, wanted)


def test_a_prior_of_nothing_is_not_minus_infinity() -> None:
    learner = corrected(decay=0.999)
    learner.prior.zero_()
    learner.prior[0, 0] = 1
    loss = learner(batch(torch.tensor([0, 1, 2, 2]))).loss
    assert bool(loss.isfinite())
    assert float(loss.detach()) < 2 * -math.log(FLOOR)


# --- partners -----------------------------------------------------------------------------------


def test_partners_are_majority_samples_of_the_same_class_each_equally_often() -> None:
    y = torch.tensor([0, 1, 0, 2, 0, 1, 1, 0, 2])
    minority = torch.tensor([True, False, False, True, False, True, False, False, True])
    drawn: list[list[int]] = [[] for _ in y]
    torch.manual_seed(0)
    for _ in range(600):
        partner, there = majority_partners(y, minority, 4)
        assert there.tolist() == [c != 2 for c in y.tolist()]
        for i in range(len(y)):
            drawn[i].append(int(partner[i]))
    allowed = {0: [2, 4, 7], 1: [1, 6]}
    for i, c in enumerate(y.tolist()):
        if c == 2:
            continue
        assert set(drawn[i]) == set(allowed[c])
        for j in allowed[c]:
            assert drawn[i].count(j) == pytest.approx(600 / len(allowed[c]), rel=0.25)


@pytest.mark.parametrize("minority", [True, False])
def test_partners_where_all_are_of_one_kind(minority: bool) -> None:
    y = torch.tensor([2, 0, 2, 1])
    partner, there = majority_partners(y, torch.full((4,), minority), 3)
    assert bool((partner < 4).all())
    assert there.tolist() == [not minority] * 4
    if not minority:
        assert torch.equal(y[partner], y)


# --- a slow loop --------------------------------------------------------------------------------


@torch.no_grad()
def slowly(learner: Corrected, steps: list[Batch], decay: float, mixup: bool) -> list[float]:
    """The losses of some steps of the networks as they are, one sample at a time."""
    prior = [[1 / 9] * 3 for _ in range(3)]
    losses = []
    for number, b in enumerate(steps):
        torch.manual_seed(number)
        which, shares = torch.rand(len(b.y)).tolist(), torch.rand(len(b.y)).tolist()
        y, pixels = b.y.tolist(), learner.net.pixels(b.x).double()
        p = learner.biased(b.x).double().softmax(1).tolist()
        bias = [max(range(3), key=row.__getitem__) for row in p]
        for c in range(3):
            for a in range(3):
                here = sum(p[i][a] for i in range(len(y)) if y[i] == c) / len(y)
                prior[c][a] = decay * prior[c][a] + (1 - decay) * here
        total = 0.0
        for i in range(len(y)):
            x, delta = pixels[i], [prior[c][bias[i]] for c in range(3)]
            majority = [j for j in range(len(y)) if y[j] == y[i] and bias[j] == y[j]]
            if mixup and bias[i] != y[i] and majority:
                j, lam = majority[int(which[i] * len(majority))], 0.5 + 0.5 * shares[i]
                x = lam * x + (1 - lam) * pixels[j]
                delta = [lam * d + (1 - lam) * prior[c][bias[j]] for c, d in enumerate(delta)]
            z = learner.net.head(learner.net.encoder(x[None].float()))[0].double().tolist()
            raw = [math.exp(f) * d for f, d in zip(z, delta, strict=True)]
            total += -math.log(raw[y[i]] / sum(raw)) + (1 - p[i][y[i]] ** 0.7) / 0.7
        losses.append(total / len(y))
    return losses


@pytest.mark.parametrize("mixup", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_losses_are_those_of_a_slow_loop(decay: float, mixup: bool) -> None:
    learner, found, minorities = corrected(decay=decay, mixup=mixup), [], []
    steps = [batch(torch.arange(n) % 3, n) for n in (9, 5, 12, 3)]
    for number, b in enumerate(steps):
        torch.manual_seed(number)
        step = learner(b)
        found.append(float(step.loss.detach()))
        minorities.append(float(step.logs["minority"]))
    assert found == pytest.approx(slowly(learner, steps, decay, mixup), rel=1e-5)
    assert min(minorities) > 0
    assert min(1 - m for m in minorities[:3]) > 0, "there must be something to mix with"


# --- cases in which nothing happens, and who learns from what ------------------------------------


def agreeing(*learners: Corrected, absent: int | None = None) -> Batch:
    """A batch in which every label is what the biased networks say, of all classes but one."""
    b = batch(torch.zeros(12, dtype=torch.int64))
    for learner in learners:
        with torch.no_grad():
            logits = learner.biased(b.x)
            learner.biased.head.bias -= logits.mean(0)
            if absent is not None:
                learner.biased.head.bias[absent] -= 100
            y = learner.biased(b.x).argmax(1)
    assert y.unique().tolist() == [c for c in range(3) if c != absent]
    return b._replace(y=y)


def relabelled(b: Batch, to: int) -> Batch:
    """The first image that is of another class, now of this one."""
    y = b.y.clone()
    y[(y != to).nonzero()[0]] = to
    return b._replace(y=y)


def test_without_conflicting_samples_nothing_is_mixed() -> None:
    one, other = corrected(mixup=True), corrected(mixup=False)
    b = agreeing(one, other)
    found = one(b)
    assert float(found.logs["minority"]) == 0
    assert torch.equal(found.loss, other(b).loss)
    b = relabelled(b, to=0)
    found = one(b)
    assert float(found.logs["minority"]) == pytest.approx(1 / 12)
    assert not torch.equal(found.loss, other(b).loss)


def test_a_conflicting_sample_without_a_partner_stays_itself() -> None:
    one, other = corrected(mixup=True), corrected(mixup=False)
    b = relabelled(agreeing(one, other, absent=2), to=2)
    found = one(b)
    assert float(found.logs["minority"]) == pytest.approx(1 / 12)
    assert torch.equal(found.loss, other(b).loss)


def test_with_an_equal_prior_the_loss_is_that_of_plain_training(monkeypatch) -> None:
    learner, b = corrected(mixup=False), batch(torch.tensor([0, 1, 2, 2, 1]))
    monkeypatch.setattr(Corrected, "update", lambda *_: None)
    plain = ce(learner.net(b.x), b.y).mean()
    torch.testing.assert_close(learner(b).logs["debiased"], plain.detach())


def gradients(loss: Tensor, of: Classifier) -> list[Tensor]:
    parameters = list(of.parameters())
    return list(torch.autograd.grad(loss, parameters, retain_graph=True))


def test_each_network_learns_from_its_own_term_alone(monkeypatch) -> None:
    learner, b = corrected(mixup=False), batch(torch.tensor([0, 1, 2, 2, 1, 0]))
    step = learner(b)
    prior = learner.prior.clone()
    biased = learner.biased(b.x)
    first = gce(biased, b.y, 0.7).mean()
    correction = prior.t()[biased.argmax(1)].detach().log()
    second = ce(learner.net(b.x) + correction, b.y).mean()
    for of, term in ((learner.biased, first), (learner.net, second)):
        for one, other in zip(gradients(step.loss, of), gradients(term, of), strict=True):
            torch.testing.assert_close(one, other)
    assert list(learner.groups()) == ["debiased", "biased"]
    assert next(iter(learner.branches().values())) is learner.net


# --- as a method --------------------------------------------------------------------------------


def test_both_networks_are_published_and_differ() -> None:
    data, run = small_gratings(), Run(None, 0, Device("cpu"), arch="mlp-3")
    result = shortened(LC()).fit(data, run)
    roles = {"biased": "biased", "debiased": "debiased"}
    assert {k: b.role for k, b in run.branches.items()} == roles
    assert run.branches["debiased"].net is result
    other = run.branches["biased"].net.state_dict()
    assert not all(torch.equal(v, other[k]) for k, v in result.state_dict().items())


def test_mixing_goes_on_exactly_where_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The battery's eight steps; it draws partners and shares in each."""
    mixed = []

    def counted(y: Tensor, minority: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
        partner, there = majority_partners(y, minority, n_classes)
        mixed.append(bool((minority & there).any()))
        return partner, there

    monkeypatch.setattr(lc, "majority_partners", counted)
    check_continuation(LC(plan=Plan(batch_size=64)), tmp_path)
    assert sum(mixed) > len(mixed) / 2, "there must be something to mix"


def test_settings_reach_the_learner() -> None:
    run = Unfitted()
    LC(q=0.3, decay=0.5, mixup=False).fit(small_gratings(), run)
    found = run.asked["fit"].learner
    assert (found.q, found.decay, found.mixup) == (0.3, 0.5, False)


def test_labels_that_are_used() -> None:
    assert LC().labels_used() == {"training": "class labels only", "choosing": "none"}


@pytest.mark.parametrize(("settings", "words"), [({"q": 0}, "q must"), ({"decay": 1}, "decay")])
def test_settings_out_of_range(settings, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LC(**settings)
