"""FairKL: known values, a double loop, lists, whole sets, edges, gradients."""

from __future__ import annotations

import math
from statistics import mean, variance

import pytest
import torch
from toys import A, B, C, D, E, Toy, random_toy, toy, unit

from truecue.errors import ConfigError
from truecue.losses.contrastive import similarities
from truecue.losses.fairkl import (
    Moments,
    exact_moments,
    fairkl,
    fairkl_of_lists,
    from_moments,
    pair_weights,
    weighted_moments,
)
from truecue.losses.mmd import mmd

VARIANTS = ("none", "end_linear", "means", "mean_std", "kl", "jeffreys", "mmd_rbf", "official")
EVEN = ("means", "mean_std", "kl", "jeffreys", "mmd_rbf")


def fair(of: Toy, variant="kl", **options):
    return fairkl(similarities(of.z), of.y, of.b, variant, **options)


def test_moments_of_eight_points():
    found = fair(C).moments
    assert found.n.tolist() == [8, 16, 16, 16]
    expected = [0.968808488, 0.571401124, -0.186822720, -0.110940473]
    assert found.mean.tolist() == pytest.approx(expected, abs=1e-9)
    expected = [0.019770081, 0.220341383, 0.257537456, 0.810383966]
    assert found.std.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("variant", "options", "pos", "neg", "total"),
    [
        ("none", {}, 0, 0, 0),
        ("means", {}, 0.157933, 0.005758, 0.163691),
        ("means", {"per_anchor": True}, 0.191239, 0.649010, 0.840249),
        ("mean_std", {}, 0.157933 + 0.040229, 0.005758 + 0.305639, 0.509559),
        ("mean_std", {"kappa": 2.0}, 0.157933 + 0.080458, 0.005758 + 0.611278, 0.855427),
        ("kl", {"var_floor": 0.0}, 3.541517, 0.701224, 4.242742),
        ("kl", {}, None, None, 4.126931),
        ("jeffreys", {"var_floor": 0.0}, 264.772384, 4.049038, 268.821422),
        ("jeffreys", {}, None, None, 215.101779),
        ("end_linear", {}, -0.571401, -0.186823, -0.758224),
        ("official", {"kappa": 0.0}, None, None, -0.581894),
        ("official", {"kappa": 1.0}, None, None, -0.495080),
    ],
)
def test_values_of_eight_points(variant, options, pos, neg, total):
    found = fair(C, variant, **options)
    assert float(found.loss) == pytest.approx(total, abs=3e-6)
    if pos is not None:
        assert float(found.pos) == pytest.approx(pos, abs=3e-6)
        assert float(found.neg) == pytest.approx(neg, abs=3e-6)
    assert found.skipped.tolist() == [False, False]
    assert found.fell_back.tolist() == [False, False]


def test_moments_with_one_conflicting_sample():
    found = fair(D).moments
    assert found.n.tolist() == [8, 4, 6, 12]
    expected = [0.778100779, 0.816034923, 0.266922489, -0.272011641]
    assert found.mean.tolist() == pytest.approx(expected, abs=1e-9)
    expected = [0.227473856, 0.057724035, 0.475987750, 0.416301785]
    assert found.std.tolist() == pytest.approx(expected, abs=1e-9)


def test_values_with_one_conflicting_sample():
    expected = {
        "means": 0.291889, "mean_std": 0.324266, "jeffreys": 8.541712, "end_linear": -0.549112,
    }  # fmt: skip
    for variant, value in expected.items():
        floor = {"var_floor": 0.0} if variant == "jeffreys" else {}
        assert float(fair(D, variant, **floor).loss) == pytest.approx(value, abs=3e-6), variant
    kl = fair(D, "kl", var_floor=0.0)
    assert float(kl.pos) == pytest.approx(6.109180, abs=3e-6)
    assert float(kl.neg) == pytest.approx(0.857631, abs=3e-6)
    assert float(fair(D, "official", kappa=0.0).loss) == pytest.approx(-0.255395, abs=3e-6)
    assert float(fair(D, "official").loss) == pytest.approx(-0.216225, abs=3e-6)


@pytest.mark.parametrize("variant", VARIANTS[:-1])
def test_without_any_conflict_nothing_is_compared(variant):
    z = E.z.clone().requires_grad_()
    found = fairkl(similarities(z), E.y, E.b, variant)
    assert found.loss.item() == 0
    assert found.skipped.tolist() == [True, True]
    assert found.moments.n.tolist() == [4, 0, 0, 8]
    found.loss.backward()
    assert float(z.grad.abs().sum()) == 0


def test_without_any_conflict_released_code_compares_with_zero():
    assert float(fair(E, "official", kappa=0.0).loss) == pytest.approx(0.984865, abs=3e-6)
    assert float(fair(E, "official").loss) == pytest.approx(1.255568, abs=3e-6)
    moments = fair(E).moments
    found = fair(E, "means", empty="zero")
    assert float(found.pos) == pytest.approx(float(moments.mean[0]) ** 2)
    assert float(found.neg) == pytest.approx(float(moments.mean[3]) ** 2)
    assert found.skipped.tolist() == [False, False]


def test_one_part_may_be_skipped_alone():
    found = fair(A, "means")
    assert found.moments.n.tolist() == [0, 4, 4, 4]
    assert found.moments.mean[1:].tolist() == pytest.approx([0.25, -0.25, -0.066987], abs=1e-6)
    assert float(found.pos) == 0
    assert float(found.neg) == pytest.approx(0.033494, abs=1e-6)
    assert found.skipped.tolist() == [True, False]
    assert float(fair(A, "official", kappa=0.0).loss) == pytest.approx(0.095994, abs=3e-6)
    assert float(fair(A, "official").loss) == pytest.approx(0.269723, abs=3e-6)


def test_a_collapsed_ideal_costs_nothing():
    of = toy([0] * 4 + [180] * 4, [0] * 4 + [1] * 4, [0, 0, 1, 1] * 2)
    for variant in ("none", *EVEN):
        assert float(fair(of, variant).loss) == pytest.approx(0, abs=1e-12)
    assert float(fair(of, "official").loss) == pytest.approx(-2)
    assert float(fair(of, "end_linear").loss) == pytest.approx(-2)


# --- lists


def test_closed_forms_of_lists():
    apart = [torch.tensor(v, dtype=torch.float64) for v in ([0.9, 0.7], [0.3, 0.5], [], [])]
    assert float(fairkl_of_lists(*apart, "means").pos) == pytest.approx(0.16)
    found = fairkl_of_lists(*apart, "kl", var_floor=0.0)
    assert float(found.pos) == pytest.approx(4.0, abs=1e-12)
    assert found.skipped.tolist() == [False, True]
    others = [torch.tensor(v, dtype=torch.float64) for v in ([0.9, 0.7, 0.8], [0.1, 0.5], [], [])]
    kl = float(fairkl_of_lists(*others, "kl", var_floor=0.0).loss)
    both = float(fairkl_of_lists(*others, "jeffreys", var_floor=0.0).loss)
    assert kl == pytest.approx(2.164721, abs=3e-6)
    assert both - kl == pytest.approx(14.960279, abs=3e-6)


@pytest.mark.parametrize("variant", EVEN)
def test_permutations_of_a_list_do_not_differ(variant):
    values = random_toy().z[:, 0]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    found = fairkl_of_lists(values, values[order], values[:9], values[:9].flip(0), variant)
    assert float(found.loss) == pytest.approx(0, abs=1e-12)


# --- kernels


def test_discrepancy_of_lists_in_one_place_is_given_by_their_gap():
    lists = [torch.tensor(v, dtype=torch.float64) for v in ([0.8] * 3, [0.3] * 2, [0.1], [0.1])]
    found = fairkl_of_lists(*lists, "mmd_rbf")
    assert float(found.pos) == pytest.approx(2 - 2 * math.exp(-0.5 * (0.5 / 0.25) ** 2))
    assert float(found.neg) == 0


def test_discrepancy_sees_spread_where_means_agree():
    narrow, broad = [0.4, 0.6], [0.0, 1.0]
    lists = [torch.tensor(v, dtype=torch.float64) for v in (narrow, broad, [], [])]
    assert float(fairkl_of_lists(*lists, "means").pos) == pytest.approx(0)
    found = fairkl_of_lists(*lists, "mmd_rbf")

    def k(a: float, b: float) -> float:
        return math.exp(-((a - b) ** 2) / (2 * 0.25**2))

    cross = mean(k(a, b) for a in narrow for b in broad)
    within = [mean(k(a, b) for a in of for b in of) for of in (narrow, broad)]
    assert float(found.pos) == pytest.approx(sum(within) - 2 * cross)
    assert found.skipped.tolist() == [False, True]


def test_discrepancy_with_probabilities_is_that_of_weighted_lists():
    q = torch.rand(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = q / q.sum(1, keepdim=True)
    s, pairs = similarities(C.z), [(i, j) for i in range(8) for j in range(i)]
    for part, alike in (("pos", True), ("neg", False)):
        values = [(float(s[i, j]), float(q[i] @ q[j])) for i, j in pairs
                  if (C.y[i] == C.y[j]) == alike]  # fmt: skip
        total = sum(w for _, w in values), sum(1 - w for _, w in values)
        expected = 0.0
        for a, v in values:
            for b, w in values:
                signed = [u / total[0] - (1 - u) / total[1] for u in (v, w)]
                expected += signed[0] * signed[1] * math.exp(-8 * (a - b) ** 2)
        found = getattr(fairkl(s, C.y, q, "mmd_rbf"), part)
        assert float(found) == pytest.approx(expected, abs=1e-10)


def test_discrepancy_of_long_lists_looks_at_evenly_spaced_entries_of_each():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(4 * 512, generator=rng), 0.3 + torch.rand(2 * 512, generator=rng)
    found = fairkl_of_lists(x, y, y[:200], x[:100], "mmd_rbf")
    some = fairkl_of_lists(x[::4], y[::2], y[:200], x[:100], "mmd_rbf")
    assert float(found.pos) == pytest.approx(float(some.pos), rel=1e-5)
    assert float(found.neg) == pytest.approx(float(some.neg), rel=1e-5)
    assert float(found.pos) > 0.05
    assert found.moments.n.tolist() == [2 * 2048, 2 * 1024, 400, 200]


# --- slowly


def slowly(s: list[list[float]], y: list[int], b: list[int]) -> list[list[float]]:
    sets: list[list[float]] = [[], [], [], []]
    for i in range(len(y)):
        for j in range(len(y)):
            if i != j and b[i] >= 0 and b[j] >= 0:
                sets[2 * (y[i] != y[j]) + (b[i] != b[j])].append(s[i][j])
    return sets


def kl_slowly(p: list[float], q: list[float], floor: float = 0.0) -> float:
    var_p, var_q = variance(p) + floor, variance(q) + floor
    gap = (mean(p) - mean(q)) ** 2
    return 0.5 * ((var_p + gap) / var_q - math.log(var_p / var_q) - 1)


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_double_loop(seed):
    of = random_toy(seed)
    s = similarities(of.z)
    pa, pc, na, nc = slowly(s.tolist(), of.y.tolist(), of.b.tolist())
    expected = {
        "end_linear": (-mean(pc), mean(na)),
        "means": ((mean(pa) - mean(pc)) ** 2, (mean(na) - mean(nc)) ** 2),
        "kl": (kl_slowly(pa, pc, 1e-4), kl_slowly(na, nc, 1e-4)),
        "jeffreys": (
            kl_slowly(pa, pc, 1e-4) + kl_slowly(pc, pa, 1e-4),
            kl_slowly(na, nc, 1e-4) + kl_slowly(nc, na, 1e-4),
        ),
        "mean_std": tuple(
            (mean(a) - mean(c)) ** 2
            + (math.sqrt(variance(a) + 1e-8) - math.sqrt(variance(c) + 1e-8)) ** 2
            for a, c in ((pa, pc), (na, nc))
        ),
    }
    for variant, parts in expected.items():
        found = fairkl(s, of.y, of.b, variant)
        assert (float(found.pos), float(found.neg)) == pytest.approx(parts, abs=1e-10), variant


def test_unknown_bias_labels_are_in_no_pair():
    of = random_toy(3)
    part = torch.arange(24) % 4 > 0
    unknown = of._replace(b=torch.where(part, of.b, -1))
    known = Toy(of.z[part], of.y[part], of.b[part])
    for variant in VARIANTS:
        a, b = fair(unknown, variant), fair(known, variant)
        torch.testing.assert_close(a.loss, b.loss)
        assert a.moments.n.tolist() == b.moments.n.tolist()


def test_per_anchor_equals_a_loop():
    of = random_toy(4)
    s = similarities(of.z)
    gaps: tuple[list[float], list[float]] = ([], [])
    for i in range(24):
        sets: list[list[float]] = [[], [], [], []]
        for j in range(24):
            if i != j:
                place = 2 * bool(of.y[i] != of.y[j]) + bool(of.b[i] != of.b[j])
                sets[place].append(float(s[i, j]))
        for k in (0, 1):
            if sets[2 * k] and sets[2 * k + 1]:
                gaps[k].append((mean(sets[2 * k]) - mean(sets[2 * k + 1])) ** 2)
    found = fairkl(s, of.y, of.b, "means", per_anchor=True)
    assert (float(found.pos), float(found.neg)) == pytest.approx(tuple(map(mean, gaps)), abs=1e-10)


# --- soft bias labels


@pytest.mark.parametrize("variant", VARIANTS[:-1])
def test_certain_probabilities_are_labels(variant):
    of = random_toy(5)
    soft = torch.nn.functional.one_hot(of.b, 3).double()
    hard, probable = fair(of, variant), fair(of._replace(b=soft), variant)
    torch.testing.assert_close(hard.loss, probable.loss)
    torch.testing.assert_close(hard.moments, probable.moments)


def test_a_set_that_is_less_than_a_pair_is_empty():
    # 0.3 of the only pair of one class share the bias, so that the means of both sets count as 0
    of, s = toy([0, 30, 90], [0, 0, 1]), similarities(unit([0, 30, 90]))
    q = torch.tensor([[0.3, 0.7], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    found = fairkl(s, of.y, q, "means", empty="zero")
    assert found.moments.n[:2].tolist() == pytest.approx([0.6, 1.4])
    assert found.moments.mean[:2].tolist() == [0, 0]
    assert float(found.pos) == 0
    by_anchor = fairkl(s, of.y, q, "means", empty="zero", per_anchor=True)
    assert float(by_anchor.pos) == 0


def test_weighted_moments_equal_a_loop():
    of = random_toy(6, n=12)
    q = torch.rand(12, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    q = q / q.sum(1, keepdim=True)
    s = similarities(of.z)
    found = weighted_moments(s, pair_weights(of.y, q, torch.float64))
    for k in range(4):
        w, v = [], []
        for i in range(12):
            for j in range(12):
                if i != j and bool(of.y[i] == of.y[j]) == (k < 2):
                    share = float(q[i] @ q[j])
                    w.append(share if k % 2 == 0 else 1 - share)
                    v.append(float(s[i, j]))
        total = sum(w)
        centre = sum(a * b for a, b in zip(w, v, strict=True)) / total
        squares = sum(a * (b - centre) ** 2 for a, b in zip(w, v, strict=True))
        expected = squares / (total - sum(a * a for a in w) / total)
        assert float(found.n[k]) == pytest.approx(total, abs=1e-10)
        assert float(found.mean[k]) == pytest.approx(centre, abs=1e-10)
        assert float(found.var[k]) == pytest.approx(expected, abs=1e-10)


# --- whole sets


def test_exact_moments_need_no_pairs():
    for of in (C, D, A, E, random_toy(7, n=60), B):
        found, pooled = exact_moments(of.z, of.y, of.b), fair(of).moments
        assert found.n.tolist() == pooled.n.tolist()
        torch.testing.assert_close(found.mean, pooled.mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.var, pooled.var, rtol=0, atol=1e-12)


def test_exact_moments_leave_out_what_is_not_known():
    of = random_toy(8)
    b = torch.where(torch.arange(24) % 5 == 0, -1, of.b)
    torch.testing.assert_close(
        exact_moments(of.z.float(), of.y, b), fair(of._replace(b=b)).moments, atol=1e-6, rtol=1e-5
    )


# --- invariances


@pytest.mark.parametrize("variant", ["kl", "jeffreys"])
def test_distances_and_similarities_agree(variant):
    s = similarities(C.z)
    near, far = fairkl(s, C.y, C.b, variant, var_floor=0.0), fairkl(
        2 - 2 * s, C.y, C.b, variant, var_floor=0.0
    )  # fmt: skip
    torch.testing.assert_close(near.loss, far.loss)


def test_means_of_distances_are_four_times_as_far():
    far = fairkl(2 - 2 * similarities(C.z), C.y, C.b, "means").loss
    assert float(far) == pytest.approx(0.654763, abs=2e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_changes_that_change_nothing(variant):
    of = random_toy(9)
    value = float(fair(of, variant).loss)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(random_toy(10, n=5).z)[0]
    same = [
        of._replace(z=of.z @ turn),
        Toy(of.z[order], of.y[order], of.b[order]),
        of._replace(y=2 - of.y, b=7 - of.b),
        of._replace(z=0.02 * of.z),
    ]
    for other in same:
        assert float(fair(other, variant).loss) == pytest.approx(value, abs=1e-11)


@pytest.mark.parametrize("seed", range(5))
def test_divergences_are_not_negative(seed):
    of = random_toy(seed + 20)
    for variant in EVEN:
        found = fair(of, variant)
        assert float(found.pos) > 0
        assert float(found.neg) > 0


# --- gradients and edges


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("of", [C, D], ids=["C", "D"])
def test_gradient(variant, of):
    z = of.z.clone().requires_grad_()

    def value(z):
        return fairkl(similarities(z), of.y, of.b, variant).loss

    assert torch.autograd.gradcheck(value, z)


@pytest.mark.parametrize("variant", ["kl", "mmd_rbf"])
def test_gradient_with_probabilities(variant):
    z = C.z.clone().requires_grad_()
    q = torch.rand(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = q / q.sum(1, keepdim=True)
    assert torch.autograd.gradcheck(lambda z: fairkl(similarities(z), C.y, q, variant).loss, z)


EDGES = {
    "A": A, "D": D, "E": E,
    "one class": C._replace(y=torch.zeros(8, dtype=torch.int64)),
    "one bias": C._replace(b=torch.zeros(8, dtype=torch.int64)),
    "two": toy([0, 30], [0, 0], [0, 1]),
    "one": toy([0], [0]),
    "collapsed": Toy(unit([0] * 8), C.y, C.b),
    "nothing known": C._replace(b=torch.full((8,), -1)),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("empty", ["skip", "zero"])
@pytest.mark.parametrize("floor", [0.0, 1e-4])
@pytest.mark.parametrize("edge", EDGES)
def test_never_nan(variant, empty, floor, edge):
    of = EDGES[edge]
    for dtype in (torch.float32, torch.float64):
        z = of.z.to(dtype, copy=True).requires_grad_()
        found = fairkl(similarities(z), of.y, of.b, variant, empty=empty, var_floor=floor)
        found.loss.backward()
        assert bool(torch.stack([found.loss, found.pos, found.neg]).isfinite().all())
        assert bool(z.grad.isfinite().all())
        if edge == "one" and variant != "official":
            assert found.loss.item() == 0


def test_one_pair_has_no_variance():
    of = toy([0, 30, 80, 100, 95], [0, 0, 0, 1, 1], [0, 0, 1, 0, 1])
    assert fair(of).moments.n.tolist() == [2, 6, 6, 6]
    for variant in ("kl", "jeffreys", "mean_std"):
        found = fair(of, variant)
        assert found.fell_back.tolist() == [True, False]
        assert not bool(found.skipped.any())
    assert float(fair(of, "kl").pos) == pytest.approx(float(fair(of, "means").pos))


@pytest.mark.parametrize(
    ("variant", "options", "sentence"),
    [
        ("kl", {"per_anchor": True}, "per_anchor is for the variant 'means'"),
        ("kl", {"var_floor": -1.0}, "var_floor must be at least 0; got -1"),
        ("mean_std", {"kappa": -1.0}, "kappa must be at least 0"),
        ("mean_std", {"kappa": math.nan}, "kappa must be at least 0; got nan"),
        ("kll", {}, "there is no variant 'kll'; there are none, end_linear"),
        ("means", {"empty": "zeros"}, "empty must be one of skip, zero; got 'zeros'"),
    ],
)
def test_options_that_make_no_sense(variant, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        fair(C, variant, **options)


def test_released_code_takes_labels_and_similarities():
    with pytest.raises(ConfigError, match="takes bias labels, not probabilities"):
        fairkl(similarities(C.z), C.y, torch.rand(8, 2), "official")
    with pytest.raises(ConfigError, match="not from moments"):
        from_moments(fair(C).moments, "official")


def test_mixed_precision_changes_nothing():
    of = random_toy(11)
    s, q = similarities(of.z.float()), torch.nn.functional.one_hot(of.b, 3).float()
    plain = fairkl(s, of.y, of.b), fairkl(s, of.y, q)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = fairkl(s, of.y, of.b), fairkl(s, of.y, q)
    for one, other in zip(plain, mixed, strict=True):
        assert other.loss.dtype == torch.float32
        assert torch.equal(one.loss, other.loss)


@pytest.mark.parametrize("offset", [0.0, 0.99])
def test_variances_keep_their_digits_in_float32(offset):
    # similarities that differ in the fourth digit, as in an embedding that has all but collapsed
    values = offset + 1e-3 * random_toy(12).z[:, 0]
    s = (values[:, None] + values) / 2
    of = random_toy(13)
    exact, single = (fairkl(t, of.y, of.b).moments.std for t in (s, s.float()))
    torch.testing.assert_close(single.double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("bias", "found"),
    [
        (C.b.float(), r"float32 \[8\]"),  # would have been the chance of sharing a single value
        (C.b[:, None], r"int64 \[8, 1\]"),
        (C.b[:1], r"int64 \[1\]"),
        (torch.rand(1, 2), r"float32 \[1, 2\]"),
    ],
)
def test_other_biases_are_refused(bias, found):
    with pytest.raises(ValueError, match=r"integers \[8\], or probabilities .*; got " + found):
        fair(C._replace(b=bias))


@pytest.mark.parametrize(
    ("pairs", "skipped", "fell_back"),
    [(0.9, True, False), (1.0, False, True), (1.9, False, True), (2.0, False, False)],
)
def test_sets_by_the_sum_of_their_weights(pairs, skipped, fell_back):
    many = torch.tensor([9.0, pairs, 9.0, 9.0])
    var = torch.tensor([0.04, 0.01, 0.02, 0.02])
    moments = Moments(2 * many, torch.tensor([0.9, 0.1, 0.4, 0.2]), var)
    kl = 0.5 * (4 + 64 - math.log(4) - 1)
    whole = {
        "means": 0.64,
        "mean_std": 0.64 + 0.1**2,
        "kl": kl,
        "jeffreys": kl + 0.5 * (0.25 + 16 + math.log(4) - 1),
    }
    for variant, value in whole.items():
        found = from_moments(moments, variant, var_floor=0.0)
        assert found.skipped.tolist() == [skipped, False]
        assert found.fell_back.tolist() == [fell_back and variant != "means", False]
        expected = 0.0 if skipped else 0.64 if fell_back else value
        assert float(found.pos) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("empty", ["skip", "zero"])
def test_anchors_one_by_one_equal_a_double_loop(empty):
    of = toy([0, 20, 50, 100, 170, 250], [0, 0, 0, 1, 1, 2], [0, 0, 1, 0, 0, 0])
    s, parts = similarities(of.z), []
    for alike in (True, False):
        gaps = []
        for i in range(6):
            sets = [[float(s[i, j]) for j in range(6) if j != i and (of.y[i] == of.y[j]) == alike
                     and (of.b[i] == of.b[j]) == same] for same in (True, False)]  # fmt: skip
            there = all(sets) if empty == "skip" else any(sets)
            means = [mean(values) if values else 0.0 for values in sets]
            gaps += [(means[0] - means[1]) ** 2] if there else []
        parts.append(mean(gaps))
    found = fairkl(s, of.y, of.b, "means", per_anchor=True, empty=empty)
    assert (float(found.pos), float(found.neg)) == pytest.approx(parts, abs=1e-12)


def test_a_set_of_less_than_a_pair_has_neither_mean_nor_variance():
    q = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1])  # 0.68 of a positive pair, and 1.36 of negative ones, are aligned
    s = similarities(unit([0, 40, 100]))
    found = weighted_moments(s, pair_weights(y, q, torch.float64))
    assert found.n.tolist() == pytest.approx([1.36, 0.64, 2.72, 1.28])
    assert [found.mean[k].item() for k in (0, 1, 3)] == [0, 0, 0]
    assert [found.var[k].item() for k in (0, 1, 3)] == [0, 0, 0]
    assert found.mean[2].item() == pytest.approx((float(s[0, 2]) + float(s[1, 2])) / 2)
    assert found.var[2].item() > 0
    for variant in ("means", "kl", "mmd_rbf"):
        assert fairkl(s, y, q, variant).skipped.tolist() == [True, True]


def test_moments_that_are_told_carry_no_gradient():
    found = fairkl(similarities(C.z).requires_grad_(), C.y, C.b)
    assert found.loss.requires_grad
    assert not any(field.requires_grad for field in found.moments)


def test_discrepancy_of_long_lists_thins_weights_with_their_values():
    rng = torch.Generator().manual_seed(0)
    x, w = torch.rand(2, 3 * 512, generator=rng, dtype=torch.float64)
    y, v = torch.rand(2, 40, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(mmd(x, y, w, v), mmd(x[::3], y, w[::3], v))
