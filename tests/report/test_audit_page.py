"""The page of an audit: what its first lines say, and how it reads on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from truecue.audit.make import make_audit
from truecue.audit.measure import measure_gaps
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.nets.build import build
from truecue.nets.classifier import Classifier
from truecue.report.audit_page import write_audit_page

CPU = Device("cpu")


def part(right: int, wrong: int) -> ImageSet:
    """Images of each of two classes, so many that brightness tells right, and wrong."""
    bright = torch.tensor([[1] * right + [0] * wrong, [0] * right + [1] * wrong])
    y = torch.tensor([1, 0]).repeat_interleave(right + wrong)
    noise = torch.arange(len(y)) % 7
    pixels = (40 + 150 * bright.flatten() + noise).to(torch.uint8)
    return ImageSet(pixels[:, None, None, None].expand(-1, 1, 2, 2).clone(), y, ("dark", "light"))


def brightness() -> Classifier:
    """A classifier that goes by brightness."""
    net = build("mlp-2x2", channels=1, size=2, n_classes=2)
    (layer,) = (m for m in net.encoder.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 4))
        layer.bias.copy_(torch.tensor([2.0, -1.0]))
        net.head.weight.copy_(torch.eye(2))
        net.head.bias.zero_()
    net.spec["extra"] = {"classes": ["dark", "light"]}
    return net.eval()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))


def page(folder: Path, test: ImageSet, pictures: int = 0) -> str:
    data = Splits(part(40, 0), part(40, 0), test)
    audit = make_audit(folder, data, brightness(), device=CPU)
    measure_gaps(audit)
    return " ".join(
        write_audit_page(audit, data, pictures=pictures, device=CPU).read_text().split()
    )


def test_validation_images_that_are_easier_than_test_images_are_told(tmp_path: Path) -> None:
    told = page(tmp_path / "audit", part(30, 10))
    assert "right on 100.0 % of the validation images and 75.0 % of the test images" in told
    assert "(80 training, 80 validation, 80 test images)" in told
    assert "probably as biased as the training images" in told


def test_nothing_is_told_where_they_are_as_hard(tmp_path: Path) -> None:
    assert "as biased as" not in page(tmp_path / "audit", part(38, 2))


def test_notes_on_pictures_are_sentences_and_pictures_scroll(tmp_path: Path) -> None:
    told = page(tmp_path / "audit", part(40, 0), pictures=1)
    assert "Amplified images are left out" in told
    assert "noise for others.</p>" in told
    assert '<div class="scroll"><img class="strip"' in told
