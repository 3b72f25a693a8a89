"""An audit from beginning to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from truecue.auditing import audit
from truecue.data.sets import Splits
from truecue.data.suites.digits import Digits
from truecue.engine.device import Device
from truecue.errors import DataError
from truecue.methods.erm import ERM
from truecue.nets.classifier import Classifier

CPU = Device("cpu")


@pytest.fixture(scope="module")
def trained() -> tuple[Classifier, Splits]:
    from truecue import api

    data = Digits(train_size=600, test_size=400, conflicting=0.02).load(seed=0)
    method = ERM().override({"plan.epochs": 15, "plan.batch_size": 64})
    return api.train(method, data, arch="mlp-3", baseline=False, device=CPU).net, data


def test_one_call_finds_cues_features_and_gaps_and_shows_them(trained, tmp_path: Path) -> None:
    net, data = trained
    done = audit(tmp_path / "a", data, net, pictures=2, device=CPU, facts={"data": "digits"})
    assert done.cues is not None
    verdicts = {c["name"]: c["verdict"] for c in done.cues["cues"]}
    assert verdicts["hue"] == "alarm"
    assert verdicts["sharpness"] != "alarm"
    assert json.loads((tmp_path / "a" / "cues.json").read_text()) == done.cues
    page = done.page.read_text()
    assert "The model goes by what should not matter" in page
    assert page.count("Images of ") == 2  # pictures of features
    assert "truecue train lff digits" in page
    assert 'src="http' not in page
    assert "<script" not in page


def test_cues_that_are_core_raise_no_alarm_and_are_asked_again(trained, tmp_path: Path) -> None:
    net, data = trained
    first = audit(tmp_path / "a", data, net, pictures=0, device=CPU)
    again = audit(tmp_path / "a", data, net, pictures=0, device=CPU)
    assert again.cues == first.cues
    told = audit(tmp_path / "a", data, net, pictures=0, core=["hue"], device=CPU)
    assert {c["name"]: c["verdict"] for c in told.cues["cues"]}["hue"] == "candidate"


def test_a_damaged_table_of_cues_is_made_again(trained, tmp_path: Path) -> None:
    net, data = trained
    first = audit(tmp_path / "a", data, net, pictures=0, device=CPU)
    (tmp_path / "a" / "cues.json").write_text("{")
    assert audit(tmp_path / "a", data, net, pictures=0, device=CPU).cues == first.cues


def test_without_cues_the_page_has_no_table_of_them(trained, tmp_path: Path) -> None:
    net, data = trained
    done = audit(tmp_path / "a", data, net, pictures=0, cues=False, device=CPU)
    assert done.cues is None
    assert "Cues that should not matter" not in done.page.read_text()
    assert "Candidates wait for a person" in done.page.read_text()


def test_too_few_images_for_cues_say_how_to_go_on(trained, tmp_path: Path) -> None:
    net, data = trained
    few = torch.cat([(data.test.y == c).nonzero().squeeze(1)[:5] for c in range(10)])
    small = replace(data, test=data.test.select(few))
    with pytest.raises(DataError, match=r"two classes or more have 10 images.*--no-cues"):
        audit(tmp_path / "a", small, net, pictures=0, device=CPU)
    assert audit(tmp_path / "a", small, net, pictures=0, cues=False, device=CPU).page.is_file()
