"""Which image belongs to which group, and balanced parts of the images."""

from __future__ import annotations

import pytest
import torch

from truecue.data.sets import Attribute, ImageSet
from truecue.errors import SupervisionError
from truecue.methods.grouping import balanced_subset, grouped


def images(y: list[int], a: list[int], classes: int = 2, values: int = 3) -> ImageSet:
    names = tuple(f"v{i}" for i in range(values))
    return ImageSet(
        torch.zeros(len(y), 3, 4, 4, dtype=torch.uint8),
        torch.tensor(y),
        tuple(f"c{i}" for i in range(classes)),
        {"place": Attribute(torch.tensor(a), names)},
    )


def test_groups_are_numbered_by_class_then_value_and_empty_ones_left_out() -> None:
    data = images([1, 0, 0, 1, 0], [2, 0, 2, 0, 2])
    groups = grouped(data, "place")
    assert groups.of.tolist() == [3, 0, 1, 2, 1]
    assert groups.counts.tolist() == [1, 2, 1, 1]
    assert groups.cells.tolist() == [[0, -1, 1], [2, -1, 3]]
    assert groups.names[1] == "c0 with place v2"
    # what a batch says of an image leads to the same number
    assert torch.equal(groups.cells[data.y, data.attributes["place"].values], groups.of)


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (10, 10)])
def test_every_image_is_in_exactly_one_group(shape: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    y, a = (torch.randint(k, (300,), generator=rng).tolist() for k in shape)
    groups = grouped(images(y, a, *shape), "place")
    assert int(groups.counts.sum()) == len(y)
    assert torch.equal(groups.of.bincount(), groups.counts)
    pairs = {}
    for pair, g in zip(zip(y, a, strict=True), groups.of.tolist(), strict=True):
        assert pairs.setdefault(pair, g) == g
    assert len(set(pairs.values())) == len(pairs) == len(groups.counts)


def test_classes_need_no_attribute() -> None:
    groups = grouped(images([1, 0, 1], [0, 0, 0]).blind(), None, "class")
    assert groups.of.tolist() == [1, 0, 1]
    assert groups.names == ("c0", "c1")


def test_unknown_bias_values_are_refused() -> None:
    with pytest.raises(SupervisionError, match="of 2 of 3 images is not known"):
        grouped(images([0, 1, 1], [0, -1, -1]), "place")
    with pytest.raises(SupervisionError, match="need bias labels"):
        grouped(images([0, 1], [0, 1]).blind(), "place")


def test_balanced_subset_of_waterbirds_validation_images() -> None:
    counts = [467, 466, 133, 133]
    y = [c // 2 for c, n in enumerate(counts) for _ in range(n)]
    a = [c % 2 for c, n in enumerate(counts) for _ in range(n)]
    groups = grouped(images(y, a), "place")
    chosen = balanced_subset(groups, 0, "part", 0)
    assert len(chosen) == len(chosen.unique()) == 532
    assert groups.of[chosen].bincount().tolist() == [133] * 4
    assert torch.equal(chosen, balanced_subset(groups, 0, "part", 0))
    other = balanced_subset(groups, 0, "part", 1)
    assert not torch.equal(chosen, other)
    assert set(groups.of[chosen[groups.of[chosen] >= 2]].tolist()) == {2, 3}


def test_all_images_of_a_group_can_be_chosen() -> None:
    groups = grouped(images([0] * 6 + [1] * 2, [0] * 8), "place")
    seen = {i for k in range(40) for i in balanced_subset(groups, k).tolist()}
    assert seen == set(range(8))
