"""The half that follows a classifier: a slow loop, who learns from what, what is left alone."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from truecue.data.loader import Batch
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.run import Run
from truecue.errors import ConfigError
from truecue.losses.vae import sampled
from truecue.methods.bias_half import BiasHalf, Follower, val_loss
from truecue.methods.sih import Paired
from truecue.nets.build import build
from truecue.nets.classifier import Classifier
from truecue.nets.vae import build_vae
from truecue.testing import small_gratings

WEIGHTS = {"q": 0.7, "recon_weight": 100.0, "kl_weight": 30.0}


def net(arch: str = "mlp-3", size: int = 4, classes: int = 3) -> Classifier:
    torch.manual_seed(5)
    return build(arch, channels=3, size=size, n_classes=classes).eval()


def follower(model: Classifier | None = None, size: int = 4, **settings: object) -> Follower:
    torch.manual_seed(0)
    values = {"recon": "bce"} | WEIGHTS | settings
    return Follower(model or net(size=size), Paired(build_vae("mlp", 3, size, 3), **values))  # type: ignore[arg-type]


def batch(n: int, size: int = 4) -> Batch:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, size, size), generator=rng).to(torch.uint8)
    return Batch((x,), torch.arange(n) % 3, torch.arange(n))


def cpu_run() -> Run:
    return Run(None, 0, Device("cpu"))


def softmax(logits: list[float]) -> list[float]:
    total = sum(map(math.exp, logits))
    return [math.exp(value) / total for value in logits]


@torch.no_grad()
def slowly(learner: Follower, x: torch.Tensor, noise: list[torch.Tensor]) -> float:
    """The loss, one image and one number at a time."""
    vae, at, total = learner.vae, learner.vae.encode(x), 0.0
    for i in range(len(x)):
        z, kl = {}, 0.0
        for which, mean, logvar, eps in (
            ("s", at.z_s_mean[i], at.z_s_logvar[i], noise[0][i]),
            ("b", at.z_b_mean[i], at.z_b_logvar[i], noise[1][i]),
        ):
            m, v, e = mean.tolist(), logvar.tolist(), eps.tolist()
            z[which] = [a + (math.exp(b / 2) + 1e-8) * c for a, b, c in zip(m, v, e, strict=True)]
            kl += sum(-0.5 * (1 + b - a**2 - math.exp(b)) for a, b in zip(m, v, strict=True))
        head = vae.biased.net.head
        logits = [
            float(o) + sum(float(w) * max(value, 0.0) for w, value in zip(row, z["b"], strict=True))
            for row, o in zip(head.weight, head.bias, strict=True)
        ]
        p, answers = softmax(logits), learner.model(x[i : i + 1])[0].tolist()
        said = max(range(len(answers)), key=answers.__getitem__)
        wanted = softmax(answers)
        crossed = -sum(w * math.log(q) for w, q in zip(wanted, p, strict=True))
        both = torch.tensor([z["s"] + z["b"]], dtype=torch.float64)
        drawn = vae.decoder(both).sigmoid().flatten().tolist()
        true = (x[i].double() / 255).flatten().tolist()
        recon = sum(
            -t * math.log(r) - (1 - t) * math.log(1 - r) for r, t in zip(drawn, true, strict=True)
        )
        paired = learner.paired
        total += p[said] ** paired.q * crossed
        total += (paired.recon_weight * recon + paired.kl_weight * kl) / len(true)
    return total / len(x)


def sharpened() -> Follower:
    """In double precision, with answers and weights that differ from image to image."""
    learner = follower(q=0.4, recon_weight=7.0, kl_weight=3.0).double()
    with torch.no_grad():
        for head in (learner.vae.biased.net.head, learner.model.head):
            head.weight.mul_(20)
        learner.vae.biased.net.encoder.mean.weight.mul_(5)
        learner.model.head.bias -= learner.answers(batch(7).x).mean(0)
    said = learner.answers(batch(7).x)
    assert len(said.argmax(1).unique()) > 1
    assert float(said.softmax(1).amax(1).min()) < 0.9
    return learner


def test_the_loss_is_that_of_a_slow_loop() -> None:
    learner, b = sharpened(), batch(7)
    torch.manual_seed(3)
    found = float(learner(b).loss.detach())
    torch.manual_seed(3)
    noise = [torch.randn(7, 100, dtype=torch.float64) for _ in range(2)]
    assert found == pytest.approx(slowly(learner, b.x, noise), rel=1e-9)


def test_the_value_to_stop_by_is_the_same_with_means() -> None:
    learner, b = sharpened(), batch(7)
    wrong = ImageSet(b.x, (b.y + 1) % 3, ("a", "b", "c"))  # labels play no part
    zeros = [torch.zeros(7, 100)] * 2
    found = val_loss(learner, wrong, cpu_run())
    assert found == pytest.approx(slowly(learner, b.x, zeros), rel=1e-6)


def test_what_the_half_cannot_follow_counts_little() -> None:
    learner = follower()
    answers = torch.tensor([[9.0, 0, 0], [9.0, 0, 0]])
    biased = torch.tensor([[4.0, 0, 0], [0, 4.0, 0]], requires_grad=True)
    loss = learner.followed(biased, answers)
    (slope,) = torch.autograd.grad(loss.sum(), biased)
    log_p = biased.detach().log_softmax(1)
    p = answers.softmax(1)
    weight = log_p[:, 0].exp() ** 0.7
    torch.testing.assert_close(slope, weight[:, None] * (log_p.exp() - p))
    assert weight[1] < 0.1 < weight[0]


ROUTES = {
    "biased": {"enc_b", "cls_b"},
    "reconstruction": {"enc_s", "enc_b", "dec"},
    "kl": {"enc_s", "enc_b"},
}


def test_each_term_reaches_its_parts_and_no_others() -> None:
    learner, b = follower(), batch(6)
    vae = learner.vae
    parts: dict[str, list[nn.Parameter]] = {"dec": [*vae.decoder.parameters()]}
    for name, half in (("s", vae.signal), ("b", vae.biased)):
        parts[f"enc_{name}"] = [*half.net.encoder.parameters(), *half.logvar.parameters()]
    parts["cls_b"] = [*vae.biased.net.head.parameters()]
    at = learner.paired.latents(b.x)
    z_s, z_b = sampled(at.z_s_mean, at.z_s_logvar), sampled(at.z_b_mean, at.z_b_logvar)
    terms = {"biased": learner.followed(vae.logits_b(z_b), learner.answers(b.x))}
    terms |= learner.paired.drawn(b.x, at, z_s, z_b)
    for name, term in terms.items():
        for part, parameters in parts.items():
            found = torch.autograd.grad(
                term.mean(), parameters, allow_unused=True, retain_graph=True
            )
            reached = [g is not None and bool(g.any()) for g in found]
            assert any(reached) == all(reached) == (part in ROUTES[name]), (name, part)
    learner(b).loss.backward()
    frozen = [*learner.model.parameters(), *vae.signal.net.head.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    trained = {id(p) for group in learner.groups().values() for p in group}
    assert trained == {id(p) for ps in parts.values() for p in ps}


def test_the_classifier_is_left_as_it_was() -> None:
    """One with batch statistics, handed over in training mode."""
    data = small_gratings()
    model = build("resnet20", channels=3, size=16, n_classes=2).train()
    before = copy.deepcopy(model.state_dict())
    method = BiasHalf().override({"plan.epochs": 1, "plan.batch_size": 32})
    vae = method.fit(model, data, cpu_run())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not vae.training
    learner = follower(net("resnet20", 16), size=16).train()
    assert learner.training
    assert not any(part.training for part in learner.model.modules())
    assert learner.vae.biased.training


def test_every_setting_reaches_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Follower] = []

    def untrained(self: Run, stage: str, make, *_: object, **__: object) -> Follower:
        made.append(make())
        return made[0]

    monkeypatch.setattr(Run, "train", untrained)
    settings = {"q": 0.4, "recon": "mse", "recon_weight": 7.0, "kl_weight": 3.0}
    method = BiasHalf(logvar_max=2.0, **settings)  # type: ignore[arg-type]
    method.fit(net(size=16, classes=2), small_gratings(), cpu_run())
    (learner,) = made
    assert {name: getattr(learner.paired, name) for name in settings} == settings
    assert learner.vae.spec["logvar_max"] == 2


def test_no_label_and_no_test_image_is_looked_at() -> None:
    data, states = small_gratings(), []
    model, method = net("mlp-3", 16, 2), BiasHalf().override({"plan.epochs": 2})
    for shift in (0, 1):
        parts = [replace(p, y=(p.y + shift) % 2).blind() for p in (data.train, data.val)]
        test = replace(data.test, images=255 - data.test.images[:]) if shift else data.test
        states.append(method.fit(model, Splits(*parts, test), cpu_run()).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_half_learns_to_follow() -> None:
    data, model = small_gratings(), net("mlp-3", 16, 2)
    with torch.no_grad():
        model.head.weight.mul_(30)
        logits = model(data.train.images)
        model.head.bias -= logits.median(0).values
    said = model(data.train.images).argmax(1)
    assert 0.2 < float(said.float().mean()) < 0.8
    method = BiasHalf(recon_weight=1.0).override({"plan.epochs": 30, "plan.optimizer.lr": 3e-3})
    vae = method.fit(model, data, cpu_run())
    with torch.no_grad():
        followed = vae.biased.net(data.train.images).argmax(1)
    assert float((followed == said).float().mean()) > 0.9


@pytest.mark.parametrize(
    ("changes", "arch", "said"),
    [
        ({"plan.select": "last"}, None, "plan.select must be 'val_loss' here"),
        ({}, "resnet18", "pictures need encoders that a decoder belongs to.*got 'resnet18'"),
    ],
)
def test_mistakes(changes: dict[str, str], arch: str | None, said: str) -> None:
    run = Run(None, 0, Device("cpu"), arch=arch)
    with pytest.raises(ConfigError, match=said):
        BiasHalf().override(changes | {"plan.stop.epochs": 1}).fit(
            net(size=16, classes=2), small_gratings(), run
        )


def test_without_validation_images_it_says_what_to_do() -> None:
    data = replace(small_gratings(), val=None)
    with pytest.raises(ConfigError, match=r"this data has none; set data\.val_share above 0"):
        BiasHalf().fit(net(size=16, classes=2), data, cpu_run())
