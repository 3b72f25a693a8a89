"""Discovery of directions, and the encoder that holds directions against known factors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from direction_parts import broken_far_out, conv, cpu, made_by, rotation

from truecue.directions.discover import (
    Discover,
    Discovery,
    ShiftSource,
    away_from_zero,
    discover,
    judge,
)
from truecue.directions.encode import Encode, Encoder, encoder_for
from truecue.directions.find import random_directions
from truecue.directions.known import known_factors
from truecue.directions.maps import make_map
from truecue.engine.run import Run
from truecue.errors import ConfigError, DataError, Diverged, RunMismatch
from truecue.nets.procedural import ShapesGenerator
from truecue.nets.scorer import Reconstructor

QUICK = Discover(k=2, steps=3, images=8, reconstructor="lenet")


def corners():
    """Two numbers, each the brightness of a corner of its own."""

    def paint(z: torch.Tensor) -> torch.Tensor:
        images = torch.zeros(len(z), 1, 32, 32)
        images[:, 0, :16, :16] = z[:, 0, None, None].mul(0.5).tanh()
        images[:, 0, 16:, 16:] = z[:, 1, None, None].mul(0.5).tanh()
        return images

    return made_by(paint, image_range=(-1, 1))


def test_given_steps() -> None:
    steps = 6 * torch.tensor([-1, -0.05, 0, 0.01, 0.5])
    assert away_from_zero(steps).tolist() == [-6, -0.5, 0, 0.5, 3]


def test_shifts_are_a_function_of_the_step() -> None:
    source = ShiftSource(conv(), QUICK, 0, cpu())
    one, two = source.batch(2), ShiftSource(conv(), QUICK, 0, cpu()).batch(2)
    assert all(torch.equal(a, b) for a, b in zip(one[:3], two[:3], strict=True))
    assert one.at == two.at == 2
    many = [source.batch(i) for i in range(300)]
    steps = torch.cat([batch.step for batch in many])
    assert float(steps.abs().min()) >= 0.5
    assert float(steps.abs().max()) <= 6
    counts = torch.cat([batch.k for batch in many]).bincount().tolist()
    assert counts == pytest.approx([1200, 1200], rel=0.15)


def test_one_direction_moves_at_a_time() -> None:
    generator = conv()
    directions = make_map("ortho", 3, 6, rng=torch.Generator().manual_seed(0))
    made = Discovery(generator, Reconstructor("resnet18", 3, 3), directions, 0.25)
    batch = ShiftSource(generator, QUICK.override({"k": 3}), 0, cpu()).batch(0)
    first, second = made.images(batch)
    torch.testing.assert_close(first, generator(batch.z))
    moved = batch.z + batch.step[:, None] * directions.matrix()[batch.k]
    torch.testing.assert_close(second, generator(moved), atol=1e-5, rtol=0)
    made(batch).loss.backward()
    assert float(directions.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("arch", ["resnet18", "lenet"])
def test_reconstructors(arch) -> None:
    net = Reconstructor(arch, 3, 4)
    x = torch.randn(2, 3, 32, 32)
    logits, step = net(x, x)
    assert (logits.shape, step.shape) == ((2, 4), (2,))


def test_small_images_get_a_margin_of_the_least_value() -> None:
    torch.manual_seed(0)
    net = Reconstructor("lenet", 1, 4).eval()
    x, y = torch.rand(2, 2, 1, 28, 27) * 2 - 1
    wide = [torch.nn.functional.pad(images, (2, 3, 2, 2), value=-1.0) for images in (x, y)]
    for found, wanted in zip(net(x, y), net(*wide), strict=True):
        torch.testing.assert_close(found, wanted)
    assert net(x[..., :8, :8], y[..., :8, :8])[0].shape == (2, 4)


def test_directions_that_can_be_told_apart_are_told_apart() -> None:
    settings = Discover(k=2, steps=60, images=32, reconstructor="lenet", lr=3e-3)
    found = discover(corners(), settings, device=cpu())
    assert found.accuracy > 0.8  # chance: 0.5
    assert found.directions.strengths == pytest.approx([found.accuracy] * 2, abs=0.2)
    rows = found.directions.matrix
    torch.testing.assert_close(rows @ rows.T, torch.eye(2), atol=1e-6, rtol=0)


def test_discovery_goes_on_and_leaves_the_generator_alone(tmp_path: Path) -> None:
    generator = corners()
    digest = generator.digest()
    whole = discover(generator, QUICK, device=cpu(), out=tmp_path)
    again = discover(generator, QUICK, device=cpu(), out=tmp_path)  # read back
    assert torch.equal(whole.directions.matrix, again.directions.matrix)
    assert generator.digest() == digest
    assert whole.accuracy == again.accuracy


def test_an_image_that_is_not_finite_stops_and_names_its_seed(tmp_path: Path) -> None:
    generator, settings = broken_far_out(3.0), QUICK.override({"k": 2, "images": 2, "steps": 200})
    source = ShiftSource(generator, settings, 5, cpu())
    with pytest.raises(Diverged) as told:
        discover(generator, settings, device=cpu(), seed=5)
    step = int(str(told.value).partition("not finite in step ")[2].split()[0])
    assert f"(seed {source.seed_of(step)} of codes and steps, run seed 5)" in str(told.value)
    assert "largest is 6" in str(told.value)
    with torch.random.fork_rng():  # the first step whose images break, and no later one
        torch.manual_seed(0)
        directions = make_map("ortho", 2, 2, rng=torch.Generator().manual_seed(0))
        made = Discovery(generator, Reconstructor("lenet", 1, 2), directions, 0.25)
    for at, breaks in ((0, False), (1, True), (2, True)):
        batch = source.batch(at)
        made(batch._replace(z=torch.full_like(batch.z, 9.0 * breaks), step=0 * batch.step))
    assert int(made.broken) == 1


def test_images_that_break_while_judging_are_not_counted_as_wrong() -> None:
    generator = broken_far_out(4.0)
    directions = make_map("ortho", 2, 2, rng=torch.Generator().manual_seed(0))
    made = Discovery(generator, Reconstructor("lenet", 1, 2), directions, 0.25).eval()
    with pytest.raises(DataError, match="not finite for codes drawn with seed 7"):
        judge(made, generator, QUICK, 7, cpu())


@pytest.mark.parametrize("name", ["linear", "proj", "ortho-exp", "fc"])
def test_every_map_can_be_discovered(name) -> None:
    found = discover(corners(), QUICK.override({"map": name}), device=cpu())
    assert found.directions.matrix.shape == (2, 2)


def test_small_images_can_be_discovered() -> None:
    assert discover(conv(), QUICK, device=cpu()).directions.matrix.shape == (2, 6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"k": 7}, "7 orthonormal directions do not fit"), ({"images": 1}, "1 images are too few")],
)
def test_what_cannot_be_leaves_no_folder(tmp_path: Path, settings, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        discover(conv(), QUICK.override(settings), device=cpu(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the encoder --------------------------------------------------------------------------------


def test_encoder_has_the_published_layers() -> None:
    net = Encoder((3, 64, 64), 10)
    flat = torch.randn(1, 3, 64, 64)
    for layer in net.layers[:9]:
        flat = layer(flat)
    assert flat.shape == (1, 1024)
    assert net(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 10)


def test_encoder_learns_where_codes_lie() -> None:
    settings = Encode(images=600, epochs=6, lr=3e-3)
    run = Run(None, 0, cpu())
    with torch.random.fork_rng():
        made = encoder_for(corners(), rotation(30), run, settings)
    assert made.error < 0.5  # 1 by chance
    codes = corners().codes(200, 99)
    images = ((corners()(codes) + 1) * 127.5).round().to(torch.uint8)
    with torch.no_grad():
        said = made.net(images)
    wanted = codes @ rotation(30).matrix.T
    for k in range(2):
        assert float(torch.corrcoef(torch.stack([said[:, k], wanted[:, k]]))[0, 1]) > 0.7


def test_an_encoder_is_not_trained_on_images_that_are_not_finite() -> None:
    with pytest.raises(DataError, match="not finite for codes drawn with seed 2; mend"):
        encoder_for(broken_far_out(), rotation(0), Run(None, 2, cpu()), Encode(images=500))


@pytest.mark.slow
def test_directions_that_are_the_factors_score_higher_than_random_ones() -> None:
    generator = ShapesGenerator()
    own = random_directions(generator, 7)
    true = type(own)(generator.axes, "the factors")
    settings = Encode(images=1500, epochs=6)
    scores = [
        known_factors(generator, d, cpu(), settings, votes=400)["metrics"] for d in (true, own)
    ]
    for name in ("beta_vae", "mig", "disentanglement"):
        assert scores[0][name] > scores[1][name], name


def test_metrics_may_start_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def encode(*_) -> None:
        (tmp_path / "encode" / "stages").mkdir(parents=True, exist_ok=True)  # it has begun
        raise Stop

    monkeypatch.setattr("truecue.directions.known.encoder_for", encode)
    generator = ShapesGenerator()
    asked = (generator, random_directions(generator, 2), cpu())
    with pytest.raises(Stop):
        known_factors(*asked, out=tmp_path)
    with pytest.raises(RunMismatch, match=r"seed 0 \(now 1\).*--fresh to start over"):
        known_factors(*asked, out=tmp_path, seed=1)
    with pytest.raises(Stop):
        known_factors(*asked, out=tmp_path, seed=1, fresh=True)
    assert "seed = 1" in (tmp_path / "run.toml").read_text()


def test_metrics_need_known_factors() -> None:
    with pytest.raises(ConfigError, match="need a generator that knows its factors"):
        known_factors(conv(), random_directions(conv(), 2), cpu())
