"""Learning from Failure: the published table, a slow loop, and who learns from what."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from unfitted import Unfitted

from truecue.data.loader import Batch
from truecue.engine.device import Device
from truecue.engine.learner import SampleState
from truecue.engine.run import Run
from truecue.errors import ConfigError
from truecue.losses.classification import ce, gce
from truecue.methods.difficulty import relative_difficulty
from truecue.methods.lff import Failure, LfF
from truecue.nets.build import build
from truecue.nets.classifier import Classifier
from truecue.testing import shortened, small_gratings


def net(seed: int, classes: int = 2) -> Classifier:
    torch.manual_seed(seed)
    return build("mlp-3", channels=3, size=4, n_classes=classes)


def failure(y: torch.Tensor, *, classes: int = 2, scaled: bool = False) -> Failure:
    one, other = net(0, classes), net(1, classes)
    return Failure(one, other, y, q=0.7, decay=0.7, scaled=scaled)


def batch(y: torch.Tensor, ids: list[int], seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (len(ids), 3, 4, 4), generator=rng).to(torch.uint8)
    return Batch((x,), y[ids], torch.tensor(ids))


TABLE = [  # samples; both losses; averages; weights of these samples: from the released class
    ([0, 2, 3], [0.2, 2, 0.5], [0.4, 1, 1],
     [0.2, 0, 2, 0.5, 0], [0.4, 0, 1, 1, 0], [0.5, 0.5, 0.2]),
    ([0, 2, 3], [0.1, 3, 0.5], [0.5, 0.8, 0.2],
     [0.17, 0, 2.3, 0.5, 0], [0.43, 0, 0.94, 0.76, 0], [0.5, 0.5, 0.211903]),
    ([1, 4], [1.5, 0.3], [0.6, 0.9],
     [0.17, 1.5, 2.3, 0.5, 0.3], [0.43, 0.6, 0.94, 0.76, 0.9], [0.5, 0.119898]),
]  # fmt: skip


def test_averages_and_weights_are_those_of_the_released_class() -> None:
    learner = failure(torch.tensor([0, 0, 1, 1, 1]))
    for ids, biased, debiased, e_b, e_d, weights in TABLE:
        at = torch.tensor(ids)
        learner.biased_loss.update(at, torch.tensor(biased))
        learner.debiased_loss.update(at, torch.tensor(debiased))
        for state, wanted in ((learner.biased_loss, e_b), (learner.debiased_loss, e_d)):
            torch.testing.assert_close(state.average, torch.tensor(wanted).float())
        found = learner.weights()[at]
        torch.testing.assert_close(found, torch.tensor(weights), rtol=0, atol=1e-6)


def test_without_average_and_classes_the_weight_is_that_of_subpopbench() -> None:
    found = relative_difficulty(torch.tensor([0.2, 2, 0.5]), torch.tensor([0.4, 1, 1]))
    torch.testing.assert_close(found, torch.tensor([1 / 3, 2 / 3, 1 / 3]))


def test_weights_are_finite_where_nothing_is_known_or_nothing_is_lost() -> None:
    learner = failure(torch.tensor([0, 0, 1]))
    assert learner.weights().tolist() == [0, 0, 0]
    learner.biased_loss.update(torch.tensor([0, 1]), torch.tensor([0.0, 0.0]))
    learner.debiased_loss.update(torch.tensor([0, 1]), torch.tensor([0.0, 2.0]))
    assert learner.weights().tolist() == [0, 0, 0]
    learner.biased_loss.update(torch.tensor([2]), torch.tensor([1e-38]))
    assert bool(learner.weights().isfinite().all())


@torch.no_grad()
def slowly(learner: Failure, steps: list[Batch], y: list[int]) -> list[float]:
    """The losses of some steps of the two networks as they are, one sample at a time."""
    tables: tuple[dict[int, float], dict[int, float]] = ({}, {})
    losses = []
    for b in steps:
        p_b = learner.biased(b.x).double().softmax(1)
        p_d = learner.net(b.x).double().softmax(1)
        for table, p in zip(tables, (p_b, p_d), strict=True):
            for k, i in enumerate(b.ids.tolist()):
                new = -float(p[k, y[i]].log())
                table[i] = 0.7 * table[i] + 0.3 * new if i in table else new
        total = 0.0
        for k, i in enumerate(b.ids.tolist()):
            n_b, n_d = (t[i] / max(t[j] for j in t if y[j] == y[i]) for t in tables)
            w = n_b / (n_b + n_d + 1e-8)
            total += (1 - float(p_b[k, y[i]]) ** 0.7) / 0.7 - w * float(p_d[k, y[i]].log())
        losses.append(total / len(b.ids))
    return losses


def test_loss_is_that_of_a_slow_loop() -> None:
    y = torch.arange(12) % 3
    learner = failure(y, classes=3)
    steps = [batch(y, [0, 1, 2, 5, 8], 0), batch(y, [3, 4, 0, 7], 1), batch(y, [8, 9, 10], 2)]
    found = [float(learner(b).loss.detach()) for b in steps]
    assert found == pytest.approx(slowly(learner, steps, y.tolist()), rel=1e-5)


def gradients(loss: torch.Tensor, of: Classifier) -> list[torch.Tensor | None]:
    return list(torch.autograd.grad(loss, list(of.parameters()), allow_unused=True))


@pytest.mark.parametrize("scaled", [False, True])
def test_each_network_learns_from_its_own_term_alone(scaled: bool) -> None:
    y = torch.arange(8) % 2
    learner, b = failure(y, scaled=scaled), batch(y, list(range(8)))
    loss = learner(b).loss
    weights = learner.weights()[b.ids]
    factor = 0.7 if scaled else 1.0
    biased = gradients(factor * gce(learner.biased(b.x), b.y, 0.7).mean(), learner.biased)
    debiased = gradients((weights * ce(learner.net(b.x), b.y)).mean(), learner.net)
    for of, wanted in ((learner.biased, biased), (learner.net, debiased)):
        for one, other in zip(gradients(learner(b).loss, of), wanted, strict=True):
            torch.testing.assert_close(one, other)
    terms = learner(b).logs
    torch.testing.assert_close(loss.detach(), terms["biased"] + terms["debiased"])


def test_scaled_is_the_released_loss() -> None:
    """Its gradient is q * p^q * that of cross-entropy; p^q is a constant there."""
    y = torch.arange(6) % 2
    learner, b = failure(y, scaled=True), batch(y, list(range(6)))
    logits = learner.biased(b.x)
    p = logits.softmax(1).gather(1, b.y[:, None])[:, 0].detach()
    released = (p**0.7 * 0.7 * F.cross_entropy(logits, b.y, reduction="none")).mean()
    for one, other in zip(
        gradients(learner(b).loss, learner.biased), gradients(released, learner.biased), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_every_sample_with_a_loss_of_its_own_is_learned_from() -> None:
    data = small_gratings().train
    learner = failure(data.y)
    first = batch(data.y, list(range(len(data))))
    learner(first)
    assert bool((learner.weights() > 0).all())


def test_two_groups_and_the_result_is_judged() -> None:
    learner = failure(torch.tensor([0, 1]))
    assert list(learner.groups()) == ["debiased", "biased"]
    assert next(iter(learner.branches().values())) is learner.net
    states = [k for k in learner.state_dict() if k.endswith(("average", "seen"))]
    assert len(states) == 4
    assert "y" not in learner.state_dict(), "labels belong to the data, not to a checkpoint"


def test_both_networks_are_published_and_differ() -> None:
    data, run = small_gratings(), Run(None, 0, Device("cpu"))
    result = shortened(LfF()).fit(data, run)
    assert {k: b.role for k, b in run.branches.items()} == {
        "biased": "biased",
        "debiased": "debiased",
    }
    assert run.branches["debiased"].net is result
    other = run.branches["biased"].net.state_dict()
    assert not all(torch.equal(v, other[k]) for k, v in result.state_dict().items())


def test_settings_reach_the_learner() -> None:
    run = Unfitted()
    LfF(q=0.3, decay=0.5, scaled=True).fit(small_gratings(), run)
    found = run.asked["fit"].learner
    assert (found.q, found.factor) == (0.3, 0.3)
    assert (found.biased_loss.decay, found.debiased_loss.decay) == (0.5, 0.5)


@pytest.mark.parametrize(("settings", "words"), [({"q": 0}, "q must"), ({"decay": 1}, "decay")])
def test_settings_out_of_range(settings, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LfF(**settings)


@pytest.mark.slow
def test_weights_find_the_conflicting_images_of_colored_mnist(real_data) -> None:
    """Measured, seeds 0 and 1 after 3 epochs: 0.965 and 0.969."""
    from sklearn.metrics import roc_auc_score

    from truecue.data.suites.colored_mnist import ColoredMNIST

    data = ColoredMNIST(conflicting=0.01).load(real_data)
    train, run = data.train, Run(None, 0, Device("cpu"))

    def make() -> Failure:
        nets = run.new_net(train, "mlp-5"), run.new_net(train, "mlp-5")
        return Failure(*nets, train.y, q=0.7, decay=0.7, scaled=False)

    plan = LfF().plan.override({"epochs": 3})
    weights = run.train("fit", make, train.blind(), plan).weights()
    conflicting = train.attributes["colour"].values != train.y
    assert roc_auc_score(conflicting, weights) > 0.9
    assert float(weights[conflicting].mean()) > 2 * float(weights[~conflicting].mean())


def test_state_is_kept_per_sample_not_per_batch() -> None:
    """The fault of another library: the batch's mean loss as every sample's loss."""
    state = SampleState(3, 0.7)
    assert (
        state.update(torch.tensor([0, 1, 2]), torch.tensor([1.0, 2.0, 3.0])).unique().numel() == 3
    )
