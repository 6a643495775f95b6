"""Segmenters: a photo in, the class of each of its pixels out.

Three kinds answer alike. A `Segmenter` is a network of ours in the manner of FCN-8s, trained by
`segmenter_training` and kept in a self-describing file. In `foreign_segmenters`, an `OnnxSegmenter` runs
somebody's own network, a `FunctionSegmenter` somebody's own Python function.

Source: Long, Shelhamer and Darrell 2015, section 4 (FCN-8s): scores at strides 32, 16 and 8, added on the way
up. Deviation: their trunk is VGG16 and their upsampling learned; ours are small, and bilinear.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairloom import checkpoint, images
from pairloom.checkpoint import CheckpointError
from pairloom.devices import pick_device
from pairloom.evaluation.trunks import EfficientNetLite0
from pairloom.images import Array, ImageError, ImageSpec
from pairloom.survey import measure_spec
from pairloom.translator import reflect_to_multiple

ClassMap = npt.NDArray[np.int64]
"""(H, W), an index into the palette at each pixel."""
Photo = Array | Tensor
"""An (H, W, C) array of file values, or a (C, H, W) tensor in [-1, 1]."""
TrunkName = Literal["own", "efficientnet-lite0"]
STRIDE = 32
RGB_8_BIT = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
"""Photos as most segmenters of others take them."""


class SegmenterError(ValueError):
    """A segmenter cannot be used or trained as asked; one sentence says why and what to do."""


class PixelClassifier(Protocol):
    """What can be asked for the classes of a photo."""

    @property
    def label_spec(self) -> ImageSpec:
        """Of the label maps: class k is the k-th colour of its palette."""

    @property
    def ignored(self) -> int | None:
        """The class that is neither predicted nor scored."""

    def predict(self, photo: Photo, size: tuple[int, int] | None = None) -> ClassMap:
        """The class of each pixel, at the size of the photo or at this (height, width)."""

    def words(self) -> str:
        """What it is, in one line."""


def class_names(spec: ImageSpec) -> tuple[str, ...]:
    """The classes of a label map's spec; those without a name are called by their colour."""
    return spec.palette_names or tuple(",".join(map(str, colour)) for colour in spec.palette)


def class_index(spec: ImageSpec, wanted: str | int | None) -> int | None:
    """The index of a class given by its name or its number; None stays None.

    Raises:
        SegmenterError: There is no such class.
    """
    names = class_names(spec)
    if wanted is None:
        return None
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    if str(wanted).isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise SegmenterError(
        f"ignored is {wanted!r}, which is none of the classes; give a number from 0 to {len(names) - 1} or "
        f"one of: {'; '.join(names)}."
    )


def read_label_spec(path: str | Path) -> ImageSpec:
    """The spec of 8-bit label maps in the colours of a palette file (see `images.read_palette`).

    Raises:
        ImageError: The file cannot be read, or a line of it is wrong.
    """
    palette, names = images.read_palette(path)
    largest = max(max(colour) for colour in palette)
    blank = np.zeros((1, 1, len(palette[0])), np.uint8 if largest <= 255 else np.uint16)
    return measure_spec([blank], palette=palette, palette_names=names)


def photo_tensor(photo: Photo, spec: ImageSpec) -> Tensor:
    """A photo as the networks see it.

    Shapes: (H, W, C) file values, or (C, H, W) in [-1, 1] -> (C, H, W), float32, on the CPU.

    Raises:
        ImageError: The channels or the dtype are not the spec's.
    """
    if not isinstance(photo, Tensor):
        array = np.asarray(photo)
        return images.to_tensor(array[..., None] if array.ndim == 2 else array, spec)
    if photo.ndim != 3 or photo.shape[0] != spec.tensor_channels:
        raise ImageError(
            f"The photo has shape {tuple(photo.shape)}, but the segmenter takes "
            f"({spec.tensor_channels}, H, W); give it photos of the kind it was trained on."
        )
    return photo.detach().cpu().float()


def resized_logits(logits: Tensor, size: tuple[int, int], ignored: int | None) -> Tensor:
    """Bilinearly, and without the ignored class (masked last: infinities would spread as NaN).

    Shapes: (K, h, w) -> (K, *size).
    """
    logits = images.resize(logits, size, labels=False).clone()
    if ignored is not None:
        logits[ignored] = -torch.inf
    return logits


# ------------------------------------------------------------------------------------------------------------
# The network


class OwnTrunk(nn.Module):
    """Ten 3x3 convolutions from scratch: 1.5 million parameters, group norm (no matter how small the batch).

    Source: Wu and He 2018 (group norm, 8 channels or more a group).
    """

    WIDTHS = (32, 64, 96, 160, 256)
    """Of the stages at strides 2, 4, 8, 16 and 32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for c_in, c_out in zip((channels, *self.WIDTHS[:-1]), self.WIDTHS, strict=True):
            self.stages.append(nn.Sequential(_block(c_in, c_out, 2), _block(c_out, c_out, 1)))

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes: (N, C, H, W) -> (N, 96, H/8, W/8), (N, 160, H/16, W/16), (N, 256, H/32, W/32)."""
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found[2], found[3], found[4]


def _block(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(c_out // 16 if c_out > 64 else 4, c_out), nn.ReLU())


class SegmentationNetwork(nn.Module):
    """Scores of every class at strides 32, 16 and 8, added on the way up to the photo's size."""

    trunk: OwnTrunk | EfficientNetLite0

    def __init__(
        self, trunk: OwnTrunk | EfficientNetLite0, widths: tuple[int, int, int], classes: int
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Score.

        Shapes: x (N, C, H, W), H and W from 1 -> logits (N, K, H, W).
        Units: x [-1, 1].
        """
        height, width = x.shape[-2:]
        if x.shape[1] == 1 and isinstance(self.trunk, EfficientNetLite0):
            x = x.expand(-1, 3, -1, -1)
        eighth, sixteenth, thirtysecond = self.trunk.maps(reflect_to_multiple(x, STRIDE))
        logits = self.heads[1](sixteenth) + _enlarged(self.heads[2](thirtysecond), 2)
        logits = self.heads[0](eighth) + _enlarged(logits, 2)
        return _enlarged(logits, 8)[..., :height, :width]


def _enlarged(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def build_network(
    trunk: TrunkName, channels: int, classes: int, rng: torch.Generator | None = None
) -> SegmentationNetwork:
    """A network that is still to be trained, or to be filled.

    Args:
        trunk: own, from scratch, or efficientnet-lite0, with the weights of ImageNet.
        channels: Of the photos.
        classes: How many.
        rng: Draws the weights; None: no memory yet (meta device), to load weights into.

    Raises:
        SegmenterError: The trunk does not take so many channels.
        ValueError: The weights of ImageNet are not installed.
    """
    if trunk == "own":
        with torch.device("meta"):
            net = SegmentationNetwork(OwnTrunk(channels), OwnTrunk.WIDTHS[2:], classes)
    else:
        if channels not in (1, 3):
            raise SegmenterError(
                f"The photos have {channels} channels, but efficientnet-lite0 takes 1 or 3; use trunk=own."
            )
        with torch.device("meta"):
            net = SegmentationNetwork(_without_head(EfficientNetLite0()), (40, 112, 320), classes)
    if rng is None:
        return net
    net = net.to_empty(device="cpu")
    _initialise(net, rng)
    if trunk != "own":
        net.trunk = _without_head(EfficientNetLite0.pretrained())
    return net


def _without_head(trunk: EfficientNetLite0) -> EfficientNetLite0:
    """Without the layers behind the last map, which segmentation has no use for."""
    for layer in ("head", "classifier"):
        setattr(trunk, layer, nn.Identity())
    return trunk


def _initialise(net: nn.Module, rng: torch.Generator) -> None:
    """He's normal weights for what a ReLU follows, small ones for the scores; norms begin as identities."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            if name.startswith("heads"):
                nn.init.normal_(module.weight, 0.0, 0.01, generator=rng)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=rng)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


# ------------------------------------------------------------------------------------------------------------
# Our own segmenter


class Segmenter:
    """A network of ours with everything needed to use it.

    Attributes:
        network: In eval mode whenever it predicts.
        trunk: What its maps come from.
        photo_spec: What it takes.
        label_spec: Its classes: palette and names.
        ignored: The class that is neither predicted nor scored, or None.
        provenance: Where it came from, with its own scores.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        trunk: TrunkName,
        photo_spec: ImageSpec,
        label_spec: ImageSpec,
        *,
        ignored: int | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        self.network, self.trunk = network, trunk
        self.photo_spec, self.label_spec, self.ignored = photo_spec, label_spec, ignored
        self.provenance = provenance or {}

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.network.parameters()).device

    def logits(self, photo: Photo, size: tuple[int, int] | None = None) -> Tensor:
        """The scores of each class, enlarged bilinearly to `size` where that is not the photo's own.

        Shapes: photo (H, W, C) or (C, H, W) -> (K, *size), float32, on `device`.

        Raises:
            ImageError: The photo is not of the kind that the segmenter was trained on.
        """
        x = photo_tensor(photo, self.photo_spec).to(self.device)
        self.network.eval()
        with torch.inference_mode():
            return resized_logits(self.network(x[None])[0], size or (x.shape[1], x.shape[2]), self.ignored)

    def predict(self, photo: Photo, size: tuple[int, int] | None = None) -> ClassMap:
        """The class of each pixel.

        Args:
            photo: (H, W, C) file values, or a (C, H, W) tensor in [-1, 1]; any size from 1 px.
            size: Height and width of the answer, as of a label map that is larger than the photo; None: the
                photo's.

        Shapes: -> (H, W) or `size`, indices into the palette.

        Raises:
            ImageError: The photo is not of the kind that the segmenter was trained on.
        """
        index: ClassMap = self.logits(photo, size).argmax(dim=0).cpu().numpy()
        return index

    def words(self) -> str:
        """What it is, in one line."""
        count = len(self.label_spec.palette)
        ignored = "" if self.ignored is None else f", ignoring {class_names(self.label_spec)[self.ignored]}"
        return f"FCN-8s on {self.trunk}, {count} classes{ignored}"

    def save(self, path: str | Path) -> None:
        """Write a self-describing .safetensors file, whole or not at all.

        Raises:
            CheckpointError: It cannot be written.
        """
        description = {
            "network": "segmenter",
            "trunk": self.trunk,
            "photo_spec": self.photo_spec.to_dict(),
            "label_spec": self.label_spec.to_dict(),
            "ignored": self.ignored,
            "provenance": self.provenance,
        }
        checkpoint.save_weights(Path(path), self.network.state_dict(), description)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> Segmenter:
        """From a segmenter.safetensors, or the folder that holds it.

        Raises:
            CheckpointError: No segmenter there, a damaged file, or one of something else.
            DeviceError: No such device.
        """
        file = Path(path) / "segmenter.safetensors" if Path(path).is_dir() else Path(path)
        if file.exists() and file.suffix != ".safetensors":
            raise CheckpointError(f"{file}: is no segmenter; give a segmenter.safetensors or an .onnx file.")
        weights, description = checkpoint.load_weights(file)
        if description.get("network") != "segmenter":
            raise CheckpointError(
                f"{file}: is a {description.get('network')}, which names no classes; give a "
                "segmenter.safetensors."
            )
        try:
            photo_spec, label_spec = (
                ImageSpec.from_dict(description[key]) for key in ("photo_spec", "label_spec")
            )
            trunk, ignored = description["trunk"], description["ignored"]
            known = trunk in ("own", "efficientnet-lite0") and label_spec.kind == "labels"
        except (KeyError, TypeError, ImageError) as error:
            raise CheckpointError(f"{file}: its description of the model is incomplete ({error}).") from error
        if not known:
            raise CheckpointError(f"{file}: its trunk {trunk!r} is unknown; use the version that wrote it.")
        network = build_network(trunk, photo_spec.tensor_channels, len(label_spec.palette))
        checkpoint.fill(network, weights, file)
        return cls(
            network.requires_grad_(False).to(pick_device(device)).eval(),
            trunk,
            photo_spec,
            label_spec,
            ignored=ignored,
            provenance=description.get("provenance", {}),
        )
