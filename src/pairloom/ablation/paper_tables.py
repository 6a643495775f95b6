"""The paper's own numbers (arXiv 1611.07004v3, all of Cityscapes), to be set beside those of a study."""

from __future__ import annotations

from pairloom.ablation.study import PaperTable

FCN = ("Per-pixel acc.", "Per-class acc.", "Class IoU")
"""Columns of Tables 1, 2, 3 and 6."""
TABLE_1 = PaperTable(
    title="Table 1: Cityscapes, labels to photo",
    columns=FCN,
    rows={
        "L1": (0.42, 0.15, 0.11),
        "GAN": (0.22, 0.05, 0.01),
        "cGAN": (0.57, 0.22, 0.16),
        "L1+GAN": (0.64, 0.20, 0.15),
        "L1+cGAN": (0.66, 0.23, 0.17),
        "Ground truth": (0.80, 0.26, 0.21),
    },
)
TABLE_2 = PaperTable(
    title="Table 2: Cityscapes, labels to photo, batch size 10",
    columns=FCN,
    rows={
        "Encoder-decoder, L1": (0.35, 0.12, 0.08),
        "Encoder-decoder, L1+cGAN": (0.29, 0.09, 0.05),
        "U-Net, L1": (0.48, 0.18, 0.13),
        "U-Net, L1+cGAN": (0.55, 0.20, 0.14),
    },
)
TABLE_3 = PaperTable(
    title="Table 3: Cityscapes, labels to photo, L1+cGAN",
    columns=FCN,
    rows={
        "1x1": (0.39, 0.15, 0.10),
        "16x16": (0.65, 0.21, 0.17),
        "70x70": (0.66, 0.23, 0.17),
        "286x286": (0.42, 0.16, 0.11),
    },
)
TABLE_6 = PaperTable(
    title="Table 6: Cityscapes, photo to labels",
    columns=FCN,
    rows={"L1": (0.86, 0.42, 0.35), "cGAN": (0.74, 0.28, 0.22), "L1+cGAN": (0.83, 0.36, 0.29)},
)
FIGURE_7D = PaperTable(
    title="Figure 7 (d): Cityscapes, histogram intersection with the ground truth",
    columns=("L", "a", "b"),
    rows={
        "L1": (0.81, 0.69, 0.70),
        "cGAN": (0.87, 0.74, 0.84),
        "L1+cGAN": (0.86, 0.84, 0.82),
        "PixelGAN": (0.83, 0.68, 0.78),
    },
)
LAMBDA = PaperTable(
    title="Table 1: Cityscapes, labels to photo",
    columns=FCN,
    rows={"λ = 0 (cGAN)": TABLE_1.rows["cGAN"], "λ = 100 (L1+cGAN)": TABLE_1.rows["L1+cGAN"]},
)
BATCH = PaperTable(
    title="Tables 1 and 2: Cityscapes, labels to photo, U-Net, L1+cGAN",
    columns=FCN,
    rows={"batch size 1": TABLE_1.rows["L1+cGAN"], "batch size 10": TABLE_2.rows["U-Net, L1+cGAN"]},
)
