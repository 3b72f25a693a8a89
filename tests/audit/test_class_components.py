"""Principal components of each class as candidates of an audit: among its features and its cues."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from truecue.audit import components as module
from truecue.audit.audit import Audit
from truecue.audit.components import class_components, component_columns
from truecue.audit.features import encode
from truecue.audit.make import AuditSettings, make_audit
from truecue.audit.measure import measure_gaps
from truecue.audit.pca import neural_pca
from truecue.audit.verdicts import Judgement, Subject
from truecue.data.sets import ImageSet, Splits
from truecue.data.suites.gratings import Gratings
from truecue.engine.device import Device
from truecue.errors import DataError
from truecue.nets.build import build
from truecue.nets.classifier import Classifier

CPU = Device("cpu")
EACH = 2


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUECUE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data() -> Splits:
    return Gratings().load(seed=0)


@pytest.fixture(scope="module")
def net(data: Splits) -> Classifier:
    """A network that has learned nothing: its components are directions all the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build("conv3", channels=3, size=16, n_classes=2).eval()
    made.spec["extra"] = {"classes": list(data.train.classes)}
    return made


def red(_: str, part: ImageSet) -> dict[str, torch.Tensor]:
    return {"red": part.images[:].float()[:, 0].mean((1, 2))}


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory, data: Splits, net: Classifier) -> Audit:
    folder, settings = tmp_path_factory.mktemp("audits"), AuditSettings(components=EACH)
    return make_audit(folder / "first", data, net, settings=settings, cues=red, device=CPU)


@torch.no_grad()
def features(net: Classifier, part: ImageSet) -> torch.Tensor:
    return net.features(part.images[:]).double()


def test_each_class_has_its_own_components(audit: Audit, data: Splits, net: Classifier) -> None:
    weight = net.head.weight.detach()
    phi = features(net, data.train)
    for c in (0, 1):
        listed = audit.features(c)[-EACH:]
        assert [f.name for f in listed] == ["component 1", "component 2"]
        assert all(audit.is_component(f) and f.rank is None for f in listed)
        assert not any(audit.is_component(f) for f in audit.features(c)[:-EACH])
        assert audit.features(c)[-EACH - 1].name == "red"
        found = neural_pca(phi[data.train.y == c], weight[c])
        for split in ("train", "val", "test"):
            part = data.parts()[split]
            mine = part.y == c
            alpha = found.alpha(features(net, part)[mine])[:, :EACH].float()
            columns = audit.columns(split)[mine][:, [f.slot for f in listed]]
            torch.testing.assert_close(columns, alpha, atol=1e-4, rtol=1e-3)
        strongest = audit.strongest(c, listed[0].feature, 1)[0]
        values = audit.columns("train")[data.train.y == c, listed[0].slot]
        assert float(audit.columns("train")[strongest, listed[0].slot]) in values.sort().values[-9:]


def test_they_are_measured_and_judged_like_features(audit: Audit) -> None:
    component = audit.features(1)[-1]
    row = next(r for r in measure_gaps(audit)["splits"]["test"]["pairs"]
               if (r["class"], r["feature"]) == (1, component.feature))  # fmt: skip
    assert row["name"] == "component 2"
    assert 0 < row["p"] <= row["q"] <= 1
    audit.verdicts().add(Judgement(1, component.feature, "ann", "background"))
    gaps = measure_gaps(audit)["splits"]["test"]["verdicts"]
    assert [found["class"] for found in gaps["classes"]] == [1]
    assert gaps["classes"][0]["gap"]["value"] == row["gap"]["value"]


def test_answers_about_them_are_about_these_images(
    audit: Audit, data: Splits, net: Classifier, tmp_path: Path
) -> None:
    other = replace(data, train=data.train.select(torch.arange(len(data.train)) % 8 > 0))

    def subject(name: str, splits: Splits, each: int | None) -> Subject:
        settings = AuditSettings(components=each)
        return make_audit(tmp_path / name, splits, net, settings=settings, device=CPU).subject

    plain, mine, others = (
        subject("a", data, None),
        subject("c", data, EACH),
        subject("d", other, EACH),
    )
    assert plain == subject("b", other, None)
    assert plain.features == plain.components == mine.features == others.features
    assert plain.first == mine.first
    assert mine.components != others.components
    assert mine == subject("f", data, EACH)


def test_answers_stay_where_components_come_and_go(
    data: Splits, net: Classifier, tmp_path: Path
) -> None:
    def made(each: int | None, splits: Splits = data) -> Audit:
        settings = AuditSettings(components=each)
        return make_audit(tmp_path / "a", splits, net, settings=settings, device=CPU, fresh=True)

    def spurious(audit: Audit) -> dict[int, set[int]]:
        return audit.verdicts().aggregate().spurious()

    plain = made(None)
    feature = plain.features(0)[0].feature
    plain.verdicts().add(Judgement(0, feature, "ann", "background"))
    with_two = made(EACH)
    component = with_two.features(0)[-1].feature
    assert spurious(with_two) == {0: {feature}}
    with_two.verdicts().add(
        Judgement(0, component, "ann", "background"), Judgement(0, feature, "bea", "background")
    )
    fewer = data.train.select(torch.arange(len(data.train)) % 8 > 0)
    others = made(EACH, replace(data, train=fewer))
    assert spurious(others) == {0: {feature}}  # the component is of other images
    others.verdicts().add(Judgement(0, component, "ann", "main_object"))
    assert spurious(made(EACH)) == {0: {feature, component}}
    back = made(None)
    assert spurious(back) == {0: {feature}}
    assert back.verdicts().aggregate().pairs[0, feature].answers == 2


def test_a_cue_of_the_same_name_is_refused(data: Splits, net: Classifier, tmp_path: Path) -> None:
    def mine(_: str, part: ImageSet) -> dict[str, torch.Tensor]:
        return {"component 2": torch.rand(len(part))}

    with pytest.raises(DataError, match="already a component 'component 2'; rename"):
        make_audit(tmp_path / "a", data, net, settings=AuditSettings(components=2), cues=mine,
                   device=CPU)  # fmt: skip


def test_in_the_table_of_cues_every_class_has_a_number(audit: Audit, data: Splits) -> None:
    rows = {"train": torch.arange(0, 90, 3), "test": torch.arange(40)}
    columns = component_columns(audit, data, rows, CPU, quiet=True)
    assert list(columns) == ["component 1", "component 2"]
    for i, column in enumerate(columns.values()):
        assert column.kind == "feature"  # which never alarms
        for split, values in (("train", column.train), ("test", column.test)):
            assert values.shape == (len(rows[split]), 2)
            y = data.parts()[split].y[rows[split]]
            own = audit.columns(split)[rows[split], audit.features(0)[i - EACH].slot]
            torch.testing.assert_close(values.gather(1, y[:, None])[:, 0], own)


def test_an_audit_without_components_has_none(
    data: Splits, net: Classifier, tmp_path: Path
) -> None:
    audit = make_audit(tmp_path / "a", data, net, device=CPU)
    rows = {"train": torch.arange(5), "test": torch.arange(5)}
    assert component_columns(audit, data, rows, CPU, quiet=True) == {}
    assert not any(audit.is_component(f) for f in audit.pairs())


def test_all_components_add_up_to_the_logits(data: Splits, net: Classifier) -> None:
    store, weight = encode(data.train, net, CPU), net.head.weight.detach()
    found = class_components(store, data.train.y, weight, net.n_features)
    phi = store.rows(torch.arange(len(store)))
    logits = phi @ weight.T
    means = torch.stack([logits[data.train.y == c, c].mean() for c in (0, 1)])
    sums = found.parts(phi).sum(2)
    torch.testing.assert_close(sums, logits - means, atol=1e-4, rtol=1e-3)


def test_a_class_of_few_images_has_few_components_and_one_of_none_has_none(
    data: Splits, net: Classifier
) -> None:
    part = data.train.select((data.train.y == 1).nonzero().squeeze(1)[:3])
    store = encode(part, net, CPU)
    found = class_components(store, part.y, net.head.weight.detach(), 5)
    varies = found.parts(store.rows(torch.arange(3))).std(0) > 0
    assert not bool(varies[0].any())
    assert varies[1].tolist() == [True, True, False, False, False]
    assert bool(found.own(store, part.y).isfinite().all())


def test_components_are_found_again(
    data: Splits, net: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, weight = encode(data.train, net, CPU), net.head.weight.detach()
    first = class_components(store, data.train.y, weight, 3)
    monkeypatch.setattr(module, "neural_pca", lambda *_: pytest.fail("computed again"))
    again = class_components(store, data.train.y, weight, 3)
    assert torch.equal(again.directions, first.directions)
    assert again.key == first.key
    with pytest.raises(pytest.fail.Exception):
        class_components(store, data.train.y, weight + 1, 3)
