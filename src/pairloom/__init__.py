"""pairloom: learn to turn one kind of image into another from pairs of images (pix2pix, arXiv 1611.07004).

    import pairloom
    config = pairloom.override(pairloom.presets.paper(), {"data.path": "facades"})
    run = pairloom.train(config, "runs/facades")
    output = pairloom.Translator.load(run)("labels.png")
    summary = pairloom.evaluate(run, out="evaluation")

The names are loaded when first used: `import pairloom` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pairloom import presets
    from pairloom.config import Config
    from pairloom.configfile import override
    from pairloom.evaluation.compare import compare
    from pairloom.evaluation.evaluate import evaluate
    from pairloom.fit import train
    from pairloom.large import translate_large
    from pairloom.translator import Translator

__version__ = "0.1.0"
__all__ = ["Config", "Translator", "compare", "evaluate", "override", "presets", "train", "translate_large"]

_HOMES = {
    "Config": "pairloom.config",
    "Translator": "pairloom.translator",
    "compare": "pairloom.evaluation.compare",
    "evaluate": "pairloom.evaluation.evaluate",
    "override": "pairloom.configfile",
    "train": "pairloom.fit",
    "translate_large": "pairloom.large",
}


def __getattr__(name: str) -> Any:
    if name == "presets":
        return importlib.import_module("pairloom.presets")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pairloom' has no attribute {name!r}")
