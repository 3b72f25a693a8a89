"""SRE: what each turn may change, who stays untouched, exact continuation, and bad input."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from direction_parts import Blob, Isometric, angle, conv, cpu, made_by, rotation, wrapped

from truecue.directions.directions import Directions, angles
from truecue.directions.find import random_directions
from truecue.directions.judge import JUDGED, guessed, measure
from truecue.directions.maps import Fixed, make_map
from truecue.directions.ranking import PairSource, ScaleRanking
from truecue.directions.sre import SRE, refine
from truecue.errors import ConfigError, DataError, Diverged, RunMismatch
from truecue.losses.ordering import moved_further, scale_ranking
from truecue.nets.scorer import Scorer

QUICK = SRE(scorer="small", steps=6, images=8, lr_directions=1e-2, lr_scorer=1e-3)
TOY = SRE(step=1.0, scorer="small", images=64, lr_directions=1e-3, lr_scorer=1e-3)


def toy(net: torch.nn.Module):
    """The spot as the published values have it: its pixels, in [0, 1], go to the scorer as such."""
    return wrapped(net, image_range=(-1, 1))


def pairs_for(generator, k: int, seed: int = 0) -> PairSource:
    reach = QUICK.reach(generator, k)
    return PairSource(generator, k=k, reach=reach, images=8, steps=12, seed=seed, device=cpu())


def learner(k: int = 3) -> tuple[ScaleRanking, PairSource]:
    generator = conv()
    torch.manual_seed(0)
    directions = make_map("ortho", k, 6, rng=torch.Generator().manual_seed(0))
    made = ScaleRanking(generator, Scorer("small", (3, 8, 8), k), directions)
    return made, pairs_for(generator, k)


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(before: dict[str, torch.Tensor], module: torch.nn.Module) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# --- one step -----------------------------------------------------------------------------------


def test_pairs_share_a_code_and_move_along_all_directions_at_once() -> None:
    made, source = learner()
    pairs = source.batch(3)
    assert pairs.z.shape == (4, 6)
    assert pairs.eps1.shape == pairs.eps2.shape == (4, 3)
    reach = QUICK.reach(conv(), 3)
    assert reach == pytest.approx(0.3 * math.sqrt(6))
    every = torch.cat([source.batch(i).eps1 for i in range(200)])
    assert float(every.abs().max()) == pytest.approx(reach, rel=0.02)
    assert float(every.square().mean()) == pytest.approx(reach**2 / 3, rel=0.1)
    images = made.images(pairs)
    generator = made._held[0]
    for i, eps in enumerate((pairs.eps1, pairs.eps2)):
        wanted = generator(pairs.z + eps @ made.map.matrix())
        torch.testing.assert_close(images[4 * i : 4 * i + 4], wanted, atol=1e-5, rtol=0)


def test_pairs_are_a_function_of_the_step() -> None:
    _, source = learner()
    again = learner()[1]
    for step in (5, 0, 5):
        for one, other in zip(source.batch(step)[:3], again.batch(step)[:3], strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(source.batch(0).z, source.batch(1).z)


def test_the_scorers_turn_leaves_the_directions_alone() -> None:
    made, source = learner()
    made.turn = "scorer"
    before, scorer = made.map.matrix(), state(made.scorer)
    out = made(source.batch(0))
    out.loss.backward()
    assert all(p.grad is None for p in made.map.parameters())
    assert all(p.grad is not None for p in made.scorer.parameters())
    assert not same(scorer, made.scorer)  # the running statistics
    torch.testing.assert_close(made.map.matrix(), before, atol=1e-6, rtol=0)


def test_the_directions_turn_leaves_the_scorer_alone() -> None:
    made, source = learner()
    made.turn = "directions"
    made.scorer.requires_grad_(False)
    scorer = state(made.scorer)
    out = made(source.batch(1))
    out.loss.backward()
    assert same(scorer, made.scorer)  # weights and running statistics
    assert not made.scorer.training
    assert float(made.map.weight.grad.abs().max()) > 0
    assert all(p.grad is None for p in made._held[0].parameters())


def test_slope_of_the_directions_by_the_chain_rule() -> None:
    made, source = learner()
    made.turn = "directions"
    made.scorer.requires_grad_(False)
    pairs = source.batch(1)
    made(pairs).loss.backward()
    shifts = (torch.cat([pairs.eps1, pairs.eps2]) @ made.map.weight.detach().T).requires_grad_()
    s1, s2 = made.scorer(made._held[0](torch.cat([pairs.z, pairs.z]), shifts)).chunk(2)
    loss = scale_ranking(s1, s2, moved_further(pairs.eps1, pairs.eps2)).mean()
    (by_shift,) = torch.autograd.grad(loss, shifts)
    wanted = by_shift.T @ torch.cat([pairs.eps1, pairs.eps2])
    torch.testing.assert_close(made.map.weight.grad, wanted, atol=1e-6, rtol=1e-4)


def test_rotating_the_span_changes_nothing_for_an_isometric_generator() -> None:
    generator = wrapped(Isometric(), image_range=(-1, 1)).double()
    rng = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(n, 2, generator=rng, dtype=torch.float64) for n in (500, 1000))
    y = moved_further(*eps.chunk(2))
    back = generator.net.q  # a scorer that knows the generator, and turns with the directions
    losses = []
    for degrees in (0, 37):
        rows = rotation(degrees).matrix.double()
        images = generator(torch.cat([z, z]), eps @ rows).flatten(1)
        losses.append(scale_ranking(*(images @ back @ rows.T).chunk(2), y).mean())
    assert abs(float(losses[0] - losses[1])) < 1e-6
    assert float(losses[0]) < math.log(2)


# --- training -----------------------------------------------------------------------------------


def test_training_improves_and_leaves_the_generator_alone() -> None:
    generator = toy(Blob())
    found = refine(generator, rotation(20), TOY.override({"steps": 80}), device=cpu(), seed=0)
    curve = found.report["curve"]
    assert curve[0]["scorer"] > curve[-1]["scorer"]
    assert bool((found.measured.accuracy > 0.85).all())
    rows = found.directions.matrix
    torch.testing.assert_close(rows @ rows.T, torch.eye(2), atol=1e-6, rtol=0)
    assert found.warnings == []
    assert [row["visible"] for row in found.report["directions"]] == [True, True]


def test_nothing_but_the_directions_and_the_scorer_changes() -> None:
    generator = conv()
    before, rng = state(generator), torch.get_rng_state()
    start = random_directions(generator, 3)
    found = refine(generator, start, QUICK, device=cpu())
    assert same(before, generator)
    assert all(p.grad is None for p in generator.parameters())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not torch.allclose(found.directions.matrix, start.matrix, atol=1e-3)
    assert found.directions.generator == generator.digest()
    assert not found.scorer.training


def test_same_seed_same_bits() -> None:
    start = random_directions(conv(), 3)
    one, two, other = (refine(conv(), start, QUICK, device=cpu(), seed=s) for s in (1, 1, 2))
    assert torch.equal(one.directions.matrix, two.directions.matrix)
    assert same(state(one.scorer), two.scorer)
    assert not torch.equal(one.directions.matrix, other.directions.matrix)


class Stop(Exception):
    pass


def test_a_run_that_was_cut_off_goes_on_at_the_exact_step(tmp_path: Path, monkeypatch) -> None:
    start = random_directions(conv(), 3)
    whole = refine(conv(), start, QUICK, device=cpu())
    batch = PairSource.batch

    def cut(self: PairSource, step: int):
        if step == 7:  # in the middle of an update
            raise Stop
        return batch(self, step)

    monkeypatch.setattr(PairSource, "batch", cut)
    with pytest.raises(Stop):
        refine(conv(), start, QUICK, device=cpu(), out=tmp_path, checkpoint_seconds=0)
    drawn: list[int] = []
    monkeypatch.setattr(PairSource, "batch", lambda self, s: drawn.append(s) or batch(self, s))
    resumed = refine(conv(), start, QUICK, device=cpu(), out=tmp_path)
    assert drawn == list(range(7, 12))
    assert torch.equal(resumed.directions.matrix, whole.directions.matrix)
    assert same(state(resumed.scorer), whole.scorer)
    with pytest.raises(RunMismatch, match="seed 0 \\(now 5\\)"):
        refine(conv(), start, QUICK, device=cpu(), out=tmp_path, seed=5)


@pytest.mark.parametrize("name", ["ortho", "linear", "proj", "random", "id", "ortho-exp", "fc"])
def test_every_map_can_be_trained(name) -> None:
    found = refine(conv(), 3, QUICK.override({"map": name, "steps": 2}), device=cpu())
    turned = [row["turned"] for row in found.report["directions"]]
    assert (max(turned) < 0.1) == (name in ("random", "id"))
    assert found.directions.matrix.shape == (3, 6)


def test_one_direction_and_one_pair() -> None:
    found = refine(conv(), 1, QUICK.override({"images": 2, "steps": 2}), device=cpu())
    assert found.measured.accuracy.shape == (1,)
    assert found.report["pairs"] == JUDGED


def test_angles() -> None:
    assert angles(rotation(0).matrix, rotation(30).matrix).tolist() == pytest.approx([30, 30])
    assert angles(torch.eye(2), -torch.eye(2)).tolist() == pytest.approx([0, 0])
    assert angles(torch.eye(2), torch.eye(2).flip(0)).tolist() == pytest.approx([90, 90])


def test_training_is_a_plain_loop_of_two_steps(monkeypatch) -> None:
    """Fresh pairs for each; the scorer by batch statistics, then directions by running ones."""
    generator, first = toy(Isometric()), {}
    init = ScaleRanking.__init__

    def kept(self, generator, scorer, directions) -> None:
        first["scorer"] = deepcopy(scorer)
        init(self, generator, scorer, directions)

    monkeypatch.setattr(ScaleRanking, "__init__", kept)
    settings = TOY.override({"steps": 60})
    found = refine(generator, rotation(20), settings, device=cpu(), seed=4)

    source = PairSource(generator, k=2, reach=1.0, images=64, steps=120, seed=4, device=cpu())
    scorer = first["scorer"]
    columns = torch.nn.Parameter(rotation(20).matrix.T.clone())
    optimizers = [torch.optim.Adam(p, lr=1e-3) for p in (scorer.parameters(), [columns])]
    for step in range(121):
        with torch.no_grad():
            q, r = torch.linalg.qr(columns)
            columns.copy_(q * torch.where(r.diagonal() < 0, -1.0, 1.0))
        if step == 120:
            break
        of_scorer = step % 2 == 0
        pairs = source.batch(step)
        scorer.train(of_scorer)
        images = torch.cat([pairs.z + eps @ columns.T for eps in (pairs.eps1, pairs.eps2)])
        s1, s2 = scorer(generator.net(images)).chunk(2)
        y = (pairs.eps1 > pairs.eps2).float()
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(s1 - s2, y).backward()
        optimizers[0 if of_scorer else 1].step()
    rows = columns.detach().T
    assert float(angles(rows, rotation(20).matrix).min()) > 0.1
    torch.testing.assert_close(found.directions.matrix, rows, atol=2e-3, rtol=0)


# --- what cannot be seen, and bad input ---------------------------------------------------------


def test_a_generator_without_any_effect() -> None:
    blank = made_by(lambda z: 0.5 + 0 * z[:, :1, None, None].expand(-1, 1, 8, 8))
    found = refine(blank, rotation(20), QUICK, device=cpu())
    (row,) = found.report["curve"]
    assert row["scorer"] == pytest.approx(math.log(2), abs=1e-4)
    assert found.warnings[0].startswith("No visible effect")
    assert any("at chance for every direction" in line for line in found.warnings)
    torch.testing.assert_close(found.directions.matrix, rotation(20).matrix, atol=1e-5, rtol=0)


def test_a_direction_without_effect_is_named() -> None:
    spot = Blob()
    generator = made_by(lambda z: spot(torch.stack([z[:, 0], 0 * z[:, 0]], 1)), image_range=(-1, 1))
    start = Directions(torch.eye(2), "axes", ("place", "nothing"))
    settings = TOY.override({"map": "random", "steps": 60})
    found = refine(generator, start, settings, device=cpu())
    assert "Invisible, no pixel changes by half a grey level: nothing" in found.warnings
    assert "The scorer is at chance for: nothing" in found.warnings
    assert guessed(found.scorer) == ("nothing",)
    assert found.measured.accuracy[0] > 0.8
    assert float(found.measured.accuracy[1]) == pytest.approx(0.5, abs=0.05)


def test_directions_that_became_the_same_are_named() -> None:
    start = Directions(torch.tensor([[1.0, 0], [0.999, 0.04]]), "twice", ("one", "two"))
    settings = TOY.override({"map": "random", "steps": 1})
    found = refine(toy(Blob()), start, settings, device=cpu())
    assert any("nearly) the same: one and two" in line for line in found.warnings)


def test_steps_that_leave_the_codes_are_named() -> None:
    found = refine(toy(Blob()), rotation(0), TOY.override({"step": 9.0, "steps": 1}), device=cpu())
    assert any("leave the range of codes" in line for line in found.warnings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"step": 0}, "step must be greater than 0; got 0"),
        ({"images": 7}, "images come in pairs: give an even number; got 7"),
        ({"images": 0}, "images must be greater than or equal to 2"),
        ({"map": "orto"}, "map must be"),
        ({"stepp": 1}, "did you mean 'step'"),
    ],
)
def test_settings_that_cannot_be(settings, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SRE(**settings)


def test_directions_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="7 orthonormal directions do not fit into 6"):
        refine(conv(), 7, QUICK, device=cpu())
    with pytest.raises(ConfigError, match="at least one direction"):
        refine(conv(), 0, QUICK, device=cpu())
    with pytest.raises(DataError, match="the directions have 2 numbers in z"):
        refine(conv(), rotation(0), QUICK, device=cpu())
    with pytest.raises(ConfigError, match="map 'fc' begins with the coordinates"):
        refine(toy(Blob()), rotation(0), QUICK.override({"map": "fc"}), device=cpu())
    noisy = made_by(lambda z: torch.rand(len(z), 1, 8, 8))
    with pytest.raises(DataError, match="not deterministic"):
        refine(noisy, rotation(0), QUICK, device=cpu())


def test_an_image_that_is_not_finite_stops_and_names_its_seed() -> None:
    spot = Blob()
    calls: list[int] = []

    def breaks(z: torch.Tensor) -> torch.Tensor:
        calls.append(len(z))
        # the first calls look at the generator; then come two for each update
        return spot(z) * (math.nan if sum(n == 8 for n in calls) >= 4 else 1.0)

    with pytest.raises(Diverged) as told:
        refine(made_by(breaks, image_range=(-1, 1)), rotation(0), QUICK, device=cpu(), seed=3)
    seed = pairs_for(toy(Blob()), 2, 3).seed_of(3)
    assert "not finite in step 3 " in str(told.value)
    assert f"(seed {seed} of codes and steps, run seed 3)" in str(told.value)


def test_measuring_does_not_change_the_scorer() -> None:
    torch.manual_seed(0)
    scorer = Scorer("small", (3, 8, 8), 2).train()
    before = state(scorer)
    found = measure(conv(), scorer, Fixed(torch.eye(2, 6)), 1.0, 0, pairs=64)
    assert scorer.training
    assert same(before, scorer)
    assert found.accuracy.shape == (2,)


# --- given angles -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("net", "theta", "steps", "least", "most"),
    [
        (Blob, 0, 800, -2, 2),
        (Blob, 20, 800, -12, 12),
        (Blob, 40, 3000, -12, 12),
        # Nothing pulls: rotating the span of a linear isometric generator costs nothing. Given are
        # 2 degrees; Adam walks further on a gradient of noise, in a plain loop as well.
        (Isometric, 20, 800, 16, 24),
        (Isometric, 40, 800, 36, 44),
    ],
)
def test_angle_after_training(net, theta, steps, least, most, seed) -> None:
    settings = TOY.override({"steps": steps})
    found = refine(toy(net()), rotation(theta), settings, device=cpu(), seed=seed)
    assert least <= angle(found.directions) <= most
