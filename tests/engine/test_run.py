from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_parts import Toy, assert_same, cpu, images, seeded, splits

from truecue.config import read_toml
from truecue.engine.judge import Judge
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run, claim
from truecue.errors import ConfigError, DataError, RunMismatch, StorageError
from truecue.nets.build import build, default_arch

PLAN = Plan(epochs=2, batch_size=16)


def run_in(folder: Path | None, **more) -> Run:
    return Run(folder, 0, cpu(), **more)


# stages


def test_a_finished_stage_is_read_back(tmp_path: Path) -> None:
    made = []

    def make() -> Toy:
        made.append(Toy())
        return made[-1]

    first = run_in(tmp_path)
    learner = first.train("fit", make, images(), PLAN)
    after = torch.get_rng_state()
    (done,) = (tmp_path / "stages").iterdir()
    assert done.name == "fit.done"
    second = run_in(tmp_path)
    again = second.train("fit", lambda: Toy(spoil=lambda *_: 1 / 0), images(), PLAN)
    assert_same(learner, again)
    assert second.stages == first.stages
    assert not again.training
    assert torch.equal(torch.get_rng_state(), after), "what follows draws the same numbers"


def test_a_stage_name_is_used_once() -> None:
    run = run_in(None)
    run.train("fit", Toy, images(), PLAN)
    with pytest.raises(ValueError, match="'fit' is already in this run"):
        run.train("fit", Toy, images(), PLAN)


def test_initialisation_depends_on_seed_and_stage_only() -> None:
    def start(seed: int, stage: str, before: int) -> torch.Tensor:
        torch.manual_seed(before)
        made = []
        run = Run(None, seed, cpu())
        run.train(stage, lambda: made.append(w := Toy()) or w, images(), PLAN.override({}))
        torch.manual_seed(0)
        seen = []
        Run(None, seed, cpu()).train(
            stage,
            lambda: seen.append((t := Toy()).net.linear.weight.detach().clone()) or t,
            images(),
            PLAN,
        )
        return seen[0]

    assert torch.equal(start(0, "a", 1), start(0, "a", 2))
    assert not torch.equal(start(0, "a", 1), start(1, "a", 1))
    assert not torch.equal(start(0, "a", 1), start(0, "b", 1))


def test_a_rule_needs_a_judge_or_a_watch() -> None:
    plan = PLAN.override({"select": "val_loss"})
    with pytest.raises(ConfigError, match="no data to choose by val_loss"):
        run_in(None).train("fit", Toy, images(), plan)
    values = iter([1.0, 2.0])
    run = run_in(None)
    run.train("fit", Toy, images(), plan, watch=lambda learner: next(values))
    assert run.stages["fit"]["best_epoch"] == 1


def test_a_rule_that_the_data_cannot_serve_is_refused_before_training() -> None:
    data = splits()
    judge = Judge(type(data)(data.train, None, data.test), cpu())
    run = run_in(None, judge=judge)
    with pytest.raises(ConfigError, match="needs validation images"):
        run.train("fit", lambda: Toy(spoil=lambda *_: 1 / 0), images(), PLAN.override(
            {"select": "val_worst_class"}))  # fmt: skip


def test_sampling_weights_reach_the_loader() -> None:
    seen = []

    class Spy(Toy):
        def forward(self, batch):
            seen.extend(batch.ids.tolist())
            return super().forward(batch)

    weights = torch.zeros(48)
    weights[[3, 5]] = torch.tensor([1.0, 3.0])
    run_in(None).train("fit", Spy, images(), PLAN, weights=weights)
    assert set(seen) == {3, 5}
    assert seen.count(5) > 1.5 * seen.count(3)


# computing once


def test_once_computes_once(tmp_path: Path) -> None:
    calls = []

    def make() -> torch.Tensor:
        calls.append(1)
        return torch.rand(3, requires_grad=True)

    first = run_in(tmp_path).once("scores", make)
    assert not first.requires_grad
    assert torch.equal(run_in(tmp_path).once("scores", make), first)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(4),
        torch.tensor([True, False]),
        torch.tensor(3.5),
        {"value": torch.ones(2)},
        {"a": torch.zeros(1, 2).half(), "b": torch.tensor([], dtype=torch.int64)},
    ],
)
def test_once_gives_back_what_it_got(tmp_path: Path, value) -> None:
    for _ in range(2):
        found = run_in(tmp_path).once("x", lambda: value)
        assert type(found) is type(value)
        pairs = [(found, value)] if isinstance(value, torch.Tensor) else [
            (found[k], value[k]) for k in found.keys() | value.keys()]  # fmt: skip
        for ours, theirs in pairs:
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)


def test_random_numbers_in_once_do_not_depend_on_what_was_read_back(tmp_path: Path) -> None:
    def both(run: Run) -> torch.Tensor:
        run.once("first", lambda: torch.rand(3))
        return run.once("second", lambda: torch.rand(3))

    whole = both(run_in(tmp_path / "whole"))
    run_in(tmp_path / "cut").once("first", lambda: torch.rand(3))
    assert torch.equal(both(run_in(tmp_path / "cut")), whole)
    assert torch.equal(both(run_in(None)), whole)


def test_a_name_is_computed_once_in_a_run(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        run = run_in(folder)
        run.once("x", lambda: torch.ones(1))
        with pytest.raises(ValueError, match="names are used once"):
            run.once("x", lambda: torch.zeros(1))


def test_what_was_computed_and_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    run_in(tmp_path).once("x", lambda: torch.ones(5))
    path = tmp_path / "once" / "x.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match=r"x.safetensors cannot be read .* computed again"):
        run_in(tmp_path).once("x", lambda: torch.ones(5))


def test_once_on_a_full_disk(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            run_in(tmp_path).once("x", lambda: torch.ones(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "once").iterdir()) == []


# networks


def test_new_networks_suit_the_images() -> None:
    run = run_in(None)
    data = images(side=16)
    assert run.new_net(data).spec["arch"] == default_arch(3, 16)
    assert run.new_net(data, "mlp-3").spec["arch"] == "mlp-3"
    assert run_in(None, arch="mlp-4").new_net(data).spec["arch"] == "mlp-4"
    assert run_in(None, arch="mlp-4").new_net(data, "conv3").spec["arch"] == "conv3"
    assert run.new_net(data, n_features=17).n_features == 17
    assert seeded(lambda: run.new_net(data)).n_classes == 2


def test_images_that_are_not_square_need_a_network_that_takes_them() -> None:
    data = images(side=16)
    data = replace(data, images=data.images[:, :, :, :12])
    net = run_in(None, arch="resnet20").new_net(data)
    assert net.training
    assert net(data.images[:2]).shape == (2, 2)
    for run in (run_in(None), run_in(None, start=build("mlp-3", channels=3, size=16, n_classes=2))):
        with pytest.raises(DataError, match=r"'mlp-\d' takes square images; these have 16 x 12"):
            run.new_net(data)


# the folder


ASKED = {
    "data": "digits",
    "seed": 0,
    "arch": None,
    "settings": {"plan": {"epochs": 2, "turns": ()}, "tau": 2.0, "optimizer_of": {}},
}


def changed(**more):
    return {**ASKED, "settings": {**ASKED["settings"], **more}}


def test_a_folder_takes_the_same_run_again(tmp_path: Path) -> None:
    claim(tmp_path, ASKED, {"versions": {"torch": "1"}}, fresh=False)
    text = (tmp_path / "run.toml").read_text()
    claim(tmp_path, ASKED, {"versions": {"torch": "2"}}, fresh=False)
    assert (tmp_path / "run.toml").read_text() == text
    kept = read_toml(tmp_path / "run.toml")
    assert kept["asked"]["settings"]["plan"] == {"epochs": 2, "turns": []}
    assert kept["notes"] == {"versions": {"torch": "1"}}


def test_a_folder_refuses_another_run_and_names_what_differs(tmp_path: Path) -> None:
    claim(tmp_path, ASKED, {}, fresh=False)
    run_in(tmp_path / "erm").once("x", lambda: torch.ones(1))
    other = changed(tau=3.0) | {"seed": 1, "arch": "mlp-3"}
    with pytest.raises(RunMismatch) as error:
        claim(tmp_path, other, {}, fresh=False)
    assert "arch not set (now mlp-3), seed 0 (now 1), settings.tau 2.0 (now 3.0)" in str(
        error.value
    )
    assert "--fresh" in str(error.value)
    fewer = {key: value for key, value in ASKED["settings"].items() if key != "tau"}
    with pytest.raises(RunMismatch, match=r"settings.tau 2.0 \(now not set\)"):
        claim(tmp_path, ASKED | {"settings": fewer}, {}, fresh=False)


def test_a_folder_in_which_nothing_has_begun_takes_another_run(tmp_path: Path) -> None:
    claim(tmp_path, ASKED, {}, runs=["erm"], fresh=False)
    run = run_in(tmp_path / "erm")  # makes its folder, and is refused
    with pytest.raises(ConfigError):
        run.train("fit", Toy, images(), PLAN.override({"optimizer_of": {"nothing": Adam()}}))
    claim(tmp_path, changed(tau=3.0), {}, runs=["erm"], fresh=False)
    assert read_toml(tmp_path / "run.toml")["asked"]["settings"]["tau"] == 3.0


class Stopped(Exception):
    pass


def test_a_folder_is_taken_from_the_first_step_on(tmp_path: Path) -> None:
    claim(tmp_path, ASKED, {}, runs=["erm"], fresh=False)

    class Source:
        samples, per_epoch = 4, 2

        def batch(self, step: int):
            raise Stopped  # as a kill would: before anything is written

    with pytest.raises(Stopped):
        run_in(tmp_path / "erm").train("fit", Toy, Source(), PLAN)
    assert not any(path.is_file() for path in (tmp_path / "erm").rglob("*"))
    with pytest.raises(RunMismatch):
        claim(tmp_path, changed(tau=3.0), {}, runs=["erm"], fresh=False)


@pytest.mark.parametrize("file", ["report.json", "erm/log.jsonl", "notes/mine.txt"])
def test_a_folder_with_any_file_in_it_is_taken(tmp_path: Path, file: str) -> None:
    claim(tmp_path, ASKED, {}, runs=["erm"], fresh=False)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("of value")
    with pytest.raises(RunMismatch):
        claim(tmp_path, changed(tau=3.0), {}, runs=["erm"], fresh=False)
    assert (tmp_path / file).read_text() == "of value"


def test_starting_over_removes_this_runs_stages_and_nothing_else(tmp_path: Path) -> None:
    claim(tmp_path, ASKED, {}, runs=["erm"], fresh=False)
    run = run_in(tmp_path / "erm")
    run.train("fit", Toy, images(), PLAN)
    run.once("x", lambda: torch.ones(1))
    (tmp_path / "mine" / "stages").mkdir(parents=True)
    (tmp_path / "erm" / "notes.txt").write_text("mine")
    claim(tmp_path, changed(tau=3.0), {}, runs=["erm", "lff"], fresh=True)
    assert [p.name for p in (tmp_path / "erm").iterdir()] == ["notes.txt"]
    assert (tmp_path / "mine" / "stages").is_dir()
    assert read_toml(tmp_path / "run.toml")["asked"]["settings"]["tau"] == 3.0


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_work_of_another_kind_is_refused(tmp_path: Path, fresh: bool) -> None:
    training = ASKED | {"method": "erm"}
    pictures = ASKED | {"model": "0123abcd"}
    claim(tmp_path, training, {}, runs=["erm"], fresh=False)
    claim(tmp_path, pictures, {}, runs=["training"], fresh=fresh)  # nothing has begun
    claim(tmp_path, training, {}, runs=["erm"], fresh=False)
    run_in(tmp_path / "erm").once("x", lambda: torch.ones(1))
    text = (tmp_path / "run.toml").read_text()
    with pytest.raises(RunMismatch) as error:
        claim(tmp_path, pictures, {}, runs=["erm"], fresh=fresh)
    assert "holds a training, and this is pictures of a model: use another" in str(error.value)
    assert "--fresh" not in str(error.value)
    assert (tmp_path / "run.toml").read_text() == text
    assert (tmp_path / "erm" / "once").is_dir()


def test_stages_without_a_run_file_are_not_trusted(tmp_path: Path) -> None:
    run_in(tmp_path / "erm").once("x", lambda: torch.ones(1))
    claim(tmp_path, ASKED, {}, runs=["erm"], fresh=False)
    assert not (tmp_path / "erm" / "once").exists()
