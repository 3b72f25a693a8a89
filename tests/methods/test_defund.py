"""DeFund: scores, errors, draws, labelled shares, what is delivered, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from truecue import testing
from truecue.data.loader import Batch, Loader
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.plan import HeldCosine, lr_factor
from truecue.engine.run import Run
from truecue.errors import ConfigError, DataError
from truecue.losses.classification import ce
from truecue.losses.rank import rank_penalty
from truecue.losses.selfsup import nt_xent, simsiam, vicreg
from truecue.methods.defund import Biased, DeFund
from truecue.methods.lowrank import (
    LowRank,
    Probe,
    SelfSupervised,
    bias_scores,
    error_set,
    upweights,
)
from truecue.nets.build import build
from truecue.nets.classifier import Classifier
from truecue.testing import small_gratings


def net(arch: str = "conv3", size: int = 8, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return build(arch, channels=3, size=size, n_classes=2)


def batch(n: int = 6, size: int = 8) -> Batch:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, n, 3, size, size), generator=rng).to(torch.uint8)
    return Batch((x[0], x[1]), torch.arange(n) % 2, torch.arange(n))


def short(**settings) -> DeFund:
    plans = {f"{name}.epochs": 2 for name in ("plan", "pretrain", "probe")}
    return DeFund().override(plans | {"pretrain.batch_size": 64, "pretrain.augment": ["flip"]}
                             | settings)  # fmt: skip


def run(arch: str = "mlp-3", folder: Path | None = None) -> Run:
    return Run(folder, 0, Device("cpu"), arch=arch)


# --- scores, errors, draws ------------------------------------------------------------------------


def test_scores_of_given_logits() -> None:
    logits = torch.tensor([[2, 0], [0, 1], [0.5, 0], [-1, 1]])
    scores, wrong = bias_scores(logits, torch.tensor([0, 0, 1, 1]))
    assert scores.tolist() == pytest.approx([0.119203, 0.731059, 0.622459, 0.119203], abs=1e-6)
    assert wrong.tolist() == [False, True, True, False]
    assert error_set(scores[None], wrong[None], 0.9).tolist() == wrong.tolist()


def test_errors_of_several_models_are_those_of_the_mean_score() -> None:
    scores = torch.tensor([[0.9, 0.2, 0.6, 0.1], [0.8, 0.3, 0.4, 0.2], [0.7, 0.1, 0.5, 0.9]],
                          dtype=torch.float64)  # fmt: skip
    assert error_set(scores, scores > 0.5, 0.47).nonzero().flatten().tolist() == [0, 2]
    even = torch.full((2, 1), 0.5, dtype=torch.float64)
    assert not bool(error_set(even, even > 0, 0.5)), "a score at the cutoff is not above it"


def test_errors_are_drawn_as_often_as_they_should_be() -> None:
    errors = torch.arange(1000) < 100
    weights = upweights(errors, 10)
    assert weights.unique().tolist() == [1, 10]
    data = ImageSet(
        torch.zeros(1000, 1, 1, 1, dtype=torch.uint8), torch.arange(1000) % 2, ("a", "b")
    )
    loader = Loader(data, batch_size=1000, weights=weights)
    drawn = torch.cat([loader.batch(step).ids for step in range(100)])
    assert float(errors[drawn].double().mean()) == pytest.approx(0.5263, abs=0.005)
    assert upweights(torch.zeros(3, dtype=torch.bool), 10).tolist() == [1, 1, 1]


def test_rate_of_the_held_cosine() -> None:
    rates = [lr_factor(HeldCosine(), epoch + 0.5, 100) for epoch in range(100)]
    assert rates[:41] == [1.0] * 41
    assert rates[41] < 1
    assert rates[99] == pytest.approx(0.3605, abs=1e-4)
    assert lr_factor(HeldCosine(), 100, 100) == pytest.approx(0.345492, abs=1e-6)
    assert lr_factor(HeldCosine(hold=0.2), 100, 100) == pytest.approx(0.095492, abs=1e-6)
    assert lr_factor(HeldCosine(), 7.0, 20) == lr_factor(HeldCosine(), 7.9, 20)


# --- learners -------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 2.0])
@pytest.mark.parametrize("loss", ["simclr", "simsiam", "vicreg"])
def test_pretraining_minimises_loss_minus_penalty(loss, strength: float) -> None:
    torch.manual_seed(0)
    learner = SelfSupervised(net(), loss, strength=strength, tau=0.3, expander=32).train()
    b = batch()
    step = learner(b)
    features = learner.net.features(torch.cat(b.views))
    z = learner.projector(features)
    z1, z2 = z[:6], z[6:]
    if loss == "simclr":
        expected = nt_xent(z1, z2, 0.3).mean()
    elif loss == "vicreg":
        expected = vicreg(z1, z2)
    else:
        q = learner.predictor(z)
        expected = simsiam(q[:6], q[6:], z1, z2).mean()
    torch.testing.assert_close(step.logs["task"], expected.detach())
    torch.testing.assert_close(step.logs["rank_penalty"], rank_penalty(features).detach())
    torch.testing.assert_close(step.loss, expected - strength * rank_penalty(features))
    trained = {id(p) for p in learner.groups()["all"]}
    assert not trained & {id(p) for p in learner.net.head.parameters()}
    assert trained >= {id(p) for p in learner.net.encoder.parameters()}
    assert learner.branches() == {}


def test_heads_have_the_papers_shapes() -> None:
    def widths(module: torch.nn.Module) -> list[tuple[int, int, bool]]:
        layers = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
        return [(m.in_features, m.out_features, m.bias is not None) for m in layers]

    made = {k: SelfSupervised(net(), k, strength=0, tau=1, expander=40)  # type: ignore[arg-type]
            for k in ("simclr", "simsiam", "vicreg")}  # fmt: skip
    assert widths(made["simclr"].projector) == [(64, 64, True), (64, 128, True)]
    assert widths(made["simsiam"].projector) == [(64, 64, False), (64, 512, False)]
    assert widths(made["simsiam"].predictor) == [(512, 256, False), (256, 512, True)]
    assert widths(made["vicreg"].projector) == [(64, 40, True), (40, 40, True), (40, 40, False)]


def test_biased_training_with_labels_rewards_correlation() -> None:
    learner, b = LowRank(net().eval(), 3.0), batch()
    features = learner.net.features(b.x)
    expected = ce(learner.net(b.x), b.y).mean() - 3 * rank_penalty(features)
    torch.testing.assert_close(learner(b).loss, expected)


def test_a_probe_trains_the_last_layer_alone_and_leaves_statistics() -> None:
    one = net()
    before = {k: v.clone() for k, v in one.encoder.state_dict().items()}
    data = ImageSet(torch.randn(32, 64, 1, 1), torch.arange(32) % 2, ("a", "b"))
    trained = run().train("probe", lambda: Probe(one), data, short().probe).net
    for name, value in trained.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert {id(p) for p in Probe(one).groups()["all"]} == {id(p) for p in one.head.parameters()}


# --- the whole ------------------------------------------------------------------------------------


def test_what_is_delivered_and_published(tmp_path: Path) -> None:
    made, data = run(folder=tmp_path), small_gratings()
    result = short(strengths=[2.0]).fit(data, made)
    roles = {name: branch.role for name, branch in made.branches.items()}
    assert roles == {"plain": "", "biased-2": "biased", "errors-0": "", "debiased": "debiased"}
    assert made.branches["debiased"].net is result
    plain = made.branches["plain"].net
    for name, value in result.encoder.state_dict().items():
        assert torch.equal(value, plain.encoder.state_dict()[name]), "one encoder, unregularised"
    assert not torch.equal(result.head.weight, plain.head.weight)
    found = load_file(tmp_path / "once" / "errors.safetensors")
    logits = made.branches["biased-2"].net(data.train.images)
    torch.testing.assert_close(found["scores"][1], bias_scores(logits, data.train.y)[0],
                               rtol=0, atol=1e-5)  # fmt: skip
    assert torch.equal(found["errors"], logits.argmax(1) != data.train.y)
    assert list(made.stages) == ["pretrain-0", "probe-0", "pretrain-2", "probe-2", "fit-0", "fit"]


def test_errors_are_what_the_last_layer_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Tensor | None] = {}
    train = Run.train

    def spy(self, stage, make, data, plan, *, weights=None, watch=None):
        seen[stage] = weights
        return train(self, stage, make, data, plan, weights=weights, watch=watch)

    monkeypatch.setattr(Run, "train", spy)
    made = run()
    short(strengths=[2.0], upweight=7.0).fit(small_gratings(), made)
    found = made.told["errors"]
    assert seen["fit"] is not None
    assert seen["fit-0"] is not None
    assert torch.equal(seen["fit"], upweights(found["errors"], 7))
    assert torch.equal(seen["fit-0"], upweights(found["wrong"][0], 7))
    assert seen["probe-0"] is seen["pretrain-2"] is None


def test_every_setting_reaches_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    made, plans = {}, {}

    def untrained(self, stage, make, data, plan, **_):
        made[stage], plans[stage] = make(), plan
        return made[stage]

    monkeypatch.setattr(Run, "train", untrained)
    method = short(loss="vicreg", temperature=0.3, expander=33, strengths=[2.0],
                   **{"probe.batch_size": 32, "plan.batch_size": 16})  # fmt: skip
    method.fit(small_gratings(), run())
    for strength in (0, 2):
        learner = made[f"pretrain-{strength}"]
        assert (learner.loss, learner.strength, learner.tau) == ("vicreg", strength, 0.3)
        assert next(learner.projector.children()).out_features == 33
        assert plans[f"pretrain-{strength}"] == method.pretrain
        assert plans[f"probe-{strength}"] == method.probe
    assert plans["fit-0"] == plans["fit"] == method.plan


def test_several_strengths_share_the_encoder_without_penalty() -> None:
    made = run()
    short(strengths=[0.0, 1.0, 2.0], cutoff=0.4).fit(small_gratings(), made)
    assert [s for s in made.stages if s.startswith("pretrain")] == [
        "pretrain-0", "pretrain-1", "pretrain-2",
    ]  # fmt: skip
    found = made.told["errors"]
    assert torch.equal(found["errors"], found["scores"].mean(0) > 0.4)
    assert "errors-0" not in made.branches
    assert {"biased-0", "biased-1", "biased-2"} <= made.branches.keys()


def test_labelled_images_are_drawn_once_and_no_other_label_is_looked_at() -> None:
    data, method = small_gratings(), short(variant="semi", labelled=0.25, strengths=[2.0])
    made = run()
    result = method.fit(data, made)
    ids = made.told["errors"]["ids"]
    assert len(ids) == len(ids.unique()) == 64
    rest = torch.ones(256, dtype=torch.bool)
    rest[ids] = False
    y = data.train.y.clone()
    y[rest] = 1 - y[rest]
    again = method.fit(replace(data, train=replace(data.train, y=y)), run())
    for one, other in zip(result.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(
        result.encoder.state_dict()["layers.0.weight"],
        made.branches["plain"].net.encoder.state_dict()["layers.0.weight"],
    ), "the encoder is trained, too"
    other = Run(None, 1, Device("cpu"), arch="mlp-3")
    method.fit(data, other)
    assert not torch.equal(other.told["errors"]["ids"], ids)


def test_report_says_how_many_labels_were_used() -> None:
    assert DeFund().labels_used() == {"training": "class labels only", "choosing": "none"}
    said = DeFund(variant="semi", labelled=0.1).labels_used()["training"]
    assert said == "class labels of 10 % of the training images"


def test_supervised_variant_needs_no_pretraining() -> None:
    made = run()
    result = short(variant="supervised").fit(small_gratings(), made)
    assert list(made.stages) == ["biased-10", "fit"]
    assert made.branches["debiased"].net is result
    assert list(made.told["encoders"]["strengths"]) == [0, 10]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["semi", "supervised"])
def test_other_variants_pass_the_checks(variant: str, tmp_path: Path) -> None:
    method = DeFund(variant=variant, labelled=0.5)  # type: ignore[arg-type]
    for check in (testing.check_result, testing.check_seeds, testing.check_supervision):
        check(method, tmp_path / check.__name__)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["semi", "supervised"])
def test_other_variants_go_on_where_they_were(variant: str, tmp_path: Path) -> None:
    testing.check_continuation(DeFund(variant=variant, labelled=0.5), tmp_path)  # type: ignore[arg-type]


# --- warnings and refusals ------------------------------------------------------------------------


def warned(wrong: Tensor) -> list[str]:
    made, method = run(), DeFund(strengths=(1.0,))
    one = Biased(net(), torch.zeros(4, 2), torch.ones(3, 2), wrong.double(), wrong)
    method._errors({1.0: one}, torch.arange(4), made)
    return made.warnings


def test_warnings_about_errors_name_a_remedy() -> None:
    none, most = warned(torch.zeros(4) > 0), warned(torch.tensor([1, 1, 1, 0]) > 0)
    assert len(none) == len(most) == 1
    assert "strengths higher" in none[0]
    assert "wrong on 75.0%" in most[0]
    assert "strengths lower" in most[0]
    assert not warned(torch.tensor([1, 1, 0, 0]) > 0)


def test_a_share_without_a_label_for_a_class_is_refused() -> None:
    data = small_gratings()
    y = torch.zeros(256, dtype=torch.int64)
    y[1] = 1
    rare = Splits(replace(data.train, y=y), data.val, data.test, data.bias, data.aligned)
    way = r"none of them shows class 'vertical'. Set labelled to 1 \(all labels\), or variant"
    with pytest.raises(DataError, match=way):
        short(variant="semi", labelled=0.02).fit(rare, run())
    y[:10] = 1
    some = Splits(replace(data.train, y=y), data.val, data.test, data.bias, data.aligned)
    with pytest.raises(DataError, match=r"Set labelled to 0\.7 or more, or variant"):
        short(variant="semi", labelled=0.005).fit(some, run())


def test_fewer_images_than_a_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pretrain.batch_size is 300 and there are 256"):
        short(**{"pretrain.batch_size": 300}).fit(small_gratings(), run())


def test_a_frozen_encoder_is_refused() -> None:
    data = small_gratings()
    z = {n: replace(p, images=torch.zeros(len(p), 4, 1, 1)) for n, p in data.parts().items()}
    with pytest.raises(ConfigError, match="nothing left to train in a frozen one"):
        short().fit(Splits(**z), run())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pretrain.views": 1}, "pretrain.views must be 2"),
        ({"pretrain.select": "val_loss"}, "pretrain.select must be 'last'"),
        ({"probe.select": "val_worst_class"}, "probe.select must be 'last'"),
        ({"strengths": []}, "strengths"),
        ({"strengths": [-1.0]}, "strengths"),
        ({"strengths": [1.0, 1.0]}, "strengths must differ"),
        ({"strengths": [0.12345671, 0.12345672]}, "strengths must differ"),  # names of stages
        ({"temperature": 0}, "temperature"),
        ({"cutoff": 1.5}, "cutoff"),
        ({"upweight": 0.5}, "upweight"),
        ({"labelled": 0}, "labelled"),
        ({"loss": "simclrr"}, "loss"),
    ],
)
def test_settings_out_of_range(settings, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DeFund().override(settings)


def test_strengths_follow_loss_and_variant() -> None:
    assert DeFund().lambdas() == (1.2,)
    assert DeFund(loss="vicreg").lambdas() == (0.8,)
    assert DeFund(variant="supervised").lambdas() == (10.0,)
    assert DeFund(loss="simsiam", strengths=(0.5,)).lambdas() == (0.5,)
