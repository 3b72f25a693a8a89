"""Small audits for the app, and people who look at them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from app_help import CPU, NASTY, Person

import truecue
from truecue.audit.audit import Audit
from truecue.audit.make import make_audit
from truecue.audit.measure import measure_gaps
from truecue.data.sets import Splits

if TYPE_CHECKING:
    from truecue.app.source import Source


@pytest.fixture(scope="session")
def digits() -> Splits:
    """Coloured digits, of which the first class has a name that is code."""
    data = truecue.Digits(train_size=400, test_size=400, conflicting=0.1).load(seed=0)
    names = (NASTY, *data.train.classes[1:])
    parts = {name: replace(part, classes=names) for name, part in data.parts().items()}
    return replace(data, **parts)


@pytest.fixture(scope="session")
def audits(digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Audits of three networks that were trained plainly; nobody has judged anything."""
    folders = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUECUE_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name, arch, seed in (("conv", "conv3", 0), ("mlp", "mlp-3", 0), ("deep", "mlp-4", 1)):
            erm = truecue.ERM().override({"plan.epochs": 3})
            net = truecue.train(erm, digits, arch=arch, seed=seed, device=CPU).net
            folders.append(tmp_path_factory.mktemp("audits") / name)
            made = make_audit(folders[-1], digits, net, device=CPU, facts={"data": "digits"})
            measure_gaps(made)
    return folders


@pytest.fixture
def source(
    audits: list[Path], digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Source:
    """A copy of the first audit, to write to, with the others beside it."""
    pytest.importorskip("fastapi", reason="the app's packages are not installed")
    from truecue.app.source import Source

    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "audit"
    shutil.copytree(audits[0], folder)
    return Source(Audit(folder), digits, others=[Audit(p) for p in audits[1:]], robust=True)


@pytest.fixture
def judge(source: Source) -> Callable[..., Person]:
    """People at browsers of their own, by name."""

    def someone(name: str = "", **gate: Any) -> Person:
        return Person(source, name, **gate)

    return someone
