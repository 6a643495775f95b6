"""Packages of npm, fetched as npm packs them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


class NpmError(ValueError):
    """npm is not installed, or cannot have a package; the message says what to give instead."""


def pack(package: str, folder: Path, *, instead: str) -> Path:
    """A package as a .tgz file in the folder.

    Args:
        package: Name@version.
        folder: Where it is to lie.
        instead: What the user can give instead, as the end of a sentence.

    Raises:
        NpmError: npm is not installed, or cannot have it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise NpmError(
            f"npm, which fetches {package}, is not installed: install it (it comes with Node.js), or "
            f"{instead}."
        )
    packed = subprocess.run(
        [npm, "pack", package, "--silent"], cwd=folder, capture_output=True, text=True, check=False
    )
    file = folder / f"{package.replace('@', '-')}.tgz"
    if packed.returncode or not file.exists():
        lines = [line for line in packed.stderr.splitlines() if line.strip()]
        why = f" ({lines[-1].strip()})" if lines else ""
        raise NpmError(f"npm could not fetch {package}{why}; try again, or {instead}.")
    return file
