"""Corrupting chosen places of an image, and the crop around an object."""

from __future__ import annotations

import math

import pytest
import torch

from truecue.audit.corrupt import (
    Box,
    core_crop,
    core_mask,
    corrupted,
    sensitivity,
    without,
)
from truecue.errors import DataError

KINDS = ("gray", "blur", "rotate", "noise")


def pictures(n: int, h: int = 40, w: int = 56) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, h, w), generator=rng, dtype=torch.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_only_masked_places_change(kind: str) -> None:
    x, mask = pictures(3), torch.zeros(3, 40, 56)
    assert torch.equal(corrupted(x, mask, kind), x)
    mask[:, 10:30, 20:40] = 1
    got = corrupted(x, mask, kind)
    changed = (got != x).any(1)
    assert not changed[mask == 0].any()
    assert changed[mask == 1].float().mean() > 0.5
    half = corrupted(x, mask / 2, kind)
    moved = (got.int() - x.int()).float().abs()
    less = (half.int() - x.int()).float().abs()
    assert less.mean() < 0.65 * moved.mean()
    # the seed decides, and nothing else
    assert torch.equal(corrupted(x, mask, kind), got)
    assert torch.equal(corrupted(x, mask, kind, seed=1), got) == (kind in ("gray", "blur"))


def test_gray_is_the_luminance() -> None:
    x = torch.tensor([200, 100, 50], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 4, 4)
    got = corrupted(x, torch.ones(1, 4, 4), "gray")
    assert set(got.flatten().tolist()) == {round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)}
    grey = x[:, :1]
    assert torch.equal(corrupted(grey, torch.ones(1, 4, 4), "gray"), grey)


def test_blur_keeps_means_and_removes_detail() -> None:
    checks = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255).to(torch.uint8)
    got = corrupted(checks.expand(1, 3, 64, 64), torch.ones(1, 64, 64), "blur").float()
    assert got.mean() == pytest.approx(127.5, abs=1)
    assert got.std() < 2


def test_patches_are_turned_in_place() -> None:
    # patches of 4 pixels: each has a number of its own, and a bright corner
    x = torch.arange(14 * 14).view(14, 14).repeat_interleave(4, 0).repeat_interleave(4, 1)
    x[::4, ::4] += 40
    x = x.to(torch.uint8).expand(1, 3, 56, 56)
    got = corrupted(x, torch.ones(1, 56, 56), "rotate")
    patches, after = (p[0, 0].unfold(0, 4, 4).unfold(1, 4, 4) for p in (x, got))
    turned = torch.stack([(after == patches.rot90(k, (2, 3))).all(-1).all(-1) for k in range(4)])
    assert (turned.sum(0) == 1).all()  # each patch is turned by exactly one angle
    assert (turned.sum((1, 2)) > 25).all()  # and all angles occur


def test_patches_at_the_border_that_do_not_fit_stay() -> None:
    x = pictures(1, 58, 58)
    got = corrupted(x, torch.ones(1, 58, 58), "rotate")
    assert torch.equal(got[..., 56:, :], x[..., 56:, :])
    assert torch.equal(got[..., 56:], x[..., 56:])


def test_noise_has_the_published_deviation() -> None:
    x = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
    mask = torch.ones(2, 64, 64)
    mask[1] = 0.4
    moved = (corrupted(x, mask, "noise").float() - 128) / 255
    assert moved[1].std() == pytest.approx(0.1, rel=0.03)
    assert abs(float(moved[0].mean())) < 0.01


def test_small_images() -> None:
    for kind in KINDS:
        assert corrupted(pictures(1, 3, 5), torch.ones(1, 3, 5), kind).shape == (1, 3, 3, 5)
        assert corrupted(pictures(0), torch.ones(0, 40, 56), kind).shape == (0, 3, 40, 56)


def test_masks_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"\[2, 40, 56\], one for each image; got \[2, 7, 7\]"):
        corrupted(pictures(2), torch.ones(2, 7, 7), "gray")
    for bad in (1.5, -0.1, float("nan")):
        with pytest.raises(DataError, match=r"must lie in \[0, 1\]"):
            corrupted(pictures(1), torch.full((1, 40, 56), bad), "gray")


def test_the_core_is_taken_out_by_a_product() -> None:
    cores = torch.tensor([[[[0.0, 0.5]]], [[[0.25, 0.25]]]])
    core = core_mask(cores)
    assert core.tolist() == [[[0.25, 0.5]]]
    left = without(torch.tensor([[[0.8, 1.0]]]), core)
    torch.testing.assert_close(left, torch.tensor([[[0.6, 0.5]]]))
    assert core_mask(torch.zeros(0, 1, 2, 2)).tolist() == [[[0, 0], [0, 0]]]


def test_sensitivity() -> None:
    right = torch.tensor([True, True, True, True, False])
    assert sensitivity(right, torch.tensor([True, False, False, False, False])) == 0.75
    assert sensitivity(right, torch.ones(5) > 0) == -0.25
    assert math.isnan(sensitivity(~torch.ones(5).bool(), right))
    with pytest.raises(DataError, match="5 images before and 4 after"):
        sensitivity(right, right[:4])


def test_core_crop_by_hand() -> None:
    mean = torch.zeros(10, 10)
    mean[2:5, 3:8] = 0.95
    box = core_crop(torch.stack([mean + 0.03, mean - 0.03]))
    assert box == pytest.approx(Box(0.5, 6.5, 2.5, 8.5))
    assert box.cut(torch.zeros(3, 10, 10)).shape == (3, 7, 7)


def test_core_crop_at_a_border_and_without_a_strong_pixel() -> None:
    mean = torch.zeros(20, 30)
    mean[:4, 20:30] = 1
    assert core_crop(mean[None]) == pytest.approx(Box(0, 8, 19, 30))
    weak = torch.zeros(20, 30)
    weak[5:7, 10:13] = 0.3  # 6 pixels: the 1 % of 600
    assert core_crop(weak[None]) == pytest.approx(Box(4.2, 7.8, 9.7, 13.3))
    with pytest.raises(DataError, match="needs a core feature"):
        core_crop(torch.zeros(0, 4, 4))
