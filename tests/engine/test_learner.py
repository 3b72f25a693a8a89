from __future__ import annotations

import pytest
import torch
from engine_parts import Net, Toy, Two, images, seeded, stage
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from truecue.data.loader import Batch
from truecue.engine import loop
from truecue.engine.learner import Learner, SampleState, Step, freeze
from truecue.engine.plan import SGD, Plan
from truecue.losses.classification import ce


@pytest.mark.parametrize(
    ("rows", "tables"),
    [
        (  # losses of the biased network
            [[0.2, 2, 0.5], [0.1, 3, 0.5], [1.5, 0.3]],
            [[0.2, 0, 2, 0.5, 0], [0.17, 0, 2.3, 0.5, 0], [0.17, 1.5, 2.3, 0.5, 0.3]],
        ),
        (  # and of the debiased one
            [[0.4, 1, 1], [0.5, 0.8, 0.2], [0.6, 0.9]],
            [[0.4, 0, 1, 1, 0], [0.43, 0, 0.94, 0.76, 0], [0.43, 0.6, 0.94, 0.76, 0.9]],
        ),
    ],
)
def test_running_losses_of_learning_from_failure(rows, tables) -> None:
    state = SampleState(5, 0.7)
    for ids, row, table in zip([[0, 2, 3], [0, 2, 3], [1, 4]], rows, tables, strict=True):
        found = state.update(torch.tensor(ids), torch.tensor(row))
        torch.testing.assert_close(state.average, torch.tensor(table), rtol=0, atol=1e-6)
        torch.testing.assert_close(found, torch.tensor([table[i] for i in ids]), rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    decay=st.sampled_from([0.0, 0.5, 0.7, 0.99]),
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.floats(-5, 5)), min_size=1, max_size=8),
        max_size=6,
    ),
)
def test_running_average_like_a_dictionary(decay, batches) -> None:
    state, table = SampleState(10, decay), dict[int, float]()
    for batch in batches:
        ids, values = zip(*batch, strict=True)
        state.update(torch.tensor(ids), torch.tensor(values))
        for i in set(ids):
            same = [v for j, v in batch if j == i]
            new = sum(same) / len(same)
            table[i] = decay * table[i] + (1 - decay) * new if i in table else new
    expected = torch.tensor([table.get(i, 0.0) for i in range(10)])
    torch.testing.assert_close(state.average, expected, rtol=1e-5, atol=1e-5)
    assert state.seen.tolist() == [i in table for i in range(10)]


def test_a_sample_that_comes_twice_counts_once_with_the_mean() -> None:
    state = SampleState(3, 0.5)
    out = state.update(torch.tensor([1, 1, 2]), torch.tensor([2.0, 4.0, 1.0]))
    assert out.tolist() == [3.0, 3.0, 1.0]
    out = state.update(torch.tensor([1, 0, 1]), torch.tensor([1.0, 0.0, 1.0]))
    assert out.tolist() == [2.0, 0.0, 2.0]


def test_a_first_value_of_zero_is_a_value() -> None:
    state = SampleState(1, 0.9)
    state.update(torch.tensor([0]), torch.tensor([0.0]))
    state.update(torch.tensor([0]), torch.tensor([1.0]))
    assert float(state.average[0]) == pytest.approx(0.1)


def test_running_averages_carry_no_gradient_and_are_saved() -> None:
    state = SampleState(2, 0.5)
    value = torch.ones(2, requires_grad=True)
    assert not state.update(torch.tensor([0, 1]), value * 2).requires_grad
    assert set(state.state_dict()) == {"average", "seen"}
    assert not list(state.parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay must lie in"):
        SampleState(3, decay)


class Pupil(Learner):
    """A net that is trained beside a frozen one, and one of which only a part is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.teacher = Net(norm=True, dropout=0.5), Net(norm=True, dropout=0.5)
        self.tuned = nn.ModuleDict({"body": Net(norm=True), "head": nn.Linear(2, 2)})
        freeze(self.teacher, self.tuned["body"])
        self.modes: set[tuple[bool, ...]] = set()

    def forward(self, batch: Batch) -> Step:
        parts = (self.net, self.teacher, self.teacher.norm, self.tuned["body"], self.tuned["head"])
        self.modes.add(tuple(part.training for part in parts))
        with torch.no_grad():
            teacher = self.teacher(batch.x)
            features = self.tuned["body"](batch.x)
        loss = (self.net(batch.x) - teacher).square().mean()
        return Step(loss + ce(self.tuned["head"](features), batch.y).mean(), {})


def test_frozen_networks_stay_in_evaluation_mode_and_keep_their_buffers() -> None:
    learner = seeded(Pupil)
    frozen = nn.ModuleList([learner.teacher, learner.tuned["body"]])
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    rest = {k: v.clone() for k, v in learner.net.state_dict().items()}
    plan = Plan(epochs=3, batch_size=16, optimizer=SGD(lr=0.1))
    loop.train(
        learner, stage(plan, monitor=lambda _: [])
    )  # the monitor makes the loop change modes
    assert learner.modes == {(True, False, False, False, True)}
    for name, tensor in frozen.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    moved = [k for k, v in learner.net.state_dict().items() if not torch.equal(v, rest[k])]
    assert {"linear.weight", "norm.running_mean", "norm.num_batches_tracked"} <= set(moved)


def test_default_group_holds_what_is_trainable() -> None:
    learner = seeded(Pupil)
    found = {id(p) for p in learner.groups()["all"]}
    wanted = [*learner.net.parameters(), *learner.tuned["head"].parameters()]
    assert found == {id(p) for p in wanted}


def test_branches_default_to_the_net() -> None:
    toy = Toy()
    assert toy.branches() == {"net": toy.net}
    assert list(Two().branches()) == ["left", "right"]
    assert Pupil().branches().keys() == {"net"}


def test_a_learner_without_a_net_has_no_branches() -> None:
    class Bare(Learner):
        def forward(self, batch: Batch) -> Step:
            raise NotImplementedError

    assert Bare().branches() == {}
    assert images().shape == (3, 4, 4)
