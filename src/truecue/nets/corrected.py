"""A last layer that takes off its logits what judged directions add to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CorrectedHead(nn.Linear):
    """Features to logits, less what each of some directions adds to the logit of its class.

    Logit c is that of the linear layer minus the sum of max(<along, z> - offset, 0) over the
    directions of class c. Directions are buffers: whoever tunes the layer leaves them as they are.

    Args:
        n_features: length of the features.
        n_classes: number of logits.
        corrections: number of directions.

    Source: Neuhaus et al. 2023 (arXiv 2212.04871), SpuFix, with its projections multiplied out.
    """

    along: Tensor
    offset: Tensor
    of: Tensor

    def __init__(self, n_features: int, n_classes: int, corrections: int):
        super().__init__(n_features, n_classes)
        self.register_buffer("along", torch.zeros(corrections, n_features))
        self.register_buffer("offset", torch.zeros(corrections))
        self.register_buffer("of", torch.zeros(corrections, dtype=torch.int64))

    def forward(self, z: Tensor) -> Tensor:
        """Logits [b, n_classes] of features [b, n_features]."""
        parts = F.linear(z, self.along, -self.offset).relu()
        return super().forward(z).index_add(1, self.of, -parts)
