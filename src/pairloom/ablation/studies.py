"""The paper's studies, one function each: variants, findings, and the paper's own numbers.

Each takes the configuration that its variants start from, and the number of training pairs. Numbers are those
of the paper's version 3 (arXiv 1611.07004v3); where a table is of Cityscapes, it says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from pairloom.ablation.paper_tables import BATCH, FIGURE_7D, LAMBDA, TABLE_1, TABLE_2, TABLE_3, TABLE_6
from pairloom.ablation.study import Finding, Study, StudyError, Variant
from pairloom.config import Config, height_width

FIELDS = {0: 1, 1: 16, 2: 34, 3: 70, 4: 142, 5: 286}
"""Receptive field in pixels of a D with so many strided layers (Section 6.1.2)."""
PAPER_SIDE = 256
"""Pixels: what the paper's receptive fields are to be compared with."""


def _objective(base: Config, *, l1: bool = False, l2: bool = False, gan: bool = False) -> dict[str, Any]:
    """The weights of the terms: as the base has them, or the paper's where it has them off."""
    weight = base.objective.lambda_l1 or 100.0
    return {
        "objective.lambda_l1": weight if l1 else 0.0,
        "objective.lambda_l2": weight if l2 else 0.0,
        "objective.lambda_gan": (base.objective.lambda_gan or 1.0) if gan else 0.0,
    }


def objectives(base: Config, pairs: int) -> Study:
    """Table 1, Figures 4 and 7: which terms does the objective need?"""
    seen, unseen = {"discriminator.conditional": True}, {"discriminator.conditional": False}
    variants = (
        Variant(name="l2", title="L2", fields=_objective(base, l2=True)),
        Variant(name="l1", title="L1", fields=_objective(base, l1=True)),
        Variant(name="gan", title="GAN", fields=_objective(base, gan=True) | unseen),
        Variant(name="cgan", title="cGAN", fields=_objective(base, gan=True) | seen),
        Variant(name="l1-gan", title="L1+GAN", fields=_objective(base, l1=True, gan=True) | unseen),
        Variant(name="l1-cgan", title="L1+cGAN", fields=_objective(base, l1=True, gan=True) | seen),
    )
    return Study(
        name="objectives",
        title="Which terms does the objective need?",
        question="L1 alone, an adversarial term alone, with D seeing the source or not, or both together?",
        answer="L1 alone is plausible but blurred and greyish. cGAN alone is sharp, with artefacts. A D that "
        "does not see the source lets G make nearly the same image whatever the source; adding L1 largely "
        "repairs that. L1+cGAN scores best, and its colours are the nearest to the real ones.",
        variants=variants,
        findings=(
            _more("cGAN beats GAN", "class_iou", "cgan", "gan", "Table 1"),
            _more("L1+cGAN beats L1", "class_iou", "l1-cgan", "l1", "Table 1"),
            _more("L1+cGAN beats cGAN", "pixel_accuracy", "l1-cgan", "cgan", "Table 1"),
            _more(
                "L1+GAN beats GAN: L1 repairs the unconditional GAN", "class_iou", "l1-gan", "gan", "Table 1"
            ),
            _more("L1+GAN beats L1", "class_iou", "l1-gan", "l1", "Table 1"),
            _more("L1+cGAN beats L1+GAN", "class_iou", "l1-cgan", "l1-gan", "Table 1"),
            _more(
                "GAN's outputs depend on the source less than cGAN's", "variety", "cgan", "gan", "Section 4.2"
            ),
            _more("L1 is blurred beside L1+cGAN", "fine_detail", "l1-cgan", "l1", "Section 4.2, Figure 4"),
            _more("L2 blurs more than L1", "fine_detail", "l1", "l2", "Section 3.1"),
            _more(
                "L1+cGAN is more colourful than L1",
                "colour_spread",
                "l1-cgan",
                "l1",
                "Section 4.2, Figure 7",
            ),
            _more(
                "L1+cGAN's a and b are nearer to the real ones than L1's",
                "ab_intersection",
                "l1-cgan",
                "l1",
                "Figure 7 (d)",
            ),
        ),
        paper=(
            TABLE_1,
            FIGURE_7D,
        ),
    )


def generators(base: Config, pairs: int) -> Study:
    """Table 2, Figure 5: do the skips matter, with and without an adversarial term?"""
    nets = {
        "encoder-decoder": ("Encoder-decoder", "none"),
        "unet": ("U-Net", "concat"),
        "unet-add": ("U-Net, skips added", "add"),
    }
    variants = tuple(
        Variant(
            name=f"{name}-{'l1-cgan' if gan else 'l1'}",
            title=f"{title}, {'L1+cGAN' if gan else 'L1'}",
            fields={"generator.skip": skip} | _objective(base, l1=True, gan=gan),
        )
        for name, (title, skip) in nets.items()
        for gan in (False, True)
    )
    return Study(
        name="generators",
        title="Do the generator's skips matter?",
        question="The encoder-decoder, or the U-Net with its skips from encoder to decoder?",
        answer="The U-Net wins under L1 as well as under L1+cGAN; the encoder-decoder does not make "
        "realistic images. (The paper used batch size 10 here. Skips by addition are not in the paper.)",
        variants=variants,
        findings=(
            _more(
                "U-Net beats the encoder-decoder under L1",
                "class_iou",
                "unet-l1",
                "encoder-decoder-l1",
                "Table 2",
            ),
            _more(
                "U-Net beats the encoder-decoder under L1+cGAN",
                "class_iou",
                "unet-l1-cgan",
                "encoder-decoder-l1-cgan",
                "Table 2",
            ),
            _more("With a U-Net, L1+cGAN beats L1", "class_iou", "unet-l1-cgan", "unet-l1", "Table 2"),
            _more(
                "With an encoder-decoder, L1+cGAN does worse than L1",
                "class_iou",
                "encoder-decoder-l1",
                "encoder-decoder-l1-cgan",
                "Table 2",
            ),
        ),
        paper=(TABLE_2,),
    )


PATCHES_ANSWER = (
    "1x1 has more colour than L1 but is no sharper. 16x16 is sharp, with tiling artefacts. 70x70 takes the "
    "tiles away and scores slightly better. 286x286 looks no better and scores much worse: it is harder to "
    "train."
)


def patches(base: Config, pairs: int) -> Study:
    """Table 3, Figure 6: how large a patch should D judge?"""
    variants = (_l1_beside(base), *(_patch(base, layers, FIELDS[layers]) for layers in FIELDS))
    return Study(
        name="patches",
        title="How large a patch should D judge?",
        question="Receptive fields of D from 1x1 (PixelGAN) to 286x286 (ImageGAN).",
        answer=PATCHES_ANSWER,
        variants=variants,
        findings=(
            _more("70x70 beats 1x1", "class_iou", "70x70", "1x1", "Table 3"),
            _more("16x16 beats 1x1", "class_iou", "16x16", "1x1", "Table 3"),
            _more("70x70 beats 286x286", "class_iou", "70x70", "286x286", "Table 3"),
            _more("70x70 beats 16x16, slightly", "class_accuracy", "70x70", "16x16", "Table 3"),
            *_pixel_gan("1x1", "70x70"),
        ),
        paper=(TABLE_3,),
        hint="For all of them use crops of 128 pixels or more, or patches-scaled; or choose with --only.",
    )


def patches_scaled(base: Config, pairs: int) -> Study:
    """As `patches`, with the receptive fields that are to this crop what the paper's are to 256 pixels."""
    side = min(height_width(base.data.crop_size))
    chosen: dict[int, int] = {}
    for layers in (0, 1, 3, 5):
        wanted = FIELDS[layers] * side / PAPER_SIDE
        nearest = min(FIELDS, key=lambda n: abs(FIELDS[n] - wanted))
        chosen.setdefault(0 if layers == 0 else nearest, FIELDS[layers])
    names = {paper: _patch_name(FIELDS[layers]) for layers, paper in chosen.items()}
    variants = (_l1_beside(base), *(_patch(base, layers, paper) for layers, paper in chosen.items()))
    findings = [
        _more(
            f"{names[a]} beats {names[b]} ({a} against {b} px of 256)", score, names[a], names[b], "Table 3"
        )
        for a, b, score in (
            (70, 1, "class_iou"),
            (16, 1, "class_iou"),
            (70, 286, "class_iou"),
            (70, 16, "class_accuracy"),
        )
        if a in names and b in names
    ]
    if 70 in names:
        findings += _pixel_gan(names[1], names[70])
    return Study(
        name="patches-scaled",
        title="How large a patch should D judge, for this image size?",
        question=f"Receptive fields that are to {side} px what the paper's are to {PAPER_SIDE} px.",
        answer=PATCHES_ANSWER,
        variants=variants,
        findings=tuple(findings),
        paper=(TABLE_3,),
    )


def _l1_beside(base: Config) -> Variant:
    return Variant(name="l1", title="L1, no D", fields=_objective(base, l1=True))


def _patch_name(field: int) -> str:
    return f"{field}x{field}"


def _patch(base: Config, layers: int, paper: int) -> Variant:
    name = _patch_name(FIELDS[layers])
    return Variant(
        name=name,
        title=name if FIELDS[layers] == paper else f"{name} (for the paper's {_patch_name(paper)})",
        fields={"discriminator.num_layers": layers} | _objective(base, l1=True, gan=True),
    )


def _pixel_gan(pixel: str, patch: str) -> tuple[Finding, ...]:
    return (
        _more(
            "PixelGAN widens the a,b histograms beside L1",
            "colour_spread",
            pixel,
            "l1",
            "Section 4.4, Figure 7",
        ),
        _more(f"{patch} is sharper than PixelGAN", "fine_detail", patch, pixel, "Section 4.4, Figure 6"),
    )


def segmentation(base: Config, pairs: int) -> Study:
    """Table 6, Figure 10: photo to labels, where there is one right answer."""
    variants = (
        Variant(name="l1", title="L1", fields=_objective(base, l1=True)),
        Variant(name="cgan", title="cGAN", fields=_objective(base, gan=True)),
        Variant(name="l1-cgan", title="L1+cGAN", fields=_objective(base, l1=True, gan=True)),
    )
    return Study(
        name="segmentation",
        title="Does an adversarial term help where there is one right answer?",
        question="Photo to labels with L1, cGAN and L1+cGAN.",
        answer="No: L1 alone scores best. cGAN alone adds many small objects that are not there.",
        variants=variants,
        findings=(
            _more("L1 beats L1+cGAN", "class_iou", "l1", "l1-cgan", "Table 6"),
            _more("L1 beats cGAN", "class_iou", "l1", "cgan", "Table 6"),
            _more("L1+cGAN beats cGAN", "class_iou", "l1-cgan", "cgan", "Table 6"),
        ),
        paper=(TABLE_6,),
    )


def lambda_(base: Config, pairs: int) -> Study:
    """Equation 4: how much L1 beside the cGAN?"""
    weights = (0, 1, 10, 100, 1000)
    variants = tuple(
        Variant(
            name=str(weight),
            title=f"λ = {weight}",
            fields={
                "objective.lambda_l1": float(weight),
                "objective.lambda_gan": base.objective.lambda_gan or 1.0,
            },
        )
        for weight in weights
    )
    return Study(
        name="lambda",
        title="How much L1 beside the cGAN?",
        question="The weight λ of L1 in equation 4; 0 is the cGAN alone.",
        answer="The paper compares 0 and 100 only: 100 reduces the artefacts of the cGAN alone.",
        variants=variants,
        findings=(
            _more("λ = 100 beats λ = 0", "pixel_accuracy", "100", "0", "Table 1"),
            _more("λ = 100 beats λ = 0", "class_iou", "100", "0", "Table 1"),
        ),
        paper=(LAMBDA,),
    )


def batch(base: Config, pairs: int) -> Study:
    """Batch sizes 1 to 10, as the paper's experiments used them, for equally many images."""
    variants = tuple(
        Variant(name=str(size), title=f"batch size {size}", fields={"training.batch_size": size})
        for size in (1, 4, 10)
    )
    return Study(
        name="batch",
        title="Which batch size, for equally many images?",
        question="Batch sizes 1, 4 and 10: ten times the steps, or ten times the images a step.",
        answer="The U-Net with L1+cGAN scores better at batch size 1 (Table 1) than at 10 (Table 2), for the "
        "same number of epochs.",
        variants=variants,
        findings=(_more("Batch size 1 beats 10", "class_iou", "1", "10", "Tables 1 and 2"),),
        paper=(BATCH,),
    )


def noise(base: Config, pairs: int) -> Study:
    """Section 3.1: does G use its noise z?"""
    variants = (
        Variant(name="none", title="no noise", fields={"generator.noise": "none"}),
        Variant(
            name="dropout-train",
            title="dropout in training",
            fields={"generator.noise": "dropout"},
            dropout=False,
            runs_of="dropout",
        ),
        Variant(
            name="dropout",
            title="dropout in training and test",
            fields={"generator.noise": "dropout"},
            dropout=True,
        ),
        Variant(name="gaussian", title="Gaussian z", fields={"generator.noise": "gaussian"}, dropout=True),
    )
    return Study(
        name="noise",
        title="Does G use its noise?",
        question="No noise, dropout in training only, in training and test, or a Gaussian channel beside x.",
        answer="G learns to ignore a Gaussian z; with dropout the output varies, but only slightly.",
        variants=variants,
        findings=(
            Finding(
                statement="G ignores a Gaussian z: two samples lie less than one 8-bit grey level apart",
                source="Section 3.1",
                score="sample_distance",
                higher="gaussian",
                below=1.0,
            ),
            Finding(
                statement="With dropout two samples lie less than a tenth as far apart as two targets do",
                source="Section 3.1",
                score="sample_share",
                higher="dropout",
                below=0.1,
            ),
            _more(
                "Dropout varies the output more than a Gaussian z",
                "sample_distance",
                "dropout",
                "gaussian",
                "Section 3.1",
            ),
        ),
    )


def data(base: Config, pairs: int) -> Study:
    """How many pairs does it take? A learning curve, for equally many images seen."""
    counts = [pairs]
    while counts[0] >= 20 and len(counts) < 5:
        counts.insert(0, counts[0] // 2)
    variants = tuple(
        Variant(name=str(count), title=f"{count} pairs", fields={"data.max_pairs": count}) for count in counts
    )
    ends = str(counts[0]), str(counts[-1])
    return Study(
        name="data",
        title="How many pairs does it take?",
        question="The same training on fewer and fewer of the pairs.",
        answer="Decent results can be had from small sets: facades has 400 pairs, day to night 91 webcams. "
        "(The paper has no learning curve.)",
        variants=variants,
        findings=(
            _more(f"{ends[1]} pairs beat {ends[0]}", "ssim", ends[1], ends[0], "expected; not in the paper"),
            _more(
                f"{ends[1]} pairs beat {ends[0]}", "class_iou", ends[1], ends[0], "expected; not in the paper"
            ),
        )
        if len(counts) > 1
        else (),
        curve=tuple(map(float, counts)),
        curve_title="training pairs",
    )


def _more(statement: str, score: str, higher: str, lower: str, source: str) -> Finding:
    return Finding(statement=statement, source=source, score=score, higher=higher, lower=lower)


STUDIES: dict[str, Callable[[Config, int], Study]] = {
    "objectives": objectives,
    "generators": generators,
    "patches": patches,
    "patches-scaled": patches_scaled,
    "segmentation": segmentation,
    "lambda": lambda_,
    "batch": batch,
    "noise": noise,
    "data": data,
}
CUSTOM = "custom"
"""The study whose variants a file gives."""
DEFAULTS: Mapping[str, Mapping[str, Any]] = {"generators": {"training.batch_size": 10}}
"""What a study changes of the preset; files and flags have the last word."""


def check_name(name: str) -> None:
    """Raise when there is no such study.

    Raises:
        StudyError: It names the nearest.
    """
    known = [*STUDIES, CUSTOM]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise StudyError(f"there is no study {name!r} (there are {', '.join(known)}){hint}")
