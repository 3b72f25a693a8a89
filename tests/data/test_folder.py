"""Images of one's own: layouts, tables, bad input."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv, parquet

from truecue.data.sets import ArrayFile, Splits, class_counts
from truecue.data.suites import open_data
from truecue.data.suites.folder import Folder
from truecue.data.suites.listing import natural, read_table
from truecue.errors import DataError

Draw = Callable[..., Path]


def load(root: Path, seed: int = 0, **settings: object) -> Splits:
    return Folder(root=str(root), size=8, **settings).load(seed=seed)  # type: ignore[arg-type]


def write_table(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def birds(tmp_path: Path, draw: Draw) -> Path:
    """48 images and a table: two classes, two places, a column that only repeats the class."""
    rows = ["file,label,place,kind,weight"]
    for i in range(48):
        draw(tmp_path / "images" / f"{i}.png", i)
        place = "" if i == 7 else ("land", "water")[i % 3 == 0]
        label = ("1", "10")[i % 2]
        rows.append(f"images/{i}.png,{label},{place},{('gull', 'wren')[i % 2]},{i / 7}")
    return write_table(tmp_path / "birds.csv", rows)


class TestFolders:
    def test_flat(self, zoo: Path) -> None:
        splits = load(zoo)
        assert splits.val is not None
        sizes = {name: class_counts(part) for name, part in splits.parts().items()}
        assert sizes == {"train": [14, 14], "val": [2, 2], "test": [4, 4]}
        assert isinstance(splits.train.images, ArrayFile)
        assert splits.train.shape == (3, 8, 8)
        assert splits.train.classes == ("cat", "dog")
        names = [name for part in splits.parts().values() for name in part.names]
        assert len(set(names)) == 40
        for part in splits.parts().values():
            for name, label in zip(part.names, part.y.tolist(), strict=True):
                assert name.startswith(part.classes[label])
        assert splits.notes == (
            "test images: 20% of each class, drawn by the seed",
            "validation images: 10% of each class, drawn by the seed",
            "images of 12 x 12 pixels: short side resized to 8 (Lanczos), middle square kept",
        )

    def test_seed(self, zoo: Path) -> None:
        assert load(zoo, seed=1).test.names == load(zoo, seed=1).test.names
        assert load(zoo, seed=1).test.names != load(zoo, seed=2).test.names

    def test_no_resizing_no_note(self, zoo: Path) -> None:
        assert not any("resized" in note for note in Folder(root=str(zoo), size=12).load().notes)

    def test_images_go_with_their_names(self, zoo: Path) -> None:
        from PIL import Image

        test = Folder(root=str(zoo), size=12).load().test
        for image, name in zip(test.images[:], test.names, strict=True):
            stored = np.asarray(Image.open(zoo / name)).transpose(2, 0, 1)
            np.testing.assert_array_equal(image, stored)

    def test_root_given_to_load(self, zoo: Path) -> None:
        assert len(Folder(size=8).load(zoo).test) == 8
        with pytest.raises(DataError, match="which folder"):
            Folder().load()

    @pytest.mark.parametrize("val", ["val", "valid", "Validation"])
    def test_split_folders(self, tmp_path: Path, draw: Draw, val: str) -> None:
        for k, split in enumerate(("Train", val, "test")):
            for i in range(6):
                draw(tmp_path / "s" / split / ("b", "a")[i % 2] / f"{i}.JPG", 10 * k + i)
        draw(tmp_path / "s" / "masks" / "0.png")
        splits = load(tmp_path / "s")
        assert [len(part) for part in splits.parts().values()] == [6, 6, 6]
        assert splits.train.classes == ("a", "b")
        assert all(name.startswith("Train/") for name in splits.train.names)
        assert splits.notes[0] == (
            "folders beside 'train' that are no splits were left out: 'masks'"
        )

    def test_validation_images_from_training_images(self, tmp_path: Path, draw: Draw) -> None:
        for split, n in (("train", 40), ("test", 6)):
            for i in range(n):
                draw(tmp_path / "s" / split / ("b", "a")[i % 2] / f"{i}.png", i)
        splits = load(tmp_path / "s", val_share=0.25)
        assert splits.val is not None
        assert [len(part) for part in splits.parts().values()] == [30, 10, 6]
        assert splits.notes[0] == "validation images: 25% of each class, drawn by the seed"
        assert load(tmp_path / "s", val_share=0).val is None

    def test_a_class_called_train(self, tmp_path: Path, draw: Draw) -> None:
        for i in range(10):
            draw(tmp_path / "v" / "train" / f"{i}.png", i)
            draw(tmp_path / "v" / "bus" / f"{i}.png", 50 + i)
        assert load(tmp_path / "v").train.classes == ("bus", "train")

    def test_split_folders_without_classes(self, tmp_path: Path, draw: Draw) -> None:
        for split in ("train", "test"):
            draw(tmp_path / "v" / split / "0.png")
        with pytest.raises(DataError, match="train holds images but no class folders"):
            load(tmp_path / "v")

    def test_two_folders_of_one_split(self, tmp_path: Path, draw: Draw) -> None:
        for split in ("train", "val", "valid"):
            draw(tmp_path / "v" / split / "a" / "0.png")
        with pytest.raises(DataError, match="two folders of val images: 'val' and 'valid'"):
            load(tmp_path / "v")

    def test_names(self, tmp_path: Path, draw: Draw) -> None:
        """Accents, spaces, upper case, hidden files, folders in folders, links, other files."""
        root = tmp_path / "ü ü"
        accent = unicodedata.normalize("NFD", "évêque")
        for i in range(4):
            draw(root / accent / f"à {i}.JPeG", i)
            draw(root / "10" / "deep" / f"{i}.png", 10 + i)
            draw(root / "9" / f"{i}.png", 20 + i)
        draw(root / "9" / ".hidden.png")
        draw(root / ".git" / "x.png")
        draw(root / "__MACOSX" / "x.png")
        (root / "9" / "Thumbs.db").touch()
        outside = draw(tmp_path / "outside.png", 99)
        (root / "9" / "link.png").symlink_to(outside)
        (root / "9" / "loop").symlink_to(root / "9")
        splits = load(root, val_share=0)
        assert splits.train.classes == ("9", "10", "évêque")
        total = np.add(class_counts(splits.train), class_counts(splits.test))
        assert total.tolist() == [5, 4, 4]

    @pytest.mark.parametrize("split", ["", "train"])
    def test_links_to_folders_above_are_not_followed(
        self, tmp_path: Path, draw: Draw, split: str
    ) -> None:
        """They made images of all classes images of one, and a class of all."""
        root = tmp_path / "zoo"
        for i in range(8):
            draw(root / split / "cat" / f"{i}.png", i)
            draw(root / split / "dog" / f"{i}.png", 10 + i)
            if split:
                draw(root / "test" / ("cat", "dog")[i % 2] / f"{i}.png", 20 + i)
        (root / split / "cat" / "up").symlink_to(root / split)
        (root / split / "dog" / "top").symlink_to(root)
        (root / split / "all").symlink_to(root)
        found = Folder(root=str(root)).listing()
        assert len(found) == (24 if split else 16)
        assert set(found.labels) == {"cat", "dog"}

    @pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 there")
    def test_folder_whose_name_is_not_utf8(self, zoo: Path) -> None:
        """No run could write its settings; names inside the folder may be what they like."""
        (zoo / "dog").rename(zoo / os.fsdecode(b"d\xf6g"))
        assert len(load(zoo).train.classes) == 2
        latin = zoo.rename(zoo.with_name(os.fsdecode(b"z\xf6o")))
        refused = r"z\\udcf6o\S* is not UTF-8; rename it$"
        for path in (latin, latin / "cat"):
            with pytest.raises(DataError, match=refused) as refusal:
                open_data(str(path)).load()
            str(refusal.value).encode()  # so it can be shown
        table = write_table(latin / "t.csv", ["file,label", "cat/0.png,a"])
        with pytest.raises(DataError, match=refused):
            open_data(str(table)).load()

    def test_linked_class_folder(self, zoo: Path, tmp_path: Path) -> None:
        (tmp_path / "linked").mkdir()
        for kind in ("cat", "dog"):
            (tmp_path / "linked" / kind).symlink_to(zoo / kind)
        assert len(load(tmp_path / "linked").train) == 28

    def test_nothing_there(self, tmp_path: Path, draw: Draw) -> None:
        with pytest.raises(DataError, match="there is no folder"):
            load(tmp_path / "absent")
        (tmp_path / "e" / "a").mkdir(parents=True)
        with pytest.raises(DataError, match=r"has no images; expected are class folders.*\.jpg"):
            load(tmp_path / "e")
        draw(tmp_path / "loose" / "1.png")
        with pytest.raises(DataError, match="holds 1 images that are in no class folder"):
            load(tmp_path / "loose")
        write_table(tmp_path / "loose" / "labels.csv", ["file,label"])
        with pytest.raises(DataError, match=r"but a table; give '.*labels\.csv'"):
            load(tmp_path / "loose")

    def test_one_class(self, tmp_path: Path, draw: Draw) -> None:
        for i in range(10):
            draw(tmp_path / "one" / "cat" / f"{i}.png", i)
        with pytest.raises(DataError, match="at least two classes; found 1: cat"):
            load(tmp_path / "one")

    def test_class_absent_from_a_split(self, tmp_path: Path, draw: Draw) -> None:
        for split, kinds in (("train", "abc"), ("val", "abc"), ("test", "ab")):
            for kind in kinds:
                draw(tmp_path / "s" / split / kind / "0.png", ord(kind))
        with pytest.raises(DataError, match="no test image shows class 'c'"):
            load(tmp_path / "s")

    def test_class_with_one_image(self, zoo: Path, draw: Draw) -> None:
        draw(zoo / "emu" / "1.png")
        with pytest.raises(DataError, match="image shows class 'emu'"):
            load(zoo)

    def test_attributes_need_a_table(self, zoo: Path) -> None:
        with pytest.raises(DataError, match="class folders have no attributes such as 'place'"):
            load(zoo, bias="place")

    def test_unreadable(self, zoo: Path) -> None:
        (zoo / "cat" / "3.png").write_text("no")
        with pytest.raises(
            DataError,
            match=r"^cat/3\.png: it is not an image of a known kind\. `truecue data check .*zoo`"
            " lists all; --skip-unreadable",
        ):
            load(zoo)
        (zoo / "dog" / "link.png").symlink_to(zoo / "nowhere")
        with pytest.raises(DataError, match=r"^2 images cannot be read; the first is cat/3\.png"):
            load(zoo)
        splits = load(zoo, skip_unreadable=True)
        assert sum(len(part) for part in splits.parts().values()) == 39
        assert splits.notes[-1] == "2 images could not be read and were left out"
        for part in splits.parts().values():
            assert not {"cat/3.png", "dog/link.png"} & set(part.names)

    def test_all_unreadable(self, tmp_path: Path) -> None:
        (tmp_path / "x" / "a").mkdir(parents=True)
        (tmp_path / "x" / "a" / "1.png").touch()
        with pytest.raises(DataError, match="none of the 1 images can be read"):
            load(tmp_path / "x", skip_unreadable=True)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_no_permission(self, zoo: Path) -> None:
        (zoo / "cat").chmod(0)
        try:
            with pytest.raises(DataError, match="cannot be read"):
                load(zoo)
        finally:
            (zoo / "cat").chmod(0o755)

    def test_progress(self, zoo: Path) -> None:
        seen: list[tuple[int, int]] = []
        Folder(root=str(zoo), size=8).load(progress=lambda *done: seen.append(done))
        assert seen == [(40, 40)]


class TestTables:
    def test_csv(self, birds: Path) -> None:
        splits = Folder(table=str(birds), size=8, bias="place").load()
        train = splits.train
        assert train.classes == ("1", "10")
        # weight has too many values, kind is the label under other names
        assert list(train.attributes) == ["place"]
        assert train.attributes["place"].names == ("land", "water")
        assert splits.bias == "place"
        for part in splits.parts().values():
            values = part.attributes["place"].values
            for name, y, place in zip(part.names, part.y.tolist(), values.tolist(), strict=True):
                i = int(Path(name).stem)
                assert y == i % 2
                assert place == (-1 if i == 7 else int(i % 3 == 0))

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_blanks_around_heads(self, zoo: Path, tmp_path: Path, suffix: str) -> None:
        rows = [f"cat/{i}.png, {i % 2}, {'ab'[i % 3 == 0]}" for i in range(20)]
        table = write_table(tmp_path / "t.csv", ["file , label, place", *rows])
        if suffix == ".parquet":
            table = tmp_path / "t.parquet"
            parquet.write_table(csv.read_csv(tmp_path / "t.csv"), table)
        train = load(zoo, table=str(table)).train
        assert train.classes == ("0", "1")
        assert list(train.attributes) == ["place"]
        assert read_table(table, ("place",)).keys() == {"place"}

    def test_chosen_columns(self, birds: Path) -> None:
        folder = Folder(table=str(birds), size=8, attributes=("kind",), bias="place")
        assert list(folder.load().train.attributes) == ["kind", "place"]
        assert not Folder(table=str(birds), size=8, attributes=()).load().train.attributes

    def test_settings_survive_toml(self, birds: Path) -> None:
        folder = Folder(table=str(birds), attributes=("kind",), bias="place")
        assert Folder.from_toml(folder.to_toml()) == folder

    def test_parquet_with_split_and_numbers(self, zoo: Path, tmp_path: Path) -> None:
        n = 20
        splits = ["Train"] * 10 + ["validation"] * 4 + ["TEST"] * 6
        table = pa.table(
            {
                "path": [f"{k}/{i}.png" for i in range(n) for k in ("cat",)],
                "y": pa.array([float(i % 2) for i in range(n)]),
                "part": splits,
                "night": pa.array([None if i == 0 else i % 4 < 2 for i in range(n)]),
                "all the same": ["x"] * n,
            }
        )
        parquet.write_table(table, tmp_path / "t.parquet")
        names = {"file": "path", "label": "y", "split": "part"}
        found = load(zoo, table=str(tmp_path / "t.parquet"), **names)
        assert [len(part) for part in found.parts().values()] == [10, 4, 6]
        assert found.train.classes == ("0", "1")
        assert found.train.attributes["night"].names == ("False", "True")
        assert found.train.attributes["night"].values.tolist()[:5] == [-1, 1, 0, 0, 1]
        assert list(found.train.attributes) == ["night"]

    def test_numbers_as_text(self, zoo: Path, tmp_path: Path) -> None:
        rows = [f"cat/{i}.png,{('007', '1.0')[i % 2]}" for i in range(20)]
        table = write_table(tmp_path / "t.csv", ["file,label", *rows])
        assert load(zoo, table=str(table)).train.classes == ("1", "007")

    def test_files_below_their_split(self, zoo: Path, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir()
        for split, kind in (("train", "cat"), ("test", "dog")):
            (zoo / kind).rename(tmp_path / "s" / split)
        rows = [f"{i}.png,{i % 2},{s}" for s in ("train", "test") for i in range(20)]
        table = write_table(tmp_path / "s" / "t.csv", ["file,label,split", *rows])
        found = Folder(table=str(table), size=8, val_share=0).load()
        assert (len(found.train), len(found.test)) == (20, 20)

    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_accents_either_way(self, zoo: Path, tmp_path: Path, form: str) -> None:
        for i in range(20):
            name = unicodedata.normalize("NFD", f"é{i}.png")
            (zoo / "cat" / f"{i}.png").rename(zoo / "cat" / name)
        rows = [f"cat/{unicodedata.normalize(form, 'é')}{i}.png,{i % 2}" for i in range(20)]
        table = write_table(tmp_path / "t.csv", ["\ufefffile,label", *rows])
        assert len(load(zoo, table=str(table), val_share=0).train) == 16

    def test_missing_file(self, birds: Path) -> None:
        (birds.parent / "images" / "2.png").unlink()
        with pytest.raises(
            DataError, match=r"birds\.csv row 3 \(images/2\.png\): there is no such file"
        ):
            Folder(table=str(birds), size=8).load()

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("x.png,", r"row 2 \(x\.png\): it has no label \(column 'label' is empty\)"),
            (",a", "row 2: column 'file' is empty"),
            ("x.png,0.25", r"row 2 \(x\.png\): label 0\.25 is not a class"),
        ],
    )
    def test_bad_rows(self, tmp_path: Path, row: str, message: str) -> None:
        table = write_table(tmp_path / "t.csv", ["file,label", "y.png,a", row])
        with pytest.raises(DataError, match=message):
            Folder(table=str(table)).load()

    @pytest.mark.parametrize(("split", "found"), [("dev2", "'dev2'"), ("", "nothing")])
    def test_unknown_split(self, tmp_path: Path, split: str, found: str) -> None:
        table = write_table(tmp_path / "t.csv", ["file,label,split", f"x.png,a,{split}"] * 2)
        with pytest.raises(DataError, match=f"column 'split' has {found}, and must have one of"):
            Folder(table=str(table)).load()

    def test_no_training_images(self, zoo: Path, tmp_path: Path) -> None:
        rows = [f"cat/{i}.png,{i % 2},test" for i in range(4)]
        table = write_table(tmp_path / "t.csv", ["file,label,split", *rows])
        with pytest.raises(DataError, match="no image is marked as a training image"):
            load(zoo, table=str(table))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"label": "lable"}, r"no column 'lable'; did you mean 'label'\? \(columns: file, la"),
            ({"file": "images"}, "no column 'images'"),
            ({"split": "kinds"}, "no column 'kinds'; did you mean 'kind'"),
            ({"attributes": ("place", "plaec")}, "no column 'plaec'; did you mean 'place'"),
            ({"bias": "places"}, "no column 'places'; did you mean 'place'"),
        ],
    )
    def test_unknown_columns(self, birds: Path, settings: dict, message: str) -> None:
        with pytest.raises(DataError, match=message):
            Folder(table=str(birds), **settings).load()

    @pytest.mark.parametrize(
        ("name", "data", "message"),
        [
            ("t.csv", b"", "cannot be read as a table"),
            ("t.csv", b"file,label\n1,2,3\n", "cannot be read as a table"),
            ("t.csv", b"file,label\n", "has no rows"),
            ("t.csv", b"file,label,file\na,b,c\n", "more than one column 'file'"),
            ("t.csv", b"file,label, file\na,b,c\n", "more than one column 'file'"),
            ("t.csv", b"file;label\na;b\n", r"heads 'file;label' without .* columns by commas$"),
            ("t.csv", b"file;label\na;b,c\n", "separate columns by commas$"),
            ("t.csv", b"file\tlabel\na\tb\n", "separate columns by commas$"),
            ("t.csv", "file,label\na,é\n".encode("latin-1"), "save it as UTF-8$"),
            ("t.csv", "file,émail\na,b\n".encode("latin-1"), "save it as UTF-8$"),
            ("t.csv", "file\tlabel\na\tb\n".encode("utf-16"), "save it as UTF-8$"),
            ("t.parquet", b"PAR1 not really", "cannot be read as a table"),
            ("t.xls", b"x", r"suffix \.csv or \.parquet"),
        ],
    )
    def test_bad_tables(self, tmp_path: Path, name: str, data: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=message):
            Folder(table=str(tmp_path / name)).load()

    def test_absent_table(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there is no table"):
            Folder(table=str(tmp_path / "t.csv")).load()


def test_attributes_play_no_part_in_the_draw(birds: Path) -> None:
    before = Folder(table=str(birds), size=8).load()
    text = birds.read_text(encoding="utf-8").replace(",water,", ",land,", 9)
    birds.write_text(text, encoding="utf-8")
    assert Folder(table=str(birds), size=8).load().test.names == before.test.names


def test_second_load_uses_the_cache(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(zoo)
    monkeypatch.setattr("truecue.data.files.read_image", None)
    again = load(zoo, seed=3, val_share=0.2)
    assert len(again.train) < len(first.train)
    assert torch.equal(load(zoo).train.images[:], first.train.images[:])


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), max_size=8))
def test_natural_order_is_an_order(names: list[str]) -> None:
    assert sorted(names, key=natural) == sorted(sorted(names), key=natural)


def test_natural_order() -> None:
    names = ["10", "9", "b", "a10", "a9", "007", "1"]
    assert sorted(names, key=natural) == ["1", "007", "9", "10", "a9", "a10", "b"]
