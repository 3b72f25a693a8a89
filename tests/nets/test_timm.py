"""What needs timm and torchvision: their names of parameters, and networks handed over to timm."""

from __future__ import annotations

import io
from importlib.util import find_spec

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps

from truecue.errors import ConfigError
from truecue.nets.build import build
from truecue.nets.classifier import load_classifier, read_weights, save_classifier
from truecue.nets.resnet import load_torchvision

pytestmark = [
    pytest.mark.timm,
    pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed"),
]


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_torchvisions_weights_load_and_give_the_same_logits(arch, tmp_path):
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.get_model(arch, weights=None, num_classes=10)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = build(arch, channels=3, size=64, n_classes=10)
    assert load_torchvision(ours, tmp_path / "theirs.pth")
    names = [name for name in theirs.state_dict() if not name.startswith("fc.")]
    assert list(ours.encoder.state_dict()) == names
    x = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        for module in (ours.train(), ours.eval()):
            theirs.train(module.training)
            torch.testing.assert_close(ours(x), theirs(ours.pixels(x)), atol=1e-5, rtol=1e-5)


def test_published_mobilenet_classifies_imagenet(real_data, tmp_path):
    arch = "mobilenetv2_100,pad_type=same"
    net = build(arch, channels=3, size=224, n_classes=1000, norm="half").eval()
    assert net.n_features == 1280
    state = read_weights(real_data / "weights" / "imagenet_mobilenetv2_100_timm.pt")
    head = {k.removeprefix("classifier."): state.pop(k) for k in list(state) if "classifier" in k}
    net.encoder.load_state_dict(state)
    net.head.load_state_dict(head)
    table = pq.read_table(real_data / "imagenet_samples" / "imagenet_samples_224.parquet")
    table = table.take(np.arange(0, 1000, 5))
    x = torch.stack([_middle(j.as_py()) for j in table["jpeg"]])
    with torch.no_grad():
        logits = torch.cat([net(part) for part in x.split(20)])
    accuracy = (logits.argmax(1).numpy() == table["label"].to_numpy()).mean()
    assert 0.74 < accuracy < 0.9
    save_classifier(net, tmp_path)
    with torch.no_grad():
        assert torch.equal(load_classifier(tmp_path)(x[:20]), logits[:20])


def _middle(jpeg: bytes) -> torch.Tensor:
    """The middle square; a few images have a side of less than 224 pixels and are enlarged."""
    image = np.asarray(ImageOps.fit(Image.open(io.BytesIO(jpeg)), (224, 224)))
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def test_channels_and_projection_reach_timm():
    net = build("timm:resnet18", channels=1, size=64, n_classes=3, n_features=7)
    assert net.features(torch.zeros(2, 1, 64, 64, dtype=torch.uint8)).shape == (2, 7)
    assert net.spec["norm"] == "half"  # ImageNet's constants are for three channels
    pair = build("pair:timm:resnet18", channels=1, size=64, n_classes=3)
    assert pair.features(torch.zeros(2, 1, 64, 64, dtype=torch.uint8)).shape == (2, 1024)


def test_the_features_after_timms_last_layer_are_counted():
    # `num_features` says 576 here, and the forward pass gives 1024
    net = build("mobilenetv3_small_100", channels=3, size=64, n_classes=3)
    assert net.n_features == 1024
    assert net.spec["norm"] == "imagenet"


def test_a_size_that_does_not_fit_is_explained():
    with pytest.raises(ConfigError, match=r"cannot be used on 3x64x64 images: .*height"):
        build("vit_tiny_patch16_224", channels=3, size=64, n_classes=2)
    net = build("vit_tiny_patch16_224,img_size=64", channels=3, size=64, n_classes=2)
    assert net(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 2)
    assert net.spec["norm"] == "half"


def test_names_of_neither_are_explained():
    with pytest.raises(ConfigError, match="nor timm has a network 'resent18'; did you mean"):
        build("resent18", channels=3, size=64, n_classes=2)
    with pytest.raises(ConfigError, match=r"cannot be used .*colour"):
        build("resnet34,colour=1", channels=3, size=64, n_classes=2)


def test_frozen_mobilenet_in_a_bench(real_data, tmp_path, monkeypatch):
    """Weights named relative to the root, features once, a model for images in the end."""
    from truecue import api
    from truecue.data.sets import ImageSet, Splits
    from truecue.engine.device import Device
    from truecue.methods import ERM
    from truecue.nets.pretrained import Pretrained

    monkeypatch.setenv("TRUECUE_CACHE", str(tmp_path / "cache"))
    table = pq.read_table(real_data / "imagenet_samples" / "imagenet_samples_224.parquet")
    # fish and birds: what an ImageNet network tells apart without training
    table = table.take([*range(6), *range(7, 21)])  # classes 0 to 5 are fish, 7 to 20 birds
    images = torch.stack([_middle(j.as_py()) for j in table["jpeg"]])
    y = torch.tensor([0] * 6 + [1] * 14)
    part = ImageSet(images, y, ("fish", "bird"))
    pretrained = Pretrained(
        weights="weights/imagenet_mobilenetv2_100_timm.pt",
        arch="mobilenetv2_100,pad_type=same",
        norm="half",
        frozen=True,
    )
    trained = api.train(
        ERM().override({"plan.epochs": 30, "plan.batch_size": 10}),
        Splits(part, None, part),
        out=tmp_path / "run",
        device=Device("cpu"),
        pretrained=pretrained,
        root=real_data,
    )
    assert trained.report["models"]["erm"]["test"]["average"]["value"] == 1
    with torch.no_grad():
        again = load_classifier(tmp_path / "run")(images)
    assert torch.equal(again.argmax(1), y)
