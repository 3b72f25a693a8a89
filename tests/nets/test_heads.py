"""Heads of self-supervised pretraining: layer by layer as in the losses' papers."""

from __future__ import annotations

import pytest
from torch import nn

from truecue.nets.heads import (
    simclr_projector,
    simsiam_predictor,
    simsiam_projector,
    vicreg_expander,
)


def told(layer: nn.Module) -> tuple[object, ...]:
    if isinstance(layer, nn.Linear):
        return "linear", layer.in_features, layer.out_features, layer.bias is not None
    if isinstance(layer, nn.BatchNorm1d):
        return "norm", layer.num_features, layer.affine
    assert isinstance(layer, nn.ReLU)
    return ("relu",)


@pytest.mark.parametrize(
    ("head", "layers"),
    [
        (simclr_projector(6),
         [("linear", 6, 6, True), ("relu",), ("linear", 6, 128, True)]),
        (simsiam_projector(6),
         [("linear", 6, 6, False), ("norm", 6, True), ("relu",),
          ("linear", 6, 48, False), ("norm", 48, False)]),
        (simsiam_predictor(6),
         [("linear", 48, 24, False), ("norm", 24, True), ("relu",), ("linear", 24, 48, True)]),
        (vicreg_expander(6, 10),
         [("linear", 6, 10, True), ("norm", 10, True), ("relu",),
          ("linear", 10, 10, True), ("norm", 10, True), ("relu",), ("linear", 10, 10, False)]),
    ],
)  # fmt: skip
def test_layers_of_each_head(head, layers):
    assert [told(layer) for layer in head] == layers
