"""Every suite that makes its own images: what a reader of its results may take for granted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from truecue.config import Config
from truecue.data.sets import ImageSet, Splits
from truecue.data.suites import SUITES
from truecue.data.suites.base import Suite
from truecue.engine.judge import aligned_mask
from truecue.errors import DataError

SELF_MADE = [name for name, suite in SUITES.items() if suite.self_made]


@pytest.fixture(scope="module")
def loaded() -> dict[str, Splits]:
    return {name: SUITES[name]().load(seed=0) for name in SELF_MADE}


def rows(data: ImageSet) -> set[bytes]:
    return {bytes(image.numpy().tobytes()) for image in data.images[:]}


def conflicting_share(data: ImageSet, splits: Splits) -> float:
    mask = aligned_mask(splits)
    assert mask is not None
    assert splits.bias is not None
    values = data.attributes[splits.bias].values
    return float((~mask[data.y, values]).float().mean())


def test_there_is_a_suite_that_needs_no_files() -> None:
    assert {"digits", "gratings"} <= set(SELF_MADE)


@pytest.mark.parametrize("name", SUITES)
def test_suite_says_where_it_comes_from(name: str) -> None:
    suite = SUITES[name]
    assert issubclass(suite, Config)
    assert suite.source
    assert suite.licence
    assert suite.__doc__
    assert suite.self_made or "made by the package" not in suite.layout
    assert suite.self_made or suite.obtain != Suite.obtain
    assert suite.self_made or name == "folder" or suite.marks
    assert suite.self_made or name == "folder" or suite.counts
    for setting, field in suite.model_fields.items():
        assert field.description, f"{name}.{setting} needs a docstring"


@pytest.mark.parametrize("name", SUITES)
def test_published_numbers_hang_together(name: str) -> None:
    counts = SUITES[name].counts
    assert all(n > 0 for n in counts.values())
    for split in {key.partition(":")[0] for key in counts if ":" in key}:
        groups = [n for key, n in counts.items() if key.startswith(f"{split}: ")]
        assert sum(groups) == counts[split]
    lengths = {"md5": 32, "sha256": 64}
    for checksum in SUITES[name].checksums.values():
        kind, _, digits = checksum.partition(":")
        assert re.fullmatch(f"[0-9a-f]{{{lengths[kind]}}}", digits)


@pytest.mark.parametrize("name", [name for name, suite in SUITES.items() if suite.marks])
def test_absent_files_are_described(name: str, tmp_path: Path) -> None:
    suite = SUITES[name]
    assert suite.find(tmp_path) is None
    assert suite.find(tmp_path / "nowhere") is None
    for root in (None, tmp_path, str(tmp_path)):
        with pytest.raises(DataError) as caught:
            suite().load(root)
        assert suite.layout in str(caught.value)
    for folder in (tmp_path, *(tmp_path / name for name in suite.folders)):
        for mark in suite.marks:
            file = folder / mark.replace("*", "1").replace("[0-9]", "7").replace("[01]", "1")
            file = file.with_name(file.name.replace("[0-4]", "2").replace("?", "-"))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            assert suite.find(tmp_path) == folder
            file.unlink()


@pytest.mark.parametrize("name", SELF_MADE)
def test_splits_share_no_image(name: str, loaded: dict[str, Splits]) -> None:
    parts = [rows(part) for part in loaded[name].parts().values()]
    assert len(parts) == 3
    for i, part in enumerate(parts):
        for other in parts[i + 1 :]:
            assert not part & other


@pytest.mark.parametrize("name", SELF_MADE)
def test_images_are_bytes_and_attributes_complete(name: str, loaded: dict[str, Splits]) -> None:
    splits = loaded[name]
    assert splits.bias in splits.train.attributes
    for part in splits.parts().values():
        assert part.images[:2].dtype == torch.uint8
        assert part.attributes.keys() == splits.train.attributes.keys()
        for attribute in part.attributes.values():
            assert int(attribute.values.min()) >= 0
            assert set(attribute.values.tolist()) == set(range(len(attribute.names)))


@pytest.mark.parametrize("name", SELF_MADE)
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_conflicting_share_is_as_stated(name: str, share: float) -> None:
    splits = SUITES[name](conflicting=share).load(seed=1)
    for part in (splits.train, splits.val):
        assert part is not None
        # assignment is in whole images of each class
        assert abs(conflicting_share(part, splits) - share) <= len(part.classes) / len(part)


@pytest.mark.parametrize("name", SELF_MADE)
def test_test_images_show_every_value_with_every_class(
    name: str, loaded: dict[str, Splits]
) -> None:
    splits = loaded[name]
    test, bias = splits.test, splits.test.attributes[splits.bias]
    cells = torch.zeros(len(test.classes), len(bias.names), dtype=torch.int64)
    cells.index_put_((test.y, bias.values), torch.ones_like(test.y), accumulate=True)
    expected = len(test) / cells.numel()
    assert int(cells.min()) > 0.75 * expected
    assert int(cells.max()) < 1.25 * expected


@pytest.mark.parametrize("name", SELF_MADE)
def test_seed_decides(name: str, loaded: dict[str, Splits]) -> None:
    again, other = (SUITES[name]().load(seed=seed) for seed in (0, 1))
    for split, part in loaded[name].parts().items():
        assert torch.equal(part.images[:], again.parts()[split].images[:])
        assert torch.equal(part.y, again.parts()[split].y)
        assert not torch.equal(part.images[:], other.parts()[split].images[:])


@pytest.mark.parametrize("name", SELF_MADE)
def test_loading_leaves_the_random_state_alone(name: str) -> None:
    before = torch.get_rng_state()
    SUITES[name]().load()
    assert torch.equal(torch.get_rng_state(), before)
