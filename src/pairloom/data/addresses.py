"""Where data are: a path, or an address such as s3://bucket/set, which fsspec opens."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from pairloom.data.pairs import DataError


def is_address(place: str | Path) -> bool:
    """Does fsspec open it?"""
    return "://" in str(place)


def whole(place: str | Path) -> str:
    """A place as it is called from anywhere: an absolute path, or the address itself."""
    return str(place).rstrip("/") if is_address(place) else str(Path(place).resolve())


def filesystem(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path on it; made anew in every process that asks.

    Raises:
        DataError: fsspec, or what it needs for this kind of address, is not installed; or it opens no such.
    """
    try:
        fsspec = importlib.import_module("fsspec.core")
    except ImportError:
        raise DataError(
            f"{address}: is an address, which the package fsspec opens; `pip install pairloom[scale]`, or "
            "copy the shards to a folder."
        ) from None
    try:
        system, path = fsspec.url_to_fs(address)
    except ImportError as error:
        raise DataError(
            f"{address}: this kind of address needs a further package ({error}); install it, or copy the "
            "shards to a folder."
        ) from error
    except Exception as error:  # each file system has its own kinds
        raise DataError(unopened(address, error)) from error
    return system, path


def unopened(address: str, error: Exception) -> str:
    """A sentence for what a file system says."""
    detail = " ".join(str(error).split()) or type(error).__name__
    return f"{address}: cannot be opened ({detail}); check the address, the network and the access rights."
