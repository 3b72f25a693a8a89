"""Contrastive losses: known values, a double loop, other people's code, limits, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import A, B, random_toy, toy, unit

from truecue.errors import ConfigError
from truecue.losses.contrastive import contrastive, info_nce, similarities

FORMS = ("supinfonce", "supinfonce-in", "supcon", "supcon-in")


def loss_of(of, form="supinfonce", **options):
    return contrastive(similarities(of.z), of.y, form, **options)


@pytest.mark.parametrize(
    ("tau", "eps", "value", "each"),
    [
        (1, 0, 0.948501, [0.604131, 1.033139, 1.476465, 0.680270]),
        (1, 0.25, 0.853121, [0.475278, 0.951145, 1.424612, 0.561449]),
        (1, 0.5, 0.771144, [0.361995, 0.882280, 1.382280, 0.458020]),
        (1, 1, 0.643362, [0.180270, 0.778293, 1.320508, 0.294377]),
        (1, 50, 0.399428, None),
        (0.1, 0, 3.089933, [0.006716, 3.685656, 8.660601, 0.006760]),
        (0.1, 0.25, 2.964486, [-0.241385, 3.680093, 8.660562, -0.241328]),
        (0.1, 0.5, 2.839610, [-0.488952, 3.675738, 8.660532, -0.488878]),
        (0.1, 1, 2.591647, [-0.981849, 3.669675, 8.660491, -0.981729]),
    ],
)
def test_values_of_four_points(tau, eps, value, each):
    found = loss_of(A, tau=tau, eps=eps)
    assert float(found.loss) == pytest.approx(value, abs=2e-6)
    assert int(found.anchors) == 4
    if each:
        assert found.each.tolist() == pytest.approx(each, abs=2e-6)


def test_base_temperature_rescales():
    found = loss_of(A, tau=0.1, eps=0.25, base_temperature=0.07)
    assert float(found.loss) == pytest.approx(4.234979, abs=2e-6)


def test_slope_by_similarity():
    s = similarities(A.z).requires_grad_()
    contrastive(s, A.y, eps=0.25, tau=1.0).each.sum().backward()
    expected = [
        [0, -0.1290 * 4, 0.0943 * 4, 0.0347 * 4],
        [-0.1748 * 4, 0, 0.1393 * 4, 0.0355 * 4],
        [0.0602 * 4, 0.1430 * 4, 0, -0.2032 * 4],
        [0.0525 * 4, 0.0865 * 4, -0.1389 * 4, 0],
    ]
    torch.testing.assert_close(s.grad, torch.tensor(expected).double(), rtol=0, atol=4e-4)
    torch.testing.assert_close(s.grad.sum(1), torch.zeros(4).double())


@pytest.mark.parametrize(
    ("form", "eps", "over_all", "over_anchors", "each"),
    [
        ("supinfonce", 0, 0.546929, 0.656315,
         [0.252412, 0.268317, 0.655953, 1.382489, 0.722404]),
        ("supinfonce", 0.25, 0.435607, 0.522728,
         [0.063317, 0.082983, 0.533186, 1.325379, 0.608775]),
        ("supinfonce", 0.5, 0.335191, 0.402229,
         [-0.113771, -0.089697, 0.425718, 1.278525, 0.510370]),
        ("supcon", 0, 0.815249, 0.978299,
         [0.861336, 0.838352, 1.086911, 1.382489, 0.722404]),
        ("supcon", 0.25, 0.687428, 0.824914,
         [0.644103, 0.625379, 0.920933, 1.325379, 0.608775]),
        ("supcon", 0.5, 0.568992, 0.682791,
         [0.434661, 0.420996, 0.769401, 1.278525, 0.510370]),
        ("supinfonce-in", 0, 0.194384, 0.233260, None),
        ("supinfonce-in", 0.25, 0.082278, 0.098734, None),
        ("supinfonce-in", 0.5, -0.018912, -0.022694, None),
    ],
)  # fmt: skip
def test_values_where_a_class_has_one_sample(form, eps, over_all, over_anchors, each):
    found = loss_of(B, form, eps=eps, tau=0.5)
    assert float(found.loss) == pytest.approx(over_anchors, abs=2e-6)
    assert int(found.anchors) == 5
    if each:
        assert found.each.tolist() == pytest.approx([*each, 0.0], abs=2e-6)
    counted = loss_of(B, form, eps=eps, tau=0.5, count_empty_anchors=True)
    assert float(counted.loss) == pytest.approx(over_all, abs=2e-6)


@pytest.mark.parametrize(
    ("form", "eps", "value"),
    [
        ("supinfonce", 0, 0.538667),
        ("supinfonce", 0.25, 0.385935),
        ("supinfonce", 0.5, 0.245238),
        ("supcon", 0, 0.873387),
        ("supcon", 0.25, 0.702926),
        ("supcon", 0.5, 0.542699),
        ("supinfonce-in", 0, 0.116661),
        ("supinfonce-in", 0.25, -0.036913),
    ],
)
def test_values_where_every_anchor_has_a_positive(form, eps, value):
    five = B._replace(z=B.z[:5], y=B.y[:5])
    assert float(loss_of(five, form, eps=eps, tau=0.5).loss) == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize(("eps", "value"), [(0.0, 0.526620), (0.25, 0.382513)])
def test_views_of_the_same_sample_are_positives(eps, value):
    views = torch.stack([unit([0, 80, 200]), unit([30, 120, 185])])
    assert float(info_nce(views, eps=eps, tau=0.5).loss) == pytest.approx(value, abs=2e-6)


# --- slowly


def slowly(s: list[list[float]], y: list[int], form: str, eps: float, tau: float) -> list[float]:
    n, found = len(y), []
    for i in range(n):
        pos = [s[i][j] / tau for j in range(n) if j != i and y[j] == y[i]]
        neg = [s[i][j] / tau for j in range(n) if y[j] != y[i]]
        a = sum(map(math.exp, neg))
        t = sum(math.exp(p - eps) for p in pos)
        if not pos:
            found.append(0.0)
        elif form == "supinfonce":
            terms = [-math.log(math.exp(p) / (math.exp(p - eps) + a)) for p in pos]
            found.append(sum(terms) / len(pos))
        elif form == "supcon":
            found.append(-sum(math.log(math.exp(p) / (t + a)) for p in pos) / len(pos))
        elif form == "supcon-in":
            found.append(-math.log(sum(math.exp(p) / (t + a) for p in pos)))
        else:
            found.append(-math.log(sum(map(math.exp, pos)) / (t / len(pos) + a)))
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_equals_a_double_loop(form, eps):
    of = random_toy(n=24, d=5)
    s = similarities(of.z)
    found = contrastive(s, of.y, form, eps=eps, tau=0.2)
    expected = slowly(s.tolist(), of.y.tolist(), form, eps, 0.2)
    assert found.each.tolist() == pytest.approx(expected, abs=1e-10)
    assert float(found.loss) == pytest.approx(sum(expected) / 24, abs=1e-10)


# --- other people's code


@pytest.fixture
def others():
    return pytest.importorskip("pytorch_metric_learning")


def test_equals_nt_xent_of_pytorch_metric_learning(others):
    from pytorch_metric_learning.losses import NTXentLoss
    from pytorch_metric_learning.reducers import PerAnchorReducer

    of = random_toy(3, n=16, classes=4)
    other = NTXentLoss(temperature=0.2, reducer=PerAnchorReducer())(of.z, of.y)
    assert float(loss_of(of, tau=0.2).loss) == pytest.approx(float(other), abs=1e-6)


def test_equals_sup_con_of_pytorch_metric_learning(others):
    from pytorch_metric_learning.losses import SupConLoss

    of = random_toy(4, n=16, classes=4)
    other = SupConLoss(temperature=0.2)(of.z, of.y)
    assert float(loss_of(of, "supcon", tau=0.2).loss) == pytest.approx(float(other), abs=1e-6)


def released(of, form="supinfonce", *, eps=0.0, tau=1.0, floor=1e-6) -> float:
    """The released code's loss: rows are shifted by their maximum, and logarithms have a floor."""
    n, values = len(of.y), []
    logits = similarities(of.z) / tau
    for i in range(n):
        row = (logits[i] - logits[i].max()).tolist()  # the maximum is that of i with itself
        positives = [row[j] for j in range(n) if j != i and of.y[j] == of.y[i]]
        negatives = sum(math.exp(row[j]) for j in range(n) if of.y[j] != of.y[i])
        terms = []
        for p in positives:
            near = positives if form == "supcon" else [p]
            total = sum(math.exp(v - eps) for v in near) + negatives
            terms.append(math.log(total + floor) - p)
        values.append(sum(terms) / max(len(terms), 1))
    return sum(values) / n


@pytest.mark.parametrize(
    ("of", "form", "tau", "eps", "value"),
    [
        *((A, "supinfonce", 1, eps, value) for eps, value in (
            (0, 0.948502), (0.25, 0.853122), (0.5, 0.771145), (1, 0.643363), (50, 0.399430))),
        *((A, "supinfonce", 0.1, eps, value) for eps, value in (
            (0, 3.095382), (0.25, 2.971448), (0.5, 2.848494), (1, 2.606030))),
        *((B, "supinfonce", 0.5, eps, value) for eps, value in (
            (0, 0.546930), (0.25, 0.435608), (0.5, 0.335192))),
        *((B, "supcon", 0.5, eps, value) for eps, value in (
            (0, 0.815250), (0.25, 0.687429), (0.5, 0.568993))),
    ],
)  # fmt: skip
def test_equals_the_released_code_but_for_its_floor(of, form, tau, eps, value):
    assert released(of, form, eps=eps, tau=tau) == pytest.approx(value, abs=2e-6)
    found = loss_of(of, form, eps=eps, tau=tau, count_empty_anchors=True).loss
    assert float(found) == pytest.approx(released(of, form, eps=eps, tau=tau, floor=0), abs=1e-10)


# --- limits


def test_one_positive_and_no_margin_is_cross_entropy():
    of = toy([0, 25, 70, 110, 200, 260], [0, 0, 1, 1, 2, 2])
    s = similarities(of.z) / 0.3
    expected = []
    for i in range(6):
        partner = i ^ 1
        others = [j for j in range(6) if of.y[j] != of.y[i]]
        expected.append(float(-s[i, [partner, *others]].log_softmax(0)[0]))
    assert loss_of(of, tau=0.3).each.tolist() == pytest.approx(expected, abs=1e-12)
    for eps in (0.0, 0.4):
        pair = [loss_of(of, form, tau=0.3, eps=eps).each for form in ("supinfonce", "supcon")]
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize("form", FORMS)
def test_falls_with_the_margin_and_stays_above_its_negative(form):
    of = random_toy(5)
    values = [loss_of(of, form, eps=eps).each for eps in (0.0, 0.1, 0.5, 2.0)]
    some = values[0] != 0
    for lower, higher in zip(values[1:], values, strict=False):
        assert bool((lower[some] < higher[some]).all())
    assert float(values[3].min()) > -2.0 or form == "supcon-in"


@pytest.mark.parametrize("form", FORMS)
def test_changes_that_change_nothing(form):
    of = random_toy(6)
    value = float(loss_of(of, form, eps=0.2).loss)
    turn = torch.linalg.qr(random_toy(7, n=5).z)[0]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    same = [
        of._replace(z=of.z @ turn),
        of._replace(z=of.z[order], y=of.y[order]),
        of._replace(y=2 - of.y),
        of._replace(z=3.7 * of.z),
    ]
    for other in same:
        assert float(loss_of(other, form, eps=0.2).loss) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradient(form):
    z = random_toy(8, n=9, d=3).z.requires_grad_()
    y = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 3])

    def of(values: Tensor) -> Tensor:
        return contrastive(similarities(values), y, form, eps=0.3, tau=0.4).loss

    assert torch.autograd.gradcheck(of, z)


# --- edges


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("degrees", "y"),
    [([0, 60], [0, 0]), ([0, 60], [0, 1]), ([0], [0]), ([0, 0, 0], [0, 0, 0]), ([5, 9], [1, 1])],
)
def test_never_nan(form, degrees, y):
    z = unit(degrees).requires_grad_()
    found = contrastive(similarities(z), torch.tensor(y), form, eps=0.25, tau=0.01)
    found.loss.backward()
    assert bool(found.loss.isfinite())
    assert bool(z.grad.isfinite().all())


def test_without_negatives_or_without_positives():
    alone = loss_of(toy([0, 60], [0, 0]), eps=0.25, tau=1.0)
    assert float(alone.loss) == pytest.approx(-0.25, abs=1e-12)
    z = unit([0, 60]).requires_grad_()
    none = contrastive(similarities(z), torch.tensor([0, 1]))
    assert float(none.loss.detach()) == 0
    assert int(none.anchors) == 0
    none.loss.backward()
    assert float(z.grad.abs().sum()) == 0


def test_far_positives_keep_their_gradient():
    # where code that adds 1e-6 inside a logarithm has lost it: everything far from the anchor
    z = unit([0, 150, 210]).requires_grad_()
    contrastive(similarities(z), torch.tensor([0, 0, 1]), tau=0.1).each[0].backward()
    assert float(z.grad[1].abs().max()) > 1


def test_types_and_mixed_precision():
    of = random_toy(9)
    single = contrastive(similarities(of.z.float()), of.y)
    assert single.loss.dtype == torch.float32
    assert float(single.loss) == pytest.approx(float(loss_of(of).loss), abs=1e-5)
    assert loss_of(of).loss.dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = contrastive(similarities(of.z.float()), of.y)
    assert torch.equal(mixed.loss, single.loss)
    assert similarities(of.z.half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eps": -0.1}, "margin eps of a contrastive loss must be at least 0; got -0.1"),
        ({"eps": math.inf}, "margin"),
        ({"tau": 0.0}, "temperature of a contrastive loss must be above 0; got 0"),
        ({"base_temperature": 0.0}, "base_temperature"),
    ],
)
def test_numbers_out_of_range(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        loss_of(A, **options)


def test_a_form_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="no contrastive loss 'supcn'; there are supinfonce, "):
        loss_of(A, "supcn")


def test_similarities_of_short_vectors_are_those_of_long_ones():
    torch.testing.assert_close(similarities(1e-6 * B.z), similarities(B.z))
    assert similarities(torch.zeros(2, 3)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("form", FORMS)
def test_narrow_similarities_are_widened(form):
    s = similarities(random_toy().z).bfloat16()
    narrow, wide = (contrastive(t, random_toy().y, form, eps=0.25) for t in (s, s.float()))
    assert narrow.each.dtype == torch.float32
    assert torch.equal(narrow.each, wide.each)
