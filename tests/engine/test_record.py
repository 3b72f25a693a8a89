from __future__ import annotations

import pytest
import torch
from engine_parts import cpu

from truecue.engine.record import KEY, Recorder, candidates, fingerprint, packed, unpacked
from truecue.testing import small_gratings


@pytest.mark.parametrize(
    ("epochs", "most", "expected"),
    [(3, 20, [1, 2, 3]), (20, 5, [4, 8, 12, 16, 20]), (7, 3, [3, 6, 7]), (1, 1, [1])],
)
def test_epochs_that_are_noted(epochs: int, most: int, expected: list[int]) -> None:
    recorder = Recorder(small_gratings(), cpu(), most)
    assert [e for e in range(1, epochs + 1) if recorder.due(e, epochs)] == expected


def test_predictions_survive_packing() -> None:
    says = torch.randint(0, 1000, (5000,))
    assert torch.equal(unpacked(packed(says)), says)


def test_a_note_holds_what_rules_need() -> None:
    data = small_gratings()
    values = data.val.attributes[data.bias].values

    def by_tint(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0].float().mean((1, 2)), x[:, 2].float().mean((1, 2))], 1) / 255

    row = Recorder(data, cpu()).row(by_tint)
    says = by_tint(data.val.images[:]).argmax(1)
    assert torch.equal(unpacked(row["val_says"]), says)
    loss = torch.nn.functional.cross_entropy(by_tint(data.val.images[:]), data.val.y)
    assert row["val_loss"] == pytest.approx(float(loss), rel=1e-5)
    test = by_tint(data.test.images[:]).argmax(1)
    assert sum(map(sum, row["test_hits"])) == int((test == data.test.y).sum())
    assert len(values) == len(data.val)


def test_candidates_are_the_epochs_of_the_stage_that_made_the_network() -> None:
    rows = [
        {"stage": "first", KEY: "a", "epoch": 1},
        {"stage": "first", "loss": 1.0},
        {"stage": "second", KEY: "b", "epoch": 1},
        {"stage": "second", KEY: "c", "epoch": 2},
    ]
    assert [r[KEY] for r in candidates(rows, {KEY: "c"})] == ["b", "c"]
    assert [r[KEY] for r in candidates(rows, {KEY: "a"})] == ["a"]
    assert candidates(rows, {KEY: "closed form"}) == [{KEY: "closed form"}]


def test_fingerprints_tell_outputs_apart() -> None:
    logits = torch.randn(10, 2)
    assert fingerprint(logits) == fingerprint(logits.clone())
    assert fingerprint(logits) != fingerprint(logits + 1e-6)
