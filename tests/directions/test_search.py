"""Scores of real images, retrieval by them, and re-scoring by other models' attributes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from direction_parts import broken_far_out, cpu, made_by
from torch.overrides import TorchFunctionMode

from truecue.data.sets import ImageSet
from truecue.directions.judge import guessed
from truecue.directions.rescore import compare, rescore
from truecue.directions.search import (
    Index,
    by_class,
    generated,
    load_index,
    retrieve,
    score,
)
from truecue.errors import ConfigError, DataError
from truecue.nets.generator import as_uint8
from truecue.nets.scorer import Reconstructor, Scorer, load_scorer, save_scorer

POOL = torch.tensor([0.31, -0.2, 0.28, 0.9, 0.3])[:, None]


def test_retrieval_of_given_scores() -> None:
    order, distance = retrieve(POOL, torch.tensor([[0.3]]), [0], top=6)
    assert order.tolist() == [[4, 0, 2, 1, 3]]  # all of a pool of five
    assert distance[0].tolist() == pytest.approx([0, 0.01, 0.02, 0.5, 0.6], abs=1e-6)
    ties, _ = retrieve(torch.tensor([[1.0], [0], [1], [0]]), torch.tensor([[0.5]]), [0], top=4)
    assert ties.tolist() == [[0, 1, 2, 3]]


def test_several_directions_add_up() -> None:
    pool = torch.tensor([[0.0, 0, 9], [1, 1, 0], [3, 0, 0]])
    order, distance = retrieve(pool, torch.zeros(1, 3), [0, 1])
    assert order.tolist() == [[0, 1, 2]]
    assert distance.tolist() == [[0, 2, 3]]
    with pytest.raises(ConfigError, match="at least one direction"):
        retrieve(pool, pool, [])


def test_calibrated_scores_have_one_scale(tmp_path: Path) -> None:
    raw = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 99])
    index = Index(torch.cat([raw, torch.ones(50, 1)], 1), ("pose", "age", "flat"))
    torch.testing.assert_close(index.calibrated[:, :2].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(index.calibrated[:, :2].std(0, unbiased=False), torch.ones(2))
    assert index.calibrated[:, 2].abs().max() == 0
    torch.testing.assert_close(index.standardise(index.scores[:3]), index.calibrated[:3])
    index.save(tmp_path)
    read = load_index(tmp_path)
    assert torch.equal(read.scores, index.scores)
    assert read.names == index.names
    assert read.columns(["age", "pose"]) == [1, 0]
    with pytest.raises(ConfigError, match="no direction 'smile'; the directions are pose, age"):
        read.columns(["smile"])
    with pytest.raises(DataError, match="holds no scores that can be read"):
        load_index(tmp_path / "nowhere")
    (tmp_path / "scores.npy").write_bytes(b"")
    with pytest.raises(DataError, match="holds no scores that can be read"):
        load_index(tmp_path)


def test_retrieval_by_a_direction_that_knows_the_class_beats_chance() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 4
    scores = torch.stack([y + 0.1 * torch.randn(200, generator=rng),
                          torch.randn(200, generator=rng)], 1)  # fmt: skip
    told = by_class(Index(scores, ("class", "noise")), [0, 1], y, scores[:, :1])
    knows, noise, together, pixels = told["directions"]
    assert pixels == knows | {"name": "pixels"}  # the same numbers under another name
    assert knows["precision"] > 0.95
    assert knows["average_precision"] > 0.95
    assert noise["precision"] == pytest.approx(told["chance"], abs=0.1)
    assert noise["precision"] < together["precision"] <= knows["precision"]
    assert told["chance"] == pytest.approx(49 / 199)
    uneven = by_class(Index(scores[:4], ("class", "noise")), [0], torch.tensor([2, 2, 0, 2]))
    assert uneven["chance"] == pytest.approx((3 * 2 + 0) / 4 / 3)
    with pytest.raises(DataError, match="there is one image"):
        by_class(Index(scores[:1], ("class", "noise")), [0], y[:1])


def test_chance_of_many_images_takes_no_table_of_all_pairs(monkeypatch) -> None:
    n, asked = 30_000, []
    monkeypatch.setattr("truecue.directions.search._near", lambda *_: {"precision": 0.0})

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                asked.append(made.numel())
            return made

    index = Index(torch.zeros(n, 1), ("flat",))
    with Watch():
        told = by_class(index, [0], torch.arange(n) % 3)
    assert told["chance"] == pytest.approx((n / 3 - 1) / (n - 1))
    assert max(asked) == n


def test_directions_that_the_scorer_guesses_are_marked_and_not_taken_together(
    tmp_path: Path,
) -> None:
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(60, 3, generator=rng)
    y = (scores[:, 0] > 0).long()
    Index(scores, ("a", "b", "c"), guessed=("b",)).save(tmp_path)
    index = load_index(tmp_path)
    assert index.known() == ("a", "c")
    told = by_class(index, [0, 1, 2], y)["directions"]
    rows = {row["name"]: row for row in told}
    assert {name for name, row in rows.items() if row["at_chance"]} == {"b"}
    without = by_class(Index(scores[:, [0, 2]], ("a", "c")), [0, 1], y)["directions"]
    assert rows["together"] == without[-1]
    assert [row["name"] for row in by_class(index, [0, 1], y)["directions"]] == ["a", "b"]
    with pytest.raises(ConfigError, match="at chance for every direction"):
        Index(scores, ("a", "b", "c"), guessed=("a", "b", "c")).known()


def test_an_index_is_searched_with_the_images_that_were_scored(tmp_path: Path) -> None:
    pixels = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(-1, 3, 12, 12)
    images = ImageSet(
        pixels.contiguous(), torch.tensor([0, 1] * 3), ("x", "y"), names=tuple("abcdef")
    )
    score(Scorer("small", (3, 12, 12), 2).eval(), images, cpu()).save(tmp_path)
    index = load_index(tmp_path)
    index.check_images(images)
    with pytest.raises(DataError, match="scores of 6 images, and these are 4; give the data"):
        index.check_images(images.select(torch.arange(4)))
    for other in (images.select(torch.arange(6).flip(0)), replace(images, y=1 - images.y),
                  replace(images, images=images.images + 1)):  # fmt: skip
        with pytest.raises(DataError, match="not the same ones in the same order"):
            index.check_images(other)
    nameless = replace(index, digest="")
    nameless.check_images(replace(images, images=images.images + 1))
    with pytest.raises(DataError, match="not the same ones in the same order"):
        nameless.check_images(images.select(torch.arange(6).flip(0)))


def test_a_scorer_knows_what_it_guesses() -> None:
    net = Scorer("small", (3, 12, 12), 3).eval()
    assert guessed(net) == ()
    net.spec["extra"] = {"names": ["a", "b", "c"], "ranked_right": [0.9, 0.51, 0.6], "pairs": 1024}
    assert guessed(net) == ("b",)
    images = ImageSet(torch.zeros(4, 3, 12, 12, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]),
                      ("x", "y"))  # fmt: skip
    index = score(net, images, cpu())
    assert (index.names, index.guessed) == (("a", "b", "c"), ("b",))
    net.spec["extra"]["pairs"] = 10
    assert guessed(net) == ("a", "b", "c")


# --- scorers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["resnet18", "small"])
def test_scorers_and_their_files(arch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Scorer(arch, (3, 13, 13), 1).eval()
    assert net(torch.randn(1, 3, 13, 13)).shape == (1, 1)  # nothing is squeezed away
    if arch == "small":
        save_scorer(net, tmp_path, {"names": ["size"]})
        read = load_scorer(tmp_path)
        x = torch.randn(4, 3, 13, 13)
        assert torch.equal(read(x), net(x))
        assert read.spec["extra"] == {"names": ["size"]}


@pytest.mark.parametrize(
    ("entry", "value"),
    [("shape", None), ("shape", [3, 8]), ("shape", [3, -8, 8]), ("shape", ["a", 8, 8]),
     ("n_classes", -1)],
)  # fmt: skip
def test_a_damaged_card_of_a_scorer_is_explained(entry: str, value, tmp_path: Path) -> None:
    save_scorer(Scorer("small", (3, 8, 8), 2), tmp_path)
    card = tmp_path / "scorer.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {entry: value}))
    with pytest.raises(DataError, match=r"scorer\.json does not describe a scorer \(shape"):
        load_scorer(tmp_path)
    card.write_text(json.dumps({k: v for k, v in json.loads(card.read_text()).items()
                                if k != "shape"}))  # fmt: skip
    with pytest.raises(DataError, match=r"does not describe a scorer \(shape None"):
        load_scorer(tmp_path)


def test_networks_that_there_are_not_are_refused() -> None:
    with pytest.raises(ConfigError, match="a scorer's network is resnet18 or small; got 'smal'"):
        Scorer("smal", (3, 8, 8), 2)
    with pytest.raises(ConfigError, match="network is resnet18 or lenet; got 'small'"):
        Reconstructor("small", 3, 2)


def test_real_images_are_scored_like_generated_ones() -> None:
    torch.manual_seed(0)
    net = Scorer("small", (3, 12, 12), 2).eval()
    made = torch.rand(4, 3, 12, 12) * 2 - 1
    bytes_ = as_uint8(made)
    torch.testing.assert_close(net.score(bytes_), net(made), atol=0.02, rtol=0)
    torch.testing.assert_close(net.score(bytes_), net(bytes_ / 127.5 - 1))
    grey = bytes_[:, :1]
    torch.testing.assert_close(net.score(grey), net.score(grey.expand(-1, 3, -1, -1)))
    large = bytes_.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert net.score(large).shape == (4, 2)
    one = Scorer("small", (1, 12, 12), 2).eval()
    mean = bytes_.float().mean(1, keepdim=True) / 127.5 - 1
    torch.testing.assert_close(one.score(bytes_), one(mean))
    with pytest.raises(DataError, match="images of 3 channels; these have 2"):
        net.score(bytes_[:, :2])
    images = ImageSet(bytes_, torch.tensor([0, 1, 0, 1]), ("a", "b"))
    index = score(net, images, cpu(), ["x", "y"])
    torch.testing.assert_close(index.scores, net.score(bytes_).detach())


def test_scores_of_generated_images() -> None:
    generator = made_by(lambda z: z[:, :1, None, None].sigmoid().expand(-1, 1, 12, 12))
    net = Scorer("small", (1, 12, 12), 2).eval()
    found = generated(net.score, generator, n=300)
    assert found.shape == (300, 2)
    assert torch.equal(found, generated(net.score, generator, n=300))
    with pytest.raises(DataError, match="not finite for codes drawn with seed 4; mend"):
        generated(net.score, broken_far_out(), n=300, seed=4)


# --- re-scoring ---------------------------------------------------------------------------------


def test_rescoring_of_given_probabilities() -> None:
    before = torch.tensor([0.2, 0.5, 0.9])[:, None]
    after = torch.tensor([[0.6, 0.4, 0.9], [0.2, 0.9, 1.0]])[..., None]
    made = compare(before, after, 1.0)
    torch.testing.assert_close(made.shift, torch.tensor([[0.1], [0.166667]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(made.change, torch.full((2, 1), 0.166667), atol=1e-6, rtol=0)
    torch.testing.assert_close(made.reached, torch.full((2, 1), 0.666667), atol=1e-6, rtol=0)


def test_rescoring_of_a_generator() -> None:
    # brightness of the left and of the right half, by one number each
    generator = made_by(
        lambda z: z.sigmoid()[:, None, None, :].repeat_interleave(2, 3).expand(-1, 1, 4, -1)
    )

    def halves(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[..., :2].float().mean((1, 2, 3)), x[..., 2:].float().mean((1, 2, 3))],
                           1) / 255  # fmt: skip

    made = rescore(generator, torch.eye(2), 2.0, halves, n=64)
    assert made.shift.shape == (2, 2)
    assert bool((made.shift.diagonal() > 0.2).all())
    assert made.shift[0, 1] == 0
    assert made.to_dict()["step"] == 2
    with pytest.raises(DataError, match="attributes must be probabilities"):
        rescore(generator, torch.eye(2), 2.0, lambda x: halves(x) * 9, n=8)
