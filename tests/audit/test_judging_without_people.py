"""Judging by object masks and by texts, with a network whose features are known by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from truecue.audit.audit import Audit
from truecue.audit.automatic import MaskJudged, judge_by_masks
from truecue.audit.make import make_audit
from truecue.audit.masks import MaskFile
from truecue.audit.measure import measure_gaps
from truecue.audit.texts import Similarity, judge_by_text, text_cues
from truecue.audit.verdicts import Judgement, aggregate
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.errors import ConfigError, DataError
from truecue.nets.build import build
from truecue.nets.classifier import Classifier
from truecue.nets.maps import FeatureMaps

CPU = Device("cpu")
SIDE = 16
RED, GREEN = 0, 1  # features: red is on the background, green on the object


def pictures(n: int, seed: int) -> ImageSet:
    """Grey; in class `in` a green square on the object, in two of three of `out` a red corner."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(60, 90, (n, 1, SIDE, SIDE), generator=rng, dtype=torch.uint8)
    x = x.repeat(1, 3, 1, 1)
    y = torch.arange(n) % 2
    strength = torch.randint(180, 256, (n,), generator=rng, dtype=torch.uint8)[:, None, None]
    x[y == 0, 1, 4:8, 4:8] = strength[y == 0]
    red = (y == 1) & (torch.arange(n) % 3 > 0)
    x[red, 0, :4, :4] = strength[red]
    names = tuple(f"{('in', 'out')[c]}/{i}.jpg" for i, c in enumerate(y.tolist()))
    return ImageSet(x, y, ("in", "out"), names=names)


@pytest.fixture(scope="module")
def data() -> Splits:
    return Splits(pictures(120, 0), pictures(240, 1), pictures(120, 2))


@pytest.fixture(scope="module")
def net() -> Classifier:
    """Feature 0 is red less blue, feature 1 green less blue, each in its place; no others."""
    net = build("conv3", channels=3, size=SIDE, n_classes=2).eval()
    with torch.no_grad():
        for p in (*net.encoder.parameters(), *net.head.parameters()):
            p.zero_()
        for bn in (net.encoder.bn1, net.encoder.bn2, net.encoder.bn3):
            bn.weight.fill_(1.0)
        for feature, colour in ((RED, 0), (GREEN, 1)):
            net.encoder.conv1.weight[feature, colour, 1, 1] = 1
            net.encoder.conv1.weight[feature, 2, 1, 1] = -1
            for layer in (net.encoder.conv2, net.encoder.conv3):
                layer.weight[feature, feature, 1, 1] = 1
        net.head.weight[0, GREEN] = 1
        net.head.weight[1, RED] = 1
        net.head.bias[0] = 0.01
    return net


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path_factory.getbasetemp() / "judging-cache"))


@pytest.fixture
def audit(data: Splits, net: Classifier, tmp_path: Path) -> Audit:
    return make_audit(tmp_path / "audit", data, net, device=CPU)


@pytest.fixture
def objects(data: Splits) -> Tensor:
    """The object is the middle."""
    found = torch.zeros(len(data.train), SIDE, SIDE, dtype=torch.bool)
    found[:, 4:12, 4:12] = True
    return found


def by_pair(judged: list[MaskJudged]) -> dict[tuple[int, int], MaskJudged]:
    return {(j.feature.class_index, j.feature.feature): j for j in judged}


# --- masks


def test_what_is_on_the_background_is_spurious(audit, data, net, objects):
    judged = judge_by_masks(audit, data, objects, device=CPU)
    found = by_pair(judged)
    assert {pair: j.spurious for pair, j in found.items()} == {(0, GREEN): False, (1, RED): True}
    assert found[1, RED].images == tuple(audit.strongest(1, RED))
    assert found[1, RED].even == pytest.approx(1 - 0.25)

    source = FeatureMaps(net)  # the same by the definition, one image after another
    for (_, feature), j in found.items():
        shares = []
        for i in j.images:
            a = source.maps(data.train.images[i : i + 1])[0, feature]
            nam = F.interpolate((a / a.max())[None, None], (SIDE, SIDE), mode="bilinear")[0, 0]
            shares.append(float((nam * ~objects[i]).sum() / nam.sum()))
        assert j.outside == pytest.approx(np.mean(shares), abs=0.01)

    told = json.loads((audit.folder / "masks.json").read_text())["features"]
    assert [(r["outside"], r["spurious"]) for r in told] == [
        (j.outside, j.spurious) for j in judged
    ]


def test_answers_are_marked_and_replaced(audit, data, objects):
    judge_by_masks(audit, data, objects, device=CPU)
    answers = {j.pair: j for j in audit.verdicts().all()}
    assert {j.annotator for j in answers.values()} == {"masks"}
    assert answers[1, RED].answer == "background"
    assert answers[0, GREEN].answer == "main_object"
    assert answers[1, RED].reason.startswith("automatic: ")
    pairs = audit.verdicts().aggregate().pairs
    assert all(pair.automatic for pair in pairs.values())
    assert pairs[1, RED].said == "spurious (automatic)"
    assert measure_gaps(audit)["answers"]["automatic"] == 2

    judge_by_masks(audit, data, ~objects, device=CPU)  # object and background change places
    again = {j.pair: j.answer for j in audit.verdicts().all()}
    assert again == {(0, GREEN): "background", (1, RED): "main_object"}


def test_a_person_has_the_last_word(audit, data, objects):
    judge_by_masks(audit, data, objects, device=CPU)
    audit.verdicts().add(Judgement(1, RED, "ann", "main_object"))
    told = audit.verdicts().aggregate()
    pair = told.pairs[1, RED]
    assert (pair.verdict, pair.automatic, pair.answers) == ("core", False, 1)
    assert ("ann", "masks") in told.cohen  # and how far the masks agree is still told
    text = Judgement(1, RED, "text", "background")
    assert aggregate([text]).pairs[1, RED].said == "spurious (automatic)"
    assert aggregate([text, Judgement(1, RED, "bo", "background")]).pairs[1, RED].said == "spurious"


def test_too_few_masks_leave_a_feature_unjudged(audit, data, objects):
    judge_by_masks(audit, data, objects, device=CPU)
    top = audit.strongest(1, RED)
    objects[top[:2]] = False  # no object seen: these say nothing
    kept = by_pair(judge_by_masks(audit, data, objects, device=CPU))[1, RED]
    assert kept.images == tuple(top[2:])
    assert kept.spurious is True
    objects[top[2]] = False
    left = by_pair(judge_by_masks(audit, data, objects, device=CPU))[1, RED]
    assert (left.spurious, left.outside) == (None, None)
    assert [j.pair for j in audit.verdicts().all()] == [(0, GREEN)]  # the earlier answer has gone


def test_masks_from_files_are_found_by_name(audit, data, objects, tmp_path):
    expected = [j.outside for j in judge_by_masks(audit, data, objects, device=CPU)]
    large = objects.repeat_interleave(3, 1).repeat_interleave(3, 2).numpy()
    folder, arrays = tmp_path / "masks", {}
    for i, name in enumerate(data.train.names):
        path = folder / (f"{name}.png" if i % 4 else str(Path(name).with_suffix(".png")))
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.fromarray(large[i].astype(np.uint8) * (255 if i % 3 else 1))
        (mask.convert("RGB") if i % 5 == 0 else mask).save(path)
        arrays[name] = large[i] if i % 2 else large[i].astype(np.float32)
    np.savez(tmp_path / "masks.npz", **arrays)
    for place in (folder, tmp_path / "masks.npz"):
        got = [j.outside for j in judge_by_masks(audit, data, place, device=CPU)]
        assert got == pytest.approx(expected, abs=0.03)  # edges are softened


def test_masks_are_cut_as_images_are(tmp_path):
    wide = np.zeros((10, 30), dtype=np.uint8)
    wide[:, :15] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    got = MaskFile(tmp_path).of("a.jpg", 10, 10)
    assert got is not None
    assert got.shape == (10, 10)
    assert (got[:, :5] == 1).all()
    assert (got[:, 5:] == 0).all()
    assert MaskFile(tmp_path).of("b.jpg", 10, 10) is None


def test_what_is_no_mask_is_refused(audit, data, objects, tmp_path):
    with pytest.raises(DataError, match="there is no folder or file of masks"):
        judge_by_masks(audit, data, tmp_path / "nowhere", device=CPU)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none of 10 training images has a mask.*\.jpg\.png or"):
        judge_by_masks(audit, data, tmp_path / "empty", device=CPU)
    nameless = replace(data, train=replace(data.train, names=()))
    with pytest.raises(DataError, match="these images have none"):
        judge_by_masks(audit, nameless, tmp_path / "empty", device=CPU)
    with pytest.raises(DataError, match=r"masks must be \[120, 16, 16\]; got \[119, 16, 16\]"):
        judge_by_masks(audit, data, objects[1:], device=CPU)
    with pytest.raises(DataError, match=r"lie in \[0, 1\]"):
        judge_by_masks(audit, data, objects.float() * 255, device=CPU)
    with pytest.raises(ConfigError, match="at least 1 image"):
        judge_by_masks(audit, data, objects, images=0, device=CPU)
    pixels = data.train.images[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="Is it the image itself"):
        MaskFile(tmp_path).of("x.jpg", 4, 4)
    np.savez(tmp_path / "m.npz", x=np.full((4, 4), 255.0))
    with pytest.raises(DataError, match=r"outside \[0, 1\]"):
        MaskFile(tmp_path / "m.npz").of("x", 4, 4)
    for content in (b"no archive", b""):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as a file of masks"):
            MaskFile(tmp_path / "broken.npz")
    assert audit.verdicts().all() == []


# --- texts


TEXTS = ("a red corner", "no red corner", "something else")


def similar(x: Tensor, texts: list[str]) -> Tensor:
    """What a model of texts and images would say of these images."""
    corner = x[:, 0, :4, :4].float().mean((1, 2)) / 255
    other = x[:, 2].float().flatten(1).std(1) / 255  # grey noise, which the network cannot see
    known = dict(zip(TEXTS, (corner, -corner, other), strict=True))
    return torch.stack([known[text] for text in texts], 1)


def test_texts_whose_gap_is_no_chance_are_kept(data, net, tmp_path):
    audit = make_audit(tmp_path / "a", data, net, cues=text_cues(similar, TEXTS), device=CPU)
    measure_gaps(audit, k=30)
    found = {(j.feature.class_index, j.feature.name): j for j in judge_by_text(audit, TEXTS)}
    assert len(found) == 6
    assert [pair for pair, j in found.items() if j.kept] == [(1, "a red corner")]
    assert found[1, "a red corner"].gap == 1.0
    assert found[1, "no red corner"].gap == -1.0  # far from chance, but the other way
    assert found[1, "something else"].q > 0.05
    assert found[0, "a red corner"].gap == 0.0  # this class is always right
    (answer,) = audit.verdicts().all()
    assert (answer.annotator, answer.answer, answer.class_index) == ("text", "background", 1)
    gaps = measure_gaps(audit, k=30)
    assert gaps["answers"]["automatic"] == 1
    gap = gaps["splits"]["test"]["verdicts"]["classes"][0]["gap"]["value"]
    assert gap == pytest.approx(2 / 3)  # 20 of the 30 images of the low end are without the corner
    assert not any(j.kept for j in judge_by_text(audit, TEXTS, level=1e-30))
    assert audit.verdicts().all() == []  # replaced


def always(given: Tensor) -> Similarity:
    return lambda _x, _texts: given


def test_texts_that_cannot_be(audit, data):
    for texts in ((), ("a", "a"), (" ",)):
        with pytest.raises(ConfigError, match="one or more different texts"):
            text_cues(similar, texts)
    for given in (torch.zeros(120), torch.full((120, 1), torch.nan)):
        with pytest.raises(DataError, match=r"must be \[120, 1\] finite numbers"):
            text_cues(always(given), ["a"])("train", data.train)
    with pytest.raises(DataError, match="has no cue 'a red corner'"):
        judge_by_text(audit, TEXTS)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        judge_by_text(audit, TEXTS, level=5)
