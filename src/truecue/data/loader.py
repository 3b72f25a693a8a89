"""Batches as a pure function of the step: nothing to save, nothing to replay after a stop."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from truecue.data.augment import AugmentName, augment
from truecue.data.sets import ArrayFile, ImageSet
from truecue.errors import ConfigError
from truecue.seeds import derive

_NOTHING: Mapping[str, Tensor] = MappingProxyType({})
_ASSUMED_FREE = 4 << 30  # bytes of memory, where the system does not tell


class Batch(NamedTuple):
    """What a learner sees in one step."""

    views: tuple[Tensor, ...]
    """One, or two for contrastive methods: uint8 [b, c, h, w]."""
    y: Tensor
    """int64 [b]."""
    ids: Tensor
    """int64 [b], positions in the training set: the key of everything kept per sample."""
    attributes: Mapping[str, Tensor] = _NOTHING
    """int64 [b] each; empty unless the method declared that it uses them."""

    @property
    def x(self) -> Tensor:
        """The first view."""
        return self.views[0]


class Source(Protocol):
    """What the loop draws from: images, or a generator."""

    per_epoch: int
    """Steps in an epoch."""
    samples: int
    """Samples in an epoch, over all processes."""

    def batch(self, step: int) -> Any:
        """The batch of a step, the same whenever and however often it is asked for."""
        ...


class Loader:
    """Shuffled, augmented batches of an image set.

    Each epoch is a new permutation, or with `weights` as many draws with replacement as there are
    images. With several processes each takes every `world`-th sample of the same global batch.
    A trailing batch with fewer than two samples for each process is left out: batch normalisation
    cannot use it.

    Args:
        data: the images; held on `device` where they fit into memory, else read a step ahead.
        batch_size: samples in a global batch.
        key: what the randomness of order and augmentation depends on (seed, stage).
        augment: names of augmentations, applied in this order.
        views: how many independently augmented copies of each image.
        drop_last: leave out a trailing batch that is not full.
        weights: float [n], relative chance of each image to be drawn.
        at_least: bool [n] and a number: every batch has so many of the marked images (or as many as
            it has places). Where it has fewer, the first others give way to marked ones drawn with
            replacement.
        device: where batches are wanted.
        rank: this process.
        world: the number of processes.

    Raises:
        ConfigError: there is not even one full batch.
    """

    def __init__(
        self,
        data: ImageSet,
        *,
        batch_size: int,
        key: Sequence[int | str] = (0,),
        augment: Sequence[AugmentName] = (),
        views: int = 1,
        drop_last: bool = False,
        weights: Tensor | None = None,
        at_least: tuple[Tensor, int] | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ):
        n = len(data)
        if batch_size < world:
            raise ConfigError(
                f"a batch of {batch_size} cannot be shared by {world} processes; set a larger"
                " plan.batch_size"
            )
        if weights is not None:
            weights = _check_weights(weights, n)
        self.per_epoch = steps_per_epoch(n, batch_size, drop_last=drop_last, world=world)
        self.samples = min(n, self.per_epoch * batch_size)
        if self.per_epoch == 0:
            raise ConfigError(
                f"a batch of {batch_size} cannot be drawn from {n} training images"
                f"{' when an incomplete batch is left out' if drop_last else ''};"
                " set a smaller plan.batch_size"
            )
        self._device = torch.device(device)
        self._images = _near(data.images, self._device)
        self._y = data.y.to(self._device)
        self._attributes = {k: a.values.to(self._device) for k, a in data.attributes.items()}
        self._key, self._augment, self._views = tuple(key), tuple(augment), views
        self._size, self._weights = batch_size, weights
        self._at_least = None if at_least is None else _check_marked(*at_least, n, self._device)
        self._rank, self._world = rank, world
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)
        self._reader = ThreadPoolExecutor(1) if isinstance(self._images, ArrayFile) else None
        self._ahead: tuple[int, Future[Tensor]] | None = None

    def batch(self, step: int) -> Batch:
        """The batch of a step (0, 1, ... over all epochs)."""
        ids = self._ids(step)
        images = self._fetch(step, ids)
        views = tuple(self._view(images, step, v) for v in range(self._views))
        attributes = {k: v[ids] for k, v in self._attributes.items()} or _NOTHING
        return Batch(views, self._y[ids], ids, attributes)

    def _ids(self, step: int) -> Tensor:
        epoch, k = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._draw(epoch).to(self._device)
        ids = self._order[k * self._size : (k + 1) * self._size]
        if self._at_least is not None:
            ids = self._with_marked(ids, step, *self._at_least)
        return ids if self._world == 1 else ids[self._rank :: self._world]

    def _draw(self, epoch: int) -> Tensor:
        rng = torch.Generator().manual_seed(derive(*self._key, "order", epoch))
        n = len(self._y)
        if self._weights is None:
            return torch.randperm(n, generator=rng)
        # multinomial() takes at most 2**24 weights and is slower than a search in the sums
        edges = self._weights.cumsum(0)
        draws = torch.rand(n, generator=rng, dtype=torch.float64) * edges[-1]
        return torch.searchsorted(edges, draws, right=True).clamp_(max=n - 1)

    def _with_marked(
        self, ids: Tensor, step: int, marked: Tensor, places: Tensor, least: int
    ) -> Tensor:
        """The same batch with `least` marked images; no look at how many it has already."""
        rng = torch.Generator().manual_seed(derive(*self._key, "at least", step))
        drawn = places[torch.randint(len(places), (least,), generator=rng).to(places.device)]
        there = marked[ids]
        missing = (least - there.sum()).clamp(min=0)
        turn = (~there).cumsum(0)  # 1 for the first image that is not marked
        gives_way = ~there & (turn <= missing)
        return torch.where(gives_way, drawn[(turn - 1).clamp(0, least - 1)], ids)

    def _fetch(self, step: int, ids: Tensor) -> Tensor:
        if isinstance(self._images, Tensor):
            rows = self._images.index_select(0, ids.to(self._images.device))
            return rows.to(self._device, non_blocking=True)
        ready = self._ahead
        now = ready[1].result() if ready and ready[0] == step else self._images[ids.cpu()]
        assert self._reader is not None
        following = self._ids(step + 1).cpu()
        self._ahead = (step + 1, self._reader.submit(self._images.__getitem__, following))
        return now.to(self._device, non_blocking=True)

    def _view(self, images: Tensor, step: int, view: int) -> Tensor:
        if not self._augment:
            return images
        rng = torch.Generator(self._device)
        rng.manual_seed(derive(*self._key, "augment", step, view, self._rank))
        return augment(images, self._augment, rng)


def steps_per_epoch(n: int, batch_size: int, *, drop_last: bool = False, world: int = 1) -> int:
    """How many batches a `Loader` draws from n images; 0 where there is not one.

    Args:
        n: number of images.
        batch_size: samples in a global batch.
        drop_last: leave out a trailing batch that is not full.
        world: the number of processes.
    """
    full, rest = divmod(n, batch_size)
    least = batch_size if drop_last else 2 * world
    return full + (rest >= least)


def _near(images: Tensor | ArrayFile, device: torch.device) -> Tensor | ArrayFile:
    """The images on the device where they take at most a third of its free memory."""
    if isinstance(images, Tensor) and images.device == device:
        return images
    n, c, h, w = images.shape
    if n * c * h * w >= _free_bytes(device) / 3:
        return images
    return (images if isinstance(images, Tensor) else images[:]).to(device)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES")
    except ValueError:  # macOS tells only how much there is in all
        pages = os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError):  # Windows has no such call
        return _ASSUMED_FREE
    return pages * os.sysconf("SC_PAGE_SIZE")


def _check_marked(
    marked: Tensor, least: int, n: int, device: torch.device
) -> tuple[Tensor, Tensor, int]:
    """The marks, where they are, and how many a batch has; positions would halt a GPU each step."""
    if marked.shape != (n,) or marked.dtype != torch.bool:
        raise ValueError(f"marked images must be bool [{n}]; got {marked.dtype}, {marked.shape}")
    if least < 1 or not bool(marked.any()):
        raise ValueError(f"at least {least} of {int(marked.sum())} marked images cannot be drawn")
    return marked.to(device), marked.nonzero()[:, 0].to(device), least


def _check_weights(weights: Tensor, n: int) -> Tensor:
    weights = weights.detach().cpu().double()
    if weights.shape != (n,):
        raise ValueError(f"weights must be [{n}]; got {list(weights.shape)}")
    if not bool((weights >= 0).all()) or not 0 < float(weights.sum()) < float("inf"):
        raise ValueError("weights must be finite, not negative, and not all 0")
    return weights
