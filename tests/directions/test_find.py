"""Finders: given values, what a known generator must give, files, what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from direction_parts import Tensors, conv, made_by, wrapped
from torch import nn

from truecue.directions.directions import Directions, check_fit, load_directions
from truecue.directions.find import (
    find_directions,
    ganspace,
    jacobian,
    principal,
    random_directions,
    sefa,
)
from truecue.errors import ConfigError, DataError
from truecue.nets.adapters import StyleGenerator


def linear_generator(a: torch.Tensor):
    layer = nn.Linear(a.shape[1], a.shape[0])
    with torch.no_grad():
        layer.weight.copy_(a)
    return wrapped(nn.Sequential(layer), a.shape[1], (-1, 1), shape=(1, 1, a.shape[0]))


def same_up_to_sign(found: torch.Tensor, wanted: list[list[float]], atol: float = 1e-5) -> None:
    wanted_ = torch.tensor(wanted, dtype=found.dtype)
    signs = (found * wanted_).sum(1, keepdim=True).sign()
    torch.testing.assert_close(found * signs, wanted_, rtol=0, atol=atol)


A = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 1, 1]])


def test_sefa_of_a_given_matrix() -> None:
    raw = sefa(linear_generator(A), 3, normalise=False)
    assert raw.strengths == pytest.approx([4, 2.618034, 0.381966], abs=1e-6)
    same_up_to_sign(raw.matrix[:2], [[1, 0, 0], [0, 0.850651, 0.525731]])
    scaled = sefa(linear_generator(A), 3)
    assert scaled.strengths == pytest.approx([1.707107, 1, 0.292893], abs=1e-6)
    same_up_to_sign(scaled.matrix[:1], [[0, 0.923880, 0.382683]])


def test_principal_components_of_given_points() -> None:
    points = torch.tensor([[0.0, 0], [2, 0], [0, 1], [2, 1]])
    mean, rows, spread = principal(points, 2)
    assert mean.tolist() == [1, 0.5]
    same_up_to_sign(rows.float(), [[1, 0], [0, 1]])
    assert spread.tolist() == pytest.approx([1.154701, 0.577350], abs=1e-6)
    wide = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    few = principal(wide, 2)  # by the small product
    _, _, vh = torch.linalg.svd(wide.double() - wide.double().mean(0))
    same_up_to_sign(few[1], vh[:2].tolist())


def test_ganspace_in_w_finds_the_widest_spread() -> None:
    mapping = nn.Linear(3, 3)
    with torch.no_grad():
        mapping.weight.copy_(torch.diag(torch.tensor([0.5, 3.0, 1.0])))
    style = StyleGenerator(
        mapping, Tensors(lambda w: w.view(-1, 1, 1, 3)), dim=3, image_range=(-9, 9)
    )
    found = ganspace(style, 3, n=4000)
    same_up_to_sign(found.matrix[:2], [[0, 1, 0], [0, 0, 1]], atol=0.03)
    assert found.strengths == pytest.approx([9, 1, 0.25], rel=0.1)
    assert found.space == "w"


def test_ganspace_in_z_goes_back_from_features_to_codes() -> None:
    # features of the second layer are ten, three and one time the code's numbers, mixed
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1))).Q
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.diag(torch.tensor([10.0, 1, 3])))
        net[1].weight.copy_(turn)
    generator = wrapped(net, 3, (-50, 50), shape=(1, 1, 3))
    found = ganspace(generator, 3, n=5000)
    same_up_to_sign(found.matrix, [[1, 0, 0], [0, 0, 1], [0, 1, 0]], atol=0.05)
    by_name = ganspace(generator, 3, n=5000, layer="net.1")
    assert torch.equal(by_name.matrix, found.matrix)
    with pytest.raises(ConfigError, match="no layer 'nonsense'"):
        ganspace(generator, 2, layer="nonsense")


@pytest.mark.parametrize("style", [False, True])
def test_ganspace_names_what_is_not_finite(style: bool) -> None:
    broken = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        broken[1].weight.fill_(torch.inf)
    if style:
        made = StyleGenerator(broken, Tensors(lambda w: w.view(-1, 1, 1, 3)), dim=3,
                              image_range=(-9, 9))  # fmt: skip
        said = r"the mapping gives codes that are not finite, for 600 of 600 codes"
    else:
        made = wrapped(broken, 3, (-50, 50), shape=(1, 1, 3))
        said = r"the layer 'net\.1' gives features that are not finite, for 600 of 600 codes"
    with pytest.raises(DataError, match=said):
        ganspace(made, 2, n=600)


def test_jacobian_of_a_linear_generator_is_sefa_without_scaling() -> None:
    generator = linear_generator(A)
    found, wanted = jacobian(generator, 3, n=4), sefa(generator, 3, normalise=False)
    same_up_to_sign(found.matrix, wanted.matrix.tolist(), atol=1e-3)
    assert found.strengths == pytest.approx(wanted.strengths, rel=1e-3)


def test_jacobian_against_full_derivatives() -> None:
    generator = conv()
    codes = generator.codes(5, 0, "jacobian")
    full = torch.autograd.functional.jacobian(lambda u: generator(u).flatten(1).sum(0), codes)
    j = full.movedim(1, 0)  # the sum over images keeps each code's own derivative
    wanted = torch.linalg.eigh(torch.einsum("nmi,nmj->ij", j, j) / 5)
    found = jacobian(generator, 2, n=5, rounds=30)
    assert found.strengths == pytest.approx(wanted.eigenvalues.flip(0)[:2].tolist(), rel=1e-3)
    same_up_to_sign(found.matrix, wanted.eigenvectors.flip(1)[:, :2].T.tolist(), atol=0.01)


def test_random_directions_are_orthonormal_and_repeatable() -> None:
    generator = conv()
    found = random_directions(generator, 4, seed=3)
    torch.testing.assert_close(found.matrix @ found.matrix.T, torch.eye(4), atol=1e-6, rtol=0)
    assert torch.equal(found.matrix, random_directions(generator, 4, seed=3).matrix)
    assert not torch.equal(found.matrix, random_directions(generator, 4, seed=4).matrix)


@pytest.mark.parametrize("how", ["sefa", "sefa-raw", "ganspace", "jacobian", "random"])
def test_every_finder_by_name(how) -> None:
    generator = conv()
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    found = find_directions(how, generator, 3)
    assert found.matrix.shape == (3, 6)
    torch.testing.assert_close(found.matrix.norm(dim=1), torch.ones(3))
    assert found.generator == generator.digest()
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())
    assert all(p.grad is None for p in generator.parameters())
    strengths = list(found.strengths)
    assert strengths == sorted(strengths, reverse=True)


def test_what_finders_refuse() -> None:
    generator = conv()
    with pytest.raises(ConfigError, match=r"no finder 'sefaa'; did you mean 'sefa'"):
        find_directions("sefaa", generator, 3)
    for k in (0, 7):
        with pytest.raises(ConfigError, match="codes have 6 numbers"):
            find_directions("sefa", generator, k)
    blind = made_by(lambda z: z.view(-1, 1, 1, 2))
    with pytest.raises(ConfigError, match="SeFa needs the layers that see a code first"):
        find_directions("sefa", blind, 1)
    with pytest.raises(ConfigError, match="no two layers with weights"):
        find_directions("ganspace", blind, 1)


def test_files(tmp_path: Path) -> None:
    made = Directions(torch.randn(2, 3), "SeFa", ("smile", "age"), (2.0, 1.0), "w", "abc")
    made.save(tmp_path)
    read = load_directions(tmp_path)
    assert torch.equal(read.matrix, made.matrix)
    assert read.to_dict() == made.to_dict()
    card = json.loads((tmp_path / "directions.json").read_text())
    assert card["names"] == ["smile", "age"]
    (tmp_path / "directions.json").unlink()
    with pytest.raises(DataError, match="the card of the directions, cannot be read"):
        load_directions(tmp_path)
    with pytest.raises(DataError, match="there is no weights file"):
        load_directions(tmp_path / "nowhere")


def test_directions_that_cannot_be() -> None:
    with pytest.raises(DataError, match=r"must be float \[k, d\]"):
        Directions(torch.zeros(3), "x")
    with pytest.raises(DataError, match="not finite"):
        Directions(torch.full((1, 2), float("nan")), "x")
    with pytest.raises(DataError, match="2 directions and 1 names"):
        Directions(torch.eye(2), "x", ("a",))
    with pytest.raises(DataError, match="codes have 6 in z"):
        check_fit(Directions(torch.eye(2), "x"), conv())


def test_directions_of_another_generator_are_refused() -> None:
    found, other = random_directions(conv(seed=0), 2), conv(seed=1)
    check_fit(found, conv(seed=0))
    with pytest.raises(DataError) as told:
        check_fit(found, other)
    for part in (conv(seed=0).digest(), other.digest(), "Find directions of this one"):
        assert part in str(told.value)
    check_fit(replace(found, generator=""), other)  # the way out that is named
