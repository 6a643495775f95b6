"""Translating files: folders in, folders out, each result in a container that holds it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from pairloom import bulk, containers, images, large, unfinished, volumes
from pairloom import config as configs
from pairloom.allocator import keeping_freed_memory
from pairloom.bulk import Found
from pairloom.images import Array, ImageError
from pairloom.memory import surely_fits, whole_image_bytes
from pairloom.onnx_generator import OnnxGenerator
from pairloom.overlap import Busy, Overlap
from pairloom.stacks.dicom import files_of
from pairloom.stacks.suffixes import stem_of, suffix_of
from pairloom.translator import Samples, Translator
from pairloom.windows import GIB

MANY = 100
"""From so many images on, the shares of reading, translating and writing are said."""


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


def scale_hint(
    translator: Translator, file: Path, *, memory_bytes: int = 2 * GIB, samples: int = 1
) -> str | None:
    """A sentence when an image is of quite another scale than the model's training crops; else None.

    None as well when it goes by tiles, which are translated at the image's own pixels.
    """
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
    if large.goes_by_tiles(translator, file, memory_bytes=memory_bytes, samples=samples):
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
    shard: str | None = None,
    progress: large.Progress | None = None,
    say: large.Say | None = None,
) -> Iterator[Path]:
    """Translate files and folders into `out`, yielding each file as it is written.

    Size and name follow the source; dtype, range and channels the target. A container that cannot hold that
    losslessly is replaced: PNG, else TIFF. A volume is one file again, as `volumes` says. With several
    samples, NAME-1, NAME-2, ..., NAME-mean, and NAME-spread, a float32 TIFF (see `Samples`). An image that
    cannot be read, translated or written does not stop the others. Those that would take more memory in one
    piece go by tiles into a TIFF or OME-Zarr (see `large`). While one is translated, the next are read and
    the last written.

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
        shard: i/n: only the i-th of n shares of the files, and of these only what is not there yet.
        progress: Called after each tile of such an image.
        say: Called with what is to be said of such an image; of many images, with what set the pace.

    Raises:
        ValueError: samples, batch_size or the memory is below 1, or below what a tile takes; no such share.
        ImageError: Before the first: two results would have one name, or one the name of a file that is there
            already, in a folder that images are read from.
        SomeFailed: After all others are done: which files could not be translated and why, a line each.
    """
    check_counts(samples=samples, batch_size=batch_size, memory=memory_bytes)
    found = find_images(inputs, besides=out)
    yield from translate_found(
        translator,
        found if shard is None else bulk.share(found, shard),
        out,
        seed=seed,
        samples=samples,
        batch_size=batch_size,
        scale=scale,
        memory_bytes=memory_bytes,
        statistics=statistics,
        skip_finished=shard is not None,
        progress=progress,
        say=say,
    )


def check_counts(**counts: int) -> None:
    """Raise a ValueError for what is below 1."""
    for what, value in counts.items():
        if value < 1:
            raise ValueError(f"{what} is {value}; it must be 1 or more.")


class SomeFailed(ImageError):
    """All others are done.

    Attributes:
        faults: A line for each file that could not be translated.
    """

    def __init__(self, faults: Sequence[str], of: int) -> None:
        others = "; the others were." if len(faults) < of else "."
        total = [f"{len(faults)} of {of} images could not be translated{others}"] if of > 1 else []
        super().__init__("\n".join([*faults, *total]))
        self.faults = list(faults)


class _Task(NamedTuple):
    file: Path
    path: Path
    how: Literal["whole", "volume", "tiles"]


def translate_found(
    translator: Translator,
    found: Sequence[Found],
    out: str | Path,
    *,
    seed: int = 0,
    samples: int = 1,
    batch_size: int = 1,
    scale: Literal["native", "training"] = "native",
    memory_bytes: int = 2 * GIB,
    statistics: large.Statistics = "auto",
    skip_finished: bool = False,
    progress: large.Progress | None = None,
    say: large.Say | None = None,
) -> Iterator[Path]:
    """`translate_files` for what `find_images` found; the arguments are the same, but for `skip_finished`.

    With it, files of which all results are there are left alone: a result gets its name when it is whole.
    What killed processes left half-written of the others is deleted.
    """
    out = Path(out)
    work = [
        _task(translator, file, name, out, memory_bytes=memory_bytes, samples=samples) for file, name in found
    ]
    _refuse_collisions([(task.file, task.path) for task in work], samples)
    if skip_finished:
        work = _left(work, samples, say)
    faults: dict[Path, str] = {}
    busy, tell = Busy(), large.once(say)

    def fault(file: Path, error: ImageError) -> None:
        faults.setdefault(file, str(error) if str(file) in str(error) else f"{file}: {error}")

    def translate_alone(task: _Task) -> Iterator[Path]:
        if task.how == "volume":
            yield from volumes.translate_volume(
                translator,
                task.file,
                task.path,
                seed=seed,
                samples=samples,
                batch_size=batch_size,
                scale=scale,
            )
            return
        if scale == "training" and translator.config.data.resize != "none":
            raise ImageError(
                f"{task.file}: is too large to be translated in one piece, and tiles are translated at the"
                " image's own pixels; leave out --scale training, or give more --memory."
            )
        yield from large.translate_samples(
            translator,
            task.file,
            [_result(task.path, ending) for ending in _endings(samples)],
            memory_bytes=memory_bytes,
            statistics=statistics,
            seed=seed,
            progress=progress,
            say=tell,
        )

    for together, tasks in groupby(work, key=lambda task: task.how == "whole"):
        if together:
            yield from _translate_whole(
                translator,
                tasks,
                fault,
                busy,
                tell,
                seed=seed,
                samples=samples,
                batch_size=batch_size,
                scale=scale,
                memory_bytes=memory_bytes,
            )
            continue
        for task in tasks:
            try:
                yield from translate_alone(task)
            except ImageError as error:
                fault(task.file, error)
    if say is not None and sum(task.how == "whole" for task in work) >= MANY:
        say(busy.words())
    if faults:
        raise SomeFailed(list(faults.values()), len(work))


def _translate_whole(
    translator: Translator,
    tasks: Iterable[_Task],
    fault: Callable[[Path, ImageError], None],
    busy: Busy,
    say: large.Say,
    *,
    seed: int,
    samples: int,
    batch_size: int,
    scale: str,
    memory_bytes: int,
) -> Iterator[Path]:
    """Images in one piece, in batches: the next is read, and the last written, while one is translated."""
    spec = translator.target_spec
    waiting: list[tuple[Array, _Task]] = []

    def read(task: _Task) -> Array | ImageError:
        try:
            array = translator.pixels(task.file)
            images.to_tensor(array[:1, :1], translator.source_spec)  # the right dtype and channels?
        except ImageError as error:
            return error
        return array

    def write(path: Path, array: Array, file: Path, *, labels: bool) -> Path | None:
        volumes.make_folder(path.parent)  # where that fails, it is no fault of this image
        try:
            return _write(path, array, file, say, labels=labels)
        except ImageError as error:
            fault(file, error)
            return None

    def translated() -> list[partial[Path | None]]:
        x = torch.stack([images.to_tensor(array, translator.source_spec) for array, _ in waiting])
        valid = np.stack([images.valid_pixels(array) for array, _ in waiting])
        outputs = [
            volumes.at_scale(translator, x, valid, scale, seed=seed, sample=s).cpu() for s in range(samples)
        ]
        whole, of_file = images.recombined(torch.stack(outputs), x, spec)
        return [
            partial(write, _result(task.path, ending), array, task.file, labels=of_file.kind == "labels")
            for (_, task), of_one, where in zip(waiting, whole.unbind(1), valid, strict=True)
            for ending, array in Samples.of(of_one, of_file).without(where).named()
        ]

    def is_full(array: Array) -> bool:
        """Whether those that wait go before this one joins."""
        if len(waiting) >= batch_size or waiting[0][0].shape != array.shape:
            return True
        height, width = array.shape[:2]
        if surely_fits(translator, height, width, memory_bytes, samples=samples, count=batch_size):
            return False
        return len(waiting) >= memory_bytes // whole_image_bytes(translator, height, width, samples=samples)

    with keeping_freed_memory(), Overlap(busy, ahead=max(batch_size, 2)) as overlap:

        def flush() -> Iterator[Path]:
            made = []
            try:
                with busy.at("translating"):
                    made = translated() if waiting else []
            except ImageError as error:  # of their size, which they share
                for _, task in waiting:
                    fault(task.file, error)
            waiting.clear()
            yield from overlap.written()  # the batch before: no more than one waits
            for result in made:
                overlap.write(result)

        for task, array in overlap.read(read, tasks):
            if isinstance(array, ImageError):
                fault(task.file, array)
                continue
            if waiting and is_full(array):
                yield from flush()
            waiting.append((array, task))
        yield from flush()
        yield from overlap.written()


def _task(
    translator: Translator, file: Path, name: Path, out: Path, *, memory_bytes: int, samples: int
) -> _Task:
    """How a file is translated, and what its result is called."""
    if large.goes_by_tiles(translator, file, memory_bytes=memory_bytes, samples=samples):
        return _Task(file, out / containers.result_name(name), "tiles")
    how: Literal["whole", "volume"] = "volume" if volumes.is_volume(file, translator) else "whole"
    return _Task(file, out / _named(file, name, translator), how)


def _left(work: list[_Task], samples: int, say: large.Say | None) -> list[_Task]:
    """What is not finished; of these results, nothing half-written stays."""
    results = {task: [_result(task.path, ending) for ending in _endings(samples)] for task in work}
    left = [task for task in work if not all(path.exists() for path in results[task])]
    bulk.sweep(path for task in left for path in results[task])
    if say is not None and len(left) < len(work):
        say(f"{len(work) - len(left)} of {len(work)} images are there already.")
    return left


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


def _write(path: Path, array: Array, source: Path, say: large.Say, *, labels: bool) -> Path:
    kept = containers.kept_of(source)
    is_tiff = path.suffix.lower() in (".tif", ".tiff")
    if is_tiff and (note := kept.note(source)):
        say(note)
    if kept.geo and is_tiff:
        containers.write_array(path, array, kept, labels=labels)
    else:
        images.write_image(path, array, like=source)
    unfinished.forget(containers.result_name(path), source)
    return path
