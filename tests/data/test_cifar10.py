"""CIFAR-10 in its forms, and the suite that corrupts it."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from cifar_files import (
    Arrays,
    tiny_cifar,
    write_bin,
    write_folders,
    write_parquet,
    write_py,
)
from PIL import Image
from pyarrow import parquet

from truecue.data.corruptions import CORRUPTIONS, Draws
from truecue.data.sets import ArrayFile, ImageSet
from truecue.data.suites import corrupted_cifar10
from truecue.data.suites.assignment import assign
from truecue.data.suites.cifar10 import CLASSES, read_cifar10
from truecue.data.suites.corrupted_cifar10 import CorruptedCIFAR10, corrupt
from truecue.errors import ConfigError, DataError
from truecue.seeds import derive


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return tiny_cifar()


@pytest.fixture
def root(tmp_path: Path, arrays: Arrays) -> Path:
    write_bin(tmp_path / "root" / "cifar-10-batches-bin", arrays)
    return tmp_path / "root"


def by_class(arrays: Arrays) -> Arrays:
    """The order of class folders."""
    order = {part: np.argsort(arrays[f"y_{part}"], kind="stable") for part in ("train", "test")}
    return {name: array[order[name[2:]]] for name, array in arrays.items()}


class TestReading:
    @pytest.mark.parametrize("place", [".", "cifar10", "CIFAR10"])
    @pytest.mark.parametrize("form", ["bin", "flat bin", "py", "old py"])
    def test_batches(self, tmp_path: Path, arrays: Arrays, place: str, form: str) -> None:
        folder = tmp_path / "root" / place
        if "bin" in form:
            write_bin(folder / ("." if "flat" in form else "cifar-10-batches-bin"), arrays)
        else:
            write_py(folder / "cifar-10-batches-py", arrays, old=form == "old py")
        for _ in range(2):  # read, then from the cache
            cifar = read_cifar10(tmp_path / "root")
            for name, array in arrays.items():
                np.testing.assert_array_equal(getattr(cifar, name), array)
            assert cifar.y_train.dtype == np.int64
            assert cifar.notes == ()

    @pytest.mark.parametrize(("suffix", "lossy"), [(".png", False), (".jpg", True)])
    def test_folders(self, tmp_path: Path, arrays: Arrays, suffix: str, lossy: bool) -> None:
        write_folders(tmp_path, arrays, suffix)
        seen: list[tuple[int, int]] = []
        cifar = read_cifar10(tmp_path, lambda *done: seen.append(done))
        for name, array in by_class(arrays).items():
            found = getattr(cifar, name)
            if name.startswith("y") or not lossy:
                np.testing.assert_array_equal(found, array)
            else:
                assert found.shape == array.shape
                assert np.abs(found.astype(int) - array).mean() < 25
        assert seen == [(256, 300), (300, 300)]
        assert [("JPEG" in note) for note in cifar.notes] == [True] * lossy

    def test_parquet(self, tmp_path: Path, arrays: Arrays) -> None:
        write_parquet(tmp_path / "cifar10" / "cifar10_jpeg.parquet", arrays)
        cifar = read_cifar10(tmp_path)
        np.testing.assert_array_equal(cifar.y_train, arrays["y_train"])
        np.testing.assert_array_equal(cifar.y_test, arrays["y_test"])
        assert np.abs(cifar.x_train.astype(int) - arrays["x_train"]).mean() < 25
        assert "JPEG" in cifar.notes[0]

    def test_original_pixels_go_first(self, tmp_path: Path, arrays: Arrays) -> None:
        write_parquet(tmp_path / "cifar10" / "cifar10_jpeg.parquet", arrays)
        write_py(tmp_path / "cifar10" / "cifar-10-batches-py", arrays)
        assert read_cifar10(tmp_path).notes == ()

    @pytest.mark.parametrize("protocol", [2, 4])
    def test_pickles_run_nothing(self, tmp_path: Path, arrays: Arrays, protocol: int) -> None:
        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "sprung"),)

        folder = tmp_path / "cifar-10-batches-py"
        write_py(folder, arrays)
        (folder / "data_batch_3").write_bytes(
            pickle.dumps({"data": Trap(), "labels": [1]}, protocol)
        )
        with pytest.raises(DataError, match=r"data_batch_3.*mkdir"):
            read_cifar10(tmp_path)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"no pickle", "cannot be read"),
            (pickle.dumps({b"labels": [1]}), "cannot be read"),
            (pickle.dumps([1]), "cannot be read"),
            (pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [1, 1]}, 4), "f8"),
            (pickle.dumps({b"data": np.zeros((2, 9), np.uint8), b"labels": [1, 1]}, 4), r"2, 9"),
            (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, 4), "1 labels"),
            (
                pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, 4),
                "0 to 9",
            ),
        ],
    )
    def test_damaged_pickle(
        self, tmp_path: Path, arrays: Arrays, content: bytes, message: str
    ) -> None:
        write_py(tmp_path / "cifar-10-batches-py", arrays)
        (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(content)
        with pytest.raises(DataError, match=rf"test_batch.*{message}"):
            read_cifar10(tmp_path)

    def test_damaged_binary(self, root: Path) -> None:
        file = root / "cifar-10-batches-bin" / "data_batch_2.bin"
        content = file.read_bytes()
        file.write_bytes(content[:-5])
        with pytest.raises(DataError, match=r"data_batch_2\.bin.*3,073.*copied in full"):
            read_cifar10(root)
        file.write_bytes(b"\x0b" + content[1:])
        with pytest.raises(DataError, match=r"data_batch_2\.bin.*0 to 9"):
            read_cifar10(root)
        file.unlink()
        with pytest.raises(DataError, match=r"only a part.*data_batch_2\.bin"):
            read_cifar10(root)

    def test_damaged_folders(self, tmp_path: Path, arrays: Arrays) -> None:
        write_folders(tmp_path, arrays)
        image = next((tmp_path / "test" / "frog").iterdir())
        Image.new("RGB", (32, 40)).save(image)
        with pytest.raises(DataError, match=rf"frog.{image.name} is an image of 32 x 40"):
            read_cifar10(tmp_path)
        image.write_bytes(b"no image")
        with pytest.raises(DataError, match=rf"frog.{image.name} cannot be read"):
            read_cifar10(tmp_path)
        shutil.rmtree(tmp_path / "test" / "frog")
        with pytest.raises(DataError, match=r"only a part.*frog/"):
            read_cifar10(tmp_path)

    def test_damaged_parquet(self, tmp_path: Path) -> None:
        path = tmp_path / "cifar10_jpeg.parquet"
        path.write_bytes(b"no table")
        with pytest.raises(DataError, match=r"cifar10_jpeg\.parquet cannot be read"):
            read_cifar10(tmp_path)
        parquet.write_table(pa.table({"split": ["train"], "label": [1]}), path)
        with pytest.raises(DataError, match=r"cifar10_jpeg\.parquet cannot be read"):
            read_cifar10(tmp_path)
        parquet.write_table(pa.table({"split": ["test"], "label": [1], "jpeg": [b"x"]}), path)
        with pytest.raises(DataError, match="row 0 cannot be read as an image"):
            read_cifar10(tmp_path)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="TRUECUE_DATA"):
            read_cifar10(None)
        with pytest.raises(DataError, match=r"no CIFAR-10 in .*cifar-10-batches-bin"):
            read_cifar10(tmp_path)


def cells(data: ImageSet) -> torch.Tensor:
    index = data.y * 10 + data.attributes["corruption"].values
    return torch.bincount(index, minlength=100).reshape(10, 10)


class TestAssignment:
    @pytest.mark.parametrize(
        ("share", "aligned"),
        [(0.005, 49750), (0.01, 49500), (0.02, 49000), (0.05, 47500), (0.1, 45000), (0.2, 40000)],
    )
    def test_counts(self, share: float, aligned: int) -> None:
        y = np.repeat(np.arange(10), 5000)
        assert (assign(y, 1 - share, 10) == y).sum() == aligned

    def test_test_cells(self) -> None:
        y = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 1000))
        assert (np.bincount(10 * y + assign(y, 0.1, 10), minlength=100) == 100).all()


class TestSuite:
    def test_types(self) -> None:
        """Class k is aligned with the k-th of these."""
        assert CorruptedCIFAR10(type=0).corruptions() == (
            "snow",
            "frost",
            "fog",
            "brightness",
            "contrast",
            "spatter",
            "elastic",
            "jpeg",
            "pixelate",
            "saturate",
        )
        assert CorruptedCIFAR10(type=1).corruptions() == (
            "gaussian noise",
            "shot noise",
            "impulse noise",
            "speckle noise",
            "gaussian blur",
            "defocus blur",
            "glass blur",
            "motion blur",
            "zoom blur",
            "original",
        )
        with pytest.raises(ConfigError, match="type"):
            CorruptedCIFAR10(type=2)
        with pytest.raises(ConfigError, match="level"):
            CorruptedCIFAR10(level=0)

    @pytest.mark.parametrize("kind", [0, 1])
    def test_each_image_has_its_corruption(self, root: Path, arrays: Arrays, kind: int) -> None:
        """One by one, with the random numbers of each image."""
        suite = CorruptedCIFAR10(type=kind, conflicting=0.2, level=4, val_share=0)
        splits = suite.load(root, seed=3)
        assert splits.val is None
        assert splits.train.classes == CLASSES
        for part in ("train", "test"):
            data, x, y = getattr(splits, part), arrays[f"x_{part}"], arrays[f"y_{part}"]
            assert isinstance(data.images, ArrayFile)
            values, names = data.attributes["corruption"]
            assert names == suite.corruptions()
            assert (data.y.numpy() == y).all()
            assert (values.numpy() == assign(y, 0.8 if part == "train" else 0.1, 10)).all()
            images = data.images[:].numpy().transpose(0, 2, 3, 1)
            for i in range(0, len(x), 7):
                name = names[values[i]]
                draws = Draws([derive(3, "corrupted_cifar10", part, name, i)])
                slow = CORRUPTIONS[name](x[i : i + 1], 4, draws)[0]
                assert (images[i] == slow).all(), (part, i, name)
        assert splits.aligned is not None
        assert splits.aligned.equal(torch.eye(10, dtype=torch.bool))
        assert ("frost" in " ".join(splits.notes)) == (kind == 0)

    def test_cells(self, root: Path) -> None:
        splits = CorruptedCIFAR10(conflicting=0.1, val_share=0.3).load(root)
        assert cells(splits.test).tolist() == [[1] * 10] * 10
        assert splits.val is not None
        whole = cells(splits.train) + cells(splits.val)
        assert (len(splits.train), len(splits.val)) == (140, 60)
        assert whole.sum() == 200
        assert whole.trace() == 180

    def test_original_is_untouched(self, root: Path, arrays: Arrays) -> None:
        test = CorruptedCIFAR10(type=1, val_share=0).load(root).test
        same = (test.attributes["corruption"].values == 9).numpy()
        images = test.images[:].numpy().transpose(0, 2, 3, 1)
        assert same.sum() == 10
        assert (images[same] == arrays["x_test"][same]).all()
        changed = (images != arrays["x_test"]).reshape(len(images), -1).any(1)
        assert (changed == ~same).all()

    def test_seed(self, root: Path) -> None:
        """The seed draws the noise and the validation images, not who has which corruption."""
        suite = CorruptedCIFAR10(type=1, val_share=0)
        one, again, other = (suite.load(root, seed=seed) for seed in (1, 1, 2))
        assert one.train.images[:].equal(again.train.images[:])
        assert not one.train.images[:].equal(other.train.images[:])
        values = [splits.train.attributes["corruption"].values for splits in (one, other)]
        assert values[0].equal(values[1])
        parts = [CorruptedCIFAR10(val_share=0.3).load(root, seed=seed) for seed in (1, 2)]
        assert not parts[0].val.images[:].equal(parts[1].val.images[:])

    def test_ratio_changes_nothing_else(self, root: Path) -> None:
        """An image that has the same corruption at another ratio has the same pixels."""
        few, many = (
            CorruptedCIFAR10(type=1, conflicting=share, val_share=0).load(root).train
            for share in (0.05, 0.5)
        )
        same = few.attributes["corruption"].values == many.attributes["corruption"].values
        assert 80 < int(same.sum()) < 160
        equal = (few.images[:] == many.images[:]).flatten(1).all(1)
        assert equal[same].all()
        assert not equal[~same].any()

    def test_chunks_and_threads_change_no_bit(
        self, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x = arrays["x_train"]
        values, names = np.arange(len(x)) % 10, CorruptedCIFAR10().corruptions()

        def made() -> np.ndarray:
            out = np.zeros_like(x)
            for ids, images in corrupt(x, values, names, 5, 0, "train"):
                out[ids] = images
            return out

        monkeypatch.setattr(corrupted_cifar10, "workers", lambda: 1)
        one = made()
        monkeypatch.setattr(corrupted_cifar10, "workers", lambda: 3)
        monkeypatch.setattr(corrupted_cifar10, "_CHUNK", 3)
        np.testing.assert_array_equal(made(), one)

    def test_made_once(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Later loads read what was made, unless a setting, the seed or the files change."""
        seen: list[tuple[int, int]] = []
        suite = CorruptedCIFAR10(val_share=0)
        suite.load(root, progress=lambda *done: seen.append(done))
        assert seen[-1] == (100, 100)
        assert (200, 200) in seen
        assert all(done <= total for done, total in seen)

        def none(*_: object) -> None:
            raise AssertionError("it is made again")

        with monkeypatch.context() as patch:
            patch.setattr(corrupted_cifar10, "corrupt", none)
            suite.load(root)
            CorruptedCIFAR10(val_share=0.3).load(root)
            changes = [{"type": 1}, {"level": 4}, {"conflicting": 0.2}]
            for change in changes:
                with pytest.raises(AssertionError, match="made again"):
                    CorruptedCIFAR10(**change).load(root)
            with pytest.raises(AssertionError, match="made again"):
                suite.load(root, seed=1)
            os.utime(root / "cifar-10-batches-bin" / "test_batch.bin", (1, 1))
            with pytest.raises(AssertionError, match="made again"):
                suite.load(root)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [0, 1])
def test_real_cifar(real_data: Path, kind: int) -> None:
    """60,000 images: counts, and the time that a later load takes."""
    if not (real_data / "cifar10").is_dir():
        pytest.skip("no CIFAR-10")
    suite = CorruptedCIFAR10(type=kind, val_share=0)
    splits = suite.load(real_data)
    start = time.perf_counter()
    suite.load(real_data)
    assert time.perf_counter() - start < 2  # 0.15 s where nothing else runs
    table = cells(splits.train)
    assert (int(table.trace()), int(table.sum())) == (49500, 50000)
    assert (cells(splits.test) == 100).all()
    means = [
        splits.train.images[(splits.train.attributes["corruption"].values == k).nonzero()[:300, 0]]
        .float()
        .mean()
        for k in range(10)
    ]
    assert all(60 < mean < 220 for mean in means)
