from __future__ import annotations

from typing import Any

import pytest
from report_sample import sample_report, wilson, without_bias

from truecue.report import steps, view, words


def told(report: dict[str, Any]) -> str:
    return words.verdict(report).headline.replace(view.SPACE, " ")


def with_scores(
    before: tuple[float, float] | None, after: tuple[float, float], n: int = 1000
) -> dict[str, Any]:
    """A report of two models with these accuracies on aligned and conflicting images."""
    report = sample_report()
    for name, pair in (("erm", before), ("denetdm", after)):
        if pair is None:
            report["before"] = None
            continue
        test = report["models"][name]["test"]
        test["aligned"], test["conflicting"] = wilson(pair[0], n), wilson(pair[1], n)
        test["unbiased"] = wilson(0.1 * pair[0] + 0.9 * pair[1], n)
    return report


def test_verdict_when_the_method_helped():
    report = with_scores((0.98, 0.23), (0.95, 0.71))
    assert told(report) == (
        "Plain training mostly looked at the colour: on images whose colour does not match, it was"
        " right on 23 % of them; DeNetDM was right on 71 %."
    )
    verdict = words.verdict(report)
    assert verdict.tone == "good"
    assert "a gap is left: 95" in verdict.details[0]
    assert "98\u00a0% to 95\u00a0%" in verdict.details[1]


def test_verdict_names_a_high_price():
    report = with_scores((0.99, 0.23), (0.6, 0.55))
    assert told(report).endswith(
        "The price: where the colour does match, it fell from 99 % to 60 %."
    )


def test_verdict_is_not_good_when_all_groups_together_got_worse():
    report = with_scores((0.99, 0.5), (0.2, 0.6))
    for name, value in (("erm", 0.8), ("denetdm", 0.3)):
        report["models"][name]["test"]["unbiased"] = wilson(value, 1000)
    assert words.verdict(report).tone == "unclear"


def test_verdict_when_the_intervals_overlap():
    report = with_scores((0.98, 0.50), (0.98, 0.52))
    assert "too close to call (the 95 % intervals overlap)" in told(report)
    assert words.verdict(report).tone == "unclear"
    assert steps.Step("Try another method; this lists them:", "truecue methods") in (
        steps.next_steps(report)
    )


def test_verdict_when_the_method_hurt():
    report = with_scores((0.98, 0.50), (0.98, 0.20))
    assert "DeNetDM made this worse: it was right on 20 %" in told(report)
    assert words.verdict(report).tone == "bad"
    assert "goes mostly by the colour" in words.verdict(report).details[0]


@pytest.mark.parametrize(
    ("variant", "plain", "says"),
    [
        ("linear", 0.258, "A plain last layer on the same encoder was right on 26 %: drawing"
         " errors more often added nothing."),
        ("linear", 0.245, "drawing errors more often added nothing that is beyond chance."),
        ("linear", 0.10, ""),
        ("semi", 0.258, "training the whole network with errors drawn more often added nothing."),
        ("supervised", 0.258, "The same network, trained plainly, was right on 26 %"),
    ],
)  # fmt: skip
def test_verdict_says_when_drawing_errors_more_often_added_nothing(
    variant: str, plain: float, says: str
):
    report = with_scores((0.99, 0.05), (0.95, 0.25))
    row = {"name": "plain: nothing drawn more often", "test": {"conflicting": wilson(plain, 1000)}}
    without = told(report)
    headline = told(report | {"lowrank": {"variant": variant, "table": [row]}})
    assert headline.startswith(without.removesuffix("."))
    assert (says in headline) if says else headline == without


def test_verdict_on_a_small_gain():
    report = with_scores((0.98, 0.50), (0.98, 0.53), n=100_000)
    assert "only a little more often, on 53 %" in told(report)


def test_verdict_when_plain_training_has_no_shortcut():
    report = with_scores((0.91, 0.90), (0.91, 0.90))
    assert told(report).startswith("Plain training did not visibly depend on the colour")
    assert "makes little difference" in words.verdict(report).details[0]


def test_verdict_without_intervals_claims_nothing():
    report = with_scores((0.98, 0.2), (0.98, 0.7))
    for model in report["models"].values():
        for name in ("aligned", "conflicting"):
            model["test"][name].update(low=None, high=None)
    assert told(report).startswith("Plain training mostly looked at the colour")
    assert "no proof of a difference" in told(report)


def test_verdict_on_one_model():
    text = told(with_scores(None, (0.9, 0.7)))
    assert text == (
        "DeNetDM leaned on the colour: on images whose colour does not match, it was right on 70 %"
        " of them."
    )


def test_verdict_without_bias_labels():
    report = without_bias(sample_report())
    assert told(report).startswith(
        "Plain training was right on 29 % of the test images, DeNetDM on"
    )
    assert told(report).endswith("cannot be told: there are no bias labels.")
    assert words.verdict(report).tone == "plain"


def test_verdict_with_groups_but_no_alignment():
    report = sample_report()
    report["task"]["aligned"] = None
    for model in report["models"].values():
        model["test"].update(aligned=None, conflicting=None)
    assert "in the group (class and colour) it handles worst; DeNetDM on" in told(report)


@pytest.mark.parametrize("report", [{}, {"task": {}, "models": {}}, {"models": {"a": {}}}])
def test_verdict_without_results(report: dict[str, Any]):
    assert told(report) == "This report holds no test results."


def test_titles_that_shorten_to_the_same_words_stay_apart():
    report = sample_report()
    report["models"]["denetdm"]["title"] = "Plain training (wider)"
    assert [side.short for side in view.shown(report)] == [
        "Plain training (ERM)",
        "Plain training (wider)",
    ]


def test_next_steps_quote_what_a_shell_would_read():
    report = sample_report()
    report["task"]["data"] = "my images; rm"
    commands = [step.command for step in steps.next_steps(report)]
    assert "truecue train denetdm 'my images; rm' --seed 1" in commands
    report["command"] = "truecue train lff 'a b' --seed 3 --set q=0.5 --out=x --fresh --out y"
    report["seed"] = 3
    commands = [step.command for step in steps.next_steps(report)]
    assert "truecue train lff 'a b' --set q=0.5 --seed 4" in commands
    report["command"] = "truecue train 'broken"
    assert steps.next_steps(report)
    report["next"] = [{"text": "Look", "command": "truecue app"}, {"text": "Rest"}]
    assert steps.next_steps(report) == [steps.Step("Look", "truecue app"), steps.Step("Rest")]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (None, 0, "–"),
        (0.0, 0, "0 %"),
        (1.0, 0, "100 %"),
        (0.999, 0, ">99 %"),
        (0.001, 0, "<1 %"),
        (0.9996, 1, ">99.9 %"),
        (0.234, 1, "23.4 %"),
    ],
)
def test_percent(value: float | None, digits: int, text: str):
    assert view.percent(value, digits).replace(view.SPACE, " ") == text


def test_numbers_read_well():
    assert view.interval(view.Measure(0.0, -1e-17, 0.16)) == "0–16\u00a0%"
    assert view.interval(view.Measure(0.5)) == ""
    assert [view.points(x) for x in (0.1, -0.1, -1e-9, None)] == ["+10.0", "−10.0", "±0.0", "–"]
    assert [view.seconds(x).replace(view.SPACE, " ") for x in (3, 600, 9000)] == [
        "3.0 s",
        "10 min",
        "2.5 h",
    ]
