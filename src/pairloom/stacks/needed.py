"""Packages of the extra `science`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from pairloom.pixels import ImageError


def needed(package: str, path: Path, what: str) -> Any:
    """A package that reading or writing needs.

    Raises:
        ImageError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ImageError(
            f"{path}: {what} needs the package {package.partition('.')[0]}; "
            '`pip install "pairloom[science]"` brings it.'
        ) from None
