from __future__ import annotations

import pytest
from engine_parts import Toy, seeded, splits, stage

from truecue.engine import loop
from truecue.engine.loop import Watched
from truecue.engine.plan import (
    SGD,
    Adam,
    AdamW,
    Constant,
    Cosine,
    HeldCosine,
    Patience,
    Plan,
    Plateau,
    Steps,
    lr_factor,
)
from truecue.errors import ConfigError


@pytest.mark.parametrize(
    ("schedule", "table"),
    [
        (Constant(), {0: 1, 3.7: 1, 10: 1}),
        (Cosine(), {0: 1, 2.5: 0.853553, 5: 0.5, 7.5: 0.146447, 10: 0}),
        (
            Cosine(warmup=2),
            {0: 0, 0.5: 0.25, 1: 0.5, 2: 1, 4: 0.853553, 6: 0.5, 8: 0.146447, 10: 0},
        ),
        (Cosine(warmup=10), {5: 0.5, 9.5: 0.95}),
        (HeldCosine(), {0: 1, 4.9: 1, 5: 0.975528, 5.9: 0.975528, 9: 0.5}),
        (
            Steps(at=(3, 6), factor=0.1),
            {0: 1, 2.99: 1, 3: 0.1, 5.9: 0.1, 6: 0.01, 10: 0.01},
        ),
        (Steps(at=(4,), factor=0.5), {3.9: 1, 4.0: 0.5}),
        (Plateau(), {0: 1, 9: 1}),
    ],
)
def test_schedule_is_a_function_of_the_epoch(schedule, table) -> None:
    assert {epoch: lr_factor(schedule, epoch, 10) for epoch in table} == pytest.approx(
        table, abs=1e-6
    )


def test_loop_sets_each_groups_rate_in_the_middle_of_its_step() -> None:
    seen = []

    class Spy(Toy):
        def forward(self, batch):
            seen.append([g["lr"] for o in made.optimizers for g in o.param_groups])
            return super().forward(batch)

    plan = Plan(epochs=2, batch_size=24, optimizer=SGD(lr=0.4), schedule=Cosine(warmup=1))
    spec = stage(plan)
    made = loop._Loop(Spy(), spec)
    made.run(4, _bar(), _signal())
    # two steps in an epoch: the middles lie at epochs 0.25, 0.75, 1.25, 1.75
    assert [lr for (lr,) in seen] == pytest.approx(
        [0.1, 0.3, 0.4 * 0.853553, 0.4 * 0.146447], abs=1e-6
    )


def _bar():
    from truecue.engine.progress import Bar, _Silent

    return Bar("", 4, 2, 24, _Silent())


def _signal():
    from truecue.engine.signals import StopSignal

    return StopSignal()


def test_watched_stops_after_patience() -> None:
    plan = Plan(stop=Patience(epochs=2), select="val_loss")
    watched, story = Watched(), []
    for epoch, value in enumerate([3.0, 2.0, 2.5, 1.0, 1.0, 5.0], start=1):
        better = watched.observe(value, epoch, plan)
        story.append((better, watched.best, watched.best_epoch, watched.stops(plan)))
    assert story == [
        (True, 3.0, 1, False),
        (True, 2.0, 2, False),
        (False, 2.0, 2, False),
        (True, 1.0, 4, False),
        (False, 1.0, 4, False),  # equal is not better
        (False, 1.0, 4, True),
    ]


def test_watched_without_a_rule_to_stop_never_stops() -> None:
    watched = Watched()
    for epoch in range(1, 100):
        watched.observe(1.0, epoch, Plan())
    assert not watched.stops(Plan())


def test_watched_lowers_the_rate_on_a_plateau() -> None:
    plan = Plan(schedule=Plateau(factor=0.5, patience=1), select="val_loss")
    watched, factors = Watched(), []
    for epoch, value in enumerate([2, 2, 2, 2, 2, 1, 1, 1, 1], start=1):
        watched.observe(value, epoch, plan)
        factors.append(watched.factor)
    # one flat epoch is tolerated, the second one lowers the rate and starts the count again
    assert factors == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]


def test_the_first_value_is_always_kept() -> None:
    watched = Watched()
    assert watched.observe(float("inf"), 1, Plan())
    assert watched.best_epoch == 1
    assert watched.observe(7.0, 2, Plan())
    assert not watched.observe(float("inf"), 3, Plan())


def told(plan: Plan, values: list[float]) -> list[tuple[float, int, bool]]:
    """Rate, epochs waited and whether training stops, after each value."""
    watched, story = Watched(), []
    for epoch, value in enumerate(values, start=1):
        watched.observe(value, epoch, plan)
        story.append((round(watched.factor, 9), watched.waited, watched.stops(plan)))
    return story


def patient(epochs: int, plateau: int, *, threshold: float | None = None) -> Plan:
    return Plan(
        stop=Patience(epochs=epochs, least=1e-5),
        schedule=Plateau(patience=plateau, threshold=threshold),
        select="val_loss",
    )


@pytest.mark.parametrize("threshold", [None, 1e-5])
def test_stopping_and_a_plateau_as_the_code_of_sih_has_them(threshold: float | None) -> None:
    story = told(patient(2, 0, threshold=threshold), [5, 4, 4.1, 3.9, 3.95, 3.96])
    assert [rate for rate, _, _ in story] == [1, 1, 0.1, 0.1, 0.01, 0.001]
    assert [waited for _, waited, _ in story] == [0, 0, 1, 0, 1, 2]
    assert [stops for _, _, stops in story] == [False] * 5 + [True]

    story = told(patient(20, 9, threshold=threshold), [5, *[5.1] * 9, 4.9, *[5.0] * 20])
    rates, stops = [rate for rate, _, _ in story], [stops for _, _, stops in story]
    assert rates == [1] * 20 + [0.1] * 10 + [0.01]  # at epochs 20 and 30, counted from 0
    assert stops == [False] * 30 + [True]


def test_a_plateau_may_count_improvements_by_a_rule_of_its_own() -> None:
    """An absolute rule for stopping and a relative one for the rate, which can disagree."""
    values = [1.0, 0.999995, 0.99999]
    apart, together = (told(patient(2, 0, threshold=t), values) for t in (1e-5, None))
    assert apart == [(1, 0, False), (0.1, 1, False), (0.01, 0, False)]
    assert together == [(1, 0, False), (0.1, 1, False), (0.1, 0, False)]
    loose = Plan(stop=Patience(epochs=2), schedule=Plateau(patience=0), select="val_loss")
    assert told(loose, values) == [(1, 0, False)] * 3


def test_last_weights_where_training_was_not_stopped() -> None:
    """Smaller is better, and the watched value goes the wrong way: the first epoch is the best."""

    def trained(stop: Patience, epochs: int) -> tuple[dict[str, float], Toy]:
        learner, values = seeded(Toy), iter(range(9))
        plan = Plan(epochs=epochs, batch_size=16, stop=stop, select="val_loss")
        return loop.train(learner, stage(plan, watch=lambda: float(next(values)))), learner

    def weights(stop: Patience, epochs: int) -> list[float]:
        return trained(stop, epochs)[1].net.linear.weight.flatten().tolist()

    best, last = Patience(epochs=2), Patience(epochs=2, last_unless_stopped=True)
    first, second = (weights(last, epochs) for epochs in (1, 2))
    assert first != second
    assert weights(best, 2) == first
    assert weights(best, 5) == weights(last, 5) == first, "stopped: the best ones are kept"
    assert [trained(stop, 2)[0]["best_epoch"] for stop in (best, last)] == [1, 2]
    assert trained(last, 5)[0]["best_epoch"] == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epochs": 0}, "epochs must be greater than 0; got 0"),
        ({"schedule": {"kind": "steps", "at": (0,)}}, "schedule"),
        ({"schedule": {"kind": "cosin"}}, "cosin"),
        ({"optimizer": {"kind": "sgd", "nesterov": True, "momentum": 0}}, "nesterov needs"),
        ({"optimizer": {"kind": "adam", "momentum": 0.9}}, "no setting 'momentum'"),
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"augment": ("flop",)}, "flop|flip"),
        ({"select": "best"}, "val_loss"),
        ({"views": 3}, "views"),
        ({"average": 1.0}, "average"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Plan(**settings)


def test_nested_plan_survives_toml() -> None:
    plan = Plan(
        epochs=3,
        optimizer=AdamW(lr=3e-4, betas=(0.8, 0.99)),
        optimizer_of={"head": SGD(nesterov=True), "body": Adam()},
        turns=("head", "body"),
        schedule=Steps(at=(1, 2), factor=0.3),
        augment=("flip", "crop"),
        views=2,
        stop=Patience(epochs=4),
        select="val_worst_class",
        average=0.99,
    )
    assert Plan.from_toml(plan.to_toml()) == plan


def test_settings_of_a_plan_are_described() -> None:
    for model in (Plan, Adam, AdamW, SGD, Cosine, HeldCosine, Steps, Plateau, Patience):
        for name, field in model.model_fields.items():
            assert name == "kind" or field.description, f"{model.__name__}.{name}"


@pytest.mark.parametrize("plan", [Plan(stop=Patience()), Plan(schedule=Plateau())])
def test_stopping_and_plateau_need_a_rule(plan: Plan, tmp_path) -> None:
    from engine_parts import cpu

    from truecue.engine.judge import Judge
    from truecue.engine.run import Run

    data = splits()
    run = Run(None, 0, cpu(), judge=Judge(data, cpu()))
    with pytest.raises(ConfigError, match="need something to watch"):
        run.train("fit", lambda: seeded(Toy), data.train, plan)
