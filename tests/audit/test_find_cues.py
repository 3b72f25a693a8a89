"""Alarms where a model goes by a cue, and silence where it does not; models are made by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from truecue import CueColumn, CueTable, Device, find_cues
from truecue.data.sets import ImageSet
from truecue.errors import ConfigError, DataError

CLASSES = ("high", "middle", "low")
CORNER = "upper left corner"


def scenes(n: int, follows: float, seed: int, dark: tuple[float, ...] = (0, 0, 0)) -> ImageSet:
    """A bar at one of three heights, and a corner whose grey goes with it.

    Args:
        n: number of images.
        follows: share of images whose corner is that of their class; others draw one.
        seed: of the draws.
        dark: share of each class's images that are dark.
    """
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    images = torch.randint(90, 130, (n, 3, 24, 24), generator=rng).float()
    for c in range(3):
        images[y == c, :, 8 + 3 * c : 11 + 3 * c, 6:18] = 220
    drawn = torch.randint(0, 3, (n,), generator=rng)
    corner = torch.where(torch.rand(n, generator=rng) < follows, y, drawn)
    images[:, :, :4, :4] = (40 + 80 * corner.float()).view(-1, 1, 1, 1)
    images[torch.rand(n, generator=rng) < torch.tensor(dark)[y]] *= 0.4
    return ImageSet(images.round().to(torch.uint8), y, CLASSES)


def by_bar(x: Tensor) -> Tensor:
    """Right about every image, whatever its corner."""
    rows = x[:, :, 8:17, 9:15].float().mean((1, 3))
    return rows.unflatten(1, (3, 3)).mean(2) / 10


def by_corner(x: Tensor) -> Tensor:
    """Says what the corner says."""
    corner = x[:, :, :3, :3].float().mean((1, 2, 3))
    return -(corner.unsqueeze(1) - torch.tensor([40.0, 120, 200])).abs() / 10


def found(
    model: Callable[[Tensor], Tensor], train: ImageSet, test: ImageSet, **settings: object
) -> CueTable:
    return find_cues(
        train, test, model(test.images[:]), model=model, draws=499, images=150,
        device=Device("cpu"), **settings,
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return scenes(600, 0.9, 0)


@pytest.fixture(scope="module")
def test() -> ImageSet:
    return scenes(300, 0.0, 1)


def verdicts(table: CueTable) -> dict[str, str]:
    return {f.name: f.verdict for f in table.findings}


def test_a_cue_that_is_available_and_used_alarms(train: ImageSet, test: ImageSet) -> None:
    table = found(by_corner, train, test)
    corner = next(f for f in table.findings if f.name == CORNER)
    assert corner.verdict == "alarm"
    assert table.alarms[0].used is not None
    assert corner.available is not None
    assert corner.used is not None
    # 0.9 + 0.1 / 3 of the corners say the class
    assert corner.available.effect.value == pytest.approx(0.933, abs=0.03)
    # own corner: right in 0.933; of another class: right where that one says the own class, 0.033
    assert corner.used.effect.value == pytest.approx(0.9, abs=0.07)
    assert corner.used.p == pytest.approx(1 / 500)
    assert corner.how == "exchanged"
    assert any("truecue train" in step for step in corner.next)
    assert [c.name for c in corner.by_class] == list(CLASSES)
    assert "lower right corner" not in {f.name for f in table.alarms}


def test_a_cue_that_is_available_and_not_used_does_not_alarm(
    train: ImageSet, test: ImageSet
) -> None:
    table = found(by_bar, train, test)
    corner = next(f for f in table.findings if f.name == CORNER)
    assert corner.verdict == "no evidence"
    assert corner.available is not None
    assert corner.available.q <= 0.1
    assert corner.used is not None
    assert corner.used.effect.value == 0
    assert "do not go by it" in corner.why
    assert table.alarms == ()
    assert "no proof that there is none" in table.text()


def test_a_cue_that_is_used_and_not_available_does_not_alarm(test: ImageSet) -> None:
    table = found(by_corner, scenes(600, 0.0, 5), test)
    corner = next(f for f in table.findings if f.name == CORNER)
    assert corner.verdict == "no evidence"
    assert "no better" in corner.why or "not tell the class" in corner.why
    assert table.alarms == ()


def test_what_is_hard_for_all_classes_does_not_alarm() -> None:
    """The dark goes with a class in training and is hard to see in, but the model is no tell-tale.

    Own cues make images of that class dark, and cues of others the images of all other classes:
    accuracy hangs on it in every class, in one the wrong way round, and cancels in the mean.
    """

    def hard(x: Tensor) -> Tensor:
        # dark images are answered at random, by a hash of their pixels; others by the bar
        dark = x.float().mean((1, 2, 3)) < 80
        random = torch.nn.functional.one_hot(x.long().sum((1, 2, 3)) % 3, 3) * 100.0
        return torch.where(dark.unsqueeze(1), random, by_bar(x))

    train, test = (scenes(1500, 0.0, seed, dark=(0.9, 0.1, 0.1)) for seed in (2, 3))
    table = find_cues(train, test, hard(test.images[:]), model=hard, images=1500, draws=499,
                      device=Device("cpu"))  # fmt: skip
    brightness = next(f for f in table.findings if f.name == "brightness")
    assert brightness.available is not None
    assert brightness.available.effect.value > 0.5
    assert brightness.used is not None
    first, *others = (c.hangs or 0 for c in brightness.by_class)
    assert first < -0.3
    assert min(others) > 0.1
    assert abs(brightness.used.effect.value) < 0.05
    assert table.alarms == ()


def test_a_region_that_the_user_declares_is_judged(train: ImageSet, test: ImageSet) -> None:
    table = found(by_corner, train, test, nuisance={"stamp": (0, 0, 0.25, 0.25)})
    stamp = next(f for f in table.findings if f.name == "stamp")
    assert (stamp.kind, stamp.verdict) == ("nuisance", "alarm")


def test_what_may_be_core_is_a_candidate(train: ImageSet, test: ImageSet) -> None:
    table = found(by_corner, train, test, core=[CORNER])
    assert verdicts(table)[CORNER] == "candidate"
    with pytest.raises(DataError, match="did you mean 'brightness'"):
        found(by_corner, train, test, core=["brighness"])


def test_without_a_model_there_are_suspects_at_most(train: ImageSet, test: ImageSet) -> None:
    table = find_cues(train, test, by_corner(test.images[:]), draws=499)
    corner = next(f for f in table.findings if f.name == CORNER)
    assert (corner.verdict, corner.how) == ("suspect", "as found")
    assert "give the model" in corner.next[0]
    assert table.alarms == ()
    assert table.pairs == 0


def test_columns_enter_the_table(train: ImageSet, test: ImageSet) -> None:
    logits = by_corner(test.images[:])
    parts = {name: part.images[:, 0, 1, 1].float() for name, part in
             (("train", train), ("test", test))}  # type: ignore[index] # fmt: skip
    columns = {
        kind: CueColumn(parts["train"], parts["test"], kind)  # type: ignore[arg-type]
        for kind in ("score", "feature", "metadata")
    }
    columns["nothing"] = CueColumn(torch.rand(600), torch.rand(300))
    table = find_cues(train, test, logits, columns=columns, draws=499)
    said = verdicts(table)
    # what files say cannot belong to a class, but nothing was exchanged; scores and features may
    assert (said["metadata"], said["score"], said["feature"]) == (
        "suspect",
        "candidate",
        "candidate",
    )
    assert said["nothing"] == "no evidence"
    strength = table.strengths["score"]
    assert strength.shape == (300,)
    assert bool(strength.isfinite().all())


def test_missing_values_may_tell_the_class(train: ImageSet, test: ImageSet) -> None:
    known = [torch.where(part.y == 0, math.nan, 1.0) for part in (train, test)]
    table = find_cues(train, test, by_bar(test.images[:]), draws=499,
                      columns={"EXIF": CueColumn(*known, "metadata")})  # fmt: skip
    exif = next(f for f in table.findings if f.name == "EXIF")
    assert exif.available is not None
    # missing tells the first class; the two others cannot be told apart
    assert exif.available.effect.value == pytest.approx(2 / 3, abs=0.01)


def test_a_constant_cue_is_not_judged(train: ImageSet, test: ImageSet) -> None:
    columns = {"same": CueColumn(torch.full((600,), 3.0), torch.rand(300)),
               "none": CueColumn(torch.full((600,), math.nan), torch.rand(300))}  # fmt: skip
    said = verdicts(find_cues(train, test, by_bar(test.images[:]), columns=columns, draws=99))
    assert said["same"] == said["none"] == "not judged"
    assert said["extent"] in ("not judged", "no evidence")


def test_the_same_seed_gives_the_same_table(train: ImageSet, test: ImageSet) -> None:
    one, two, other = (found(by_corner, train, test, seed=s).to_dict() for s in (4, 4, 5))
    assert one == two != other


def test_the_table_is_json(train: ImageSet, test: ImageSet) -> None:
    made = found(by_corner, train, test).to_dict()
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["verdict"] == "alarm"
    assert made["chance"] == pytest.approx(1 / 3)


def test_grey_images_have_no_colours(train: ImageSet, test: ImageSet) -> None:
    grey = [ImageSet(p.images[:][:, :1], p.y, p.classes) for p in (train, test)]
    table = find_cues(*grey, by_bar(test.images[:]), draws=99)
    assert "hue" not in verdicts(table)
    assert any("colours: not available" in note for note in table.notes)
    assert any("file data" in note for note in table.notes)


def test_tiny_classes_are_left_out_and_named(train: ImageSet, test: ImageSet) -> None:
    few = torch.cat(((train.y != 2).nonzero().squeeze(1), (train.y == 2).nonzero().squeeze(1)[:4]))
    table = find_cues(train.select(few), test, by_corner(test.images[:]), draws=99)
    assert "left out, fewer than 10 images: low" in table.notes
    assert table.chance == 0.5
    with pytest.raises(DataError, match="two classes or more have 10 images"):
        find_cues(train.select(train.y == 0), test, by_corner(test.images[:]))


def test_rare_classes_are_among_the_measured_images(
    test: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truecue.audit.cues._SAMPLE", 100)
    many = scenes(9000, 0.9, 2)
    ids = [(many.y == c).nonzero().squeeze(1)[:n] for c, n in enumerate((2900, 12, 10))]
    tailed = many.select(torch.cat(ids))
    seen: list[Tensor] = []

    def look(train: Tensor, test: Tensor) -> dict[str, CueColumn]:
        seen.extend((train, test))
        return {}

    table = found(by_corner, tailed, test, columns=look)
    assert torch.bincount(tailed.y[seen[0]]).tolist() == [80, 10, 10]
    assert len(seen[1]) == 100
    corner = next(f for f in table.findings if f.name == CORNER)
    assert corner.used is not None
    # ten of each class, also where that makes more
    seen.clear()
    monkeypatch.setattr("truecue.audit.cues._SAMPLE", 25)
    found(by_corner, tailed, test, columns=look)
    assert torch.bincount(tailed.y[seen[0]]).tolist() == [10, 10, 10]


def test_what_does_not_fit_is_refused(train: ImageSet, test: ImageSet) -> None:
    logits = by_bar(test.images[:])
    cases = [
        (logits[:9], {}, "logits must be"),
        (logits * math.nan, {}, "not finite"),
        (logits, {"nuisance": {"stamp": (0, 0, 2, 1)}}, "as shares of the image"),
        (logits, {"nuisance": {"hue": (0, 0, 0.5, 0.5)}}, "already a property 'hue'"),
        (logits, {"columns": {"s": CueColumn(torch.rand(5), torch.rand(300))}}, "one row for each"),
        (logits, {"columns": {"hue": CueColumn(torch.rand(600), torch.rand(300))}}, "already a"),
        (logits, {"columns": {"s": CueColumn(torch.rand(600, 2), torch.rand(300))}}, "numbers for"),
        (logits, {"columns": {"s": CueColumn(torch.rand(600) / 0, torch.rand(300))}}, "infinite"),
    ]
    for given, settings, message in cases:
        with pytest.raises(DataError, match=message):
            find_cues(train, test, given, **settings)  # type: ignore[arg-type]
    for wrong in ({"draws": 0}, {"images": 0}, {"level": 0.0}, {"least": 1.0}):
        with pytest.raises(ConfigError, match="out of range"):
            find_cues(train, test, logits, **wrong)  # type: ignore[arg-type]
    encoded = ImageSet(torch.rand(30, 5, 1, 1), torch.arange(30) % 3, CLASSES)
    with pytest.raises(DataError, match="features of a frozen encoder"):
        find_cues(encoded, encoded, torch.rand(30, 3))


def test_columns_may_be_made_of_the_measured_images_alone(
    train: ImageSet, test: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truecue.audit.cues._SAMPLE", 150)
    corner = {"a": (part.images[:, 0, 1, 1].float() for part in (train, test))}
    whole = {name: CueColumn(*values) for name, values in corner.items()}
    asked = []

    def of_measured(first: Tensor, second: Tensor) -> dict[str, CueColumn]:
        asked.append((len(first), len(second)))
        return {"a": CueColumn(whole["a"].train[first], whole["a"].test[second])}

    logits = by_corner(test.images[:])
    lazy = find_cues(train, test, logits, columns=of_measured, draws=99)
    assert asked == [(150, 150)]
    assert verdicts(lazy)["a"] == "candidate"
    assert lazy.to_dict() == find_cues(train, test, logits, columns=whole, draws=99).to_dict()
    assert any("whatever their numbers" in note for note in lazy.notes)
    assert not any("whatever" in n for n in find_cues(train, test, logits, draws=99).notes)

    def too_many(first: Tensor, _: Tensor) -> dict[str, CueColumn]:
        return {"a": CueColumn(whole["a"].train, whole["a"].test)}

    with pytest.raises(DataError, match="one row for each of the 150 training images"):
        find_cues(train, test, logits, columns=too_many, draws=99)


def test_a_cue_of_many_columns_can_tell_the_class(train: ImageSet, test: ImageSet) -> None:
    def wide(part: ImageSet, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        values = torch.randn(len(part), 130, generator=rng)
        values[:, 100:103] += 4.0 * torch.nn.functional.one_hot(part.y, 3)
        return values

    columns = {"wide": CueColumn(wide(train, 0), wide(test, 1))}
    table = find_cues(train, test, by_bar(test.images[:]), columns=columns, draws=99)
    found = next(f for f in table.findings if f.name == "wide")
    assert found.available is not None
    assert found.available.effect.value > 0.85
