"""DisEnt: published values, a slow loop, LfF as a limiting case, and who learns from what."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from unfitted import Unfitted

from truecue.data.loader import Batch
from truecue.engine.device import Device
from truecue.engine.plan import Plan
from truecue.engine.run import Run
from truecue.errors import ConfigError
from truecue.losses.classification import ce, gce
from truecue.methods.disent import DisEnt, Swap
from truecue.methods.lff import Failure
from truecue.nets.build import build
from truecue.nets.classifier import Classifier, load_classifier, save_classifier
from truecue.nets.small import Pair
from truecue.testing import check_continuation, shortened, small_gratings

SETTINGS = {
    "swap_at": 0, "lambda_dis": 10.0, "lambda_swap_b": 10.0, "lambda_swap": 1.0,
    "q": 0.7, "decay": 0.7, "scaled": False,
}  # fmt: skip


def swap(y: torch.Tensor, classes: int = 2, **settings: object) -> Swap:
    torch.manual_seed(0)
    net, biased = (
        build("pair:mlp-3x6", channels=3, size=4, n_classes=classes) for _ in range(2)
    )  # fmt: skip
    return Swap(net, biased, y, **SETTINGS | settings)  # type: ignore[arg-type]


def batch(y: torch.Tensor, ids: list[int], seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (len(ids), 3, 4, 4), generator=rng).to(torch.uint8)
    return Batch((x,), y[ids], torch.tensor(ids))


# --- the published step -------------------------------------------------------------------------


class Given(nn.Module):
    """An encoder with its features given."""

    def __init__(self, features: list[list[float]]):
        super().__init__()
        self.features = nn.Parameter(torch.tensor(features).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features


def published() -> Swap:
    """Two images, features of two numbers, heads of two classes."""
    own, bias = Given([[1, 0], [0, 1]]), Given([[0.5, 0.5], [-0.5, 1]])
    heads = [[[1, 0, 0.5, 0], [0, 1, 0, 0.5]], [[0.2, 0, 1, 0], [0, 0.2, 0, 1]]]
    nets = []
    for weight in heads:
        head = nn.Linear(4, 2)
        head.load_state_dict({"weight": torch.tensor(weight).float(), "bias": torch.zeros(2)})
        pair = Pair(own, bias, 4)
        nets.append(Classifier(pair, head, mean=(0,) * 3, std=(1,) * 3, spec={}))
    return Swap(*nets, torch.tensor([0, 1]), **SETTINGS | {"scaled": True})  # type: ignore[arg-type]


def test_step_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released code's loss: p^q is a constant in it, and a factor q comes with it."""
    learner, y = published(), torch.tensor([0, 1])
    flipped = torch.tensor([1, 0])
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: flipped)
    step = learner(batch(y, [0, 1]))
    assert learner.weights().tolist() == pytest.approx([0.5, 0.5])

    own, bias = learner.pair.first(y), learner.pair.second(y)
    c_i, c_b = learner.net.head, learner.biased.head

    def released(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        p = logits.softmax(1).gather(1, y[:, None])[:, 0].detach()
        return p**0.7 * 0.7 * F.cross_entropy(logits, y, reduction="none")

    def both(bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own_, bias_ = own.detach(), bias.detach()
        return c_i(torch.cat([own, bias_], 1)), c_b(torch.cat([own_, bias], 1))

    o_i, o_b = both(bias)
    ce_i, ce_b, gce_b = ce(o_i, y), ce(o_b, y), released(o_b, y)
    s_i, s_b = both(bias[flipped])
    swap_i, swap_b = ce(s_i, y), released(s_b, y[flipped])
    dis = (0.5 * ce_i).mean() + 10 * gce_b.mean()
    swapped = (0.5 * swap_i).mean() + 10 * swap_b.mean()
    for found, wanted in (
        (ce_i, [0.313262, 0.160224]), (ce_b, [0.598139, 0.167786]),
        (gce_b, [0.275462, 0.104435]), (dis, 2.017858),
        (swap_i, [0.575939, 0.313262]), (swap_b, [0.142516, 0.319549]),
        (swapped, 2.532623), (dis + swapped, 4.550480),
    ):  # fmt: skip
        torch.testing.assert_close(found.detach(), torch.tensor(wanted), rtol=0, atol=1e-6)

    assert float(step.logs["debiased"]) == pytest.approx(0.5 * (0.313262 + 0.160224) / 2, abs=1e-6)
    assert float(step.logs["swap_debiased"]) == pytest.approx(
        0.5 * (0.575939 + 0.313262) / 2, abs=1e-6
    )
    parameters = list(learner.parameters())
    gradients = torch.autograd.grad(step.loss, parameters)
    for one, other in zip(gradients, torch.autograd.grad(dis + swapped, parameters), strict=True):
        torch.testing.assert_close(one, other)


# --- a slow loop --------------------------------------------------------------------------------


@torch.no_grad()
def slowly(learner: Swap, steps: list[Batch], y: list[int], swap_at: int) -> list[float]:
    """The losses of some steps of the networks as they are, one sample at a time."""
    tables: tuple[dict[int, float], dict[int, float]] = ({}, {})
    losses = []

    def probability(head: nn.Linear, own: list[float], bias: list[float], c: int) -> float:
        both = own + bias
        logits = [
            float(b) + sum(float(w) * z for w, z in zip(row, both, strict=True))
            for row, b in zip(head.weight.double(), head.bias.double(), strict=True)
        ]
        return math.exp(logits[c]) / sum(map(math.exp, logits))

    for number, b in enumerate(steps):
        torch.manual_seed(number)
        order, ids = torch.randperm(len(b.ids)).tolist(), b.ids.tolist()
        pixels = learner.net.pixels(b.x)
        own = learner.pair.first(pixels).double().tolist()
        bias = learner.pair.second(pixels).double().tolist()
        heads = learner.biased.head, learner.net.head
        for table, head in zip(tables, heads, strict=True):
            for k, i in enumerate(ids):
                new = -math.log(probability(head, own[k], bias[k], y[i]))
                table[i] = 0.7 * table[i] + 0.3 * new if i in table else new
        total = 0.0
        for k, i in enumerate(ids):
            n_b, n_i = (t[i] / max(t[j] for j in t if y[j] == y[i]) for t in tables)
            w, other = n_b / (n_b + n_i + 1e-8), ids[order[k]]
            p = probability(learner.net.head, own[k], bias[k], y[i])
            p_b = probability(learner.biased.head, own[k], bias[k], y[i])
            total += -w * math.log(p) + 10 * (1 - p_b**0.7) / 0.7
            if number >= swap_at:
                p = probability(learner.net.head, own[k], bias[order[k]], y[i])
                p_b = probability(learner.biased.head, own[k], bias[order[k]], y[other])
                total += 0.5 * (-w * math.log(p) + 3 * (1 - p_b**0.7) / 0.7)
        losses.append(total / len(ids))
    return losses


def test_losses_are_those_of_a_slow_loop() -> None:
    y = torch.arange(12) % 3
    learner = swap(y, 3, swap_at=2, lambda_swap=0.5, lambda_swap_b=3.0)
    parts = [[0, 1, 2, 5, 8], [3, 4, 0, 7], [8, 9, 10, 2, 0, 4], [1, 2, 3]]
    steps = [batch(y, ids, number) for number, ids in enumerate(parts)]
    found = []
    for number, b in enumerate(steps):
        torch.manual_seed(number)
        found.append(float(learner(b).loss.detach()))
    assert found == pytest.approx(slowly(learner, steps, y.tolist(), swap_at=2), rel=1e-5)


# --- limiting cases -----------------------------------------------------------------------------


def loss_of(learner: Swap, b: Batch) -> float:
    torch.manual_seed(5)
    return float(learner(b).loss.detach())


def test_swapping_begins_at_its_step_and_not_before() -> None:
    y = torch.arange(8) % 2
    steps = [batch(y, list(range(8)), seed) for seed in range(4)]
    late = swap(y, swap_at=2)
    early, found, never = (
        [loss_of(learner, b) for b in steps] for learner in (swap(y), late, swap(y, swap_at=4))
    )
    assert found[:2] == never[:2]
    assert found[2:] == early[2:]
    assert all(one != other for one, other in zip(early, never, strict=True))
    assert int(late.steps) == 4


def test_no_weight_is_no_swapping() -> None:
    y = torch.arange(8) % 2
    b = batch(y, list(range(8)))
    assert loss_of(swap(y, lambda_swap=0.0), b) == loss_of(swap(y, swap_at=9), b)


def test_features_swapped_with_themselves_count_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.arange(8) % 2
    b = batch(y, list(range(8)))
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: torch.arange(n))
    assert loss_of(swap(y), b) == pytest.approx(2 * loss_of(swap(y, swap_at=9), b))


@pytest.mark.parametrize("scaled", [False, True])
def test_heads_that_see_their_own_half_alone_are_lff(scaled: bool) -> None:
    """Without swapping, and with no weight on the other encoder's features."""
    y = torch.arange(8) % 2
    learner = swap(y, swap_at=9, lambda_dis=1.0, scaled=scaled)
    h = learner.net.n_features // 2
    nets = []
    for k, (whole, encoder) in enumerate(
        ((learner.net, learner.pair.first), (learner.biased, learner.pair.second))
    ):
        half = build("mlp-3x6", channels=3, size=4, n_classes=2)
        half.encoder = encoder
        with torch.no_grad():
            own, other = whole.head.weight.split(h, 1)[:: 1 if k == 0 else -1]
            other.zero_()
            half.head.weight.copy_(own)
            half.head.bias.copy_(whole.head.bias)
        nets.append(half)
    lff = Failure(nets[0], nets[1], y, q=0.7, decay=0.7, scaled=scaled)
    for seed, ids in enumerate(([0, 1, 2, 3, 4, 5], [6, 7, 0, 1])):
        b = batch(y, ids, seed)
        ours, theirs = learner(b), lff(b)
        torch.testing.assert_close(ours.loss, theirs.loss)
        torch.testing.assert_close(learner.weights(), lff.weights())
        encoders = [*learner.pair.parameters()]
        for one, other in zip(
            torch.autograd.grad(ours.loss, encoders),
            torch.autograd.grad(theirs.loss, encoders),
            strict=True,
        ):
            torch.testing.assert_close(one, other)


# --- who learns from what -----------------------------------------------------------------------


def gradients(loss: torch.Tensor, learner: Swap, group: str) -> list[torch.Tensor]:
    parameters = list(learner.groups()[group])
    found = torch.autograd.grad(
        loss, parameters, allow_unused=True, retain_graph=True, materialize_grads=True
    )
    return list(found)


def test_each_half_learns_from_its_own_terms_alone() -> None:
    """`CE` reaches the debiased encoder and head, `GCE` the biased ones; nothing else does."""
    y = torch.arange(8) % 2
    b = batch(y, list(range(8)))
    learner, without = swap(y), swap(y, lambda_dis=0.0, lambda_swap_b=0.0)
    without.load_state_dict(learner.state_dict())
    torch.manual_seed(5)
    whole = learner(b).loss
    torch.manual_seed(5)
    debiased_only = without(b).loss
    for one, other in zip(
        gradients(whole, learner, "debiased"),
        gradients(debiased_only, without, "debiased"),
        strict=True,
    ):
        assert bool(one.any())
        torch.testing.assert_close(one, other)
    assert not any(bool(g.any()) for g in gradients(debiased_only, without, "biased"))

    torch.manual_seed(5)
    order = torch.randperm(8)
    pixels = learner.net.pixels(b.x)
    own, bias = learner.pair.first(pixels).detach(), learner.pair.second(pixels)
    terms = [
        10 * gce(learner.biased.head(torch.cat([own, bias[at]], 1)), y[at], 0.7).mean()
        for at in (torch.arange(8), order)
    ]
    for one, other in zip(
        gradients(whole, learner, "biased"),
        gradients(terms[0] + terms[1], learner, "biased"),
        strict=True,
    ):
        assert bool(one.any())
        torch.testing.assert_close(one, other)


def test_groups_are_the_halves() -> None:
    learner = swap(torch.tensor([0, 1]))
    groups = {name: list(parameters) for name, parameters in learner.groups().items()}
    assert list(groups) == ["debiased", "biased"]
    counted = [id(p) for parameters in groups.values() for p in parameters]
    assert sorted(counted) == sorted(id(p) for p in learner.parameters())
    assert next(iter(learner.branches().values())) is learner.net


def test_state_is_what_a_checkpoint_needs() -> None:
    state = swap(torch.tensor([0, 1])).state_dict()
    assert "steps" in state
    assert len([k for k in state if k.endswith(("average", "seen"))]) == 4
    assert "y" not in state, "labels belong to the data, not to a checkpoint"


# --- as a method --------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["mlp-3", "conv3", "resnet20"])
def test_both_heads_are_published_and_can_be_saved(arch: str, tmp_path: Path) -> None:
    data, run = small_gratings(), Run(None, 0, Device("cpu"), arch=arch)
    result = shortened(DisEnt(), 1).fit(data, run)
    roles = {"biased": "biased", "debiased": "debiased"}
    assert {k: b.role for k, b in run.branches.items()} == roles
    assert run.branches["debiased"].net is result
    x = data.test.images[:16]
    logits = []
    for name, branch in run.branches.items():
        net = branch.net
        assert isinstance(net, Classifier)
        save_classifier(net, tmp_path / name)
        read = load_classifier(tmp_path / name)
        assert read.spec["arch"] == f"pair:{arch}"
        logits.append(read(x))
        assert torch.equal(logits[-1], net(x))
    assert not torch.equal(*logits)


def test_the_result_looks_at_both_encoders() -> None:
    data, run = small_gratings(), Run(None, 0, Device("cpu"), arch="mlp-3")
    net = shortened(DisEnt(), 1).fit(data, run)
    x = data.test.images[:8]
    assert isinstance(net.encoder, Pair)
    before = net(x)
    for half in (net.encoder.first, net.encoder.second):
        kept = {k: v.clone() for k, v in half.state_dict().items()}
        half.load_state_dict({k: 0 * v for k, v in kept.items()})
        assert not torch.equal(net(x), before)
        half.load_state_dict(kept)
    assert torch.equal(net(x), before)


@pytest.mark.parametrize(
    ("share", "drop_last", "steps"), [(0.5, True, 6), (0.5, False, 8), (0, True, 0), (1, True, 12)]
)
def test_swapping_begins_after_a_share_of_the_plan(share, drop_last, steps, monkeypatch) -> None:
    made = []

    class Kept(Swap):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            made.append(self)

    monkeypatch.setattr("truecue.methods.disent.Swap", Kept)
    plan = Plan(epochs=4, batch_size=80, drop_last=drop_last)
    run = Run(None, 0, Device("cpu"), arch="mlp-3")
    DisEnt(plan=plan, swap_from=share).fit(small_gratings(), run)  # 256 = 3 * 80 + 16
    assert made[0].swap_at == steps
    assert int(made[0].steps) == run.stages["fit"]["steps"] == (12 if drop_last else 16)


def test_settings_reach_the_learner() -> None:
    run = Unfitted()
    weights = {"lambda_dis": 2.0, "lambda_swap_b": 3.0, "lambda_swap": 5.0}
    DisEnt(**weights, q=0.3, decay=0.6, scaled=True).fit(small_gratings(), run)
    found = run.asked["fit"].learner
    assert (found.lambda_dis, found.lambda_swap_b) == (0.3 * 2, 0.3 * 3)
    assert (found.lambda_swap, found.q) == (5, 0.3)
    assert (found.biased_loss.decay, found.debiased_loss.decay) == (0.6, 0.6)


def test_cut_off_before_and_after_swapping_begins_it_goes_on_exactly(tmp_path: Path) -> None:
    """The battery's eight steps: swapping begins in the middle of them."""
    check_continuation(DisEnt(plan=Plan(batch_size=64), swap_from=0.5), tmp_path)


def test_labels_that_are_used() -> None:
    assert DisEnt().labels_used() == {"training": "class labels only", "choosing": "none"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"q": 0}, "q must"), ({"decay": 1}, "decay"), ({"swap_from": 1.5}, "swap_from"),
     ({"lambda_swap": -1}, "lambda_swap")],
)  # fmt: skip
def test_settings_out_of_range(settings, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DisEnt(**settings)
