"""Files read and written: whatever goes wrong is one sentence, and nothing half-written has a name."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pairloom.pixels import ImageError


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a decoder raises, as one sentence."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{path}: does not fit into memory ({error}); cut it into parts.") from error
    except Exception as error:  # decoders meet damaged files with every kind of exception
        detail = " ".join(str(error).split()) or type(error).__name__
        if "requires the 'imagecodecs' package" in detail:
            raise ImageError(
                f"{path}: its compression needs the package imagecodecs ({detail});"
                " `pip install imagecodecs`, or save the file uncompressed or with zlib (deflate)."
            ) from error
        raise ImageError(
            f"{path}: cannot be read, it is damaged or cut short ({detail}); copy or export it again."
        ) from error


def among_data(out: Path, *folders: str | None) -> str | None:
    """A sentence where `out` lies in a data folder, of whose images it would then be; None: it does not."""
    for folder in map(Path, filter(None, folders)):
        if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
            return f"{out}: lies in the data folder {folder}; choose a place beside it."
    return None


@contextlib.contextmanager
def writing_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes its name only when it is whole: until then it lies beside, hidden.

    Raises:
        ImageError: The folder cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)
    except Exception as error:  # the disk's and the encoders' own kinds
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"{path}: cannot be written ({detail}); check that the folder exists, is writable and has room."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # nothing to remove: renamed, or never made
            temporary.unlink()
