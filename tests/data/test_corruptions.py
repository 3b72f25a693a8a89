"""The corruptions of Corrupted CIFAR-10, against slow forms written from their definitions."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from truecue.data.corruptions import CORRUPTIONS, Draws
from truecue.data.corruptions.blur import disk, smear
from truecue.data.corruptions.ice import panes
from truecue.data.corruptions.lens import distances, edges, equalise
from truecue.data.corruptions.pixels import enlarge, fold, sample
from truecue.data.corruptions.weather import plasma

Images = npt.NDArray[np.uint8]
LEVELS = (1, 2, 3, 4, 5)
RANDOM = {"snow", "frost", "fog", "spatter", "elastic", "glass blur", "motion blur"}
RANDOM |= {name for name in CORRUPTIONS if name.endswith("noise")}


def pictures(n: int = 6, seed: int = 0) -> Images:
    """Smooth colour pictures with some structure, a grey one and one with black in it."""
    draw = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(draw.standard_normal((n, 32, 32, 3)), (0, 2, 2, 0))
    fine = ndimage.gaussian_filter(draw.standard_normal((n, 32, 32, 3)), (0, 0.6, 0.6, 0))
    x = 0.5 + 0.22 * smooth / smooth.std() + 0.06 * fine / fine.std()
    images = (np.clip(x, 0, 1) * 255).astype(np.uint8)
    images[1] = images[1, ..., :1]
    images[2, 5:9, 5:9] = 0
    return images


def apply(name: str, images: Images, level: int, seeds: Sequence[int] | None = None) -> Images:
    return CORRUPTIONS[name](images, level, Draws(seeds or range(len(images))))


def truncated(x: npt.NDArray[np.float64]) -> Images:
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


class Given(Draws):
    """Gives numbers between 0 and 1 that were drawn before."""

    def __init__(self, *numbers: npt.NDArray[np.float64]):
        self._numbers = list(numbers)

    def __len__(self) -> int:
        return len(self._numbers[0])

    def uniform(self, low: float, high: float, *shape: int) -> npt.NDArray[np.float64]:
        numbers = self._numbers.pop(0)
        assert numbers.shape[1:] == shape
        return numbers * (high - low) + low

    def integers(self, low: int, high: int, *shape: int) -> npt.NDArray[np.int64]:
        return np.floor(self.uniform(low, high, *shape)).astype(np.int64)


class TestAll:
    def test_there_are_twenty(self) -> None:
        assert len(CORRUPTIONS) == 20

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("name", CORRUPTIONS)
    def test_same_in_any_company(self, name: str, level: int) -> None:
        """What an image becomes depends on the image and its seed, and the input is kept."""
        images = pictures()
        before = images.copy()
        together = apply(name, images, level)
        assert together.dtype == np.uint8
        assert together.shape == images.shape
        assert (images == before).all()
        assert (apply(name, images, level) == together).all()
        turned = apply(name, images[::-1], level, range(len(images))[::-1])
        assert (turned[::-1] == together).all()
        for i in range(len(images)):
            assert (apply(name, images[i : i + 1], level, [i])[0] == together[i]).all()

    @pytest.mark.parametrize("name", CORRUPTIONS)
    def test_seed(self, name: str) -> None:
        images = pictures()
        other = apply(name, images, 5, range(100, 106))
        assert (other == apply(name, images, 5)).all() == (name not in RANDOM)

    @pytest.mark.parametrize("name", CORRUPTIONS)
    def test_strength_grows(self, name: str) -> None:
        images = pictures(24)
        changes = [
            np.abs(apply(name, images, level).astype(int) - images).mean() for level in LEVELS
        ]
        if name == "original":
            assert changes == [0] * 5
        elif name == "elastic":  # waves in place of a shear: the pixels change less, shapes more
            assert min(changes) > 5
        elif name == "saturate":  # levels 1 and 2 fade, 3 to 5 glow
            assert changes[1] > changes[0] > 5
            assert changes[4] > changes[3] > changes[2] > 2
        elif name == "spatter":  # levels 1 to 3 are water, 4 and 5 mud
            assert changes[2] > changes[1] > changes[0] > 0
            assert changes[4] > changes[3] > 0
        elif name == "glass blur":  # one pass at levels 1 to 3, two at 4 and 5
            assert min(changes[3:]) > max(changes[:3]) > 2
        elif name == "frost":  # the image's own share falls from level 3 on
            assert changes[2] > changes[1] > changes[0] > 5
            assert min(changes[3:]) > changes[0]
        elif name == "motion blur":  # levels 3 and 4 differ in the radius only
            assert changes[4] > changes[3] > 0.98 * changes[2]
            assert changes[2] > changes[1] > changes[0]
        else:
            assert sorted(changes) == changes
            assert changes[0] > 0.3


class TestNoise:
    @pytest.mark.parametrize("level", LEVELS)
    def test_deviation(self, level: int) -> None:
        grey = np.full((40, 32, 32, 3), 128, np.uint8)
        sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[level - 1]
        photons = (500, 250, 100, 75, 50)[level - 1]
        speckle = (0.06, 0.1, 0.12, 0.16, 0.2)[level - 1]
        value = 128 / 255
        wanted = {
            "gaussian noise": sigma,
            "shot noise": np.sqrt(value / photons),
            "speckle noise": value * speckle,
        }
        for name, deviation in wanted.items():
            noisy = apply(name, grey, level) / 255
            assert noisy.std() == pytest.approx(deviation, rel=0.02), name
            assert noisy.mean() == pytest.approx(value - 0.5 / 255, abs=0.003), name

    @pytest.mark.parametrize("level", LEVELS)
    def test_impulse_share(self, level: int) -> None:
        grey = np.full((100, 32, 32, 3), 128, np.uint8)
        noisy = apply("impulse noise", grey, level)
        share = (0.01, 0.02, 0.03, 0.05, 0.07)[level - 1]
        assert set(np.unique(noisy)) == {0, 128, 255}
        assert (noisy == 0).mean() == pytest.approx(share / 2, rel=0.04)
        assert (noisy == 255).mean() == pytest.approx(share / 2, rel=0.04)

    def test_values_are_noisy_by_themselves(self) -> None:
        """Channels and pixels do not share their noise."""
        noise = apply("gaussian noise", np.full((50, 32, 32, 3), 128, np.uint8), 5) - 128.0
        assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02
        assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.02


class TestBlur:
    @pytest.mark.parametrize("level", LEVELS)
    def test_gaussian(self, level: int) -> None:
        images = pictures()
        sigma = (0.4, 0.6, 0.7, 0.8, 1)[level - 1]
        for image, blurred in zip(images, apply("gaussian blur", images, level), strict=True):
            for c in range(3):
                slow = ndimage.gaussian_filter(image[..., c] / 255, sigma, mode="nearest")
                np.testing.assert_array_equal(blurred[..., c], truncated(slow))

    @pytest.mark.parametrize("level", LEVELS)
    def test_defocus(self, level: int) -> None:
        """The published grid of 17 x 17, and a convolution of each channel."""
        radius, alpha = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[level - 1]
        x, y = np.meshgrid(np.arange(-8, 9), np.arange(-8, 9))
        kernel = (x**2 + y**2 <= radius**2).astype(float)
        weights = [np.exp(-(k**2) / (2 * alpha**2)) for k in (-1, 0, 1)]
        weights = np.array(weights) / sum(weights)
        kernel = ndimage.convolve(kernel / kernel.sum(), np.outer(weights, weights))
        np.testing.assert_allclose(disk(radius, alpha), kernel[5:12, 5:12], atol=1e-15)
        assert kernel.sum() == pytest.approx(kernel[5:12, 5:12].sum()) == pytest.approx(1)
        images = pictures()
        for image, blurred in zip(images, apply("defocus blur", images, level), strict=True):
            for c in range(3):
                slow = ndimage.convolve(image[..., c] / 255, kernel, mode="mirror")
                # sums in another order may fall on the other side of a whole number
                difference = truncated(slow).astype(int) - blurred[..., c]
                assert np.abs(difference).max() <= 1
                assert (difference != 0).mean() < 0.02

    @pytest.mark.parametrize("level", LEVELS)
    def test_glass(self, level: int) -> None:
        """The published loops, with the swap of views that turns out to copy."""
        sigma, passes = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[level - 1]
        images = pictures(4)
        chance = np.random.default_rng(level).random((4, passes, 30, 30, 2))
        blurred = CORRUPTIONS["glass blur"](images, level, Given(chance))
        for k, image in enumerate(images):
            soft = ndimage.gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest")
            x = (soft * 255).astype(np.uint8)
            for i in range(passes):
                for h in range(31, 1, -1):
                    for w in range(31, 1, -1):
                        dx, dy = (-1 if u < 0.5 else 0 for u in chance[k, i, h - 2, w - 2])
                        x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
            slow = ndimage.gaussian_filter(x / 255, (sigma, sigma, 0), mode="nearest")
            np.testing.assert_array_equal(blurred[k], truncated(slow))

    def test_smear(self) -> None:
        """Pixel by pixel, with angles in all quarters."""
        images = pictures(5)
        angles = np.array([-135.0, -30.0, 0.0, 45.0, 100.0])
        weights = np.exp(-(np.arange(13) ** 2) / (2 * 1.5**2))
        weights /= weights.sum()
        smeared = smear(images, 6, 1.5, angles)
        for k, angle in enumerate(np.deg2rad(angles)):
            for h in (0, 1, 15, 31):
                for w in (0, 7, 30, 31):
                    total = np.zeros(3)
                    for i, weight in enumerate(weights):
                        row = min(max(h + int(np.ceil(i * np.sin(angle) - 0.5)), 0), 31)
                        column = min(max(w + int(np.ceil(i * np.cos(angle) - 0.5)), 0), 31)
                        total += weight * images[k, row, column]
                    assert (smeared[k, h, w] == np.floor(total + 0.5)).all()

    def test_smear_has_a_side(self) -> None:
        """A point is drawn out to where its pixels look at it from."""
        point = np.zeros((1, 32, 32, 1), np.uint8)
        point[0, 16, 16] = 255
        right = smear(point, 6, 2, np.array([0.0]))[0, 16, :, 0]
        assert right[17:].sum() == 0
        assert (np.diff(right[4:17].astype(int)) >= 0).all()
        assert right[16] == 85  # 255 * 1 / (1 + exp(-1 / 8) + exp(-4 / 8) + ..)

    @pytest.mark.parametrize("level", LEVELS)
    def test_zoom(self, level: int) -> None:
        images = pictures(3)
        ends, counts = (1.06, 1.11, 1.16, 1.21, 1.26), (7, 12, 16, 21, 26)
        factors = np.arange(1, ends[level - 1], 0.01)
        assert len(factors) == counts[level - 1]
        for image, blurred in zip(images, apply("zoom blur", images, level), strict=True):
            total = image / 255
            for factor in factors:
                total = total + clipped_zoom(image / 255, factor)
            slow = truncated(total / (len(factors) + 1))
            difference = slow.astype(int) - blurred
            assert np.abs(difference).max() <= 1
            assert (difference != 0).mean() < 0.01

    @pytest.mark.parametrize("factor", [1, 1.07, 1.25, 1.75, 2.25])
    def test_enlarge(self, factor: float) -> None:
        x = np.random.default_rng(0).random((2, 32, 32, 3))
        for one, large in zip(x, enlarge(x, factor), strict=True):
            np.testing.assert_allclose(large, clipped_zoom(one, factor), atol=1e-12)


def clipped_zoom(image: npt.NDArray[np.float64], factor: float) -> npt.NDArray[np.float64]:
    taken = int(np.ceil(32 / factor))
    top = (32 - taken) // 2
    middle = image[top : top + taken, top : top + taken]
    large = ndimage.zoom(middle, (factor, factor, 1), order=1)
    cut = (large.shape[0] - 32) // 2
    return large[cut : cut + 32, cut : cut + 32]


class TestWeather:
    @pytest.mark.parametrize("smoothness", [3, 1.75])
    def test_plasma(self, smoothness: float) -> None:
        """Diamond-square, point by point, with the same random numbers."""
        chance = np.random.default_rng(0).random((2, 1023))
        clouds = plasma(smoothness, Given(chance))
        for numbers, cloud in zip(chance * 2 - 1, clouds, strict=True):
            slow, left = np.zeros((32, 32)), iter(numbers)
            step, wobble = 32, 100.0
            while step >= 2:
                half = step // 2
                places = range(0, 32, step)

                def new(
                    points: list[tuple[int, int]],
                    slow: npt.NDArray[np.float64] = slow,
                    wobble: float = wobble,
                    left: Iterator[float] = left,
                ) -> float:
                    total = sum(slow[r % 32, c % 32] for r, c in points)
                    return total / 4 + wobble * wobble * next(left)

                for r in places:
                    for c in places:
                        around = [(r, c), (r, c + step), (r + step, c), (r + step, c + step)]
                        slow[r + half, c + half] = new(around)
                for up, along in ((0, half), (half, 0)):
                    for r in places:
                        for c in places:
                            y, x = r + up, c + along
                            cross = [(y - half, x), (y + half, x), (y, x - half), (y, x + half)]
                            slow[y, x] = new(cross)
                step, wobble = half, wobble / smoothness
            slow -= slow.min()
            np.testing.assert_allclose(cloud, slow / slow.max(), atol=1e-9)

    @pytest.mark.parametrize("level", LEVELS)
    def test_fog(self, level: int) -> None:
        images = pictures(3)
        thickness, smoothness = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[level - 1]
        clouds = plasma(smoothness, Draws(range(3)))
        for image, cloud, foggy in zip(images, clouds, apply("fog", images, level), strict=True):
            x = image / 255
            slow = (x + thickness * cloud[..., None]) * x.max() / (x.max() + thickness)
            np.testing.assert_array_equal(foggy, truncated(slow))

    def test_frost_is_a_cut_out(self) -> None:
        """Black images show the frost itself; each cut-out is found in one of the panes."""
        black = np.zeros((6, 32, 32, 3), np.uint8)
        frosted = apply("frost", black, 2)
        chosen = set()
        for k, ice in enumerate(frosted):
            draws = Draws([k])
            pane, (row, column) = int(draws.integers(0, 5)[0]), draws.integers(0, 128, 2)[0]
            cut = panes()[pane, row : row + 32, column : column + 32]
            np.testing.assert_array_equal(ice, truncated(0.3 * (cut / 255)))
            chosen.add((pane, int(row), int(column)))
        assert len({pane for pane, _, _ in chosen}) > 1
        assert len(chosen) == 6

    def test_panes_are_bluish_and_full_of_contrast(self) -> None:
        ice = panes().astype(float)
        assert ice.shape == (5, 160, 160, 3)
        assert (ice[..., 2] > ice[..., 0]).all()
        assert (ice.std((1, 2)) > 35).all()
        assert ((ice.mean((1, 2, 3)) > 120) & (ice.mean((1, 2, 3)) < 190)).all()

    def test_snow_lightens_and_falls_twice(self) -> None:
        black = np.zeros((8, 32, 32, 3), np.uint8)
        white = apply("snow", black, 1).astype(int)
        np.testing.assert_array_equal(white, white[:, ::-1, ::-1])
        # (1 - 0.95) * 0.5 is what black becomes where no flake falls
        assert white.min() == int(0.025 * 255)
        assert white.max() > 60
        assert (white == white[..., :1]).all()

    @pytest.mark.parametrize("level", LEVELS)
    def test_brightness(self, level: int) -> None:
        check_hsv("brightness", level, lambda h, s, v: (h, s, min(v + BRIGHTER[level - 1], 1)))


BRIGHTER = (0.05, 0.1, 0.15, 0.2, 0.3)
SATURATE = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))


def check_hsv(name: str, level: int, change) -> None:
    images = pictures(3)
    changed = apply(name, images, level)
    slow = np.array(
        [
            colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel)))
            for pixel in (images / 255).reshape(-1, 3)
        ]
    )
    difference = truncated(slow).reshape(images.shape).astype(int) - changed
    assert np.abs(difference).max() <= 1  # where the exact result is a whole number
    assert (difference != 0).mean() < 0.1


class TestDigital:
    @pytest.mark.parametrize("level", LEVELS)
    def test_saturate(self, level: int) -> None:
        factor, more = SATURATE[level - 1]
        check_hsv("saturate", level, lambda h, s, v: (h, min(s * factor + more, 1), v))

    @pytest.mark.parametrize("level", LEVELS)
    def test_contrast(self, level: int) -> None:
        images = pictures()
        c = (0.75, 0.5, 0.4, 0.3, 0.15)[level - 1]
        for image, flat in zip(images, apply("contrast", images, level), strict=True):
            for channel in range(3):
                x = image[..., channel] / 255
                slow = np.array([[(v - x.mean()) * c + x.mean() for v in row] for row in x])
                difference = truncated(slow).astype(int) - flat[..., channel]
                assert np.abs(difference).max() <= 1
                assert (difference != 0).mean() < 0.01
                # only the truncation moves the mean
                assert -1 <= flat[..., channel].mean() - image[..., channel].mean() <= 0

    @pytest.mark.parametrize("level", LEVELS)
    def test_pixelate(self, level: int) -> None:
        images = pictures()
        few = (30, 28, 27, 24, 20)[level - 1]
        for image, coarse in zip(images, apply("pixelate", images, level), strict=True):
            small = Image.fromarray(image).resize((few, few), Image.Resampling.BOX)
            slow = np.asarray(small.resize((32, 32), Image.Resampling.BOX))
            np.testing.assert_array_equal(coarse, slow)

    def test_pixelate_leaves_400_pixels(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
        for coarse in apply("pixelate", noise, 5):
            rows = [k for k in range(1, 32) if (coarse[k] != coarse[k - 1]).any()]
            columns = [k for k in range(1, 32) if (coarse[:, k] != coarse[:, k - 1]).any()]
            assert len(rows) == len(columns) == 19

    def test_jpeg(self) -> None:
        images = pictures()
        for image, got in zip(images, apply("jpeg", images, 3), strict=True):
            file = io.BytesIO()
            Image.fromarray(image).save(file, format="JPEG", quality=58)
            np.testing.assert_array_equal(got, np.asarray(Image.open(file)))

    @pytest.mark.parametrize("level", LEVELS)
    def test_elastic(self, level: int) -> None:
        """An affine map found from its three points, then scipy's map of the moved places."""
        strength, smoothness, jitter = (
            (0, 0, 2.56),
            (1.6, 6.4, 2.24),
            (2.56, 1.92, 1.92),
            (3.2, 1.28, 1.6),
            (3.2, 0.96, 0.96),
        )[level - 1]
        images = pictures(3)
        draw = np.random.default_rng(level)
        moves, waves = draw.random((3, 3, 2)), draw.random((3, 2, 32, 32))
        bent = CORRUPTIONS["elastic"](images, level, Given(moves, waves))
        rows, columns = np.mgrid[:32, :32]
        for k, image in enumerate(images):
            points = np.array([[26, 26], [26, 6], [6, 6]], dtype=float)
            moved = points + (2 * moves[k] - 1) * jitter
            forward = np.linalg.lstsq(np.c_[points, np.ones(3)], moved, rcond=None)[0]
            inverse = np.linalg.inv(np.c_[forward, [0, 0, 1]])
            back = np.c_[columns.ravel(), rows.ravel(), np.ones(1024)] @ inverse
            place = back[:, 1].reshape(32, 32), back[:, 0].reshape(32, 32)
            fields = [
                strength * ndimage.gaussian_filter(2 * w - 1, smoothness, truncate=3)
                for w in waves[k]
            ]
            for c in range(3):
                first = ndimage.map_coordinates(image[..., c] / 255, place, order=1, mode="mirror")
                there = rows + fields[1], columns + fields[0]
                slow = ndimage.map_coordinates(first, there, order=1, mode="reflect")
                difference = truncated(slow).astype(int) - bent[k, ..., c]
                assert np.abs(difference).max() <= 1
                assert (difference != 0).mean() < 0.02

    def test_places_beyond_the_border(self) -> None:
        index = np.arange(-7, 11)
        assert fold(index, 4, "mirror").tolist() == np.pad(np.arange(4), 7, "reflect").tolist()
        assert fold(index, 4, "reflect").tolist() == np.pad(np.arange(4), 7, "symmetric").tolist()
        x = np.arange(4.0).reshape(1, 2, 2, 1)
        half = sample(x, np.full((1, 1, 1), 0.5), np.full((1, 1, 1), 0.25), "reflect")
        assert half.item() == 1.25


class TestSpatter:
    def test_mud(self) -> None:
        """Where there is mud, it is brown; elsewhere the image is as it was."""
        white = np.full((6, 32, 32, 3), 255, np.uint8)
        for level in (4, 5):
            dirty = apply("spatter", white, level)
            spots = (dirty != 255).any(-1)
            assert 0.005 < spots.mean() < 0.2
            darkest = dirty[spots].min(0)
            assert (np.abs(darkest.astype(int) - (63, 42, 20)) <= 1).all()

    def test_water(self) -> None:
        """Where there is water, it adds pale turquoise, at most half of it."""
        black = np.zeros((6, 32, 32, 3), np.uint8)
        for level in (1, 2, 3):
            for wet in apply("spatter", black, level):
                drops = wet.any(-1)
                assert 0 < drops.mean() < 0.7
                assert wet.max((0, 1)).tolist() == [87, 119, 119]

    def test_no_drop_at_all(self) -> None:
        """Then there is nothing to divide by."""
        images = pictures()[:1]

        class Dry(Draws):
            def normal(self, mean: float, deviation: float, *shape: int):
                return np.zeros((len(self), *shape))

        for level in LEVELS:
            assert (CORRUPTIONS["spatter"](images, level, Dry([0])) == images).all()

    def test_distances(self) -> None:
        """The closed form of the shortest way by the three kinds of steps."""
        edge = np.random.default_rng(1).random((3, 32, 32)) < 0.01
        assert edge.any((1, 2)).all()
        for found, marks in zip(distances(edge), edge, strict=True):
            for r, c in ((0, 0), (5, 17), (31, 31), (13, 2)):
                ways = []
                for y, x in np.argwhere(marks):
                    long, short = sorted((abs(y - r), abs(x - c)), reverse=True)
                    if long >= 2 * short:
                        ways.append(2.1969 * short + long - 2 * short)
                    else:
                        ways.append(2.1969 * (long - short) + 1.4 * (2 * short - long))
                assert found[r, c] == pytest.approx(min(ways))
        assert np.isinf(distances(np.zeros((1, 4, 4), dtype=bool))).all()

    def test_edges_of_a_square(self) -> None:
        """One closed line of one pixel's width around a bright square, and nothing in flat ones."""
        x = np.zeros((3, 32, 32), np.uint8)
        x[1, 10:20, 8:24] = 200
        x[2, 10:20, 8:24] = 12  # 12 * 4 is below the lower threshold
        found = edges(x)
        assert not found[0].any()
        assert not found[2].any()
        rows, columns = np.nonzero(found[1])
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (9, 19, 7, 23)
        assert not found[1, 11:18, 9:22].any()
        assert 44 <= found[1].sum() <= 52
        _, count = ndimage.label(found[1], np.ones((3, 3)))
        assert count == 1

    def test_weak_edges_need_a_strong_one(self) -> None:
        """A ramp of contrast along an edge: all of it is kept where it reaches the threshold."""
        x = np.zeros((2, 32, 32), np.uint8)
        x[0, :, 16:] = np.linspace(15, 60, 32, dtype=np.uint8)[:, None]
        x[1, :, 16:] = np.linspace(15, 35, 32, dtype=np.uint8)[:, None]
        found = edges(x)
        assert found[0].any(1).all()
        assert not found[1].any()

    def test_equalise(self) -> None:
        x = np.array([[[3, 3], [5, 9]], [[7, 7], [7, 7]]], dtype=np.uint8)
        assert equalise(x).tolist() == [[[0, 0], [128, 255]], [[7, 7], [7, 7]]]
