"""`new_study`: images in, a study's directory out; nothing in it but the key tells which image is real."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from pairloom.study.originals import FolderImages, Original, Originals, RunImages
from pairloom.study.protocol import EXCLUSION, Layout, Mode, StudyFault, StudyImage, StudySettings
from pairloom.study.shown import Rgb, reduced, wreck_of
from pairloom.study.store import Store
from pairloom.study.texts import consent_text, instructions_text

TITLES = {"two": "Real or fake?", "single": "Real or fake?", "prefer": "Which is better?"}
SHOWN_NAMES = 3
"""Of names that do not match."""


@dataclass(frozen=True, slots=True)
class NewStudy:
    """What was made."""

    folder: Path
    settings: StudySettings
    admin_token: str
    """Opens the results; it is shown once, and only its hash is stored."""
    notes: tuple[str, ...]
    """Sentences for whoever made it."""

    def words(self) -> str:
        """What to do next, for the terminal."""
        s = self.settings
        height, width = s.height_width
        lines = [
            f"{self.folder}: a study of {', '.join(s.algorithms)}; {s.practice} practice and {s.trials} main "
            f"trials a session, images of {width} x {height} pixels.",
            f"Token of the results (it is shown only now): {self.admin_token}",
            f"Edit consent.md and instructions.md in it, then: pairloom study serve {self.folder}",
            *self.notes,
        ]
        return "\n".join(lines)


def named_paths(given: Sequence[str]) -> dict[str, Path]:
    """NAME=PATH of the command line, in order.

    Raises:
        StudyFault: One has no name, no path, or a name that was given before.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (equals and name.strip() and path.strip()):
            raise StudyFault(f"{text!r} is not NAME=PATH; give for example L1=results/l1.")
        if name in found:
            raise StudyFault(f"The name {name!r} is given twice; choose another for one of them.")
        found[name] = Path(path)
    return found


def new_study(
    out: str | Path,
    *,
    seed: int,
    real: str | Path | None = None,
    fakes: Mapping[str, str | Path] | None = None,
    runs: Mapping[str, str | Path] | None = None,
    data: str | Path | None = None,
    split: str = "test",
    generate_px: int | None = None,
    checkpoint: Literal["last", "best"] = "last",
    device: str = "auto",
    paired: bool = True,
    mode: Mode = "two",
    layout: Layout = "sequential",
    trials: int = 40,
    practice: int = 10,
    exposure_ms: int = 1000,
    adaptive: bool = False,
    size: int | None = None,
    attention: int = 0,
    exclusion: Mapping[str, float] | None = None,
    title: str | None = None,
) -> NewStudy:
    """Make a study's directory; it appears when it is whole.

    Args:
        out: The directory; it must not exist, or be empty.
        seed: All sessions follow from it.
        real: Folder of real images. With prefer it is not needed.
        fakes: Folder of each algorithm's images, by its name.
        runs: Instead of folders: run directories or weights, by name.
        data: With runs, their pairs; None: those that the first one was trained on.
        split: With runs, which pairs.
        generate_px: With runs, the side at which they translate; with a smaller `size`, as the paper on maps.
        checkpoint: With runs, last or best.
        device: With runs, auto, cpu, cuda, mps.
        paired: Real and fake of a trial are of the same source; False: of different ones, as the paper on
            maps.
        mode: two, single or prefer.
        layout: sequential or side-by-side.
        trials: That count.
        practice: Before them, with feedback.
        exposure_ms: Of each image.
        adaptive: Does the exposure follow the answers?
        size: Pixels: larger images are reduced to this longer side, by area; None: shown as they are.
        attention: Attention checks among the trials that count.
        exclusion: The rule for leaving sessions out, stated now; None: `protocol.EXCLUSION`.
        title: Heading of the page.

    Raises:
        StudyFault: See the module `protocol`; and folders that do not match, too few images, a corrupt one,
            or one of another size.
    """
    out = Path(out)
    _check_free(out)
    token = secrets.token_urlsafe(24)
    settings = StudySettings(
        algorithms=tuple(fakes or runs or ()),
        seed=seed,
        title=TITLES.get(mode, "") if title is None else title,
        mode=mode,
        layout=layout,
        exposure_ms=exposure_ms,
        adaptive=adaptive,
        trials=trials,
        practice=practice,
        size=256 if size is None else size,
        paired=paired,
        attention=attention,
        exclusion=dict(EXCLUSION if exclusion is None else exclusion),
        admin_token_sha256=hashlib.sha256(token.encode()).hexdigest(),
    )
    originals = _originals(
        settings, real, fakes, runs, data, split=split, generate_px=generate_px,
        checkpoint=checkpoint, device=device,
    )  # fmt: skip
    _check_names(settings, originals)
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    try:
        (partial / "images").mkdir(parents=True)
        settings, notes = _write(partial, settings, originals, size)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise StudyFault(
            f"{out}: cannot be written ({error.strerror}); check the folder and the free space."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if mode == "prefer" and real is not None:
        notes.append("With prefer, outputs are compared with each other: the real images are not part of it.")
    return NewStudy(out, settings, token, tuple(notes))


def _check_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise StudyFault(f"{out}: is a file; choose another DIR.")
    if out.is_dir() and any(out.iterdir()):
        raise StudyFault(f"{out}: is there already and not empty; choose another DIR, or remove it.")


def _originals(
    settings: StudySettings,
    real: str | Path | None,
    fakes: Mapping[str, str | Path] | None,
    runs: Mapping[str, str | Path] | None,
    data: str | Path | None,
    *,
    split: str,
    generate_px: int | None,
    checkpoint: Literal["last", "best"],
    device: str,
) -> Originals:
    """Where the images come from."""
    prefer = settings.mode == "prefer"
    if (fakes and runs) or (runs and real is not None):
        raise StudyFault("There are folders and runs; give either --real and --fake, or --run and --data.")
    if runs:
        return RunImages(
            {name: Path(path) for name, path in runs.items()},
            None if data is None else Path(data),
            split=split, generate_px=generate_px, checkpoint=checkpoint, device=device,
            real=not prefer, seed=settings.seed,
        )  # fmt: skip
    if data is not None or generate_px is not None:
        raise StudyFault("--data and the size to generate at go with --run NAME=RUN, not with folders.")
    if real is None and not prefer:
        raise StudyFault("There are no real images; give their folder with --real, or runs with --run.")
    folders: dict[str | None, Path] = {}
    if real is not None and not prefer:
        folders[None] = Path(real)
    return FolderImages({**folders, **{name: Path(path) for name, path in (fakes or {}).items()}})


def _check_names(settings: StudySettings, originals: Originals) -> None:
    """Enough images everywhere, and when paired the same names."""
    names = originals.names()
    needed = max(settings.images_needed, 1 if settings.paired else 2)
    checks = f" and {settings.attention} attention checks" if settings.attention else ""
    for algorithm, of_it in names.items():
        if len(of_it) < needed:
            raise StudyFault(
                f"{originals.where(algorithm)}: holds {len(of_it)} images, and {settings.practice} practice "
                f"and {settings.trials} main trials{checks} need {needed}, as none is shown twice in a "
                "session; give more images or fewer --trials."
            )
    if not settings.paired:
        return
    first, *others = names
    for other in others:
        if set(names[first]) != set(names[other]):
            raise StudyFault(_mismatch(originals, first, other))


def _mismatch(originals: Originals, a: str | None, b: str | None) -> str:
    names = originals.names()
    only = sorted(set(names[a]) ^ set(names[b]))
    listed = ", ".join(only[:SHOWN_NAMES]) + (", ..." if len(only) > SHOWN_NAMES else "")
    counts = f"{len(names[a])} and {len(names[b])} images"
    return (
        f"{originals.where(a)} and {originals.where(b)}: hold {counts} that do not match by name (only in "
        f"one of them: {listed}); name them alike, or give --unpaired if they are of different sources."
    )


# -----------------------------------------------------------------------------------------------------------
# Writing


def _write(
    folder: Path, settings: StudySettings, originals: Originals, size: int | None
) -> tuple[StudySettings, list[str]]:
    """All files of the study; the settings with the size that its images have."""
    numbers = {name: i for i, name in enumerate(sorted({n for of in originals.names().values() for n in of}))}
    wrecked = _wrecked(settings, originals)
    key: dict[str, StudyImage] = {}
    first: Original | None = None
    digests: dict[str | None, dict[bytes, str]] = {}
    twice: list[str] = []
    shape = (0, 0)
    wrecks_from = None if settings.mode != "prefer" else settings.algorithms[0]
    for original in originals.read():
        first = first or original
        _check_size(original, first)
        shown = reduced(original.pixels, size, original.said)
        shape = shown.shape[:2]
        seen = digests.setdefault(original.algorithm, {})
        digest = hashlib.sha256(shown.tobytes()).digest()
        twice += [original.said] if digest in seen else []
        seen[digest] = original.name
        number = numbers[original.name]
        _add(folder, key, shown, StudyImage(original.algorithm, original.said, number))
        if original.algorithm == wrecks_from and original.name in wrecked:
            wreck = wreck_of(shown, np.random.default_rng([settings.seed, number]))
            _add(folder, key, wreck, StudyImage(None, f"wreck of {original.said}", number, attention=True))
    _check_differ(originals, digests)
    settings = dataclasses.replace(settings, size=max(shape), shape=shape)
    _write_files(folder, settings, key)
    notes = originals.notes()
    if twice:
        notes.append(
            f"{len(twice)} images have the same pixels as another of their kind ({twice[0]}): a participant "
            "may see the same picture twice in a session."
        )
    return settings, notes


def _write_files(folder: Path, settings: StudySettings, key: Mapping[str, StudyImage]) -> None:
    records = {id_: dataclasses.asdict(key[id_]) for id_ in sorted(key)}
    texts = {
        "study.json": json.dumps(settings.to_dict(), indent=2) + "\n",
        "key.json": json.dumps(records, indent=1) + "\n",
        "consent.md": consent_text(settings),
        "instructions.md": instructions_text(settings),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
    (folder / "key.json").chmod(0o600)
    Store(folder / "study.sqlite").close()


def _add(folder: Path, key: dict[str, StudyImage], pixels: Rgb, image: StudyImage) -> None:
    """Write an image under a name that tells nothing, without metadata, and dated like all others."""
    id_ = secrets.token_hex(16)
    key[id_] = image
    path = folder / "images" / f"{id_}.png"
    Image.fromarray(pixels).save(path, format="PNG", compress_level=6)
    os.utime(path, (0, 0))


def _check_size(original: Original, first: Original) -> None:
    if original.pixels.shape != first.pixels.shape:
        (height, width), (h, w) = original.pixels.shape[:2], first.pixels.shape[:2]
        raise StudyFault(
            f"{original.said}: has {width} x {height} pixels, and {first.said} {w} x {h}; all images of a "
            "study must be of one size, or their sharpness would tell."
        )


def _check_differ(originals: Originals, digests: Mapping[str | None, Mapping[bytes, str]]) -> None:
    """A fake that is the real image itself has no right answer."""
    for algorithm in digests:
        for digest, name in digests[algorithm].items():
            if algorithm is not None and digest in digests.get(None, {}):
                raise StudyFault(
                    f"{originals.where(algorithm)}: its {name} has the very pixels of the real "
                    f"{digests[None][digest]}; no answer would be right, so leave it out of both."
                )


def _wrecked(settings: StudySettings, originals: Originals) -> set[str]:
    """The sources kept for the attention checks: there is a wreck of each, and no session shows them else."""
    common = sorted(set.intersection(*map(set, originals.names().values())))
    if settings.paired is False:
        common = sorted(originals.names()[None])
    rng = np.random.default_rng([settings.seed, settings.attention])
    return {common[i] for i in rng.permutation(len(common))[: settings.attention]}
