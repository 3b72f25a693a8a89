"""Ranked strips, and figures of scores, gaps, agreement and repair."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

from truecue.data.sets import ImageSet
from truecue.errors import DataError
from truecue.report import ranked
from truecue.report.gaps import (
    MOST_BARS,
    Repair,
    agreement_map,
    ends_scatter,
    gap_bars,
    repair_arrows,
)
from truecue.report.ranked import accuracy_by_rank, ranked_strip, score_histogram
from truecue.report.sheet import Caption

NAN = float("nan")


def words(svg: str) -> list[str]:
    """What is written in a figure; it must be well-formed."""
    root = ET.fromstring(svg)
    return [t for e in root.iter() if e.tag.endswith("text") and (t := "".join(e.itertext()))]


@pytest.fixture
def images() -> ImageSet:
    x = (torch.arange(30) * 8).to(torch.uint8)[:, None, None, None].expand(30, 3, 8, 8)
    return ImageSet(x.contiguous(), torch.arange(30) % 3, ("ape", "bee", "cow"))


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What `sheet` is called with, in order."""
    calls: list[tuple] = []
    real = ranked.sheet

    def note(x, rows, columns, **others):
        calls.append((x, rows, others["captions"]))
        return real(x, rows, columns, **others)

    monkeypatch.setattr(ranked, "sheet", note)
    return calls


def test_a_strip_has_both_ends(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = drawn(monkeypatch)
    order = torch.tensor([9, 0, 3, 27, 6, 12, 15, 18, 21, 24])
    s = torch.full((30,), NAN)
    s[order] = torch.linspace(-1, 1.25, 10)
    predicted = torch.zeros(30, dtype=torch.int64)
    predicted[0] = predicted[24] = 2
    made = ranked_strip(images, order, s, predicted, k=3)
    ((x, rows, captions),) = calls
    assert x[:, :, 0, 0, 0].tolist() == [[72, 0, 24], [144, 168, 192]]
    assert rows == ("least spurious", "most spurious")
    assert captions[0][0] == Caption(("s = -1.00", "rank 1", "ape"), True)
    assert captions[0][1] == Caption(("s = -0.75", "rank 2", "cow"), False)
    assert captions[1][0] == Caption(("s = 0.75", "rank 8", "ape"), True)
    assert captions[1][2] == Caption(("s = 1.25", "rank 10", "cow"), False)
    assert Image.open(io.BytesIO(made)).format == "WEBP"


def test_ends_of_a_strip_never_overlap(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = drawn(monkeypatch)
    order, s = torch.tensor([4, 7, 1, 10, 13]), torch.zeros(30)
    ranked_strip(images, order, s)
    assert calls[0][0][:, :, 0, 0, 0].tolist() == [[32, 56], [80, 104]]
    assert calls[0][2][1][1] == Caption(("s = 0.00", "rank 5"))
    with pytest.raises(DataError, match="needs two images of a class; this one has 1"):
        ranked_strip(images, order[:1], s)
    with pytest.raises(DataError, match="no spuriosity score"):
        ranked_strip(images, order, s * NAN)


def test_histogram_of_scores() -> None:
    written = words(score_histogram(torch.arange(100.0), 10))
    assert "low 10" in written
    assert "high 10" in written
    assert "low 2" in words(score_histogram(torch.arange(5.0), 10))
    flat = words(score_histogram(torch.zeros(1), 10))
    assert not any(word.startswith("low") for word in flat)
    for bad in (torch.zeros(0), torch.tensor([1.0, NAN])):
        with pytest.raises(DataError, match="finite"):
            score_histogram(bad, 3)


def shaded(svg: str, colour: str) -> list[tuple[float, float]]:
    """From where to where shapes of a colour reach, sideways."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*style="[^"]*fill: {colour}', svg)
    spans = []
    for path in paths:
        xs = [float(x) for x in re.findall(r"[ML] ([-\d.]+) ", path)]
        spans.append((min(xs), max(xs)))
    return spans


def test_shaded_ends_are_where_the_scores_are() -> None:
    svg = score_histogram(torch.arange(101.0), 11)
    ((low, low_end),) = shaded(svg, ranked.LOW)
    ((high, high_end),) = shaded(svg, ranked.HIGH)
    # 0 to 10 and 90 to 100, on one scale
    assert low_end - low == pytest.approx(high_end - high, rel=1e-3)
    assert (high - low_end) / (low_end - low) == pytest.approx(8, rel=1e-3)


def test_bars_are_sorted_and_named() -> None:
    names = ["up", "down", "none", "<b>&"]
    gaps = np.array([0.1, -0.2, NAN, 0.4])
    svg = gap_bars(names, gaps, gaps - 0.1, gaps + 0.1, (-0.1, 0.1))
    written = [word for word in words(svg) if word in names]
    assert written == ["<b>&", "up", "down"]
    assert "<b>" not in svg
    positive, hatched = shaded(svg, "#b24a10"), shaded(svg, "url")
    lengths = [right - left for left, right in positive]
    assert len(positive) == 2
    assert lengths[0] == pytest.approx(4 * lengths[1], rel=1e-3)
    ((_, right),) = hatched  # a negative gap is told by more than its colour
    assert right == pytest.approx(positive[0][0])
    ((band_left, band_right),) = shaded(svg, "#e4e7ec")
    assert band_right - band_left == pytest.approx(2 * lengths[1], rel=1e-3)


def test_many_bars_keep_both_ends() -> None:
    n = MOST_BARS + 20
    gaps = np.linspace(0.5, -0.5, n)
    written = words(gap_bars([f"c{i}" for i in range(n)], gaps))
    shown = [word for word in written if word.startswith("c")]
    assert len(shown) == MOST_BARS
    assert shown[0] == "c0"
    assert shown[-1] == f"c{n - 1}"
    with pytest.raises(DataError, match="none has a spurious feature"):
        gap_bars(["a"], np.array([NAN]))
    with pytest.raises(DataError, match="numbers of classes differ or are 0: 2, 1"):
        gap_bars(["a", "b"], np.array([0.1]))


def test_scatter_of_models() -> None:
    high = np.array([0.9, 0.8, 0.7, 0.6])
    low = np.array([0.7, 0.65, 0.5, 0.45])
    svg = ends_scatter(low, high, ["cnn", "cnn", "vit", "vit"], (0.9, -0.1))
    assert {"equal", "fitted", "cnn", "vit"} <= set(words(svg))
    assert "fitted" not in words(ends_scatter(low, high, ["a"] * 4))
    assert svg == ends_scatter(low, high, ["cnn", "cnn", "vit", "vit"], (0.9, -0.1))
    with pytest.raises(DataError, match="numbers of models"):
        ends_scatter(low, high, ["a"] * 3)
    words(ends_scatter(low * NAN, high * NAN, ["a"] * 4))


def test_agreement_of_models() -> None:
    r = np.array([[1, 0.905822, NAN], [0.905822, 1, -0.593], [NAN, -0.593, 1]])
    written = words(agreement_map(["one", "two", "犬"], r))
    assert written.count("0.91") == 2
    assert written.count("-0.59") == 2
    assert written.count("–") == 2
    assert written.count("犬") == 2
    many = words(agreement_map([f"m{i}" for i in range(15)], np.eye(15)))
    assert "1.00" not in many  # no room for numbers
    with pytest.raises(DataError, match=r"3 models and a table of \[2, 2\]"):
        agreement_map(["a", "b", "c"], np.eye(2))


def test_repairs_and_ranks() -> None:
    moves = [Repair("low-spuriosity", (0.76, 0.74), (0.17, 0.03)),
             Repair("random", (0.76, 0.77), (0.17, 0.16))]  # fmt: skip
    assert {"low-spuriosity", "random"} <= set(words(repair_arrows(moves)))
    with pytest.raises(DataError, match="no repair"):
        repair_arrows([])
    curves = {"before": torch.linspace(0.4, 0.9, 20), "after": torch.full((20,), NAN)}
    assert {"before", "after"} <= set(words(accuracy_by_rank(curves, 0.1)))
    words(accuracy_by_rank({}))
