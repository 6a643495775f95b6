"""The only place where pixel values change meaning: files <-> arrays <-> tensors in [-1, 1].

Arrays are (H, W, C), `uint8 | uint16 | float32`, and hold file values (`formats` reads and writes them).
Tensors are (C, H, W) or (N, C, H, W), float32, in [-1, 1]. An `ImageSpec` says how one becomes the other,
and back; it is measured once on the training images, shown, and stored with the weights.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

import numpy as np
import torch
from torch import Tensor

from pairloom.formats import (
    FORMATS,
    SUFFIXES,
    channel_names,
    has_alpha,
    holds_losslessly,
    image_shape,
    is_image_name,
    is_lossless,
    read_image,
    write_image,
)
from pairloom.geometry import reflect_to, resize
from pairloom.palette import MAX_CLASSES, Colours, nearest, read_palette
from pairloom.pixels import (
    DTYPES,
    MAX_CHANNELS,
    WHITE,
    Array,
    ImageError,
    PageAxis,
    check_array,
    described,
    valid_pixels,
)
from pairloom.plain import coerced, shown
from pairloom.stacks.stack import SLICE_AXES, Part

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Array",
    "ImageError",
    "ImageSpec",
    "Part",
    "channel_names",
    "clipped_share",
    "has_alpha",
    "image_shape",
    "is_image_name",
    "is_lossless",
    "lab_spec",
    "output_suffix",
    "palette_distance",
    "read_image",
    "read_palette",
    "recombined",
    "reflect_to",
    "resize",
    "to_array",
    "to_tensor",
    "valid_pixels",
    "write_image",
]

Kind = Literal["intensity", "labels", "lab", "luminance"]
Scaling = Literal["full", "range", "percentile", "zscore"]

LAB_LIMITS = {"L": (0.0, 100.0), "a": (-110.0, 110.0), "b": (-110.0, 110.0)}
"""What becomes -1 and +1: L / 50 - 1, a / 110, b / 110, as in the paper's code."""
PHOTO_KINDS = ("lab", "luminance")
"""Kinds that are seen of a photo, grey or RGB, of 8 or 16 bits."""
LUMINANCE = (0.299, 0.587, 0.114)
"""Of red, green and blue: ITU-R 601, as Pillow's mode L."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """How the values of an image file become numbers in [-1, 1], and back.

    Raises:
        ImageError: A field contradicts another or is out of its range; the field is named.
    """

    channels: int
    """Of the file; 1 to 64."""
    dtype: Literal["uint8", "uint16", "float32"]
    """Of the file."""
    kind: Kind = "intensity"
    """intensity: values are amounts; labels: colours are classes. Of a photo, grey or RGB: its luminance; or
    lab: those channels of CIELAB that `names` says."""
    scaling: Scaling = "full"
    """How low and high were found: the dtype's range, given, percentiles, mean +- k standard deviations."""
    low: tuple[float, ...]
    """Per channel, the file value that becomes -1; of Lab, the value of L, a or b."""
    high: tuple[float, ...]
    """Per channel, the file value that becomes +1; where it equals low, all is 0 and comes back as low."""
    names: tuple[str, ...] = ()
    """Of the channels."""
    palette: Colours = ()
    """labels: one colour a class, each with one value a channel."""
    palette_names: tuple[str, ...] = ()
    """Of the classes."""
    one_hot: bool = False
    """labels enter as one channel a class, +1 where the class is and -1 elsewhere."""
    alpha: Literal["white", "keep"] = "white"
    """Transparent pixels: laid over white, or alpha kept as a channel."""
    page_axis: PageAxis = "channels"
    """A TIFF of several pages: pages are channels, or only the first is read."""
    chosen: tuple[str, ...] = ()
    """The channels of a file that are read, by name or number from 0; none: all."""
    slice_axis: str = "auto"
    """The axis along which volumes are cut; one of `stacks.stack.SLICE_AXES`."""
    neighbours: int = 0
    """So many slices on each side of a volume's slice are channels, too."""
    version: int = 1
    """Of this record's layout."""

    def __post_init__(self) -> None:
        _check_spec(self)

    @property
    def tensor_channels(self) -> int:
        """Channels of the tensor: one a class with one_hot, of Lab those named, else those of the file."""
        return len(self.palette) if self.one_hot else len(self.low)

    @property
    def file_spec(self) -> ImageSpec:
        """What a file's own values are: of Lab, 8-bit grey or RGB; else this very spec."""
        if self.kind != "lab":
            return self
        low, high = (0.0,) * self.channels, (255.0,) * self.channels
        return dataclasses.replace(self, kind="intensity", names=(), low=low, high=high)

    @property
    def part(self) -> Part:
        """What of a file is read."""
        return Part(
            select=self.chosen,
            axis=self.slice_axis,
            neighbours=self.neighbours,
            classes=self.kind == "labels",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {key: _listed(value) for key, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageSpec:
        """The spec that `to_dict` wrote, also by way of JSON.

        Raises:
            ImageError: The record has another version, an unknown field, lacks one, or one is no such value.
        """
        if not isinstance(values, dict):
            raise ImageError(
                f"The image spec is {shown(values)}, not a table of fields; its file is damaged."
            )
        version = values.get("version", 1)
        if version != 1:
            raise ImageError(
                f"The image spec has version {version!r}, this pairloom reads 1; use a newer pairloom."
            )
        fields = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - fields)
        missing = sorted({"channels", "dtype", "low", "high"} - set(values))
        if unknown or missing:
            raise ImageError(
                f"The image spec has unknown fields {unknown} and lacks {missing}; its file is damaged."
            )
        hints = get_type_hints(cls)
        try:
            return cls(
                **{key: coerced(value, hints[key], f"ImageSpec.{key}") for key, value in values.items()}
            )
        except ValueError as error:
            raise ImageError(str(error)) from None

    def words(self) -> str:
        """One line for people."""
        plural = "" if self.channels == 1 else "s"
        named = f" ({', '.join(self.names)})" if self.names and self.kind != "lab" else ""
        what = f"{self.channels} channel{plural}{named}, {self.dtype}"
        if self.kind == "labels":
            form = "one-hot" if self.one_hot else "as colours"
            return f"{what}, label map of {len(self.palette)} classes, {form}"
        pairs = list(dict.fromkeys(zip(self.low, self.high, strict=True)))
        ranges = ", ".join(f"{low:.6g}..{high:.6g}" for low, high in pairs[:4]) + (
            ", ..." if len(pairs) > 4 else ""
        )
        how = "" if self.scaling in ("full", "range") else f" ({self.scaling})"
        kind = f"Lab ({', '.join(self.names)})" if self.kind == "lab" else self.kind
        return f"{what}, {kind}, {ranges} -> -1..1{how}"


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def _require(condition: object, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ImageError(f"ImageSpec.{name} is {shown(value)}; it must be {allowed}.")


def _check_spec(spec: ImageSpec) -> None:
    c = spec.channels
    _require(isinstance(c, int) and 1 <= c <= MAX_CHANNELS, "channels", c, f"1 to {MAX_CHANNELS}")
    _require(spec.dtype in DTYPES, "dtype", spec.dtype, f"one of {', '.join(DTYPES)}")
    choices = {
        "kind": ("intensity", "labels", "lab", "luminance"),
        "scaling": ("full", "range", "percentile", "zscore"),
        "alpha": ("white", "keep"),
        "page_axis": ("channels", "first"),
        "slice_axis": SLICE_AXES,
        "version": (1,),
    }
    for name, allowed in choices.items():
        _require(getattr(spec, name) in allowed, name, getattr(spec, name), f"one of {allowed}")
    if spec.kind == "lab":
        _require(spec.names and set(spec.names) <= set(LAB_LIMITS), "names", spec.names, "some of L, a, b")
        c = len(spec.names)
    if spec.kind in PHOTO_KINDS:
        _require(spec.dtype == "uint8", "dtype", spec.dtype, f"uint8 for {spec.kind}")
        _require(spec.channels in (1, 3), "channels", spec.channels, "1 or 3, grey or RGB")
        _require(len(spec.low) == 1 or spec.kind == "lab", "low", spec.low, "one number, of the luminance")
    n = spec.neighbours
    _require(isinstance(n, int) and 0 <= n <= MAX_CHANNELS, "neighbours", n, f"0 to {MAX_CHANNELS}")
    for name in ("low", "high"):
        limits = getattr(spec, name)
        good = len(limits) == c and all(math.isfinite(v) for v in limits)
        _require(good, name, limits, f"{c} finite numbers, one a channel")
    ordered = all(low <= high for low, high in zip(spec.low, spec.high, strict=True))
    _require(ordered, "low", spec.low, f"at most high, {spec.high}, in every channel")
    _require(len(spec.names) in (0, c), "names", spec.names, f"empty or {c} names, one a channel")

    labels = spec.kind == "labels"
    _require(not spec.one_hot or labels, "one_hot", True, f"false unless kind is labels (it is {spec.kind})")
    _require(
        labels or not spec.palette,
        "palette",
        spec.palette,
        f"empty unless kind is labels (it is {spec.kind})",
    )
    if labels:
        _require(spec.dtype != "float32", "dtype", spec.dtype, "uint8 or uint16 for a label map")
        _require(
            1 <= len(spec.palette) <= MAX_CLASSES, "palette", spec.palette, f"1 to {MAX_CLASSES} colours"
        )
        for colour in spec.palette:
            fits = len(colour) == c and all(0 <= v <= WHITE[spec.dtype] for v in colour)
            _require(fits, "palette", colour, f"colours of {c} {spec.dtype} values, one a channel")
        _require(
            len(set(spec.palette)) == len(spec.palette), "palette", spec.palette, "colours that all differ"
        )
    size = len(spec.palette)
    _require(
        len(spec.palette_names) in (0, size),
        "palette_names",
        spec.palette_names,
        f"empty or {size} names, one a class",
    )


def output_suffix(source_suffix: str, spec: ImageSpec) -> str:
    """The source's own suffix if that container holds the output losslessly, else .png, else .tif."""
    for suffix in (source_suffix, ".png"):
        if holds_losslessly(suffix, dtype=spec.dtype, channels=spec.channels):
            return suffix
    return ".tif"


def lab_spec(*names: str, channels: int = 3, page_axis: PageAxis = "channels") -> ImageSpec:
    """The channels L, a or b of photos; `channels` of the files that come back: 1, grey, or 3, RGB."""
    low, high = zip(*(LAB_LIMITS[name] for name in names), strict=True)
    return ImageSpec(
        channels=channels, dtype="uint8", kind="lab", low=low, high=high, names=names, page_axis=page_axis
    )


# ------------------------------------------------------------------------------------------------------------
# Arrays <-> tensors


def to_tensor(array: Array, spec: ImageSpec) -> Tensor:
    """File values as the networks see them.

    Intensities become 2 (v - low) / (high - low) - 1, clipped to [-1, 1]. Pixels of a label map snap to the
    nearest palette colour first; with one_hot they become one channel a class. Of luminance and Lab the array
    is a photo, grey or RGB. A pixel with NaN in any channel (`valid_pixels`) becomes 0, the middle, in all.

    Shapes: array (H, W, C) -> (spec.tensor_channels, H, W), contiguous.
    Units: file values -> [-1, 1], float32.

    Raises:
        ImageError: The array's channels or dtype are not the spec's, or it holds infinity.
    """
    _check_match(array, spec)
    if spec.kind in PHOTO_KINDS:
        share = array.astype(np.float32).transpose(2, 0, 1) / np.float32(WHITE[array.dtype.name])
        return from_photo(torch.from_numpy(2 * share - 1), spec)
    if spec.kind == "labels":
        index = nearest(array, spec.palette)
        if spec.one_hot:
            classes = torch.arange(len(spec.palette))[:, None, None]
            return (torch.from_numpy(index) == classes).float().mul_(2.0).sub_(1.0)
        array = np.array(spec.palette, dtype=array.dtype)[index]
    low, half = _low_and_half(spec)
    values = torch.from_numpy(array.transpose(2, 0, 1).astype(_arithmetic(spec), order="C"))
    values.sub_(low).div_(half.where(half > 0, 1.0)).sub_(1.0).clamp_(-1.0, 1.0)
    if not half.all():
        values[half.flatten() == 0] = 0.0
    if spec.dtype == "float32":
        values[:, torch.from_numpy(~valid_pixels(array))] = 0.0
    return values.float()


def to_array(tensor: Tensor, spec: ImageSpec) -> Array:
    """What the networks made, as file values.

    Clipped to [-1, 1], mapped to low..high, rounded (never truncated) and clipped to the dtype. Label maps
    come back in palette colours only: the argmax of one-hot channels, else the nearest colour.

    Shapes: tensor (spec.tensor_channels, H, W), any float dtype, any device -> (H, W, spec.channels).
    Units: [-1, 1] -> file values, spec.dtype.

    Raises:
        ImageError: The tensor's channels are not the spec's, or it holds NaN or infinity; or it is Lab.
    """
    if spec.kind == "lab":
        raise ImageError("Lab channels alone are no image; `recombined` makes one of them and the source.")
    if tensor.ndim != 3 or tensor.shape[0] != spec.tensor_channels:
        raise ImageError(
            f"The tensor has shape {tuple(tensor.shape)}; expected ({spec.tensor_channels}, H, W)."
        )
    bad = tensor.numel() - int(torch.isfinite(tensor).sum())
    if bad:
        raise ImageError(
            f"{bad} of the tensor's {tensor.numel()} values are NaN or infinite; the network has diverged."
        )
    palette = np.array(spec.palette, dtype=spec.dtype)
    if spec.one_hot:
        one_hot: Array = palette[tensor.argmax(dim=0).cpu().numpy()]
        return one_hot
    low, half = _low_and_half(spec)
    values = tensor.detach().to("cpu", low.dtype).clamp(-1.0, 1.0).add_(1.0).mul_(half).add_(low)
    if spec.dtype != "float32":
        values = values.round_().clamp_(0, WHITE[spec.dtype])
    array: Array = values.permute(1, 2, 0).numpy().astype(spec.dtype, order="C")
    return palette[nearest(array, spec.palette)] if spec.kind == "labels" else array


def from_photo(photo: Tensor, spec: ImageSpec) -> Tensor:
    """What a spec of luminance or of Lab sees of a photo.

    Source: the paper's code, `data/donkey_folder.lua`, for the scaling of Lab: D65 white, 2 degree observer.
    Shapes: photo (1 or 3, H, W) -> (spec.tensor_channels, H, W).
    Units: [-1, 1], sRGB -> [-1, 1].
    """
    if spec.kind == "luminance":
        return photo if len(photo) == 1 else torch.einsum("c,chw->hw", torch.tensor(LUMINANCE), photo)[None]
    from skimage.color import rgb2lab  # half a second that only colour needs

    rgb = (photo.expand(3, -1, -1).numpy().clip(-1, 1) + 1) / 2
    lab = rgb2lab(rgb, channel_axis=0)[[list(LAB_LIMITS).index(name) for name in spec.names]]
    low, half = _low_and_half(spec)
    return ((torch.from_numpy(lab) - low) / half - 1).clamp(-1, 1)


def recombined(y: Tensor, x: Tensor, spec: ImageSpec) -> tuple[Tensor, ImageSpec]:
    """An output or a target as its file holds it, and the spec of that: ab with the source's L becomes RGB.

    What is no Lab comes back as it is. Colours outside sRGB are clipped.

    Shapes: y (..., C, H, W), x (..., 1, H, W): the source, L / 50 - 1 -> (..., spec.channels, H, W).
    Units: [-1, 1].
    """
    if spec.kind != "lab":
        return y, spec
    from skimage.color import lab2rgb

    given = dict(zip(spec.names, y.detach().cpu().float().clamp(-1, 1).unbind(-3), strict=True))
    size = next(iter(given.values())).shape
    light = x.detach().cpu().float().clamp(-1, 1)[..., 0, :, :].expand(size)
    scaled = {"L": light, "a": torch.zeros(size), "b": torch.zeros(size), **given}
    planes = [low + (scaled[name] + 1) * (high - low) / 2 for name, (low, high) in LAB_LIMITS.items()]
    # No colour has a negative Z: scikit-image clips it, too, but warns.
    planes[2] = torch.minimum(planes[2], (planes[0] + 16) / 116 * 199.999)
    rgb = torch.from_numpy(lab2rgb(torch.stack(planes, -3).numpy(), channel_axis=-3))
    return (rgb * 2 - 1)[..., : spec.channels, :, :], spec.file_spec


def clipped_share(array: Array, spec: ImageSpec) -> float:
    """The share, 0 to 1, of an image's values outside low..high, which `to_tensor` clips; NaN aside."""
    _check_match(array, spec)
    outside = (array < np.array(spec.low)) | (array > np.array(spec.high))
    counting = valid_pixels(array)
    return float(outside[counting].mean()) if counting.any() else 0.0


def palette_distance(array: Array, spec: ImageSpec) -> float:
    """Mean Euclidean distance, in file values, of an image's pixels to the palette colours they snap to."""
    assert spec.kind == "labels"
    _check_match(array, spec)
    colours = np.array(spec.palette, dtype=np.float64)[nearest(array, spec.palette)]
    return float(np.sqrt(((array - colours) ** 2).sum(axis=2)).mean())


def _arithmetic(spec: ImageSpec) -> Any:
    """Integers up to 65535 are exact in float32; floats need float64, as low may be large beside the span."""
    return np.float64 if spec.dtype == "float32" else np.float32


def _low_and_half(spec: ImageSpec) -> tuple[Tensor, Tensor]:
    """(C, 1, 1) low, and half the distance from low to high."""
    low, high = np.array(spec.low, dtype=np.float64), np.array(spec.high, dtype=np.float64)
    columns = [values.astype(_arithmetic(spec))[:, None, None] for values in (low, (high - low) / 2.0)]
    return torch.from_numpy(columns[0]), torch.from_numpy(columns[1])


def _check_match(array: Array, spec: ImageSpec) -> None:
    check_array("The image", array, nan="keep")
    if spec.kind in PHOTO_KINDS:
        if array.shape[2] not in (1, 3) or array.dtype.name == "float32":
            raise ImageError(
                f"The image has {described(array.shape[2], array.dtype.name)}, but a photo is expected, grey"
                " or RGB, of uint8 or uint16; convert the image."
            )
        return
    if (array.shape[2], array.dtype.name) != (spec.channels, spec.dtype):
        raise ImageError(
            f"The image has {described(array.shape[2], array.dtype.name)}, but the spec is for"
            f" {described(spec.channels, spec.dtype)}; convert the image."
        )
