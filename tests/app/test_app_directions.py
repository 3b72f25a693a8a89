"""Judging directions: what is shown, what is stored under what, and who sees which answers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

pytest.importorskip("fastapi", reason="the app's packages are not installed")

from app_help import NASTY, Person

from truecue.app.probed import Probed
from truecue.app.source import Source
from truecue.directions.directions import Directions
from truecue.directions.probe import probe_classifier
from truecue.directions.view import ClassifierView
from truecue.errors import DataError
from truecue.nets.adapters import PlainGenerator
from truecue.nets.build import build
from truecue.report.probe_page import write_probe

if TYPE_CHECKING:
    from truecue.data.sets import Splits

NAMES = ("bright", "nothing", NASTY)


class Patches(torch.nn.Module):
    """Brightness of the whole, nothing, and of a corner."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        images = z[:, 0, None, None, None].sigmoid().repeat(1, 1, 8, 8) / 2
        images[:, :, :3, :3] += z[:, 2, None, None, None].sigmoid() / 2
        return images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes of a linear classifier of brightness."""
    out = tmp_path_factory.mktemp("probes") / "patches"
    generator = PlainGenerator(Patches(), dim=3, image_range=(0, 1))
    net = build("mlp-2x4", channels=1, size=8, n_classes=2)
    with torch.no_grad():
        for values in net.parameters():
            values.zero_()
        next(p for p in net.encoder.parameters() if p.dim() == 2)[0] = 0.1
        net.head.weight[:, 0] = torch.tensor([1.0, -1])
    directions = Directions(torch.eye(3), "axes", NAMES)
    see = ClassifierView(net, (1, 8, 8))
    found = probe_classifier(generator, directions, see, n=4, columns=3, null=100)
    write_probe(found, generator, directions, see, ["<dark>", "light"], None, out,
                {"model": "runs/erm", "seed": 0})  # fmt: skip
    return out


@pytest.fixture
def source(source: Source, digits: Splits, folder: Path) -> Source:
    return Source(source.audit, digits, probes=[Probed(folder)])


@pytest.fixture
def judge(source: Source) -> Callable[..., Person]:
    return lambda name="", **gate: Person(source, name, **gate)


def on_page(person: Person, name: str) -> dict:
    rows = person.json("/directions.json")["rows"]
    return next(row for row in rows if row["name"] == name)


def test_every_direction_with_its_pictures_and_numbers(
    judge: Callable[..., Person], folder: Path
) -> None:
    ada = judge("Ada")
    told = json.loads((folder / "probe.json").read_text())
    page = ada.json("/directions.json")
    assert [row["name"] for row in page["rows"]] == [NAMES[k] for k in told["to_judge"]["shown"]]
    assert (page["steps"], page["total"], page["own"]) == ([-3, 3], 3, False)
    for row in page["rows"]:
        known = told["directions"][row["k"]]
        assert [row[n] for n in ("flips", "change", "visible")] == [
            known[n] for n in ("flips", "change", "visible")]  # fmt: skip
    assert [on_page(ada, name)["visible"] for name in NAMES] == [True, False, True]
    assert on_page(ada, "nothing")["q"] is None
    assert on_page(ada, "bright")["q"] is not None
    text = ada.get("/directions").text
    assert text.count("<article") == 3
    assert NASTY not in text
    assert "which is not the model of this audit" in text
    for k in range(3):
        picture, figure = (ada.get(f"/{kind}/direction/0/{k}") for kind in ("picture", "plot"))
        assert picture.headers["content-type"] == "image/png"
        assert figure.headers["content-type"] == "image/svg+xml"
        assert "unsafe-inline" in figure.headers["content-security-policy"]
        assert f'src="/picture/direction/0/{k}"' in text
    assert "&lt;dark&gt;" in figure.text
    assert ada.get("/picture/direction/0/3").status_code == 404
    assert ada.get("/plot/direction/1/0").status_code == 404
    assert ada.get("/directions?probe=1").status_code == 404


def test_answers_are_kept_by_what_a_direction_is(
    source: Source, judge: Callable[..., Person], folder: Path
) -> None:
    ada, grace = judge("Ada"), judge("Grace")
    k = NAMES.index("bright")
    for person, answer, note in ((ada, "core", " the light "), (grace, "unclear", ""),
                                 (ada, "spurious", "=light")):  # fmt: skip
        sent = person.post("/directions", k=k, answer=answer, note=note)
        assert sent.status_code == 303
    stored = {j.annotator: j for j in source.directions.all()}
    assert {who: j.answer for who, j in stored.items()} == {"Ada": "spurious", "Grace": "unclear"}
    judged = json.loads((folder / "probe.json").read_text())["to_judge"]
    direction = stored["Ada"].direction
    assert list(direction.vector) == judged["vectors"]["bright"]
    assert (direction.generator, direction.classifier) == (judged["generator"],
                                                           judged["classifier"])  # fmt: skip
    shown = {name: judged[name] for name in ("space", "seed", "codes", "steps")}
    assert json.loads(direction.shown) == shown
    rows = list(csv.DictReader(io.StringIO(ada.get("/directions.csv").text)))
    assert [(r["annotator"], r["answer"], r["note"]) for r in rows] == [
        ("Grace", "unclear", ""), ("Ada", "spurious", "'=light")]  # fmt: skip
    row = on_page(ada, "bright")
    assert (row["mine"], row["note"], row["verdict"]) == ("spurious", "=light", "undecided")
    assert row["key"] == direction.key == rows[0]["direction"]
    # the same direction in another folder, of another classifier
    again = Source(source.audit, source.data, probes=[Probed(folder), Probed(folder)])
    other = Person(again, "Ada").json("/directions.json?probe=1")
    assert other["probes"] == ["patches", "patches"]
    assert {r["name"]: r["mine"] for r in other["rows"]}["bright"] == "spurious"
    assert source.verdicts.all() == []


def test_one_goes_on_to_what_is_not_answered_and_back(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada = judge("Ada")
    order = [row["k"] for row in ada.json("/directions.json")["rows"]]

    def current() -> list[int]:
        return [r["k"] for r in ada.json("/directions.json")["rows"] if r["current"]]

    for i, k in enumerate(order):
        assert current() == [k]
        assert ada.get("/directions").text.count('data-key="c"') == 1
        sent = ada.post("/directions", k=k, answer="core")
        onward = order[i + 1] if i + 1 < len(order) else k
        assert sent.headers["location"] == f"/directions#direction-{onward}"
    assert current() == []
    undone = ada.post("/directions/undo")
    assert undone.headers["location"] == f"/directions#direction-{order[-1]}"
    assert current() == [order[-1]]
    assert len(source.directions.all()) == 2


def test_what_others_said_is_hidden_until_one_has_answered(judge: Callable[..., Person]) -> None:
    ada, grace = judge("Ada"), judge("Grace")
    grace.post("/directions", k=0, answer="spurious", note="a lamp was switched on")
    assert "a lamp was switched on" not in ada.get("/directions").text
    assert "badge spurious" not in ada.get("/directions").text
    ada.post("/directions", k=0, answer="spurious")
    text = ada.get("/directions").text
    assert "a lamp was switched on" in text
    assert "badge spurious" in text


def test_answers_that_cannot_be(source: Source, judge: Callable[..., Person]) -> None:
    ada = judge("Ada")
    for values, status in (({"k": 0, "answer": "maybe"}, 422), ({"k": 9, "answer": "core"}, 422),
                           ({"k": 0, "answer": "core", "probe": 4}, 422),
                           ({"k": 0, "answer": "core", "token": "x"}, 403)):  # fmt: skip
        assert ada.post("/directions", **values).status_code == status, values
    nobody = judge()
    assert nobody.post("/directions", k=0, answer="core").headers["location"] == "/judge"
    assert "Say who you are" in nobody.get("/directions").text
    assert source.directions.all() == []


def test_folders_that_hold_no_directions_to_judge(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="holds no probed directions"):
        Probed(tmp_path)
    told = json.loads((folder / "probe.json").read_text())
    for broken in ({}, [], told | {"to_judge": {"vectors": {}}},
                   told | {"to_judge": told["to_judge"] | {"shown": [7]}}):  # fmt: skip
        (tmp_path / "probe.json").write_text(json.dumps(broken))
        with pytest.raises(DataError, match="run 'truecue directions probe' again"):
            Probed(tmp_path)


@pytest.mark.slow
def test_directions_are_judged_by_keys(source: Source) -> None:
    import test_app_browser as by_hand
    from app_help import served

    if not by_hand.CHROMIUM.exists():
        pytest.skip(f"there is no browser at {by_hand.CHROMIUM}")
    settled = f"({by_hand.SETTLED})()"
    framed = "() => document.querySelector('[data-current]')?.id ?? ''"
    with served(source) as address, by_hand.browser() as page:
        by_hand.enter(page, address, "Ada")
        page.goto(f"{address}/directions")
        first = page.evaluate(framed)
        page.keyboard.press("t")
        page.keyboard.type("scnu")  # letters, not keys
        page.keyboard.press("Escape")
        page.keyboard.press("s")
        by_hand.until(page, f"id => {settled} && ({framed})() !== id", first)
        second = page.evaluate(framed)
        page.keyboard.press("n")
        by_hand.until(page, f"id => {settled} && ({framed})() !== id", second)
        page.keyboard.press("u")
        by_hand.until(page, f"id => {settled} && ({framed})() === id", second)
        (stored,) = source.directions.all()
        assert (stored.answer, stored.note) == ("spurious", "scnu")
        assert page.is_visible(f"#{second}")
