"""Translating files: folders in, folders out, each result in a container that holds it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pairloom import config as configs
from pairloom import containers, images, large, volumes
from pairloom.images import Array, ImageError
from pairloom.memory import whole_image_bytes
from pairloom.onnx_generator import OnnxGenerator
from pairloom.stacks.dicom import files_of
from pairloom.stacks.suffixes import stem_of, suffix_of
from pairloom.translator import Samples, Translator
from pairloom.windows import GIB


def find_images(
    inputs: Iterable[str | Path], *, besides: str | Path | None = None
) -> list[tuple[Path, Path]]:
    """(file, name under the output folder) for each image in files and folders, folders searched in depth.

    Args:
        inputs: Files and folders; the folder of an OME-Zarr is an image.
        besides: The output folder: where it lies in a folder that is searched, it is left out.

    Raises:
        ImageError: A path is missing, or a folder holds no images.
    """
    found: list[tuple[Path, Path]] = []
    for given in map(Path, inputs):
        if given.is_dir() and not _is_one(given):
            inside = [given / name for name in sorted(_names(given, besides))]
            if not inside:
                kinds = " ".join(sorted(images.SUFFIXES))
                raise ImageError(f"{given}: the folder holds no images ({kinds}).")
            found += [(p, p.relative_to(given)) for p in inside]
        elif given.exists():
            found.append((given, Path(given.name)))
        else:
            raise ImageError(f"{given}: there is no such file or folder.")
    return found


def _names(folder: Path, besides: str | Path | None) -> Iterator[Path]:
    """The images in a folder and below, relative to it; nothing hidden, and nothing in `besides` if below."""
    out = Path(besides or folder).resolve()
    for place, folders, files in os.walk(folder):
        here = Path(place)
        inside = [
            here / name for name in folders if not name.startswith(".") and (here / name).resolve() != out
        ]
        one = {path for path in inside if _is_one(path)}
        folders[:] = [path.name for path in inside if path not in one]  # what is in an image is none
        yield from (path.relative_to(folder) for path in one)
        for path in (here / name for name in files):
            if not path.name.startswith(".") and images.is_image_name(path.name) and path.is_file():
                yield path.relative_to(folder)


def _is_one(folder: Path) -> bool:
    """Whether a folder is one image: OME-Zarr, or a DICOM series."""
    return folder.suffix.lower() == ".zarr" or bool(files_of(folder)[1:])


def scale_hint(translator: Translator, file: Path) -> str | None:
    """A sentence when an image is of quite another scale than the model's training crops; else None."""
    data = translator.config.data
    crop = configs.height_width(data.crop_size)
    try:
        shape = images.image_shape(file, translator.source_spec.part)
    except ImageError:  # it will be reported when its turn comes
        return None
    if isinstance(translator.generator, OnnxGenerator) and (hint := translator.generator.size_hint(*shape)):
        return hint
    ratio = max(a / b for a, b in zip(shape, crop, strict=True))
    if data.resize == "shorter":
        ratio = min(shape) / min(crop)
    if data.resize == "none" or 1 / 1.5 < ratio < 1.5:
        return None
    return (
        f"Note: {file} is {shape[1]}x{shape[0]} pixels, and the model was trained on pairs resized to about "
        f"{crop[1]}x{crop[0]}; --scale training translates at that scale and keeps the image's size."
    )


def translate_files(
    translator: Translator,
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    seed: int = 0,
    samples: int = 1,
    batch_size: int = 1,
    scale: Literal["native", "training"] = "native",
    memory_bytes: int = 2 * GIB,
    statistics: large.Statistics = "auto",
    progress: large.Progress | None = None,
    say: large.Say | None = None,
) -> Iterator[Path]:
    """Translate files and folders into `out`, yielding each file as it is written.

    Size and name follow the source; dtype, range and channels the target. A container that cannot hold that
    losslessly is replaced: PNG, else TIFF. A volume is one file again, as `volumes` says. With several
    samples, NAME-1, NAME-2, ..., NAME-mean, and NAME-spread, a float32 TIFF (see `Samples`). A file that
    cannot be read does not stop the others. Images that would take more memory in one piece go by tiles into
    a TIFF or OME-Zarr (see `large`).

    Args:
        translator: The model.
        inputs: Files and folders; where `out` lies in one, it is left out.
        out: A folder; made if absent.
        seed: Of z.
        samples: Translations of each image.
        batch_size: Images of one size translated together.
        scale: native, at the image's own pixels; training, resized as the training pairs were and back again.
        memory_bytes: Above what the model takes.
        statistics: Of images that go by tiles: see `tiling.translate_tiled`.
        progress: Called after each tile of such an image.
        say: Called with what is to be said of such an image.

    Raises:
        ValueError: samples, batch_size or the memory is below 1, or below what a tile takes.
        ImageError: Before the first: two results would have one name, or one the name of a file that is there
            already, in a folder that images are read from. After all others are done: which files could not
            be translated and why, a line each.
    """
    for what, value in (("samples", samples), ("batch_size", batch_size), ("memory", memory_bytes)):
        if value < 1:
            raise ValueError(f"{what} is {value}; it must be 1 or more.")
    out = Path(out)
    spec = translator.target_spec
    work: list[tuple[Path, Path]] = []
    by_tiles: set[Path] = set()
    for file, name in find_images(inputs, besides=out):
        if large.goes_by_tiles(translator, file, memory_bytes=memory_bytes, samples=samples):
            by_tiles.add(file)
            work.append((file, out / containers.result_name(name)))
        else:
            work.append((file, out / _named(file, name, translator)))
    _refuse_collisions(work, samples)
    faults: list[str] = []
    waiting: list[tuple[Array, Path, Path]] = []

    def flush() -> Iterator[Path]:
        if waiting:
            x = torch.stack([images.to_tensor(array, translator.source_spec) for array, *_ in waiting])
            valid = np.stack([images.valid_pixels(array) for array, *_ in waiting])
            outputs = [
                volumes.at_scale(translator, x, valid, scale, seed=seed, sample=s).cpu()
                for s in range(samples)
            ]
            whole, of_file = images.recombined(torch.stack(outputs), x, spec)
            for (_, path, source), of_one, where in zip(waiting, whole.unbind(1), valid, strict=True):
                for ending, array in Samples.of(of_one, of_file).without(where).named():
                    yield _write(_result(path, ending), array, source, labels=of_file.kind == "labels")
            waiting.clear()

    def translate_by_tiles(file: Path, path: Path) -> Iterator[Path]:
        if scale == "training" and translator.config.data.resize != "none":
            raise ImageError(
                f"{file}: is too large to be translated in one piece, and tiles are translated at the image's"
                " own pixels; leave out --scale training, or give more --memory."
            )
        yield from large.translate_samples(
            translator,
            file,
            [_result(path, ending) for ending in _endings(samples)],
            memory_bytes=memory_bytes,
            statistics=statistics,
            seed=seed,
            progress=progress,
            say=say,
        )

    for file, path in work:
        try:
            if file in by_tiles:
                yield from flush()
                yield from translate_by_tiles(file, path)
                continue
            if volumes.is_volume(file, translator):
                yield from volumes.translate_volume(
                    translator, file, path, seed=seed, samples=samples, batch_size=batch_size, scale=scale
                )
                continue
            array = translator.pixels(file)
            images.to_tensor(array[:1, :1], translator.source_spec)  # the right dtype and channels?
        except ImageError as error:
            faults.append(str(error) if str(file) in str(error) else f"{file}: {error}")
            continue
        fit = memory_bytes // whole_image_bytes(translator, *array.shape[:2], samples=samples)
        if waiting and (len(waiting) >= min(batch_size, fit) or waiting[0][0].shape != array.shape):
            yield from flush()
        waiting.append((array, path, file))
    yield from flush()
    if faults:
        if len(work) > 1:
            others = "; the others were." if len(faults) < len(work) else "."
            faults.append(f"{len(faults)} of {len(work)} images could not be translated{others}")
        raise ImageError("\n".join(faults))


def _named(file: Path, name: Path, translator: Translator) -> Path:
    """What a result is called, below the output folder."""
    if volumes.is_volume(file, translator):
        return (
            name.with_name((name.name if file.is_dir() else stem_of(name.name)) + volumes.suffix(file))
            if (suffix_of(name) != volumes.suffix(file))
            else name
        )
    return name.with_suffix(images.output_suffix(name.suffix, translator.target_spec))


def _result(path: Path, ending: str) -> Path:
    """Where a result goes; a spread is a float32 TIFF whatever holds the image itself."""
    suffix = suffix_of(path)
    flat = suffix.lower() in images.FORMATS
    return path.with_name(f"{stem_of(path.name)}{ending}{'.tif' if ending == '-spread' and flat else suffix}")


def _endings(samples: int) -> list[str]:
    """What follows the names of an image's results."""
    return [""] if samples == 1 else [*(f"-{s + 1}" for s in range(samples)), "-mean", "-spread"]


def _refuse_collisions(work: list[tuple[Path, Path]], samples: int) -> None:
    """Raise an ImageError if a result would replace another one, or anything in a folder with sources."""
    endings = _endings(samples)
    folders = {file.parent.resolve() for file, _ in work}
    first: dict[Path, Path] = {}
    for file, path in work:
        for result in (_result(path, ending) for ending in endings):
            if result in first:
                raise ImageError(
                    f"{file} and {first[result]}: both would be written to {result}; "
                    "translate them separately."
                )
            first[result] = file
            if result.exists() and result.parent.resolve() in folders:
                raise ImageError(
                    f"{result}: is there already, in a folder that images are read from, and the translation "
                    f"of {file} would overwrite it; choose another --out."
                )


def _write(path: Path, array: Array, source: Path, *, labels: bool) -> Path:
    volumes.make_folder(path.parent)
    kept = containers.kept_of(source)
    if kept.geo and path.suffix.lower() in (".tif", ".tiff"):
        containers.write_array(path, array, kept, labels=labels)
    else:
        images.write_image(path, array, like=source)
    return path
