"""Images larger than memory: translated tile by tile into a map on disk, stopped and continued at any tile.

What is not finished lies beside the result (`unfinished`); the last tile done, it becomes a file
(`containers`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from pairloom import __version__, containers, images, unfinished
from pairloom.canvas import Canvas, windows
from pairloom.images import ImageError, ImageSpec
from pairloom.memory import surely_fits, whole_image_bytes
from pairloom.pixels import Array, leave_out
from pairloom.progress import Interrupted, StopSignals
from pairloom.stacks.opening import is_stack, open_stack
from pairloom.tile_plan import plan_tiles
from pairloom.tiling import TileReport, translate_tiled
from pairloom.translator import Translator
from pairloom.unfinished import Unfinished
from pairloom.windows import GIB, ImageWindows, open_windows

Statistics = Literal["auto", "exact", "sample"]
Progress = Callable[[int, int, str], None]
"""Called with what is done, all, and the stage in words."""
Say = Callable[[str], None]


def once(say: Say | None) -> Say:
    """Of an image with several results, each sentence is said once."""
    said: set[str] = set()

    def tell(text: str) -> None:
        if say is not None and text not in said:
            said.add(text)
            say(text)

    return tell


def goes_by_tiles(
    translator: Translator, file: Path, *, memory_bytes: int = 2 * GIB, samples: int = 1
) -> bool:
    """Would it take more memory to translate this file in one piece? Not volumes: they go slice by slice."""
    part = translator.source_spec.part
    try:
        height, width = images.image_shape(file, part)
        if is_stack(file, part.axis) and open_stack(file, part).count(part.axis) > 1:
            return False
    except ImageError:  # it will be reported when its turn comes
        return False
    if surely_fits(translator, height, width, memory_bytes, samples=samples):
        return False
    return whole_image_bytes(translator, height, width, samples=samples) > memory_bytes


def translate_large(
    translator: Translator,
    source: str | Path,
    out: str | Path,
    *,
    memory_bytes: int = 2 * GIB,
    statistics: Statistics = "auto",
    seed: int = 0,
    sample: int = 0,
    progress: Progress | None = None,
    say: Say | None = None,
) -> TileReport | None:
    """Translate an image file of any size into another, in bounded memory; the same call continues.

    Dtype, range and channels are the target's; the size, and what says where the pixels are (tags of a
    GeoTIFF, resolution, physical sizes of OME), the source's. See `containers` for the file.

    Args:
        translator: The model.
        source: A file of a kind that `windows.open_windows` reads.
        out: .tif, .tiff, or .zarr where the source is one; its folder is made if absent.
        memory_bytes: Above what the model takes.
        statistics: How norms of each image's own statistics get them; see `tiling.translate_tiled`.
        seed: Of z.
        sample: Which draw of z.
        progress: Called after each tile.
        say: Called with a sentence when a job continues, or is finished already, or when something of the
            source cannot be kept.

    Returns:
        What the tiles took and how well they match; None when no tile was left to do.

    Raises:
        ImageError: The source cannot be read or is of another kind than the model's; a folder stands where
            the result goes; that of an unfinished job holds another one, or is in use; the disk or the memory
            has not enough room; or the model cannot be tiled.
        Interrupted: SIGINT or SIGTERM came; the tile at work was finished.
    """
    source, out = Path(source), Path(out)
    spec, tell = translator.target_spec, say or (lambda _: None)
    containers.refuse_folder(out)
    with open_windows(source, translator.source_spec, memory_bytes=memory_bytes) as image:
        _check_source(image, translator.source_spec)
        size, left = (image.height, image.width), memory_bytes - image.reserved_bytes
        try:
            plan = plan_tiles(translator, size, left, statistics=statistics)
        except ValueError as error:
            raise ImageError(f"{source}: {error}") from error
        job = {
            "source": unfinished.fingerprint(source),
            "weights": unfinished.weights_digest(translator),
            "seed": seed,
            "sample": sample,
            "statistics": statistics,
            "plan": repr(plan),
            "pairloom": __version__,
        }
        digest = unfinished.digest_of(job)
        if containers.job_in(out) == digest:
            tell(f"{out}: is finished already.")
            return None
        kept = containers.kept_of(source)
        if note := kept.note(source):
            tell(note)
        shape = (*size, spec.channels)
        with (
            Unfinished(
                out, shape, spec.dtype, job, tiles=plan.stages[-1].windows(), spill_bytes=plan.spill_bytes
            ) as part,
            StopSignals() as stop,
        ):
            work = _Work(translator, image, part, stop, progress)
            report = None
            if part.was_damaged:
                tell(f"{out}: its unfinished work in {part.folder} is damaged, and begins anew.")
            if not part.is_complete:
                if part.done:
                    tell(f"{out}: continues after {len(part.done)} finished tiles.")
                report = translate_tiled(
                    translator,
                    work.read,
                    size,
                    work.write,
                    memory_bytes=left,
                    statistics=statistics,
                    seed=seed,
                    sample=sample,
                    done=frozenset(part.done),
                    spill=part.spill,
                    progress=work.progress,
                    plan=plan,
                )
                assert part.is_complete, "the tiles leave a hole"
            part.write(kept, spec, digest, work.progress)
    return report


class _Work:
    """What `translate_tiled` reads from, writes to, and tells."""

    def __init__(
        self,
        translator: Translator,
        image: ImageWindows,
        part: Unfinished,
        stop: StopSignals,
        progress: Progress | None,
    ) -> None:
        self._source, self._target = translator.source_spec, translator.target_spec
        self._image, self._part, self._stop, self._progress = image, part, stop, progress

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        return images.to_tensor(self._image.read(top, left, height, width), self._source)

    def write(self, top: int, left: int, y_hat: Tensor) -> None:
        height, width = y_hat.shape[-2:]
        x = self.read(top, left, height, width) if self._target.kind == "lab" else y_hat
        array = images.to_array(*images.recombined(y_hat.cpu(), x, self._target))
        if self._source.dtype == "float32":
            array = leave_out(array, images.valid_pixels(self._image.read(top, left, height, width)))
        self._part.write_tile(top, left, array)
        self._obey()

    def progress(self, finished: int, total: int, stage: str) -> None:
        if self._progress is not None:
            self._progress(finished, total, stage)
        self._obey()

    def _obey(self) -> None:
        if self._stop.signum is not None:
            raise Interrupted(self._stop.signum)


def _check_source(image: ImageWindows, spec: ImageSpec) -> None:
    try:
        images.to_tensor(image.read(0, 0, 1, 1), spec)
    except ImageError as error:
        raise ImageError(f"{image.path}: {error}") from None


# ------------------------------------------------------------------------------------------------------------
# Several draws of z


def translate_samples(
    translator: Translator,
    source: Path,
    results: Sequence[Path],
    *,
    memory_bytes: int,
    statistics: Statistics,
    seed: int,
    progress: Progress | None,
    say: Say | None,
) -> Iterator[Path]:
    """Each sample in its file, then their mean and their spread, if there are several, from these files.

    Deviation: of images in memory, mean and spread are of values that are not rounded yet (see `Samples`);
    here of the files' own, half a step apart at most.

    Args:
        translator: The model.
        source: The image.
        results: The file of one sample; or those of several, and of the mean and the spread.
        memory_bytes: See `translate_large`, as for the others.
        statistics: The same.
        seed: The same.
        progress: The same.
        say: Called with what was found, too.

    Raises:
        ImageError: As `translate_large`; or several samples of label maps are asked for, whose mean is no
            mean of their colours.
    """
    spec = translator.target_spec
    if len(results) > 1 and spec.kind == "labels":
        raise ImageError(
            f"{source}: is translated by tiles, and samples of label maps have no mean there; translate it "
            "with --samples 1 and several --seed, or with more --memory."
        )
    for path in results:
        containers.refuse_folder(path)
    files = results if len(results) == 1 else results[:-2]
    for sample, path in enumerate(files):
        started = time.monotonic()
        report = translate_large(
            translator,
            source,
            path,
            memory_bytes=memory_bytes,
            statistics=statistics,
            seed=seed,
            sample=sample,
            progress=progress,
            say=say,
        )
        if report is not None and say is not None:
            say(f"{path}: {report.words()}, {time.monotonic() - started:.1f} s with the file")
        yield path
    if len(results) > 1:
        kept = replace(containers.kept_of(source), nodata="")
        for path, of in zip(results[-2:], ("mean", "spread"), strict=True):
            _combine(files, path, of, spec, kept, memory_bytes=memory_bytes)
            yield path


def _combine(
    files: Sequence[Path],
    path: Path,
    of: str,
    spec: ImageSpec,
    kept: containers.Kept,
    *,
    memory_bytes: int,
) -> None:
    """The mean of files as one of their kind, or their standard deviation as float32, window by window."""
    # What was chosen of the training files says nothing about these.
    plain = replace(
        spec.file_spec, alpha="keep", page_axis="channels", chosen=(), slice_axis="auto", neighbours=0
    )
    tile_bytes = containers.TILE**2 * spec.channels * np.dtype(spec.dtype).itemsize
    each = max(memory_bytes // len(files), 2 * tile_bytes)
    folder = unfinished.folder_of(path)
    containers.make_folder(folder)
    try:
        with ExitStack() as stack:
            opened = [stack.enter_context(open_windows(file, plain, memory_bytes=each)) for file in files]
            first = opened[0]
            dtype = "float32" if of == "spread" else spec.dtype
            canvas = Canvas(folder / "image.map", (first.height, first.width, first.channels), dtype)
            canvas.make()
            for window in windows(first.height, first.width, containers.TILE):
                draws = (image.read(*window).astype(np.float64) for image in opened)
                values = _spread(draws) if of == "spread" else _mean(draws, len(opened))
                rounded = np.rint(values) if dtype != "float32" else values
                canvas.write(*window[:2], rounded.astype(dtype))
        containers.write(path, canvas, kept, labels=False, within=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mean(draws: Iterable[Array], count: int) -> Array:
    return np.asarray(sum(draws) / count)


def _spread(draws: Iterable[Array]) -> Array:
    """Standard deviation of each value, of arrays that are seen one after the other.

    Source: Welford, 1962.
    """
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for draw in draws:
        count += 1
        apart = draw - mean
        mean = mean + apart / count
        squares = squares + apart * (draw - mean)
    return np.sqrt(squares / count)
