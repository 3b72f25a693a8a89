"""A linear head on stored features, for an encoder that was not trained for the task."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from truecue.engine.loop import make_optimizers
from truecue.engine.plan import SGD, Adam, AdamW, Plan
from truecue.engine.progress import counter
from truecue.errors import Diverged
from truecue.metrics.spurious import Features
from truecue.seeds import derive

BATCH = 128
EPOCHS = 20


def fit_head(
    features: Features,
    y: Tensor,
    n_classes: int,
    *,
    seed: int,
    optimizer: SGD | Adam | AdamW | None = None,
    epochs: int = EPOCHS,
    quiet: bool = True,
) -> tuple[Tensor, Tensor]:
    """Fit a linear layer to features by cross-entropy, in a new order each epoch.

    Args:
        features: [n, f], a tensor or an array that is mapped from a file.
        y: int64 [n], labels.
        n_classes: outputs, also where the last classes have no image.
        seed: of the first weights and the order.
        optimizer: None: SGD with lr 0.01 and momentum 0.9, as in the authors' code. Their paper has
            `Adam(lr=0.1, weight_decay=0.003)`.
        epochs: passes over the images.
        quiet: show no progress.

    Returns:
        Weights float32 [n_classes, f] and offsets float32 [n_classes].

    Raises:
        Diverged: the weights are no longer finite.

    Source: Moayeri et al. 2023 (arXiv 2212.02648) and its code; batches of 128, 20 epochs, no
    schedule, the short last batch is kept.
    """
    n, f = features.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "audit head"))
        layer = nn.Linear(f, n_classes)
    plan = Plan(optimizer=optimizer or SGD(lr=0.01, momentum=0.9))
    (step,) = make_optimizers({"all": list(layer.parameters())}, plan, torch.device("cpu"))
    rng = torch.Generator().manual_seed(derive(seed, "audit head", "order"))
    loss_of = nn.CrossEntropyLoss()
    with counter("last layer", quiet=quiet) as tell:
        for epoch in range(epochs):
            for ids in torch.randperm(n, generator=rng).split(BATCH):
                loss = loss_of(layer(_rows(features, ids)), y[ids])
                step.zero_grad()
                loss.backward()
                step.step()
            tell((epoch + 1) * n, epochs * n)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    if not bool(weight.isfinite().all() and bias.isfinite().all()):
        raise Diverged(
            "the last layer's weights are no longer finite: the features are too large for its"
            f" learning rate of {plan.optimizer.lr}; set head.lr to a smaller one"
        )
    return weight, bias


def _rows(features: Features, ids: Tensor) -> Tensor:
    if isinstance(features, Tensor):
        return features[ids].float()
    return torch.from_numpy(np.array(features[ids.numpy()])).float()
