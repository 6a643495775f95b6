"""An image file that lies inside another file: its bytes, read as those of a file are."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast


class _Named(io.BytesIO):
    """Decoders name what they cannot read."""

    name: str


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes in the place of a path, for whoever opens it; `str` is what messages call it."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name

    @property
    def suffix(self) -> str:
        """As a path's."""
        return PurePosixPath(self.name).suffix

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The bytes as an open file."""
        assert mode == "rb"
        file = _Named(self.data)
        file.name = self.name
        return file

    def read_bytes(self) -> bytes:
        """As a path's."""
        return self.data


def file_of(path: str | Path | Content) -> Path:
    """What readers of images open: a path, or content, which answers all that they ask of one."""
    return cast(Path, path) if isinstance(path, Content) else Path(path)


def opened(path: Path) -> Path | IO[bytes]:
    """For libraries that open a path themselves: it, or the open content in its place."""
    return path.open("rb") if isinstance(path, Content) else path
