"""Biased MNIST: who gets which colour, and what an image looks like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from truecue.data.suites.biased_mnist import BiasedMNIST, shuffle_colours
from truecue.errors import ConfigError, DataError

# the label counts of MNIST
MNIST = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
Y = np.random.default_rng(0).permutation(np.repeat(np.arange(10), MNIST))


def table(y: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return np.bincount(10 * y + colour, minlength=100).reshape(10, 10)


class TestColours:
    @pytest.mark.parametrize(
        ("share", "conflicting"), [(0.001, 63), (0.003, 184), (0.005, 305), (0.01, 606)]
    )
    @pytest.mark.parametrize("seed", [0, 1])
    def test_counts(self, share: float, conflicting: int, seed: int) -> None:
        """The papers' numbers of conflicting training images."""
        assert (shuffle_colours(Y, 1 - share, seed) != Y).sum() == conflicting

    @pytest.mark.parametrize("aligned", [0.999, 0.99, 0.5, 0.1, 0, 1])
    def test_pieces(self, aligned: float) -> None:
        """int(n * rho) of a class have its colour; the rest comes in nine pieces at most."""
        given = shuffle_colours(Y, aligned, 3)
        for label, counts in enumerate(table(Y, given)):
            assert counts[label] == int(MNIST[label] * aligned)
            rest = MNIST[label] - counts[label]
            piece = int(np.ceil(rest / 9))
            pieces = [min(piece, rest - start) for start in range(0, rest, max(piece, 1))]
            others = sorted(np.delete(counts, label), reverse=True)
            assert others == pieces + [0] * (9 - len(pieces))

    def test_few_images_leave_colours_out(self) -> None:
        """6 conflicting images of a class are 6 pieces of one; 7 colours of 10 are seen."""
        counts = table(Y, shuffle_colours(Y, 0.999, 0))
        assert ((counts > 0).sum(1) == 1 + np.array([6, 7, 6, 7, 6, 6, 6, 7, 6, 6])).all()

    def test_shuffled(self) -> None:
        """Neither the conflicting images nor the other colours follow an order."""
        given = shuffle_colours(Y, 0.99, 0)
        other = shuffle_colours(Y, 0.99, 1)
        assert (given == shuffle_colours(Y, 0.99, 0)).all()
        assert ((given != Y) & (other != Y)).sum() < 20
        places = np.flatnonzero((given != Y)[Y == 4]) / MNIST[4]
        assert 0.35 < places.mean() < 0.65
        short = {
            tuple(np.argsort(row)[:2])
            for seed in range(8)
            for row in table(Y, shuffle_colours(Y, 0.99, seed))[:1]
        }
        assert len(short) > 2

    def test_test_images(self) -> None:
        y = np.repeat(np.arange(10), MNIST_TEST)
        counts = table(y, shuffle_colours(y, 0.1, 0))
        assert (counts.diagonal() == [int(n * 0.1) for n in MNIST_TEST]).all()
        assert (counts / counts.sum(1, keepdims=True)).min() > 0.09
        assert (counts / counts.sum(1, keepdims=True)).max() < 0.11


PALETTE = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (225, 225, 0),
    (225, 0, 225),
    (0, 255, 255),
    (255, 128, 0),
    (255, 0, 128),
    (128, 0, 255),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    np.savez(
        tmp_path / "mnist.npz",
        x_train=draw.integers(0, 3, (400, 28, 28), dtype=np.uint8) * 100,
        y_train=(np.arange(400) % 10).astype(np.uint8),
        x_test=draw.integers(0, 2, (200, 28, 28), dtype=np.uint8),
        y_test=(np.arange(200) % 10).astype(np.uint8),
    )
    return tmp_path


class TestSuite:
    @pytest.mark.parametrize("coloured", ["background", "digit"])
    def test_images(self, root: Path, coloured: str) -> None:
        splits = BiasedMNIST(conflicting=0.3, coloured=coloured, val_share=0).load(root)
        grey = np.load(root / "mnist.npz")
        last = (50, 255, 128) if coloured == "background" else (128, 128, 128)
        for part in ("train", "test"):
            data = getattr(splits, part)
            values = data.attributes["colour"].values
            assert (data.y.numpy() == grey[f"y_{part}"]).all()
            for i in range(0, len(data), 9):
                ink = grey[f"x_{part}"][i][..., None] > 0
                tint = np.array([*PALETTE, last][values[i]])
                white, black = np.array([255] * 3), np.array([0] * 3)
                pair = (white, tint) if coloured == "background" else (tint, black)
                slow = np.where(ink, *pair)
                assert (data.images[i].permute(1, 2, 0).numpy() == slow).all()
        names = splits.train.attributes["colour"].names
        assert len(set(names)) == 10
        assert names[9] == ("spring green" if coloured == "background" else "grey")

    def test_splits(self, root: Path) -> None:
        splits = BiasedMNIST(conflicting=0.1).load(root)
        assert splits.val is not None
        assert (len(splits.train), len(splits.val), len(splits.test)) == (360, 40, 200)
        colour = torch.cat([p.attributes["colour"].values for p in (splits.train, splits.val)])
        y = torch.cat([splits.train.y, splits.val.y])
        assert int((colour != y).sum()) == 40
        assert splits.aligned is not None
        assert splits.aligned.equal(torch.eye(10, dtype=torch.bool))
        test = splits.test.attributes["colour"].values
        assert table(splits.test.y.numpy(), test.numpy()).tolist() == [[2] * 10] * 10
        assert BiasedMNIST(val_share=0).load(root).val is None

    def test_seed(self, root: Path) -> None:
        suite = BiasedMNIST(conflicting=0.3, val_share=0.3)
        one, again, other = (suite.load(root, seed=seed) for seed in (1, 1, 2))
        for part, data in one.parts().items():
            assert data.images.equal(again.parts()[part].images)
            assert not data.images.equal(other.parts()[part].images)

    def test_fewer_images(self, root: Path) -> None:
        """Images are drawn first and coloured then, so that the share of conflicting ones holds."""
        suite = BiasedMNIST(conflicting=0.2, val_share=0.3, train_size=200, test_size=100)
        splits, other = suite.load(root), suite.load(root, seed=2)
        assert splits.val is not None
        assert (len(splits.train), len(splits.val), len(splits.test)) == (140, 60, 100)
        every = {image.tobytes() for image in np.load(root / "mnist.npz")["x_train"] > 0}
        colour = torch.cat([p.attributes["colour"].values for p in (splits.train, splits.val)])
        y = torch.cat([splits.train.y, splits.val.y])
        assert int((colour == y).sum()) == sum(int(n * 0.8) for n in torch.bincount(y).tolist())
        # no colour is white, and digits are
        images = torch.cat([splits.train.images, splits.val.images])
        drawn = {ink.tobytes() for ink in (images == 255).all(1).numpy()}
        assert len(drawn) == 200
        assert drawn <= every
        assert not splits.test.y.equal(other.test.y)

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no MNIST in"):
            BiasedMNIST().load(tmp_path)
        with pytest.raises(ConfigError, match="coloured"):
            BiasedMNIST(coloured="frame")

    def test_real_mnist(self, real_data: Path) -> None:
        if not (real_data / "mnist").is_dir():
            pytest.skip("no MNIST")
        splits = BiasedMNIST(conflicting=0.001, val_share=0).load(real_data)
        colour = splits.train.attributes["colour"].values
        assert len(splits.train) == 60000
        assert int((colour != splits.train.y).sum()) == 63
        # most of an image is ground, in the colour of its digit
        ground = splits.train.images[:200, :, 0, 0]
        wanted = torch.tensor([*PALETTE, (50, 255, 128)])[splits.train.y[:200]]
        assert int((ground == wanted).all(1).sum()) >= 198
