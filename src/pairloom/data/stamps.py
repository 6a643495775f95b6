"""Size and time of files, each looked at once."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pairloom.stacks.sizes import bytes_of


class Stamps:
    """What the file system says of files, from when each was first asked for."""

    def __init__(self) -> None:
        # By texts, as to hash a Path is slow: there may be a hundred thousand.
        self._files: dict[str, tuple[int, int] | None] = {}
        self._folders: dict[str, int] = {}

    def of(self, path: Path) -> tuple[int, int] | None:
        """Bytes, and nanoseconds of the last change; None: it is gone, or a folder, not a file."""
        place = str(path)
        if place not in self._files:
            try:
                found = os.stat(place)
                folder = stat.S_ISDIR(found.st_mode)
                self._files[place] = None if folder else (found.st_size, found.st_mtime_ns)
            except OSError:
                self._files[place] = None
        return self._files[place]

    def bytes_of(self, path: Path) -> int:
        """Of a file, or of a folder that is one image.

        Raises:
            OSError: It is no longer there.
        """
        found = self.of(path)
        if found is not None:
            return found[0]
        place = str(path)
        if place not in self._folders:  # the slices of a volume have one
            self._folders[place] = bytes_of(path)
        return self._folders[place]
