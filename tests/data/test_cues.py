"""What a cue changes in images, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from truecue.data.cues import CUES, Given, background, patch_side, plant
from truecue.data.patterns import SHAPES, TEXTURES
from truecue.data.suites.digits import Digits
from truecue.data.suites.planted import Planted
from truecue.errors import DataError


@pytest.fixture(scope="module")
def digits() -> Tensor:
    images = Digits(coloured=False, train_size=300, test_size=100).load().train.images
    assert isinstance(images, Tensor)
    return images


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Noise over slow waves: no border of one colour."""
    draw = np.random.default_rng(0)
    along = np.arange(40) / 40
    phase = draw.uniform(0, 6, (2, 60, 3, 1, 1))
    waves = np.sin(6 * along + phase[0]) + np.sin(4 * along[:, None] + phase[1])
    images = 127 + 45 * waves + 12 * draw.standard_normal((60, 3, 40, 40))
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8))


def given(name: str, n: int, value: int | None = None) -> Given:
    most = CUES[name].most
    values = torch.arange(n) % most if value is None else torch.full((n,), value)
    return Given(values, most, torch.rand(n, 2, generator=torch.Generator().manual_seed(1)))


def changed(images: Tensor, name: str, visibility: float = 1.0) -> Tensor:
    """Which pixels another value than the base's gives: bool [n, h, w]."""
    out = plant(images, {name: given(name, len(images))}, visibility)
    return (out != images).any(1)


@pytest.mark.parametrize("name", CUES)
def test_nothing_is_visible_at_visibility_0(name: str, digits: Tensor, photos: Tensor) -> None:
    for images in (digits, photos):
        before = images.clone()
        assert torch.equal(plant(images, {name: given(name, len(images))}, 0.0), images)
        assert not torch.equal(plant(images, {name: given(name, len(images))}), images)
        assert torch.equal(images, before)


@pytest.mark.parametrize("name", CUES)
def test_visibility_is_a_degree(name: str, photos: Tensor) -> None:
    sizes = []
    for visibility in (0.3, 0.6, 1.0):
        out = plant(photos, {name: given(name, len(photos))}, visibility)
        sizes.append(float((out.float() - photos.float()).abs().mean()))
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_patch_stays_in_its_corner(digits: Tensor, photos: Tensor) -> None:
    for images in (digits, photos):
        side = patch_side(*images.shape[2:])
        where = changed(images, "patch")
        assert bool(where[:, :side, :side].all(0).float().mean() > 0.9)
        where[:, :side, :side] = False
        assert not bool(where.any())


def test_object_is_small_and_off_the_centre(photos: Tensor) -> None:
    where = changed(photos, "object")
    assert not bool(where[:, 14:26, 14:26].any())
    share = where.float().mean((1, 2))
    assert float(share.min()) > 0.005
    assert float(share.max()) < 0.08
    places = [tuple(w.nonzero().float().mean(0).round().tolist()) for w in where]
    assert len(set(places)) > 20


def test_objects_do_not_leave_the_frame(photos: Tensor) -> None:
    """The same disc everywhere: what a frame cuts off would be missing."""
    flat = torch.zeros_like(photos)
    area = (plant(flat, {"object": given("object", len(flat), 0)}) > 0).any(1).sum((1, 2))
    assert int(area.max()) - int(area.min()) <= 8
    expected = np.pi * (0.95 * 0.13 * 40) ** 2
    assert expected < float(area.float().mean()) < 1.6 * expected  # soft edges count in full


@pytest.mark.parametrize("name", ["background", "texture"])
def test_background_cues_leave_the_object(name: str, digits: Tensor, photos: Tensor) -> None:
    where = changed(digits, name)
    assert not bool(where[(digits == 255).all(1)].any())
    assert float(where[(digits == 0).all(1)].float().mean()) > (0.99 if name == "background" else 0)
    where = changed(photos, name)
    assert not bool(where[:, 15:25, 15:25].any())
    assert float(where[:, :3, :3].float().mean()) > 0.3


def test_foreground_leaves_the_background(digits: Tensor, photos: Tensor) -> None:
    where = changed(digits, "foreground")
    assert not bool(where[(digits == 0).all(1)].any())
    assert float(where[(digits > 200).all(1)].float().mean()) > 0.99
    where = changed(photos, "foreground")
    assert not bool(where[:, :3, :3].any())
    assert float(where[:, 15:25, 15:25].float().mean()) > 0.9


def test_background_of_both_kinds_of_images(digits: Tensor, photos: Tensor) -> None:
    found = background(digits.float())
    assert bool((found[(digits == 0).all(1, keepdim=True)] == 1).all())
    assert bool((found[(digits == 255).all(1, keepdim=True)] == 0).all())
    ellipse = background(photos.float())
    assert bool((ellipse == ellipse[:1]).all())
    assert 0.3 < float(ellipse.mean()) < 0.6
    assert (float(ellipse[0, 0, 20, 20]), float(ellipse[0, 0, 0, 0])) == (0, 1)
    # dark on light works like light on dark
    assert torch.allclose(background(255 - digits.float()), found)
    one_colour = torch.full((1, 3, 16, 16), 90.0)
    assert bool((background(one_colour) == 1).all())


def test_size_scales_about_the_middle(photos: Tensor) -> None:
    white = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    white[..., 2:38, 2:38] = 255
    out = plant(white.expand(3, -1, -1, -1), {"size": Given(torch.arange(3), 3, torch.zeros(3, 2))})
    widths = (out[:, 0, 20] > 127).sum(1).tolist()
    assert widths == [36, round(36 * 0.45**0.5), round(36 * 0.45)]
    assert torch.equal(out, out.flip(3))
    assert torch.equal(out, out.transpose(2, 3))
    small = plant(photos[:1], {"size": Given(torch.tensor([2]), 3, torch.zeros(1, 2))})
    edge = torch.cat((photos[0, :, 0], photos[0, :, -1], photos[0, ..., 0], photos[0, ..., -1]), 1)
    assert torch.equal(small[0, :, :8], edge.median(1).values[:, None, None].expand(-1, 8, 40))


def test_brightness_goes_both_ways(photos: Tensor) -> None:
    grey = torch.full((3, 1, 16, 16), 100, dtype=torch.uint8)
    out = plant(grey, {"brightness": Given(torch.arange(3), 3, torch.zeros(3, 2))})
    assert out[:, 0, 0, 0].tolist() == [40, 100, 193]  # 100 * 0.4; as it was; 100 + 0.6 * 155


def test_blur_keeps_the_mean_and_takes_the_detail(photos: Tensor) -> None:
    out = plant(photos, {"blur": Given(torch.arange(60) % 3, 3, torch.zeros(60, 2))}).float()
    assert torch.equal(out[::3], photos[::3].float())
    assert float((out.mean((1, 2, 3)) - photos.float().mean((1, 2, 3))).abs().max()) < 2
    rough = (out[..., 1:] - out[..., :-1]).abs().mean((1, 2, 3)) / (
        (photos[..., 1:].float() - photos[..., :-1].float()).abs().mean((1, 2, 3))
    )
    assert float(rough[1::3].max()) < 0.7
    assert bool((rough[2::3] < rough[1::3].mean()).all())


def test_textures_and_shapes_differ() -> None:
    along = torch.linspace(-4, 4, 81)
    u, v = torch.broadcast_tensors(along[None, :], along[:, None])
    drawn = [formula(u, v) for formula in TEXTURES.values()]
    for i, texture in enumerate(drawn):
        assert float(texture.min()) >= 0
        assert float(texture.max()) <= 1
        assert 0.1 < float(texture.mean()) < 0.75
        for other in drawn[i + 1 :]:
            assert float((texture - other).abs().mean()) > 0.2
    inside = [formula(u / 2, v / 2) > 0 for formula in SHAPES.values()]
    for i, shape in enumerate(inside):
        assert bool(shape.any())
        assert not bool(shape[(u / 2).abs().maximum((v / 2).abs()) > 1.05].any())
        for other in inside[i + 1 :]:
            assert int((shape & other).sum()) < 0.87 * int((shape | other).sum())


def test_grey_images_get_three_channels_only_for_colour() -> None:
    grey = torch.randint(0, 256, (5, 1, 20, 24), dtype=torch.uint8)
    for name, cue in CUES.items():
        out = plant(grey, {name: given(name, 5)})
        assert out.shape == (5, 3 if cue.coloured else 1, 20, 24)
        assert out.dtype == torch.uint8


def test_batches_make_no_difference(photos: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    cues = {name: given(name, len(photos)) for name in CUES}
    whole = plant(photos, cues)
    monkeypatch.setattr("truecue.data.cues._CHUNK", 7 * photos[0].numel())
    assert torch.equal(plant(photos, cues), whole)
    assert torch.equal(plant(photos, dict(reversed(cues.items()))), whole)


def test_images_that_cannot_show_a_cue() -> None:
    with pytest.raises(DataError, match="images of 16 pixels or more; these have 40 x 12"):
        plant(torch.zeros(1, 3, 40, 12, dtype=torch.uint8), {"blur": given("blur", 1)})
    with pytest.raises(DataError, match="1 or 3 channels; these have 4"):
        plant(torch.zeros(1, 4, 20, 20, dtype=torch.uint8), {"patch": given("patch", 1)})


def _mean_colour(x: Tensor, chosen: Tensor) -> Tensor:
    chosen = chosen.float().unsqueeze(1)
    return (x * chosen).sum((2, 3)) / chosen.sum((2, 3)).clamp(min=1)


def statistic(name: str, images: Tensor) -> Tensor:
    """A few numbers for each image in which the values of a cue differ: [n, k]."""
    x = images.float()
    grey = x.mean(1)
    if name == "patch":
        return x[..., :5, :5].mean((2, 3))
    if name == "background":
        return x.flatten(2).median(2).values
    if name in {"foreground", "object"}:
        return _mean_colour(x, x.amax(1) - x.amin(1) > 60)
    if name == "brightness":
        return torch.stack((grey.amin((1, 2)), grey.amax((1, 2))), 1)
    if name == "size":
        return (grey > 90).any(2).sum(1, keepdim=True).clamp(min=1).log()
    if name == "texture":
        spectrum = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True)).abs().flatten(1)
        return spectrum / spectrum.norm(dim=1, keepdim=True)
    powers = []  # blur: of the second and the third differences
    for order in (2, 3):
        across, down = torch.diff(grey, order, 2), torch.diff(grey, order, 1)
        powers.append(across.square().sum((1, 2)) + down.square().sum((1, 2)))
    return (powers[1] / powers[0]).log().unsqueeze(1)


@pytest.mark.parametrize("name", CUES)
def test_values_can_be_told_apart_on_digits(name: str) -> None:
    """By the nearest mean of a simple statistic, on images of other digits."""
    data = Planted(cues=(name,), conflicting=0.5, base_settings={"test_size": 1000}).load()
    seen, shown = (part.attributes[name] for part in (data.train, data.test))
    assert len(seen.names) == len(set(seen.names)) == CUES[name].most
    known, new = statistic(name, data.train.images[:]), statistic(name, data.test.images[:])
    means = torch.stack([known[seen.values == k].mean(0) for k in range(len(seen.names))])
    right = torch.cdist(new, means).argmin(1) == shown.values
    assert float(right.float().mean()) > 0.95
