"""One function for each experiment of the paper, each returning a whole Config.

Source: Sections 3.3, 4 and 6.2 of arXiv 1611.07004v3. Each preset's `note` says how sure its figures are: [P]
read in the paper, [S] told by others who read it, [M] from memory only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pairloom.config import Config, ConfigError


def _with(config: Config, *, note: str | None = None, **groups: dict[str, Any]) -> Config:
    """`config` with some fields of some groups replaced."""
    changes: dict[str, Any] = {
        name: replace(getattr(config, name), **fields) for name, fields in groups.items()
    }
    return replace(config, **changes, note=config.note if note is None else note)


def default() -> Config:
    """The paper's hyperparameters; where there is no val split, a tenth of the training pairs becomes one."""
    return _with(Config(), data={"val_fraction": 0.1}, note="The paper's facades settings, with validation.")


def paper() -> Config:
    """Facades, architectural labels to photo: 400 pairs, 200 epochs, batch size 1, jitter and mirror."""
    return _with(
        Config(),
        data={"direction": "BtoA"},
        note="400 images [P]; 200 epochs, batch size 1 [S]; jitter and mirror [M]. "
        "Data: photo left, labels right.",
    )


def maps() -> Config:
    """Aerial photo to map and back: 1096 pairs, 200 epochs, batch size 1, jitter and mirror."""
    return _with(
        paper(),
        data={"direction": "AtoB"},
        note="1096 images [S, the authors' README]; 200 epochs, batch size 1 [S]; jitter and mirror [M].",
    )


def cityscapes() -> Config:
    """Labels to street scene: 2975 pairs, 200 epochs, batch size 1, jitter and mirror."""
    return _with(
        paper(),
        data={"direction": "BtoA"},
        note="2975 images, 200 epochs, jitter and mirror, quoted from the paper [S]; batch size 1, "
        "10 for Table 2 [P].",
    )


def segmentation() -> Config:
    """Street scene to labels (Table 6): cityscapes the other way; L1 alone scores best."""
    return _with(
        cityscapes(),
        data={"direction": "AtoB"},
        note="As cityscapes; Table 6 compares L1, cGAN and L1+cGAN [P].",
    )


def edges2shoes() -> Config:
    """Edges to shoes: 50k pairs, 15 epochs, batch size 4; of photos alone with data.derive=edges."""
    return _with(
        paper(),
        data={"direction": "AtoB", "load_size": "crop", "mirror": False},
        training={"epochs": 15, "batch_size": 4},
        note="15 epochs, batch size 4 [S]; the paper names neither jitter nor mirror for it: both off [M].",
    )


def edges2handbags() -> Config:
    """Edges to handbags: 137k pairs, 15 epochs, batch size 4."""
    return _with(
        edges2shoes(), note="As edges2shoes: 15 epochs, batch size 4 [S]; jitter and mirror off [M]."
    )


def sketch() -> Config:
    """Sketch to photo: an edges model, tried on other drawings (the paper trains nothing on sketches)."""
    return _with(edges2shoes(), note="The paper tests edges models on sketches [P]; settings of edges2shoes.")


def day2night() -> Config:
    """Day to night: 17,823 pairs from 91 webcams, 17 epochs, batch size 4, jitter and mirror."""
    return _with(
        paper(),
        data={"direction": "BtoA"},
        training={"epochs": 17, "batch_size": 4},
        note="91 webcams [P]; 17 epochs, batch size 4 [S]; jitter and mirror [M].",
    )


def colorization() -> Config:
    """Black and white to colour: L in, ab out; 1.2 M photos, about 6 epochs, batch size 4, mirror only."""
    return _with(
        paper(),
        data={"direction": "AtoB", "load_size": "crop", "derive": "colorize"},
        training={"epochs": 6, "batch_size": 4},
        note="About 6 epochs, batch size 4 [S]; mirror only [M]. Data: colour photos; L and ab follow.",
    )


def inpainting() -> Config:
    """Missing pixels to photo: 14,900 photos, 25 epochs, batch size 4, a central square missing."""
    return _with(
        paper(),
        data={"direction": "AtoB", "load_size": "crop", "mirror": False, "derive": "inpaint"},
        training={"epochs": 25, "batch_size": 4},
        note="14,900 photos [S]; 25 epochs, batch size 4 [M]. Data: whole photos; the hole follows.",
    )


def thermal() -> Config:
    """Thermal to colour: 36,609 pairs, 10 epochs, batch size 4."""
    return _with(
        paper(),
        data={"direction": "AtoB", "load_size": "crop", "mirror": False},
        training={"epochs": 10, "batch_size": 4},
        note="Source of the data [P]; 36,609 pairs, 10 epochs, batch size 4 [M].",
    )


def junyanz() -> Config:
    """The PyTorch reference's settings: linear decay over the second half, dropout one block further out."""
    return _with(
        paper(),
        generator={"dropout_blocks": (2, 3, 4)},
        training={"decay_fraction": 0.5},
        note="pytorch-CycleGAN-and-pix2pix: 100 epochs constant, 100 of decay; "
        "its dropout skips the innermost block.",
    )


def demo() -> Config:
    """The built-in sample set at 128 pixels with small networks: minutes on two CPU cores."""
    return _with(
        paper(),
        data={"load_size": "crop", "crop_size": 128, "source_one_hot": True},
        generator={"base_channels": 32, "upsample": "resize"},
        discriminator={"base_channels": 32},
        training={"steps": 2800, "batch_size": 4, "decay_fraction": 0.4},
        logging={"log_every_steps": 50, "save_every_steps": 700},
        note="For `pairloom demo`: the paper's objective at half its side and width. What a run of minutes "
        "needs and the paper does not have: batch size 4, a decaying rate, one-hot labels, no jitter, and "
        "resize-convolutions, as transposed ones weave a grid that takes longer to fade.",
    )


def tiny() -> Config:
    """For tests: 32-pixel crops, 8 base channels, seconds on a CPU."""
    return _with(
        paper(),
        data={"crop_size": 32, "workers": 0},
        generator={"base_channels": 8},
        discriminator={"base_channels": 8, "num_layers": 1},
        training={"steps": 4, "precision": "fp32", "device": "cpu"},
        logging={"log_every_steps": 1, "save_every_steps": 2, "sample_pairs": 1},
        note="For tests.",
    )


# The five objectives of Table 1, over any preset.


def _objective(config: Config, *, l1: bool, gan: bool, conditional: bool, name: str) -> Config:
    return _with(
        config,
        objective={"lambda_l1": 100.0 if l1 else 0.0, "lambda_gan": 1.0 if gan else 0.0},
        discriminator={"conditional": conditional},
        note=f"{name} of Table 1. {config.note}",
    )


def l1(config: Config | None = None) -> Config:
    """L1 alone: no D."""
    return _objective(config or paper(), l1=True, gan=False, conditional=True, name="L1")


def gan(config: Config | None = None) -> Config:
    """The unconditional GAN: D sees y alone, no L1."""
    return _objective(config or paper(), l1=False, gan=True, conditional=False, name="GAN")


def cgan(config: Config | None = None) -> Config:
    """The conditional GAN: D sees x and y, no L1."""
    return _objective(config or paper(), l1=False, gan=True, conditional=True, name="cGAN")


def l1_gan(config: Config | None = None) -> Config:
    """L1 and the unconditional GAN."""
    return _objective(config or paper(), l1=True, gan=True, conditional=False, name="L1+GAN")


def l1_cgan(config: Config | None = None) -> Config:
    """L1 and the conditional GAN: the paper's own (lambda 100)."""
    return _objective(config or paper(), l1=True, gan=True, conditional=True, name="L1+cGAN")


PRESETS: dict[str, Callable[[], Config]] = {
    f.__name__: f
    for f in (
        default, paper, maps, cityscapes, edges2shoes, edges2handbags, day2night, colorization, inpainting,
        thermal, sketch, segmentation, junyanz, demo, tiny, l1, gan, cgan, l1_gan, l1_cgan,
    )
} | {"facades": paper}  # fmt: skip


def get(name: str) -> Config:
    """The preset of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]()
