"""Bias scores: which networks of a run they are of, and what they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from truecue import api
from truecue.audit.scores import biased_networks, score_columns
from truecue.data.sets import Splits
from truecue.data.suites.gratings import Gratings
from truecue.engine import evaluate
from truecue.engine.device import Device
from truecue.engine.features import digest_of
from truecue.errors import DataError
from truecue.methods.erm import ERM
from truecue.methods.lff import LfF

CPU = Device("cpu")


@pytest.fixture(scope="module")
def data() -> Splits:
    return Gratings().load(seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Splits) -> tuple[Path, api.Trained]:
    folder = tmp_path_factory.mktemp("runs") / "lff"
    method = LfF().override({"plan.epochs": 2})
    return folder, api.train(method, data, out=folder, arch="mlp-3", baseline=False, device=CPU)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))


def test_a_run_gives_its_biased_network(trained: tuple[Path, api.Trained]) -> None:
    run, done = trained
    found = biased_networks(run)
    assert list(found) == ["biased"]
    biased, other = done.others["lff-biased"], done.net
    assert digest_of(found["biased"], head=True) == digest_of(biased, head=True)
    assert digest_of(found["biased"], head=True) != digest_of(other, head=True)


def test_what_is_no_such_run_is_told(
    trained: tuple[Path, api.Trained], data: Splits, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="holds no finished run"):
        biased_networks(tmp_path)
    for text in ("{", "[]", '{"after": "lff", "models": {}}'):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(DataError, match="is not the report of a training"):
            biased_networks(tmp_path)
    plain = tmp_path / "erm"
    method = ERM().override({"plan.epochs": 1})
    api.train(method, data, out=plain, arch="mlp-3", baseline=False, device=CPU)
    with pytest.raises(DataError, match="run of erm, which trains no biased network; give a run"):
        biased_networks(plain)
    run, _ = trained
    told = json.loads((run / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps(told))  # the report without the models
    with pytest.raises(DataError, match=r"there is no card .*lff-biased"):
        biased_networks(tmp_path)


def test_scores_are_the_log_odds_of_the_images_asked_for(
    trained: tuple[Path, api.Trained], data: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = trained[1].others["lff-biased"]
    rows = {"train": torch.arange(7, 60, 5), "test": torch.tensor([3, 0, 9])}
    found = score_columns({"a": net}, data, rows, CPU, quiet=True)
    assert list(found) == ["a"]
    assert found["a"].kind == "score"  # which never alarms
    for split, values in (("train", found["a"].train), ("test", found["a"].test)):
        with torch.no_grad():
            p = net(data.parts()[split].images[rows[split]]).softmax(1)
        torch.testing.assert_close(values, (p / (1 - p)).log(), atol=1e-3, rtol=1e-3)

    # a second time they come from the cache
    monkeypatch.setattr(evaluate, "apply", lambda *_, **__: pytest.fail("computed again"))
    again = score_columns({"a": net}, data, rows, CPU, quiet=True)
    assert torch.equal(again["a"].train, found["a"].train)


def test_a_network_that_is_sure_has_finite_scores(
    trained: tuple[Path, api.Trained], data: Splits
) -> None:
    net = biased_networks(trained[0])["biased"]
    with torch.no_grad():
        net.head.weight.mul_(1e4)
    rows = {"train": torch.arange(20), "test": torch.arange(20)}
    found = score_columns({"a": net}, data, rows, CPU, quiet=True)["a"]
    assert bool(found.train.isfinite().all())
    assert float(found.train.max()) > 15


def test_networks_of_other_classes_are_refused(
    trained: tuple[Path, api.Trained], data: Splits
) -> None:
    net = biased_networks(trained[0])["biased"]
    parts = {name: replace(p, classes=("x", "y")) for name, p in data.parts().items()}
    rows = {"train": torch.arange(5), "test": torch.arange(5)}
    with pytest.raises(DataError, match="the model knows the classes"):
        score_columns({"a": net}, replace(data, **parts), rows, CPU, quiet=True)
