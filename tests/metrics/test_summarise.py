"""The summary of a table of groups."""

from __future__ import annotations

import math

import pytest
import torch

from truecue.errors import ConfigError, DataError
from truecue.metrics import groups
from truecue.metrics.groups import GroupCounts
from truecue.metrics.intervals import mean_of_cells, wilson
from truecue.metrics.summary import summarise

SPEC = GroupCounts(torch.tensor([[81, 2], [4, 72]]), torch.tensor([[90, 10], [10, 90]]))
MASK = torch.eye(2, dtype=torch.bool)


def test_every_entry_and_its_interval():
    assert summarise(SPEC, MASK) == {
        "average": wilson(159, 200),
        "unbiased": mean_of_cells(SPEC.hits, SPEC.total),
        "aligned": mean_of_cells(torch.tensor([81, 72]), torch.tensor([90, 90])),
        "conflicting": mean_of_cells(torch.tensor([2, 4]), torch.tensor([10, 10])),
        "worst_group": wilson(2, 10),
        "worst_class": wilson(76, 100),
    }


@pytest.mark.parametrize("seed", range(5))
def test_values_equal_the_metrics(seed):
    rng = torch.Generator().manual_seed(seed)
    total = torch.randint(0, 8, (3, 4), generator=rng)
    hits = (total * torch.rand(3, 4, generator=rng)).round().long()
    c, mask = GroupCounts(hits, total), torch.rand(3, 4, generator=rng) < 0.4
    found = summarise(c, mask, at_least=2)
    expected = {
        "average": groups.average(c),
        "unbiased": groups.unbiased(c),
        "aligned": groups.aligned(c, mask),
        "conflicting": groups.conflicting(c, mask),
        "worst_group": groups.worst_group(c, at_least=2),
        "worst_class": groups.worst_class(c),
    }
    assert {name: e.value for name, e in found.items()} == pytest.approx(expected, nan_ok=True)
    for e in found.values():
        assert math.isnan(e.value) or 0 <= e.low <= e.value <= e.high <= 1


def test_entries_without_samples_are_nan():
    c = GroupCounts(torch.tensor([[3, 0], [0, 4]]), torch.tensor([[5, 0], [0, 4]]))
    found = summarise(c, MASK, at_least=6)
    for name in ("conflicting", "worst_group"):
        assert found[name].to_dict() == {"value": None, "low": None, "high": None, "n": 0}
    assert found["aligned"].value == pytest.approx(0.8)
    assert found["unbiased"] == found["aligned"]
    none = summarise(GroupCounts(0 * c.hits, 0 * c.total), MASK)
    assert all(math.isnan(e.value) and e.n == 0 for e in none.values())


def test_of_equally_bad_groups_the_smaller_one_is_reported():
    c = GroupCounts(torch.tensor([[20, 1], [40, 30]]), torch.tensor([[40, 2], [80, 40]]))
    assert summarise(c, MASK)["worst_group"] == wilson(1, 2)
    assert summarise(c, MASK, at_least=3)["worst_group"] == wilson(20, 40)


def test_a_higher_level_is_wider():
    narrow, wide = summarise(SPEC, MASK, level=0.8), summarise(SPEC, MASK, level=0.99)
    for name, e in narrow.items():
        assert wide[name].low < e.low < e.value < e.high < wide[name].high


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="mask of aligned cells"):
        summarise(SPEC, MASK[:1])
    with pytest.raises(ConfigError, match="confidence level"):
        summarise(SPEC, MASK, level=1)
