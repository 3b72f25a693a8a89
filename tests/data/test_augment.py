"""Augmentation: every operation against one image at a time, and what `augment` promises."""

from __future__ import annotations

import colorsys
import math
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from truecue.data import augment as ops
from truecue.data.augment import AugmentName, augment, random_boxes
from truecue.errors import ConfigError

NAMES = get_args(AugmentName)
SIZES = pytest.mark.parametrize("shape", [(6, 3, 32, 32), (5, 1, 24, 40), (4, 3, 41, 23)])


def rng(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def images(n=8, c=3, h=32, w=32, seed=0):
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=rng(seed))


def photo_like(shape, seed=0):
    """Smooth images, so that blurring and resizing are not tried on noise alone."""
    n, c, h, w = shape
    coarse = torch.rand(n, c, 4, 4, generator=rng(seed))
    return F.interpolate(coarse, (h, w), mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)


def to_pil(x):
    array = x.permute(1, 2, 0).numpy()
    return Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)


def from_pil(image):
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def distance(a, b):
    return (a.int() - b.int()).abs().max().item()


@SIZES
def test_flip_equals_pillow(shape):
    x, chosen = images(*shape), torch.arange(shape[0]) % 2 == 0
    expected = [
        from_pil(ImageOps.mirror(to_pil(one))) if c else one
        for one, c in zip(x, chosen, strict=True)
    ]
    assert torch.equal(ops.flip(x, chosen), torch.stack(expected))


@SIZES
@pytest.mark.parametrize("padding", [1, 4])
def test_crop_equals_pillow(shape, padding):
    n, _, h, w = shape
    x = images(*shape)
    top, left = torch.randint(0, 2 * padding + 1, (2, n), generator=rng(1))
    expected = [
        from_pil(ImageOps.expand(to_pil(one), padding).crop((j, i, j + w, i + h)))
        for one, i, j in zip(x, top.tolist(), left.tolist(), strict=True)
    ]
    assert torch.equal(ops.crop(x, top, left, padding), torch.stack(expected))


@SIZES
@pytest.mark.parametrize("make", [images, photo_like])
def test_resized_crop_equals_interpolating_each_box(shape, make):
    n, _, h, w = shape
    x = images(*shape) if make is images else photo_like(shape)
    boxes = random_boxes(n, h, w, rng(2), scale=(0.01, 1))
    out = ops.resized_crop(x, boxes)
    for one, result, (i, j, tall, wide) in zip(x, out, boxes.tolist(), strict=True):
        box = one[None, :, i : i + tall, j : j + wide].double()
        exact = F.interpolate(box, (h, w), mode="bilinear")[0]
        assert (result - exact).abs().max() < 0.51  # correctly rounded


def test_a_box_of_the_whole_image_changes_nothing():
    x = images()
    assert torch.equal(ops.resized_crop(x, torch.tensor([[0, 0, 32, 32]] * 8)), x)


def test_jitter_equals_pixel_by_pixel():
    n = 6
    x = images(n, 3, 7, 5)
    factors = 0.2 + 1.6 * torch.rand(3, n, generator=rng(3))
    hue = torch.rand(n, generator=rng(4)) - 0.5
    out = ops.jitter(x, *factors, hue)
    for k in range(n):
        exact = _jitter_one(x[k].numpy(), *factors[:, k].tolist(), hue[k].item())
        assert np.abs(out[k].numpy() - exact).max() < 0.51


def _jitter_one(x, brightness, contrast, saturation, hue):
    """torchvision's ColorJitter in this order, without rounding between the steps."""
    v = np.clip(x.astype(np.float64) * brightness, 0, 255)
    luma = np.array([0.299, 0.587, 0.114])
    v = np.clip(contrast * v + (1 - contrast) * np.tensordot(luma, v, 1).mean(), 0, 255)
    v = np.clip(saturation * v + (1 - saturation) * np.tensordot(luma, v, 1), 0, 255)
    for i in range(v.shape[1]):
        for j in range(v.shape[2]):
            h, s, value = colorsys.rgb_to_hsv(*(v[:, i, j] / 255))
            v[:, i, j] = np.array(colorsys.hsv_to_rgb((h + hue) % 1, s, value)) * 255
    return v


@pytest.mark.parametrize(
    ("place", "enhance"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
def test_jitter_is_close_to_pillow(place, enhance):
    x = images()
    factors = torch.ones(4, 8)
    factors[3] = 0
    factors[place] = 0.2 + 1.6 * torch.rand(8, generator=rng(5))
    expected = [
        from_pil(enhance(to_pil(one)).enhance(f))
        for one, f in zip(x, factors[place].tolist(), strict=True)
    ]
    # Pillow cuts decimals off, and rounds the mean and the luminance first
    assert distance(ops.jitter(x, *factors), torch.stack(expected)) <= 2


def test_neutral_jitter_changes_nothing():
    x = images(64)
    one, zero = torch.ones(64), torch.zeros(64)
    assert torch.equal(ops.jitter(x, one, one, one, zero), x)


def test_a_third_of_a_turn_makes_red_green():
    x = torch.zeros(2, 3, 1, 1, dtype=torch.uint8)
    x[:, 0] = 200
    one = torch.ones(2)
    out = ops.jitter(x, one, one, one, torch.tensor([1 / 3, -1 / 3]))
    assert out.flatten(1).tolist() == [[0, 200, 0], [0, 0, 200]]


def test_grey_equals_pillow():
    x, chosen = images(16, h=64, w=64), torch.arange(16) % 3 == 0
    expected = [
        from_pil(to_pil(one).convert("L")).expand(3, -1, -1) if c else one
        for one, c in zip(x, chosen, strict=True)
    ]
    assert torch.equal(ops.grey(x, chosen), torch.stack(expected))


@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (4, 1, 64, 90), (3, 3, 224, 140), (2, 3, 2, 2)])
def test_blur_equals_a_convolution_per_image(shape):
    x = images(*shape)
    sigma = torch.tensor([0.0, 2.0, 0.1, 0.7, 1.3])[: shape[0]]
    out = ops.blur(x, sigma)
    reach = min(max(min(shape[2:]) // 20, 1), 6, min(shape[2:]) - 1)
    for one, result, s in zip(x, out, sigma.tolist(), strict=True):
        taps = [math.exp(-0.5 * (t / max(s, 1e-3)) ** 2) for t in range(-reach, reach + 1)]
        line = torch.tensor(taps, dtype=torch.float64) / sum(taps)
        kernel = torch.outer(line, line).expand(shape[1], 1, -1, -1)
        padded = F.pad(one[None].double(), (reach,) * 4, mode="reflect")
        exact = F.conv2d(padded, kernel, groups=shape[1])[0]
        assert (result - exact).abs().max() < 0.51
    assert torch.equal(out[0], x[0])


def test_a_plain_image_stays_plain_when_blurred():
    x = torch.full((3, 3, 40, 40), 77, dtype=torch.uint8)
    assert torch.equal(ops.blur(x, torch.tensor([0.3, 1.0, 2.0])), x)


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(32, 32, (0.08, 1)), (20, 60, (0.08, 1)), (60, 20, (0.5, 1)), (16, 16, (1, 1))],
)
def test_random_boxes_equal_torchvisions_loop(height, width, scale):
    n = 200
    boxes = random_boxes(n, height, width, rng(7), scale=scale)
    u = torch.rand(4, n, 10, generator=rng(7)).double()
    for k in range(n):
        assert boxes[k].tolist() == _one_box(u[:, k].T.tolist(), height, width, scale)


def _one_box(tries, height, width, scale):
    low, high = math.log(3 / 4), math.log(4 / 3)
    for u_area, u_ratio, u_top, u_left in tries:
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u_area)
        ratio = math.exp(low + (high - low) * u_ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return [int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w]
    w, h = width, height
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return [(height - h) // 2, (width - w) // 2, h, w]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    names=st.lists(st.sampled_from(NAMES), max_size=4),
    seed=st.integers(0, 2**32),
)
def test_any_shape_comes_back_as_uint8_of_that_shape(shape, names, seed):
    x = images(*shape)
    before = x.clone()
    out = augment(x, tuple(names), rng(seed))
    assert out.shape == x.shape
    assert out.dtype == torch.uint8
    assert torch.equal(x, before)
    assert torch.equal(out, augment(x, tuple(names), rng(seed)))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 50),
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    low=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_boxes_lie_inside(n, height, width, low, seed):
    top, left, h, w = random_boxes(n, height, width, rng(seed), scale=(low, 1)).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_image_has_its_own_parameters(name):
    x = photo_like((1, 3, 32, 32)).expand(256, -1, -1, -1)
    different = len(augment(x, (name,), rng()).flatten(1).unique(dim=0))
    # two for on or off; 81 windows; nearly all different where a number is drawn
    least = {"flip": 2, "grey": 2, "crop": 70, "blur": 50, "jitter": 190, "resized_crop": 240}
    least["large_crop"] = 200
    assert different >= least[name]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_does_not_depend_on_its_neighbours(name):
    x, y = images(12, seed=1), images(12, seed=2)
    y[5] = x[5]
    assert torch.equal(augment(x, (name,), rng())[5], augment(y, (name,), rng())[5])


@pytest.mark.parametrize(("name", "share"), [("flip", 0.5), ("grey", 0.2), ("jitter", 0.8)])
def test_how_often_images_are_changed(name, share):
    x = images(4000, h=8, w=8)
    changed = (augment(x, (name,), rng()) != x).flatten(1).any(1).float().mean().item()
    assert changed == pytest.approx(share, abs=0.03)


def test_crop_windows_are_evenly_spread():
    x = torch.zeros(8100, 1, 9, 9, dtype=torch.uint8)
    x[:, :, 4, 4] = 255  # stays inside whatever the window
    where = augment(x, ("crop",), rng()).flatten(1).int().argmax(1)
    counts = torch.bincount(where, minlength=81).float()
    assert counts.sum() == 8100
    assert ((counts - 100) ** 2 / 100).sum() < 140  # chi-squared, 80 degrees of freedom


def test_names_act_in_their_order():
    x = images()
    both = augment(x, ("flip", "crop"), rng(3))
    generator = rng(3)
    assert torch.equal(both, augment(augment(x, ("flip",), generator), ("crop",), generator))
    assert not torch.equal(both, augment(x, ("crop", "flip"), rng(3)))
    assert augment(x, (), rng()) is x


def test_only_the_generator_decides():
    x = images()
    torch.manual_seed(0)
    a = augment(x, NAMES, rng(1))
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), expected)  # torch's own random state is not used
    assert torch.equal(a, augment(x, NAMES, rng(1)))
    assert not torch.equal(a, augment(x, NAMES, rng(2)))


def test_pieces_do_not_show(monkeypatch):
    x = images(9)
    names = ("resized_crop", "jitter", "blur")
    whole = augment(x, names, rng())
    monkeypatch.setattr(ops, "_CHUNK", 2 * 3 * 32 * 32)
    assert torch.equal(augment(x, names, rng()), whole)


def test_the_scale_reaches_the_boxes():
    x = photo_like((64, 3, 32, 32))
    expected = ops.resized_crop(x, random_boxes(64, 32, 32, rng(), scale=(0.5, 1)))
    assert torch.equal(augment(x, ("resized_crop",), rng(), scale=(0.5, 1)), expected)
    expected = ops.resized_crop(x, random_boxes(64, 32, 32, rng(), scale=(0.2, 1)))
    assert torch.equal(augment(x, ("large_crop",), rng()), expected)


def test_images_of_one_channel_keep_it_grey():
    x = images(32, c=1)
    assert torch.equal(augment(x, ("grey",), rng()), x)
    one = torch.ones(32)
    assert torch.equal(ops.jitter(x, one, one, 3 * one, 0.3 * one), x)
    assert not torch.equal(augment(x, ("jitter",), rng()), x)


def test_faults_are_explained():
    x = images()
    with pytest.raises(ConfigError, match="no augmentation 'flop'; did you mean 'flip'"):
        augment(x, ("flop",), rng())
    with pytest.raises(ValueError, match=r"takes uint8 images .*; got float32 \[8, 3, 32, 32\]"):
        augment(x.float(), ("flip",), rng())
    with pytest.raises(ValueError, match="the generator is on cpu; make it with"):
        augment(x.to("meta"), ("flip",), rng())


@pytest.mark.gpu
def test_a_gpu_gives_the_same_images():
    x = photo_like((16, 3, 64, 64))
    boxes = random_boxes(16, 64, 64, rng())
    chosen, shift = torch.arange(16) % 2 == 0, torch.arange(16) % 9
    factors = 0.6 + 0.8 * torch.rand(3, 16, generator=rng(1))
    hue, sigma = torch.rand(16, generator=rng(2)) - 0.5, 2 * torch.rand(16, generator=rng(3))
    for op, parameters, most in (
        (ops.flip, (chosen,), 0),
        (ops.crop, (shift, shift), 0),
        (ops.grey, (chosen,), 0),
        (ops.resized_crop, (boxes,), 1),
        (ops.jitter, (*factors, hue), 1),
        (ops.blur, (sigma,), 1),
    ):
        on_gpu = op(x.cuda(), *(p.cuda() for p in parameters)).cpu()
        assert distance(on_gpu, op(x, *parameters)) <= most
    first, second = (augment(x.cuda(), NAMES, rng(4, "cuda")) for _ in range(2))
    assert torch.equal(first, second)
