"""What every method must do, as checks that run in seconds: for the package's methods and yours.

    def test_my_method(tmp_path):
        check_method(MyMethod(strength=2.0), tmp_path)

The images are a small part of the suite `gratings`, and every plan is cut to two epochs, so this
says nothing about how well a method works.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from truecue.api import Trained, train
from truecue.data.sets import Attribute, ImageSet, Splits
from truecue.data.suites.gratings import Gratings
from truecue.engine.device import Device
from truecue.errors import ConfigError
from truecue.methods.base import Method, Uses
from truecue.nets.classifier import load_classifier
from truecue.seeds import derive

CUTS = 5
"""How often a run is cut off and continued."""


def check_method(method: Method, tmp_path: Path) -> None:
    """Run every check of `CHECKS` on a method.

    Args:
        method: with the settings to check.
        tmp_path: an empty folder for the runs.

    Raises:
        AssertionError: a check failed; the message says what the method must do.
    """
    for check in CHECKS:
        check(method, tmp_path / check.__name__)


def check_settings(method: Method, folder: Path) -> None:
    """Settings survive a round trip through TOML, and an unknown one is refused with a hint."""
    again = type(method).from_toml(method.to_toml())
    assert again == method, "settings must be the same after to_toml() and from_toml()"
    for name in type(method).model_fields:
        said = _refusal(method, f"{name}x")
        assert said is not None, f"the unknown setting '{name}x' must be refused"
        assert f"'{name}'" in said, f"the error must suggest '{name}'; it says: {said}"


def check_result(method: Method, folder: Path) -> None:
    """The result takes uint8 images to finite logits, is saved, and is read back the same."""
    data, before = small_gratings(), method.to_toml()
    trained = fit(method, data, folder)
    logits = trained.net(data.test.images)
    assert not trained.net.training, "the result must be in evaluation mode"
    assert logits.shape == (len(data.test), 2), "the result must give a logit for each class"
    assert bool(logits.isfinite().all()), "logits must be finite"
    read = load_classifier(folder / "model.safetensors")
    assert torch.equal(read(data.test.images), logits), "the saved model must give the same logits"
    assert method.to_toml() == before, "fit() must leave the settings as they are"


def check_seeds(method: Method, folder: Path) -> None:
    """The same seed gives the same bits, another seed others."""
    first = fit(method, small_gratings())
    assert same_bits(first, fit(method, small_gratings())), "one seed must give the same bits"
    assert not same_bits(first, fit(method, small_gratings(), seed=1)), "seeds must matter"


def check_continuation(method: Method, folder: Path) -> None:
    """Cut off at random steps and continued, a run gives the same bits as in one go."""
    counter = _Cut()
    whole = fit(method, small_gratings(), device=counter)
    rng = random.Random(derive(type(method).__name__, "cuts"))
    steps = sorted(rng.sample(range(1, counter.done), min(CUTS, counter.done - 1)))
    for before, after in zip([0, *steps], steps, strict=False):
        seconds = rng.choice([0.0, 0.05])  # a checkpoint after every step, or now and then
        try:
            fit(method, small_gratings(), folder, device=_Cut(after - before), seconds=seconds)
        except _CutOff:
            continue
    trained = fit(method, small_gratings(), folder)
    assert same_bits(whole, trained), f"cut off at steps {steps}, the result must be the same"


def check_supervision(method: Method, folder: Path) -> None:
    """Attributes that the method does not declare change nothing."""
    data = small_gratings()
    judged = any(plan.select == "val_worst_group" for plan in method.plans().values())
    val = data.val
    if val is not None and Uses.VAL_ATTRIBUTES not in method.supervision() and not judged:
        val = _shuffled(val)
    train_set = (
        data.train if Uses.TRAIN_ATTRIBUTES in method.supervision() else _shuffled(data.train)
    )
    other = replace(data, train=train_set, val=val, test=_shuffled(data.test))
    assert same_bits(fit(method, data), fit(method, other)), (
        "shuffled attributes changed the result: declare what the method looks at in `uses`"
    )


def check_surroundings(method: Method, folder: Path) -> None:
    """Random states and images are left as they were."""
    data, untouched = small_gratings(), small_gratings()
    torchs, numpys, pythons = torch.get_rng_state(), _numpys_state(), random.getstate()
    fit(method, data)
    assert torch.equal(torch.get_rng_state(), torchs), "torch's random state must stay"
    assert _numpys_state() == numpys, "numpy's random state must stay"
    assert random.getstate() == pythons, "Python's random state must stay"
    for name, part in data.parts().items():
        images = untouched.parts()[name].images
        assert torch.equal(part.images[:], images[:]), f"the {name} images must stay"


CHECKS: tuple[Callable[[Method, Path], None], ...] = (
    check_settings,
    check_surroundings,
    check_result,
    check_seeds,
    check_continuation,
    check_supervision,
)
"""Each takes a method and a folder of its own."""


def small_gratings() -> Splits:
    """256 training, 64 validation and 64 test images of `gratings`, a quarter conflicting."""
    data = Gratings(conflicting=0.25).load()
    assert data.val is not None
    return replace(
        data,
        train=_every(data.train, 256), val=_every(data.val, 64), test=_every(data.test, 64),
    )  # fmt: skip


def _every(data: ImageSet, wanted: int) -> ImageSet:
    """Images at even distances: tints lie in blocks, so that the first ones all have one tint."""
    return data.select(torch.arange(0, len(data), len(data) // wanted))


def shortened(method: Method, epochs: int = 2) -> Method:
    """The method with every plan cut to a few epochs."""
    return method.override({f"{name}.epochs": epochs for name in method.plans()})


def fit(
    method: Method,
    data: Splits,
    folder: Path | None = None,
    *,
    seed: int = 0,
    device: Device | None = None,
    seconds: float = 300.0,
) -> Trained:
    """Train by the shortened method on the CPU, without a baseline."""
    return train(
        shortened(method),
        data,
        out=folder,
        seed=seed,
        baseline=False,
        device=device or Device("cpu"),
        checkpoint_seconds=seconds,
    )


def same_bits(one: Trained, other: Trained) -> bool:
    """Whether the two results' weights are the same, bit for bit."""
    ours, theirs = _bits(one), _bits(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def _bits(trained: Trained) -> dict[str, Tensor]:
    state = trained.net.state_dict()
    return {k: v.detach().reshape(-1).contiguous().view(torch.uint8) for k, v in state.items()}


def _numpys_state() -> str:
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return f"{state['key'].tolist()} {state['pos']}"


def _refusal(method: Method, unknown: str) -> str | None:
    try:
        method.override({unknown: 1})
    except ConfigError as error:
        return str(error)
    return None


class _CutOff(Exception):
    """Stands for a kill."""


class _Cut(Device):
    """A device that fails after a number of steps, and counts them."""

    def __init__(self, steps: int | None = None):
        super().__init__("cpu")
        self.done, self._steps = 0, steps

    def backward(self, loss: Tensor) -> None:
        if self.done == self._steps:
            raise _CutOff
        self.done += 1
        super().backward(loss)


def _shuffled(data: ImageSet) -> ImageSet:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    shuffled = {k: Attribute(a.values[order], a.names) for k, a in data.attributes.items()}
    return replace(data, attributes=shuffled)
