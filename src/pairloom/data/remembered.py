"""What was measured of the training files, kept in the cache until a file or a setting changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pairloom.config import CACHE_FIELDS, HOLES, DataConfig
from pairloom.data.blocks import key_of
from pairloom.data.cache import Decoded, Say, decode, folder_of, recalled, wanted_images
from pairloom.data.pairs import ImageRef, Pair, without_collection
from pairloom.data.stamps import Stamps
from pairloom.disk import writing_whole
from pairloom.images import ImageError, ImageSpec

NAME = "measured.json"
MOST_KEPT = 20
"""Settings whose measurements are kept, the newest."""
Specs = tuple[ImageSpec, ImageSpec]


@dataclass
class Cache:
    """The cache of a data set; with `data.cache` off, of nothing."""

    data: DataConfig
    pairs: Sequence[Pair]
    """Those that are trained on."""
    stamps: Stamps = field(default_factory=Stamps)
    _stamp: str | None = None

    @property
    def folder(self) -> Path | None:
        """Where it lies; None: off, or the pairs are not those of a folder."""
        listed = isinstance(self.pairs, tuple | list) and all(
            type(pair.source) is ImageRef for pair in self.pairs[:1]
        )
        return folder_of(self.data) if listed else None

    def specs(self, measure: Callable[[], Specs]) -> Specs:
        """`measure()`, or what it gave for the same files and settings."""
        known = self._recall("specs")
        if known is not None:
            return ImageSpec.from_dict(known[0]), ImageSpec.from_dict(known[1])
        source, target = measure()
        self._keep("specs", [source.to_dict(), target.to_dict()])
        return source, target

    def notes(self, measure: Callable[[], list[str]], source: ImageSpec, target: ImageSpec) -> list[str]:
        """As `specs`, for sentences about the files as those specs read them."""
        name = _named("notes", source, target)
        known = self._recall(name)
        if known is not None:
            return [str(sentence) for sentence in known]
        notes = measure()
        self._keep(name, notes)
        return notes

    def decoded(self, source: ImageSpec, target: ImageSpec, say: Say) -> Decoded | None:
        """The decoded images, built where they lack; None: off, or there are none."""
        folder = self.folder
        if folder is None:
            return None
        room = round(self.data.cache_gb * 1e9)
        name = _named("decoded", source, target)
        with without_collection():
            blocks = self._recall(name)
            decoded = recalled(folder, blocks, room=room, say=say) if blocks is not None else None
            if decoded is None:
                wanted = wanted_images(self.pairs, source, target)
                decoded = decode(folder, wanted, room=room, stamps=self.stamps, say=say)
                if decoded is not None and len(wanted) == len(decoded.rows) == sum(map(len, decoded.indices)):
                    self._keep(name, [block.name for block in decoded.blocks])
        return decoded

    def _recall(self, name: str) -> Any:
        folder, stamp = self.folder, self._files_and_settings()
        return None if folder is None or stamp is None else _read(folder).get(stamp, {}).get(name)

    def _keep(self, name: str, value: Any) -> None:
        folder, stamp = self.folder, self._files_and_settings()
        if folder is None or stamp is None:
            return
        known = _read(folder)
        known[stamp] = known.pop(stamp, {}) | {name: value}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with writing_whole(folder / NAME) as file:
                file.write(json.dumps(dict(list(known.items())[-MOST_KEPT:])).encode())
        except (ImageError, OSError):
            return  # measured again next time; `decode` says that the folder cannot be written

    def _files_and_settings(self) -> str | None:
        """Changes with whatever could change a measurement; None: that cannot be told."""
        if self._stamp is None and self.folder is not None:
            with without_collection():
                self._stamp = self._digest()
        return self._stamp or None

    def _digest(self) -> str:
        settings = {k: v for k, v in asdict(self.data).items() if k not in CACHE_FIELDS}
        digest = hashlib.sha256(json.dumps([settings, metadata.version("pairloom")]).encode())
        files = [self.data.source_palette, self.data.target_palette, self.data.edge_model]
        files += [] if self.data.hole in HOLES else [self.data.hole]
        for path in filter(None, files):
            digest.update(repr(self.stamps.of(Path(path))).encode())
        refs = [r for pair in self.pairs for r in (pair.source, pair.target, pair.mask) if r is not None]
        stamps = [self.stamps.of(ref.path) for ref in refs]
        lines = [f"{key_of(ref.path, ref.part, '', '')}\0{ref.half}" for ref in refs]
        digest.update(f"{lines}\n{stamps}".encode(errors="surrogateescape"))
        return "" if None in stamps else digest.hexdigest()[:16]


def _named(what: str, source: ImageSpec, target: ImageSpec) -> str:
    """What follows from the specs, too."""
    return f"{what} {hashlib.sha256(repr((source, target)).encode()).hexdigest()[:16]}"


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        known = json.loads((folder / NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
