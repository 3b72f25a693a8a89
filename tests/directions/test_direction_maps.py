"""Maps from steps to shifts: retractions with given values, every map, what they refuse."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from truecue.directions.maps import MapName, fitted, make_map, retract
from truecue.errors import ConfigError


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(found: torch.Tensor, wanted: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=2e-6)


def test_retractions_of_given_columns() -> None:
    d = torch.tensor([[1.0, 1], [0, 1], [0, 0.5]])
    close(retract(d), [[1, 0], [0, 0.894427], [0, 0.447214]])
    close(
        retract(d, "polar"),
        [[0.904279, 0.426943], [-0.381869, 0.808812], [-0.190935, 0.404406]],
    )
    turned = torch.tensor([[0.0, 1], [-2, 1], [0, 1]])
    close(retract(turned), [[0, 0.707107], [-1, 0], [0, 0.707107]])  # along the input column


@pytest.mark.parametrize("how", ["qr", "polar"])
def test_retractions_of_any_columns(how) -> None:
    d = torch.randn(7, 4, generator=rng())
    once = retract(d, how)
    torch.testing.assert_close(once.T @ once, torch.eye(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(retract(once, how), once, rtol=0, atol=1e-6)


def test_polar_treats_columns_alike() -> None:
    d = torch.randn(7, 4, generator=rng())
    swapped = d[:, [2, 1, 0, 3]]
    torch.testing.assert_close(retract(swapped, "polar")[:, [2, 1, 0, 3]], retract(d, "polar"))
    assert not torch.allclose(retract(swapped)[:, [2, 1, 0, 3]], retract(d), atol=1e-3)


@pytest.mark.parametrize("name", get_args(MapName))
def test_every_map_gives_shifts_and_a_matrix(name) -> None:
    k, dim = 3, 5
    made = make_map(name, k, dim, rng=rng())
    eps = torch.randn(8, k, generator=rng(1))
    assert made(eps).shape == (8, dim)
    rows = made.matrix()
    assert rows.shape == (k, dim)
    made.eval()
    torch.testing.assert_close(rows[1:2], made(torch.eye(k)[1:2]).detach())
    torch.testing.assert_close(made(torch.zeros(1, k)).detach() @ torch.zeros(dim, 1),
                               torch.zeros(1, 1))  # fmt: skip
    assert bool(torch.isfinite(made(torch.zeros(2, k))).all())


@pytest.mark.parametrize("name", ["ortho", "linear", "proj", "id", "random", "ortho-exp"])
def test_no_step_is_no_shift(name) -> None:
    made = make_map(name, 3, 5, rng=rng())
    assert made(torch.zeros(2, 3)).abs().max() == 0


def test_given_rows_are_where_a_map_begins() -> None:
    rows = torch.linalg.qr(torch.randn(5, 3, generator=rng())).Q.T
    for name in ("ortho", "linear", "proj", "random"):
        made = make_map(name, 3, 5, rows=rows, rng=rng())
        torch.testing.assert_close(made.matrix(), rows, atol=1e-6, rtol=0)
        eps = torch.randn(4, 3, generator=rng(2))
        if name != "proj":
            torch.testing.assert_close(made(eps), eps @ rows, atol=1e-5, rtol=0)
    assert not list(make_map("random", 3, 5, rows=rows, rng=rng()).parameters())


def test_projected_shifts_have_the_length_of_the_steps() -> None:
    made = make_map("proj", 3, 5, rows=torch.randn(3, 5, generator=rng()), rng=rng())
    eps = torch.randn(6, 3, generator=rng(1))
    torch.testing.assert_close(made(eps).norm(dim=1), eps.norm(dim=1))
    made(torch.zeros(1, 3)).sum().backward()
    assert bool(torch.isfinite(made.weight.grad).all())


def test_ortho_is_orthonormal_again_after_a_step() -> None:
    made = make_map("ortho", 3, 5, rng=rng())
    with torch.no_grad():
        made.weight.add_(torch.randn(5, 3, generator=rng(3)))
    rows = made.matrix()
    torch.testing.assert_close(rows @ rows.T, torch.eye(3), atol=1e-6, rtol=0)


def test_ortho_exp_turns() -> None:
    made = make_map("ortho-exp", 4, 4, rng=rng())
    with torch.no_grad():
        made.free.copy_(torch.randn(4, 4, generator=rng(1)))
    eps = torch.randn(6, 4, generator=rng(2))
    torch.testing.assert_close(made(eps).norm(dim=1), eps.norm(dim=1))
    rows = made.matrix()
    torch.testing.assert_close(rows @ rows.T, torch.eye(4), atol=1e-5, rtol=0)


def test_fc_by_hand() -> None:
    made = make_map("fc", 2, 2, rng=rng()).eval()
    eps = torch.randn(3, 2, generator=rng(1))
    one, two, three, four = made.layers
    elu, norms = torch.nn.functional.elu, made.norms
    h1 = one(eps)
    h2 = two(elu(norms[0](h1)))
    h3 = three(elu(norms[1](h2 + h1)))
    torch.testing.assert_close(made(eps), four(elu(norms[2](h3 + h2 + h1))) + eps)


def test_shifts_are_cut_or_filled() -> None:
    x = torch.arange(6.0).view(2, 3)
    assert fitted(x, 2).tolist() == [[0, 1], [3, 4]]
    assert fitted(x, 4).tolist() == [[0, 1, 2, 0], [3, 4, 5, 0]]


def test_what_does_not_fit() -> None:
    for name in ("ortho", "random"):
        with pytest.raises(ConfigError, match="5 orthonormal directions do not fit into 3"):
            make_map(name, 5, 3, rng=rng())
    make_map("linear", 5, 3, rng=rng())
    with pytest.raises(ConfigError, match="map 'id' begins with the coordinates"):
        make_map("id", 2, 3, rows=torch.eye(2, 3), rng=rng())
