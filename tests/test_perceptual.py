"""LPIPS and DISTS: their formulas by plain arithmetic and by torchmetrics, over trunks of random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import dists as their_dists
from torchmetrics.functional.image import lpips as their_lpips

from pairloom.evaluation.alexnet_vgg import VGG16, AlexNet
from pairloom.evaluation.perceptual import Dists, Lpips
from pairloom.evaluation.trunks import TrunkError, read_weights


def heads(name: str) -> dict[str, np.ndarray]:
    """The learned part of a metric, as torchmetrics ships it."""
    path = Path(their_lpips.__file__).parent / name
    return {key: tensor.double().numpy() for key, tensor in read_weights(path).items()}


def images(n: int = 2, c: int = 3, h: int = 48, w: int = 40) -> tuple[Tensor, Tensor]:
    """Smooth random targets, and outputs that differ from them by a shift, a scale and noise."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(n, c, 6, 5, generator=generator) * 2 - 1
    target = nn.functional.interpolate(small, size=(h, w), mode="bilinear")
    output = 0.8 * target + 0.1 + 0.1 * torch.randn(n, c, h, w, generator=generator)
    return output.clamp(-1, 1), target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trunks of random weights, by the names of the public files."""
    root = tmp_path_factory.mktemp("weights")
    for trunk, name in ((AlexNet, "alexnet-owt-7be5be79.pth"), (VGG16, "vgg16-397923af.pth")):
        net = trunk()
        generator = torch.Generator().manual_seed(1)
        for name_, tensor in net.state_dict().items():
            spread = (2 / tensor[0].numel()) ** 0.5 if name_.endswith("weight") else 0.05
            tensor.normal_(0, spread, generator=generator)
        torch.save({**net.state_dict(), "classifier.6.weight": torch.zeros(1)}, root / name)
    return root


def make(metric: str, folder: Path) -> Lpips | Dists:
    if metric == "dists":
        return Dists(folder)
    return Lpips(folder) if metric == "alex" else Lpips(folder, net="vgg")


METRICS = ("alex", "vgg", "dists")


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_by_hand(folder: Path, net: str) -> None:
    output, target = images()
    trunk = (AlexNet if net == "alex" else VGG16).pretrained(folder)
    weights = heads(f"lpips_models/{net}.pth")
    expected = np.zeros(2)
    for i, (a, b) in enumerate(zip(trunk.maps(output), trunk.maps(target), strict=True)):
        unit = [x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-10) for x in (a.numpy(), b.numpy())]
        weight = weights[f"lin{i}.model.1.weight"].reshape(-1)
        expected += np.einsum("nchw,c->nhw", (unit[0] - unit[1]) ** 2, weight).mean((1, 2))
    found = make(net, folder)(output, target)
    assert found.shape == (2,)
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_is_that_of_torchmetrics(folder: Path, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Their network asks torchvision for a trunk; it gets the layers of ours.
    trunk = (AlexNet if net == "alex" else VGG16).pretrained(folder)
    monkeypatch.setattr(their_lpips, "_get_tv_model_features", lambda *_: trunk.features)
    theirs = their_lpips._NoTrainLpips(net=net)
    output, target = images(h=70, w=64)
    ours = make(net, folder)(output, target)
    assert ours.tolist() == pytest.approx(theirs(output, target).flatten().tolist(), rel=1e-4)
    assert min(ours) > 0.001


def l2_pooled(x: np.ndarray) -> np.ndarray:
    """The root of the squares blurred by (1, 2, 1) / 4 along both axes, at even positions."""
    x = np.pad(x.astype(np.float64) ** 2, ((0, 0), (0, 0), (1, 1), (1, 1)))
    x = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
    x = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
    return np.sqrt(x[:, :, ::2, ::2] + 1e-12)


def test_dists_by_hand(folder: Path) -> None:
    output, target = images(h=33, w=40)
    trunk, weights = VGG16.pretrained(folder), heads("dists_models/weights.pt")
    alpha, beta = (weights[name].reshape(-1) for name in ("alpha", "beta"))
    assert len(alpha) == 3 + sum(VGG16.CHANNELS)

    def maps(image: Tensor) -> list[np.ndarray]:
        def pool(x: Tensor) -> Tensor:
            return torch.from_numpy(l2_pooled(x.numpy())).float()

        return [(image.numpy() + 1) / 2, *(m.numpy() for m in trunk.maps(image, pool=pool))]

    similarity, first = np.zeros(2), 0
    for x, y in zip(maps(output), maps(target), strict=True):
        for c in range(x.shape[1]):
            for i in range(2):
                u, v = (m[i, c].astype(np.float64).ravel() for m in (x, y))
                covariance = np.cov(u, v, bias=True)
                l = (2 * u.mean() * v.mean() + 1e-6) / (u.mean() ** 2 + v.mean() ** 2 + 1e-6)
                s = (2 * covariance[0, 1] + 1e-6) / (covariance[0, 0] + covariance[1, 1] + 1e-6)
                similarity[i] += alpha[first + c] * l + beta[first + c] * s
        first += x.shape[1]
    expected = 1 - similarity / (alpha.sum() + beta.sum())
    found = make("dists", folder)(output, target)
    assert found.shape == (2,)
    assert found.numpy() == pytest.approx(expected, rel=1e-3)
    assert min(expected) > 0.01


def test_dists_is_that_of_torchmetrics(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Their network asks torchvision for a trunk; it gets the layers of ours.
    trunk = VGG16.pretrained(folder)
    monkeypatch.setattr(their_dists, "_TORCHVISION_AVAILABLE", True)
    monkeypatch.setattr(their_dists, "VGG16_Weights", SimpleNamespace(DEFAULT=None), raising=False)
    monkeypatch.setattr(
        their_dists, "vgg16", lambda weights: SimpleNamespace(features=trunk.features), raising=False
    )
    theirs = their_dists.DISTSNetwork(load_weights=False)  # they read their file onto CUDA
    for name, weights in heads("dists_models/weights.pt").items():
        getattr(theirs, name).data = torch.from_numpy(weights).float()
    output, target = images(h=64, w=57)
    expected = theirs((output + 1) / 2, (target + 1) / 2)
    assert make("dists", folder)(output, target).tolist() == pytest.approx(expected.tolist(), rel=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_identical_images_are_at_distance_0_and_others_are_not(folder: Path, metric: str) -> None:
    distance = make(metric, folder)
    output, target = images()
    assert distance(target, target.clone()).tolist() == [0, 0]
    near, far = distance(0.9 * target + 0.1 * output, target), distance(output, target)
    assert (near > 0).all() and (far > near).all()
    assert distance(output, target).tolist() == pytest.approx(distance(target, output).tolist(), rel=1e-5)
    flat = torch.zeros(1, 3, 40, 40)
    assert distance(flat, flat.clone()).item() == 0


@pytest.mark.parametrize("metric", METRICS)
def test_an_image_does_not_depend_on_its_neighbours(folder: Path, metric: str) -> None:
    distance = make(metric, folder)
    output, target = images(n=3)
    together = distance(output, target)
    for i in range(3):
        alone = distance(output[i : i + 1], target[i : i + 1])
        assert alone.item() == pytest.approx(together[i].item(), rel=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_a_grey_image_is_its_three_equal_channels(folder: Path, metric: str) -> None:
    distance = make(metric, folder)
    output, target = images(c=1)
    three = distance(output.expand(-1, 3, -1, -1), target.expand(-1, 3, -1, -1))
    assert torch.equal(distance(output, target), three)
    assert torch.equal(distance(output.double(), target.double()), three)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_stay_frozen_in_eval_mode_and_make_no_graph(folder: Path, metric: str) -> None:
    distance = make(metric, folder).train()
    output, target = images()
    assert not distance(output.requires_grad_(), target).requires_grad
    assert not any(p.requires_grad for p in distance.parameters())


@pytest.mark.parametrize(("metric", "least"), [("alex", 31), ("vgg", 16), ("dists", 16)])
def test_mistakes_are_one_sentence(folder: Path, metric: str, least: int) -> None:
    distance = make(metric, folder)
    assert distance(*images(h=least, w=least)).isfinite().all()
    with pytest.raises(TrunkError, match=f"at least {least} px a side"):
        distance(*images(h=least - 1))
    with pytest.raises(
        TrunkError, match=r"\(2, 2, 48, 40\); networks trained on photographs take \(N, 1 or 3"
    ):
        distance(*images(c=2))
    with pytest.raises(TrunkError, match=r"\(2, 3, 48, 40\) and target \(1, 3, 48, 40\)"):
        distance(images()[0], images(n=1)[1])


@pytest.mark.parametrize(
    ("metric", "pattern"),
    [(Lpips, "alexnet-owt"), (lambda f: Lpips(f, net="vgg"), "vgg16-"), (Dists, "vgg16-")],
)
def test_an_absent_trunk_is_named(
    tmp_path: Path, metric: Callable[[Path | str], object], pattern: str
) -> None:
    with pytest.raises(TrunkError, match=f"Looked for {pattern}"):
        metric(tmp_path)


def test_names_state_the_net(folder: Path) -> None:
    assert [make(metric, folder).name for metric in METRICS] == [
        "LPIPS v0.1 (AlexNet)",
        "LPIPS v0.1 (VGG16)",
        "DISTS (VGG16)",
    ]
