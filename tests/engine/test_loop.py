from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_parts import Toy, assert_same, cpu, images, seeded, splits, stage

from truecue.engine import checkpoint, loop
from truecue.engine.average import EVERY, WARM
from truecue.engine.judge import Judge, Monitor
from truecue.engine.log import Log
from truecue.engine.plan import SGD, Adam, Patience, Plan
from truecue.engine.run import Run
from truecue.errors import Diverged, StorageError


def trained(plan: Plan, *, make: Callable[[], Toy] = Toy, **more) -> Toy:
    learner = seeded(make)
    loop.train(learner, stage(plan, **more))
    return learner


# logs and divergence


def nan_at(call: int):
    return lambda calls, loss: loss * float("nan") if calls == call else loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_stage_step_and_term(value: float) -> None:
    learner = seeded(lambda: Toy(spoil=lambda calls, loss: loss * value if calls == 5 else loss))
    with pytest.raises(Diverged) as error:
        loop.train(learner, stage(Plan(epochs=3, batch_size=16), name="pair"))
    assert "loss not finite in stage 'pair' by step 6" in str(error.value)
    assert f"(loss {value}, error 0." in str(error.value)


def test_a_logged_term_that_is_no_number_is_named() -> None:
    class Terms(Toy):
        def forward(self, batch):
            out = super().forward(batch)
            return out._replace(logs={"kl": torch.tensor(float("nan")), **out.logs})

    with pytest.raises(Diverged, match=r"^kl not finite in stage 'fit' by step 3 \(loss 0|1"):
        trained(Plan(epochs=1, batch_size=16), make=Terms)


def test_divergence_leaves_the_checkpoint_from_before(tmp_path: Path) -> None:
    learner = seeded(lambda: Toy(spoil=nan_at(4)))
    with pytest.raises(Diverged):
        loop.train(learner, stage(Plan(epochs=3, batch_size=16), folder=tmp_path, seconds=0.0))
    kept = checkpoint.load(tmp_path / "fit.ckpt", cpu())
    assert kept["step"] == 4
    assert all(bool(v.isfinite().all()) for v in kept["learner"].values() if v.is_floating_point())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    """A gradient overflows while its loss is finite: the step after that is never saved."""

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("inf")

    spoil = lambda calls, loss: Overflow.apply(loss) if calls == 4 else loss  # noqa: E731
    learner = seeded(lambda: Toy(spoil=spoil))
    with pytest.raises(Diverged, match="weights not finite in stage 'fit' after step 5"):
        loop.train(learner, stage(Plan(epochs=3, batch_size=16), folder=tmp_path, seconds=0.0))
    assert checkpoint.load(tmp_path / "fit.ckpt", cpu())["step"] == 4


def test_a_term_that_is_no_number_is_not_saved_past(tmp_path: Path) -> None:
    """The weights are still sound, and the run would go on from a state that stops it again."""

    class Terms(Toy):
        def forward(self, batch):
            kl = torch.tensor(float("nan") if self.calls == 4 else 0.0)
            return super().forward(batch)._replace(logs={"kl": kl})

    with pytest.raises(Diverged, match="kl not finite in stage 'fit' by step 5"):
        trained(Plan(epochs=3, batch_size=16), make=Terms, folder=tmp_path, seconds=0.0)
    assert checkpoint.load(tmp_path / "fit.ckpt", cpu())["step"] == 4


def test_logs_are_means_over_the_steps_since_the_last_look(tmp_path: Path) -> None:
    class Counting(Toy):
        def forward(self, batch):
            out = super().forward(batch)
            logs = {"k": torch.tensor(float(self.calls))}
            if self.calls % 2 == 0:
                logs["even"] = torch.tensor(float(self.calls), requires_grad=True)
            return out._replace(logs=logs)

    trained(Plan(epochs=2, batch_size=12), make=Counting, folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [(r["stage"], r["step"], r["at"], r["k"], r["even"]) for r in rows]
    assert found == [("fit", 4, 1.0, 2.5, 3.0), ("fit", 8, 2.0, 6.5, 7.0)]


def test_long_epochs_are_looked_at_in_between(tmp_path: Path) -> None:
    trained(Plan(epochs=1, batch_size=2), data=images(240), folder=tmp_path, make=lambda: Toy(240))
    assert [row["step"] for row in Log(tmp_path / "log.jsonl").rows] == [50, 100, 120]


def test_log_is_rewound_when_a_stage_goes_on(tmp_path: Path) -> None:
    plan = Plan(epochs=4, batch_size=24)
    log = Log(tmp_path / "log.jsonl")
    log.add("before", 100, loss=1.0)
    rows = iter(range(100))
    spec = {"monitor": lambda _: [{"seen": next(rows)}], "folder": tmp_path, "log": log}
    calls = []

    def stop(calls_so_far: int, loss):
        calls.append(calls_so_far)
        if len(calls) == 6:  # in the third epoch; the checkpoint is from the first step of it
            raise KeyboardInterrupt
        return loss

    learner = seeded(lambda: Toy(spoil=stop))
    with pytest.raises(KeyboardInterrupt):
        loop.train(learner, stage(plan, seconds=0.0, **spec))
    state = torch.load(tmp_path / "fit.ckpt", weights_only=True)
    assert state["step"] == 5
    state["step"] = 3  # as if the last two checkpoints had not been written
    torch.save(state, tmp_path / "fit.ckpt")
    again = Log(tmp_path / "log.jsonl")
    loop.train(seeded(Toy), stage(plan, **(spec | {"log": again})))
    found = [(r["stage"], r["step"], r.get("seen")) for r in Log(tmp_path / "log.jsonl").rows]
    assert found[0] == ("before", 100, None)
    monitored = [(step, seen) for _, step, seen in found if seen is not None]
    assert monitored == [(2, 0), (4, 2), (6, 3), (8, 4)]  # the one of step 4 was made again
    assert again.rows == Log(tmp_path / "log.jsonl").rows


# choosing weights


def test_best_weights_are_restored() -> None:
    plan = Plan(epochs=4, batch_size=16, select="val_loss")
    values = iter([3.0, 1.0, 2.0, 1.5])
    chosen = trained(plan, watch=lambda: next(values))
    assert_same(chosen, trained(plan.override({"epochs": 2, "select": "last"})))


def test_best_weights_by_the_judge_where_training_makes_it_worse() -> None:
    """Validation labels are the wrong way round, so the first epoch is the best."""
    data = splits()
    assert data.val is not None
    judge = Judge(replace(data, val=replace(data.val, y=1 - data.val.y)), cpu())
    plan = Plan(epochs=8, batch_size=16, optimizer=Adam(lr=1e-2), select="val_loss")

    def run_of(plan: Plan) -> tuple[Toy, Run]:
        run = Run(None, 0, cpu(), judge=judge)
        return run.train("fit", Toy, data.train, plan), run

    best, run = run_of(plan)
    watched = [row["watched"] for row in run.log.rows if "watched" in row]
    first = 1 + watched.index(min(watched))
    assert (run.stages["fit"]["best_epoch"], run.stages["fit"]["epochs"]) == (first, 8)
    assert first < 8, "training must make it worse, else this tests nothing"
    assert_same(best, run_of(plan.override({"epochs": first, "select": "last"}))[0])
    last, _ = run_of(plan.override({"select": "last"}))
    assert judge.value("val_loss", best.net) == pytest.approx(min(watched), abs=1e-5)
    assert judge.value("val_loss", last.net) > 1.1 * min(watched)


def test_training_stops_early_and_says_so() -> None:
    values = iter([3.0, 1.0, 2.0, 1.5, 9.0, 9.0])
    learner = seeded(Toy)
    plan = Plan(epochs=6, batch_size=16, select="val_loss", stop=Patience(epochs=2))
    figures = loop.train(learner, stage(plan, watch=lambda: next(values)))
    assert (figures["epochs"], figures["steps"], figures["best_epoch"]) == (4, 12, 2)


def test_a_value_to_choose_by_that_is_no_number_stops_the_run() -> None:
    values = iter([1.0, float("nan")])
    with pytest.raises(Diverged, match=r"\(val_loss\) is not a number .*after epoch 2"):
        trained(Plan(epochs=3, batch_size=16, select="val_loss"), watch=lambda: next(values))


def test_endless_values_keep_the_first_epoch() -> None:
    plan = Plan(epochs=3, batch_size=16, select="val_loss")
    chosen = trained(plan, watch=lambda: math.inf)
    assert_same(chosen, trained(plan.override({"epochs": 1, "select": "last"})))


def test_best_weights_and_patience_survive_a_cut(tmp_path: Path) -> None:
    plan = Plan(epochs=9, batch_size=16, select="val_loss", stop=Patience(epochs=3))
    story = [3.0, 1.0, 2.0, 1.5, 1.2, 7.0, 7.0, 7.0, 7.0]
    given = iter(story)
    whole = trained(plan, watch=lambda: next(given))
    given = iter(story)

    def cut(calls: int, loss):
        if calls == 11:
            raise KeyboardInterrupt
        return loss

    parts = seeded(lambda: Toy(spoil=cut))
    spec = {"folder": tmp_path, "seconds": 0.0, "watch": lambda: next(given)}
    with pytest.raises(KeyboardInterrupt):
        loop.train(parts, stage(plan, **spec))
    parts = seeded(Toy, 99)
    figures = loop.train(parts, stage(plan, **spec))
    assert figures["best_epoch"] == 2
    assert figures["epochs"] == 5
    assert_same(whole, parts)


# watching from outside changes nothing


def test_monitor_and_checkpoints_do_not_change_training(tmp_path: Path) -> None:
    plan = Plan(epochs=3, batch_size=16, augment=("flip", "crop"))
    data = splits()
    make = lambda: Toy(dropout=0.3, norm=True)  # noqa: E731
    plain = Run(None, 0, cpu()).train("fit", make, data.train, plan)
    judge, monitor = Judge(data, cpu()), Monitor(data, cpu())
    run = Run(tmp_path, 0, cpu(), judge=judge, monitor=monitor, checkpoint_seconds=0.0)
    watched = run.train("fit", make, data.train, plan)
    assert_same(plain, watched)
    rows = [row for row in run.log.rows if "branch" in row]
    assert [(row["epoch"], row["split"]) for row in rows] == [
        (e, s) for e in (1, 2, 3) for s in ("train", "val")
    ]
    assert not watched.training


# averaged weights


def test_averaged_weights_follow_their_formula() -> None:
    plan = Plan(epochs=60, batch_size=12, optimizer=SGD(lr=0.1))
    seen = []

    class Spy(Toy):
        def forward(self, batch):
            seen.append(self.net.linear.weight.detach().clone())
            return super().forward(batch)

    start = seeded(Spy).net.linear.weight.detach().clone()
    averaged = trained(plan.override({"average": 0.9}), make=Spy)
    trace = [*seen[1:], trained(plan).net.linear.weight.detach()]  # weights after each step
    expected = start
    for step in range(EVERY, 240 + 1, EVERY):
        kept = min(0.9, step / (step + WARM)) ** EVERY
        expected = kept * expected + (1 - kept) * trace[step - 1]
    torch.testing.assert_close(averaged.net.linear.weight.detach(), expected)
    assert float((expected - trace[-1]).abs().max()) > 1e-4, "the average must lag behind"


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_average_of_a_few_steps_is_not_what_they_began_with(epochs: int) -> None:
    plan = Plan(epochs=epochs, batch_size=24, optimizer=SGD(lr=0.1))
    start = seeded(Toy).net.linear.weight.detach().clone()
    last, averaged = (
        trained(plan.override({"average": a})).net.linear.weight.detach() for a in (0.0, 0.998)
    )
    assert float((last - start).abs().max()) > 1e-3
    torch.testing.assert_close(averaged, last, rtol=0, atol=0.1 * float((last - start).abs().max()))


def test_averaged_weights_survive_a_cut(tmp_path: Path) -> None:
    plan = Plan(epochs=60, batch_size=12, average=0.9)  # early on, the average forgets at once
    whole = trained(plan, make=lambda: Toy(norm=True), monitor=lambda _: [])

    def cut(calls: int, loss):
        if calls == 203:
            raise KeyboardInterrupt
        return loss

    spec = {"folder": tmp_path, "seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        trained(plan, make=lambda: Toy(norm=True, spoil=cut), **spec)
    assert_same(whole, trained(plan, make=lambda: Toy(norm=True), monitor=lambda _: [], **spec))


# figures


def test_figures_count_what_was_done() -> None:
    figures = loop.train(seeded(Toy), stage(Plan(epochs=2, batch_size=20)))
    assert (figures["epochs"], figures["steps"], figures["best_epoch"]) == (2, 6, 2)
    assert figures["images_per_second"] == pytest.approx(96 / figures["seconds"], rel=0.2)


def test_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    log = Log(tmp_path / "absent" / "log.jsonl")
    with pytest.raises(StorageError, match=r"could not write .*log.jsonl: No such file"):
        log.add("fit", 1, loss=0.5)
