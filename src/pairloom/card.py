"""A model card beside the weights: what the model does, on which data, how well, what for, how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from pairloom import checkpoint as checkpoints
from pairloom import rundir
from pairloom.checkpoint import SavedNetwork
from pairloom.config import Config
from pairloom.evaluation.summary import EvaluationError, Summary, interval_words
from pairloom.hub import CARD
from pairloom.images import ImageError, ImageSpec
from pairloom.rundir import RunError

WHOSE = {
    "image": "each image's own statistics in batch norm",
    "running": "the averages of training in batch norm",
    "batch": "the test batch's statistics in batch norm",
}
LIMITS = (
    "Where the source leaves the output open it is made up, and looks as sharp: it is no measurement.",
    "Nothing here vouches for the results of sources unlike those it was trained on, in content, scale, "
    "light or instrument.",
    "Sources are expected at the scale of the training; see the sizes above.",
)
UNSTATED = "Not stated by the author."


def write_card(
    run: str | Path,
    *,
    title: str | None = None,
    licence: str | None = None,
    data: str | None = None,
    intended_use: str | None = None,
    limits: str | None = None,
    evaluation: str | Path | None = None,
) -> Path:
    """Write RUN/MODEL_CARD.md over an earlier one.

    Args:
        run: A run directory, or the folder of an imported model.
        title: Heading; None: the folder's name.
        licence: Of the weights, as the Hub names it (mit, apache-2.0, cc-by-4.0, ...).
        data: Where the data come from and under which terms.
        intended_use: Sentences.
        limits: Sentences, after those that hold for every such model.
        evaluation: The folder that `evaluate` wrote, or its summary.json; None: RUN/evaluation, if there.

    Raises:
        CheckpointError: No generator.safetensors there, or a damaged one.
        EvaluationError: The evaluation cannot be read.
    """
    folder = Path(run)
    text = card_text(
        folder,
        title=title or folder.resolve().name,
        licence=licence,
        data=data,
        intended_use=intended_use,
        limits=limits,
        summary=_summary(folder, evaluation),
    )
    checkpoints.write_text_atomically(folder / CARD, text)
    return folder / CARD


def card_text(
    folder: Path,
    *,
    title: str,
    licence: str | None,
    data: str | None,
    intended_use: str | None,
    limits: str | None,
    summary: Summary | None,
) -> str:
    """The card as Markdown, headed by the Hub's metadata; see `write_card`."""
    file = folder / "generator.safetensors"
    saved = SavedNetwork({}, checkpoints.read_description(file), file)
    config = saved.config()
    parts = [
        _metadata(licence),
        f"# {title}",
        *_what(saved, config),
        "## Data",
        *_data(saved, config, data),
        "## Images",
        *_images(saved),
        "## At inference",
        *_semantics(saved, config),
        "## Figures",
        *_figures(saved, summary),
        "## Intended use",
        intended_use or UNSTATED,
        "## Limits",
        "\n".join(f"- {line}" for line in (*LIMITS, *([limits] if limits else []))),
        "## Licence",
        licence or f"{UNSTATED} Without a licence nobody else may use these weights.",
        "## How to load it",
        _loading(folder),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _metadata(licence: str | None) -> str:
    """What the Hub reads; strings in JSON are strings in YAML."""
    known = json.dumps(licence.lower()) if licence else "unknown"
    lines = ["---", f"license: {known}", "library_name: pairloom", "pipeline_tag: image-to-image"]
    return "\n".join([*lines, "tags:", "- pix2pix", "- image-to-image", "---"])


def _what(saved: SavedNetwork, config: Config) -> Iterator[str]:
    g, provenance = config.generator, saved.description.get("provenance", {})
    if g.architecture == "resnet":
        network = f"A ResNet generator of {g.resnet_blocks} blocks"
    else:
        kind = "An encoder-decoder" if g.skip == "none" else "A U-Net"
        network = f"{kind} generator of {g.num_downs} halvings"
    yield (
        f"{network}, {g.base_channels} base channels, {g.norm} norm, that turns one kind of image into "
        "another (pix2pix: Isola et al., arXiv 1611.07004), in the format of pairloom."
    )
    if origin := provenance.get("imported_from"):
        yield f"Trained elsewhere: imported from weights of {origin}."
        return
    t, o = config.training, config.objective
    yield (
        f"Trained for {provenance.get('step', '?')} steps at batch size {t.batch_size}, learning rate "
        f"{t.learning_rate:g}, seed {t.seed}; objective: {o.lambda_gan:g} x GAN ({o.gan_mode}) "
        f"+ {o.lambda_l1:g} x L1" + (f" + {o.lambda_l2:g} x L2." if o.lambda_l2 else ".")
    )


def _data(saved: SavedNetwork, config: Config, words: str | None) -> Iterator[str]:
    yield words or f"{UNSTATED.removesuffix('.')}: where the data come from, and under which terms."
    provenance, data = saved.description.get("provenance", {}), config.data
    facts = []
    if data.path:  # its name alone: a card is for others
        facts.append(f"folder `{PurePath(data.path).name}`")
    if isinstance(pairs := provenance.get("pairs"), int):
        facts.append(f"{pairs} training pairs")
    if fingerprint := provenance.get("data_fingerprint"):
        facts.append(f"fingerprint `{fingerprint}`")
    facts.append(f"direction {data.direction}")
    if data.derive != "none":
        facts.append(f"pairs made from single photos ({data.derive})")
    crop, load = data.crop_size, data.load_sides
    facts.append(f"resize {data.resize} to {load[1]}x{load[0]} px, crops of {crop} px")
    yield "\n".join(f"- {fact}" for fact in facts)


def _images(saved: SavedNetwork) -> Iterator[str]:
    try:
        specs = {s: ImageSpec.from_dict(saved.description[f"{s}_spec"]) for s in ("source", "target")}
    except (KeyError, TypeError, AttributeError, ImageError) as error:
        raise saved.incomplete(error) from error
    yield "\n".join(f"- {side.capitalize()}: {spec.words()}" for side, spec in specs.items())


def _semantics(saved: SavedNetwork, config: Config) -> Iterator[str]:
    semantics = saved.description.get("semantics", {})
    if config.generator.norm == "batch":
        stats = str(semantics.get("norm_stats"))
        yield f"- `norm_stats={stats}`: {WHOSE.get(stats, 'unknown')}\n{_dropout(semantics)}"
    else:
        yield _dropout(semantics)


def _dropout(semantics: dict[str, Any]) -> str:
    on = bool(semantics.get("dropout"))
    return f"- `dropout={on}`" + (": the noise z, a function of the seed (0 unless given)" if on else "")


def _figures(saved: SavedNetwork, summary: Summary | None) -> Iterator[str]:
    if summary is None:
        yield "Not evaluated."
        return
    count = summary.settings["pairs"]
    yield f"Means over {count} image{'s' * (count != 1)} of the {summary.where}, with 95 % intervals."
    whose = list(summary.metrics)
    rows = [["", *(who.replace("_", " ") for who in whose)], ["---"] * (1 + len(whose))]
    for name in summary.metrics["model"]:
        rows.append([name, *(interval_words(name, summary.metrics[who][name]) for who in whose)])
    yield "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if summary.settings["model"] != saved.description.get("provenance", {}):
        yield "These figures are of another checkpoint or model than the weights beside this card."
    if summary.remarks:
        yield "\n".join(f"- {remark}" for remark in summary.remarks)


def _summary(folder: Path, evaluation: str | Path | None) -> Summary | None:
    path = folder / "evaluation" if evaluation is None else Path(evaluation)
    file = path if path.suffix == ".json" else path / "summary.json"
    if evaluation is None and not file.exists():
        return None
    try:
        return Summary.from_dict(rundir.read_json(file))
    except RunError as error:
        raise EvaluationError(str(error)) from error
    except EvaluationError as error:
        raise EvaluationError(f"{file}: {error}; evaluate again.") from error


def _loading(folder: Path) -> str:
    name = folder.resolve().name
    return f"""```python
import pairloom

model = pairloom.Translator.load("{name}")          # this folder; published: "hf://owner/name"
output = model("photo.png", seed=0)                 # (H, W, C), the target's dtype and range
```

```sh
pairloom translate {name} IMAGES --out OUT
```"""
