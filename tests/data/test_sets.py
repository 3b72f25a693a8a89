from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from truecue.data.sets import ArrayFile, Attribute, ImageSet, Splits, class_counts
from truecue.errors import DataError

PLACES = ("land", "water")


def made(n: int = 6, side: int = 4, **more) -> ImageSet:
    x = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, side, side)
    values = {
        "images": x.contiguous(),
        "y": torch.arange(n) % 2,
        "classes": ("cow", "camel"),
        "attributes": {"place": Attribute(torch.arange(n) % 2, PLACES)},
        "names": tuple(f"{i}.png" for i in range(n)),
    }
    return ImageSet(**(values | more))


def place(values, names=PLACES):
    return {"place": Attribute(torch.tensor(values), names)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": torch.zeros(6, 3, 4, 4)}, r"uint8 \[n, c, h, w\]; got float32 of shape"),
        ({"images": torch.zeros(6, 4, 4, dtype=torch.uint8)}, r"got uint8 of shape \[6, 4, 4\]"),
        ({"y": torch.zeros(5, dtype=torch.int64)}, "6 images and 5 labels"),
        ({"y": torch.zeros(6, dtype=torch.int32)}, "labels must be int64"),
        ({"y": torch.zeros(6, 1, dtype=torch.int64)}, "labels must be int64"),
        ({"y": torch.tensor([0, 1, 2, 0, 1, 0])}, r"label must lie in 0..1; found 0..2"),
        ({"y": torch.tensor([0, 1, -1, 0, 1, 0])}, r"label must lie in 0..1; found -1..1"),
        ({"names": ("a",)}, "1 names and 6 images"),
        ({"attributes": place([0, 1])}, "'place' has 2 values for 6 images"),
        ({"attributes": place([0, 1, 2, 0, 0, 0])}, r"'place' must lie in -1..1; found 0..2"),
        ({"attributes": place([0, 1, -2, 0, 0, 0])}, "'place' must lie in"),
        ({"attributes": place([0.0, 1, 0, 0, 0, 0])}, "'place' must be int64"),
    ],
)
def test_images_labels_and_attributes_must_fit(change, sentence) -> None:
    with pytest.raises(DataError, match=sentence):
        made(**change)


def test_values_that_are_not_known_are_allowed() -> None:
    data = made(attributes=place([0, 1, -1, -1, 0, 1]))
    assert data.attributes["place"].values.tolist() == [0, 1, -1, -1, 0, 1]


@pytest.mark.parametrize(
    "ids", [torch.tensor([4, 1, 1]), torch.tensor([False, True, False, False, True, False])]
)
def test_selected_images_keep_what_is_theirs(ids) -> None:
    part = made().select(ids)
    chosen = [4, 1, 1] if ids.dtype == torch.int64 else [1, 4]
    assert part.images[:, 0, 0, 0].tolist() == chosen
    assert part.y.tolist() == [i % 2 for i in chosen]
    assert part.attributes["place"].values.tolist() == [i % 2 for i in chosen]
    assert part.names == tuple(f"{i}.png" for i in chosen)


def test_blind_images_have_no_attributes_and_are_otherwise_the_same() -> None:
    data = made()
    blind = data.blind()
    assert blind.attributes == {}
    assert blind.images is data.images
    assert (blind.y is data.y, blind.names, len(blind), blind.shape) == (
        True, data.names, 6, (3, 4, 4),
    )  # fmt: skip
    assert "place" in data.attributes


def test_class_counts_include_classes_without_images() -> None:
    assert class_counts(made(5)) == [3, 2]
    assert class_counts(made(2, y=torch.zeros(2, dtype=torch.int64))) == [2, 0]


# three splits


def test_parts_are_those_that_exist() -> None:
    assert list(Splits(made(), None, made()).parts()) == ["train", "test"]
    assert list(Splits(made(), made(), made()).parts()) == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (made(classes=("camel", "cow")), "have classes"),
        (made(side=5), r"shape \(3, 5, 5\)"),
        (made(y=torch.zeros(6, dtype=torch.int64)), "no test image shows class 'camel'"),
        (
            made(attributes=place([0, 1, 0, 1, 0, 1], ("water", "land"))),
            "attribute 'place' has the values .* in the test images",
        ),
    ],
)
def test_splits_must_fit_one_another(other: ImageSet, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Splits(made(), None, other)


def test_blind_splits_go_with_others() -> None:
    Splits(made().blind(), made(), made().blind())


def test_one_class_is_not_enough() -> None:
    one = made(2, classes=("cow",), y=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match="at least two classes; found 1: cow"):
        Splits(one, None, one)


def test_the_bias_must_be_an_attribute() -> None:
    with pytest.raises(DataError, match=r"no attribute 'colour' \(attributes: place\)"):
        Splits(made(), None, made(), bias="colour")


@pytest.mark.parametrize(
    "aligned", [torch.eye(3, dtype=torch.bool), torch.eye(2), torch.ones(2, dtype=torch.bool)]
)
def test_the_table_of_aligned_cells_must_fit(aligned) -> None:
    with pytest.raises(DataError, match=r"bool \[classes, values\] = \[2, 2\]"):
        Splits(made(), None, made(), bias="place", aligned=aligned)


# images in a file


@pytest.fixture
def file(tmp_path: Path) -> ArrayFile:
    np.save(tmp_path / "x.npy", made().images.numpy())
    return ArrayFile(tmp_path / "x.npy")


def test_a_file_is_indexed_like_a_tensor(file: ArrayFile) -> None:
    whole = made().images
    assert (len(file), file.shape) == (6, (6, 3, 4, 4))
    for ids in (slice(1, 4), slice(None), torch.tensor([5, 0, 5]), torch.arange(6) > 2):
        assert torch.equal(file[ids], whole[ids])
        assert file[ids].dtype == torch.uint8


def test_chosen_rows_of_chosen_rows(file: ArrayFile) -> None:
    part = file.select(torch.tensor([5, 3, 1])).select(torch.tensor([2, 0]))
    assert (len(part), part.shape) == (2, (2, 3, 4, 4))
    assert part[:][:, 0, 0, 0].tolist() == [1, 5]
    assert part[torch.tensor([1])][0, 0, 0, 0] == 5


def test_what_is_read_may_be_changed(file: ArrayFile) -> None:
    file[torch.tensor([3])].zero_()
    file[0:4].zero_()
    assert file[torch.tensor([3])][0, 0, 0, 0] == 3


def test_a_set_on_disk_behaves_like_one_in_memory(file: ArrayFile) -> None:
    data = replace(made(), images=file)
    part = data.select(torch.tensor([4, 1]))
    assert part.images[:][:, 0, 0, 0].tolist() == [4, 1]
    assert part.y.tolist() == [0, 1]


@pytest.mark.parametrize("array", [np.zeros((2, 3, 4, 4)), np.zeros((2, 4, 4), dtype=np.uint8)])
def test_another_array_is_refused(tmp_path: Path, array) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match="must hold uint8 images"):
        ArrayFile(tmp_path / "x.npy")
