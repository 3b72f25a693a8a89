"""Judging: what is asked, what is refused, what is stored, and that it is blind."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("fastapi", reason="the app's packages are not installed")

from truecue.app.pages import judge as judging

if TYPE_CHECKING:
    from app_help import Person

    from truecue.app.source import Source


def on_screen(page: object) -> tuple[int, int]:
    """The pair that a page asks about, by where it was redirected to."""
    found = re.fullmatch(r"/judge/(\d+)/(\d+)", page.url.path)  # type: ignore[attr-defined]
    assert found is not None, page
    return int(found[1]), int(found[2])


def test_somebody_must_say_who_they_are(source: Source, judge: Callable[..., Person]) -> None:
    nobody = judge()
    assert "Who judges?" in nobody.get("/judge").text
    f = source.audit.features(0)[0].feature
    assert nobody.get(f"/judge/0/{f}").url.path == "/judge"
    assert nobody.answer(0, f).headers["location"] == "/judge"
    assert source.verdicts.all() == []
    nobody.post("/who", name="  Ada \t Lovelace\x00 ")
    assert "Ada Lovelace" in nobody.get("/judge").text
    nobody.post("/who", name="")
    assert "Who judges?" in nobody.get("/judge").text


@pytest.mark.parametrize("name", ["masks", " text "])
def test_nobody_judges_under_the_name_of_automatic_answers(
    source: Source, judge: Callable[..., Person], name: str
) -> None:
    ada, f = judge("Ada"), source.audit.features(0)[0].feature
    refused = ada.post("/who", name=name)
    assert refused.status_code == 422
    assert "stands for answers that no person gave" in refused.text
    assert ada.get("/judge").url.path != "/judge"  # still Ada
    ada.http.cookies.set("truecue_name", name.strip(), domain="127.0.0.1")
    assert ada.answer(0, f).headers["location"] == "/judge"
    assert source.verdicts.all() == []


@pytest.mark.parametrize(
    ("lacking", "said"),
    [({"answer": ""}, "where the red region mainly is"),
     ({"answer": "the sky"}, "where the red region mainly is"),
     ({"confidence": ""}, "how confident you are"),
     ({"confidence": "6"}, "how confident you are"),
     ({"reason": " \n "}, "what is highlighted")],
)  # fmt: skip
def test_an_answer_is_refused_until_it_is_complete(
    source: Source, judge: Callable[..., Person], lacking: dict[str, str], said: str
) -> None:
    ada, f = judge("Ada"), source.audit.features(4)[0].feature
    given = {"answer": "background", "confidence": "4", "reason": "a <b>tint</b>"} | lacking
    page = ada.answer(4, f, **given)
    assert page.status_code == 422
    assert said in page.text
    assert source.verdicts.all() == []
    if "reason" not in lacking:
        assert "a &lt;b&gt;tint&lt;/b&gt;</textarea>" in page.text
    if "confidence" not in lacking:
        assert re.search(r'value="4"[^>]* checked', page.text)


def test_an_answer_is_stored_with_everything_that_was_shown(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada = judge("Ada")
    c, f = on_screen(ada.get("/judge"))
    assert ada.answer(c, f, "separate_object", reason=" a mark ").status_code == 303
    (stored,) = source.verdicts.all()
    found, shown = source.audit.feature(c, f), source.shown(c, f)
    assert (stored.class_index, stored.feature, stored.annotator) == (c, f, "Ada")
    assert (stored.answer, stored.confidence, stored.reason) == ("separate_object", 4, "a mark")
    assert (stored.class_name, stored.rank) == (source.classes[c], found.rank)
    assert stored.encoder == source.audit.subject.of(f)
    assert stored.group_rule == source.audit.facts["table"][c]["rule"]
    assert stored.images == (*shown.top, *shown.least)
    assert stored.started == 5.0
    assert stored.submitted is not None
    assert on_screen(ada.get("/judge")) != (c, f)


def test_everything_is_asked_once_and_then_it_is_done(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada, asked = judge("Ada"), []
    token = ada.token
    while (page := ada.get("/judge")).url.path != "/judge":
        asked.append(on_screen(page))
        skip = len(asked) == 3
        ada.answer(*asked[-1], token=token, action="skip" if skip else "submit")
    known = {(p.class_index, p.feature) for p in source.audit.pairs()}
    assert len(asked) == len(known)
    assert set(asked) == known
    assert "Nothing left to judge" in page.text
    assert on_screen(ada.get("/judge?skipped=1")) == asked[2]
    ada.answer(*asked[2])
    assert ada.get("/judge?skipped=1").url.path == "/judge"
    assert [p.answered for p in [judging.progress(source, "Ada")]] == [len(known)]


def test_a_skipped_pair_counts_for_nothing(source: Source, judge: Callable[..., Person]) -> None:
    ada, f = judge("Ada"), source.audit.features(0)[0].feature
    ada.post(f"/judge/0/{f}", action="skip", answer="background", confidence="3")
    (stored,) = source.verdicts.all()
    assert stored.answer is None
    assert source.judged().pairs == {}
    assert judging.progress(source, "Ada").skipped == 1


def test_undo_takes_back_the_last_answer_only(source: Source, judge: Callable[..., Person]) -> None:
    ada, grace = judge("Ada"), judge("Grace")
    first = on_screen(ada.get("/judge"))
    ada.answer(*first)
    second = on_screen(ada.get("/judge"))
    ada.answer(*second)
    grace.answer(*second)
    assert ada.post("/undo").headers["location"] == f"/judge/{second[0]}/{second[1]}"
    assert {(j.annotator, j.pair) for j in source.verdicts.all()} == {
        ("Ada", first), ("Grace", second)
    }  # fmt: skip
    assert on_screen(ada.get("/judge")) == second
    ada.post("/undo")
    assert ada.post("/undo").headers["location"] == "/judge"
    assert [j.annotator for j in source.verdicts.all()] == ["Grace"]


def test_a_second_answer_takes_the_place_of_the_first(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada, f = judge("Ada"), source.audit.features(0)[0].feature
    ada.answer(0, f, "background")
    ada.answer(0, f, "main_object")
    assert [j.answer for j in source.verdicts.all()] == ["main_object"]


def test_the_screen_is_blind(source: Source, judge: Callable[..., Person]) -> None:
    f = source.audit.features(5)[0]
    judge("Grace").answer(
        5, f.feature, "background", reason="Grace saw a violet hue", confidence="2"
    )
    source.measure()
    ada = judge("Ada")
    page = ada.get(f"/judge/5/{f.feature}").text
    twin = ada.json(f"/judge/5/{f.feature}.json")
    row = source.of_pairs("test")[5, f.feature]
    assert f.importance is not None
    assert f.share is not None
    told = f"{f.importance:.2f}", f"{100 * f.share:.1f} %", f"{row['gap']['value']:.2f}"
    for secret in ("Grace", "violet hue", "spurious", f.name, *told):
        assert secret not in page, secret
    assert not {"rank", "importance", "share", "gap", "gaps", "votes", "state"} & twin.keys()
    judge("Ada").answer(5, f.feature, "main_object", reason="my earlier words")
    assert "my earlier words" not in ada.get(f"/judge/5/{f.feature}").text
    assert not re.search(r'name="answer"[^>]* checked', ada.get(f"/judge/5/{f.feature}").text)


def test_the_order_does_not_give_importance_away(source: Source) -> None:
    ranks = {(p.class_index, p.feature): p.rank for p in source.audit.pairs()}
    orders = [judging.queue(source, f"person {i}") for i in range(40)]
    assert all(set(order) == ranks.keys() for order in orders)
    firsts = [ranks[next(p for p in order if p[0] == 3)] for order in orders]
    counts = [firsts.count(r) for r in range(1, 6)]
    assert max(counts) < 20  # of 40; a fixed order would have all 40 at one rank
    assert orders[0] == judging.queue(source, "person 0")


def test_gold_items_are_spread_among_the_others(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada = judge("Ada")
    gold = [(9, f.feature) for f in source.audit.features(9)[:3]]
    for c, f in gold:
        ada.post("/gold", c=c, f=f, answer="background")
    places = [judging.queue(source, "Ada").index(pair) for pair in gold]
    assert sorted(places) == [5, 15, 25]
    assert len(set(judging.queue(source, "Ada"))) == len(source.audit.pairs())
    assert ada.post("/gold", c=0, f=12345, answer="background").status_code == 422
    assert ada.post("/gold", c=9, f=gold[0][1], answer="sky").status_code == 422
    assert "No longer a gold item" in ada.get(f"/class/9/feature/{gold[0][1]}").text
    back = ada.post("/gold/remove", c=9, f=gold[0][1])
    assert back.headers["location"] == f"/class/9/feature/{gold[0][1]}"
    assert set(source.gold()) == set(gold[1:])
    assert "No longer a gold item" not in ada.get(f"/class/9/feature/{gold[0][1]}").text


def test_rows_of_the_study_leave_the_least_activating_images_out(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada, f = judge("Ada"), source.audit.features(0)[0].feature
    page = ada.get(f"/judge/0/{f}").text
    assert "Least activating images" in page
    ada.post("/rows", original="1", back=f"/judge/0/{f}")
    page = ada.get(f"/judge/0/{f}").text
    assert "Least activating images" not in page
    assert page.count("/picture/amplified/") == 5


def test_answers_leave_and_come_back_as_csv(source: Source, judge: Callable[..., Person]) -> None:
    ada, f = judge("Ada"), source.audit.features(0)[0].feature
    ada.answer(0, f, reason='said "so", twice\nand once more')
    text = ada.get("/verdicts.csv").text
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["WorkerId"] == "Ada"
    assert row["Input.wordnet_id"] == source.classes[0]
    assert row["Answer.main"] == "background"
    ada.post("/undo")

    def send(content: str) -> tuple[int, str]:
        sent = ada.http.post(
            "/verdicts", data={"token": ada.token}, files={"file": ("a <i>.csv", content)},
            follow_redirects=True,
        )  # fmt: skip
        return sent.status_code, sent.text

    code, page = send(text)
    assert code == 200
    assert "1 answers were read" in page
    (stored,) = source.verdicts.all()
    assert (stored.annotator, stored.reason) == ("Ada", 'said "so", twice\nand once more')
    code, page = send(text.replace(f",{f},", ",98765,"))
    assert code == 422
    assert "has no feature 98765" in page
    assert "a &lt;i&gt;.csv" in page
    code, page = send(text.replace(f",{f},1,", f",{f},2,"))
    assert code == 422
    assert "is number 2 in the file and number 1 in this audit" in page
    assert len(source.verdicts.all()) == 1


def test_answers_about_another_encoder_are_not_mistaken_for_this_one_s(
    source: Source, judge: Callable[..., Person]
) -> None:
    from truecue.audit.verdicts import Judgement

    f = source.audit.features(0)[0].feature
    source.verdicts.add(Judgement(0, f, "Ada", "background", 3, "x", encoder="another"))
    assert judging.progress(source, "Ada").answered == 0
    ada = judge("Ada")
    assert ada.json(f"/class/0/feature/{f}.json")["votes"] == []
    ada.answer(0, f, "main_object")
    assert [j.encoder for j in source.verdicts.all()] == ["another", source.audit.subject.of(f)]
    assert ada.post("/undo").headers["location"] == f"/judge/0/{f}"
    assert ada.post("/undo").headers["location"] == "/judge"
    assert [j.encoder for j in source.verdicts.all()] == ["another"]


def test_answers_that_cannot_be_read_are_told_in_a_sentence(
    source: Source, judge: Callable[..., Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, f = judge("Ada"), source.audit.features(0)[0].feature
    ada.answer(0, f)
    monkeypatch.setattr("truecue.app.source.TIMEOUT", 0.05)
    path = source.verdicts.path
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")  # in which a writer keeps readers out
        other.execute("BEGIN EXCLUSIVE")
        page = ada.get("/judge")
        assert page.status_code == 507
        assert "database is locked; answers stored before are intact" in page.text
        other.execute("ROLLBACK")
    path.write_text("no database at all, but long enough to be taken for one")
    page = ada.get("/judge")
    assert page.status_code == 404
    assert "is not a file of answers" in page.text


def test_undo_leaves_answers_about_features_that_are_gone(
    source: Source, judge: Callable[..., Person]
) -> None:
    from truecue.audit.verdicts import Judgement, Verdicts

    ada, f = judge("Ada"), source.audit.features(0)[0].feature
    ada.answer(0, f)
    anything = Verdicts(source.verdicts.path, None, source.audit.subject)
    anything.add(Judgement(0, 98765, "Ada", "background"))  # of a longer list of features
    assert ada.post("/undo").headers["location"] == f"/judge/0/{f}"
    assert [j.feature for j in source.verdicts.all()] == [98765]
