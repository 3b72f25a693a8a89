"""Who imports whom, and what an import costs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "lightning_fabric", "typer", "timm", "torchvision", "fastapi", "sklearn",
         "matplotlib", "pyarrow"}  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """Which of the heavy packages are loaded after running some code."""
    tail = "\nimport sys; print('LOADED', *sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, check=True
    )
    return HEAVY & set(ran.stdout.split("LOADED")[-1].split())


@pytest.mark.parametrize("code", ["import truecue", "import truecue; dir(truecue)",
                                  "from truecue import config, errors, seeds, atomic"])  # fmt: skip
def test_importing_the_package_loads_nothing_heavy(code: str) -> None:
    assert loaded_by(code) == set()


def test_losses_need_torch_alone() -> None:
    assert loaded_by("import truecue.losses.classification") == {"torch"}


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys; sys.argv = ['truecue', '--help']\n"
        "from truecue.cli.main import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code"
    )
    assert loaded_by(code) <= {"typer"}


def test_layers_are_kept() -> None:
    tool = shutil.which("lint-imports", path=Path(sys.executable).parent)
    if tool is None:
        pytest.skip("import-linter is not installed")
    ran = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_one_file_knows_fabric() -> None:
    source = ROOT / "src" / "truecue"
    users = [
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if re.search(r"^\s*(from|import) lightning", path.read_text(encoding="utf-8"), re.M)
    ]
    assert users == ["engine/device.py"]


def test_checkpoints_are_read_as_data() -> None:
    for path in (ROOT / "src" / "truecue").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for found in re.finditer(r"torch\.load\(.*", text):
            assert "weights_only=True" in found[0], f"{path}: {found[0]}"
        assert not re.search(r"^\s*(import|from) pickle", text, re.M), path
