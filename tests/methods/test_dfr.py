"""DFR: the solver against scikit-learn, the published numbers, and who sees which labels."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from unfitted import Unfitted

from truecue.data.sets import Attribute
from truecue.engine.device import Device
from truecue.engine.plan import Plan
from truecue.engine.run import Run
from truecue.errors import ConfigError, DataError, SupervisionError
from truecue.losses.sparse import l1, sparse_logistic, violation
from truecue.methods import dfr
from truecue.methods.base import Uses
from truecue.methods.dfr import DFR
from truecue.methods.grouping import Groups, balanced_subset, grouped
from truecue.nets.classifier import load_classifier
from truecue.seeds import derive
from truecue.testing import check_supervision, fit, small_gratings

SHORT = Plan(epochs=1, batch_size=64)


def problem(n: int, d: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated, standardised features and labels that depend on some of them."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=rng) @ torch.randn(6, d, generator=rng)
    x = (x + 0.5 * torch.randn(n, d, generator=rng)).double()
    y = (x[:, :k] + 2 * torch.randn(n, k, generator=rng)).argmax(1)
    return (x - x.mean(0)) / x.std(0), y


def objective(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, c: float) -> float:
    return float(c * F.cross_entropy(x @ weight.T + bias, y, reduction="sum") + l1(weight))


# the solver


def test_penalty_of_the_published_head() -> None:
    assert 0.1 * float(l1(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))) == pytest.approx(0.35)


@pytest.mark.parametrize("c", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("k", [2, 4])
def test_solver_finds_scikit_learns_minimum(k: int, c: float) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = problem(120, 15, k)
    weight, bias = sparse_logistic(x, y, k, c)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the name of the penalty changes between versions
        theirs = LogisticRegression(
            penalty="l1", C=c, solver="saga", tol=1e-6, max_iter=5000, random_state=0
        ).fit(x.numpy(), y.numpy())
    coef, intercept = torch.tensor(theirs.coef_), torch.tensor(theirs.intercept_)
    if k == 2:  # one row for the difference of the two
        coef, intercept = torch.cat([-coef, coef]) / 2, torch.cat([-intercept, intercept]) / 2
    ours = objective(x, y, weight, bias, c)
    other = objective(x, y, coef, intercept, c)
    assert ours <= other * (1 + 1e-6)
    assert ours == pytest.approx(other, rel=1e-3)
    if k == 2:
        torch.testing.assert_close(weight[1] - weight[0], 2 * coef[1], rtol=0, atol=5e-3)


def test_solution_fulfils_the_conditions_of_the_minimum() -> None:
    x, y = problem(80, 30, 3)
    weight, bias = sparse_logistic(x, y, 3, 0.3, tol=1e-7, steps=50000)
    ones = torch.cat([x, x.new_ones(80, 1)], 1)
    w = torch.cat([weight, bias[:, None]], 1)
    assert violation(ones, F.one_hot(y, 3).double(), w, 0.3) < 1e-7
    assert 0 < int((weight != 0).sum()) < weight.numel()
    best = objective(x, y, weight, bias, 0.3)
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        noise = 0.01 * torch.randn(weight.shape, generator=rng).double()
        assert objective(x, y, weight + noise, bias, 0.3) > best


def test_strong_penalty_leaves_only_how_frequent_classes_are() -> None:
    x, y = problem(90, 5, 3)
    weight, bias = sparse_logistic(x, y, 3, 1e-6, tol=1e-12, steps=50000)
    assert int((weight != 0).sum()) == 0
    torch.testing.assert_close(bias.softmax(0), y.bincount() / 90.0, rtol=1e-2, atol=1e-2,
                               check_dtype=False)  # fmt: skip
    for c in (0.0, float("inf")):
        with pytest.raises(ConfigError, match="above 0 and finite"):
            sparse_logistic(x, y, 3, c)


def test_features_that_are_not_finite_are_no_problem_to_be_solved() -> None:
    x, y = problem(90, 5, 3)
    x[7, 2] = torch.nan
    with pytest.raises(DataError, match="some of their numbers are not finite"):
        sparse_logistic(x, y, 3, 1.0)
    with pytest.raises(DataError, match="there is no sample"):
        sparse_logistic(x[:0], y[:0], 3, 1.0)


# the method


class Spy:
    """Keeps what the solver was asked for, and solves."""

    def __init__(self, monkeypatch) -> None:
        self.asked: list[tuple[Tensor, Tensor, float]] = []
        self.found: list[tuple[Tensor, Tensor]] = []
        monkeypatch.setattr(dfr, "sparse_logistic", self)

    def __call__(self, x, y, classes, c, *, tol):
        self.asked.append((x, y, c))
        self.found.append(sparse_logistic(x, y, classes, c, tol=tol))
        return self.found[-1]


def trained(method: DFR, data=None) -> tuple[Any, Run]:
    run = Run(None, 0, Device("cpu"), arch="mlp-3")
    net = method.override({"plan.epochs": 2}).fit(data or small_gratings(), run)
    return net, run


@pytest.mark.parametrize("scaling", ["train", "released"])
def test_head_is_the_mean_of_fits_to_balanced_standardised_features(monkeypatch, scaling) -> None:
    spy, data = Spy(monkeypatch), small_gratings()
    net, run = trained(DFR(fits=5, scaling=scaling, strengths=(0.3, 0.1)))
    tuning, finals = spy.asked[:2], spy.asked[2:]
    assert [c for _, _, c in tuning] == [0.3, 0.1]
    assert len(finals) == 5
    assert len({c for _, _, c in finals}) == 1
    least = int(grouped(data.val, "tint").counts.min())
    assert all(y.bincount().tolist() == [2 * least, 2 * least] for _, y, _ in finals)
    plain = run.branches["plain"].net
    z = run.apply(plain.features, data.train).double()
    mean, std = z.mean(0), z.std(0, correction=0)
    std[std == 0] = 1
    # logits of raw features are those of the mean layer on standardised ones
    weight, bias = (torch.stack(parts).mean(0) for parts in zip(*spy.found[2:], strict=True))
    features = run.apply(plain.features, data.test).double()
    wanted = ((features - mean) / std) @ weight.T + bias
    torch.testing.assert_close(run.apply(net, data.test).double(), wanted, rtol=1e-3, atol=1e-3)
    own = tuning[0][0].mean(0).abs().max()
    assert (float(own) < 1e-9) == (scaling == "released")


def test_identical_fits_average_to_that_fit(monkeypatch) -> None:
    layer = torch.tensor([[1.0, -2.0], [0.5, 0.0]]).double(), torch.tensor([0.3, -0.1]).double()
    monkeypatch.setattr(dfr, "_layer", lambda *_: layer)
    data = small_gratings()

    class Flat(torch.nn.Module):
        n_classes = 2

        def features(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2].float()

    groups = grouped(data.val, "tint")
    head = DFR(strengths=(1.0,))._head(
        Flat(),
        data,
        data.val,
        groups,
        Run(None, 0, Device("cpu")),  # type: ignore[arg-type]
    )
    torch.testing.assert_close(head["weight"], layer[0].float())
    torch.testing.assert_close(head["bias"], layer[1].float())


def test_only_the_last_layer_changes_and_the_model_is_an_ordinary_one(tmp_path) -> None:
    data = small_gratings()
    result = fit(DFR(), data, tmp_path)
    plain = result.others["dfr-plain"].state_dict()
    changed = {k for k, v in result.net.state_dict().items() if not torch.equal(v, plain[k])}
    assert changed == {"head.weight", "head.bias"}
    read = load_classifier(tmp_path / "model.safetensors")
    assert torch.equal(read(data.test.images), result.net(data.test.images))
    assert (tmp_path / "dfr" / "once" / "head.safetensors").exists()


class Pixels(torch.nn.Module):
    """Features that are the first pixels themselves."""

    n_classes = 2

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3].float()


@pytest.mark.parametrize("fit_on", ["val", "train"])
@pytest.mark.parametrize("best", [0, 1])
def test_c_is_chosen_by_the_worst_group_of_images_that_are_not_fitted_to(
    monkeypatch, fit_on, best
) -> None:
    """The layer of the k-th C goes by the k-th pixel, so that accuracies are known.

    One is right on all that is fitted to and wrong elsewhere, one on 3 of 4 images of each group,
    and one on all but half of a single group, which is more on average.
    """
    data, run, strengths = small_gratings(), Run(None, 5, Device("cpu")), (0.3, 0.1, 0.03)
    groups, asked = grouped(data.val, "tint"), []
    if fit_on == "val":
        held, _ = dfr._halves(groups, derive(5, "dfr", "halves"))
    else:
        held = torch.arange(len(data.val))
    y, k = data.val.y, 1 - best
    says = torch.stack([y] * 3, 1)
    says[held, k] = 1 - y[held]
    for g in range(4):
        mine = held[groups.of[held] == g]
        says[mine[: len(mine) // 4], best] = 1 - y[mine[: len(mine) // 4]]
    says[mine[: len(mine) // 2], 2] = 1 - y[mine[: len(mine) // 2]]
    fitted_to = torch.ones(len(y), dtype=torch.bool)
    fitted_to[held] = False
    says[fitted_to, best] = 1 - y[fitted_to]

    def pixels(part, said: Tensor):
        images = torch.zeros(len(said), 3, 16, 16, dtype=torch.uint8)
        images.view(len(said), -1)[:, :3] = said.to(torch.uint8)
        return replace(part, images=images)

    train_says = torch.stack([data.train.y, 1 - data.train.y, 1 - data.train.y], 1)
    train_says = train_says if k == 0 else train_says[:, [1, 0, 2]]
    data = replace(data, train=pixels(data.train, train_says), val=pixels(data.val, says))

    def layer(z: Tensor, y: Tensor, classes: int, strength: float, scale):
        asked.append((z, y))
        weight = torch.zeros(2, 3).double()
        weight[1, strengths.index(strength)] = 2
        return weight, torch.tensor([1.0, 0.0]).double()

    monkeypatch.setattr(dfr, "_layer", layer)
    part = data.val if fit_on == "val" else data.train
    its = groups if fit_on == "val" else grouped(data.train, "tint")
    method = DFR(strengths=strengths, fits=1, fit_on=fit_on)
    head = method._head(Pixels(), data, part, its, run)  # type: ignore[arg-type]
    assert float(head["strength"]) == pytest.approx(strengths[best])
    z, said = asked[0]
    assert bool((z[:, k] == said).all()), "fitted to images that are judged by"
    assert len(said.unique()) == 2
    assert all(torch.equal(z, other) for other, _ in asked[:3])


def test_of_equal_values_of_c_the_first_is_kept(monkeypatch) -> None:
    layer = torch.zeros(2, 3).double(), torch.zeros(2).double()
    monkeypatch.setattr(dfr, "_layer", lambda *_: layer)
    data, method = small_gratings(), DFR(strengths=(0.3, 1.0, 0.1), fits=1)
    run, groups = Run(None, 0, Device("cpu")), grouped(data.val, "tint")
    head = method._head(Pixels(), data, data.val, groups, run)  # type: ignore[arg-type]
    assert float(head["strength"]) == pytest.approx(0.3)


def test_halves_share_no_image_and_every_group() -> None:
    groups = grouped(small_gratings().val, "tint")
    held, rest = dfr._halves(groups, 0)
    assert sorted([*held.tolist(), *rest.tolist()]) == list(range(len(groups.of)))
    half = groups.counts // 2
    assert torch.equal(groups.of[held].bincount(), half)
    assert torch.equal(groups.of[rest].bincount(), groups.counts - half)


@pytest.mark.parametrize(
    ("settings", "uses"),
    [
        ({}, Uses.VAL_ATTRIBUTES),
        ({"fit_on": "train"}, Uses.TRAIN_ATTRIBUTES | Uses.VAL_ATTRIBUTES),
        ({"fit_on": "train", "strengths": (0.1,)}, Uses.TRAIN_ATTRIBUTES),
    ],
)
def test_it_sees_the_labels_that_it_declares(settings: dict[str, Any], uses: Uses) -> None:
    seen = []

    class Looking(DFR):
        def fit(self, data, run):
            seen.append((set(data.train.attributes), set(data.val.attributes), data.bias))
            return super().fit(data, run)

    method = Looking(**settings)
    assert method.supervision() == uses
    fit(method, small_gratings())
    train = {"tint"} if Uses.TRAIN_ATTRIBUTES in uses else set()
    val = {"tint"} if Uses.VAL_ATTRIBUTES in uses else set()
    assert seen == [(train, val, "tint")]


def test_train_subset_version_looks_at_no_other_labels(tmp_path) -> None:
    check_supervision(DFR(fit_on="train", strengths=(0.1,), fits=2), tmp_path)


def test_validation_images_are_needed() -> None:
    data = replace(small_gratings(), val=None)
    with pytest.raises(SupervisionError, match=r"DFR needs .*validation images"):
        fit(DFR(), data)
    fit(DFR(fit_on="train", strengths=(0.1,)), data)


def test_a_group_of_one_image_is_fitted_to_and_warned_of() -> None:
    data = small_gratings()
    val = data.val
    cell = 2 * val.y + val.attributes["tint"].values
    keep = cell != 1
    keep[(cell == 1).nonzero()[0]] = True
    _, run = trained(DFR(fits=2), replace(data, val=val.select(keep)))
    (said,) = run.warnings
    assert said.startswith("The smallest group (horizontal with tint cold) has 1 images")
    assert "sees only 4 images" in said
    one_each = torch.cat([(cell == c).nonzero()[:1, 0] for c in range(4)])
    with pytest.raises(DataError, match="no group has two validation images"):
        trained(DFR(), replace(data, val=val.select(one_each)))


def test_what_cannot_be_fitted_to_or_judged_by_is_refused_before_training() -> None:
    data = small_gratings()
    unknown = {"tint": Attribute(torch.full((len(data.val),), -1), ("warm", "cold"))}
    odd = replace(data, val=replace(data.val, attributes=unknown))
    one_each = torch.stack([(data.val.y == c).nonzero()[0, 0] for c in (0, 1)])
    few, none = replace(data, val=data.val.select(one_each)), replace(data, val=None)
    for method, images, error, words in (
        (DFR(), odd, SupervisionError, "of 64 of 64 images is not known"),
        (DFR(fit_on="train"), odd, SupervisionError, "of 64 of 64 images is not known"),
        (DFR(by="class"), few, DataError, "no class has two validation images"),
        (DFR(by="class"), none, ConfigError, "needs validation images"),
        (DFR(by="class", fit_on="train"), none, ConfigError, "needs validation images"),
    ):
        run = Unfitted()
        with pytest.raises(error, match=words):
            method.fit(images, run)
        assert not run.asked


def test_every_fit_and_every_seed_has_a_subset_of_its_own(monkeypatch) -> None:
    keys, layer = [], (torch.zeros(2, 3).double(), torch.zeros(2).double())

    def drawn(groups: Groups, *key: int | str) -> Tensor:
        keys.append(key)
        return balanced_subset(groups, *key)

    monkeypatch.setattr(dfr, "balanced_subset", drawn)
    monkeypatch.setattr(dfr, "_layer", lambda *_: layer)
    data, method = small_gratings(), DFR(strengths=(0.3, 0.1), fits=3)
    groups = grouped(data.val, "tint")
    for seed in (0, 1):
        run = Run(None, seed, Device("cpu"))
        method._head(Pixels(), data, data.val, groups, run)  # type: ignore[arg-type]
    assert len(keys) == len(set(keys)) == 2 * (1 + 3)
    assert not torch.equal(*(balanced_subset(groups, *key) for key in keys[2:4]))


@pytest.mark.parametrize(
    ("settings", "words"), [({"strengths": ()}, "strengths"), ({"strengths": (0,)}, "strengths"),
                            ({"fits": 0}, "fits"), ({"fit_on": "test"}, "fit_on")],
)  # fmt: skip
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DFR(**settings)


# without bias labels


def test_by_class_asks_for_no_bias_labels_and_balances_classes() -> None:
    data = small_gratings()
    keep = torch.cat([(data.train.y == 0).nonzero()[:, 0], (data.train.y == 1).nonzero()[:40, 0]])
    blind = replace(
        data,
        train=data.train.select(keep).blind(),
        val=data.val.blind(),
        test=data.test.blind(),
        bias=None,
    )
    method = DFR(plan=SHORT, fit_on="train", by="class", fits=3)
    assert method.supervision() == Uses.LABELS
    run = Run(None, 0, Device("cpu"))
    z = method.fit(blind, run)
    assert set(run.branches) == {"plain", "retrained"}
    assert not torch.equal(z.head.weight, run.branches["plain"].net.head.weight)
    plain = DFR(plan=SHORT, by="group", fit_on="train", strengths=(0.1,))
    with pytest.raises(SupervisionError):
        plain.fit(blind, Run(None, 0, Device("cpu")))


def test_by_class_says_so_where_there_are_no_validation_images() -> None:
    data = replace(small_gratings(), val=None)
    for method in (DFR(plan=SHORT, by="class"), DFR(plan=SHORT, by="class", fit_on="train")):
        with pytest.raises(ConfigError, match="DFR needs validation images"):
            method.fit(data, Run(None, 0, Device("cpu")))
