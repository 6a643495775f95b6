"""AlexNet and VGG16 as trunks of perceptual metrics.

The names of their modules, and so of their tensors, are those of torchvision's public files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from pairloom.evaluation.trunks import check_images, load_public


def _standardised(x: Tensor) -> Tensor:
    """[-1, 1] to the scale of the public weights: over ImageNet, each channel has mean 0 and deviation 1."""
    mean, deviation = (x.new_tensor(v) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((x + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]


class AlexNet(nn.Module):
    """The convolutions of AlexNet, in the one-column variant of the public weights.

    Source: Krizhevsky 2014 (arXiv 1404.5997); layer table and names: torchvision, models/alexnet.py.
    """

    CHANNELS = (64, 192, 384, 256, 256)
    """Of the maps."""
    LEAST_PX = 31
    """Side of the smallest image that leaves the last pooling one window."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        )

    def maps(self, x: Tensor) -> list[Tensor]:
        """What each convolution found, after its ReLU.

        Shapes: x (N, 3, H, W), at least 31 px a side -> five of (N, CHANNELS[i], h, w).
        Units: x [-1, 1].

        Raises:
            TrunkError: x is of another shape, or too small.
        """
        check_images(x, least_px=self.LEAST_PX)
        found, x = [], _standardised(x)
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found

    @classmethod
    def pretrained(cls, folder: Path) -> AlexNet:
        """With the public weights in that folder.

        Raises:
            TrunkError: The file is absent, damaged, or of another network.
        """
        url = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
        return load_public(cls, folder, "alexnet-owt-*.pth", url, unused="classifier.")


class VGG16(nn.Module):
    """The convolutions of VGG16.

    Source: Simonyan and Zisserman 2015, table 1, column D; names: torchvision, models/vgg.py.
    """

    CHANNELS = (64, 128, 256, 512, 512)
    """Of the maps."""
    LEAST_PX = 16
    """Side of the smallest image that leaves the last map one position."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        c_in = 3
        for repeats, c_out in zip((2, 2, 3, 3, 3), self.CHANNELS, strict=True):
            for _ in range(repeats):
                self.features.extend([nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU()])
                c_in = c_out
            self.features.append(nn.MaxPool2d(2))

    def maps(self, x: Tensor, *, pool: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
        """What each of the five blocks found, before it is pooled.

        Args:
            x: Images.
            pool: Takes the place of the max pooling; it halves both sides.

        Shapes: x (N, 3, H, W), at least 16 px a side -> five of (N, CHANNELS[i], h, w).
        Units: x [-1, 1].

        Raises:
            TrunkError: x is of another shape, or too small.
        """
        check_images(x, least_px=self.LEAST_PX)
        found, x = [], _standardised(x)
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
                if len(found) == len(self.CHANNELS):
                    break
            x = pool(x) if pool is not None and isinstance(layer, nn.MaxPool2d) else layer(x)
        return found

    @classmethod
    def pretrained(cls, folder: Path) -> VGG16:
        """With the public weights in that folder.

        Raises:
            TrunkError: The file is absent, damaged, or of another network.
        """
        url = "https://download.pytorch.org/models/vgg16-397923af.pth"
        return load_public(cls, folder, "vgg16-*.pth", url, unused="classifier.")
