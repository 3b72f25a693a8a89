"""Two processes on one machine: the same tables, equal weights, shared evaluation."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from engine_parts import Toy, Two, cpu, images, seeded, stage
from killing import Child
from torch import nn

from truecue import api
from truecue.data.loader import Batch, Loader
from truecue.engine import loop
from truecue.engine.device import Device
from truecue.engine.evaluate import apply, count
from truecue.engine.learner import SampleState
from truecue.engine.plan import SGD, Adam, Plan
from truecue.engine.run import Run
from truecue.errors import ConfigError, DataError, Diverged, StorageError
from truecue.methods import LC, DeFund, DeNetDM, DisEnt, SiH, SupInfoNCE
from truecue.methods.erm import ERM
from truecue.methods.lowrank import LowRank, SelfSupervised
from truecue.methods.supinfonce import Contrasting
from truecue.nets.build import build
from truecue.nets.classifier import load_classifier
from truecue.testing import small_gratings

WORLD = 2
PLAN = Plan(epochs=2, batch_size=16, optimizer=SGD(lr=0.1))
DEFUND = DeFund(strengths=(2.0,)).override(
    {f"{name}.epochs": 2 for name in ("plan", "pretrain", "probe")}
    | {"pretrain.batch_size": 50, "pretrain.augment": ["flip"]}
)


def in_two(work: Callable[[Device], Any], folder: Path) -> list[Any]:
    """What a function returns in each of two processes, started as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def one(rank: int) -> None:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(WORLD),
            "LOCAL_WORLD_SIZE": str(WORLD),
        }
        device = Device("cpu", devices=WORLD)
        assert (device.rank, device.world, device.first) == (rank, WORLD, rank == 0)
        torch.save(work(device), folder / f"result-{rank}.pt")
        dist.destroy_process_group()

    children = [Child(lambda rank=rank: one(rank)) for rank in range(WORLD)]
    assert [child.wait() for child in children] == [0, 0]
    return [torch.load(folder / f"result-{rank}.pt") for rank in range(WORLD)]


def bits(states: list[dict[str, torch.Tensor]]) -> bool:
    one, other = states
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def shared(plan: Plan, data, device: Device, **more) -> loop.Stage:
    source = Loader(
        data, batch_size=plan.batch_size, key=(0, "fit"), rank=device.rank, world=device.world
    )
    return stage(plan, data, device=device, source=source, **more)


def test_values_kept_for_each_sample_are_those_of_one_process(tmp_path: Path) -> None:
    def work(device: Device):
        learner = seeded(Toy)
        loop.train(learner, shared(PLAN, images(), device))
        return learner.state_dict()

    states = in_two(work, tmp_path)
    assert bits(states)
    alone = seeded(Toy)
    loop.train(alone, stage(PLAN))
    assert bool(alone.losses.seen.all())
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(states[0][name], tensor, rtol=1e-4, atol=1e-5)


def test_a_sample_that_both_processes_hold_counts_once(tmp_path: Path) -> None:
    def work(device: Device):
        state = SampleState(4, 0.5)
        mine = ([0, 1], [1.0, 2.0]) if device.first else ([1, 2, 3], [4.0, 5.0, 6.0])
        out = state.update(torch.tensor(mine[0]), torch.tensor(mine[1]))
        return {"out": out, "table": state.average}

    first, second = in_two(work, tmp_path)
    assert first["table"].tolist() == second["table"].tolist() == [1.0, 3.0, 5.0, 6.0]
    assert (first["out"].tolist(), second["out"].tolist()) == ([1.0, 3.0], [3.0, 5.0, 6.0])


SMALL_SIH = SiH().override({"plan.epochs": 2, "plan.batch_size": 16})
SMALL_PAIRS = SupInfoNCE().override({"plan.epochs": 2, "plan.batch_size": 50})


@pytest.mark.parametrize(
    "method",
    [
        ERM(plan=Plan(epochs=2, batch_size=50, average=0.9)),  # batch statistics; uneven last batch
        pytest.param(DeNetDM(plan=PLAN, experts=PLAN), marks=pytest.mark.slow),
        pytest.param(DisEnt(plan=PLAN, swap_from=0.5), marks=pytest.mark.slow),
        pytest.param(LC(plan=PLAN), marks=pytest.mark.slow),
        pytest.param(
            SiH().override({"plan.epochs": 2, "plan.batch_size": 16}), marks=pytest.mark.slow
        ),
        pytest.param(
            SupInfoNCE().override({"plan.epochs": 2, "plan.batch_size": 50}), marks=pytest.mark.slow
        ),
        pytest.param(DEFUND, marks=pytest.mark.slow),
    ],
    ids=["erm", "denetdm", "disent", "lc", "sih", "supinfonce", "defund"],
)
def test_methods_train_and_are_measured_as_by_one_process(method, tmp_path: Path) -> None:
    data = small_gratings()

    def work(device: Device):
        trained = api.train(method, data, out=tmp_path / "run", baseline=False, device=device)
        nets = {"net": trained.net, **trained.others}
        state = {f"{n}.{k}": v for n, net in nets.items() for k, v in net.state_dict().items()}
        return {"state": state, "report": trained.report}

    first, second = in_two(work, tmp_path)
    assert bits([first["state"], second["state"]])
    name = type(method).__name__.lower()
    found = first["report"]["models"][name]
    assert found["test"] == second["report"]["models"][name]["test"]
    net = load_classifier(tmp_path / "run")
    for split in ("val", "test"):
        part = data.parts()[split]
        counts = count(apply(net, part, cpu()).argmax(1), part, data.bias)
        assert found[split]["cells"]["hits"] == counts.hits.tolist()
        assert found[split]["cells"]["total"] == counts.total.tolist()
    with pytest.raises(DataError, match="written by 2 processes, and this run has 1"):
        api.train(method, data, out=tmp_path / "run", baseline=False, device=cpu())


@pytest.mark.parametrize(
    "make",
    [
        lambda net: Contrasting(net, nn.Identity(), SupInfoNCE(), bias="tint", guessed=None),
        lambda net: SelfSupervised(net, "simclr", strength=2.0, tau=0.3, expander=8),
        lambda net: SelfSupervised(net, "vicreg", strength=0.5, tau=0.3, expander=8),
        lambda net: LowRank(net, 3.0),
    ],
    ids=["contrasting", "simclr", "vicreg", "low rank"],
)
def test_losses_of_a_batch_see_the_images_of_both_processes(make, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (2, 20, 3, 4, 4), generator=rng).to(torch.uint8)
    y, tint = torch.arange(20) % 2, torch.arange(20) % 3 % 2

    def gradients(device: Device):
        learner = seeded(lambda: make(build("mlp-3", channels=3, size=4, n_classes=2)))
        for norm in [m for m in learner.modules() if isinstance(m, nn.BatchNorm1d)]:
            norm.eval()  # each process has batch statistics of its own
        mine = torch.arange(device.rank, 20, device.world)
        part = Batch(tuple(views[:, mine]), y[mine], mine, {"tint": tint[mine]})
        call = device.wrap(learner, turns=False)  # it averages only while it is kept
        device.backward(call(part).loss)
        return {k: p.grad for k, p in learner.named_parameters() if p.grad is not None}

    alone = gradients(cpu())
    first, second = in_two(gradients, tmp_path)
    assert bits([first, second])
    assert len(alone) > 4
    torch.testing.assert_close(first, alone, rtol=1e-4, atol=1e-5)


def test_outputs_come_in_the_order_of_the_images(tmp_path: Path) -> None:
    def work(device: Device):
        def first_pixel(x):
            return x[:, 0, 0, 0].float()

        return [apply(first_pixel, images(n), device) for n in (1, 2, 7, 48)]

    for found in in_two(work, tmp_path):
        for n, values in zip((1, 2, 7, 48), found, strict=True):
            assert torch.equal(values, images(n).images[:, 0, 0, 0].float())


def test_cut_off_and_continued_by_as_many_processes(tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    def work(device: Device):
        data, plan = small_gratings(), Plan(epochs=2, batch_size=64, augment=("flip",))

        def make(spoil=None):
            return Toy(256, dropout=0.3, norm=True, spoil=spoil)

        small = data.train.images[:, :, :4, :4].contiguous()
        train = type(data.train)(small, data.train.y, data.train.classes)
        whole = Run(None, 0, device).train("fit", make, train, plan).state_dict()
        for after in (5, 2):  # a checkpoint is written after each epoch of four steps

            def cut(calls: int, loss, after=after):
                if calls == after:
                    raise Cut
                return loss

            run = Run(tmp_path / "run", 0, device, checkpoint_seconds=0.0)
            try:
                run.train("fit", lambda cut=cut: make(cut), train, plan)
            except Cut:
                continue
        run = Run(tmp_path / "run", 0, device)
        parts = run.train("fit", make, train, plan)
        return {"whole": whole, "parts": parts.state_dict()}

    for found in in_two(work, tmp_path):
        assert bits([found["whole"], found["parts"]])


def test_turns_leave_both_processes_with_equal_weights(tmp_path: Path) -> None:
    plan = Plan(epochs=2, batch_size=16, optimizer=Adam(lr=1e-2), turns=("left", "right"))

    def work(device: Device):
        learner = seeded(Two)
        loop.train(learner, shared(plan, images(), device))
        return learner.state_dict()

    states = in_two(work, tmp_path)
    assert bits(states)
    alone = seeded(Two)
    loop.train(alone, stage(plan))
    torch.testing.assert_close(states[0]["right.linear.weight"], alone.right.linear.weight.detach(),
                               rtol=1e-3, atol=1e-4)  # fmt: skip


def test_trouble_of_one_process_reaches_all(tmp_path: Path) -> None:
    def work(device: Device):
        said = []

        def spoil(calls: int, loss):  # the last step's loss, so that nothing spreads by itself
            return loss * float("nan") if calls == 5 and not device.first else loss

        try:
            loop.train(seeded(lambda: Toy(spoil=spoil)), shared(PLAN, images(), device))
        except Diverged as error:
            said.append(str(error))

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        os.fsync = full  # of this process, which ends soon
        try:
            spec = shared(PLAN, images(), device, folder=tmp_path, seconds=0.0)
            loop.train(seeded(Toy), spec)
        except StorageError as error:
            said.append(str(error))
        return said

    first, second = in_two(work, tmp_path)
    assert "the loss of another process not finite" in first[0]
    assert second[0].startswith("loss")
    assert "No space left" in first[1]
    assert "first process could not write" in second[1]


def test_a_batch_smaller_than_the_number_of_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch of 3 cannot be shared by 4 processes"):
        Loader(images(), batch_size=3, world=4)


def test_no_process_hangs(tmp_path: Path) -> None:
    """The group that the tests above use is torch's own; a lost partner ends in an error."""

    def work(device: Device):
        dist.monitored_barrier(timeout=timedelta(seconds=20))
        return {"backend": dist.get_backend()}

    assert in_two(work, tmp_path) == [{"backend": "gloo"}] * 2
