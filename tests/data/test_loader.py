from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from truecue.data import loader as module
from truecue.data.loader import Loader, steps_per_epoch
from truecue.data.sets import ArrayFile, Attribute, ImageSet
from truecue.errors import ConfigError


def images(n: int, side: int = 8) -> ImageSet:
    """Image i is filled with i."""
    x = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, side, side)
    values = Attribute(torch.arange(n) % 3, ("a", "b", "c"))
    return ImageSet(x.contiguous(), torch.arange(n) % 2, ("even", "odd"), {"third": values})


def epoch(loader: Loader, number: int = 0) -> list[torch.Tensor]:
    first = number * loader.per_epoch
    return [loader.batch(k).ids for k in range(first, first + loader.per_epoch)]


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    loader = Loader(images(50), batch_size=16)
    first, second = (torch.cat(epoch(loader, k)) for k in (0, 1))
    assert [len(ids) for ids in epoch(loader)] == [16, 16, 16, 2]
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(50))
    assert not torch.equal(first, second)
    assert (loader.per_epoch, loader.samples) == (4, 50)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world", [1, 2])
def test_steps_can_be_counted_beforehand(drop_last: bool, world: int) -> None:
    for n in range(8, 18):
        counted = steps_per_epoch(n, 8, drop_last=drop_last, world=world)
        loader = Loader(images(n), batch_size=8, drop_last=drop_last, world=world)
        left = 0 if drop_last or n % 8 < 2 * world else n % 8
        assert loader.per_epoch == counted == n // 8 + (left > 0)
        assert loader.samples == n // 8 * 8 + left
    assert steps_per_epoch(7, 8, drop_last=True) == 0


def test_what_comes_with_an_image_is_its_own() -> None:
    batch = Loader(images(50), batch_size=16).batch(1)
    assert torch.equal(batch.x[:, 0, 0, 0].long(), batch.ids)
    assert torch.equal(batch.y, batch.ids % 2)
    assert torch.equal(batch.attributes["third"], batch.ids % 3)
    assert batch.x is batch.views[0]
    assert Loader(images(50).blind(), batch_size=16).batch(0).attributes == {}


@pytest.mark.parametrize(
    ("n", "size", "drop_last", "world", "per_epoch", "samples"),
    [
        (48, 16, False, 1, 3, 48),
        (50, 16, False, 1, 4, 50),
        (49, 16, False, 1, 3, 48),  # a batch of one is left out
        (50, 16, True, 1, 3, 48),
        (10, 16, False, 1, 1, 10),
        (51, 16, False, 2, 3, 48),  # three samples are too few for two processes
        (52, 16, False, 2, 4, 52),
    ],
)
def test_steps_in_an_epoch(n, size, drop_last, world, per_epoch, samples) -> None:
    loader = Loader(images(n), batch_size=size, drop_last=drop_last, world=world)
    assert (loader.per_epoch, loader.samples) == (per_epoch, samples)


@pytest.mark.parametrize(("n", "settings"), [(1, {}), (10, {"drop_last": True}), (3, {"world": 2})])
def test_no_batch_at_all_is_refused(n: int, settings) -> None:
    with pytest.raises(ConfigError, match=r"set a smaller plan\.batch_size"):
        Loader(images(n), batch_size=16, **settings)


def test_a_batch_is_a_function_of_its_step() -> None:
    settings = {"batch_size": 16, "key": (7, "fit"), "augment": ("flip", "crop"), "views": 2}
    straight, random_access = Loader(images(50), **settings), Loader(images(50), **settings)
    batches = [straight.batch(k) for k in range(12)]
    for k in (11, 3, 3, 8, 0, 7, 4):
        batch = random_access.batch(k)
        assert torch.equal(batch.ids, batches[k].ids)
        for ours, theirs in zip(batch.views, batches[k].views, strict=True):
            assert torch.equal(ours, theirs)


def test_torchs_random_state_is_neither_read_nor_changed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = Loader(images(50), batch_size=16, augment=("flip", "crop")).batch(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    other = Loader(images(50), batch_size=16, augment=("flip", "crop")).batch(0)
    assert torch.equal(one.x, other.x)


def test_order_depends_on_the_key() -> None:
    orders = {
        tuple(torch.cat(epoch(Loader(images(50), batch_size=16, key=key))).tolist())
        for key in ((0, "fit"), (1, "fit"), (0, "other"), (0,))
    }
    assert len(orders) == 4


def test_views_are_augmented_each_in_its_own_way() -> None:
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (32, 3, 16, 16), generator=rng).to(torch.uint8)
    data = ImageSet(noise, torch.arange(32) % 2, ("a", "b"))
    loader = Loader(data, batch_size=32, augment=("crop",), views=2)
    one, two = loader.batch(0).views
    assert not torch.equal(one, two)
    assert not torch.equal(one, noise[loader.batch(0).ids])
    assert not torch.equal(one, loader.batch(1).views[0])
    assert len(Loader(data, batch_size=32, views=2).batch(0).views) == 2


def test_processes_share_each_batch_without_overlap() -> None:
    alone = Loader(images(52), batch_size=16, augment=("flip",))
    parts = [Loader(images(52), batch_size=16, rank=r, world=2, augment=("flip",)) for r in (0, 1)]
    for step in range(4):
        mine, yours = (part.batch(step).ids for part in parts)
        whole = alone.batch(step).ids
        assert torch.equal(mine, whole[::2])
        assert torch.equal(yours, whole[1::2])


# at least so many of some images


def rare(n: int = 200, every: int = 40) -> torch.Tensor:
    return torch.arange(n) % every == 0


@pytest.mark.parametrize("least", [1, 3, 16])
def test_every_batch_has_at_least_so_many_marked_images(least: int) -> None:
    marked = rare()
    plain = Loader(images(200), batch_size=16, key=(3,))
    loader = Loader(images(200), batch_size=16, key=(3,), at_least=(marked, least))
    for step in range(3 * loader.per_epoch):
        before, ids = plain.batch(step).ids, loader.batch(step).ids
        there, now = int(marked[before].sum()), int(marked[ids].sum())
        assert len(ids) == len(before)
        assert now == max(there, min(least, len(ids)))
        kept = ids == before
        assert int((~kept).sum()) == now - there  # only as many as are needed give way
        assert not bool(marked[before][~kept].any())  # and none of the marked ones
    # a function of key and step alone, whatever was asked for before
    again = Loader(images(200), batch_size=16, key=(3,), at_least=(marked, least))
    assert torch.equal(again.batch(17).ids, loader.batch(17).ids)


def test_a_batch_with_marked_images_asks_the_device_nothing(monkeypatch) -> None:
    loader = Loader(images(200), batch_size=16, at_least=(rare(), 8))
    for question in ("nonzero", "item", "tolist", "__bool__", "__int__"):
        monkeypatch.setattr(torch.Tensor, question, lambda *_: pytest.fail("a look at a tensor"))
    assert len(loader.batch(0).ids) == 16  # on a GPU every such look would wait for it


def test_marked_images_are_drawn_evenly() -> None:
    loader = Loader(images(200), batch_size=16, at_least=(rare(), 8))
    drawn = Counter(
        i for step in range(1300) for i in loader.batch(step).ids.tolist() if i % 40 == 0
    )
    assert set(drawn) == {0, 40, 80, 120, 160}
    assert max(drawn.values()) < 1.15 * min(drawn.values())


def test_processes_share_a_batch_with_marked_images() -> None:
    whole = Loader(images(200), batch_size=16, at_least=(rare(), 4)).batch(5).ids
    parts = [
        Loader(images(200), batch_size=16, at_least=(rare(), 4), rank=r, world=2).batch(5).ids
        for r in (0, 1)
    ]
    assert torch.equal(torch.stack(parts, 1).flatten(), whole)


@pytest.mark.parametrize(
    ("marked", "sentence"),
    [(torch.zeros(5, dtype=torch.bool), "0 marked images"), (torch.ones(4, dtype=torch.bool), "5")],
)
def test_marks_that_cannot_be_used(marked: torch.Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Loader(images(5), batch_size=2, at_least=(marked, 1))


# sampling with weights


def test_weights_decide_how_often_an_image_comes() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0, 6.0])
    data = images(5)
    loader = Loader(data, batch_size=5, weights=weights)
    seen = Counter(torch.cat([torch.cat(epoch(loader, k)) for k in range(2000)]).tolist())
    assert set(seen) == {1, 2, 4}
    for i, share in ((1, 0.1), (2, 0.3), (4, 0.6)):
        assert seen[i] / 10_000 == pytest.approx(share, abs=0.02)


def test_weighted_draws_are_a_function_of_the_step() -> None:
    weights = torch.rand(50, generator=torch.Generator().manual_seed(0))
    one, other = (Loader(images(50), batch_size=16, weights=weights) for _ in range(2))
    torch.cat(epoch(one))
    assert torch.equal(one.batch(6).ids, other.batch(6).ids)


def test_a_single_image_with_weight_is_the_only_one() -> None:
    for i in (0, 4):
        weights = torch.zeros(5)
        weights[i] = 1e-30
        assert set(Loader(images(5), batch_size=5, weights=weights).batch(0).ids.tolist()) == {i}


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (torch.ones(4), r"must be \[5\]; got \[4\]"),
        (torch.ones(5, 1), r"must be \[5\]"),
        (torch.zeros(5), "not all 0"),
        (torch.tensor([1.0, -1, 1, 1, 1]), "not negative"),
        (torch.tensor([1.0, float("nan"), 1, 1, 1]), "finite"),
        (torch.tensor([1.0, float("inf"), 1, 1, 1]), "finite"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        Loader(images(5), batch_size=5, weights=weights)


# images on disk


@pytest.fixture
def on_disk(tmp_path: Path) -> ImageSet:
    data = images(50)
    np.save(tmp_path / "x.npy", data.images.numpy())
    return ImageSet(ArrayFile(tmp_path / "x.npy"), data.y, data.classes)


@pytest.mark.parametrize("free", [10**12, 10])
@pytest.mark.parametrize("rows", [None, torch.arange(49, -1, -1)])
def test_images_on_disk_give_the_same_batches(on_disk, monkeypatch, free: int, rows) -> None:
    monkeypatch.setattr(module, "_free_bytes", lambda device: free)
    shown = on_disk if rows is None else on_disk.select(rows)
    whole = images(50) if rows is None else images(50).select(rows)
    settings = {"batch_size": 16, "augment": ("flip",)}
    ours, theirs = Loader(shown, **settings), Loader(whole, **settings)
    assert (free == 10) == isinstance(ours._images, ArrayFile)
    for step in (0, 1, 2, 3, 4, 9, 2, 2, 3):  # in order, with jumps, and across epochs
        a, b = ours.batch(step), theirs.batch(step)
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.ids, b.ids)


def test_the_next_batch_is_read_ahead(on_disk, monkeypatch) -> None:
    monkeypatch.setattr(module, "_free_bytes", lambda device: 10)
    read, get = [], ArrayFile.__getitem__

    def slow(self, ids):
        read.append(len(ids))
        return get(self, ids)

    monkeypatch.setattr(ArrayFile, "__getitem__", slow)
    loader = Loader(on_disk, batch_size=10)
    for step in range(3):
        loader.batch(step)
    deadline = time.monotonic() + 5
    while len(read) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert read == [10] * 4  # three were asked for, each once, and the fourth is ready


def test_memory_is_known_without_linux(monkeypatch) -> None:
    """macOS has no count of available pages."""

    def sysconf(name: str) -> int:
        if name == "SC_AVPHYS_PAGES":
            raise ValueError("unrecognized configuration name")
        return {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}[name]

    monkeypatch.setattr(module.os, "sysconf", sysconf)
    assert module._free_bytes(torch.device("cpu")) == 500 * 4096


def test_images_on_disk_are_read_where_no_memory_is_known(on_disk, monkeypatch) -> None:
    """Windows tells nothing; a few images are held in memory all the same."""
    monkeypatch.delattr(module.os, "sysconf")
    loader = Loader(on_disk, batch_size=16)
    assert isinstance(loader._images, torch.Tensor)
    assert torch.equal(loader.batch(0).x, Loader(images(50), batch_size=16).batch(0).x)


@pytest.mark.gpu
@pytest.mark.parametrize("free", [10**12, 10])
def test_batches_come_on_the_gpu_wherever_the_images_are(on_disk, monkeypatch, free: int) -> None:
    monkeypatch.setattr(module, "_free_bytes", lambda device: free)
    reference = Loader(images(50), batch_size=16)
    backwards = torch.arange(49, -1, -1)
    for data in (images(50), on_disk, on_disk.select(backwards).select(backwards)):
        loader = Loader(data, batch_size=16, device="cuda", augment=("flip",))
        for step in (0, 1, 5):
            batch = loader.batch(step)
            assert batch.x.device.type == batch.y.device.type == batch.ids.device.type == "cuda"
            assert torch.equal(batch.x.cpu(), reference.batch(step).x)  # flat images stay the same
