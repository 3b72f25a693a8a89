"""Parts of images: where they are, what they look like, what exchanging them changes."""

from __future__ import annotations

import pytest
import torch

from truecue.audit.regions import all_regions, exchanged, looked_at, region, usual_regions
from truecue.errors import DataError


def test_usual_regions_lie_where_they_are_said_to_lie() -> None:
    found = usual_regions(24, 48)
    border = found["border"]
    assert bool(border[:2].all())
    assert bool(border[:, -2:].all())
    assert not bool(border[2:-2, 2:-2].any())
    assert found["lower right corner"].nonzero().amin(0).tolist() == [20, 40]
    assert int(found["upper left corner"].sum()) == 4 * 8
    background = found["background"]
    assert bool(background[0, 0])
    assert not bool(background[12, 24])
    assert float(background.float().mean()) == pytest.approx(1 - torch.pi / 4, abs=0.03)


def test_a_box_is_in_shares_of_the_image() -> None:
    mask = region("stamp", (0.5, 0, 1, 0.25), 20, 40)
    assert mask.nonzero().amin(0).tolist() == [0, 20]
    assert mask.nonzero().amax(0).tolist() == [4, 39]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ((0.5, 0, 1.2, 0.5), "as shares of the image in 0..1"),
        ((-0.1, 0, 1, 0.5), "as shares of the image in 0..1"),
        ((0.6, 0, 0.4, 1), "left < right"),
        ((0, 0, 1), "left, top, right, bottom"),
        ((0.5, 0.5, 0.501, 0.501), "has no pixel"),
        ((0, 0, 1, 1), "is the whole image"),
        (torch.ones(3, 3, dtype=torch.bool), r"must be bool \[height, width\] = \[20, 20\]"),
        (torch.ones(20, 20), "got float32"),
        (torch.zeros(20, 20, dtype=torch.bool), "has no pixel"),
    ],
)
def test_regions_that_do_not_fit_are_refused(where: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        region("stamp", where, 20, 20)  # type: ignore[arg-type]


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(DataError, match="already a region 'border'"):
        all_regions({"border": (0, 0, 0.5, 0.5)}, 20, 20)


def test_what_a_region_looks_like_depends_on_its_pixels_alone() -> None:
    images = torch.randint(0, 256, (5, 3, 24, 24), dtype=torch.uint8)
    mask = region("stamp", (0.1, 0.1, 0.5, 0.6), 24, 24)
    other = torch.randint_like(images, 0, 256)
    outside = torch.where(mask, images, other)
    inside = torch.where(mask, other, images)
    seen, same, changed = (looked_at(x, {"a": mask})["a"] for x in (images, outside, inside))
    assert torch.equal(seen, same)
    assert not torch.equal(seen, changed)


def test_regions_are_looked_at_together_as_one_by_one() -> None:
    images = torch.randint(0, 256, (5, 3, 24, 24), dtype=torch.uint8)
    regions = usual_regions(24, 24)
    for name, seen in looked_at(images, regions).items():
        alone = looked_at(images, {name: regions[name]})[name]
        assert torch.allclose(seen, alone, atol=1e-2), name


def test_known_looks() -> None:
    image = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    image[..., ::2] = 100  # upright stripes
    seen = looked_at(image, {"cell": region("cell", (0, 0, 0.25, 0.25), 16, 16)})["cell"]
    # mean, deviation, slopes to the right (3 of 4 neighbours lie inside), slopes downwards
    assert seen[0].tolist() == pytest.approx([50, 50, 75, 0])


def test_exchanging_changes_the_region_and_nothing_else() -> None:
    x, other = torch.full((2, 3, 8, 8), 7, dtype=torch.uint8), torch.full((2, 3, 8, 8), 9)
    mask = region("stamp", (0, 0, 0.5, 0.5), 8, 8)
    out = exchanged(x, mask, other.to(torch.uint8))
    assert out.dtype == torch.uint8
    assert bool((out[..., mask] == 9).all())
    assert bool((out[..., ~mask] == 7).all())
