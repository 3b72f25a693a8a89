"""Every page, and the same values as JSON."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from app_help import CPU, NASTY, Person, judge_all

from truecue.audit.make import AuditSettings, make_audit
from truecue.audit.measure import measure_gaps
from truecue.metrics.agreement import agreement
from truecue.repair.earlier import compared
from truecue.repair.tune import TuneSettings

pytest.importorskip("fastapi", reason="the app's packages are not installed")

from truecue.app.pictures import core_features

if TYPE_CHECKING:
    from pathlib import Path

    from truecue.app.source import Source
    from truecue.data.sets import Splits


def addresses(source: Source) -> list[str]:
    """Every page that there is."""
    f = source.audit.features(0)[0].feature
    return ["/classes", "/class/0", f"/class/0/feature/{f}", f"/judge/0/{f}", "/agreement", "/bias",
            "/models", "/repair", "/labels", "/cues", "/directions"]  # fmt: skip


def biased(source: Source) -> None:
    """Verdicts that make every class's first feature spurious."""
    first = {c: source.audit.features(c)[0].feature for c in range(len(source.classes))}
    judge_all(source, lambda c, f: "background" if first[c] == f else "main_object")
    source.measure()


@pytest.mark.parametrize("state", ["new", "judged"])
def test_every_page_is_there_for_people_and_for_programs(
    source: Source, judge: Callable[..., Person], state: str
) -> None:
    if state == "judged":
        biased(source)
    ada = judge("Ada")
    for address in addresses(source):
        page, twin = ada.get(address), ada.get(f"{address}.json")
        assert page.status_code == twin.status_code == 200, address
        assert page.headers["content-type"].startswith("text/html")
        assert "<h1>" in page.text, address
        assert isinstance(twin.json(), dict), address
    schema = ada.json("/openapi.json")
    known = {path for path in schema["paths"] if path.endswith(".json")}
    assert len(known) == len(addresses(source))
    for path in known:
        answer = schema["paths"][path]["get"]["responses"]["200"]
        assert "$ref" in answer["content"]["application/json"]["schema"], path


def test_names_of_classes_are_text_on_every_page(
    source: Source, judge: Callable[..., Person]
) -> None:
    biased(source)
    ada = judge("Ada")
    shown = 0
    for address in addresses(source):
        page = ada.get(address).text
        assert NASTY not in page, address
        shown += "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in page
    assert shown >= 5


def test_overview_says_what_is_judged_spurious_and_costs(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada = judge("Ada")
    before = ada.json("/classes.json")
    assert (before["judged"], before["spurious"], before["stale"]) == (0, 0, False)
    assert {row["state"] for row in before["rows"]} == {"not annotated"}
    assert {row["why"] for row in before["rows"]} == {"not annotated"}
    biased(source)
    after = ada.json("/classes.json?sort=gap")
    assert after["judged"] == after["pairs"] == len(source.audit.pairs())
    assert after["spurious"] == len(source.classes)
    gaps = {row["class"]: row["gap"]["value"] for row in source.by_verdicts("test")["classes"]}  # type: ignore[index]
    shown = [(row["index"], row["gap"]["value"]) for row in after["rows"]]
    assert dict(shown) == pytest.approx(gaps)
    assert [g for _, g in shown] == sorted((g for _, g in shown), reverse=True)
    assert after["macro"]["value"] == pytest.approx(sum(gaps.values()) / len(gaps))
    assert all(row["features"][0]["state"] == "spurious" for row in after["rows"])


def test_overview_is_searched_by_name_and_number(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada = judge("Ada")
    for q, wanted in (("SCRIPT", [0]), ("7", [7]), ("nothing like it", [])):
        found = ada.json(f"/classes.json?q={q}")
        assert [row["index"] for row in found["rows"]] == wanted
    assert "No class is called" in ada.get("/classes?q=nothing+like+it").text
    names = [row["name"] for row in ada.json("/classes.json?sort=name")["rows"]]
    assert names == sorted(names, key=str.lower)


def test_overview_says_that_verdicts_are_newer_than_gaps(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada = judge("Ada")
    f = source.audit.features(3)[0].feature
    ada.answer(3, f)
    page = ada.json("/classes.json?sort=index")
    assert page["stale"]
    assert page["rows"][3]["why"] == "not measured yet"
    assert ada.post("/measure", back="/classes").headers["location"] == "/classes"
    page = ada.json("/classes.json?sort=index")
    assert not page["stale"]
    assert page["rows"][3]["gap"]["value"] is not None
    assert page["rows"][4]["gap"]["value"] is None


def test_feature_page_shows_votes_and_where_else_the_feature_matters(
    source: Source, judge: Callable[..., Person]
) -> None:
    pairs = source.audit.pairs()
    shared = next(p for p in pairs if sum(q.feature == p.feature for q in pairs) > 1)
    c, f = shared.class_index, shared.feature
    judge("Ada").answer(c, f, "background", reason="the <tint>")
    judge("Grace").answer(c, f, "separate_object", confidence="2")
    alan = judge("Alan")
    alan.answer(c, f, "main_object")
    page = alan.json(f"/class/{c}/feature/{f}.json")
    assert (page["state"], page["kind"]) == ("spurious", "ambiguous")
    assert (page["answers"], page["spurious_votes"]) == (3, 2)
    assert {(v["annotator"], v["answer"], v["confidence"]) for v in page["votes"]} == {
        ("Ada", "background", 4), ("Grace", "separate_object", 2), ("Alan", "main_object", 4)
    }  # fmt: skip
    others = {n["class_index"] for n in page["elsewhere"]["not judged"]}
    assert others == {q.class_index for q in pairs if q.feature == f} - {c}
    assert {s["feature"] for s in page["siblings"]} == {
        q.feature for q in source.audit.features(c)
    } - {f}
    assert [cell["image"] for cell in page["top"]] == source.audit.strongest(c, f)
    assert [g["split"] for g in page["gaps"]] == ["val", "test"]
    assert "the &lt;tint&gt;" in alan.get(f"/class/{c}/feature/{f}").text
    assert alan.get(f"/class/{c}/feature/9999").status_code == 404
    assert "has no feature 9999" in alan.get(f"/class/{c}/feature/9999.json").json()["error"]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_strips_walk_the_whole_ranking(
    source: Source, judge: Callable[..., Person], split: str
) -> None:
    ada, f = judge("Ada"), source.audit.features(2)[1].feature
    mine = (source.audit.labels(split) == 2).nonzero().squeeze(1).tolist()
    seen: list[dict[str, Any]] = []
    while len(seen) < len(mine):
        page = ada.json(f"/class/2.json?split={split}&by={f}&start={len(seen)}")
        assert page["total"] == len(mine)
        seen += page["images"]
    assert sorted(r["image"] for r in seen) == sorted(mine)
    assert [r["score"] for r in seen] == sorted(r["score"] for r in seen)
    assert [r["rank"] for r in seen] == list(range(1, len(mine) + 1))
    says = source.audit.predicted(split)
    assert all(r["predicted"] == int(says[r["image"]]) for r in seen)
    assert all(r["right"] == (r["predicted"] == 2) for r in seen)
    ends = min(8, len(mine) // 2)
    assert [r["image"] for r in page["low"]] == [r["image"] for r in seen[:ends]]
    assert [r["image"] for r in page["high"]] == [r["image"] for r in seen[-ends:]]
    assert page["k"] == min(round(0.2 * len(mine)), len(mine) // 2)
    walked = ada.json(f"/class/2.json?split={split}&by={f}&rank=4")
    assert walked["images"][0] == seen[3]


def test_strips_by_spuriosity_need_a_spurious_feature(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada = judge("Ada")
    assert "No feature of this class has been judged" in ada.get("/class/0").text
    biased(source)
    page = ada.json("/class/0.json?split=test")
    s, y = source.audit.spuriosity("test"), source.audit.labels("test")
    assert page["total"] == int((y == 0).sum())
    for r in page["images"]:
        assert r["score"] == pytest.approx(float(s[r["image"]]))
    assert ada.get("/plot/histogram.svg?split=test&c=0").text.startswith("<?xml")
    assert ada.get("/class/0?split=elsewhere").status_code == 404
    assert ada.get("/class/77").status_code == 404


def test_bias_page_has_the_measured_gaps(source: Source, judge: Callable[..., Person]) -> None:
    ada = judge("Ada")
    assert not ada.json("/bias.json")["measured"]
    assert "Nothing to measure yet" in ada.get("/bias").text
    assert ada.get("/plot/ends.svg?split=test").status_code == 404
    biased(source)
    for split in ("val", "test"):
        page, told = ada.json(f"/bias.json?split={split}"), source.by_verdicts(split)
        assert told is not None
        assert page["macro"]["value"] == told["macro"]["value"]
        assert page["null"]["low"] == told["null"]["low"]
        assert {r["index"]: r["gap"]["value"] for r in page["classes"]} == {
            r["class"]: r["gap"]["value"] for r in told["classes"]
        }
    assert [m["name"] for m in page["models"]] == ["audit", "mlp", "deep"]
    assert page["models"][0]["gap"] == pytest.approx(page["macro"]["value"])
    assert sum(m["robustness"] for m in page["models"]) == pytest.approx(0, abs=1e-6)
    for plot in ("ends", "gaps", "violins", "robustness"):
        assert "<svg" in ada.get(f"/plot/{plot}.svg?split=test").text, plot
    text = ada.get("/bias").text
    for command in (f"truecue repair {source.audit.folder}", "truecue train lff digits"):
        assert f"<code>{command}</code>" in text
    assert ada.get("/bias?split=train").status_code == 404


def test_models_page_compares_with_random_orders(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada = judge("Ada")
    assert "Nothing to compare yet" in ada.get("/models").text
    biased(source)
    page, ends = ada.json("/models.json"), source.ends("test")
    assert ends is not None
    found = agreement(ends.gaps)
    assert torch.tensor(page["r"]).allclose(found.r.float(), atol=1e-6)
    assert page["mean"] == pytest.approx(found.mean)
    assert page["mean_null"]["low"] <= page["mean_null"]["value"] <= page["mean_null"]["high"]
    assert page["draws"] >= 200
    for address in ("agreement.svg?split=test", "pair.svg?split=test&a=0&b=2"):
        assert "<svg" in ada.get(f"/plot/{address}").text, address
    assert ada.get("/plot/pair.svg?split=test&a=0&b=9").status_code == 404


def test_one_model_alone_has_nothing_to_compare(
    source: Source, judge: Callable[..., Person]
) -> None:
    source.others = ()
    biased(source)
    assert "There is one model" in judge("Ada").get("/models").text
    assert judge("Ada").json("/bias.json")["line"] is None
    assert "<svg" in judge("Ada").get("/plot/ends.svg?split=test").text


def test_annotators_page_counts_people_and_their_agreement(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada = judge("Ada")
    assert "Nobody has judged a feature yet" in ada.get("/agreement").text
    judge_all(source, lambda c, _: "background" if c % 2 else "main_object", "Ada")
    judge_all(source, lambda c, _: "separate_object" if c % 2 else "main_object", "Grace")
    judge_all(source, lambda c, _: "background" if c < 5 else "main_object", "Alan")
    f = source.audit.features(1)[0].feature
    ada.post("/gold", c=1, f=f, answer="background")
    page, told = ada.json("/agreement.json"), source.verdicts.aggregate()
    assert page["fleiss"] == pytest.approx(told.fleiss)
    assert {(t["a"], t["b"]): t["kappa"] for t in page["two"]} == pytest.approx(told.cohen)
    assert {p["name"]: (p["gold_right"], p["gold_answered"]) for p in page["people"]} == {
        "Ada": (1, 1), "Alan": (1, 1), "Grace": (0, 1)
    }  # fmt: skip
    assert page["disputed"]
    assert page["gold"][0]["answer"] == "background"
    assert page["disputed"][0]["agreement"] == pytest.approx(2 / 3)


def test_many_annotators_are_a_page_all_the_same(
    source: Source, judge: Callable[..., Person]
) -> None:
    from truecue.audit.verdicts import Judgement

    f, g = (found.feature for found in source.audit.features(0)[:2])
    people = [f"worker {i}" for i in range(20)]
    source.verdicts.add(*(Judgement(0, f, who, "background") for who in people),
                        *(Judgement(0, g, who, "main_object") for who in people))  # fmt: skip
    source.verdicts.add(Judgement(0, g, "worker 7", "background"))
    page = judge("Ada").json("/agreement.json")
    assert (len(page["two"]), page["more"]) == (100, 20 * 19 // 2 - 100)
    assert all("worker 7" in (t["a"], t["b"]) for t in page["two"][:19])


def test_repairs_are_shown_where_there_are_some(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada = judge("Ada")
    assert "truecue repair" in ada.get("/repair").text
    assert ada.get("/plot/repair.svg?split=test").status_code == 404

    def state(gap: float) -> dict[str, Any]:
        values = {"accuracy": 0.8, "low": 0.6, "high": 0.6 + gap, "gap": gap, "untouched": 0.5}
        ends = {k: {"value": v, "low": v - 0.1, "high": v + 0.1, "n": 9} for k, v in values.items()}
        return ends | {"curve": [0.6, None, 0.9]}

    parts = {part: state(0.3) for part in ("val", "test")}
    after = {part: state(0.05) for part in ("val", "test")}
    low = {
        "title": "low <b>",
        "parts": after,
        "change": {part: {"gap": {"value": -0.25, "low": -0.3, "high": -0.2},
                          "accuracy": {"value": 0.0, "low": 0.0, "high": 0.0}} for part in after},
        "model": "low.safetensors", "command": "truecue repair x --set tol=0.5",
        "over_seeds": None,
        "runs": [{"seed": 0, "images": 200, "chosen": 3, "reached": True, "wrong": 9, "log": []}],
    }  # fmt: skip
    folder = source.audit.folder / "repair"
    told = {"kind": "repair", "before": parts, "methods": {"low": low}, "notes": ["A note"],
            "sizes": {"val": 20, "test": 1234}, "repaired": [{"name": source.classes[0]}],
            "audit": str(folder.parent), "folder": str(folder), "facts": {"data": "digits"},
            "settings": TuneSettings(tol=0.5).to_dict(), "seeds": [0, 1, 2],
            "first": "low"}  # fmt: skip
    folder.mkdir()
    (folder / "repair.json").write_text(json.dumps(told))
    (folder / "low.json").write_text("{}")  # the card of the repaired model
    page = ada.json("/repair.json")
    assert (page["split"], page["n"]) == ("test", 1234)
    assert [(row["name"], row["gap"]["value"]) for row in page["rows"]] == [
        ("before", 0.3), ("low <b>", 0.05)
    ]  # fmt: skip
    assert page["rows"][1]["change"] == {"value": -0.25, "low": -0.3, "high": -0.2}
    of = source.audit.facts["model"]["digest"]
    for model, there in (("another", False), (of, True)):
        (folder / "repair.json").write_text(json.dumps(told | {"model": model}))
        assert ada.json("/repair.json")["there"] == there
    text = ada.get("/repair?split=val").text
    assert "low &lt;b&gt;" in text
    assert "no epoch was chosen by" in text
    assert page["headline"] == "low <b> changed the gap from +30.0 to +5.0 points"
    assert page["tone"] == "good"
    assert page["outcomes"] == [
        ["low <b>", "epoch 3 is kept; the gap is within 5 points; 200 images"]
    ]
    commands = [step["command"] for step in page["next"]]
    assert f"truecue audit digits --model {folder}/low.safetensors --out {folder.parent}-repaired" \
        in commands  # fmt: skip
    for said in ("epoch 3 is kept", "tol 0.5", "truecue repair x --set tol=0.5",
                 "What to do next", f"truecue repair {folder.parent} --method spufix"):  # fmt: skip
        assert said in text, said
    assert "Accuracy and gap, before and after" in text
    # a model that is as it was has no arrows, and nothing about it is worth auditing again
    same = json.loads(json.dumps(told))
    same["methods"]["low"]["parts"] = parts
    same["methods"]["low"]["runs"][0] |= {
        "chosen": 0, "log": [{"epoch": 0, "loss": None, "gap": 0.04, "accuracy": 0.8, "low": 0.6,
                              "high": 0.64}],
    }  # fmt: skip
    (folder / "repair.json").write_text(json.dumps(same))
    unmoved = ada.get("/repair?split=val").text
    assert "The model is as it was" in unmoved
    assert "Accuracy and gap, before and after" not in unmoved
    assert "No repair changed accuracy or gap on these images" in unmoved
    assert "--set target=0 --set tol=0.5" in unmoved
    (folder / "repair.json").write_text(json.dumps(told))
    for plot in ("repair", "curves"):
        assert "<svg" in ada.get(f"/plot/{plot}.svg?split=val").text
    assert ada.get("/repair?split=train").status_code == 404
    for broken in ("{", "{}", '{"before": {"test": 3}}'):
        (folder / "repair.json").write_text(broken)
        assert ada.get("/repair").status_code == 404, broken
    (folder / "repair.json").unlink()
    assert "Nothing has been repaired yet" in ada.get("/repair").text
    (folder / "low.safetensors").write_bytes(b"")  # written before the numbers, or without them
    assert ada.json("/repair.json")["models"] == ["low.safetensors"]
    text = ada.get("/repair").text
    assert "Nothing has been repaired yet" not in text
    assert "no numbers about them" in text


def test_a_repair_says_what_has_changed_since(source: Source, judge: Callable[..., Person]) -> None:
    ada, f = judge("Ada"), source.audit.features(3)[0].feature
    ada.answer(3, f)
    ada.post("/measure", back="/repair")

    def state(gap: float) -> dict[str, Any]:
        values = {"accuracy": 0.8, "low": 0.6, "high": 0.6 + gap, "gap": gap, "untouched": 0.5}
        ends = {k: {"value": v, "low": v - 0.1, "high": v + 0.1, "n": 9} for k, v in values.items()}
        return {part: ends | {"curve": [0.6, None, 0.9]} for part in ("val", "test")}

    change = {"gap": {"value": -0.2, "low": -0.3, "high": -0.1}}
    change["accuracy"] = change["gap"]
    folder = source.audit.folder / "repair"
    of = compared(source.audit, source.gaps()["stats_from"])
    told = {
        "kind": "repair", "model": source.audit.facts["model"]["digest"], "of": of,
        "before": state(0.3), "notes": [], "sizes": {"val": 20, "test": 40},
        "methods": {"spufix": {
            "title": "SpuFix", "parts": state(0.1), "change": {"val": change, "test": change},
            "model": "spufix.safetensors", "command": "", "over_seeds": None,
            "runs": [{"seed": None}],
        }},
        "repaired": [{"name": source.classes[3]}], "audit": str(folder.parent),
        "folder": str(folder), "facts": {"data": "digits"}, "seeds": [0], "first": "spufix",
        "settings": TuneSettings().to_dict(),
    }  # fmt: skip
    folder.mkdir()
    path = folder / "repair.json"
    path.write_text(json.dumps(told))
    assert ada.json("/repair.json")["since"] == []
    assert "Since this repair" not in ada.get("/repair").text
    assert "The model has been repaired" in ada.get("/bias").text
    ada.answer(3, f, "main_object")
    ada.answer(4, source.audit.features(4)[0].feature)
    ada.post("/measure", back="/repair")
    assert ada.json("/repair.json")["since"] == ["verdicts have changed"]
    text = ada.get("/repair").text
    assert "Since this repair, verdicts have changed: these numbers" in text
    assert "The model has been repaired" not in ada.get("/bias").text
    path.write_text(json.dumps(told | {"of": of | {"scaling": "train of then"}}))
    assert len(ada.json("/repair.json")["since"]) == 2
    path.write_text(json.dumps(told | {"of": of | {"images": {"test": "another"}}}))
    assert not ada.json("/repair.json")["there"]


def test_cues_are_shown_where_there_is_a_table(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada = judge("Ada")
    assert "No cues have been looked for" in ada.get("/cues").text
    effect = {"value": 0.4, "low": 0.3, "high": 0.5, "n": 9, "p": 0.001, "q": 0.002}
    row = {"name": "hue", "kind": "property", "about": "mean hue", "verdict": "alarm",
           "why": "It tells the class", "available": effect, "used": None, "how": None, "q": 0.0001,
           "classes": [{"name": "a", "tells": 0.5, "hangs": None}],
           "next": ["Augment it"]}  # fmt: skip
    told = {
        "kind": "cues",
        "cues": [row],
        "level": 0.1,
        "least": 0.05,
        "notes": [],
        "chance": 0.125,
    }
    (source.audit.folder / "cues.json").write_text(json.dumps(told))
    page = ada.json("/cues.json")
    assert page["counts"] == {"alarm": 1}
    assert page["rows"][0]["available"]["effect"] == {"value": 0.4, "low": 0.3, "high": 0.5}
    text = ada.get("/cues").text
    assert "1 cue raises an alarm" in text
    assert "&lt; 0.001" in text
    assert "12.5 %" in text


def negative(source: Source) -> int:
    """Verdicts and predictions that give a class a negative gap; the class."""
    c, f = 1, source.audit.features(1)[0]
    core = source.audit.features(1)[1].feature
    from truecue.audit.verdicts import Judgement

    source.verdicts.add(
        Judgement(c, f.feature, "Ada", "background"), Judgement(c, core, "Ada", "main_object")
    )
    for split in ("val", "test"):
        path = source.audit.folder / split / "predicted.npy"
        says = np.load(path)
        ids = source.audit.page(split, c, f.feature, count=10_000).ids
        says[ids] = c
        says[ids[-len(ids) // 3 :]] = 4
        np.save(path, says)
    source.audit.forget()
    source.measure()
    return c


def test_suspicious_labels_are_reviewed(source: Source, judge: Callable[..., Person]) -> None:
    ada = judge("Ada")
    assert "No class has a negative gap" in ada.get("/labels").text
    c = negative(source)
    page = ada.json("/labels.json")
    assert [found["index"] for found in page["classes"]] == [c]
    model = source.audit.folder / "model.safetensors"
    assert f"truecue audit digits --model {model} --out" in page["next"][1]["command"]
    assert page["next"][1]["command"] in ada.get("/labels").text
    first = page["classes"][0]["images"][0]
    assert first["says"] == "4"
    assert not first["agrees"]
    assert ada.get(f"/crop/test/{first['image']}").headers["content-type"] == "image/png"
    at = ada.post("/labels", split="test", image=first["image"], finding="several_objects")
    assert at.headers["location"] == f"/labels?split=test#image-{first['image']}"
    ada.post("/labels", split="test", image=first["image"], finding="label_wrong")
    judge("Grace").post("/labels", split="test", image=first["image"], finding="fine")
    found = ada.json("/labels.json")["classes"][0]["images"][0]
    assert found["mine"] == "label_wrong"
    assert found["said"] == {"label_wrong": 1, "fine": 1}
    rows = list(csv.DictReader(io.StringIO(ada.get("/labels.csv").text)))
    assert [(r["annotator"], r["finding"]) for r in rows] == [
        ("Ada", "label_wrong"), ("Grace", "fine")
    ]  # fmt: skip


def test_suspicious_labels_come_page_by_page(
    source: Source, judge: Callable[..., Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    from truecue.app.pages import labels

    c, ada = negative(source), judge("Ada")
    entry = next(e for e in source.by_verdicts("test")["suspects"] if e["class"] == c)  # type: ignore[index]
    # a second class with the same images' neighbours, so that a page ends within a class
    others = (source.audit.labels("test") == 2).nonzero().squeeze(1).tolist()[:4]
    rows = [{"image": i, "predicted": 5} for i in others]
    gaps = json.loads((source.audit.folder / "gaps.json").read_text())
    found = gaps["splits"]["test"]["verdicts"]["suspects"]
    found[:] = [entry, {"class": 2, "gap": -0.2, "images": rows}]
    (source.audit.folder / "gaps.json").write_text(json.dumps(gaps))
    everything = [row["image"] for e in found for row in e["images"]]
    assert 'rel="next"' not in ada.get("/labels").text
    monkeypatch.setattr(labels, "PER_PAGE", 3)
    seen: list[int] = []
    for start in range(0, len(everything), 3):
        page = ada.json(f"/labels.json?start={start}")
        assert (page["start"], page["total"]) == (start, len(everything))
        here = [s["image"] for found in page["classes"] for s in found["images"]]
        assert len(here) == min(3, len(everything) - start)
        assert {f["index"]: f["total"] for f in page["classes"]}.items() <= {
            c: len(entry["images"]), 2: 4}.items()  # fmt: skip
        seen += here
        text = ada.get(f"/labels?split=test&start={start}").text
        assert ('rel="prev"' in text) == (start > 0)
        assert ('rel="next"' in text) == (start + 3 < len(everything))
    assert seen == everything
    last = (len(everything) - 1) // 3 * 3
    for beyond in (last + 1, 10_000):
        assert ada.json(f"/labels.json?start={beyond}")["start"] == last
    assert ada.json("/labels.json?start=-5")["start"] == 0
    # an answer leads back to the page that it was given on
    at = ada.post("/labels", split="test", image=everything[-1], finding="fine")
    assert at.headers["location"] == (f"/labels?split=test&start={last}#image-{everything[-1]}")
    assert f'id="image-{everything[-1]}"' in ada.get(at.headers["location"]).text


def test_components_are_judged_like_features(
    source: Source, digits: Splits, tmp_path: Path
) -> None:
    from truecue.app.source import Source as Sources

    settings, folder = AuditSettings(components=1), tmp_path / "components"
    made = make_audit(folder, digits, source.audit.model(), settings=settings, device=CPU)
    measure_gaps(made)
    ada = Person(Sources(made, digits), "Ada")
    f = made.features(3)[-1].feature
    page = ada.json(f"/class/3/feature/{f}.json")
    assert (page["name"], page["is_component"]) == ("component 1", True)
    assert page["elsewhere"] == {}  # other classes' components are other directions
    text = ada.get(f"/class/3/feature/{f}").text
    assert "A principal component of what all features add" in text
    assert "/picture/heat/3/" not in text.split("Other features of")[0]
    question = ada.get(f"/judge/3/{f}").text
    assert "What sets the most activating images apart" in question
    assert ada.answer(3, f).status_code == 303
    assert [j.feature for j in made.verdicts().all()] == [f]


def test_only_images_that_are_up_for_review_are_reviewed(
    source: Source, judge: Callable[..., Person]
) -> None:
    c, ada = negative(source), judge("Ada")
    other = int((source.audit.labels("test") != c).nonzero()[0])
    assert ada.post("/labels", split="test", image=other, finding="fine").status_code == 422
    image = ada.json("/labels.json")["classes"][0]["images"][0]["image"]
    assert ada.post("/labels", split="test", image=image, finding="good").status_code == 422
    assert ada.get(f"/crop/test/{other}").status_code == 404
    assert source.reviews.all() == []
    assert judge().post("/labels", split="test", image=image, finding="fine").status_code == 303
    assert source.reviews.all() == []


def test_pictures_are_those_of_the_page(source: Source, judge: Callable[..., Person]) -> None:
    ada, f = judge("Ada"), source.audit.features(0)[0].feature
    shown = source.shown(0, f)
    seen = set()
    for row in ("heat", "amplified"):
        for i in shown.top:
            answer = ada.get(f"/picture/{row}/0/{f}/{i}")
            assert answer.headers["content-type"] == "image/png"
            seen.add(answer.content)
    assert len(seen) == 2 * len(shown.top)
    assert ada.get(f"/image/train/{shown.top[0]}").content not in seen
    source.robust = False
    fresh = judge("Ada")
    assert fresh.get(f"/picture/amplified/0/{f}/{shown.top[0]}").status_code == 404
    assert "amplified images are left out" in fresh.get(f"/class/0/feature/{f}").text.lower()


def test_a_class_is_described_where_the_folder_says_so(
    source: Source, judge: Callable[..., Person]
) -> None:
    told = {"3": {"group": "odd digits", "definition": "Two & one", "link": "javascript:alert(1)"}}
    (source.audit.folder / "classes.json").write_text(json.dumps(told))
    f = source.audit.features(3)[0].feature
    page = judge("Ada").get(f"/judge/3/{f}").text
    assert "odd digits" in page
    assert "Two &amp; one" in page
    assert "javascript:" not in page


def test_other_models_must_be_of_the_same_images(source: Source, digits: Any) -> None:
    from truecue.app.source import Source as Opened
    from truecue.audit.audit import Audit
    from truecue.errors import DataError

    other = Audit(source.audit.folder)
    other.facts["splits"]["test"]["digest"] = "another"
    with pytest.raises(DataError, match="only models on the same images"):
        Opened(Audit(source.audit.folder), digits, others=[other])


def test_images_may_move_but_not_change(source: Source, digits: Splits, tmp_path: Path) -> None:
    from dataclasses import replace

    from truecue.app.source import Source as Opened
    from truecue.audit.audit import Audit
    from truecue.data.sets import ArrayFile
    from truecue.engine.features import digest_of_set
    from truecue.errors import DataError

    audit = Audit(source.audit.folder)
    paths = [tmp_path / "decoded.npy", tmp_path / "again.npy"]
    for path in paths:
        np.save(path, digits.test.images[:].numpy())
    here, there = (replace(digits.test, images=ArrayFile(path)) for path in paths)
    audit.facts["splits"]["test"]["digest"] = digest_of_set(here)
    moved = replace(digits, test=there)
    assert Opened(audit, moved).data is moved
    audit, test = Audit(source.audit.folder), digits.test
    first = (test.y == 3).nonzero().squeeze(1)
    order = torch.arange(len(test))
    order[first] = first.flip(0)  # the same labels, other images
    others = replace(test, images=test.images[order])
    small = test.select(torch.arange(len(test) - 1))
    wrong = replace(test, y=test.y.flip(0))
    named = {name: replace(p, classes=("x", *p.classes[1:])) for name, p in digits.parts().items()}
    for changed in (replace(digits, test=others), replace(digits, test=small),
                    replace(digits, test=wrong), replace(digits, **named)):  # fmt: skip
        with pytest.raises(DataError, match="are not those of"):
            Opened(audit, changed)


def test_a_crop_goes_by_the_verdicts_of_now(source: Source, judge: Callable[..., Person]) -> None:
    c, ada = negative(source), judge("Ada")
    image = ada.json("/labels.json")["classes"][0]["images"][0]["image"]
    core = core_features(source, c)
    before = ada.get(f"/crop/test/{image}").content
    for f in core:  # the others are core now
        source.verdicts.remove(c, f, "Ada")
    assert ada.get(f"/crop/test/{image}").status_code == 404
    from truecue.audit.verdicts import Judgement

    source.verdicts.add(*(Judgement(c, f, "Ada", "main_object", 3, "x") for f in core))
    assert ada.get(f"/crop/test/{image}").content == before


def test_what_another_process_measured_is_shown_whole(
    source: Source, judge: Callable[..., Person]
) -> None:
    from truecue.audit.audit import Audit
    from truecue.audit.measure import measure_gaps

    ada = judge("Ada")
    first, second = (f.feature for f in source.audit.features(0)[:2])
    seen = []
    for spurious in (first, second):
        judge_all(source, lambda c, f: "background" if (c, f) == (0, spurious) else "main_object")  # noqa: B023
        measure_gaps(Audit(source.audit.folder))  # as `truecue audit --verdicts` does
        shown = [row["image"] for row in ada.json("/class/0.json?split=test")["images"]]
        assert shown == Audit(source.audit.folder).page("test", 0).ids.tolist()
        seen.append(shown)
    assert seen[0] != seen[1]


def test_an_audit_that_was_made_again_is_not_mixed_with_this_one(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada, path = judge("Ada"), source.audit.folder / "audit.json"
    assert ada.get("/bias").status_code == 200
    told = json.loads(path.read_text())
    told["model"]["digest"] = "another"
    path.write_text(json.dumps(told))
    gaps = path.with_name("gaps.json")
    os.utime(gaps, (0, 0))
    assert "start it again" in ada.get("/bias").text
