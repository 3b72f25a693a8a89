"""Groups, kinds and turns against optimizers that are stepped by hand."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from engine_parts import Two, assert_same, cpu, images, seeded, stage

from truecue.data.loader import Loader
from truecue.engine import loop
from truecue.engine.learner import Learner
from truecue.engine.plan import SGD, Adam, AdamW, Plan
from truecue.errors import ConfigError


def batches(plan: Plan):
    source = Loader(images(), batch_size=plan.batch_size, key=(0, "fit"))
    return [source.batch(k) for k in range(plan.epochs * source.per_epoch)]


def test_one_optimizer_with_two_groups_equals_two_optimizers() -> None:
    slow, fast = Adam(lr=1e-3, weight_decay=0.1), Adam(lr=1e-2, betas=(0.5, 0.9))
    plan = Plan(epochs=4, batch_size=16, optimizer=slow, optimizer_of={"right": fast})
    learner = seeded(Two)
    by_hand = deepcopy(learner).train()
    loop.train(learner, stage(plan))
    two = [
        torch.optim.Adam(by_hand.left.parameters(), lr=1e-3, weight_decay=0.1, fused=True),
        torch.optim.Adam(by_hand.right.parameters(), lr=1e-2, betas=(0.5, 0.9), fused=True),
    ]
    for batch in batches(plan):
        for optimizer in two:
            optimizer.zero_grad()
        by_hand(batch).loss.backward()
        for optimizer in two:
            optimizer.step()
    assert_same(learner, by_hand)


def test_groups_may_have_optimizers_of_different_kinds() -> None:
    plan = Plan(
        epochs=3,
        batch_size=16,
        optimizer=SGD(lr=0.05, momentum=0.8, nesterov=True),
        optimizer_of={"right": AdamW(lr=1e-2, weight_decay=0.2)},
    )
    learner = seeded(Two)
    by_hand = deepcopy(learner).train()
    loop.train(learner, stage(plan))
    two = [
        torch.optim.SGD(by_hand.left.parameters(), lr=0.05, momentum=0.8, nesterov=True),
        torch.optim.AdamW(by_hand.right.parameters(), lr=1e-2, weight_decay=0.2),
    ]
    for batch in batches(plan):
        for optimizer in two:
            optimizer.zero_grad()
        by_hand(batch).loss.backward()
        for optimizer in two:
            optimizer.step()
    for name, tensor in learner.state_dict().items():  # not fused, so not to the last bit
        torch.testing.assert_close(tensor, by_hand.state_dict()[name], rtol=1e-5, atol=1e-6)


class Game(Two):
    """Two nets of which each works against the other."""

    def forward(self, batch):
        out = super().forward(batch)
        pull = (self.left(batch.x) * self.right(batch.x)).mean()
        return out._replace(loss=out.loss + (pull if self.turn == "left" else -pull))


def test_turns_equal_optimizers_stepped_in_turn() -> None:
    plan = Plan(epochs=4, batch_size=16, optimizer=Adam(lr=1e-2, weight_decay=0.1)).override(
        {"turns": ["left", "right", "right"]}
    )
    learner = seeded(Game)
    by_hand = deepcopy(learner).train()
    loop.train(learner, stage(plan))
    parts = {"left": by_hand.left, "right": by_hand.right}
    two = {
        name: torch.optim.Adam(part.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
        for name, part in parts.items()
    }
    for k, batch in enumerate(batches(plan)):
        by_hand.turn = ("left", "right", "right")[k % 3]
        by_hand.zero_grad()
        by_hand(batch).loss.backward()
        two[by_hand.turn].step()
    assert_same(learner, by_hand)
    assert all(p.requires_grad for p in learner.parameters())


def test_turns_survive_looks_and_checkpoints_in_between(tmp_path) -> None:
    plan = Plan(epochs=3, batch_size=16, turns=("left", "right"))
    plain, watched = seeded(Game), seeded(Game)
    loop.train(plain, stage(plan))
    loop.train(watched, stage(plan, folder=tmp_path, seconds=0.0, monitor=lambda _: []))
    assert_same(plain, watched)


@pytest.mark.parametrize(
    "settings", [{"turns": ("left", "middle")}, {"optimizer_of": {"middle": Adam()}}]
)
def test_unknown_groups_are_refused(settings) -> None:
    with pytest.raises(ConfigError, match="group 'middle'; this method has: left, right"):
        loop.train(Two(), stage(Plan(**settings)))


def test_a_parameter_in_two_groups_is_refused() -> None:
    class Both(Two):
        def groups(self):
            return {"left": self.left.parameters(), "all": self.parameters()}

    with pytest.raises(ValueError, match="in two groups"):
        loop.train(Both(), stage(Plan()))


def test_optimizers_are_one_for_each_kind() -> None:
    groups = {name: list(ps) for name, ps in Two().groups().items()} | {"free": []}
    groups["free"] = [torch.nn.Parameter(torch.zeros(2))]
    plan = Plan(optimizer=Adam(lr=0.5), optimizer_of={"right": SGD(lr=0.1), "free": Adam(lr=0.2)})
    made = loop.make_optimizers(groups, plan, cpu().device)
    assert [type(o).__name__ for o in made] == ["Adam", "SGD"]
    assert [[(g["name"], g["lr"]) for g in o.param_groups] for o in made] == [
        [("left", 0.5), ("free", 0.2)],
        [("right", 0.1)],
    ]


def test_learners_are_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Learner()  # type: ignore[abstract]
