"""An audit from images to gaps, and the folder that it is kept in."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from truecue.audit import make as make_module
from truecue.audit.audit import Audit
from truecue.audit.make import AuditSettings, make_audit
from truecue.audit.measure import measure_gaps
from truecue.audit.reviews import Reviews
from truecue.audit.verdicts import Judgement
from truecue.data.sets import ImageSet, Splits
from truecue.data.suites.gratings import Gratings
from truecue.engine.device import Device
from truecue.engine.features import digest_of
from truecue.engine.run import Run
from truecue.errors import ConfigError, DataError, RunMismatch, StorageError
from truecue.methods.erm import ERM
from truecue.metrics.ranking import rank
from truecue.metrics.spurious import importance, spuriosity
from truecue.nets.build import build
from truecue.nets.classifier import Classifier

CPU = Device("cpu")


@pytest.fixture(scope="module")
def data() -> Splits:
    return Gratings().load(seed=0)


@pytest.fixture(scope="module")
def net(data: Splits) -> Classifier:
    """A classifier that goes by the tint of gratings."""
    run = Run(None, 0, CPU, arch="conv3")
    return ERM().override({"plan.epochs": 4}).fit(data, run).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audits")


@pytest.fixture(scope="module", autouse=True)
def _cache(folder: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUECUE_CACHE", str(folder / "cache"))
        yield


def bright(_: str, part: ImageSet) -> dict[str, torch.Tensor]:
    return {"brightness": part.images[:].float().mean((1, 2, 3)),
            "red": part.images[:].float()[:, 0].mean((1, 2))}  # fmt: skip


@pytest.fixture(scope="module")
def audit(folder: Path, data: Splits, net: Classifier) -> Audit:
    return make_audit(folder / "first", data, net, cues=bright, device=CPU)


def test_features_are_those_of_the_model(audit: Audit, data: Splits, net: Classifier):
    net = net.eval()
    with torch.no_grad():
        z, logits = net.features(data.train.images[:]), net(data.train.images[:])
    found = importance(z, data.train.y, net.head.weight.detach(), net.head.bias.detach(),
                       pred=logits.argmax(1))  # fmt: skip
    assert torch.equal(audit.predicted("train"), logits.argmax(1))
    assert torch.equal(audit.labels("train"), data.train.y)
    columns = audit.columns("train")
    for c in range(len(data.train.classes)):
        mine = [f for f in audit.features(c) if f.rank]
        assert [f.feature for f in mine] == [f for f in found.top[c].tolist() if f >= 0]
        assert [f.rank for f in mine] == list(range(1, len(mine) + 1))
        shares = [f.share for f in mine]
        assert shares == sorted(shares, reverse=True)  # type: ignore[type-var]
        for f in mine:
            values = columns[data.train.y == c, f.slot]
            torch.testing.assert_close(
                values, z[data.train.y == c, f.feature], rtol=1e-5, atol=1e-5
            )
        assert [f.name for f in audit.features(c)][-2:] == ["brightness", "red"]
        assert [f.feature for f in audit.features(c)][-2:] == [net.n_features, net.n_features + 1]


def test_rankings_are_those_of_the_values(audit: Audit, data: Splits):
    for split in audit.splits:
        y, columns = audit.labels(split), audit.columns(split)
        for slot in range(audit.width):
            ranking = audit.ranking(split, slot)
            for c in range(len(audit.classes)):
                has = any(f.slot == slot for f in audit.features(c))
                expected = columns[:, slot].where(y == c, torch.nan)
                alone = rank(expected, torch.zeros_like(y), 1).of(0) if has else torch.zeros(0)
                assert torch.equal(ranking.of(c), alone.long())


def test_pages_of_a_ranking(audit: Audit):
    f = audit.features(1)[0]
    whole = audit.ranking("val", f.slot).of(1)
    page = audit.page("val", 1, f.feature, start=3, count=4)
    assert page.ids.tolist() == whole[3:7].tolist()
    assert page.total == len(whole)
    assert page.scores.tolist() == audit.columns("val")[whole[3:7], f.slot].tolist()
    end = audit.page("val", 1, f.feature, start=-2, count=60)
    assert end.ids.tolist() == whole[-2:].tolist()
    assert audit.page("val", 1, f.feature, start=10_000).ids.tolist() == []
    with pytest.raises(DataError, match="has no feature 12345 in this audit; its features are"):
        audit.page("val", 1, 12345)
    with pytest.raises(ConfigError, match=r"no split 'dev' \(train, val, test\)"):
        audit.page("dev", 1, f.feature)
    with pytest.raises(DataError, match="there is no class 9"):
        audit.page("val", 9, f.feature)


def test_strongest_images_are_right_ones_first(audit: Audit):
    f = audit.features(0)[0]
    ids = audit.strongest(0, f.feature, 10_000)
    y, said = audit.labels("train"), audit.predicted("train")
    assert sorted(ids) == (y == 0).nonzero().squeeze(1).tolist()
    right = [int(said[i]) == 0 for i in ids]
    assert right == sorted(right, reverse=True)
    values = [float(audit.columns("train")[i, f.slot]) for i in ids[: sum(right)]]
    assert values == sorted(values, reverse=True)
    weak = audit.weakest(0, f.feature)
    assert weak == audit.ranking("train", f.slot).of(0)[:5].tolist()


def test_an_opened_audit_is_the_same(audit: Audit, data: Splits, net: Classifier):
    again = Audit(audit.folder)
    assert again.pairs() == audit.pairs()
    assert torch.equal(again.columns("test"), audit.columns("test"))
    with torch.no_grad():
        assert torch.equal(again.model()(data.test.images[:8]), net(data.test.images[:8]))
    assert digest_of(again.encoder()) == audit.facts["encoder"]["digest"]
    again.check(data)
    store = again.store(data, "val", again.encoder(), device=CPU)
    f = audit.features(0)[0]
    mine = audit.labels("val") == 0
    torch.testing.assert_close(
        store.rows(mine.nonzero()[:, 0])[:, f.feature], audit.columns("val")[mine, f.slot]
    )
    other = Gratings().load(seed=1)
    with pytest.raises(DataError, match="the train images are not those of"):
        again.check(other)


def test_gaps_of_pairs(audit: Audit, data: Splits):
    gaps = measure_gaps(audit, k=20)
    assert json.loads((audit.folder / "gaps.json").read_text()) == gaps == audit.gaps()
    for damaged in ("{", "null"):
        (audit.folder / "gaps.json").write_text(damaged)
        with pytest.raises(DataError, match=r"gaps\.json cannot be read: .*audit again, with --fr"):
            audit.gaps()
    assert gaps["splits"]["test"]["verdicts"] is None
    rows = gaps["splits"]["test"]["pairs"]
    assert [(r["class"], r["feature"]) for r in rows] == [
        (f.class_index, f.feature) for f in audit.pairs()
    ]
    y, said = audit.labels("test"), audit.predicted("test")
    for row in rows:
        f = audit.feature(row["class"], row["feature"])
        ids = audit.ranking("test", f.slot).of(f.class_index)
        if "gap" not in row:
            assert float(audit.columns("test")[ids, f.slot].std()) < 1e-6
            continue
        right = (said == y)[ids].double()
        assert row["gap"]["value"] == pytest.approx(float(right[-20:].mean() - right[:20].mean()))
        assert row["p"] <= row["q"] <= 1
    # the tint is what this model goes by: some feature orders images by it
    assert max(abs(row["gap"]["value"]) for row in rows if "gap" in row) > 0.5


def test_verdicts_make_rankings_and_gaps(folder: Path, data: Splits, net: Classifier):
    audit = make_audit(folder / "judged", data, net, device=CPU)
    with pytest.raises(DataError, match="no feature has been judged spurious"):
        audit.ranking("val")
    first = [f.feature for f in audit.features(0)[:2]]
    judge = audit.verdicts()
    judge.add(*(Judgement(0, f, "ann", "background") for f in first))
    judge.add(Judgement(1, audit.features(1)[0].feature, "ann", "main_object"))
    with pytest.raises(DataError, match=r"class 1 \(.*\) has no feature 999 in this audit"):
        judge.add(Judgement(1, 999, "ann", "background"))
    gaps = measure_gaps(audit, k=15)
    assert gaps["answers"]["spurious"] == 2
    assert gaps["answers"]["core"] == 1
    with torch.no_grad():
        z = {s: net.features(data.parts()[s].images[:]) for s in ("train", "test")}
    y = data.test.y
    expected = spuriosity(z["test"], y, {0: first}, len(audit.classes),
                          train=(z["train"], data.train.y))  # fmt: skip
    torch.testing.assert_close(
        audit.spuriosity("test"), expected, rtol=0, atol=1e-4, equal_nan=True
    )
    found = gaps["splits"]["test"]["verdicts"]
    assert [row["class"] for row in found["classes"]] == [0]
    assert found["missing"] == list(range(1, len(audit.classes)))
    assert found["macro"]["value"] == pytest.approx(found["classes"][0]["gap"]["value"])
    ids = audit.ranking("test").of(0)
    right = (audit.predicted("test") == y)[ids].double()
    value = float(right[-15:].mean() - right[:15].mean())
    assert found["macro"]["value"] == pytest.approx(value)
    assert audit.page("test", 0, count=3).ids.tolist() == ids[:3].tolist()
    assert audit.page("test", 1).total == 0
    assert Audit(audit.folder).ranking("test").of(0).tolist() == ids.tolist()

    judge.add(*(Judgement(0, f, "ann", "main_object") for f in first))  # all taken back
    assert measure_gaps(audit)["splits"]["test"]["verdicts"] is None
    with pytest.raises(DataError, match="no feature has been judged spurious"):
        audit.ranking("test")


def test_another_encoder_gets_a_head_of_its_own(folder: Path, data: Splits, net: Classifier):
    torch.manual_seed(5)
    eyes = build("conv3", channels=3, size=data.train.shape[1], n_classes=2)
    settings = AuditSettings(head_epochs=3)
    audit = make_audit(folder / "other", data, net, encoder=eyes, settings=settings, device=CPU)
    assert audit.facts["encoder"]["head"] == "fitted"
    assert digest_of(audit.encoder()) == digest_of(eyes) != digest_of(audit.model())
    with torch.no_grad():
        assert torch.equal(audit.predicted("test"), net(data.test.images[:]).argmax(1))
        fitted = audit.encoder()(data.train.images[:]).argmax(1)
    grouped = torch.from_numpy(np.load(audit.folder / "train" / "grouped.npy"))
    assert torch.equal(grouped, fitted)

    alone = make_audit(folder / "alone", data, encoder=eyes, settings=settings, device=CPU)
    assert alone.facts["model"]["is_encoder"]
    with torch.no_grad():
        said = alone.model()(data.test.images[:]).argmax(1)
    assert torch.equal(alone.predicted("test"), said)

    eyes.spec["extra"] = {"classes": list(data.train.classes)}  # now it says that it knows them
    knows = make_audit(folder / "knows", data, net, encoder=eyes, device=CPU)
    assert knows.facts["encoder"]["head"] == "own"


def test_networks_are_those_that_the_audit_is_about(folder: Path, data: Splits, net: Classifier):
    torch.manual_seed(6)
    eyes = build("conv3", channels=3, size=data.train.shape[1], n_classes=2)
    settings = AuditSettings(head_epochs=1)
    place = folder / "networks"
    audit = make_audit(place, data, net, encoder=eyes, settings=settings, device=CPU)
    for end in ("safetensors", "json"):  # of the same architecture, so that it would fit
        shutil.copy(place / f"encoder.{end}", place / f"model.{end}")
    with pytest.raises(DataError, match=r"model\.safetensors is not the model that audit\.json"):
        audit.model()
    (place / "encoder.safetensors").unlink()
    with pytest.raises(DataError, match=r"no weights file .*encoder\.safetensors.* audit again"):
        audit.encoder()


def test_it_goes_on_and_refuses_other_settings(
    folder: Path, data: Splits, net: Classifier, monkeypatch: pytest.MonkeyPatch
):
    place = folder / "stopped"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(make_module, "importance", stop)
        with pytest.raises(KeyboardInterrupt):
            make_audit(place, data, net, device=CPU)
    with pytest.raises(DataError, match="holds no finished audit"):
        Audit(place)
    begun = time.monotonic()
    audit = make_audit(place, data, net, device=CPU)
    monkeypatch.setattr(make_module, "encode", stop)  # finished: nothing is done again
    assert make_audit(place, data, net, device=CPU).pairs() == audit.pairs()
    assert time.monotonic() - begun < 30
    monkeypatch.undo()
    monkeypatch.setenv("TRUECUE_CACHE", str(folder / "cache"))

    few = AuditSettings(features=2)
    with pytest.raises(RunMismatch, match=r"settings\.features 5 \(now 2\)"):
        make_audit(place, data, net, settings=few, device=CPU)
    audit.verdicts().add(Judgement(0, audit.features(0)[0].feature, "ann", "background"))
    measure_gaps(audit)
    again = make_audit(place, data, net, settings=few, device=CPU, fresh=True)
    assert all(len(again.features(c)) <= 2 for c in range(len(again.classes)))
    assert len(again.verdicts().all()) == 1  # what people did is kept
    with pytest.raises(DataError, match="there are no gaps"):
        again.gaps()
    with pytest.raises(DataError, match="no feature has been judged"):
        again.ranking("test")


@pytest.mark.parametrize(
    "lost", ["test/columns.npy", "train/order.npy", "model.safetensors", "encoder.json"]
)
def test_an_audit_that_has_lost_files_is_made_again(
    folder: Path, data: Splits, net: Classifier, lost: str
):
    torch.manual_seed(7)
    eyes = build("conv3", channels=3, size=data.train.shape[1], n_classes=2)
    settings = AuditSettings(head_epochs=1)
    place = folder / lost.replace("/", " ")

    def made() -> Audit:
        return make_audit(place, data, net, encoder=eyes, settings=settings, device=CPU)

    whole = made()
    f = whole.features(0)[0].feature
    whole.verdicts().add(Judgement(0, f, "ann", "background"))
    content = (place / lost).read_bytes()
    for left in (None, content[: len(content) // 2], b""):
        (place / lost).unlink() if left is None else (place / lost).write_bytes(left)
        assert not Audit(place).is_whole()
        again = made()
        assert again.is_whole()
        assert again.facts == whole.facts
        assert (place / lost).read_bytes() == content
        assert again.verdicts().aggregate().spurious() == {0: {f}}


def test_an_array_of_another_shape_is_no_part_of_the_audit(
    folder: Path, data: Splits, net: Classifier
):
    place = folder / "shapes"
    make_audit(place, data, net, device=CPU)
    shutil.copy(place / "train" / "columns.npy", place / "test" / "columns.npy")
    assert make_audit(place, data, net, device=CPU).columns("test").shape[0] == len(data.test)


def test_a_folder_has_one_maker_at_a_time(
    folder: Path, data: Splits, net: Classifier, monkeypatch: pytest.MonkeyPatch
):
    place, encode, refused = folder / "two", make_module.encode, []
    few = AuditSettings(features=2)

    def another_comes(*args: object, **options: object) -> object:
        with pytest.raises(StorageError, match="another process is making an audit in"):
            make_audit(place, data, net, settings=few, device=CPU)
        refused.append(True)
        return encode(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(make_module, "encode", another_comes)
    assert (
        max(len(made) for made in make_audit(place, data, net, device=CPU)._features.values()) == 5
    )
    assert refused
    with pytest.raises(RunMismatch):
        make_audit(place, data, net, settings=few, device=CPU)


def test_a_lock_alone_leaves_the_folder_free(
    folder: Path, data: Splits, net: Classifier, monkeypatch: pytest.MonkeyPatch
):
    place = folder / "free"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(make_module, "encode", stop)
        with pytest.raises(KeyboardInterrupt):
            make_audit(place, data, net, device=CPU)
    few = AuditSettings(features=2)
    assert make_audit(place, data, net, settings=few, device=CPU).facts["settings"]["features"] == 2


@pytest.mark.parametrize("what", ["model", "settings", "images"])
def test_a_finished_audit_of_something_else_is_not_taken_for_it(
    folder: Path, data: Splits, net: Classifier, what: str
):
    asked = {"data": data, "net": net, "settings": AuditSettings()}
    if what == "model":
        other = deepcopy(net)
        other.head.bias.data += 1
        asked["net"] = other
    elif what == "settings":
        asked["settings"] = AuditSettings(features=2)
    else:
        asked["data"] = replace(data, val=data.val.select(torch.arange(1, len(data.val))))
    place = folder / f"lies about {what}"
    first = make_audit(place, data, net, device=CPU)
    told = make_audit(folder / f"other {what}", **asked, device=CPU)
    shutil.copy(told.folder / "run.toml", place / "run.toml")
    found = make_audit(place, **asked, device=CPU)
    assert found.facts != first.facts
    assert found.facts == told.facts


def test_answers_are_about_classes_by_their_names(folder: Path, data: Splits, net: Classifier):
    place = folder / "renamed"
    audit = make_audit(place, data, net, device=CPU)
    f = audit.features(0)[0].feature
    audit.verdicts().add(Judgement(0, f, "ann", "background"))
    assert audit.verdicts().aggregate().spurious() == {0: {f}}
    (place / "cues.json").write_text('{"kind": "cues"}')
    names = tuple(f"other {c}" for c in range(len(data.train.classes)))
    parts = {name: replace(part, classes=names) for name, part in data.parts().items()}
    other = replace(data, **parts)
    again = make_audit(place, other, net, device=CPU, fresh=True)
    assert again.facts["encoder"]["digest"] == audit.facts["encoder"]["digest"]
    assert again.verdicts().aggregate().spurious() == {}  # "feature 3 of class 0" is another thing
    assert len(again.verdicts().all()) == 1  # and nothing is lost
    assert not (place / "cues.json").exists()  # it was about the other audit
    back = make_audit(place, data, net, device=CPU, fresh=True)
    assert back.verdicts().aggregate().spurious() == {0: {f}}


def test_answers_about_labels_stay_with_their_images(folder: Path, data: Splits, net: Classifier):
    place = folder / "relabelled"
    fewer = replace(data, test=data.test.select(torch.arange(1, len(data.test))))
    mended = replace(data, train=data.train.select(torch.arange(1, len(data.train))))

    def reviews(of: Splits) -> Reviews:
        made = make_audit(place, of, net, device=CPU, fresh=True)
        images = {name: part["digest"] for name, part in made.facts["splits"].items()}
        return Reviews(place / "labels.sqlite", images)

    reviews(data).add("test", 7, "ann", "label_wrong")
    first = reviews(mended)
    assert [r.image for r in first.all()] == [7]  # it is about a test image
    first.add("test", 8, "ann", "fine")
    second = reviews(fewer)
    assert second.all() == []  # image 7 is another one now
    second.add("test", 7, "ann", "fine")
    found = [(r.image, r.finding) for r in reviews(data).all()]
    assert found == [(7, "label_wrong"), (8, "fine")]
    assert [(r.image, r.finding) for r in reviews(fewer).all()] == [(7, "fine")]


def test_answers_of_an_earlier_version_stay_with_their_images(
    folder: Path, data: Splits, net: Classifier
):
    place = folder / "earlier"
    make_audit(place, data, net, device=CPU)
    with sqlite3.connect(place / "labels.sqlite") as db:
        db.execute("CREATE TABLE reviews (split, image, annotator, finding, submitted)")
        db.execute("INSERT INTO reviews VALUES ('test', 7, 'ann', 'fine', 5.0)")
    db.close()
    fewer = replace(data, test=data.test.select(torch.arange(1, len(data.test))))
    for of, left in ((fewer, []), (data, [7])):
        made = make_audit(place, of, net, device=CPU, fresh=True)
        images = {name: part["digest"] for name, part in made.facts["splits"].items()}
        assert [r.image for r in Reviews(place / "labels.sqlite", images).all()] == left


def test_what_cannot_be_audited(folder: Path, data: Splits, net: Classifier):
    with pytest.raises(ConfigError, match="needs a model, an encoder, or both"):
        make_audit(folder / "none", data, device=CPU)
    own = Classifier(nn.Flatten(), nn.Linear(3, 2), mean=(0.0,) * 3, std=(1.0,) * 3, spec={})
    with pytest.raises(ConfigError, match="only those made by `build` can be loaded back"):
        make_audit(folder / "none", data, own, device=CPU)
    wrong = build("conv3", channels=3, size=data.train.shape[1], n_classes=7)
    with pytest.raises(DataError, match="tells 7 classes apart"):
        make_audit(folder / "none", data, wrong, device=CPU)

    def short(_: str, part: ImageSet) -> dict[str, torch.Tensor]:
        return {"half": torch.zeros(len(part) // 2)}

    def changing(name: str, part: ImageSet) -> dict[str, torch.Tensor]:
        return {name: torch.zeros(len(part))}

    with pytest.raises(DataError, match="the cue 'half' needs one finite value"):
        make_audit(folder / "none", data, net, cues=short, device=CPU)
    with pytest.raises(DataError, match="must be the same"):
        make_audit(folder / "none", data, net, cues=changing, device=CPU)
    (folder / "none" / "audit.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(DataError, match="format 99, and this version reads 1"):
        Audit(folder / "none")


def test_small_and_undefined_classes_are_told(folder: Path, data: Splits, net: Classifier):
    val = data.test.select(torch.cat([(data.test.y == c).nonzero()[:n, 0]
                                      for c, n in ((0, 1), (1, 20))]))  # fmt: skip
    small = Splits(data.train, val, data.test)
    audit = make_audit(folder / "small", small, net, device=CPU)
    notes = " ".join(audit.facts["notes"])
    assert "Fewer than 30 validation images show" in notes
    rows = measure_gaps(audit)["splits"]["val"]["pairs"]
    for row in rows:
        if row["class"] == 0:
            assert row["why"] == "too few images"
        elif "gap" in row:
            assert row["k"] == 4
            assert "correlation" in row
