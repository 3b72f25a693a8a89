"""Every method must pass the checks that the package offers to others, too."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from truecue import api, testing
from truecue.data.loader import Batch
from truecue.data.sets import Splits
from truecue.data.suites import SUITES
from truecue.engine.device import Device
from truecue.engine.learner import Step
from truecue.methods import METHODS
from truecue.methods.base import Method
from truecue.methods.erm import ERM, CELearner
from truecue.testing import CHECKS, check_method, fit, same_bits, small_gratings


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_method_passes(check: Callable[[Method, Path], None], name: str, tmp_path: Path) -> None:
    check(METHODS[name](), tmp_path)


@pytest.mark.parametrize("name", METHODS)
def test_method_says_what_it_is(name: str) -> None:
    method = METHODS[name]
    assert method.title
    assert method.__doc__
    for setting, field in method.model_fields.items():
        assert field.description, f"{name}.{setting} needs a docstring"


class _Careless(ERM):
    """Plain training that forgets to make its randomness depend on the run."""

    def fit(self, data: Splits, run):
        net = super().fit(data, run)
        with torch.no_grad():
            net.head.bias += float(torch.rand((), generator=torch.Generator().manual_seed(
                time.monotonic_ns() % 2**31)))  # fmt: skip
        return net


class _Peeking(ERM):
    """Plain training that looks at the images' test labels."""

    def fit(self, data: Splits, run):
        net = super().fit(data, run)
        with torch.no_grad():
            net.head.bias += float(sum(a.values.float() @ torch.arange(float(len(data.test)))
                                       for a in data.test.attributes.values()))  # fmt: skip
        return net


class _Greedy(ERM):
    """Plain training that draws from numpy's and torch's global states and scribbles on images."""

    def fit(self, data: Splits, run):
        net = super().fit(data, run)
        data.train.images[0] = 0
        return net


class _Counting(CELearner):
    """Keeps something outside of its state: it is lost when the run is cut off."""

    steps = 0

    def forward(self, batch: Batch) -> Step:
        self.steps += 1
        loss, logs = super().forward(batch)
        return Step(loss * self.steps, logs)


class _Forgetful(ERM):
    """Plain training with a learner that cannot be continued."""

    def fit(self, data: Splits, run):
        train = data.train
        return run.train("fit", lambda: _Counting(run.new_net(train)), train, self.plan).net


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        (_Careless(), "same bits"),
        (_Greedy(), "train images must stay"),
        (_Forgetful(), "cut off at steps"),
    ],
)
def test_battery_finds_faults(method: Method, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_method(method, tmp_path)


def test_undeclared_attributes_are_not_even_there(tmp_path: Path) -> None:
    testing.check_supervision(_Peeking(), tmp_path)  # it looks, and sees nothing


def test_declared_attributes_are_there() -> None:
    from truecue.methods.base import Uses

    seen = []

    class Declaring(ERM):
        uses = Uses.TRAIN_ATTRIBUTES

        def fit(self, data: Splits, run):
            seen.append((set(data.train.attributes), set(data.val.attributes), data.bias))
            seen.append(set(data.test.attributes))
            return super().fit(data, run)

    fit(Declaring(), small_gratings())
    assert seen == [({"tint"}, set(), "tint"), set()]


def test_other_checks_see_other_bits() -> None:
    """`same_bits` itself: one weight's last bit is enough."""
    one = fit(ERM(), small_gratings())
    other = fit(ERM(), small_gratings())
    assert same_bits(one, other)
    with torch.no_grad():
        other.net.head.bias[0] = other.net.head.bias[0].nextafter(torch.tensor(9.0))
    assert not same_bits(one, other)
    assert not same_bits(one, replace(other, net=testing.fit(ERM(), small_gratings(), seed=3).net))


def test_every_group_is_among_the_images_of_the_checks() -> None:
    """Otherwise shuffled attributes would be the same attributes."""
    for part in small_gratings().parts().values():
        cells = (2 * part.y + part.attributes["tint"].values).bincount(minlength=4)
        assert int(cells.min()) >= 5
    assert len(small_gratings().train) == 256


# planted makes its images of those of another suite: they take as long as digits
SELF_MADE = [name for name, suite in SUITES.items() if suite.self_made and name != "planted"]


@pytest.mark.slow
@pytest.mark.parametrize("suite", SELF_MADE)
@pytest.mark.parametrize("name", METHODS)
def test_default_settings_take_less_than_a_minute(name: str, suite: str) -> None:
    data = SUITES[suite]().load()
    began = time.process_time()
    api.train(METHODS[name](), data, device=Device("cpu"))
    assert time.process_time() - began < 75  # a minute, and a quarter more on a busy machine
