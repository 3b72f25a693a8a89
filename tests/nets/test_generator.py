"""Generators: every adapter, what is refused, linear maps that reproduce their layers, loading."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from truecue.errors import ConfigError, DataError
from truecue.nets.adapters import (
    ClassGenerator,
    PairedGenerator,
    PlainGenerator,
    StyleGenerator,
)
from truecue.nets.generator import Generator, as_uint8, check_generator, linear_map
from truecue.nets.load_generator import load_generator
from truecue.nets.procedural import FACTORS, SIZES, ShapesGenerator
from truecue.nets.vae import build_vae, save_vae


class Function(nn.Module):
    def __init__(self, fn) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *args, **options) -> Tensor:
        return self.fn(*args, **options)


def plain(fn, dim: int = 4, image_range=(-1, 1), **more) -> Generator:
    return PlainGenerator(Function(fn), dim=dim, image_range=image_range, **more)


def codes(n: int = 3, dim: int = 4) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0))


# --- the contract -------------------------------------------------------------------------------


def test_images_are_brought_to_one_range() -> None:
    made = plain(lambda z: z.view(-1, 1, 2, 2), image_range=(0, 255))
    z = torch.tensor([[0.0, 127.5, 255, 51]])
    torch.testing.assert_close(made(z).flatten(), torch.tensor([-1.0, 0, 1, -0.6]))
    torch.testing.assert_close(made(z - 1, torch.ones(1, 4)), made(z))
    assert as_uint8(made(z)).flatten().tolist() == [0, 128, 255, 51]
    for hole in (math.nan, math.inf, -math.inf):
        with pytest.raises(DataError, match="not finite for codes drawn with seed 6; mend"):
            as_uint8(torch.tensor([0.0, hole, 0.5]), 6)


@pytest.mark.parametrize(("given", "said"), [(None, "the range of the generator's images is not"),
                                             ((1, 1), r"must be \(least, largest\)"),
                                             ((0, math.inf), r"must be \(least, largest\)"),
                                             ((0, 1, 2), r"\(least, largest\); got \(0, 1, 2\)"),
                                             (255, r"\(least, largest\); got 255")])  # fmt: skip
def test_a_range_must_be_declared(given, said) -> None:
    with pytest.raises(ConfigError, match=said):
        plain(lambda z: z, image_range=given)


def test_generators_stay_frozen() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    made = PlainGenerator(net, dim=4, image_range=(-5, 5), shape=(1, 2, 2))
    assert not any(p.requires_grad for p in made.parameters())
    made.train()
    assert not any(m.training for m in made.modules())
    u = codes().requires_grad_()
    made(u).sum().backward()
    assert u.grad is not None


def test_codes_are_a_function_of_the_key() -> None:
    made = plain(lambda z: z)
    assert torch.equal(made.codes(3, 1, "a"), made.codes(3, 1, "a"))
    assert not torch.equal(made.codes(3, 1, "a"), made.codes(3, 2, "a"))


def test_digest_tells_generators_apart() -> None:
    net = nn.Linear(4, 4)
    one = PlainGenerator(net, dim=4, image_range=(0, 1), shape=(1, 2, 2))
    digest = one.digest()
    assert digest == one.digest()
    others: list[dict[str, object]] = [
        {"image_range": (-1, 1)}, {"shape": (4, 1, 1)}, {"shape": (1, 4, 1)}, {"as_map": True},
        {"logits": True}, {"pixel_norm": True},
    ]  # fmt: skip
    for other in others:
        settings = {"dim": 4, "image_range": (0, 1), "shape": (1, 2, 2)} | other
        assert PlainGenerator(net, **settings).digest() != digest
    with torch.no_grad():
        net.weight[0, 0] += 1e-3
    assert one.digest() != digest


def test_digest_of_a_network_in_bfloat16() -> None:
    net = nn.Linear(4, 4)
    wide = PlainGenerator(net, dim=4, image_range=(-1, 1)).digest()
    narrow = PlainGenerator(net.bfloat16(), dim=4, image_range=(-1, 1))
    before = narrow.digest()
    assert before != wide
    with torch.no_grad():
        net.weight[0, 0] += 1
    assert narrow.digest() != before


def test_generators_that_cannot_be_used() -> None:
    check_generator(plain(lambda z: z.tanh().view(-1, 1, 2, 2)))
    noisy = plain(lambda z: z.tanh().view(-1, 1, 2, 2) + 0.01 * torch.randn(len(z), 1, 2, 2))
    with pytest.raises(DataError, match=r"not deterministic: .* differ by 0\.0"):
        check_generator(noisy)
    slight = plain(lambda z: z.tanh().view(-1, 1, 2, 2) + 1e-6 * torch.rand(len(z), 1, 2, 2))
    check_generator(slight)
    with pytest.raises(DataError, match=r"must give float images \[4, c, h, w\]"):
        check_generator(plain(lambda z: z))
    with pytest.raises(DataError, match="not finite for codes drawn with seed 7"):
        check_generator(plain(lambda z: (z * math.nan).view(-1, 1, 2, 2)), 7)
    with pytest.raises(DataError, match=r"said to lie in \[-1, 1\], and run from"):
        check_generator(plain(lambda z: (100 * z).view(-1, 1, 2, 2)))
    check_generator(plain(lambda z: 1.9 * z.sign().view(-1, 1, 2, 2)))  # style generators overshoot
    for side in (1, -1):
        beyond = plain(lambda z, side=side: side * (z.sigmoid() + 1.5).view(-1, 1, 2, 2))
        with pytest.raises(DataError, match=r"said to lie in \[-1, 1\], and run from"):
            check_generator(beyond)
    with pytest.raises(
        DataError, match=r"said to lie in \[0, 255\], and run from 0\..* right image"
    ):
        check_generator(plain(lambda z: z.sigmoid().view(-1, 1, 2, 2), image_range=(0, 255)))


# --- first linear maps --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.ConvTranspose2d(6, 3, 4, 1, 0),
        nn.ConvTranspose2d(6, 3, 4, 2, 1),
        nn.Conv2d(6, 3, 4, padding=3),  # ProgGAN's first layer
    ],
)
def test_matrices_reproduce_their_layers(layer: nn.Module) -> None:
    z = codes(5, 6)
    seen = z if isinstance(layer, nn.Linear) else z[:, :, None, None]
    made = layer(seen)
    zero = layer(torch.zeros_like(seen))
    a = linear_map(layer, 6)
    assert a.shape == (made[0].numel(), 6)
    wanted = (z @ a.T).view_as(made) + zero
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5)


def test_rows_of_a_dcgan_are_its_kernel() -> None:
    layer = nn.ConvTranspose2d(6, 3, 4, 1, 0, bias=False)
    torch.testing.assert_close(linear_map(layer, 6), layer.weight.flatten(1).T)


def test_a_layer_that_does_not_take_codes() -> None:
    with pytest.raises(DataError, match="does not take codes of 4 numbers"):
        linear_map(nn.Linear(6, 5), 4)
    net = nn.Sequential(nn.Linear(4, 4))
    made = PlainGenerator(net, dim=4, image_range=(0, 1), shape=(1, 2, 2), first=("1",))
    with pytest.raises(ConfigError, match="no layer '1'; those with weights: 0"):
        made.first_linear_maps()


# --- adapters -----------------------------------------------------------------------------------


def test_plain_options() -> None:
    z = codes()
    as_map = plain(lambda m: m.expand(-1, -1, 2, 2), as_map=True)
    assert as_map(z).shape == (3, 4, 2, 2)
    logits = plain(lambda z: z, shape=(1, 2, 2), logits=True, image_range=(0, 1))
    torch.testing.assert_close(logits.render(z).flatten(1), z.sigmoid())
    normed = plain(lambda z: z, shape=(1, 2, 2), pixel_norm=True)
    wanted = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    torch.testing.assert_close(normed.render(z).flatten(1), wanted)
    torch.testing.assert_close(normed.render(3 * z), normed.render(z))  # only the angle matters


class Synthesis(nn.Module):
    """w for each of three layers to an image; noise unless switched off, as in published code."""

    def __init__(self) -> None:
        super().__init__()
        self.affine = nn.Linear(4, 5)
        self.other = nn.Module()
        self.other.affine = nn.Linear(4, 2)

    def forward(self, ws: Tensor, noise_mode: str = "random") -> Tensor:
        noise = torch.randn(len(ws), 1, 1, 1) if noise_mode == "random" else 0.0
        return ws.view(len(ws), 1, 3, 4) * 0.1 + noise


def style(**more) -> StyleGenerator:
    torch.manual_seed(0)
    mapping = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    options = {"noise_mode": "const"}
    return StyleGenerator(
        mapping, Synthesis(), dim=4, n_latent=6, image_range=(-1, 1), layers=3, options=options,
        **more,
    )  # fmt: skip


def test_style_generator() -> None:
    made = style(truncation=0.8)
    check_generator(made)
    z = codes(3, 6)
    w = made.to_space(z)
    torch.testing.assert_close(w, made.mapping(z))
    pulled = made.centre + 0.8 * (w - made.centre)
    shift = torch.randn(3, 4)
    torch.testing.assert_close(made.render(w)[:, 0], 0.1 * pulled[:, None].expand(-1, 3, -1))
    moved = made.render(w, shift)[:, 0] - made.render(w)[:, 0]
    torch.testing.assert_close(moved, 0.08 * shift[:, None].expand(-1, 3, -1))
    assert [tuple(m.shape) for m in made.first_linear_maps()] == [(5, 4), (2, 4)]
    torch.testing.assert_close(made.first_linear_maps()[0], made.synthesis.affine.weight)


def test_style_layers_may_be_chosen() -> None:
    made = style(truncation=0.5, truncated=1, moved=(1,), truncate_shift=False)
    w, shift = made.codes(2, 0), torch.ones(2, 4)
    still, moved = made.render(w)[:, 0], made.render(w, shift)[:, 0]
    torch.testing.assert_close(still[:, 0], 0.1 * (made.centre + 0.5 * (w - made.centre)))
    torch.testing.assert_close(still[:, 1], 0.1 * w)
    change = (moved - still)[0, :, 0]
    torch.testing.assert_close(change, torch.tensor([0, 0.1, 0]))
    for scaled, expected in ((False, [0.1, 0.1, 0.1]), (True, [0.05, 0.1, 0.1])):
        made = style(truncation=0.5, truncated=1, truncate_shift=scaled)
        change = (made.render(w, shift) - made.render(w))[0, 0, :, 0]
        torch.testing.assert_close(change, torch.tensor(expected))


def test_style_layers_and_codes_that_there_are_not_are_refused() -> None:
    with pytest.raises(ConfigError, match="moved names layer 3, and there are 3"):
        style(moved=(0, 3))
    style(moved=(-1,))
    mapping, nets = nn.Linear(6, 4), {"image_range": (-1, 1), "n_latent": 6, "layers": 3}
    with pytest.raises(ConfigError, match=r"must give codes \[n, 5\].* it gave \['n', 4\]"):
        StyleGenerator(mapping, Synthesis(), dim=5, **nets)
    wide = Function(lambda z: mapping(z)[:, None].expand(-1, 3, -1))  # as StyleGAN2-ADA gives them
    for space in ("w", "z"):
        with pytest.raises(ConfigError, match=r"one for all layers; it gave \['n', 3, 4\]"):
            StyleGenerator(wide, Synthesis(), dim=4, space=space, **nets)


def test_style_generator_in_z() -> None:
    made, behind = style(space="z"), style()
    assert (made.dim, made.space) == (6, "z")
    z = codes(3, 6)
    torch.testing.assert_close(made.render(made.to_space(z)), behind.render(behind.to_space(z)))
    shift = codes(3, 6).flip(0)
    torch.testing.assert_close(made.render(z, shift), made.render(z + shift))
    assert not torch.allclose(made.render(z, shift), made.render(z))
    torch.testing.assert_close(made.first_linear_maps()[0], made.mapping[0].weight)


def test_style_noise_is_noticed() -> None:
    loud = style()
    loud.options = {}
    with pytest.raises(DataError, match="not deterministic"):
        check_generator(loud)


def test_centre_of_truncation_is_computed_once() -> None:
    assert torch.equal(style(truncation=0.7).centre, style(truncation=0.7).centre)
    digest = style().digest()
    off = style()
    off.centre += 1e-7  # as another number of threads may give
    assert off.digest() == digest
    assert style(seed=1).digest() != digest
    made = style()
    assert bool((made.centre - made.codes(4096, 5).mean(0)).abs().max() < 0.1)


def test_class_generator() -> None:
    def net(z: Tensor, y: Tensor, scale: float) -> Tensor:
        y = y.argmax(1) if y.dim() == 2 else y
        return (scale * z * y[:, None]).view(-1, 1, 2, 2)

    for n_classes in (None, 5):
        made = ClassGenerator(
            Function(net), dim=4, image_range=(-1, 1), label=3, n_classes=n_classes,
            options={"scale": 0.1},
        )  # fmt: skip
        z = codes()
        torch.testing.assert_close(made.render(z).flatten(1), 0.3 * z)
        assert made.first_linear_maps() == []


@pytest.mark.parametrize(("kind", "size"), [("mlp", 8), ("conv64", 20)])
def test_decoder_of_a_paired_vae(kind, size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = build_vae(kind, 3, size, 2).eval()
    made = PairedGenerator(vae)
    check_generator(made)
    u = made.codes(2, 0)
    z_s, z_b = u.chunk(2, dim=1)
    torch.testing.assert_close(made.render(u), vae.image(z_s, z_b))
    (a,) = made.first_linear_maps()
    assert a.shape[1] == made.dim
    if kind == "mlp":
        save_vae(vae, tmp_path / "sih-vae.safetensors")
        for what in (tmp_path, tmp_path / "sih-vae.safetensors"):
            assert load_generator(what).digest() == made.digest()


# --- shapes -------------------------------------------------------------------------------------


def test_shapes_depend_on_their_factors_alone() -> None:
    made = ShapesGenerator()
    check_generator(made)
    u = made.codes(4, 0)
    assert made.render(u).min() >= 0
    assert made.render(u).max() <= 1
    torch.testing.assert_close(made.axes @ made.axes.T, torch.eye(7), atol=1e-6, rtol=0)
    beside = torch.linalg.svd(made.axes).Vh[7:]  # directions without any effect
    torch.testing.assert_close(made.render(u, 3 * beside[:1]), made.render(u), atol=1e-4, rtol=0)
    for k in range(len(FACTORS)):
        before, after = made.factors(u), made.factors(u + made.axes[k])
        others = [j for j in range(7) if j != k]
        assert bool((after[:, k] > before[:, k]).all())
        torch.testing.assert_close(after[:, others], before[:, others], atol=1e-5, rtol=0)
        change = (made.render(u + made.axes[k]) - made.render(u)).abs().amax((1, 2, 3))
        assert bool((change > 1 / 255).any()), FACTORS[k]


def test_shapes_have_slopes_everywhere() -> None:
    made = ShapesGenerator()
    u = torch.zeros(1, 10).requires_grad_()
    (slope,) = torch.autograd.grad(made(u).square().sum(), u)
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize(("turn", "degrees"), [(0.5, 0), (0.75, 30), (0.25, -30), (1.0, 60)])
def test_shapes_are_twice_as_long_as_wide_and_turned(turn: float, degrees: float) -> None:
    made = ShapesGenerator(size=64)
    image = made.paint(torch.tensor([[0.5, 0.5, 0.5, turn, 0.3, 0.0, 0.0]]))[0]
    inside = (image - image[:, :1, :1]).abs().sum(0)
    across, down = made.get_buffer("_grid")
    xx, yy, xy = ((inside * part).sum() / inside.sum()
                  for part in (across**2, down**2, across * down))  # fmt: skip
    found = 0.5 * math.degrees(math.atan2(2 * xy, xx - yy))
    assert found == pytest.approx(degrees, abs=1)
    spread = ((xx - yy) ** 2 + 4 * xy**2).sqrt()
    assert float(((xx + yy + spread) / (xx + yy - spread)).sqrt()) == pytest.approx(2, rel=0.1)


def test_grid_of_shapes() -> None:
    made = ShapesGenerator()
    n = math.prod(SIZES)
    first, last = made.grid_images(torch.tensor([0, n - 1]))
    torch.testing.assert_close(first, made.paint(0.5 / torch.tensor([SIZES]))[0] * 2 - 1)
    top = (torch.tensor([SIZES]) - 0.5) / torch.tensor([SIZES])
    torch.testing.assert_close(last, made.paint(top)[0] * 2 - 1)
    with pytest.raises(ConfigError, match="7 factors need as many numbers"):
        ShapesGenerator(dim=5)


# --- loading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dim", "image_range"), [
    ("mnist-dcgan", 100, (-1, 1)), ("mnist-gan", 64, (-1, 1)), ("mnist-vae", 20, (0, 1)),
])  # fmt: skip
def test_published_generators(real_data: Path, name: str, dim: int, image_range) -> None:
    made = load_generator(name, real_data)
    check_generator(made)
    assert (made.dim, made.image_range) == (dim, image_range)
    images = made.render(made.codes(200, 0))
    assert images.shape == (200, 1, 28, 28)
    low, high = image_range
    assert float(images.min()) == pytest.approx(low, abs=1e-3)
    assert float(images.max()) == pytest.approx(high, abs=0.02)
    ink = ((images - low) / (high - low)).mean()  # of MNIST: 0.131
    assert 0.08 < float(ink) < 0.2
    assert made.first_linear_maps()[0].shape[1] == dim


OWN = """
import truecue
from torch import nn

def make():
    net = nn.Sequential(nn.Linear(3, 12), nn.Tanh())
    return truecue.PlainGenerator(net, dim=3, image_range=(-1, 1), shape=(3, 2, 2))

def wrong():
    return nn.Linear(3, 12)

def unranged():
    return truecue.PlainGenerator(nn.Linear(3, 12), dim=3, shape=(3, 2, 2))

def undimmed():
    return truecue.PlainGenerator(nn.Linear(3, 12), image_range=(0, 1))

def broken():
    return {}["weights"]

def other_codes():
    return truecue.PlainGenerator(nn.Linear(4, 12), dim=3, image_range=(0, 1), shape=(3, 2, 2))
"""


def test_ones_own_generator(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    state = torch.get_rng_state()
    made = load_generator(f"{file}:make")
    assert made.render(made.codes(2, 0)).shape == (2, 3, 2, 2)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ConfigError, match=r"must return a truecue.Generator; it returned a Linear"):
        load_generator(f"{file}:wrong")
    with pytest.raises(ConfigError, match="has no function 'absent'"):
        load_generator(f"{file}:absent")


@pytest.mark.parametrize(
    ("function", "said"),
    [("unranged", "the range of the generator's images is not known; say it: image_range=(0, 1)"),
     ("undimmed", "missing 1 required keyword-only argument: 'dim'"),
     ("broken", "KeyError: 'weights' ({file}, line 19)")],
)  # fmt: skip
def test_ones_own_function_that_fails_is_named(tmp_path: Path, function: str, said: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    with pytest.raises(ConfigError) as told:
        load_generator(f"{file}:{function}")
    assert str(told.value).startswith(f"{file}:{function}")
    assert said.format(file=file) in str(told.value)
    file.write_text("import truecue\n1 / 0\n")
    with pytest.raises(ConfigError, match=r"own.py failed: ZeroDivisionError: .*own.py, line 2\)"):
        load_generator(f"{file}:make")


def test_ones_own_file_may_hold_dataclasses_and_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_own.py").write_text("SIDE = 2\n")
    file = tmp_path / "own.py"
    head = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from neighbour_of_own import SIDE\n"
    )
    wide = "@dataclass\nclass Wide:\n    side: int = SIDE\n"
    file.write_text(head + OWN.replace("(3, 2, 2)", "(3, Wide().side, 2)") + wide)
    before = list(sys.path)
    made = load_generator(f"{file}:make")
    assert made.render(made.codes(2, 0)).shape == (2, 3, 2, 2)
    assert sys.path == before
    file.write_text(head + "1 / 0\n")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        load_generator(f"{file}:make")
    assert sys.path == before
    assert "generator_own" not in sys.modules
    del sys.modules["neighbour_of_own"]


def test_ones_own_network_that_fails_is_told_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    with pytest.raises(DataError, match=r"cannot render codes \[4, 3\]: RuntimeError: mat1 and"):
        check_generator(load_generator(f"{file}:other_codes"))


def test_generators_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no generator 'shaps'; did you mean 'shapes'"):
        load_generator("shaps")
    with pytest.raises(ConfigError, match="give --root or set TRUECUE_DATA"):
        load_generator("mnist-vae")
    with pytest.raises(DataError, match="there is no weights file"):
        load_generator("mnist-vae", tmp_path)
    with pytest.raises(DataError, match="holds no decoder"):
        load_generator(tmp_path)
    with pytest.raises(DataError, match="there is no generator nowhere"):
        load_generator("nowhere/at.all")
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_generator("no_such_module:make")
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="holds no generator that is known"):
        load_generator(tmp_path / "w.pt")
