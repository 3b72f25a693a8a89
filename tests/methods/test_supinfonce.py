"""ε-SupInfoNCE with FairKL: what a step minimises, whose labels are used, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import truecue
from truecue.data.loader import Batch
from truecue.data.sets import Attribute, ImageSet, Splits
from truecue.engine import learner as learners
from truecue.engine.device import Device
from truecue.engine.learner import with_others
from truecue.engine.plan import Adam, Plan
from truecue.engine.run import Run
from truecue.errors import ConfigError, DataError, SupervisionError
from truecue.losses.contrastive import contrastive, similarities
from truecue.losses.fairkl import fairkl
from truecue.methods.base import Uses
from truecue.methods.supinfonce import Contrasting, SupInfoNCE, _warn_if_collapsed
from truecue.nets.build import build
from truecue.nets.pretrained import Pretrained
from truecue.nets.small import Unit
from truecue.testing import fit, same_bits, small_gratings

Y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
A = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0])


def batch(views: int = 1) -> Batch:
    rng = torch.Generator().manual_seed(0)
    x = [torch.randint(0, 256, (8, 3, 4, 4), generator=rng).to(torch.uint8) for _ in range(views)]
    return Batch(tuple(x), Y, torch.arange(8), {"tint": A})


def learner(settings: SupInfoNCE, guessed: torch.Tensor | None = None) -> Contrasting:
    torch.manual_seed(0)
    arch = "unit:mlp-3" if settings.train_on_head else "mlp-3"
    net = build(arch, channels=3, size=4, n_classes=2)
    bias = "tint" if guessed is None and settings.regularised else None
    return Contrasting(net, settings._top(net), settings, bias=bias, guessed=guessed)


def gradients(of: Contrasting, loss: torch.Tensor) -> dict[str, list[torch.Tensor | None]]:
    groups = {name: list(ps) for name, ps in of.groups().items()}
    return {
        name: list(torch.autograd.grad(loss, ps, retain_graph=True, allow_unused=True))
        for name, ps in groups.items()
    }


def test_a_step_is_contrastive_loss_and_fairkl_and_a_head_of_its_own() -> None:
    settings = SupInfoNCE(fairkl="kl", alpha=0.7, lambda_fairkl=0.3, eps=0.2, tau=0.5)
    of, b = learner(settings), batch()
    found = of(b)
    z = of.net.features(b.x)
    s = similarities(z)
    main = 0.7 * contrastive(s, Y, eps=0.2, tau=0.5).loss + 0.3 * fairkl(s, Y, A).loss
    head = F.cross_entropy(of.net.head(z.detach()), Y)
    torch.testing.assert_close(found.loss, main + head)
    whole, alone = gradients(of, found.loss), gradients(of, main)
    torch.testing.assert_close(whole["encoder"], alone["encoder"])  # nothing from the head
    assert alone["head"] == [None, None]
    torch.testing.assert_close(whole["head"], gradients(of, head)["head"])
    every = [id(p) for ps in of.groups().values() for p in ps]
    assert sorted(every) == sorted(id(p) for p in of.parameters())


ALONE = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1])  # the last one has no positive


@pytest.mark.parametrize(
    "settings",
    [{"loss": "supcon"}, {"loss": "supinfonce-in"}, {"base_temperature": 0.07},
     {"count_empty_anchors": True}],
)  # fmt: skip
def test_options_of_the_contrastive_loss(settings: dict[str, object]) -> None:
    of, b = learner(SupInfoNCE(fairkl="none", **settings)), batch()._replace(y=ALONE)  # type: ignore[arg-type]
    s = similarities(of.net.features(b.x))
    form = settings.pop("loss", "supinfonce")
    found, plain = contrastive(s, ALONE, form, **settings).loss, contrastive(s, ALONE).loss
    torch.testing.assert_close(of(b).logs["contrastive"], found.detach())
    assert not torch.allclose(found, plain), "it changes something here"


@pytest.mark.parametrize(
    ("fairkl_is", "settings"),
    [
        ("mean_std", {"kappa": 3.0}),
        ("kl", {"var_floor": 0.5}),
        ("means", {"empty": "zero"}),
        ("means", {"per_anchor": True}),
    ],
)
def test_options_of_fairkl(fairkl_is, settings: dict[str, object]) -> None:
    of = learner(SupInfoNCE(fairkl=fairkl_is, **settings))  # type: ignore[arg-type]
    tints = Y if "empty" in settings else A  # with those of the classes, two kinds lack pairs
    b = batch()._replace(attributes={"tint": tints})
    s = similarities(of.net.features(b.x))
    found, plain = fairkl(s, Y, tints, fairkl_is, **settings), fairkl(s, Y, tints, fairkl_is)  # type: ignore[arg-type]
    logs = of(b).logs
    torch.testing.assert_close(logs["fairkl_pos"] + logs["fairkl_neg"], found.loss.detach())
    assert not torch.allclose(found.loss, plain.loss), "it changes something here"


def test_two_views_are_positives_and_fairkl_sees_the_first() -> None:
    settings = SupInfoNCE(fairkl="kl", lambda_fairkl=0.5)
    of, b = learner(settings), batch(views=2)
    first, second = (of.net.features(x) for x in b.views)
    s = similarities(torch.cat([first, second]))
    expected = contrastive(s, torch.cat([Y, Y])).loss
    expected = expected + 0.5 * fairkl(similarities(first), Y, A).loss
    expected = expected + F.cross_entropy(of.net.head(first), Y)
    torch.testing.assert_close(of(b).loss, expected)


def test_layers_on_top_are_seen_by_the_contrastive_loss_alone() -> None:
    settings = SupInfoNCE(fairkl="kl", train_on_head=False, lambda_fairkl=0.5)
    of, b = learner(settings), batch()
    assert [type(m) for m in of.top] == [nn.Linear, nn.ReLU, nn.Linear]
    z = of.net.features(b.x)
    assert not torch.allclose(z.norm(dim=1), torch.ones(8))
    expected = contrastive(similarities(of.top(z)), Y).loss
    expected = expected + 0.5 * fairkl(similarities(z), Y, A).loss
    torch.testing.assert_close(of(b).loss, expected + F.cross_entropy(of.net.head(z), Y))


def test_guessed_probabilities_stand_for_labels() -> None:
    settings = SupInfoNCE(bias_from="biased_model")
    certain = learner(settings, F.one_hot(A, 2).float())(batch())
    torch.testing.assert_close(certain.loss, learner(SupInfoNCE())(batch()).loss)
    q = torch.rand(8, 2, generator=torch.Generator().manual_seed(1))
    of = learner(settings, q / q.sum(1, keepdim=True))
    s = similarities(of.net.features(batch().x))
    fair = fairkl(s, Y, q / q.sum(1, keepdim=True), "means")
    torch.testing.assert_close(of(batch()).logs["fairkl_pos"], fair.pos)


def test_logs_count_pairs_and_what_was_skipped() -> None:
    logs = learner(SupInfoNCE())(batch()).logs
    assert [float(logs[f"pairs_{k}"]) for k in ("PA", "PC", "NA", "NC")] == [12, 12, 12, 20]
    assert float(logs["skipped_pos"]) == float(logs["skipped_neg"]) == 0
    assert not any(value.requires_grad for value in logs.values())
    alone = batch()._replace(attributes={"tint": Y})  # no conflicting sample in this batch
    logs = learner(SupInfoNCE())(alone).logs
    assert float(logs["skipped_pos"]) == float(logs["skipped_neg"]) == 1
    assert float(logs["fairkl_pos"]) == float(logs["mean_PC"]) == float(logs["there_PC"]) == 0


def test_logs_count_guesses_as_the_likeliest_labels() -> None:
    n = 256
    y = torch.arange(n) % 2
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, 4, 4), generator=rng).to(torch.uint8)
    sure = torch.full((n, 2), 0.02).scatter(1, y[:, None], 0.98)  # none contradicts its label
    of, b = learner(SupInfoNCE(), sure), Batch((x,), y, torch.arange(n))
    fair = fairkl(similarities(of.net.features(x)), y, sure, "means")
    assert float(fair.moments.n[1]) > 1000, "crumbs of pairs"
    logs = of(b).logs
    assert [float(logs[f"pairs_{k}"]) for k in ("PA", "PC", "NA", "NC")] == [
        n * (n // 2 - 1), 0, 0, n * n // 2,
    ]  # fmt: skip
    assert float(logs["skipped_pos"]) == float(logs["skipped_neg"]) == 1
    torch.testing.assert_close(logs["fairkl_pos"], fair.pos.detach())
    other = sure.clone()
    other[:2] = sure[:2].flip(1)  # one of each class does
    logs = learner(SupInfoNCE(), other)(b).logs
    assert float(logs["pairs_PC"]) == float(logs["pairs_NA"]) == 2 * 2 * (n // 2 - 1)
    assert float(logs["skipped_pos"]) == float(logs["skipped_neg"]) == 0


# --- whose labels


@pytest.mark.parametrize(
    ("settings", "uses"),
    [
        ({}, Uses.TRAIN_ATTRIBUTES),
        ({"lambda_fairkl": 0}, Uses.LABELS),
        ({"fairkl": "none"}, Uses.LABELS),
        ({"lambda_fairkl": 0, "conflicting_per_batch": 4}, Uses.TRAIN_ATTRIBUTES),
        ({"bias_from": "biased_model"}, Uses.LABELS),
        ({"bias_from": "biased_model", "conflicting_per_batch": 4}, Uses.LABELS),
    ],
)
def test_supervision_follows_the_settings(settings, uses) -> None:
    assert SupInfoNCE(**settings).supervision() == uses


def test_reports_say_whose_bias_labels_were_used() -> None:
    given, guessed = SupInfoNCE(), SupInfoNCE(bias_from="biased_model")
    assert given.labels_used()["training"] == "class labels and bias labels of training images"
    assert guessed.labels_used()["training"] == "class labels only"


def test_guessing_looks_at_no_bias_label(tmp_path) -> None:
    method = SupInfoNCE(bias_from="biased_model", conflicting_per_batch=4).override(
        {"biased.batch_size": 64}
    )
    data = small_gratings()
    trained = fit(method, data, tmp_path)
    blind = Splits(data.train.blind(), data.val.blind(), data.test.blind())
    assert same_bits(trained, fit(method, blind))
    assert trained.report["models"]["supinfonce"]["branches"]["biased"]["role"] == "biased"
    assert (tmp_path / "supinfonce-biased.safetensors").exists()
    found = trained.report["pairs"]
    assert found["bias"] == "tint"
    assert found["trained_on_guesses"] is True
    found = fit(method, blind).report["pairs"]
    assert (found["bias"], found["guessed_by"]) == (None, "biased")


def test_without_fairkl_nothing_is_guessed() -> None:
    method = SupInfoNCE(bias_from="biased_model", lambda_fairkl=0)
    assert fit(method, small_gratings()).report["models"]["supinfonce"]["branches"] == {}


# --- what is refused


def test_absent_bias_labels_are_refused_with_a_way_out() -> None:
    data = small_gratings()
    blind = Splits(data.train.blind(), data.val, data.test.blind())
    with pytest.raises(SupervisionError) as error:
        fit(SupInfoNCE(), blind)
    text = str(error.value)
    assert (
        "use a method that does without (defund, denetdm, disent, erm, jtt, lc, lff, sih)" in text
    )
    assert "or set bias_from = 'biased_model' (guesses them" in text
    assert "lambda_fairkl = 0" in text
    fit(SupInfoNCE(lambda_fairkl=0), blind)


def with_tints(values: torch.Tensor) -> Splits:
    data = small_gratings()
    names = data.train.attributes["tint"].names
    train = replace(data.train, attributes={"tint": Attribute(values, names)})
    return Splits(train, data.val, data.test, bias="tint", aligned=torch.eye(2, dtype=torch.bool))


def test_training_images_without_a_conflicting_one_are_refused_with_the_count() -> None:
    data = with_tints(small_gratings().train.y.clone())
    with pytest.raises(DataError, match=r"0 of the 256 training images .* are conflicting"):
        fit(SupInfoNCE(), data)


@pytest.mark.parametrize("kind", ["one value", "crossed"])
def test_training_images_without_pairs_to_compare_are_refused(kind: str) -> None:
    y = small_gratings().train.y
    data = with_tints(torch.zeros_like(y) if kind == "one value" else 1 - y)
    with pytest.raises(DataError, match="each class comes with one 'tint' only"):
        fit(SupInfoNCE(), data)
    fit(SupInfoNCE(lambda_fairkl=0), data)


def test_bias_labels_none_of_which_is_known_are_refused_with_a_way_out() -> None:
    data = with_tints(torch.full((256,), -1))
    with pytest.raises(SupervisionError, match=r"0 of 256 .* set bias_from = 'biased_model'"):
        fit(SupInfoNCE(), data)
    fit(SupInfoNCE(lambda_fairkl=0), data)


def test_a_batch_without_conflicting_images_is_skipped_and_shown(tmp_path) -> None:
    y = small_gratings().train.y
    values = y.clone()
    values[0] = 1 - values[0]  # one conflicting image in 256
    method = SupInfoNCE().override({"plan.batch_size": 16})
    trained = fit(method, with_tints(values), tmp_path)
    history = trained.report["pairs"]["history"]
    assert [round(row["skipped"]["pos"] * 16) for row in history] == [15, 15]  # of 16 batches
    assert history[0]["pairs"]["NC"] > 100
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "that of images of one class in 94\u00a0% of the batches" in text
    forced = fit(method.override({"conflicting_per_batch": 2}), with_tints(values))
    assert [row["skipped"]["pos"] for row in forced.report["pairs"]["history"]] == [0, 0]


def test_unknown_bias_labels_are_left_out_with_a_warning() -> None:
    data = small_gratings()
    values = data.train.attributes["tint"].values.clone()
    values[:100] = -1
    trained = fit(SupInfoNCE(), with_tints(values))
    warnings = trained.report["models"]["supinfonce"]["warnings"]
    assert any("The 'tint' of 100 of 256 training images is not known" in w for w in warnings)


def test_images_of_unknown_bias_do_not_count_as_conflicting() -> None:
    data = small_gratings()
    y, values = data.train.y, data.train.attributes["tint"].values.clone()
    values[::3] = -1
    assert bool((y[values < 0] == 1).any()), "of a class that the first bias value is not of"
    found = SupInfoNCE()._conflicting(with_tints(values), run())
    assert torch.equal(found, (values >= 0) & (values != y))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"fairkl": "kl", "per_anchor": True}, "per_anchor is for fairkl = 'means'; it is 'kl'"),
        ({"fairkl": "official", "bias_from": "biased_model"}, "takes bias labels"),
        ({"conflicting_per_batch": 300}, "a batch of 256 cannot have 300 conflicting"),
    ],
)
def test_settings_that_do_not_go_together(settings, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        fit(SupInfoNCE(**settings), small_gratings())


@pytest.mark.parametrize(("right", "way"), [(1.0, "lower"), (0.4, "higher")])
def test_a_biased_network_that_says_nothing_is_warned_of(right: float, way: str) -> None:
    train = small_gratings().train

    made = []

    class Told(Run):
        def train(self, stage, make, data, plan, **_):
            made.append((make(), plan))
            return made[-1][0]

        def apply(self, fn, data):
            says = torch.where(torch.arange(len(data)) < right * len(data), data.y, 1 - data.y)
            return 9.0 * F.one_hot(says, 2)

    told = Told(None, 0, Device("cpu"))
    method = SupInfoNCE(bias_from="biased_model", biased=Plan(epochs=1), q=0.4)
    q, wrong = method._guess(train, told)
    assert (made[0][0].q, made[0][1]) == (0.4, Plan(epochs=1))
    assert float(wrong.float().mean()) == pytest.approx(1 - right, abs=0.01)
    torch.testing.assert_close(q.sum(1), torch.ones(256))
    assert "The biased network was wrong on" in told.warnings[0]
    assert f"Set biased.epochs {way}" in told.warnings[0]
    if right == 1:
        few = SupInfoNCE(bias_from="biased_model", biased=Plan(epochs=1), conflicting_per_batch=1)
        with pytest.raises(DataError, match="0 of the 256 training images wrong"):
            few._guess(train, Told(None, 0, Device("cpu")))


def test_a_collapsed_embedding_is_warned_of() -> None:
    method = SupInfoNCE(centred=False).override({"plan.optimizer.lr": 1e-9})
    warnings = fit(method, small_gratings()).report["models"]["supinfonce"]["warnings"]
    assert any("nearly the same embedding" in w for w in warnings)  # as `mlp-5` begins


@pytest.mark.parametrize(
    ("settings", "arch", "says", "says_not"),
    [
        ({"fairkl": "kl", "centred": False}, "conv3", ["'means'", "centred = true", "lambda"], []),
        ({"fairkl": "means", "centred": True}, "conv3", ["lambda"], ["'means'", "centred"]),
        ({"fairkl": "none", "centred": True}, "conv3", ["longer"], ["lambda", "centred", "means"]),
        ({"centred": False}, "simple_conv", ["longer"], ["centred"]),
        ({"centred": False, "train_on_head": False}, "conv3", ["longer"], ["centred"]),
    ],
)
def test_what_is_advised_against_a_collapse_is_not_set_yet(
    settings, arch: str, says: list[str], says_not: list[str]
) -> None:
    method, train, told = SupInfoNCE(**settings), small_gratings().train, run(arch)
    net = method._new_net(train, told)
    for parameter in net.encoder.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    _warn_if_collapsed(method, net.eval(), replace(train, images=train.images * 0 + 128), told)
    (warning,) = told.warnings
    assert all(part in warning for part in says), warning
    assert not any(part in warning for part in says_not), warning


# --- networks


def run(arch: str | None = None) -> Run:
    return Run(None, 0, Device("cpu"), arch=arch)


def test_networks() -> None:
    train = small_gratings().train
    made = SupInfoNCE()._new_net(train, run("simple_conv"))
    assert made.spec["arch"] == "unit:simple_conv-tanh"
    assert isinstance(made.encoder, Unit)
    made = SupInfoNCE(train_on_head=False)._new_net(train, run("simple_conv"))
    assert made.spec["arch"] == "simple_conv"
    assert SupInfoNCE()._new_net(train, run("unit:conv3")).spec["arch"] == "unit:conv3"
    assert SupInfoNCE()._new_net(train, run()).spec["arch"] == "unit:centred:mlp-5"
    assert SupInfoNCE(centred=False)._new_net(train, run()).spec["arch"] == "unit:mlp-5"


def test_centred_features_do_not_begin_in_one_place() -> None:
    train = small_gratings().train
    means = {}
    for centred in (True, False):
        torch.manual_seed(0)
        net = SupInfoNCE(centred=centred)._new_net(train, run()).train()
        means[centred] = float(similarities(net.features(train.images[:64]).detach()).mean())
    assert means[False] > 0.95
    assert means[True] < 0.1


def test_pretrained_weights_are_begun_with_and_a_frozen_encoder_is_refused(tmp_path) -> None:
    torch.manual_seed(0)
    start = build("conv3", channels=3, size=16, n_classes=2)
    truecue.save_classifier(start, tmp_path)
    weights = Pretrained(weights=str(tmp_path / "model.safetensors"))
    method = SupInfoNCE(plan=Plan(epochs=1, optimizer=Adam(lr=1e-12)))
    net = truecue.train(method, small_gratings(), pretrained=weights, baseline=False).net
    assert net.spec["arch"] == "unit:centred:conv3"
    torch.testing.assert_close(net.encoder.encoder.encoder.conv1.weight, start.encoder.conv1.weight)
    frozen = weights.model_copy(update={"frozen": True})
    with pytest.raises(ConfigError, match="a frozen one leaves nothing to train"):
        truecue.train(method, small_gratings(), pretrained=frozen, baseline=False)


def test_head_and_encoder_have_optimizers_of_their_own() -> None:
    plan = SupInfoNCE().plan
    assert plan.optimizer == Adam(lr=1e-3, weight_decay=1e-4)
    assert plan.optimizer_of["head"] == Adam(lr=1e-3)
    still = SupInfoNCE().override({"plan.optimizer.lr": 1e-12, "plan.optimizer.weight_decay": 0.0})
    nets = []
    for epochs in (1, 2):
        method = still.override({"plan.epochs": epochs})
        nets.append(truecue.train(method, small_gratings(), baseline=False).net)
    ours, others = (dict(net.named_parameters()) for net in nets)
    for name, value in ours.items():
        if name.startswith("encoder"):
            torch.testing.assert_close(value, others[name], rtol=0, atol=1e-8)
    assert not torch.allclose(ours["head.weight"], others["head.weight"], atol=1e-4)


def test_rows_of_other_processes_carry_no_gradient(monkeypatch) -> None:
    mine = torch.randn(2, 3, requires_grad=True)
    before, after = torch.randn(3, 3), torch.randn(1, 3)

    def gathered(rows: torch.Tensor) -> torch.Tensor:
        if rows.dtype == torch.int64:
            return torch.tensor([3, len(mine), 1])
        return torch.cat([before, rows, after])

    monkeypatch.setattr(learners, "gather_rows", gathered)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    found = with_others(mine)
    torch.testing.assert_close(found, torch.cat([before, mine, after]))
    found.sum().backward()
    assert mine.grad is not None
    assert torch.equal(mine.grad, torch.ones(2, 3))


def test_images_of_one_class_in_a_batch_and_one_epoch_of_two_views() -> None:
    data = small_gratings()
    method = SupInfoNCE().override(
        {"plan.batch_size": 2, "plan.views": 2, "plan.augment": ["flip"], "eps": 0.25}
    )
    few = replace(data, train=data.train.select(torch.arange(0, 256, 8)))
    assert isinstance(few.train, ImageSet)
    trained = fit(method, few)
    assert bool(trained.net(data.test.images).isfinite().all())
