"""The documents: their code runs, they leave nothing out, their links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import truecue
from truecue.cli.lists import _settings
from truecue.cli.options import divide
from truecue.config import Config, nest, parse_assignments
from truecue.data.suites import SUITES, open_data
from truecue.directions.discover import Discover
from truecue.directions.encode import Encode
from truecue.directions.sre import SRE
from truecue.engine import plan as plans
from truecue.engine.plan import Plan
from truecue.methods import METHODS, method_named
from truecue.nets import build as networks

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
IDS = [str(page.relative_to(ROOT)) for page in ALL_PAGES]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _load(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cli_page = _load(DOCS / "cli_page.py")


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """The code blocks of a page in one language, each with the line that it begins at."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if found[1] == language:
            yield text.count("\n", 0, found.start()) + 2, found[2]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


# --- code runs ----------------------------------------------------------------------------------

WITH_CODE = [page for page in PAGES if any(blocks(page, "python"))]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))
    # settings look up their annotations in the module that they were made in
    module = types.ModuleType(f"docs_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for line, code in blocks(page, "python"):
        where = str(page.relative_to(ROOT))
        exec(compile("\n" * (line - 1) + code, where, "exec"), module.__dict__)


def _commands() -> Iterator[tuple[str, str]]:
    for page in ALL_PAGES:
        for _, code in blocks(page, "bash"):
            for line in code.splitlines():
                if line.strip():
                    yield str(page.relative_to(ROOT)), line


COMMANDS = list(_commands())


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_commands_in_the_text_exist(page: str, line: str, tmp_path: Path) -> None:
    known = dict(cli_page.commands())
    words = shlex.split(line, comments=True)
    assert words[0] == "truecue"
    name = max((n for n in known if words[: len(n.split())] == n.split()), key=len)
    options = {o: p for p in cli_page.options(known[name]) for o in (*p.opts, *p.secondary_opts)}
    rest, arguments, sets = iter(words[len(name.split()) :]), [], []
    for word in rest:
        if not word.startswith("-"):
            arguments.append(word)
            continue
        assert word in options, f"{name} has no option {word}"
        if not options[word].is_flag:
            value = next(rest)
            sets += [value] if word == "--set" else []
    needed = [p for p in known[name].params if p.opts[0].startswith("-") and p.required]
    assert not [p.opts[0] for p in needed if not {*p.opts} & {*words}]
    # `rank` itself says which of its arguments is missing, but needs them all
    wanted = [p for p in known[name].params if not p.opts[0].startswith("-")
              and (p.required or name == "truecue rank")]  # fmt: skip
    assert len(arguments) == len(wanted), f"{name} takes {[p.metavar for p in wanted]}"
    if name in ("truecue train", "truecue evaluate", "truecue data check"):
        own, data = divide(parse_assignments(sets))
        if name == "truecue train":
            method_named(arguments[0])().override(own)
        images = arguments[1] if name != "truecue data check" else arguments[0]
        suite = SUITES.get(images, SUITES["folder"])
        suite(**nest(({"table": "labels.csv"} if images.endswith(".csv") else {}) | data))


# --- nothing is left out ------------------------------------------------------------------------


def test_command_page_is_up_to_date() -> None:
    written = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert written == cli_page.page(), "run: python docs/cli_page.py"


def test_every_command_and_option_is_on_the_command_page() -> None:
    written = (DOCS / "cli.md").read_text(encoding="utf-8")
    for name, command in cli_page.commands():
        section = written.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for option in cli_page.options(command):
            for spelling in (*option.opts, *option.secondary_opts):
                assert f"`{spelling}" in section, f"{name} {spelling}"
            assert option.help, f"{name} {option.opts[0]} says nothing about itself"
            if option.required:
                row = re.search(rf"^\| `{option.opts[0]} .*", section, re.MULTILINE)
                assert row is not None
                assert "| required |" in row[0]
            if option.envvar:
                assert f"| `{option.envvar}` |" in written


def test_readme_lists_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, command in cli_page.commands():
        if name != "truecue" and (command.params or not getattr(command, "commands", None)):
            assert f"`{name}" in readme, name


def test_readme_begins_with_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = BLOCK.search(readme)
    assert first is not None
    assert first[2].splitlines() == ["make demo", "make test"]
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\bmake ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", targets, re.MULTILINE), target


def _defaults(page: Path, name: str) -> list[str]:
    """What the tables of a page say about the default of a setting."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^\| `{re.escape(name)}` \| ([^|]*)", text, re.MULTILINE)
    return [said.strip() for said in found]


def _values(of: type[Config]) -> dict[str, Any]:
    return {name: default for name, default, _ in _settings(of)}


def _usual(plan: Plan) -> dict[str, Any]:
    """The defaults of a plan's settings; of its schedule and stopping, those of their kinds."""
    kinds = {"schedule": type(plan.schedule), "stop": plans.Patience}
    parts = {f"{k}.{name}": d for k, kind in kinds.items() for name, d in _values(kind).items()}
    return _values(Plan) | parts


def _check_row(page: Path, name: str, default: Any) -> None:
    said, where = _defaults(page, name), page.relative_to(ROOT)
    assert said, f"{where} has no row for `{name}`"
    if default not in (None, ""):  # which pages put into words: "by image size"
        assert f"`{json.dumps(default)}`" in said, f"{where}: default of {name} is {default!r}"


@pytest.mark.parametrize("name", METHODS)
def test_method_page_has_every_setting_with_its_default(name: str) -> None:
    page, method = DOCS / "methods" / f"{name}.md", METHODS[name]()
    usual = {plan: _usual(value) for plan, value in method.plans().items()}
    for setting, default in _values(METHODS[name]).items():
        plan, _, part = setting.partition(".")
        if (
            plan not in method.plans()
            or default != usual[plan].get(part)
            or _defaults(page, setting)
        ):
            _check_row(page, setting, default)
    for plan in method.plans():
        assert _defaults(page, f"{plan}.epochs"), f"{name} does not name its plan '{plan}'"


def test_audit_page_has_every_setting_with_its_default() -> None:
    for setting, default in _values(truecue.AuditSettings).items():
        _check_row(DOCS / "audit.md", setting, default)


@pytest.mark.parametrize("name", SUITES)
def test_suite_page_has_every_setting_with_its_default(name: str) -> None:
    page = DOCS / "suites" / f"{name}.md"
    for setting, default in _values(SUITES[name]).items():
        _check_row(page, setting, default)
    if name != "folder":
        licence = SUITES[name].licence.partition(" (")[0]
        assert licence in " ".join(page.read_text(encoding="utf-8").split())


@pytest.mark.parametrize("of", [SRE, Discover, Encode], ids=lambda of: of.__name__)
def test_directions_page_has_every_setting_with_its_default(of: type[Config]) -> None:
    for setting, default in _values(of).items():
        _check_row(DOCS / "directions.md", setting, default)


def test_plan_page_has_every_setting() -> None:
    page = DOCS / "plan.md"
    text = page.read_text(encoding="utf-8")
    for setting in Plan.model_fields:
        assert _defaults(page, setting), setting
    for setting, default in Plan().to_dict().items():
        if not isinstance(default, dict):
            assert _defaults(page, setting) == [f"`{json.dumps(default)}`"], setting
    kinds = (plans.Adam, plans.AdamW, plans.SGD)
    schedules = (plans.Constant, plans.Cosine, plans.HeldCosine, plans.Steps, plans.Plateau)
    for kind in (*kinds, *schedules):
        fields = dict(kind.model_fields)
        row = re.search(rf"^\| `{fields.pop('kind').default}` \|.*", text, re.MULTILINE)
        assert row is not None, kind
        for field, about in fields.items():
            value = about.default
            said = "(required" if about.is_required() else f"`{json.dumps(value)}`"
            assert f"`{field}` {said}" in row[0], f"{kind.__name__}.{field}"
    assert f"`stop.epochs` is `{plans.Patience().epochs}`" in text
    for name in plans.AugmentName.__args__:  # type: ignore[attr-defined]
        assert f"| `{name}` |" in text


def test_every_network_is_on_the_page_of_concepts() -> None:
    section = (DOCS / "concepts.md").read_text(encoding="utf-8").partition("## Networks\n")[2]
    rows = re.findall(r"^\| (`.*?) \|", section.partition("\n## ")[0], re.MULTILINE)
    named = set(re.findall(r"`([^`]+)`", " ".join(rows)))
    assert named == {*networks.names(), "mlp-N", "mlp-NxW"}


def test_rules_for_choosing_are_explained() -> None:
    text = (DOCS / "concepts.md").read_text(encoding="utf-8")
    for rule, labels in plans.LABELS_FOR_CHOOSING.items():
        row = re.search(rf"^\| `{rule}`.*", text, re.MULTILINE)
        assert row is not None, rule
        if labels != "none":
            assert labels.removesuffix(" (oracle)").lower() in row[0].lower().replace("*", "")


def test_python_page_has_what_is_public() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    shown = re.findall(r"^::: (\S+)\.(\w+)$", text, re.MULTILINE)
    first = text.partition("\n## ")[0]
    left_out = set(re.findall(r"`(\w+)`", first.partition(" can be had")[0]))
    for home, name in shown:
        if name != "errors":
            assert (name in truecue.__all__) != (name in left_out), name
            assert getattr(truecue, name, None) in (
                None, getattr(importlib.import_module(home), name)), name  # fmt: skip
    said = {name for _, name in shown} | set(re.findall(r"`(\w+)`", first)) | {"TruecueError"}
    assert set(truecue.__all__) - said == {"__version__"}


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    named = set(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE))
    assert named == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_report_page_names_every_key(tmp_path: Path) -> None:
    text = (DOCS / "report.md").read_text(encoding="utf-8")
    data = truecue.Gratings().load()
    method = truecue.DeNetDM().override({"plan.epochs": 1, "experts.epochs": 1})
    report = truecue.train(method, data).report
    model = report["models"]["denetdm"]
    keys = {*report, *report["task"], *model, *model["test"], *model["test"]["average"]}
    keys |= {*model["curves"][0], *model["losses"][0], *model["stages"][0]}
    keys |= {*report["suspects"], *report["suspects"]["strict"], *model["test"]["cells"]}
    keys |= {*model["branches"]["deep"], *report["labels_used"]}
    left_out = {"step"}
    missing = {key for key in keys - left_out if f"`{key}`" not in text}
    assert not missing


# --- links and paths ----------------------------------------------------------------------------

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown's table of contents makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", plain))
    return found


@pytest.mark.parametrize("page", ALL_PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if page.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{link} leaves the site"
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", ALL_PAGES, ids=IDS)
def test_rows_of_a_table_have_as_many_cells(page: Path) -> None:
    width = 0
    for line in prose(page).splitlines():
        bars = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and bars) or bars == width, line
        width = bars


MACHINE = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users|mnt|scratch|data\d*)/\w|[A-Z]:\\\\?\w")


def _sources() -> Iterator[Path]:
    kinds = {".py", ".md", ".toml", ".yml", ".yaml", ".j2", ".css", ".js", ".html", ".cff", ".txt"}
    for folder in ("src", "docs", "examples", "tests", "benchmarks"):
        yield from (p for p in (ROOT / folder).rglob("*") if p.suffix in kinds)
    yield from (p for p in ROOT.iterdir() if p.suffix in kinds or p.name == "Makefile")


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    found = []
    for path in _sources():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if MACHINE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_a_suite_goes_before_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert type(open_data("digits")).__name__ == "Digits"
    assert type(open_data("./digits")).__name__ == "Folder"
