"""A real browser: judging by keys alone, a browser that is killed, a browser without scripts."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("fastapi", reason="the app's packages are not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

from app_help import judge_all, served

if TYPE_CHECKING:
    from truecue.app.source import Source

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SETTLED = (
    "() => document.readyState === 'complete'"
    " && !document.querySelector('.htmx-request, .htmx-swapping, .htmx-settling, .htmx-added')"
)
"""A key that is pressed before this holds may find no script that hears it."""
KEYS = {"background": "b", "separate_object": "s", "main_object": "m"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no browser at {CHROMIUM}"),
]


@contextmanager
def browser(**options: Any) -> Iterator[Any]:
    """A browser of its own, with a profile of its own."""
    with sync_api.sync_playwright() as play:
        made = play.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        try:
            yield made.new_page(**options)
        finally:
            made.close()


def enter(page: Any, address: str, name: str) -> None:
    """Say who one is, by keys."""
    page.goto(f"{address}/judge")
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    page.wait_for_selector("form[data-answer]")
    until(page, SETTLED)


def until(page: Any, condition: str, value: str = "") -> None:
    """Wait until something holds; Playwright's own way needs code that the pages forbid."""
    end = time.monotonic() + 30
    while not holds(page, condition, value):
        assert time.monotonic() < end, f"{condition}: not within 30 s, at {page.url}"
        page.wait_for_timeout(10)


def holds(page: Any, condition: str, value: str = "") -> bool:
    """Whether something holds now; not while one page gives way to another."""
    try:
        return bool(page.evaluate(condition, value))
    except sync_api.Error as error:
        if "context was destroyed" not in str(error):
            raise
        return False


def judge(page: Any, answer: str, confidence: int, reason: str) -> str:
    """Answer one question by keys; the path of the question."""
    path: str = page.evaluate("location.pathname")
    assert page.is_disabled("[data-submit]")
    page.keyboard.press(KEYS[answer])
    page.keyboard.press(str(confidence))
    page.keyboard.press("t")
    page.keyboard.type(reason)
    page.keyboard.press("Enter")
    until(page, "path => location.pathname !== path", path)
    until(
        page,
        "() => !document.querySelector('form[data-answer]')"
        " || document.querySelector('[name=reason]').value === ''",
    )
    until(page, SETTLED)
    return path


def processes_of(pid: int) -> list[int]:
    """A process and everything that it started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    children = [int(line) for line in found.stdout.split()]
    return [pid, *(p for child in children for p in processes_of(child))]


def test_two_people_judge_by_keys_and_a_killed_browser_loses_nothing(source: Source) -> None:
    kinds = tuple(KEYS)
    wanted: dict[tuple[str, str], tuple[str, int, str]] = {}

    def some(page: Any, name: str, first: int, last: int) -> None:
        for k in range(first, last):
            given = kinds[k % 3], 1 + k % 5, f"bms12345 t? {name} {k}"  # keys are text in a text
            wanted[name, judge(page, *given)] = given

    with served(source) as address:
        with browser() as ada:
            enter(ada, address, "Ada")
            some(ada, "Ada", 0, 15)
            # Grace's browser is killed with an answer half filled in
            with sync_api_process(address) as killed:
                killed.expect("ready")
                for pid in processes_of(killed.pid):
                    os.kill(pid, signal.SIGKILL)
            some(ada, "Ada", 15, 30)
        with sqlite3.connect(source.verdicts.path) as db:
            (n,) = db.execute("SELECT count(*) FROM answers WHERE annotator = 'Grace'").fetchone()
        assert n == 12
        with browser() as grace:
            enter(grace, address, "Grace")
            some(grace, "Grace", 12, 30)
    stored = {
        (j.annotator, f"/judge/{j.class_index}/{j.feature}"): (j.answer, j.confidence, j.reason)
        for j in source.verdicts.all()
    }
    assert len(stored) == 60
    assert {key: value for key, value in stored.items() if key in wanted} == wanted
    assert len(wanted) == 48


class _Other:
    """Another process with a browser in which Grace judges."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process, self.pid = process, process.pid

    def expect(self, line: str) -> None:
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        assert said == line, said


@contextmanager
def sync_api_process(address: str) -> Iterator[_Other]:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_app_browser import browser, enter, judge, KEYS\n"
        "with browser() as page:\n"
        "    enter(page, sys.argv[2], 'Grace')\n"
        "    for k in range(12): judge(page, tuple(KEYS)[k % 3], 1 + k % 5, f'grace {k}')\n"
        "    page.keyboard.press('b'); page.keyboard.press('t'); page.keyboard.type('half an')\n"
        "    print('ready', flush=True)\n"
        "    page.wait_for_timeout(60000)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), address],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield _Other(process)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_keys_undo_skip_help_and_rows(source: Source) -> None:
    with served(source) as address, browser() as page:
        enter(page, address, "Ada")
        first = page.evaluate("location.pathname")
        page.keyboard.press("Enter")  # refused: nothing is answered
        assert page.evaluate("location.pathname") == first
        page.keyboard.press("k")
        until(page, "path => location.pathname !== path", first)
        until(page, "() => !document.querySelector('[data-key=u]').disabled")
        until(page, SETTLED)
        page.keyboard.press("u")
        until(page, "path => location.pathname === path", first)
        until(page, SETTLED)
        assert source.verdicts.all() == []
        page.keyboard.press("?")
        assert page.evaluate("document.querySelector('#help').open")
        page.keyboard.press(" ")
        assert page.evaluate("document.querySelector('[data-amplified]').open")
        page.keyboard.press("h")
        assert page.evaluate("document.querySelector('[data-rows]').className") == "rows swapped"
        page.keyboard.press("t")
        page.keyboard.type("mkuh? 5")  # letters in the text are letters
        assert page.input_value("[name=reason]") == "mkuh? 5"
        page.keyboard.press("Escape")
        page.keyboard.press("m")
        assert page.is_checked("[name=answer][value=main_object]")


def test_judging_works_without_scripts_and_without_a_mouse(source: Source) -> None:
    with served(source) as address, browser(java_script_enabled=False) as page:
        page.goto(f"{address}/judge")
        page.focus("[name=name]")
        page.keyboard.type("Ada")
        page.keyboard.press("Enter")
        page.wait_for_url("**/judge/*/*")
        page.focus("[name=answer]")
        page.keyboard.press(" ")
        page.keyboard.press("Tab")
        page.keyboard.press(" ")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Tab")
        page.keyboard.type("the tint")
        page.keyboard.press("Tab")
        before = page.url
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: url != before)
        (stored,) = source.verdicts.all()
        assert (stored.answer, stored.confidence, stored.reason) == ("background", 2, "the tint")


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("judged", [False, True])
def test_pages_fit_their_window_and_keep_their_policy(
    source: Source, width: int, judged: bool
) -> None:
    if judged:
        judge_all(source, lambda c, _: "background" if c % 3 else "main_object")
        judge_all(source, lambda c, _: "background" if c % 2 else "main_object", "Grace")
        source.measure()
    f = source.audit.features(1)[0].feature
    with served(source) as address, browser(viewport={"width": width, "height": 900}) as page:
        said: list[str] = []
        page.on(
            "console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "response", lambda r: said.append(f"{r.status} {r.url}") if r.status >= 400 else None
        )
        enter(page, address, "Lin")
        for path in ("/classes", "/class/1", f"/class/1?by={f}", f"/class/1/feature/{f}",
                     f"/judge/1/{f}", "/agreement", "/bias", "/models", "/repair", "/labels",
                     "/cues", "/login"):  # fmt: skip
            page.goto(address + path)
            page.wait_for_load_state("networkidle")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path} is {wide} pixels wide"
        assert said == []


def test_a_server_that_is_gone_loses_no_text(source: Source) -> None:
    with browser() as page:
        with served(source) as address:
            enter(page, address, "Ada")
        page.keyboard.press("b")
        page.keyboard.press("3")
        page.keyboard.press("t")
        page.keyboard.type("an hour of thought")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]")
        assert "does not answer" in page.inner_text("[role=alert]")
        assert page.input_value("[name=reason]") == "an hour of thought"
