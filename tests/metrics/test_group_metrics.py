"""Group counts and the metrics computed from them."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from fairlearn.metrics import MetricFrame
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats.contingency import association as scipy_association
from sklearn.metrics import accuracy_score, recall_score
from torch import Tensor

from truecue.errors import DataError
from truecue.metrics import groups
from truecue.metrics.groups import GroupCounts, group_counts, worst_group, worst_pooled

CLASSES, VALUES = 4, 3


def random_predictions(seed: int, n: int = 500) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions that are right about half of the time, labels, and values from -1 on."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (n,), generator=rng)
    values = torch.randint(-1, VALUES, (n,), generator=rng)
    guess = torch.randint(CLASSES, (n,), generator=rng)
    return torch.where(torch.rand(n, generator=rng) < 0.4, y, guess), y, values


def counts_of(hits: list[list[int]], total: list[list[int]]) -> GroupCounts:
    return GroupCounts(torch.tensor(hits), torch.tensor(total))


def count(pred: Tensor, y: Tensor, values: Tensor) -> GroupCounts:
    return group_counts(pred, y, values, n_classes=CLASSES, n_values=VALUES)


def count_slowly(pred: Tensor, y: Tensor, values: Tensor) -> GroupCounts:
    hits, total = (torch.zeros(CLASSES, VALUES, dtype=torch.int64) for _ in range(2))
    for p, label, value in zip(pred.tolist(), y.tolist(), values.tolist(), strict=True):
        if value >= 0:
            total[label, value] += 1
            hits[label, value] += p == label
    return GroupCounts(hits, total)


def same(a: GroupCounts, b: GroupCounts) -> bool:
    return torch.equal(a.hits, b.hits) and torch.equal(a.total, b.total)


# cells [[.9, .2], [.4, .8]], few samples off the diagonal
SPEC = counts_of([[81, 2], [4, 72]], [[90, 10], [10, 90]])
HOLES = counts_of([[3, 0, 1], [0, 0, 0]], [[4, 0, 2], [0, 5, 0]])
EMPTY = counts_of([[0, 0]], [[0, 0]])


# --- counting


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_a_loop_over_samples(seed):
    data = random_predictions(seed)
    found = count(*data)
    assert same(found, count_slowly(*data))
    assert found.hits.dtype == found.total.dtype == torch.int64
    assert int(found.total.sum()) == int((data[2] >= 0).sum()) < 500


def test_counts_of_nothing_and_of_unknown_values_only():
    nothing = torch.zeros(0, dtype=torch.int64)
    unknown = torch.full((3,), -1)
    right = torch.tensor([0, 1, 2])
    for found in (count(nothing, nothing, nothing), count(right, right, unknown)):
        assert found.total.shape == (CLASSES, VALUES)
        assert not found.hits.any()
        assert not found.total.any()


def test_a_prediction_outside_the_classes_is_wrong():
    y = torch.tensor([3, 3])
    found = count(torch.tensor([-1, 9]), y, torch.zeros_like(y))
    assert found.total[3].tolist() == [2, 0, 0]
    assert not found.hits.any()


samples = st.lists(
    st.tuples(
        st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1), st.integers(-1, VALUES - 1)
    ),
    max_size=40,
)


def columns(rows: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).unbind(1))


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(rows, random):
    shuffled = rows.copy()
    random.shuffle(shuffled)
    assert same(count(*columns(rows)), count(*columns(shuffled)))


@given(samples, st.integers(0, 40))
def test_counts_of_shards_add_up(rows, cut):
    whole = count(*columns(rows))
    parts = count(*columns(rows[:cut])) + count(*columns(rows[cut:]))
    assert isinstance(parts, GroupCounts)
    assert same(whole, parts)


@given(samples, st.permutations(range(CLASSES)), st.permutations(range(VALUES)))
def test_renaming_classes_and_values_permutes_the_table(rows, classes, values):
    found = count(*columns(rows))
    renamed = [(classes[p], classes[y], values[a] if a >= 0 else -1) for p, y, a in rows]
    moved = count(*columns(renamed))
    assert torch.equal(moved.total[classes][:, values], found.total)
    assert torch.equal(moved.hits[classes][:, values], found.hits)


@pytest.mark.parametrize(
    ("pred", "y", "values", "text"),
    [
        ([0], [0, 1], [0, 0], "one length"),
        ([[0]], [[0]], [[0]], "one length"),
        ([0], [4], [0], "every label must lie in 0..3; found 4..4"),
        ([0], [-1], [0], "every label"),
        ([0], [0], [3], "every attribute value must lie in -1..2"),
        ([0], [0], [-2], "every attribute value"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(pred, y, values, text):
    with pytest.raises(DataError, match=text):
        count(torch.tensor(pred), torch.tensor(y), torch.tensor(values))


def test_counts_of_other_shapes_do_not_add():
    with pytest.raises(DataError, match="the other counts"):
        _ = SPEC + HOLES
    with pytest.raises(TypeError):
        _ = SPEC + SPEC.hits.tolist()


def test_counting_is_fast():
    rng = torch.Generator().manual_seed(0)
    pred, y, values = (torch.randint(10, (20_000,), generator=rng) for _ in range(3))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        group_counts(pred, y, values, n_classes=10, n_values=10)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.005


@pytest.mark.gpu
def test_counts_on_a_gpu_equal_those_on_the_cpu():
    data = random_predictions(0)
    found = count(*(part.cuda() for part in data))
    assert found.total.is_cuda
    assert same(count(*data), GroupCounts(found.hits.cpu(), found.total.cpu()))
    mask = groups.aligned_cells(found.total)
    assert mask.is_cuda
    assert groups.aligned(found, mask) == groups.aligned(count(*data), mask.cpu())
    assert groups.worst_group(found) == groups.worst_group(count(*data))


# --- metrics, by hand


def test_specified_values():
    mask = torch.eye(2, dtype=torch.bool)
    assert groups.aligned(SPEC, mask) == pytest.approx(0.85)
    assert groups.conflicting(SPEC, mask) == pytest.approx(0.30)
    assert groups.unbiased(SPEC) == pytest.approx(0.575)
    assert groups.average(SPEC) == pytest.approx(0.795)
    assert groups.worst_group(SPEC) == pytest.approx(0.2)
    assert groups.worst_class(SPEC) == pytest.approx(0.76)
    assert groups.class_accuracy(SPEC).tolist() == pytest.approx([0.83, 0.76])


def test_empty_cells_are_left_out_of_means_and_shown_as_nan():
    accuracy = groups.cell_accuracy(HOLES)
    assert accuracy.dtype == torch.float64
    assert accuracy.isnan().tolist() == [[False, True, False], [True, False, True]]
    assert groups.unbiased(HOLES) == pytest.approx((0.75 + 0.5 + 0) / 3)
    mask = torch.tensor([[True, True, False], [False, False, True]])
    assert groups.aligned(HOLES, mask) == 0.75
    assert groups.conflicting(HOLES, mask) == pytest.approx(0.25)
    assert groups.worst_group(HOLES) == 0
    assert groups.worst_class(counts_of([[0, 0], [1, 2]], [[0, 0], [4, 4]])) == 0.375


@pytest.mark.parametrize(
    "metric", [groups.average, groups.unbiased, groups.worst_group, groups.worst_class]
)
def test_metrics_of_no_sample_are_nan(metric):
    assert math.isnan(metric(EMPTY))


def test_means_over_no_cell_are_nan():
    assert math.isnan(groups.aligned(SPEC, torch.zeros(2, 2, dtype=torch.bool)))
    assert math.isnan(groups.conflicting(SPEC, torch.ones(2, 2, dtype=torch.bool)))
    assert math.isnan(groups.aligned(EMPTY, torch.ones(1, 2, dtype=torch.bool)))
    assert groups.class_accuracy(EMPTY).isnan().all()


def test_small_groups_are_not_judged():
    assert groups.worst_group(SPEC, at_least=10) == pytest.approx(0.2)
    assert groups.worst_group(SPEC, at_least=11) == pytest.approx(0.8)
    assert math.isnan(groups.worst_group(SPEC, at_least=91))
    assert groups.worst_group(HOLES, at_least=0) == 0


@pytest.mark.parametrize("metric", [groups.aligned, groups.conflicting])
@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (torch.tensor([True, False]), "shape"),
        (torch.tensor([[True, False]]), "shape"),
        (torch.eye(2, dtype=torch.int64), "must be bool"),
    ],
)
def test_masks_that_do_not_fit_are_refused(metric, mask, text):
    with pytest.raises(DataError, match=text):
        metric(SPEC, mask)


def test_adjusting_to_training_proportions():
    # the training counts of Waterbirds
    weights = torch.tensor([[3498, 184], [56, 1057]])
    by_hand = (0.9 * 3498 + 0.2 * 184 + 0.4 * 56 + 0.8 * 1057) / 4795
    assert groups.adjusted_to(SPEC, weights) == pytest.approx(by_hand)
    assert groups.adjusted_to(SPEC, weights / 4795) == pytest.approx(by_hand)
    assert groups.adjusted_to(SPEC, SPEC.total) == pytest.approx(groups.average(SPEC))
    assert groups.adjusted_to(SPEC, torch.ones(2, 2)) == pytest.approx(groups.unbiased(SPEC))


def test_adjusting_leaves_empty_cells_out():
    weights = torch.tensor([[1.0, 100.0, 3.0], [100.0, 0.0, 100.0]])
    assert groups.adjusted_to(HOLES, weights) == pytest.approx((0.75 + 3 * 0.5) / 4)
    assert math.isnan(groups.adjusted_to(HOLES, torch.zeros(2, 3)))
    with pytest.raises(DataError, match="shape"):
        groups.adjusted_to(HOLES, torch.ones(3))
    with pytest.raises(DataError, match="negative"):
        groups.adjusted_to(HOLES, -torch.ones(2, 3))


# --- metrics, against other libraries


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_fairlearn_and_sklearn(seed):
    pred, y, values = random_predictions(seed)
    c = count(pred, y, values)
    known = values >= 0
    pred, y, values = (part[known].numpy() for part in (pred, y, values))
    frame = MetricFrame(
        metrics=accuracy_score,
        y_true=y,
        y_pred=pred,
        sensitive_features={"class": y, "value": values},
    )
    table = frame.by_group.unstack().to_numpy()
    np.testing.assert_allclose(groups.cell_accuracy(c).numpy(), table, rtol=1e-12)
    assert groups.average(c) == pytest.approx(frame.overall)
    assert groups.worst_group(c) == pytest.approx(frame.group_min())
    recalls = recall_score(y, pred, average=None)
    np.testing.assert_allclose(groups.class_accuracy(c).numpy(), recalls, rtol=1e-12)
    assert groups.worst_class(c) == pytest.approx(recalls.min())

    mask = torch.rand(CLASSES, VALUES, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert groups.unbiased(c) == pytest.approx(table.mean())
    assert groups.aligned(c, mask) == pytest.approx(table[mask.numpy()].mean())
    assert groups.conflicting(c, mask) == pytest.approx(table[~mask.numpy()].mean())


# --- which cells are aligned, and how strongly


def test_aligned_cells_hold_more_than_independence_gives():
    waterbirds = torch.tensor([[3498, 184], [56, 1057]])
    assert groups.aligned_cells(waterbirds).tolist() == [[True, False], [False, True]]
    assert not groups.aligned_cells(torch.full((3, 3), 7)).any()
    # a rare value counts as aligned with the class it is over-represented in
    skewed = torch.tensor([[90, 10], [99, 1]])
    assert groups.aligned_cells(skewed).tolist() == [[False, True], [True, False]]


def test_association_at_its_ends():
    assert groups.association(torch.eye(4, dtype=torch.int64) * 5) == pytest.approx(1)
    assert groups.association(torch.tensor([[10, 20, 30], [1, 2, 3]])) == pytest.approx(0, abs=1e-7)
    # three values, two classes, each value in one class only
    assert groups.association(torch.tensor([[5, 0, 7], [0, 9, 0]])) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_association_equals_scipy(seed):
    table = torch.randint(1, 60, (3, 5), generator=torch.Generator().manual_seed(seed))
    assert groups.association(table) == pytest.approx(scipy_association(table.numpy()))
    assert groups.association(table.T) == pytest.approx(groups.association(table))


def test_association_ignores_levels_that_do_not_occur():
    table = torch.tensor([[30, 5], [4, 20]])
    wider = torch.tensor([[30, 0, 5], [0, 0, 0], [4, 0, 20]])
    assert groups.association(wider) == pytest.approx(groups.association(table))


@pytest.mark.parametrize("table", [[[3, 4]], [[3], [4]], [[3, 0], [4, 0]], [[0, 0], [0, 0]]])
def test_association_needs_two_levels_on_both_sides(table):
    assert math.isnan(groups.association(torch.tensor(table)))


# --- small groups put together ------------------------------------------------------------------


def counts_of(hits: list[list[int]], total: list[list[int]]) -> GroupCounts:
    return GroupCounts(torch.tensor(hits), torch.tensor(total))


def test_pooled_worst_group_is_the_worst_group_where_all_are_large() -> None:
    c = counts_of([[9, 2], [4, 8]], [[10, 10], [10, 10]])
    mask = torch.eye(2, dtype=torch.bool)
    assert worst_pooled(c, mask) == worst_group(c) == 0.2


def test_small_conflicting_cells_of_a_class_are_one_group() -> None:
    eye = torch.eye(3, dtype=torch.bool)
    #        class 0: 3 + 3 images, 2 right; class 1: 2 + 2, class 2: 1 + 0, together 5, 4 right
    c = counts_of([[50, 2, 0], [2, 50, 1], [1, 0, 50]], [[50, 3, 3], [2, 50, 2], [1, 0, 50]])
    assert worst_pooled(c, eye) == pytest.approx(2 / 6)
    better = counts_of([[50, 3, 3], [2, 50, 1], [1, 0, 50]], [[50, 3, 3], [2, 50, 2], [1, 0, 50]])
    assert worst_pooled(better, eye) == pytest.approx(4 / 5)


def test_a_rest_that_is_small_counts_only_where_there_is_nothing_else_on_its_side() -> None:
    eye = torch.eye(2, dtype=torch.bool)
    alone = counts_of([[50, 0], [0, 50]], [[50, 1], [1, 50]])
    assert worst_pooled(alone, eye) == 0
    beside = counts_of([[50, 6], [0, 50]], [[50, 8], [1, 50]])
    assert worst_pooled(beside, eye) == pytest.approx(6 / 8)
    assert math.isnan(worst_pooled(counts_of([[0, 0]] * 2, [[0, 0]] * 2), eye))
