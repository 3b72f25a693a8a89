"""An audit from beginning to end."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from truecue.audit.make import AuditSettings
from truecue.audit.verdicts import COLUMNS
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
    for damaged in ("{", "null", "[]", "{}"):
        (tmp_path / "a" / "cues.json").write_text(damaged)
        assert audit(tmp_path / "a", data, net, pictures=0, device=CPU).cues == first.cues


def test_without_cues_the_page_has_no_table_of_them(trained, tmp_path: Path) -> None:
    net, data = trained
    done = audit(tmp_path / "a", data, net, pictures=0, cues=False, device=CPU)
    assert done.cues is None
    assert "Cues that should not matter" not in done.page.read_text()
    assert "Candidates wait for a person" in done.page.read_text()


def test_too_few_images_for_cues_are_audited_without_them(trained, tmp_path: Path) -> None:
    net, data = trained
    few = torch.cat([(data.test.y == c).nonzero().squeeze(1)[:5] for c in range(10)])
    small = replace(data, test=data.test.select(few))
    done = audit(tmp_path / "a", small, net, pictures=1, device=CPU)
    assert done.cues is not None
    assert done.cues["cues"] == []
    page = " ".join(done.page.read_text().split())
    assert "Not asked about.</b> Cues can be looked for where two classes or more have 10" in page
    assert "No alarm" not in page
    assert "Candidates among the network's features" in page


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"core": ["hues"]}, "no property or region 'hues'; did you mean 'hue'"),
        ({"nuisance": {"border": (0, 0, 1, 0.5)}}, "already a region 'border'"),
        ({"nuisance": {"hue": (0, 0, 1, 0.5)}}, "already a property 'hue'"),
        ({"nuisance": {"banner": (0, 0.9, 1, 1.2)}}, r"shares of the image in 0\.\.1"),
        ({"verdicts": Path("nosuch.csv")}, r"no file nosuch\.csv"),
        ({"masks": Path("nosuch")}, "no folder or file of masks nosuch"),
    ],
)
def test_what_can_be_known_is_refused_before_work(
    trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked, match: str
) -> None:
    def encodes(*args, **more):
        raise AssertionError("the audit began")

    net, data = trained
    monkeypatch.setattr("truecue.auditing.make_audit", encodes)
    with pytest.raises(DataError, match=match) as refused:
        audit(tmp_path / "a", data, net, device=CPU, **asked)
    assert "--no-cues" not in str(refused.value)
    answers = tmp_path / "answers.csv"
    answers.write_text(f"{','.join(COLUMNS)}\nann,,10,3,1,background,5,x\n")
    with pytest.raises(DataError, match="line 2: there is no class 10"):
        audit(tmp_path / "a", data, net, device=CPU, verdicts=answers)


def test_scores_and_components_are_candidates_and_never_alarm(trained, tmp_path: Path) -> None:
    net, data = trained
    settings = AuditSettings(features=1, components=2)
    done = audit(tmp_path / "a", data, net, settings=settings, scores={"another network": net},
                 pictures=30, device=CPU)  # fmt: skip
    assert done.cues is not None
    rows = {c["name"]: c for c in done.cues["cues"]}
    learned = ("another network", "component 1", "component 2")
    for name in learned:
        # this network's own answers, so that both questions have the largest effects there can be
        assert rows[name]["verdict"] == "candidate", name
        assert rows[name]["how"] == "as found"
        assert rows[name]["available"]["value"] > 0.8
        assert rows[name]["used"]["value"] > 0.5
        assert len(rows[name]["classes"]) == 10
    assert rows["another network"]["kind"] == "score"
    assert {c["name"] for c in done.cues["cues"] if c["verdict"] == "alarm"}.isdisjoint(learned)
    # what may alarm is judged as without them
    plain = audit(tmp_path / "b", data, net, pictures=0, device=CPU)
    assert plain.cues is not None
    for cue in plain.cues["cues"]:
        assert rows[cue["name"]]["verdict"] == cue["verdict"]
        assert rows[cue["name"]]["used"] == cue["used"] or cue["kind"] == "property"

    page = " ".join(done.page.read_text().split())
    assert "are candidates whatever their numbers until a person has looked" in page
    assert "<h3>another network: candidate</h3>" in page
    assert 'alt="Held-out images for whose class the cue another network speaks least' in page
    assert "A <em>component</em> is a direction of all features together" in page
    assert page.count(", component ") == 2 * 20  # each in a heading and beside its picture
    assert ", component " not in plain.page.read_text()


def test_cues_are_asked_again_where_scores_or_components_change(
    trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, data = trained
    monkeypatch.setattr("truecue.auditing.MOST", 20)
    other = deepcopy(net)
    with torch.no_grad():
        other.head.bias += torch.arange(10.0)

    def asked(folder: str, scores, components: int | None = None) -> dict:
        settings = AuditSettings(components=components)
        done = audit(tmp_path / folder, data, net, settings=settings, scores=scores, pictures=0,
                     device=CPU)  # fmt: skip
        assert done.cues is not None
        return done.cues

    first = asked("a", {"x": net})
    assert asked("a", {"x": net}) == first
    keys = {first["key"], asked("a", {"x": other})["key"], asked("a", {})["key"],
            asked("b", {}, 1)["key"]}  # fmt: skip
    assert len(keys) == 4


def test_only_the_files_of_measured_images_are_read(
    trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, data = trained
    parts = {}
    for name, part in data.parts().items():
        names = tuple(f"{name}-{i}.png" for i in range(len(part)))
        parts[name] = replace(part, names=names)
        for file in names:
            (tmp_path / file).write_bytes(b"no image")
    read = []
    monkeypatch.setattr("truecue.audit.cues._SAMPLE", 120)
    monkeypatch.setattr("truecue.auditing.file_columns",
                        lambda *paths: read.append([len(p) for p in paths]) or {})  # fmt: skip
    with_names = replace(data, **parts)
    audit(tmp_path / "a", with_names, net, pictures=0, files=tmp_path, device=CPU)
    assert read == [[120, 120]]
    audit(tmp_path / "b", with_names, net, pictures=0, files=tmp_path, cues=False, device=CPU)
    assert len(read) == 1


@pytest.mark.slow
def test_on_photographs_a_bias_score_and_components_wait_for_a_person(
    real_data: Path, tmp_path: Path
) -> None:
    from truecue import api
    from truecue.audit.scores import biased_networks
    from truecue.data.suites import SUITES
    from truecue.methods.jtt import JTT

    data = SUITES["dogs_cats"](size=32).load(real_data, seed=0)
    few = {name: part.select(torch.arange(len(part))[:: max(1, len(part) // 300)])
           for name, part in data.parts().items()}  # fmt: skip
    data = replace(data, **few)
    method = JTT().override({"plan.epochs": 3, "identify.epochs": 2})
    net = api.train(method, data, out=tmp_path / "jtt", arch="conv3", device=CPU).net
    done = audit(
        tmp_path / "a", data, net, settings=AuditSettings(components=2), pictures=3, device=CPU,
        scores=biased_networks(tmp_path / "jtt"),
    )  # fmt: skip
    assert done.cues is not None
    kinds = {c["name"]: (c["kind"], c["verdict"]) for c in done.cues["cues"]}
    assert kinds["first"][0] == "score"
    assert kinds["component 1"][0] == "feature"
    for name in ("first", "component 1", "component 2"):
        assert kinds[name][1] in {"candidate", "no evidence"}
    names = {r["name"] for r in done.gaps["splits"]["test"]["pairs"]}
    assert {"component 1", "component 2"} <= names
