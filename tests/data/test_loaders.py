"""Suites of published files that nobody may pass on: tiny copies of the same layout."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from truecue.data.sets import Attribute, ImageSet, Splits
from truecue.data.suites.bffhq import BFFHQ
from truecue.data.suites.celeba import CelebA
from truecue.data.suites.imagenet9 import CLASSES, ImageNet9
from truecue.data.suites.utkface import UTKFace
from truecue.data.suites.waterbirds import Waterbirds
from truecue.engine.judge import aligned_mask
from truecue.errors import ConfigError, DataError

Paint = Callable[..., Path]


def colours(data: ImageSet) -> torch.Tensor:
    """Red, green and blue of images that have one colour each: int64 [3, n]."""
    images = data.images[:]
    assert (images == images[..., :1, :1]).all()
    return images[..., 0, 0].long().T


def cells(data: ImageSet, name: str) -> list[list[int]]:
    values, names = data.attributes[name]
    size = len(data.classes) * len(names)
    counts = torch.bincount(data.y * len(names) + values, minlength=size)
    return counts.reshape(len(data.classes), -1).tolist()


def parts(splits: Splits) -> Iterator[ImageSet]:
    """The splits, after a look at names that no two of them share."""
    names = [name for part in splits.parts().values() for name in part.names]
    assert len(names) == len(set(names))
    yield from splits.parts().values()


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


class TestWaterbirds:
    @pytest.fixture
    def rows(self, tmp_path: Path, paint: Paint) -> list[dict[str, object]]:
        """One image for each split, class and place, and one more waterbird on land in training."""
        folder = tmp_path / "waterbird_complete95_forest2water2"
        rows: list[dict[str, object]] = []
        for split, y, place in [*[(s, y, p) for s in range(3) for y in (0, 1) for p in (0, 1)],
                                (0, 1, 0)]:  # fmt: skip
            name = f"{y:03}.Bird/Bird_{len(rows)}.jpg"
            paint(folder / name, 50 * y, 50 * place, 50 * split)
            rows.append({"img_id": len(rows), "img_filename": name, "y": y, "split": split,
                         "place": place, "place_filename": "x"})  # fmt: skip
        write_csv(folder / "metadata.csv", rows)
        return rows

    def write(self, tmp_path: Path, rows: list[dict[str, object]]) -> None:
        write_csv(tmp_path / "waterbird_complete95_forest2water2" / "metadata.csv", rows)

    def test_small_copy(self, tmp_path: Path, rows: list[dict[str, object]]) -> None:
        splits = Waterbirds(size=8, complete=False).load(tmp_path)
        assert [cells(part, "place") for part in parts(splits)] == [
            [[1, 1], [2, 1]],
            [[1, 1], [1, 1]],
            [[1, 1], [1, 1]],
        ]
        for split, part in enumerate(parts(splits)):
            red, green, blue = colours(part)
            assert torch.equal(red, 50 * part.y)
            assert torch.equal(green, 50 * part.attributes["place"].values)
            assert (blue == 50 * split).all()
        assert splits.bias == "place"
        assert splits.aligned.tolist() == [[True, False], [False, True]]
        assert splits.train.classes == ("landbird", "waterbird")

    def test_published_counts_add_up(self) -> None:
        counts = Waterbirds.counts
        for split in ("train", "val", "test"):
            assert counts[split] == sum(n for k, n in counts.items() if k.startswith(f"{split}:"))
        assert counts["train"] + counts["val"] + counts["test"] == 11788  # images of CUB-200-2011

    def test_incomplete(self, tmp_path: Path, rows: list[dict[str, object]]) -> None:
        with pytest.raises(DataError, match=r"train: 4,795 expected, 5 found.*complete=false"):
            Waterbirds().load(tmp_path)

    def test_groups_are_checked(
        self, tmp_path: Path, rows: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = ("landbird, land", "landbird, water", "waterbird, land", "waterbird, water")
        own = {"train": (1, 1, 2, 1), "val": (1, 1, 1, 1), "test": (1, 1, 1, 1)}
        counts = {s: sum(n) for s, n in own.items()}
        for split, numbers in own.items():
            counts |= {f"{split}: {g}": n for g, n in zip(names, numbers, strict=True)}
        monkeypatch.setattr(Waterbirds, "counts", counts)
        assert len(Waterbirds(size=8).load(tmp_path).train) == 5
        swapped = [row | {"place": 1 - row["place"]} if row["split"] == 0 else row for row in rows]
        self.write(tmp_path, swapped)
        with pytest.raises(DataError, match="train: waterbird, land: 2 expected, 1 found"):
            Waterbirds(size=8).load(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"split": 3}, r"column split, row 2: '3' is none of train, val, test"),
            ({"y": 2}, r"column y, row 2: '2' is none of landbird, waterbird"),
            ({"place": ""}, r"metadata.csv row 2: column 'place' is empty"),
            ({"img_filename": "no.jpg"}, r"no.jpg: there is no such file"),
        ],
    )
    def test_bad_row(
        self,
        tmp_path: Path,
        rows: list[dict[str, object]],
        change: dict[str, object],
        message: str,
    ) -> None:
        self.write(tmp_path, [rows[0], rows[1] | change, *rows[2:]])
        with pytest.raises(DataError, match=message):
            Waterbirds(size=8, complete=False).load(tmp_path)

    def test_no_place(self, tmp_path: Path, rows: list[dict[str, object]]) -> None:
        self.write(tmp_path, [{k: v for k, v in row.items() if k != "place"} for row in rows])
        with pytest.raises(DataError, match=r"metadata.csv has no column 'place'"):
            Waterbirds(size=8, complete=False).load(tmp_path)

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"waterbird_complete95_forest2water2/ with metadata"):
            Waterbirds().load(tmp_path)


class TestCelebA:
    HEAD = ("Blond_Hair", "Male", "Young")

    @pytest.fixture
    def faces(self, tmp_path: Path, paint: Paint) -> Path:
        """Five images of each split and group; red blond, green male, blue young and split."""
        rows = [(s, b, m) for s in range(3) for b in (0, 1) for m in (0, 1) for _ in range(5)]
        attributes, splits = [str(len(rows)), " ".join(self.HEAD)], []
        for i, (split, blond, male) in enumerate(rows):
            name, young = f"{i + 1:06}.jpg", i % 2
            values = (2 * v - 1 for v in (blond, male, young))
            attributes.append(name + "".join(f" {v:2}" for v in values))
            splits.append(f"{name} {split}")
            paint(tmp_path / "celeba" / "img_align_celeba" / name, 50 * blond, 50 * male,
                  50 * young + split)  # fmt: skip
        (tmp_path / "celeba" / "list_attr_celeba.txt").write_text("\n".join(attributes) + "\n")
        (tmp_path / "celeba" / "list_eval_partition.txt").write_text("\n".join(splits) + "\n")
        return tmp_path

    def check(self, splits: Splits) -> None:
        assert [len(part) for part in parts(splits)] == [20, 20, 20]
        for split, part in enumerate(parts(splits)):
            red, green, blue = colours(part)
            assert torch.equal(red, 50 * part.y)
            assert torch.equal(green, 50 * part.attributes["Male"].values)
            assert (blue % 50 == split).all()
        assert splits.bias == "Male"
        assert splits.train.classes == ("not blond hair", "blond hair")

    def test_small_copy(self, faces: Path) -> None:
        self.check(CelebA(size=8, complete=False).load(faces))

    def test_kaggle_form(self, faces: Path) -> None:
        folder = faces / "celeba"
        lines = (folder / "list_attr_celeba.txt").read_text().splitlines()
        text = "\n".join(",".join(line.split()) for line in lines[2:])
        (folder / "list_attr_celeba.csv").write_text(f"image_id,{','.join(self.HEAD)}\n{text}\n")
        text = (folder / "list_eval_partition.txt").read_text().replace(" ", ",")
        (folder / "list_eval_partition.csv").write_text(f"image_id,partition\n{text}")
        for path in folder.glob("*.txt"):
            path.unlink()
        self.check(CelebA(size=8, complete=False).load(faces))

    def test_other_attributes(self, faces: Path) -> None:
        splits = CelebA(target="Male", bias="Young", size=8, complete=False).load(faces)
        for part in parts(splits):
            _, green, blue = colours(part)
            assert torch.equal(green, 50 * part.y)
            assert torch.equal(blue // 50, part.attributes["Young"].values)
        assert splits.train.attributes["Young"].names == ("not young", "young")
        with pytest.raises(DataError, match="has no column 'Yong'; did you mean 'Young'"):
            CelebA(bias="Yong", size=8, complete=False).load(faces)
        # groups are known for one pair only; sizes of splits are always checked
        with pytest.raises(DataError, match=r"\(train: 162,770 expected, 20 found; val: [^:]*; te"):
            CelebA(target="Male", bias="Young").load(faces)

    def test_settings(self) -> None:
        with pytest.raises(ConfigError, match="target and bias must be two attributes"):
            CelebA(target="Male")
        with pytest.raises(ConfigError, match="subset hong_yang is made for Blond_Hair"):
            CelebA(target="Young", subset="hong_yang")

    def test_published_counts_add_up(self) -> None:
        counts = CelebA.counts
        for split in ("train", "val", "test"):
            assert counts[split] == sum(n for k, n in counts.items() if k.startswith(f"{split}:"))
        assert counts["train"] + counts["val"] + counts["test"] == 202599

    def test_conflicting_groups(self) -> None:
        """By the published counts, as the rule of `Splits` has it: blond men, dark-haired women."""
        numbers = [n for k, n in CelebA.counts.items() if k.startswith("train:")]
        y = torch.repeat_interleave(torch.tensor([0, 0, 1, 1]), torch.tensor(numbers) // 50)
        male = torch.repeat_interleave(torch.tensor([0, 1, 0, 1]), torch.tensor(numbers) // 50)
        images = torch.zeros(len(y), 1, 1, 1, dtype=torch.uint8)
        data = ImageSet(images, y, ("a", "b"), {"Male": Attribute(male, ("0", "1"))})
        mask = aligned_mask(Splits(data, None, data, bias="Male"))
        assert mask.tolist() == [[False, True], [True, False]]

    def test_subset(self, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("truecue.data.suites.celeba._KEPT", 2)
        monkeypatch.setattr("truecue.data.suites.celeba._HELD_OUT", 0.5)
        suite = CelebA(subset="hong_yang", size=8, complete=False)
        splits = suite.load(faces)
        train, val, test = parts(splits)
        both = torch.tensor(cells(train, "Male")) + torch.tensor(cells(val, "Male"))
        assert both.tolist() == [[2, 5], [5, 5]]
        assert (len(train), len(val), len(test)) == (9, 8, 20)
        assert (colours(train)[2] % 50 == 0).all()
        assert suite.load(faces).train.names == train.names
        assert suite.load(faces, seed=1).train.names != train.names

    @pytest.mark.parametrize(
        ("file", "old", "new", "message"),
        [
            ("list_eval_partition.txt", "000002.jpg 0", "000002.jpg 7", "row 2: '7' is none of"),
            ("list_eval_partition.txt", "000002.jpg 0\n", "", "do not name the same images"),
            ("list_eval_partition.txt", "000002.jpg 0", "000002.jpg", "line 2: expected are an"),
            ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg  2", "Blond_Hair must be -1 or"),
            ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg", "line 5: .* and 3 values"),
            ("list_attr_celeba.txt", "Male ", "", "line 3: .* and 2 values"),
        ],
    )
    def test_bad_lists(self, faces: Path, file: str, old: str, new: str, message: str) -> None:
        path = faces / "celeba" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(DataError, match=message):
            CelebA(size=8, complete=False).load(faces)

    def test_missing_files(self, faces: Path) -> None:
        (faces / "celeba" / "img_align_celeba" / "000007.jpg").unlink()
        with pytest.raises(DataError, match=r"000007.jpg: there is no such file"):
            CelebA(size=8, complete=False).load(faces)
        (faces / "celeba" / "list_eval_partition.txt").unlink()
        with pytest.raises(DataError, match=r"list_eval_partition.txt cannot be read"):
            CelebA(size=8, complete=False).load(faces)


class TestBFFHQ:
    @pytest.fixture
    def faces(self, tmp_path: Path, paint: Paint) -> Path:
        folder = tmp_path / "bffhq"
        for y in (0, 1):
            for i in range(4):
                paint(folder / "0.5pct" / "align" / str(y) / f"{i}_{y}_{y}.png", 50 * y, 50 * y, 0)
            paint(folder / "0.5pct" / "conflict" / str(y) / f"9_{y}_{1 - y}.png", 50 * y,
                  50 * (1 - y), 0)  # fmt: skip
            for gender in (0, 1):
                paint(folder / "valid" / f"5_{y}_{gender}.png", 50 * y, 50 * gender, 1)
                paint(folder / "test" / f"6_{y}_{gender}.png", 50 * y, 50 * gender, 2)
                paint(folder / "test" / f"7_{y}_{gender}.png", 50 * y, 50 * gender, 2)
        return tmp_path

    def test_small_copy(self, faces: Path) -> None:
        splits = BFFHQ(size=8, complete=False).load(faces)
        assert [cells(part, "gender") for part in parts(splits)] == [
            [[4, 1], [1, 4]],
            [[1, 1], [1, 1]],
            [[2, 2], [2, 2]],
        ]
        for split, part in enumerate(parts(splits)):
            red, green, blue = colours(part)
            assert torch.equal(red, 50 * part.y)
            assert torch.equal(green, 50 * part.attributes["gender"].values)
            assert (blue == split).all()
        assert splits.aligned.tolist() == [[True, False], [False, True]]

    def test_other_percentage(self, faces: Path) -> None:
        (faces / "bffhq" / "0.5pct").rename(faces / "bffhq" / "2pct")
        assert len(BFFHQ(size=8, complete=False, percent=2).load(faces).train) == 10
        with pytest.raises(DataError, match=r"no images in .*0.5pct/align"):
            BFFHQ(size=8, complete=False).load(faces)
        with pytest.raises(DataError, match=r"bFFHQ \(valid: 1,000 expected, 4 found; test"):
            BFFHQ(percent=2).load(faces)

    def test_incomplete(self, faces: Path) -> None:
        with pytest.raises(DataError, match="align: 19,104 expected, 8 found; conflict: 96"):
            BFFHQ().load(faces)

    def test_bad_names(self, faces: Path, paint: Paint) -> None:
        suite = BFFHQ(size=8, complete=False)
        wrong = paint(faces / "bffhq" / "0.5pct" / "align" / "0" / "8_0_1.png", 0, 0, 0)
        with pytest.raises(DataError, match=r"8_0_1.png: .* conflicting \(label and bias differ\)"):
            suite.load(faces)
        wrong.rename(faces / "bffhq" / "0.5pct" / "conflict" / "0" / "8_1_1.png")
        with pytest.raises(DataError, match=r"8_1_1.png: .* aligned \(label and bias agree\), by"):
            suite.load(faces)
        (faces / "bffhq" / "0.5pct" / "conflict" / "0" / "8_1_1.png").unlink()
        paint(faces / "bffhq" / "test" / "8_2.png", 0, 0, 0)
        with pytest.raises(DataError, match=r"8_2.png: the name must end with label and bias"):
            suite.load(faces)

    def test_unreadable(self, faces: Path) -> None:
        (faces / "bffhq" / "valid" / "5_0_0.png").write_bytes(b"GIF89a")
        with pytest.raises(DataError, match=r"valid/5_0_0.png: .*again"):
            BFFHQ(size=8, complete=False).load(faces)


class TestUTKFace:
    AGES = (10, 15, 20)

    @pytest.fixture
    def faces(self, tmp_path: Path, paint: Paint) -> Path:
        """Faces of three ages, more of them men of 20: red age, green gender, blue race."""
        for age in self.AGES:
            for gender in (0, 1):
                for i in range(30 if (age, gender) == (20, 0) else 20):
                    race = (0, 2)[i % 2]
                    name = f"{age}_{gender}_{race}_2017{i:04}.jpg.chip.jpg"
                    paint(tmp_path / "UTKFace" / name, age, gender, race)
        return tmp_path

    def test_gender_with_age(self, faces: Path) -> None:
        suite = UTKFace(size=8, complete=False, conflicting=0.2, test_share=0.2, val_share=0.25)
        splits = suite.load(faces)
        train, val, test = parts(splits)
        # 26 and 16 aligned images are left: 33 and 20 of the classes, with conflicting ones
        both = torch.tensor(cells(train, "age")) + torch.tensor(cells(val, "age"))
        assert both.tolist() == [[26, 7], [4, 16]]
        assert torch.tensor(cells(val, "age")).sum(1).tolist() == [8, 5]
        assert cells(test, "age") == [[4, 4], [4, 4]]
        for part in (train, val, test):
            red, green, _ = colours(part)
            assert torch.equal(green, part.y)
            assert torch.equal(red, torch.tensor([20, 10])[part.attributes["age"].values])
        assert splits.train.classes == ("male", "female")
        assert splits.train.attributes["age"].names == ("20 or older", "10 or younger")
        assert splits.notes == ()

    def test_other_pairs(self, faces: Path) -> None:
        splits = UTKFace(target="race", bias="gender", size=8, complete=False).load(faces)
        for part in parts(splits):
            _, green, blue = colours(part)
            assert torch.equal(blue, 2 * part.y)
            assert torch.equal(green, part.attributes["gender"].values)
        # faces of 15 years have a race and a gender
        assert 15 in colours(splits.train)[0]
        with pytest.raises(ConfigError, match="target and bias must be two attributes"):
            UTKFace(target="age")

    def test_names_that_say_nothing_are_counted(self, faces: Path, paint: Paint) -> None:
        suite = UTKFace(size=8, complete=False)
        paint(faces / "UTKFace" / "39_1_20170116.jpg.chip.jpg", 0, 0, 0)
        (note,) = suite.load(faces).notes
        assert note == "1 image was left out: the file name has not age, gender, race and date"
        paint(faces / "UTKFace" / "61_7_0_20170116.jpg.chip.jpg", 0, 0, 0)
        assert suite.load(faces).notes[0].startswith("2 images were left out")

    def test_incomplete(self, faces: Path) -> None:
        with pytest.raises(DataError, match="images: 23,708 expected, 130 found"):
            UTKFace().load(faces)

    def test_seed_and_unreadable(self, faces: Path) -> None:
        suite = UTKFace(size=8, complete=False)
        names = [suite.load(faces, seed=seed).test.names for seed in (0, 0, 1)]
        assert names[0] == names[1] != names[2]
        (faces / "UTKFace" / "20_0_0_20170000.jpg.chip.jpg").write_bytes(b"")
        with pytest.raises(DataError, match=r"20_0_0_20170000.jpg.chip.jpg: "):
            suite.load(faces)

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"Expected: UTKFace/ or utkface/ with .*susanqq"):
            UTKFace().load(tmp_path)


class TestImageNet9:
    @pytest.fixture
    def things(self, tmp_path: Path, paint: Paint) -> Path:
        """Red is the class, green the folder."""
        sizes = {"original/train": 4, "in9l/train": 6, "original/val": 2, "mixed_rand/val": 3}
        for f, (folder, size) in enumerate(sizes.items()):
            for k, kind in enumerate(CLASSES):
                for i in range(size):
                    name = f"{k:02}_{kind}/n{i}.JPEG"
                    paint(tmp_path / "bg_challenge" / folder / name, 20 * k, 20 * f, i)
        return tmp_path

    def test_small_copy(self, things: Path) -> None:
        splits = ImageNet9(size=8, complete=False, val_share=0.25).load(things)
        train, val, test = parts(splits)
        assert cells(train, "background") == [[3, 0]] * 9
        assert cells(val, "background") == [[1, 0]] * 9
        assert cells(test, "background") == [[2, 3]] * 9
        for part in (train, val, test):
            red, green, _ = colours(part)
            assert torch.equal(red, 20 * part.y)
            if part is test:
                assert torch.equal(green, 40 + 20 * part.attributes["background"].values)
            else:
                assert (green == 0).all()
        assert splits.aligned.tolist() == [[True, False]] * 9
        assert splits.train.attributes["background"].names == ("own", "of a random class")

    def test_larger_training_set(self, things: Path) -> None:
        splits = ImageNet9(train="in9l", size=8, complete=False, val_share=0).load(things)
        assert len(splits.train) == 54
        assert (colours(splits.train)[1] == 20).all()
        with pytest.raises(DataError, match=r"ImageNet-9 \(original/val: 4,050 expected, 18 fo"):
            ImageNet9(train="in9l").load(things)

    def test_incomplete(self, things: Path) -> None:
        with pytest.raises(DataError, match="original/train: 45,405 expected, 36 found"):
            ImageNet9().load(things)
        with pytest.raises(DataError, match=r"only_fg/val has no images of class 'dog' \(a fold"):
            ImageNet9(variant="only_fg", complete=False).load(things)

    def test_missing_class_and_unreadable(self, things: Path) -> None:
        folder = things / "bg_challenge" / "mixed_rand" / "val" / "07_primate"
        (folder / "n0.JPEG").write_bytes(b"x")
        with pytest.raises(DataError, match=r"07_primate/n0.JPEG: it is not an image"):
            ImageNet9(size=8, complete=False).load(things)
        folder.rename(folder.with_name("primate"))
        with pytest.raises(DataError, match=r"mixed_rand/val has no images of class 'primate'"):
            ImageNet9(size=8, complete=False).load(things)
