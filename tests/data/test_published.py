"""Drawing biased splits, reading images in tables, and the suites bar, dogs_cats and pacs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from truecue.data.files import decode, decode_column
from truecue.data.sets import ImageSet
from truecue.data.suites import bar, pacs
from truecue.data.suites.bar import BAR
from truecue.data.suites.dogs_cats import CLASSES, FURS, DogsCats
from truecue.data.suites.pacs import PACS
from truecue.data.suites.published import check_counts, coded, columns_of
from truecue.data.suites.splitting import biased
from truecue.errors import ConfigError, DataError

Paint = Callable[..., Path]


def cells(data: ImageSet, name: str) -> list[list[int]]:
    values, names = data.attributes[name]
    size = len(data.classes) * len(names)
    counts = torch.bincount(data.y * len(names) + values, minlength=size)
    return counts.reshape(len(data.classes), -1).tolist()


def colours(data: ImageSet) -> list[list[int]]:
    """Red, green and blue of images that have one colour each."""
    images = data.images[:]
    assert (images == images[..., :1, :1]).all()
    return images[..., 0, 0].tolist()


def png(*colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (10, 8), colour).save(file, "PNG")
    return file.getvalue()


class TestBiased:
    @settings(max_examples=80, deadline=None)
    @given(
        counts=st.lists(st.lists(st.integers(12, 60), min_size=3, max_size=3), min_size=2,
                        max_size=4),
        conflicting=st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5]),
        balanced=st.booleans(),
        seed=st.integers(0, 3),
    )  # fmt: skip
    def test_sizes(
        self, counts: list[list[int]], conflicting: float, balanced: bool, seed: int
    ) -> None:
        cell = np.repeat(np.arange(3 * len(counts)), np.ravel(counts))
        cell = np.random.default_rng(seed).permutation(cell)
        y, values = cell // 3, cell % 3
        aligned = np.eye(3, dtype=bool)[np.arange(len(counts)) % 3]
        parts = biased(y, values, aligned, conflicting, test_share=0.25, val_share=0.2,
                       balanced=balanced, seed=(seed, "x"))  # fmt: skip
        every = np.concatenate(list(parts.values()))
        assert len(set(every.tolist())) == len(every)
        test = np.bincount(cell[parts["test"]], minlength=3 * len(counts))
        assert set(test.tolist()) == {round(0.25 * min(map(min, counts)))}
        left = np.array(counts) - test[0]
        totals = []
        for k, row in enumerate(aligned):
            sizes = {}
            for name in ("train", "val"):
                mine = parts[name][y[parts[name]] == k]
                n, against = len(mine), int((~row[values[mine]]).sum())
                assert abs(against - conflicting * n) <= 1
                others = np.bincount(values[mine], minlength=3)[~row]
                assert others.max() - others.min() <= 1
                sizes[name] = n
            total = sum(sizes.values())
            assert sizes["val"] == round(0.2 * total)
            totals.append(total)

        # no class could have had one image more
        def fits(k: int, n: int) -> bool:
            against = round(conflicting * n)
            row = left[k][~aligned[k]]
            shares = [against // 2 + (i < against % 2) for i in range(2)]
            return bool(n - against <= left[k][aligned[k]][0] and (shares <= row).all())

        for k, total in enumerate(totals):
            assert fits(k, total)
        full = [not fits(k, total + 1) for k, total in enumerate(totals)]
        assert any(full) if balanced else all(full)
        assert len(set(totals)) == 1 or not balanced

    def test_seed(self) -> None:
        y, values = np.divmod(np.arange(400) % 4, 2)
        draw = {
            seed: biased(y, values, np.eye(2, dtype=bool), 0.1, test_share=0.2, val_share=0.1,
                         seed=(seed, "x"))["train"].tolist()
            for seed in (0, 1)
        }  # fmt: skip
        again = biased(y, values, np.eye(2, dtype=bool), 0.1, test_share=0.2, val_share=0.1,
                       seed=(0, "x"))  # fmt: skip
        assert draw[0] == again["train"].tolist()
        assert draw[0] != draw[1]

    def test_too_few(self) -> None:
        y, values = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 0])
        with pytest.raises(DataError, match="the smallest group has 0 images"):
            biased(y, values, np.eye(2, dtype=bool), 0.1, test_share=0.2, val_share=0, seed=(0,))


class TestColumn:
    def write(self, path: Path, images: list[bytes | None], column: str = "jpeg") -> Path:
        parquet.write_table(pa.table({column: pa.array(images, pa.binary())}), path)
        return path

    def test_same_pixels_as_files(self, tmp_path: Path, draw: Callable[..., Path]) -> None:
        files = [draw(tmp_path / f"{i}.png", i, 20 + i, 31) for i in range(5)]
        table = self.write(tmp_path / "t.parquet", [file.read_bytes() for file in files])
        seen: list[tuple[int, int]] = []
        made = decode_column(table, "jpeg", 9, lambda *done: seen.append(done))
        wanted = decode(files, 9)
        assert torch.equal(made.images[:], wanted.images[:])
        assert made.sizes.tolist() == wanted.sizes.tolist() == [[20 + i, 31] for i in range(5)]
        assert made.reasons == ("",) * 5
        assert seen == [(5, 5)]

    def test_cached(self, tmp_path: Path) -> None:
        table = self.write(tmp_path / "t.parquet", [png(1, 2, 3)] * 600)
        seen: list[tuple[int, int]] = []
        for _ in range(2):
            decoded = decode_column(table, "jpeg", 8, lambda *done: seen.append(done))
        assert seen == [(256, 600), (512, 600), (600, 600)]
        assert len(decoded.images) == 600
        self.write(table, [png(4, 5, 6)])
        assert decode_column(table, "jpeg", 8).images[:][0, :, 0, 0].tolist() == [4, 5, 6]

    def test_unreadable(self, tmp_path: Path) -> None:
        table = self.write(tmp_path / "t.parquet", [png(1, 2, 3), b"no image", None])
        decoded = decode_column(table, "jpeg", 8)
        assert [bool(reason) for reason in decoded.reasons] == [False, True, True]
        assert "not an image of a known kind" in decoded.reasons[1]
        assert not decoded.images[:][1:].any()

    def test_bad_tables(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there is no table"):
            decode_column(tmp_path / "t.parquet", "jpeg", 8)
        table = self.write(tmp_path / "t.parquet", [png(1, 2, 3)], "png")
        with pytest.raises(DataError, match="no column 'jpeg' of image files"):
            decode_column(table, "jpeg", 8)
        (tmp_path / "bad.parquet").write_bytes(b"PAR1 this is none")
        with pytest.raises(DataError, match="cannot be read as a Parquet table"):
            decode_column(tmp_path / "bad.parquet", "jpeg", 8)

    def test_damaged_rows(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).bytes(20000)
        table = self.write(tmp_path / "t.parquet", [noise])
        data = bytearray(table.read_bytes())
        data[4:200] = bytes(196)  # the rows lie before the description of the table
        table.write_bytes(data)
        with pytest.raises(DataError, match="cannot be read as a Parquet table"):
            decode_column(table, "jpeg", 8)


class TestHelpers:
    def test_coded(self) -> None:
        assert coded(["dog", "0", "1"], ("cat", "dog"), "t").tolist() == [1, 0, 1]
        with pytest.raises(DataError, match="t, row 2: 'fox' is none of cat, dog"):
            coded(["dog", "fox"], ("cat", "dog"), "t")

    def test_columns(self) -> None:
        table = {"y": ["1", "2"], "place": ["a", None]}
        assert columns_of(table, ["y"], "t") == [["1", "2"]]
        with pytest.raises(DataError, match="t has no column 'plac'; did you mean 'place'"):
            columns_of(table, ["plac"], "t")
        with pytest.raises(DataError, match="t row 2: column 'place' is empty"):
            columns_of(table, ["place"], "t")

    def test_counts(self) -> None:
        check_counts("X", {"train": 3, "test": 2}, {"train": 3})
        with pytest.raises(DataError, match=r"whole of X \(train: 3 expected, 4 found\)"):
            check_counts("X", {"train": 3, "test": 2}, {"train": 4, "test": 2})


@pytest.fixture
def actions(tmp_path: Path, paint: Paint) -> Path:
    """Five training images and two test images of every action; red is the action."""
    for k, kind in enumerate(bar.CLASSES):
        for i in range(5):
            paint(tmp_path / "bar" / "train" / f"{kind}_{i}.jpg", 20 * k, i, 0)
        for i in range(5, 7):
            paint(tmp_path / "bar" / "test" / f"{kind}_{i}.jpg", 20 * k, i, 1)
    return tmp_path


class TestBAR:
    def test_small_copy(self, actions: Path) -> None:
        splits = BAR(complete=False, size=8, val_share=0.2).load(actions)
        assert {name: len(part) for name, part in splits.parts().items()} == {
            "train": 24,
            "val": 6,
            "test": 12,
        }
        assert splits.bias is None
        assert not splits.train.attributes
        assert "all test images conflict" in splits.notes[0]
        for name, part in splits.parts().items():
            red, number, test = torch.tensor(colours(part)).T
            assert torch.equal(red, 20 * part.y)
            assert (test == (name == "test")).all()
            kinds = [f"{bar.CLASSES[k]}_{i}.jpg" for k, i in zip(part.y, number, strict=True)]
            folder = "test" if name == "test" else "train"
            assert part.names == tuple(f"{folder}/{kind}" for kind in kinds)
        assert splits.val is not None
        assert not set(splits.val.names) & set(splits.train.names)

    def test_seed_draws_the_validation_images(self, actions: Path) -> None:
        suite = BAR(complete=False, size=8, val_share=0.4)
        vals = [suite.load(actions, seed=seed).val for seed in (0, 0, 1)]
        assert vals[0].names == vals[1].names != vals[2].names
        assert BAR(complete=False, size=8, val_share=0).load(actions).val is None

    def test_the_folder_itself(self, actions: Path) -> None:
        assert len(BAR(complete=False, size=8).load(actions / "bar").test) == 12

    def test_incomplete(self, actions: Path) -> None:
        with pytest.raises(DataError, match=r"whole of BAR \(train: 1,941 expected, 30 found; te"):
            BAR().load(actions)

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"not in .*bar/train/.*github.com/alinlab/BAR"):
            BAR().load(tmp_path)
        with pytest.raises(DataError, match=r"needs a folder with its files \(--root, or TRUECUE"):
            BAR().load()

    def test_unknown_name(self, actions: Path, paint: Paint) -> None:
        paint(actions / "bar" / "train" / "swimming_3.jpg", 0, 0, 0)
        with pytest.raises(DataError, match=r"swimming_3.jpg: the name must begin with one of cli"):
            BAR(complete=False).load(actions)

    def test_unreadable(self, actions: Path) -> None:
        (actions / "bar" / "train" / "diving_0.jpg").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"diving_0.jpg: it is not an image.*files again"):
            BAR(complete=False).load(actions)
        (actions / "bar" / "test" / "diving_5.jpg").write_bytes(b"")
        with pytest.raises(DataError, match="2 of 42 images cannot be read; the first is"):
            BAR(complete=False).load(actions)

    @pytest.mark.slow
    def test_real(self, real_data: Path) -> None:
        splits = BAR().load(real_data)
        train, val, test = (torch.bincount(p.y).tolist() for p in splits.parts().values())
        both = [a + b for a, b in zip(train, val, strict=True)]
        assert both == [326, 520, 163, 336, 317, 279]
        assert test == [105, 159, 42, 132, 85, 131]
        assert val == [33, 52, 16, 34, 32, 28]
        assert splits.train.shape == (3, 224, 224)


@pytest.fixture
def lists(tmp_path: Path, paint: Paint) -> Path:
    """12 images of each class and fur, as by Kaggle and Kim et al.; red class, green fur."""
    folder = tmp_path / "dogs_cats"
    for v, fur in enumerate(FURS):
        names = []
        for k, kind in enumerate(CLASSES):
            for i in range(12):
                names.append(f"{kind}.{100 * v + i}.jpg")
                paint(folder / "train" / names[-1], 50 * k, 50 * v, i)
        (folder / f"list_{fur}.txt").write_text("\n".join(names) + "\n")
    return tmp_path


class TestDogsCats:
    @pytest.mark.parametrize("form", ["lists", "table"])
    def test_small_copy(self, lists: Path, form: str) -> None:
        folder = lists / "dogs_cats"
        if form == "table":
            rows = [
                {"name": f"{kind}.{100 * v + i}.jpg", "class_name": kind, "bias_name": fur,
                 "jpeg": png(50 * k, 50 * v, i)}
                for k, kind in enumerate(CLASSES) for v, fur in enumerate(FURS) for i in range(12)
            ]  # fmt: skip
            parquet.write_table(pa.Table.from_pylist(rows), folder / "dogs_cats_color_128.parquet")
            (folder / "list_bright.txt").unlink()
        suite = DogsCats(conflicting=0.2, test_share=0.25, val_share=0.2, size=8, complete=False)
        splits = suite.load(lists)
        # 9 aligned images are left of each class: 11 with 2 conflicting ones, 2 for validation
        assert cells(splits.train, "fur") == [[2, 7], [7, 2]]
        assert cells(splits.val, "fur") == [[0, 2], [2, 0]]
        assert cells(splits.test, "fur") == [[3, 3], [3, 3]]
        assert splits.bias == "fur"
        assert splits.aligned.tolist() == [[False, True], [True, False]]
        names = set()
        for part in splits.parts().values():
            red, green, number = torch.tensor(colours(part)).T
            fur = part.attributes["fur"].values
            assert torch.equal(red, 50 * part.y)
            assert torch.equal(green, 50 * fur)
            kinds = zip(part.y, 100 * fur + number, strict=True)
            assert part.names == tuple(f"{CLASSES[k]}.{i}.jpg" for k, i in kinds)
            names |= set(part.names)
        assert len(names) == sum(map(len, splits.parts().values()))

    def test_other_pairing(self, lists: Path) -> None:
        splits = DogsCats(kind="tb2", conflicting=0, size=8, complete=False).load(lists)
        assert splits.aligned.tolist() == [[True, False], [False, True]]
        (bright_cats, none), (none_either, dark_dogs) = cells(splits.train, "fur")
        assert none == none_either == 0
        assert bright_cats == dark_dogs > 0

    def test_seed(self, lists: Path) -> None:
        names = [
            DogsCats(size=8, complete=False).load(lists, seed=s).train.names for s in (0, 0, 1)
        ]
        assert names[0] == names[1] != names[2]

    def test_incomplete(self, lists: Path) -> None:
        with pytest.raises(DataError, match=r"fur lists .*bright cats: 3,086 expected, 12 found"):
            DogsCats().load(lists)

    def test_bad_lists(self, lists: Path) -> None:
        suite, folder = DogsCats(size=8, complete=False), lists / "dogs_cats"
        bright = (folder / "list_bright.txt").read_text()
        (folder / "list_bright.txt").write_text(bright + "cat.999.jpg\n")
        with pytest.raises(DataError, match=r"cat.999.jpg: there is no such file"):
            suite.load(lists)
        (folder / "list_bright.txt").write_text(bright + "fox.1.jpg\n")
        with pytest.raises(DataError, match=r"list_bright.txt: 'fox.1.jpg' is not a name such as"):
            suite.load(lists)
        (folder / "list_bright.txt").write_text(bright + "cat.100.jpg\n")
        with pytest.raises(DataError, match="1 images are named twice"):
            suite.load(lists)
        (folder / "list_dark.txt").unlink()
        with pytest.raises(DataError, match=r"list_dark.txt cannot be read as a list"):
            suite.load(lists)

    def test_bad_table(self, lists: Path) -> None:
        path = lists / "dogs_cats" / "dogs_cats_color_128.parquet"
        row = {"name": "a", "class_name": "cat", "bias_name": "grey", "jpeg": png(0, 0, 0)}
        parquet.write_table(pa.Table.from_pylist([row]), path)
        with pytest.raises(DataError, match="column bias_name, row 1: 'grey' is none of bright"):
            DogsCats().load(lists)
        del row["bias_name"]
        parquet.write_table(pa.Table.from_pylist([row]), path)
        with pytest.raises(DataError, match="has no column 'bias_name'"):
            DogsCats().load(lists)

    @pytest.mark.slow
    def test_real(self, real_data: Path) -> None:
        splits = DogsCats().load(real_data)
        assert cells(splits.train, "fur") == [[57, 1080], [1080, 57]]
        assert cells(splits.val, "fur") == [[6, 120], [120, 6]]
        assert cells(splits.test, "fur") == [[300, 300], [300, 300]]
        assert splits.train.shape == (3, 64, 64)
        # the lists are right: dark animals make darker middles of the pictures
        fur = splits.test.attributes["fur"].values
        light = splits.test.images[:].float()[..., 20:44, 20:44].mean((1, 2, 3))
        assert light[fur == 0].mean() > light[fur == 1].mean() + 30


@pytest.fixture
def styles(tmp_path: Path, paint: Paint) -> Path:
    """Ten images of each class and style; red class, green style."""
    for s, style in enumerate(pacs.STYLES):
        for k, kind in enumerate(pacs.CLASSES):
            for i in range(10):
                paint(tmp_path / "PACS" / style / kind / f"pic_{i}.jpg", 30 * k, 30 * s, i)
    return tmp_path


class TestPACS:
    def test_small_copy(self, styles: Path) -> None:
        suite = PACS(classes=("house", "dog"), styles=("sketch", "photo"), conflicting=0.25,
                     test_share=0.2, val_share=0, size=8, complete=False)  # fmt: skip
        splits = suite.load(styles)
        assert splits.train.classes == ("house", "dog")
        assert cells(splits.train, "style") == [[8, 3], [3, 8]]
        assert cells(splits.test, "style") == [[2, 2], [2, 2]]
        assert splits.val is None
        assert splits.aligned.tolist() == [[True, False], [False, True]]
        for part in splits.parts().values():
            red, green, number = torch.tensor(colours(part)).T
            assert torch.equal(red, torch.tensor([150, 0])[part.y])
            style = part.attributes["style"].values
            assert torch.equal(green, torch.tensor([90, 0])[style])
            rows = zip(part.y, style, number, strict=True)
            assert part.names == tuple(
                f"{suite.styles[s]}/{suite.classes[k]}/pic_{i}.jpg" for k, s, i in rows
            )

    def test_table_gives_the_same(self, styles: Path, tmp_path: Path) -> None:
        suite = PACS(classes=("guitar", "horse", "person"), size=8, complete=False)
        wanted = suite.load(styles)
        rows = [
            {"name": f"pic_{i}.jpg", "class_name": kind, "domain_name": style,
             "jpeg": png(30 * k, 30 * s, i)}
            for s, style in enumerate(pacs.STYLES) for k, kind in enumerate(pacs.CLASSES)
            for i in range(10)
        ]  # fmt: skip
        (tmp_path / "other").mkdir()
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "other" / "pacs_128.parquet")
        found = suite.load(tmp_path / "other")
        for a, b in zip(found.parts().values(), wanted.parts().values(), strict=True):
            assert a.names == b.names
            assert torch.equal(a.images[:], b.images[:])

    def test_all_classes_and_chosen_pairs(self, styles: Path) -> None:
        suite = PACS(classes=pacs.CLASSES, styles=pacs.STYLES, conflicting=0.3, size=8,
                     complete=False, val_share=0)  # fmt: skip
        splits = suite.load(styles)
        assert splits.aligned.int().argmax(1).tolist() == [0, 1, 2, 3, 0, 1, 2]
        assert {tuple(sorted(row)) for row in cells(splits.train, "style")} == {(1, 1, 2, 8)}
        suite = suite.override({"aligned": ["cartoon", *["photo"] * 6]})
        assert suite.pairing()["dog"] == "cartoon"
        assert suite.load(styles).aligned.int().argmax(1).tolist() == [2, 0, 0, 0, 0, 0, 0]

    def test_kfold(self, styles: Path) -> None:
        (styles / "x").mkdir()
        (styles / "PACS").rename(styles / "x" / "kfold")
        assert len(PACS(size=8, complete=False).load(styles / "x").test) == 8

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"classes": ("dog", "dog")}, "classes must differ"),
            ({"aligned": ("photo",)}, "aligned must name a style for each of the 2 classes"),
            ({"aligned": ("photo", "sketch")}, "aligned has photo, which is not among"),
            ({"aligned": ("sketch", "sketch")}, "all classes have the same style"),
            ({"classes": ("dog", "cat")}, "classes.1 must be 'dog'"),
            ({"classes": ("dog",)}, "classes"),
        ],
    )
    def test_bad_settings(self, settings: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            PACS(**settings)

    def test_incomplete(self, styles: Path) -> None:
        with pytest.raises(DataError, match=r"whole of PACS .*photo: 1,670 expected, 70 found"):
            PACS().load(styles)

    def test_missing_cell(self, styles: Path) -> None:
        for file in (styles / "PACS" / "cartoon" / "horse").iterdir():
            file.unlink()
        with pytest.raises(DataError, match="the smallest group has 0 images"):
            PACS(size=8, complete=False).load(styles)

    @pytest.mark.slow
    def test_real(self, real_data: Path) -> None:
        splits = PACS().load(real_data)
        assert cells(splits.train, "style") == [[353, 19], [19, 353]]
        assert cells(splits.val, "style") == [[39, 2], [2, 39]]
        assert cells(splits.test, "style") == [[65, 65], [65, 65]]
        # sketches have no colour
        for part in splits.parts().values():
            images = part.images[:].int()
            grey = (images.amax(1) - images.amin(1)).flatten(1).amax(1) < 12
            sketch = part.attributes["style"].values == 1
            assert grey[sketch].all()
            assert grey[~sketch].float().mean() < 0.3
        every = PACS(classes=pacs.CLASSES, styles=pacs.STYLES).load(real_data)
        assert {sum(row) for row in cells(every.train, "style")} == {164}
        assert cells(every.test, "style") == [[16] * 4] * 7
