"""Just Train Twice: which errors are found, and how often they come in the second training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from unfitted import Unfitted

from truecue.data.loader import Batch
from truecue.engine.device import Device
from truecue.engine.plan import Plan
from truecue.engine.run import Run
from truecue.methods.erm import ERM
from truecue.methods.jtt import JTT, Identifier
from truecue.nets.build import build
from truecue.testing import check_continuation, fit, small_gratings

SHORT = Plan(epochs=1, batch_size=64)


class Spy(Run):
    """A run that keeps what it was asked to train."""

    def __init__(self) -> None:
        super().__init__(None, 0, Device("cpu"), arch="mlp-3")
        self.weights: dict[str, torch.Tensor | None] = {}
        self.learners: dict[str, Any] = {}

    def train(self, stage, make, data, plan, **more):
        self.weights[stage] = more.get("weights")
        self.learners[stage] = super().train(stage, make, data, plan, **more)
        return self.learners[stage]


def test_expected_loss_is_the_published_one() -> None:
    """The errors appear copies + 1 times: 4 + 20 samples with two errors and ten copies of each."""
    losses, wrong = torch.tensor([0.3, 1.2, 0.1, 2.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    weights = 1 + 10 * wrong
    assert float(weights.sum()) == 24
    assert float((weights * losses).sum() / weights.sum()) == pytest.approx(1.483333, abs=1e-6)


@pytest.mark.parametrize("errors", ["after", "during"])
def test_weights_are_copies_plus_one_for_the_errors(errors: Any) -> None:
    data, run = small_gratings(), Spy()
    JTT(plan=SHORT, identify=SHORT, copies=7, errors=errors).fit(data, run)
    first, weights = run.learners["identify"], run.weights["retrain"]
    after = run.apply(first.net, data.train).argmax(1) != data.train.y
    wrong = after if errors == "after" else first.wrong
    assert weights is not None
    assert torch.equal(weights, torch.where(wrong, 8.0, 1.0).double())
    assert run.weights["identify"] is None
    assert not torch.equal(after, first.wrong), "after one epoch the two readings differ"


def test_errors_during_training_are_those_of_the_last_pass() -> None:
    torch.manual_seed(0)
    data = small_gratings().train
    net = build("mlp-3", channels=3, size=16, n_classes=2)
    learner, noted = Identifier(net, len(data)), {}
    for ids in ([0, 5, 9], [5, 7], [0, 200]):
        at = torch.tensor(ids)
        batch = Batch((data.images[at],), data.y[at], at)
        wrong = net(batch.x).argmax(1) != batch.y
        noted |= dict(zip(ids, wrong.tolist(), strict=True))
        learner(batch)
        with torch.no_grad():
            net.head.weight.neg_()  # the next look is another network's
    assert {i: bool(learner.wrong[i]) for i in noted} == noted
    assert True in noted.values()
    assert int(learner.wrong.sum()) == sum(noted.values())


def test_second_network_starts_anew_and_the_first_is_published() -> None:
    data, run = small_gratings(), Spy()
    net = JTT(plan=SHORT, identify=SHORT).fit(data, run)
    assert {k: b.role for k, b in run.branches.items()} == {"first": "biased"}
    assert run.branches["first"].net is not net


def test_no_errors_are_warned_of() -> None:
    data, run = small_gratings(), Spy()
    long = Plan(epochs=60, batch_size=16)
    JTT(plan=SHORT, identify=long).fit(data, run)
    (said,) = run.warnings
    assert "wrong on 0.0% of the training images" in said
    assert said.endswith("Set identify.epochs lower.")


@pytest.mark.parametrize(
    ("wrong", "said"), [(0, "lower"), (1, ""), (127, ""), (128, "higher"), (256, "higher")]
)
def test_errors_that_say_nothing_are_warned_of(monkeypatch, wrong: int, said: str) -> None:
    run = Unfitted()
    monkeypatch.setattr(JTT, "_wrong", lambda *_: torch.arange(256) < wrong)
    JTT().fit(small_gratings(), run)
    ends = [sentence.rsplit("identify.epochs ")[-1] for sentence in run.warnings]
    assert ends == ([f"{said}."] if said else [])


def test_without_copies_it_is_plain_training_with_replacement() -> None:
    data, run = small_gratings(), Spy()
    JTT(plan=SHORT, identify=SHORT, copies=0).fit(data, run)
    weights = run.weights["retrain"]
    assert weights is not None
    assert bool((weights == 1).all())


def test_errors_during_training_survive_a_stop(tmp_path) -> None:
    check_continuation(JTT(errors="during"), tmp_path)


def test_baseline_has_the_plan_of_the_second_training() -> None:
    assert JTT().plan == ERM().plan
    fit(JTT(), small_gratings())
