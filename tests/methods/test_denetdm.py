"""Gradients and states of DeNetDM's two stages, on random 32-pixel images."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import Tensor

from truecue.data.loader import Batch
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.plan import SGD, Plan
from truecue.engine.run import Run
from truecue.losses.classification import ce, distil
from truecue.methods.denetdm import DeNetDM, Experts, Student, warn_if_not_parted
from truecue.nets.build import build
from truecue.nets.classifier import Classifier
from truecue.testing import small_gratings

CLASSES = 4


@cache
def cpu() -> Device:
    return Device("cpu")


def net(arch: str, seed: int) -> Classifier:
    torch.manual_seed(seed)
    return build(arch, channels=3, size=32, n_classes=CLASSES, n_features=64)


def images(n: int = 24) -> ImageSet:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, 32, 32), generator=rng).to(torch.uint8)
    return ImageSet(x, torch.arange(n) % CLASSES, tuple("abcd"))


def batch(n: int = 8) -> Batch:
    data = images()
    return Batch((data.images[:n],), data.y[:n], torch.arange(n))


@pytest.fixture
def experts() -> Experts:
    return Experts(net("resnet20", 0), net("cnn3", 1))


def student(experts: Experts, cached: dict[str, Tensor] | None = None, **weights) -> Student:
    target = net("conv3", 2)
    target.head.load_state_dict(experts.deep.head.state_dict())
    values = {"poe": 1.0, "dist": 1.0, "tau": 2.0} | weights
    return Student(target, experts.deep, experts.shallow, cached=cached, **values)


def has_gradient(module: torch.nn.Module) -> set[bool]:
    return {p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters()}


# stage 1


def test_both_branches_and_the_head_learn_from_the_joint_prediction(experts: Experts) -> None:
    experts.train()
    experts(batch()).loss.backward()
    for part in (experts.deep.encoder, experts.shallow.encoder, experts.deep.head):
        assert True in has_gradient(part)
        assert all(p.grad is not None for p in part.parameters())


def test_the_head_is_shared(experts: Experts) -> None:
    assert experts.shallow.head is experts.deep.head
    names = [name for name, _ in experts.named_parameters() if "head" in name]
    assert len(names) == 2, "one weight and one bias, counted once"
    assert len({id(p) for p in experts.groups()["all"]}) == len(list(experts.parameters()))


def test_joint_logits_are_those_of_both_branches_less_one_bias(experts: Experts) -> None:
    experts.eval()
    x = batch().x
    both = experts.deep(x) + experts.shallow(x) - experts.deep.head.bias
    torch.testing.assert_close(experts.joint(x), both, rtol=1e-4, atol=1e-5)
    loss = ce(experts.joint(x), batch().y).mean()
    torch.testing.assert_close(experts(batch()).loss, loss)


def test_a_branch_that_is_left_out_gets_no_gradient(experts: Experts) -> None:
    ce(experts.branches()["shallow"](batch().x), batch().y).mean().backward()
    assert all(p.grad is None for p in experts.deep.encoder.parameters())
    assert True in has_gradient(experts.shallow.encoder)


def test_the_stages_result_is_judged_by_the_shallow_branch_first(experts: Experts) -> None:
    assert next(iter(experts.branches())) == "shallow"
    assert list(experts.branches()) == ["shallow", "deep", "joint"]


# stage 2


@pytest.mark.parametrize(("poe", "dist"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_target_learns_from_both_terms_and_the_branches_from_neither(
    experts: Experts, poe: float, dist: float
) -> None:
    learner = student(experts, poe=poe, dist=dist).train()
    learner(batch()).loss.backward()
    assert True in has_gradient(learner.net.encoder)
    assert has_gradient(learner.net.head) == {True}
    assert all(p.grad is None for p in learner.deep.parameters())
    assert all(p.grad is None for p in learner.shallow.parameters())


def test_the_loss_is_what_the_paper_says(experts: Experts) -> None:
    learner = student(experts, poe=0.7, dist=0.3, tau=3.0).eval()
    x, y, _ids, _ = batch()[0][0], *batch()[1:]
    learned, deep = learner.net.features(x), learner.deep.features(x)
    poe = ce(learner.net.head(learned + deep), y).mean()
    dist = distil(learner.net(x), learner.shallow(x), 3.0).mean()
    step = learner(batch())
    torch.testing.assert_close(step.loss, 0.7 * poe + 0.3 * dist)
    torch.testing.assert_close(step.logs["poe"], poe.detach())
    torch.testing.assert_close(step.logs["distillation"], dist.detach())
    assert not step.logs["poe"].requires_grad


def test_without_distillation_it_is_a_product_of_experts_alone(experts: Experts) -> None:
    step = student(experts, dist=0.0).eval()(batch())
    torch.testing.assert_close(step.loss.detach(), step.logs["poe"])


def test_distillation_alone_is_bounded_by_the_teachers_entropy(experts: Experts) -> None:
    tau = 2.0
    learner = student(experts, poe=0.0, tau=tau).eval()
    shallow = learner.shallow(batch().x) / tau
    least = tau**2 * -(shallow.softmax(1) * shallow.log_softmax(1)).sum(1).mean().item()
    assert learner(batch()).loss.item() > least
    learner.net = deepcopy(learner.shallow)  # the perfect imitator reaches the bound
    assert learner(batch()).loss.item() == pytest.approx(least, rel=1e-5)


def method(**more) -> DeNetDM:
    plan = Plan(epochs=2, batch_size=8, optimizer=SGD(lr=0.01))
    settings = {"deep": "resnet20", "shallow": "cnn3", "target": "conv3"}
    return DeNetDM(**{"plan": plan, "experts": plan} | settings | more)


def test_stage_2_starts_from_the_head_of_stage_1_and_leaves_the_branches_alone() -> None:
    data = images()
    run = Run(None, 0, cpu())
    seen: dict[str, dict[str, Tensor]] = {}
    train = run.train

    def spy(stage, make, *rest, **more):
        if stage != "student":
            return train(stage, make, *rest, **more)

        def made():
            learner = make()
            for name in ("deep", "shallow", "net"):
                state = getattr(learner, name).state_dict()
                seen[name] = {k: v.clone() for k, v in state.items()}
            return learner

        return train(stage, made, *rest, **more)

    run.train = spy  # type: ignore[method-assign]
    # with augmentation the branches are applied in every step, not once before
    net = method(plan=method().plan.override({"augment": ["flip"]})).fit(
        Splits(data, None, data), run
    )
    for name, key in (("deep", "deep"), ("shallow", "shallow")):
        after = run.branches[name].net.state_dict()
        assert {k for k in after if "running" in k or "num_batches" in k}
        for k, tensor in after.items():
            assert torch.equal(tensor, seen[key][k]), f"{name}.{k} moved in stage 2"
    for part in ("head.weight", "head.bias"):
        assert torch.equal(seen["net"][part], seen["deep"][part])
        assert not torch.equal(seen["net"][part], net.state_dict()[part])
    assert (run.branches["deep"].role, run.branches["shallow"].role) == ("biased", "debiased")


def test_cached_outputs_of_the_branches_give_the_same_training(experts: Experts) -> None:
    data, plan = images(), Plan(epochs=3, batch_size=8, optimizer=SGD(lr=0.01))
    experts.eval()
    run = Run(None, 0, cpu())
    cached = {
        "features": run.apply(experts.deep.features, data),
        "logits": run.apply(experts.shallow, data),
    }
    results = []
    for held in (cached, None):
        learner = Run(None, 0, cpu()).train(
            "student", lambda h=held: student(experts, h), data, plan
        )
        results.append(learner.net.state_dict())
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=1e-3, atol=1e-4)


def test_augmentation_turns_the_cache_off() -> None:
    data, names = images(), []
    run = Run(None, 0, cpu())
    once = run.once
    run.once = lambda name, make: names.append(name) or once(name, make)  # type: ignore[method-assign]
    splits = Splits(data, None, data)
    plan = Plan(epochs=1, batch_size=8)
    DeNetDM(plan=plan, experts=plan, shallow="conv3").fit(splits, run)
    assert names == ["frozen"]
    run = Run(None, 0, cpu())
    run.once = lambda name, make: names.append(name) or once(name, make)  # type: ignore[method-assign]
    augmented = plan.override({"augment": ["flip"]})
    DeNetDM(plan=augmented, experts=plan, shallow="conv3").fit(splits, run)
    assert names == ["frozen"]


def test_architecture_of_the_target_is_the_settings_then_the_runs_then_the_sizes() -> None:
    data = small_gratings()
    plan = Plan(epochs=1, batch_size=128)
    archs = []
    for target, arch in (("mlp-3", "mlp-4"), (None, "mlp-4"), (None, None)):
        run = Run(None, 0, cpu(), arch=arch)
        made = DeNetDM(plan=plan, experts=plan, target=target).fit(data, run)
        archs.append(made.spec["arch"])
        assert run.branches["deep"].net.spec["arch"] == "mlp-5"
        assert run.branches["shallow"].net.spec["arch"] == "mlp-3"
    assert archs == ["mlp-3", "mlp-4", "mlp-5"]


# the warning


class Says(torch.nn.Module):
    """Stands for a branch whose predictions are given: images hold their own numbers."""

    def __init__(self, predictions: list[int]):
        super().__init__()
        self.table = torch.nn.functional.one_hot(torch.tensor(predictions), CLASSES).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.table[x[:, 0, 0, 0].long()]


def warnings_of(deep: list[int], shallow: list[int], y: list[int]) -> str:
    x = torch.arange(len(y), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    train = ImageSet(x.contiguous(), torch.tensor(y), tuple("abcd"))
    run = Run(None, 0, cpu())
    pair = Experts.__new__(Experts)
    torch.nn.Module.__init__(pair)
    pair.deep, pair.shallow = Says(deep), Says(shallow)  # type: ignore[assignment]
    warn_if_not_parted(pair, train, run)
    return " ".join(run.warnings)


Y = [i % CLASSES for i in range(40)]
NEXT = [(v + 1) % CLASSES for v in Y]


def right_but(*rows: int) -> list[int]:
    """Right on all images but those of some rows of four, one of each class."""
    return [NEXT[i] if i // CLASSES in rows else Y[i] for i in range(len(Y))]


def without(label: int, predictions: list[int]) -> list[int]:
    """A class that is never recognised."""
    return [NEXT[i] if Y[i] == label else v for i, v in enumerate(predictions)]


@pytest.mark.parametrize(
    ("deep", "shallow", "words"),
    [
        (right_but(3), right_but(3), "learned the same thing"),
        (right_but(9), right_but(0, 1, 2, 3), ""),  # the deep one goes by what is mostly right
        (right_but(0, 1, 2, 3), right_but(9), "swapping the depths"),
        (right_but(0, 1), right_but(2, 3), r"no clear separation"),
        # a class that the deep branch has lost does not turn the sign
        (without(2, right_but(9)), right_but(0, 1, 2, 3), "lost 1 of 4 classes (c)"),
        (right_but(0, 1, 2, 3), without(0, without(1, right_but(9))), "swapping the depths"),
        (NEXT, Y, "no clear separation"),  # the deep branch has lost everything
    ],
)
def test_warning_by_hand(deep, shallow, words: str) -> None:
    said = warnings_of(deep, shallow, Y)
    assert words in said
    assert bool(said) == bool(words)
    assert ("swapping" in said) == (words == "swapping the depths")
