"""The suite `planted`: which image shows what, on which bases, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from truecue.data.cues import CUES
from truecue.data.sets import ArrayFile, ImageSet, Splits
from truecue.data.suites import open_data, planted
from truecue.data.suites.digits import Digits
from truecue.data.suites.gratings import Gratings
from truecue.data.suites.planted import Planted, draw_values, tied
from truecue.errors import ConfigError, DataError

SMALL = {"train_size": 1000, "test_size": 500}


def load(*cues: str, seed: int = 0, **changes: object) -> Splits:
    changes = {"base_settings": SMALL} | changes
    return Planted(cues=cues, **changes).load(seed=seed)  # type: ignore[arg-type]


def table(part: ImageSet, name: str) -> torch.Tensor:
    """Images [classes, values]."""
    values, names = part.attributes[name]
    shape = (len(part.classes), len(names))
    return torch.bincount(part.y * shape[1] + values, minlength=shape[0] * shape[1]).view(shape)


def strange(part: ImageSet, name: str) -> torch.Tensor:
    """Which images are conflicting: bool [n]."""
    values, names = part.attributes[name]
    return values != part.y % len(names)


class TestWhichImageShowsWhat:
    @pytest.mark.parametrize("name", CUES)
    @pytest.mark.parametrize("share", [0.5, 0.2, 0.005])
    def test_stated_share_of_each_class_is_conflicting(self, name: str, share: float) -> None:
        data = load(name, conflicting=share)
        assert data.val is not None
        for part in (data.train, data.val):
            counts = table(part, name)
            mine = counts[tied(*counts.shape)]
            wanted = torch.tensor([n - round(share * n) for n in counts.sum(1).tolist()])
            assert torch.equal(mine, wanted)
            others = counts[~tied(*counts.shape)].view(10, -1)
            assert int((others.amax(1) - others.amin(1)).max()) <= 1

    @pytest.mark.parametrize("name", CUES)
    def test_all_values_are_as_frequent_in_test_images(self, name: str) -> None:
        data = load(name, conflicting=0.01)
        counts = table(data.test, name)
        assert int((counts.amax(1) - counts.amin(1)).max()) <= 1
        assert data.bias == name
        assert data.aligned is not None
        assert torch.equal(data.aligned, tied(10, counts.shape[1]))
        assert bool((data.aligned.sum(1) == 1).all())

    @settings(max_examples=60, deadline=None)
    @given(
        y=st.lists(st.integers(0, 4), min_size=1, max_size=60),
        total=st.integers(2, 5),
        share=st.one_of(st.none(), st.floats(0, 1)),
    )
    def test_draw(self, y: list[int], total: int, share: float | None) -> None:
        labels = np.array(y)
        values = draw_values(labels, total, share, 3)
        np.testing.assert_array_equal(labels, y)
        for label in set(y):
            counts = np.bincount(values[labels == label], minlength=total)
            others = counts if share is None else np.delete(counts, label % total)
            assert others.max() - others.min() <= 1
            if share is not None:
                assert counts[label % total] == counts.sum() - round(share * counts.sum())

    def test_order_is_drawn(self) -> None:
        """Not in blocks along the data: the first half has about as many conflicting images."""
        data = load("patch", conflicting=0.5)
        first = strange(data.train, "patch")[:500].float().mean()
        assert 0.43 < float(first) < 0.57

    def test_seed_decides(self) -> None:
        for name in ("object", "patch"):
            one, again, other = (load(name, seed=seed) for seed in (1, 1, 2))
            for split, part in one.parts().items():
                same, differs = again.parts()[split], other.parts()[split]
                assert torch.equal(part.images[:], same.images[:])
                assert torch.equal(part.attributes[name].values, same.attributes[name].values)
                assert not torch.equal(part.images[:], differs.images[:])
        first, second = (load("patch", seed=s).train for s in (1, 2))
        assert not torch.equal(strange(first, "patch"), strange(second, "patch"))

    def test_two_cues_are_independent(self) -> None:
        data = load("patch", "blur", conflicting=0.3, base_settings={"train_size": 4000})
        patch, blur = strange(data.train, "patch"), strange(data.train, "blur")
        both = float((patch & blur).float().mean())
        assert abs(both - 0.3 * 0.3) < 0.03
        # of the images in which both conflict, one value does not tell the other
        a, b = (data.train.attributes[name].values[patch & blur] for name in ("patch", "blur"))
        joint = torch.bincount(a * 3 + b, minlength=30).view(10, 3).float()
        expected = joint.sum(1, keepdim=True) * joint.sum(0) / joint.sum()
        assert float(((joint - expected) ** 2 / expected).sum()) < 42  # chi-squared, 18 df: 0.1 %
        assert data.bias == "patch"
        assert load("blur", "patch").bias == "blur"

    def test_a_cue_is_drawn_the_same_beside_another(self) -> None:
        alone, both = load("patch"), load("blur", "patch")
        assert torch.equal(
            alone.train.attributes["patch"].values, both.train.attributes["patch"].values
        )

    def test_recorded_value_is_the_one_that_is_shown(self) -> None:
        from truecue.data.cues import COLOURS

        part = load("patch", conflicting=0.5).test
        shown = part.images[:][..., 1, 1].float()
        palette = torch.tensor(list(COLOURS.values())).float()
        assert torch.equal(torch.cdist(shown, palette).argmin(1), part.attributes["patch"].values)
        assert part.attributes["patch"].names == tuple(COLOURS)


class TestBases:
    def test_digits_are_grey_and_without_a_bias(self) -> None:
        data = Digits(coloured=False, train_size=300, test_size=100).load()
        assert (data.bias, data.aligned, dict(data.train.attributes)) == (None, None, {})
        assert data.train.shape == (3, 28, 28)
        assert bool((data.train.images[:, :1] == data.train.images[:]).all())
        # the same digits as the coloured ones
        coloured = Digits(train_size=300, test_size=100).load().train
        assert torch.equal(data.train.y, coloured.y)
        brightest = coloured.images[:].amax(1).int()  # 230 or 255 times the grey value
        assert int((brightest - data.train.images[:, 0].int()).abs().max()) < 35

    def test_nothing_planted(self) -> None:
        base = Digits(coloured=False, **SMALL).load(seed=3)  # type: ignore[arg-type]
        for cues in ("none", ("none",), ()):
            data = Planted(cues=cues, base_settings=SMALL).load(seed=3)  # type: ignore[arg-type]
            assert (data.bias, data.aligned, data.notes) == (None, None, ())
            for split, part in data.parts().items():
                assert torch.equal(part.images[:], base.parts()[split].images[:])
                assert torch.equal(part.y, base.parts()[split].y)
                assert part.names == base.parts()[split].names
                assert not part.attributes

    def test_labels_names_and_attributes_are_kept(self) -> None:
        base = Gratings(conflicting=0.5).load(seed=2)
        data = Planted(base="gratings", cues=("object",)).load(seed=2)
        for split, part in data.parts().items():
            theirs = base.parts()[split]
            assert torch.equal(part.y, theirs.y)
            assert torch.equal(part.attributes["tint"].values, theirs.attributes["tint"].values)
            assert len(part.attributes["object"].names) == 2
        assert data.notes == (
            "planted: object with 2 values, 5.00% of the training images conflicting, visibility 1",
        )

    def test_a_base_may_keep_its_own_bias(self) -> None:
        data = Planted(base="gratings", base_settings={"conflicting": 0.02}).load()
        tint = (data.train.attributes["tint"].values == data.train.y).float().mean()
        assert float(tint) > 0.97

    def test_planted_on_planted(self) -> None:
        inner = {"cues": ["blur"], "base_settings": SMALL, "conflicting": 0.2}
        data = Planted(base="planted", base_settings=inner, conflicting=0.1).load()
        assert list(data.train.attributes) == ["blur", "patch"]
        assert float(strange(data.train, "blur").float().mean()) == pytest.approx(0.2, abs=0.01)

    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        """96 waves and noise, no border of one colour, in two class folders."""
        draw = np.random.default_rng(0)
        along = np.linspace(0, 6, 40)
        for i in range(96):
            pixels = 127 + 60 * np.sin(along + draw.uniform(0, 6, (40, 3, 1))).transpose(0, 2, 1)
            pixels = (pixels + 15 * draw.standard_normal(pixels.shape)).clip(0, 255)
            path = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        return tmp_path / "photos"

    @pytest.mark.parametrize("name", CUES)
    def test_a_folder_of_photos(self, name: str, photos: Path) -> None:
        data = Planted(base=str(photos), cues=(name,), base_settings={"size": 32}).load()
        plain = open_data(str(photos), {"size": 32}).load()
        assert data.train.shape == (3, 32, 32)
        assert data.train.names == plain.train.names
        assert isinstance(data.train.images, torch.Tensor)
        assert not torch.equal(data.train.images, plain.train.images[:])
        # the small splits, too: 20 % of 96
        assert table(data.test, name).tolist() == [[5, 5], [5, 5]]
        assert any("resized" in note for note in data.notes)

    def test_root_is_handed_on(self, photos: Path) -> None:
        data = Planted(base="folder", base_settings={"size": 16}).load(photos)
        assert len(data.train) > 60

    def test_large_sets_go_to_the_cache(
        self, photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        suite = Planted(base=str(photos), cues=("object", "texture"), base_settings={"size": 32})
        small = suite.load()
        monkeypatch.setattr(planted, "_LARGE", 100)
        monkeypatch.setattr(planted, "_BATCH", 10)
        large = suite.load()
        for split, part in large.parts().items():
            assert isinstance(part.images, ArrayFile)
            assert torch.equal(part.images[:], small.parts()[split].images[:])
        kept = sorted(cache.glob("planted-*"))
        assert len(kept) == 3
        suite.load()
        assert sorted(cache.glob("planted-*")) == kept
        Planted(**suite.to_dict() | {"visibility": 0.5}).load()
        assert len(list(cache.glob("planted-*"))) == 6

    def test_ten_thousand_images_take_seconds(self) -> None:
        import time

        from truecue.data.cues import Given, plant

        images = torch.randint(0, 256, (1000, 3, 64, 64), dtype=torch.uint8)
        for name, cue in CUES.items():
            values = torch.arange(1000) % cue.most
            start = time.process_time()
            plant(images, {name: Given(values, cue.most, torch.rand(1000, 2))})
            assert time.process_time() - start < 2, name  # measured: 0.05 to 0.5


class TestRefusals:
    def test_settings(self) -> None:
        with pytest.raises(ConfigError, match="no cue 'pach'; did you mean 'patch'"):
            Planted(cues=("pach",))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="'none' stands alone"):
            Planted(cues=("patch", "none"))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="each cue can be planted once"):
            Planted(cues=("patch", "patch"))
        for share in (-0.1, 1.01):
            with pytest.raises(ConfigError, match="conflicting must be"):
                Planted(conflicting=share)
        with pytest.raises(ConfigError, match="visibility must be"):
            Planted(visibility=1.5)
        with pytest.raises(ConfigError, match="3 values of blur can be told apart; got 4"):
            Planted(cues=("patch", "blur"), values=4)
        with pytest.raises(ConfigError, match="cues"):
            Planted(cues=3)  # type: ignore[arg-type]

    def test_more_values_than_classes(self) -> None:
        with pytest.raises(ConfigError, match="at most the number of classes, which is 2; got 3"):
            Planted(base="gratings", values=3).load()
        assert len(load("patch", values=3).train.attributes["patch"].names) == 3

    def test_bases(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no suite, folder or table 'digit'; did you mean"):
            Planted(base="digit").load()
        with pytest.raises(DataError, match="has no images"):
            Planted(base=str(tmp_path)).load()
        with pytest.raises(ConfigError, match="Digits has no setting 'sise'"):
            Planted(base_settings={"sise": 3}).load()
        with pytest.raises(DataError, match="'planted' already have an attribute 'patch'"):
            Planted(base="planted").load()

    def test_images_that_are_too_small(self) -> None:
        # gratings have 16 pixels, the least there may be
        assert Planted(base="gratings").load().train.shape == (3, 16, 16)


def test_settings_from_the_command_line() -> None:
    from truecue.config import parse_assignments

    changes = parse_assignments(
        ['cues=["blur", "size"]', "base_settings.train_size=500", "base_settings.test_size=200"]
    )
    suite = open_data("planted", changes)
    assert suite == Planted(
        cues=("blur", "size"), base_settings={"train_size": 500, "test_size": 200}
    )
    assert open_data("planted", parse_assignments(["cues=blur"])) == Planted(cues=("blur",))
    assert Planted.from_toml(suite.to_toml()) == suite


def test_train_and_evaluate_on_the_command_line(tmp_path: Path) -> None:
    import json

    from typer.testing import CliRunner

    from truecue.cli.main import app

    small = [f"data.base_settings.{name}={size}" for name, size in SMALL.items()]
    data = ["data.base=digits", 'data.cues=["object", "patch"]', "data.values=4", *small]
    sets = [word for item in data for word in ("--set", item)]
    common = ["planted", *sets, "--device", "cpu"]
    run = ["train", "erm", *common, "--set", "plan.epochs=1", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*run, "--quiet"])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["task"]["bias"] == "object"
    assert report["task"]["settings"]["cues"] == ["object", "patch"]
    again = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), *common, "--json"])
    assert again.exit_code == 0, again.output
    measured = json.loads(again.output)["models"]["erm"]["test"]["conflicting"]
    assert measured == report["models"]["erm"]["test"]["conflicting"]
    wrong = CliRunner().invoke(app, ["train", "erm", "planted", "--set", "data.base=./no"])
    assert wrong.exit_code != 0
