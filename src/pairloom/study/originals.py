"""The images that a study is made of: from folders, or translated by runs. All 8-bit RGB, all of one size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from pairloom.formats import SUFFIXES, is_lossless, read_image
from pairloom.pixels import ImageError, described
from pairloom.study.protocol import StudyFault
from pairloom.study.shown import Rgb, eight_bit_rgb


@dataclass(frozen=True, slots=True)
class Original:
    """One image as it came."""

    algorithm: str | None
    """None: real."""
    name: str
    """Images of one source have one name."""
    said: str
    """What messages and key.json call it."""
    pixels: Rgb


class Originals(Protocol):
    """Where a study's images come from: how many there are is known before the first one is read."""

    def names(self) -> dict[str | None, list[str]]:
        """The sources of each algorithm, and of the real images under None."""

    def where(self, algorithm: str | None) -> str:
        """What messages call the images of one algorithm."""

    def read(self) -> Iterator[Original]:
        """All images."""

    def notes(self) -> list[str]:
        """What whoever makes the study should know."""


# -----------------------------------------------------------------------------------------------------------
# Folders


class FolderImages:
    """Real images in one folder, those of each algorithm in another; one source has one name everywhere.

    Args:
        folders: By algorithm; of the real images under None.

    Raises:
        StudyFault: A folder is missing, holds no images, or two of one name.
    """

    def __init__(self, folders: Mapping[str | None, Path]) -> None:
        self.folders = dict(folders)
        self.files = {algorithm: _listed(folder) for algorithm, folder in folders.items()}

    def names(self) -> dict[str | None, list[str]]:
        """Relative paths without extension."""
        return {algorithm: list(files) for algorithm, files in self.files.items()}

    def where(self, algorithm: str | None) -> str:
        """The folder."""
        return str(self.folders[algorithm])

    def read(self) -> Iterator[Original]:
        """Folder by folder.

        Raises:
            StudyFault: A file is corrupt, or no 8-bit image in grey or RGB.
        """
        for algorithm, files in self.files.items():
            for name, path in files.items():
                try:
                    pixels = eight_bit_rgb(read_image(path, alpha="white"), str(path))
                except ImageError as error:
                    raise StudyFault(str(error)) from error
                yield Original(algorithm, name, str(path), pixels)

    def notes(self) -> list[str]:
        """Where one folder is of JPEG files and another is not, their own marks can tell."""
        lossy = {
            algorithm: not is_lossless(next(iter(files.values()))) for algorithm, files in self.files.items()
        }
        if len(set(lossy.values())) < 2:
            return []
        listed = ", ".join(str(self.folders[a]) for a, is_lossy in lossy.items() if is_lossy)
        return [
            f"Images in {listed} were compressed with loss (JPEG) and the others were not: all are shown as "
            "PNG, but such compression leaves marks in the picture itself."
        ]


def _listed(folder: Path) -> dict[str, Path]:
    """Files by their relative path without extension, sorted by it; nothing hidden."""
    if not folder.is_dir():
        raise StudyFault(f"{folder}: is no folder; give a folder of images.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        name = relative.with_suffix("").as_posix()
        if name in found:
            raise StudyFault(f"{path} and {found[name]}: have one name; leave one of them out.")
        found[name] = path
    if not found:
        raise StudyFault(f"{folder}: the folder holds no images ({' '.join(sorted(SUFFIXES))}).")
    return found


# -----------------------------------------------------------------------------------------------------------
# Runs


class RunImages:
    """Targets of a split as the real images, and what each run makes of the sources as the fake ones.

    Source: Section 4.1 on maps: trained at 256, "at test time run convolutionally on 512 x 512 images", which
        `generate_px=512` and a study of size 256 repeat.

    Args:
        runs: Run directories or weights, by the name of the algorithm.
        data: The pairs; None: those that the first run was trained on.
        split: Which of them.
        generate_px: Side to which sources and targets are resized before translating; None: as for tests.
        checkpoint: Of run directories: last, or best.
        device: auto, cpu, cuda, mps.
        real: Are the targets part of the study?
        seed: Of the noise.

    Raises:
        StudyFault: Runs do not see the same pairs, make no 8-bit images, or `generate_px` cannot apply.
    """

    def __init__(
        self,
        runs: Mapping[str, Path],
        data: Path | None,
        *,
        split: str,
        generate_px: int | None,
        checkpoint: Literal["last", "best"],
        device: str,
        real: bool,
        seed: int,
    ) -> None:
        from pairloom.data import find_pairs
        from pairloom.evaluation.evaluate import data_of, pairs_of
        from pairloom.translator import Translator

        self.split, self.generate_px, self.real, self.seed = split, generate_px, real, seed
        self.models: dict[str, tuple[Translator, Any, Sequence[Any]]] = {}
        for name, path in runs.items():
            model = Translator.load(path, checkpoint=checkpoint, device=device)
            _check_target(name, model.target_spec)
            if data is None:
                data = Path(model.config.data.path)
            config, own = data_of(model, data)
            if generate_px is not None and config.resize == "none":
                raise StudyFault(
                    f"{name}: was trained on images at their own pixels, so it cannot be asked to generate "
                    f"at {generate_px}; leave that out."
                )
            pairs, _ = pairs_of(find_pairs(config), split, own=own)
            if not pairs:
                raise StudyFault(f"{data}: has no pairs in the {split!r} split; choose another --split.")
            self.models[name] = model, config, pairs
        first = next(iter(self.models))
        for name in self.models:
            if self.names()[name] != self.names()[first]:
                raise StudyFault(
                    f"{name}: its {split} split holds other pairs than that of {first}; give data with fixed "
                    "splits (folders train, val, test)."
                )

    def names(self) -> dict[str | None, list[str]]:
        """Names of the pairs."""
        found: dict[str | None, list[str]] = {
            name: [pair.name for pair in pairs] for name, (_, _, pairs) in self.models.items()
        }
        return {None: next(iter(found.values())), **found} if self.real else found

    def where(self, algorithm: str | None) -> str:
        """The split."""
        return f"the {self.split} split" + ("" if algorithm is None else f" of {algorithm}")

    def read(self) -> Iterator[Original]:
        """Pair by pair: its target, and each run's output.

        Raises:
            StudyFault: Two runs learned from different targets, which no participant could compare.
        """
        from tqdm import tqdm

        from pairloom import images
        from pairloom.validity import filled

        first = next(iter(self.models))
        for number in tqdm(
            range(len(self.models[first][2])), desc="translating", unit="pair", disable=None, leave=False
        ):
            shown: Rgb | None = None
            for name, (model, config, pairs) in self.models.items():
                pair = pairs[number]
                x, y, valid = self._tensors(model, config, pair)
                said = f"{name} of {pair.name}"
                # Grey on both alike: what counts for nothing must not tell a fake.
                y_hat = filled(model.translate_tensor(x[None], seed=self.seed)[0].cpu(), valid)
                output, target = (
                    images.to_array(*images.recombined(side, x, model.target_spec)) for side in (y_hat, y)
                )
                target = eight_bit_rgb(target, f"target of {pair.name}")
                if shown is None:
                    shown = target
                    if self.real:
                        yield Original(None, pair.name, f"target of {pair.name}", target)
                elif not np.array_equal(shown, target):
                    raise StudyFault(
                        f"{name} and {first}: learned from different targets of {pair.name} (another size, "
                        "direction or data set); their outputs cannot stand in one study."
                    )
                yield Original(name, pair.name, said, eight_bit_rgb(output, said))

    def _tensors(self, model: Any, config: Any, pair: Any) -> Any:
        """Source and target in [-1, 1], and which pixels count. Shapes: (C, H, W) each."""
        from pairloom.data import evaluation_view

        config = replace(config, crop_size=self.generate_px, load_size=None) if self.generate_px else config
        return evaluation_view(pair, model.source_spec, model.target_spec, config)

    def notes(self) -> list[str]:
        """None."""
        return []


def _check_target(name: str, spec: Any) -> None:
    spec = spec.file_spec
    if spec.dtype != "uint8" or spec.channels not in (1, 3):
        raise StudyFault(
            f"{name}: makes images of {described(spec.channels, spec.dtype)}; a study shows 8-bit images in "
            "grey or RGB, so translate and convert them first, and make the study from folders."
        )
