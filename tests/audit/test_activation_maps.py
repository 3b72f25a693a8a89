"""Activation maps, heat maps, and the small form in which they are kept."""

from __future__ import annotations

import pytest
import torch

from truecue.audit.maps import BATCH, heat, jet, nam, resized, stored_maps
from truecue.data.sets import ImageSet
from truecue.engine.device import Device
from truecue.errors import DataError
from truecue.nets.build import build
from truecue.nets.maps import FeatureMaps

CPU = Device("cpu")


def test_scaling_and_enlarging() -> None:
    scaled = nam(torch.tensor([[[0.0, 1], [2, 4]]]))
    assert scaled.tolist() == [[[0, 0.25], [0.5, 1]]]
    expected = [
        [0, 0.0625, 0.1875, 0.25],
        [0.125, 0.203125, 0.359375, 0.4375],
        [0.375, 0.484375, 0.703125, 0.8125],
        [0.5, 0.625, 0.875, 1],
    ]
    torch.testing.assert_close(resized(scaled, 4, 4)[0], torch.tensor(expected))


def test_odd_maps() -> None:
    zero, negative = torch.zeros(1, 2, 2), -torch.ones(1, 2, 2)
    assert nam(zero).tolist() == negative.mul(0).abs().tolist()
    assert nam(negative).abs().max() == 0
    assert (nam(torch.full((1, 2, 2), 3.0)) == 1).all()
    assert nam(torch.tensor([[[-2.0, 1], [0, 2]]])).tolist() == [[[0, 0.5], [0, 1]]]
    assert nam(torch.tensor([[[1e-42, 0.0], [0, 0]]]))[0, 0, 0] == 1  # smaller than 1 / largest
    for bad in (float("nan"), float("inf")):
        with pytest.raises(DataError, match="1 of 2 maps hold values that are not finite"):
            nam(torch.tensor([[[1.0, bad]], [[1.0, 2.0]]]))


def test_each_map_is_scaled_by_its_own_maximum() -> None:
    both = nam(torch.tensor([[[1.0, 2.0]], [[10.0, 40.0]]]))
    assert both.tolist() == [[[0.5, 1]], [[0.25, 1]]]


def test_height_and_width_keep_their_places() -> None:
    upper = torch.tensor([[[1.0, 1], [0, 0]]])
    got = resized(upper, 8, 20)[0]
    assert got.shape == (8, 20)
    assert (got[:2] == 1).all()
    assert (got[-2:] == 0).all()


def test_an_image_smaller_than_its_map() -> None:
    fine = torch.zeros(1, 8, 8)
    fine[0, 3, 3] = 1  # between the places that bare interpolation would look at
    got = resized(fine, 2, 2)
    assert got.shape == (1, 2, 2)
    assert got[0, 0, 0] == got.max() > 0


def test_colours() -> None:
    got = jet(torch.tensor([[[0, 0.5, 1]]]))[0, :, 0].T
    assert got.tolist() == [[0, 0, 0.5], [0.5, 1, 0.5], [0.5, 0, 0]]


def test_heat_maps_by_hand() -> None:
    x = torch.zeros(1, 3, 1, 2, dtype=torch.uint8)
    x[0, :, 0, 1] = 255
    # left: jet(0) on black; right: jet(1) on white; both divided by 1.5
    got = heat(x, torch.tensor([[[0.0, 1.0]]]))
    expected = torch.tensor([[0, 0, 0.5], [1.5, 1, 1]]) / 1.5 * 255
    assert got[0, :, 0].T.tolist() == expected.round().int().tolist()
    grey = heat(x[:, :1], torch.tensor([[[0.0, 1.0]]]))
    assert torch.equal(grey, got)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (3 * BATCH, 3, 16, 16), generator=rng, dtype=torch.uint8)
    return ImageSet(x, torch.arange(3 * BATCH) % 2, ("a", "b"))


@pytest.mark.parametrize("arch", ["conv3", "mlp-3"])
def test_kept_maps(images: ImageSet, arch: str) -> None:
    torch.manual_seed(0)
    source = FeatureMaps(build(arch, channels=3, size=16, n_classes=2).eval())
    rng = torch.Generator().manual_seed(3)
    ids = torch.randint(0, len(images), (50,), generator=rng)  # some of them twice
    features = torch.randint(0, source.net.n_features, (50,), generator=rng)
    got = stored_maps(source, images, ids, features, CPU)
    assert got.dtype == torch.uint8
    for row in (0, 17, 49):
        one = source.of(images.images[ids[row : row + 1]], features[row : row + 1])
        assert (got[row].float() - 255 * nam(one)[0]).abs().max() <= 0.51
    assert set(got.flatten(1).amax(1).tolist()) <= {0, 255}


def test_what_has_no_maps(images: ImageSet) -> None:
    torch.manual_seed(0)
    source = FeatureMaps(build("conv3", channels=3, size=16, n_classes=2).eval())
    one, wrong = torch.tensor([0]), torch.tensor([64])
    with pytest.raises(DataError, match=r"64 features, 0\.\.63; asked for 64\.\.64"):
        stored_maps(source, images, one, wrong, CPU)
    with pytest.raises(DataError, match="24 images"):
        stored_maps(source, images, -one - 1, one, CPU)
    encoded = ImageSet(torch.zeros(2, 64, 1, 1), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(DataError, match="frozen encoder's features"):
        stored_maps(source, encoded, one, one, CPU)
    assert len(stored_maps(source, images, one[:0], one[:0], CPU)) == 0
