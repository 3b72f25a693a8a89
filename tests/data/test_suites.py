"""The synthetic suites, the colouring, and what all suites have in common."""

from __future__ import annotations

import gzip
import importlib.metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from truecue.data import suites
from truecue.data.sets import ImageSet, Splits
from truecue.data.suites import SUITES, Folder, open_data, suite_named, suite_names
from truecue.data.suites.assignment import assign
from truecue.data.suites.colored_mnist import ColoredMNIST
from truecue.data.suites.colour import NAMES, PALETTE, SIGMAS, Colours, draw_colours
from truecue.data.suites.digits import Digits
from truecue.data.suites.gratings import Gratings
from truecue.data.suites.mnist import read_idx, read_mnist
from truecue.data.suites.splitting import drawn, stratified
from truecue.errors import ConfigError, DataError

# the label counts of MNIST
MNIST = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def cells(data: ImageSet, name: str) -> torch.Tensor:
    values, names = data.attributes[name]
    index = data.y * len(names) + values
    shape = (len(data.classes), len(names))
    return torch.bincount(index, minlength=shape[0] * shape[1]).reshape(shape)


def same(a: Splits, b: Splits) -> bool:
    return all(
        torch.equal(torch.as_tensor(x.images[:]), torch.as_tensor(y.images[:]))
        and torch.equal(x.y, y.y)
        and x.names == y.names
        and all(torch.equal(x.attributes[k].values, y.attributes[k].values) for k in x.attributes)
        for x, y in zip(a.parts().values(), b.parts().values(), strict=True)
    )


class TestAssign:
    def test_examples(self) -> None:
        """The official function's results for two small inputs."""
        y = np.repeat([0, 1, 2], 10)
        expected = [0] * 8 + [1, 2] + [0] + [1] * 8 + [2] + [0, 1] + [2] * 8
        assert assign(y, 0.8, 3).tolist() == expected
        expected = [0] * 5 + [1] * 5
        assert assign(np.arange(10) % 2, 0.6, 2).tolist() == expected

    @pytest.mark.parametrize(
        ("share", "aligned"),
        [(0.005, 59700), (0.01, 59402), (0.02, 58801), (0.05, 57000), (0.1, 54001), (0.2, 47999)],
    )
    def test_mnist_counts(self, share: float, aligned: int) -> None:
        y = np.repeat(np.arange(10), MNIST)
        assert (assign(y, 1 - share, 10) == y).sum() == aligned

    def test_cifar_counts(self) -> None:
        y = np.repeat(np.arange(10), 5000)
        assert (assign(y, 0.995, 10) == y).sum() == 49750

    def test_mnist_zeros(self) -> None:
        y = np.repeat(np.arange(10), MNIST)
        zeros = assign(y, 0.995, 10)[y == 0]
        assert np.bincount(zeros).tolist() == [5893, 4, 3, 3, 4, 3, 3, 3, 4, 3]

    def test_mnist_test_is_uniform(self) -> None:
        y = np.repeat(np.arange(10), MNIST_TEST)
        colour = assign(y, 0.1, 10)
        table = np.bincount(y * 10 + colour, minlength=100)
        assert (table.min(), table.max()) == (89, 114)
        assert (colour == y).sum() == 1000

    @settings(max_examples=60, deadline=None)
    @given(
        y=st.lists(st.integers(0, 3), max_size=40),
        aligned=st.floats(0, 1),
    )
    def test_slow_form(self, y: list[int], aligned: float) -> None:
        """The published rule, sample by sample."""
        given_values = assign(np.array(y, dtype=np.int64), aligned, 4)
        seen = [0] * 4
        for label, value in zip(y, given_values, strict=True):
            shares = [aligned if j == label else (1 - aligned) / 3 for j in range(4)]
            ends = [np.round(y.count(label) * s) for s in np.cumsum(shares)]
            assert value == min(j for j in range(4) if ends[j] > seen[label])
            seen[label] += 1


class TestColours:
    def test_truncation(self) -> None:
        grey = np.array([[[0, 128], [255, 64]]], dtype=np.uint8)
        colours = Colours(np.array([0]), np.zeros((1, 3), np.float32))
        painted = colours.paint(grey, np.array([0]))[0].permute(1, 2, 0)
        assert painted.tolist() == [[[0, 0, 0], [125, 40, 21]], [[250, 79, 42], [62, 20, 10]]]

    def test_palette(self) -> None:
        assert (PALETTE * 255).round().astype(int)[[0, 4, 9]].tolist() == [
            [251, 80, 43],
            [22, 198, 250],
            [213, 52, 68],
        ]
        assert len(NAMES) == len(set(NAMES)) == 10

    @pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
    def test_noise(self, severity: int) -> None:
        noise = draw_colours(np.zeros(20000, np.int64), 0.9, severity, 0).noise
        assert noise.std() == pytest.approx(SIGMAS[severity - 1], rel=0.02)
        assert abs(noise.mean()) < SIGMAS[severity - 1] * 0.02

    def test_painting_matches_one_at_a_time(self) -> None:
        draw = np.random.default_rng(0)
        grey = draw.integers(0, 256, (300, 4, 4), dtype=np.uint8)
        colours = draw_colours(draw.integers(0, 10, 300), 0.5, 1, 3)
        ids = draw.permutation(300)[:280]
        painted = colours.paint(grey, ids)
        for place, i in enumerate(ids):
            tint = np.clip(PALETTE[colours.values[i]] + colours.noise[i], 0, 1)
            slow = (tint[:, None, None] * grey[i].astype(np.float32)).astype(np.uint8)
            np.testing.assert_array_equal(painted[place], slow)


class TestSplitting:
    @settings(max_examples=60, deadline=None)
    @given(
        y=st.lists(st.integers(0, 4), min_size=1, max_size=60),
        share=st.floats(0.01, 0.99),
        seed=st.integers(0, 5),
    )
    def test_stratified(self, y: list[int], share: float, seed: int) -> None:
        labels = np.array(y)
        first, second = stratified(labels, share, seed)
        assert sorted([*first, *second]) == list(range(len(y)))
        for label in set(y):
            n, taken = y.count(label), int((labels[second] == label).sum())
            assert abs(taken - share * n) <= 1
            if n > 1:
                assert 1 <= taken < n
        np.testing.assert_array_equal(second, stratified(labels, share, seed)[1])

    def test_nothing_wanted(self) -> None:
        assert len(stratified(np.array([0, 1]), 0, 0)[1]) == 0
        assert len(drawn(10, 0, 0)[1]) == 0

    def test_drawn(self) -> None:
        kept, out = drawn(100, 0.3, 1, "x")
        assert len(out) == 30
        assert sorted([*kept, *out]) == list(range(100))
        assert out.tolist() != drawn(100, 0.3, 2, "x")[1].tolist()


def train(splits: Splits, net: nn.Module, epochs: int) -> torch.Tensor:
    """Plain training; accuracy on each test cell [classes, values]."""
    x, y = splits.train.images[:].float() / 255, splits.train.y
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(epochs):
        for ids in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[ids]), y[ids]).backward()
            optimizer.step()
    with torch.no_grad():
        right = net(splits.test.images[:].float() / 255).argmax(1) == splits.test.y
    assert splits.bias
    total = cells(splits.test, splits.bias)
    return cells(splits.test.select(right), splits.bias) / total


class TestGratings:
    def test_shape_and_counts(self) -> None:
        splits = Gratings().load()
        assert {name: len(part) for name, part in splits.parts().items()} == {
            "train": 1024,
            "val": 256,
            "test": 512,
        }
        assert splits.train.shape == (3, 16, 16)
        assert cells(splits.train, "tint").tolist() == [[502, 10], [10, 502]]
        assert cells(splits.test, "tint").tolist() == [[128, 128], [128, 128]]

    def test_seed(self) -> None:
        assert same(Gratings().load(seed=1), Gratings().load(seed=1))
        assert not same(Gratings().load(seed=1), Gratings().load(seed=2))

    @pytest.mark.parametrize("seed", [0, 1])
    def test_plain_training_follows_the_tint(self, seed: int) -> None:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 2))
        table = train(Gratings().load(seed=seed), net, epochs=8)
        assert table.diagonal().min() > 0.97
        assert table.min() < 0.1

    @pytest.mark.parametrize("seed", [0, 1])
    def test_plain_training_succeeds_without_bias(self, seed: int) -> None:
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 2),
        )
        table = train(Gratings(conflicting=0.5).load(seed=seed), net, epochs=12)
        assert table.min() > 0.95


class TestDigits:
    def test_sizes_and_colours(self) -> None:
        splits = Digits(conflicting=0.05, train_size=3000, test_size=2000).load()
        assert splits.train.shape == (3, 28, 28)
        assert (len(splits.train), len(splits.test)) == (3000, 2000)
        assert splits.val is not None
        assert len(splits.val) == 600
        table = cells(splits.train, "colour")
        assert table.trace() / 3000 == pytest.approx(0.95, abs=0.003)
        test = cells(splits.test, "colour")
        assert test.min() >= 15
        assert (test / test.sum(1, keepdim=True) - 0.1).abs().max() < 0.01
        assert (test.sum(1) - 200).abs().max() < 15

    def test_no_source_digit_in_two_splits(self) -> None:
        parts = [set(p.names) for p in Digits(train_size=2000).load(seed=3).parts().values()]
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert len(set.union(*parts)) == 1797

    def test_seed(self) -> None:
        suite = Digits(train_size=300, test_size=100)
        assert same(suite.load(seed=1), suite.load(seed=1))
        assert not same(suite.load(seed=1), suite.load(seed=2))

    def test_no_validation_images(self) -> None:
        assert Digits(train_size=300, test_size=100, val_share=0).load().val is None

    def test_digits_stay_in_the_picture(self) -> None:
        """Hardly any ink is lost at the border."""
        images = Digits(train_size=1000, test_size=100).load().train.images[:].float()
        ink = images.sum(1)
        border = ink[:, [0, -1]].sum() + ink[:, :, [0, -1]].sum()
        assert border / ink.sum() < 0.02


def tiny_mnist(n: int = 40) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        "x_train": draw.integers(0, 256, (n, 28, 28), dtype=np.uint8),
        "y_train": (np.arange(n) % 10).astype(np.uint8),
        "x_test": draw.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "y_test": (np.arange(20) % 10).astype(np.uint8),
    }


IDX = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def write_idx(folder: Path, arrays: dict[str, np.ndarray], form: str = "{}") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        path = folder / form.format(IDX[name])
        data = head + array.tobytes()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


class TestColoredMNIST:
    @pytest.mark.parametrize(
        ("place", "form"),
        [(".", "{}"), (".", "{}.gz"), ("MNIST/raw", "{}"), ("mnist", "{}.gz"), ("x", "npz")],
    )
    def test_layouts(self, tmp_path: Path, place: str, form: str) -> None:
        arrays = tiny_mnist()
        root = tmp_path / "root"
        if form == "npz":
            root.mkdir()
            np.savez_compressed(root / "mnist.npz", **arrays)
        else:
            write_idx(root / place, arrays, form)
        found = read_mnist(root)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
        assert found["y_train"].dtype == np.int64

    def test_npz_by_name_and_dots(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "digits.npz", **tiny_mnist())
        assert len(read_mnist(tmp_path / "digits.npz")["y_train"]) == 40
        write_idx(tmp_path / "b", tiny_mnist())
        for path in (tmp_path / "b").iterdir():
            path.rename(path.with_name(path.name.replace("-idx", ".idx")))
        assert len(read_mnist(tmp_path / "b")["y_train"]) == 40

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"MNIST needs a folder.*train-images-idx3-ubyte"):
            ColoredMNIST().load()
        with pytest.raises(DataError, match=r"there is no MNIST in .*Expected: mnist\.npz"):
            ColoredMNIST().load(tmp_path)
        write_idx(tmp_path, tiny_mnist())
        (tmp_path / IDX["y_test"]).unlink()
        with pytest.raises(DataError, match="only a part of MNIST; t10k-labels-idx1-ubyte is not"):
            ColoredMNIST().load(tmp_path)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "not an IDX file"),
            (b"\x00\x00\x0d\x01" + bytes(8), "not an IDX file of bytes"),
            (b"\x00\x00\x08\x03" + bytes(4), "not an IDX file of bytes"),
            (b"\x00\x00\x08\x01\x00\x00\x00\x05ab", "should hold 5 values and holds 2"),
        ],
    )
    def test_bad_idx(self, tmp_path: Path, data: bytes, message: str) -> None:
        path = tmp_path / "x"
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            read_idx(path)

    def test_bad_gz_and_npz(self, tmp_path: Path) -> None:
        path = tmp_path / "x.gz"
        path.write_bytes(gzip.compress(bytes(1000))[:-9])
        with pytest.raises(DataError, match=r"x\.gz cannot be read"):
            read_idx(path)
        (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 not a zip")
        with pytest.raises(DataError, match="cannot be read as MNIST"):
            read_mnist(tmp_path)
        np.savez(tmp_path / "mnist.npz", x_train=np.zeros(3))
        with pytest.raises(DataError, match="cannot be read as MNIST"):
            read_mnist(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x_train": np.zeros((40, 32, 32), np.uint8)}, r"uint8 images \[n, 28, 28\]"),
            ({"y_train": np.full(40, 10, np.uint8)}, "integers 0 to 9"),
            ({"y_test": np.zeros(3, np.uint8)}, "should be 20 integers"),
        ],
    )
    def test_not_digits(self, tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
        np.savez(tmp_path / "mnist.npz", **(tiny_mnist() | change))
        with pytest.raises(DataError, match=message):
            read_mnist(tmp_path)

    def test_changed_file_is_read_again(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "mnist.npz", **tiny_mnist())
        read_mnist(tmp_path)
        np.savez(tmp_path / "mnist.npz", **tiny_mnist(50))
        assert len(read_mnist(tmp_path)["y_train"]) == 50

    def test_colours_do_not_depend_on_the_seed(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "mnist.npz", **tiny_mnist(400))
        suite = ColoredMNIST(conflicting=0.2, val_share=0)
        a, b = suite.load(tmp_path, seed=0), suite.load(tmp_path, seed=1)
        assert a.val is None
        assert torch.equal(a.train.attributes["colour"].values, b.train.attributes["colour"].values)
        assert not torch.equal(a.train.images[:], b.train.images[:])
        assert same(a, suite.load(tmp_path, seed=0))
        # the noise is a few grey levels at most
        apart = (a.train.images[:].int() - b.train.images[:].int()).abs().max()
        assert apart < 12

    def test_validation_images_are_a_part_of_the_coloured_ones(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "mnist.npz", **tiny_mnist(400))
        whole = ColoredMNIST(val_share=0).load(tmp_path)
        parts = ColoredMNIST(val_share=0.25).load(tmp_path)
        assert parts.val is not None
        assert (len(parts.train), len(parts.val)) == (300, 100)
        rows = {bytes(x.numpy()) for x in whole.train.images[:]}
        divided = [bytes(x.numpy()) for p in (parts.train, parts.val) for x in p.images[:]]
        assert sorted(divided) == sorted(rows)

    def test_real_mnist(self, real_data: Path) -> None:
        splits = ColoredMNIST(conflicting=0.005).load(real_data)
        assert splits.val is not None
        assert (len(splits.train), len(splits.val), len(splits.test)) == (54000, 6000, 10000)
        both = cells(splits.train, "colour") + cells(splits.val, "colour")
        assert both.trace() == 59700
        assert both.sum(1).tolist() == MNIST
        assert both[0].tolist() == [5893, 4, 3, 3, 4, 3, 3, 3, 4, 3]
        test = cells(splits.test, "colour")
        assert test.sum(1).tolist() == MNIST_TEST
        assert (test.min(), test.max(), test.trace()) == (89, 114, 1000)
        assert splits.bias == "colour"


class TestByName:
    def test_all_suites(self) -> None:
        assert suite_names() == sorted(SUITES)
        for name, suite in SUITES.items():
            assert suite_named(name) is suite
            assert suite.__doc__
            assert suite.source
            assert suite.licence
            assert suite.from_toml(suite().to_toml()) == suite()

    def test_unknown(self) -> None:
        with pytest.raises(ConfigError, match="no suite 'grating'; did you mean 'gratings'"):
            suite_named("grating")
        with pytest.raises(
            ConfigError, match=r"'digit'; did you mean 'digits'\? \(suites: .*colored_mnist"
        ):
            open_data("digit")
        with pytest.raises(ConfigError, match="no setting 'conflict'; did you mean 'conflicting'"):
            open_data("gratings", {"conflict": 0.1})
        with pytest.raises(DataError, match=r"no folder or table \./digitz"):
            open_data("./digitz")

    def test_settings(self) -> None:
        assert open_data("gratings", {"conflicting": 0.1}) == Gratings(conflicting=0.1)

    def test_paths(self, tmp_path: Path, zoo: Path) -> None:
        assert open_data(str(zoo), {"size": 32}) == Folder(root=str(zoo), size=32)
        table = tmp_path / "t.CSV"
        table.write_text("file,label\n")
        assert open_data(str(table)) == Folder(root=str(tmp_path), table=str(table))
        (tmp_path / "x.txt").touch()
        with pytest.raises(DataError, match="neither an image folder nor a table"):
            open_data(str(tmp_path / "x.txt"))

    def test_other_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        points = [
            SimpleNamespace(name="mine", value="m:Mine", load=lambda: Gratings),
            SimpleNamespace(name="bad", value="m:bad", load=lambda: 3),
        ]

        def entry_points(group: str, name: str | None = None) -> list[SimpleNamespace]:
            assert group == "truecue.suites"
            return [p for p in points if name in (None, p.name)]

        assert callable(importlib.metadata.entry_points)
        monkeypatch.setattr(suites, "entry_points", entry_points)
        assert suite_named("mine") is Gratings
        assert isinstance(open_data("mine"), Gratings)
        with pytest.raises(ConfigError, match="'m:bad' of suite 'bad' is not a Suite"):
            suite_named("bad")
