"""Importance of features and spuriosity of images: values by hand, oracles, invariances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from truecue.errors import DataError
from truecue.metrics import spurious
from truecue.metrics.ranking import rank
from truecue.metrics.spurious import (
    Moments,
    class_stats,
    importance,
    own_columns,
    pair_table,
    scores,
    spuriosity,
    statistics,
    varies,
)

R = torch.tensor([[1.0, 0, 2], [3, 0, 0], [0, 4, 2], [0, 2, 0], [2, 2, 2]])
Y = torch.tensor([0, 0, 1, 1, 0])
W = torch.tensor([[1, -1, 0.5], [-0.5, 1, 0.25]])


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def mixed(n: int, f: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, f, generator=rng), torch.randint(classes, (n,), generator=rng)


# --- what matters for a class


@pytest.mark.parametrize(
    ("group", "first", "second", "counts"),
    [
        ("correct", (2, 0, 0.5), (0, 3, 0.25), [2, 2]),
        ("label", (2, -2 / 3, 2 / 3), (0, 3, 0.25), [3, 2]),
        ("predicted", (2, 0, 0.5), (-1 / 3, 8 / 3, 1 / 3), [2, 3]),
    ],
)
def test_importance_by_hand(group, first, second, counts):
    found = importance(R, Y, W, group=group, keep=3)
    torch.testing.assert_close(found.values, torch.stack([tensor(*first), tensor(*second)]))
    assert found.counts.tolist() == counts
    assert found.rules == (group, group)
    # what adds nothing, or takes away, is never important
    assert found.top.tolist() == [[0, 2, -1], [1, 2, -1]]


@pytest.mark.parametrize("group", ["correct", "label", "predicted"])
def test_importances_add_up_to_the_mean_logit(group):
    features, y = mixed(200, 7, 3)
    weight, bias = torch.randn(3, 7, generator=torch.Generator().manual_seed(1)), torch.rand(3)
    found = importance(features, y, weight, bias, group=group)
    logits = features @ weight.T + bias
    said = logits.argmax(1)
    for c in range(3):
        mine = {"correct": (y == c) & (said == c), "label": y == c, "predicted": said == c}[group]
        mean = float(logits[mine, c].mean()) if mine.any() else float(logits[y == c, c].mean())
        assert float(found.values[c].sum() + bias[c]) == pytest.approx(mean, abs=1e-5)


def test_a_class_that_is_never_right_falls_back_to_all_its_images():
    weight = torch.tensor([[1.0, 1], [0, 0], [0, 0]])  # always says 0
    features, y = torch.tensor([[1.0, 2], [3, 4], [5, 6]]), torch.tensor([0, 1, 1])
    found = importance(features, y, weight, group="correct")
    assert found.rules == ("correct", "label", "undefined")
    assert found.counts.tolist() == [1, 2, 0]
    assert found.values[2].isnan().all()
    assert found.top[2].tolist() == [-1] * 5


def test_equal_importances_come_in_the_order_of_features():
    found = importance(torch.ones(4, 6), torch.zeros(4).long(), torch.ones(2, 6), keep=4)
    assert found.top[0].tolist() == [0, 1, 2, 3]


def test_known_predictions_are_used_as_they_are():
    said = torch.tensor([0, 1, 1, 1, 0])
    found = importance(R, Y, W, pred=said, keep=3)
    torch.testing.assert_close(found.values[0], tensor(1.5, -1, 1))  # images 0 and 4


def test_a_mapped_file_gives_what_memory_gives(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(spurious, "BLOCK", 7)
    features, y = mixed(100, 5, 4)
    np.save(tmp_path / "f.npy", features.half().numpy())
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    file, memory = (importance(x, y, weight) for x in (mapped, features.half()))
    torch.testing.assert_close(file.values, memory.values, rtol=1e-6, atol=1e-9)
    table = torch.tensor([[0, 1], [2, -1], [4, 3], [1, 1]])
    torch.testing.assert_close(
        own_columns(mapped, y, table), own_columns(features.half(), y, table), equal_nan=True
    )


def test_pages_of_a_mapped_file_are_let_go(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(spurious, "_HELD", 4)
    n, f = 40_000, 1024  # 80 MiB
    with (tmp_path / "f.npy").open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (n, f)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(n // 1000):
            file.write(np.ones((1000, f), np.float16).tobytes())
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")

    def held() -> int:
        text = Path("/proc/self/status").read_text().split("RssFile:")[1]
        return int(text.split()[0]) // 1024

    before = held()
    found = own_columns(mapped, torch.zeros(n).long(), torch.tensor([[3]]))
    assert bool((found == 1).all())
    assert held() - before < 30
    assert float(mapped[5].sum()) == f  # and can still be read


def test_labels_out_of_range_are_refused():
    with pytest.raises(DataError, match=r"labels must lie in 0\.\.1; found 0\.\.2"):
        importance(R, torch.tensor([0, 0, 1, 1, 2]), W)
    with pytest.raises(DataError, match="5 rows of 3 features, 4 labels"):
        importance(R, Y[:4], W)


# --- statistics


def test_moments_of_parts_add_up():
    a, b = (
        class_stats(torch.tensor(v)[:, None], torch.zeros(len(v)).long(), 1)
        for v in ([1.0, 2, 4], [3.0, 6])
    )
    both = a.merge(b)
    assert int(both.n) == 5
    assert float(both.mean) == pytest.approx(3.2)
    assert float(both.m2) == pytest.approx(14.8)
    assert float(both.std) == pytest.approx(1.720465, abs=1e-6)


def test_statistics_do_not_depend_on_the_blocks(monkeypatch):
    columns, y = mixed(500, 3, 4)
    whole = class_stats(columns, y, 4)
    monkeypatch.setattr(spurious, "BLOCK", 1)
    for got, expected in zip(class_stats(columns, y, 4), whole, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for c in range(4):
        torch.testing.assert_close(whole.std[c], columns[y == c].double().std(0, correction=0))


def test_small_deviations_of_large_values_survive():
    values = torch.linspace(1000, 1000.03, 4)[:, None]
    found = class_stats(values, torch.zeros(4).long(), 1)
    expected = float(values.double().var(correction=0))
    assert float(found.m2 / 4) == pytest.approx(expected, rel=1e-9)
    assert expected > 1e-4


# --- spuriosity


def test_spuriosity_by_hand():
    features = torch.tensor([[1.0, 10], [2, 10], [3, 40], [6, 20]])
    y = torch.zeros(4).long()
    s = spuriosity(features, y, {0: [0, 1]}, 1)
    torch.testing.assert_close(
        s, tensor(-0.942771, -0.675510, 0.816497, 0.801784), atol=1e-6, rtol=0
    )
    assert rank(s, y, 1).of(0).tolist() == [0, 1, 3, 2]
    assert rank(spuriosity(features, y, {0: [0]}, 1), y, 1).of(0).tolist() == [0, 1, 2, 3]
    assert float(s.mean()) == pytest.approx(0, abs=1e-12)
    assert float(s.var(correction=0)) == pytest.approx(0.663663, abs=1e-6)


def test_a_constant_feature_is_dropped():
    features = torch.tensor([[1.0, 5], [2, 5], [4, 5]])
    s = spuriosity(features, torch.zeros(3).long(), {0: [0, 1]}, 1)
    torch.testing.assert_close(s, tensor(-1.069045, -0.267261, 1.336306), atol=1e-6, rtol=0)


def test_a_class_with_constant_features_only_is_missing_and_not_zero():
    features = torch.tensor([[1.0, 5], [2, 5], [4, 5], [7, 1]])
    s = spuriosity(features, torch.tensor([0, 0, 0, 1]), {0: [1], 1: [0]}, 3)
    assert s.isnan().all()


def test_classes_without_spurious_features_are_missing():
    features, y = mixed(60, 4, 3)
    s = spuriosity(features, y, {1: {2}}, 3)
    assert torch.equal(s.isnan(), y != 1)


def test_a_feature_named_twice_counts_once():
    features, y = mixed(60, 4, 2)
    twice = spuriosity(features, y, {0: [1, 1, 2]}, 2)
    assert torch.equal(twice[y == 0], spuriosity(features, y, {0: [2, 1]}, 2)[y == 0])
    assert pair_table({0: [1, 1, 2], 2: [3]}, 3).tolist() == [[1, 2], [-1, -1], [3, -1]]


def test_scale_and_offset_of_a_feature_make_no_difference():
    features, y = mixed(80, 4, 2)
    known = {0: {0, 1}, 1: {2, 3}}
    other = features * torch.tensor([3.0, 0.1, 7, 2]) + torch.tensor([1.0, -5, 0, 100])
    torch.testing.assert_close(
        spuriosity(other, y, known, 2), spuriosity(features, y, known, 2), atol=1e-4, rtol=0
    )
    one = {0: {0}, 1: {2}}
    there, back = (rank(spuriosity(x, y, one, 2), y, 2) for x in (features, -features))
    for c in (0, 1):
        assert there.of(c).tolist() == back.of(c).tolist()[::-1]


def test_relabelling_images_permutes_the_ranking():
    features, y = mixed(80, 4, 2)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(3))
    s, moved = (spuriosity(features[i], y[i], {0: {0, 1}}, 2) for i in (torch.arange(80), order))
    torch.testing.assert_close(moved, s[order], equal_nan=True)


def test_small_classes_take_the_training_statistics():
    train, y_train = mixed(400, 3, 2, seed=1)
    features, y = mixed(100, 3, 2, seed=2)
    ids = torch.cat([(y == 0).nonzero()[:10, 0], (y == 1).nonzero()[:40, 0]])
    features, y = features[ids], y[ids]
    known = {0: [0, 1], 1: [0, 1]}
    own = spuriosity(features, y, known, 2)
    given = spuriosity(features, y, known, 2, train=(train, y_train))
    asked = spuriosity(features, y, known, 2, train=(train, y_train), stats_from="train")
    few = y == 0
    torch.testing.assert_close(given[few], asked[few])
    torch.testing.assert_close(given[~few], own[~few])
    assert not torch.allclose(given[few], own[few])
    mean, std = (
        train[y_train == 0].double().mean(0),
        train[y_train == 0].double().std(0, correction=0),
    )
    expected = ((features[few].double() - mean) / std)[:, :2].mean(1)
    torch.testing.assert_close(asked[few], expected)
    with pytest.raises(DataError, match="training images"):
        spuriosity(features, y, known, 2, stats_from="train")


@pytest.mark.parametrize(
    ("y", "named", "words"),
    [
        ([0, 1, 2], {0: [1]}, r"labels must lie in 0\.\.1; found 0\.\.2"),
        ([0, -1, 1], {0: [1]}, r"labels must lie in 0\.\.1; found -1\.\.1"),
        ([0, 1], {0: [1]}, "3 rows of features and 2 labels"),
        ([0, 1, 1], {2: [1]}, r"classes with spurious features must lie in 0\.\.1; found 2\.\.2"),
        ([0, 1, 1], {1: [0, 4]}, r"features of class 1 must lie in 0\.\.3; found 0\.\.4"),
        ([0, 1, 1], {1: iter([-1])}, r"features of class 1 must lie in 0\.\.3; found -1\.\.-1"),
    ],
)
def test_spuriosity_names_what_is_out_of_range(y, named, words):
    features = torch.rand(3, 4)
    with pytest.raises(DataError, match=words):
        spuriosity(features, torch.tensor(y), named, 2)
    known = torch.tensor([0, 1, 1])
    if words.startswith(("labels", "3")):
        with pytest.raises(DataError, match=words):
            spuriosity(features, known, named, 2, train=(features, torch.tensor(y)))
    assert spuriosity(features, known, {1: iter([0])}, 2)[1:].isfinite().all()


def test_chosen_columns_alone_count():
    columns, y = mixed(50, 3, 2)
    stats = class_stats(columns, y, 2)
    chosen = torch.tensor([[True, False, True], [False, False, False]])
    got = scores(columns, y, stats, chosen)
    expected = scores(columns[:, [0, 2]], y, class_stats(columns[:, [0, 2]], y, 2))
    torch.testing.assert_close(got[y == 0], expected[y == 0])
    assert got[y == 1].isnan().all()


def test_statistics_of_absent_classes():
    stats = class_stats(torch.rand(4, 2), torch.zeros(4).long(), 3)
    assert stats.n.tolist() == [4, 0, 0]
    assert varies(stats).tolist() == [[True, True], [False, False], [False, False]]
    same = statistics(stats, None)
    assert isinstance(same, Moments)
    assert same is stats
