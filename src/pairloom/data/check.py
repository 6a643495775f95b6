"""What is wrong with a data set, in words, before any time is spent on training.

Every file is decoded once. A problem keeps training from starting; a warning says what will probably be
regretted; a fact is what was found.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pairloom.config import DataConfig, height_width, jitter_note
from pairloom.data.alignment import CLEAR, SHIFT_PX
from pairloom.data.derive import derivation
from pairloom.data.finding import find_pairs
from pairloom.data.masks import percent
from pairloom.data.measuring import alpha_notes, measure_losses, measure_specs
from pairloom.data.pairs import SPLITS, DataError, PairSet, StoredPairs
from pairloom.data.reading import Look, Read, Side, read_all
from pairloom.data.slices import described as stacks_described
from pairloom.images import ImageSpec
from pairloom.pixels import described

NAMED = 5
"""A finding names at most so many pairs, and counts the rest."""
VERY_CLEAR = 3.0
"""... and speaks for its pair alone, whatever the others say, from this ratio on."""
MOSTLY_INVALID = 0.5
"""A pair of which more pixels than this share do not count is named."""
SHIFTED_PX = 2.0
"""Source pixels: a pair is misaligned beyond this."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Findings as sentences, each naming what it is about."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    specs: tuple[ImageSpec, ImageSpec] | None = None
    """Of source and target; None when problems kept them from being measured."""

    @property
    def ok(self) -> bool:
        """Whether training can start."""
        return not self.problems

    def words(self) -> str:
        """The whole report, for a terminal."""
        lines: list[str] = []
        for title, found in (("Found", self.facts), ("Warnings", self.warnings), ("Problems", self.problems)):
            if found:
                lines += [f"{title}:", *(f"  - {sentence}" for sentence in found)]
        if not self.ok:
            lines.append("Training cannot start before the problems are solved.")
        else:
            lines.append("Training can start." if self.warnings else "No faults found; training can start.")
        return "\n".join(lines)


@dataclass(slots=True)
class _Notes:
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def fault(self, about: Iterable[Read], sentence: str) -> None:
        """A problem when training or its validation would meet it; a warning when only tests would."""
        stops = any(read.pair.split in ("train", "val") for read in about)
        (self.problems if stops else self.warnings).append(sentence)


def check(data: DataConfig, *, look: Look | None = None) -> CheckReport:
    """Read the whole data set and report what is wrong with it; nothing is changed, and nothing raised.

    Args:
        data: The data set.
        look: Called once with each pair that could be read: a page learns from the same pass over the files.
    """
    try:
        found = find_pairs(data)
    except DataError as error:
        return CheckReport(problems=(str(error),))
    notes = _Notes()
    _note_layout(found, data, notes)
    if isinstance(found.pairs, StoredPairs) and (faults := found.pairs.faults()):
        return CheckReport((*notes.problems, *faults), tuple(notes.warnings), tuple(notes.facts))
    facts, warnings = stacks_described(found.pairs)
    notes.facts += facts
    notes.warnings += warnings
    reads = read_all(found.pairs, data, look)
    good = [read for read in reads if read.sides is not None]
    _note_faults(reads, notes)
    if good:
        _note_modes(good, data, notes)
        _note_sizes(good, data, notes)
        _note_invalid(good, notes)
        _note_constant(good, notes)
        _note_duplicates(good, notes)
        _note_shifts(good, notes)
    specs = None if notes.problems else _note_specs(found, data, notes)
    return CheckReport(tuple(notes.problems), tuple(notes.warnings), tuple(notes.facts), specs)


def _some(names: Sequence[str], *, separator: str = ", ") -> str:
    rest = len(names) - NAMED
    return separator.join(names[:NAMED]) + (f"{separator}and {rest} more" if rest > 0 else "")


def _are(count: int, noun: str = "pair") -> str:
    return f"1 {noun} is" if count == 1 else f"{count} {noun}s are"


# -----------------------------------------------------------------------------------------------------------
# Findings


def _note_layout(found: PairSet, data: DataConfig, notes: _Notes) -> None:
    counts = {split: len(found.split(split)) for split in SPLITS}
    listed = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
    sides = "the left half" if found.layout == "side-by-side" else "A"
    role = "source" if data.direction == "AtoB" else "target"
    made = f"each makes a pair (data.derive={data.derive})"
    how = made if found.layout == "photos" else f"{sides} is the {role}"
    notes.facts.append(f"{len(found.pairs)} pairs ({found.layout}): {listed}; {how}.")
    if counts["train"] == 0:
        notes.problems.append(f"There are no training pairs, only {listed}.")
    elif counts["train"] == 1:
        notes.warnings.append(f"There is only one training pair, {found.split('train')[0].name}.")
    notes.warnings += found.notes
    if counts["train"] and not counts["val"] and not found.notes:
        notes.facts.append(
            "There is no validation split; data.val_fraction=0.1 would make one of the training pairs."
        )
    if found.unpaired:
        notes.warnings.append(
            f"{_are(len(found.unpaired), 'file')} not used: {_some(found.unpaired, separator='; ')}."
        )
    if found.layout == "manifest" or data.group_pattern is not None:
        splits = defaultdict(set)
        for pair in found.pairs:
            splits[pair.group].add(pair.split)
        divided = [
            f"{group} (in {' and '.join(s for s in SPLITS if s in where)})"
            for group, where in splits.items()
            if len(where) > 1
        ]
        if divided:
            notes.warnings.append(
                f"{_are(len(divided), 'group')} divided between splits, which makes results look better than "
                f"they are: {_some(divided)}."
            )


def _note_faults(reads: Sequence[Read], notes: _Notes) -> None:
    bad = [read for read in reads if read.sides is None]
    if bad:
        sentences = _some([read.fault for read in bad], separator=" ")
        notes.fault(bad, f"{len(bad)} of {len(reads)} pairs cannot be read: {sentences}")


def _note_modes(reads: Sequence[Read], data: DataConfig, notes: _Notes) -> None:
    derive = derivation(data)
    if derive is not None:
        grey = described(1, "uint8")
        greys = [read.name for read in reads if _of(read, 1).mode == grey]
        if greys and derive.needs_colour:
            notes.warnings.append(
                f"{_are(len(greys), 'photo')} grey, with no colours to learn: {_some(greys)}."
            )
        reads = [read for read in reads if _of(read, 1).mode != grey]  # they do among colour photos
        if not reads:
            return
    for number, role in enumerate(("source", "target")):
        modes = [(read, _of(read, number).mode) for read in reads]
        # The training images say what is usual; without any, all do.
        usual = [mode for read, mode in modes if read.pair.split == "train"] or [mode for _, mode in modes]
        common = Counter(usual).most_common(1)[0][0]
        other = [(read, mode) for read, mode in modes if mode != common]
        if other:
            names = _some([f"{read.name} ({mode})" for read, mode in other])
            notes.fault(
                (read for read, _ in other),
                f"The {role} images are mixed: most have {common}, but {len(other)} of {len(reads)} differ: "
                f"{names}; convert them to one kind.",
            )


def _of(read: Read, number: int) -> Side:
    assert read.sides is not None
    return read.sides[number]


def _note_sizes(reads: Sequence[Read], data: DataConfig, notes: _Notes) -> None:
    sources = [_of(read, 0) for read in reads]
    sizes = Counter(side.size for side in sources)
    by_area = sorted(sources, key=lambda side: side.height * side.width)
    spread = by_area[0].size
    if len(sizes) > 1:
        spread += f" to {by_area[-1].size} ({len(sizes)} sizes)"
    mode = Counter(side.mode for side in sources).most_common(1)[0][0]
    notes.facts.append(f"Source images: {mode}, {spread} pixels.")

    unequal = [read for read in reads if _of(read, 0).size != _of(read, 1).size]
    if unequal:
        names = _some([f"{read.name} ({_of(read, 0).size} and {_of(read, 1).size})" for read in unequal])
        if data.resize == "stretch":
            notes.warnings.append(
                f"The two images differ in size in {len(unequal)} of {len(reads)} pairs, and are stretched: "
                f"{names}."
            )
        else:
            notes.fault(
                unequal,
                f"The two images differ in size in {len(unequal)} of {len(reads)} pairs: {names}; make them "
                f"equal, or use data.resize='stretch' instead of {data.resize!r}.",
            )
    _note_crop(reads, data, notes)


def _note_crop(reads: Sequence[Read], data: DataConfig, notes: _Notes) -> None:
    if note := jitter_note(data):
        notes.warnings.append(note)
    height, width = height_width(data.crop_size)
    shape = width / height
    crop = f"the crop ({width}x{height})"

    def names(found: Sequence[Read]) -> str:
        return _some([f"{read.name} ({_of(read, 0).size})" for read in found])

    if data.resize == "stretch":
        odd = [r for r in reads if abs(math.log(_of(r, 0).width / _of(r, 0).height / shape)) > 0.05]
        if odd:
            notes.warnings.append(
                f"{_are(len(odd))} not of the shape of {crop} and will be distorted: {names(odd)}; give "
                "data.crop_size their shape, or use data.resize='shorter'."
            )
    crop_fits: Callable[[Side], bool] = (
        (lambda side: min(side.height, side.width) >= min(height, width))
        if data.resize == "shorter"
        else (lambda side: side.height >= height and side.width >= width)
    )
    small = [read for read in reads if read.pair.split == "train" and not crop_fits(_of(read, 0))]
    if small:
        fate = "continued by reflection" if data.resize == "none" else "enlarged"
        notes.warnings.append(
            f"{_are(len(small), 'training pair')} smaller than {crop} and will be {fate}: {names(small)}."
        )


def _note_invalid(reads: Sequence[Read], notes: _Notes) -> None:
    if not any(read.invalid for read in reads):
        return
    shares = []
    for split in SPLITS:
        own = [read.invalid for read in reads if read.pair.split == split]
        if own:
            shares.append(f"{percent(sum(own) / len(own))} of the {split} pairs'")
    notes.facts.append(f"Pixels that count for nothing (masked or NaN): {', '.join(shares)}.")
    mostly = [read for read in reads if read.invalid > MOSTLY_INVALID]
    if mostly:
        names = _some([f"{read.name} ({percent(read.invalid)})" for read in mostly])
        notes.warnings.append(
            f"In {len(mostly)} of {len(reads)} pairs most pixels count for nothing: {names}."
        )


def _note_constant(reads: Sequence[Read], notes: _Notes) -> None:
    for number, role in enumerate(("source", "target")):
        constant = [read.name for read in reads if _of(read, number).constant]
        if constant:
            notes.warnings.append(
                f"{_are(len(constant), f'{role} image')} of a single colour, with nothing to learn from: "
                f"{_some(constant)}."
            )


def _note_duplicates(reads: Sequence[Read], notes: _Notes) -> None:
    same = _alike(reads, lambda read: tuple(_of(read, number).digest for number in (0, 1)))
    inside = [group for group in same if not _across(group)]
    if inside:
        copies = sum(len(group) - 1 for group in inside)
        notes.warnings.append(f"{_are(copies)} an exact copy of another in its split: {_equal(inside)}.")
    leaking = [group for group in same if _across(group)]
    if leaking:
        notes.warnings.append(
            f"{_are(len(leaking))} in more than one split, so that tests measure memory: {_equal(leaking)}."
        )

    # Constant images (an empty mask) are alike by nature, and reported as such.
    reported = {id(read) for group in leaking for read in group}
    for number, role in enumerate(("source", "target")):
        rest = [read for read in reads if not (_of(read, number).constant or id(read) in reported)]
        shared = [group for group in _alike(rest, _digest(number)) if _across(group)]
        if shared:
            notes.warnings.append(
                f"{_are(len(shared), f'{role} image')} in more than one split: {_equal(shared)}."
            )
    train = [read for read in reads if read.pair.split == "train" and not _of(read, 0).constant]
    several = [g for g in _alike(train, _digest(0)) if len({_of(read, 1).digest for read in g}) > 1]
    if several:
        notes.warnings.append(
            f"{_are(len(several), 'source image')} paired with different targets, of which the output "
            f"becomes a mixture: {_equal(several)}."
        )


def _digest(number: int) -> Callable[[Read], object]:
    return lambda read: _of(read, number).digest


def _alike(reads: Iterable[Read], key: Callable[[Read], object]) -> list[list[Read]]:
    """Groups of two and more with the same key."""
    found: dict[object, list[Read]] = defaultdict(list)
    for read in reads:
        found[key(read)].append(read)
    return [group for group in found.values() if len(group) > 1]


def _across(group: Sequence[Read]) -> bool:
    return len({read.pair.split for read in group}) > 1


def _equal(groups: Sequence[Sequence[Read]]) -> str:
    """`train/1 = test/7, ...`; of a group across splits, the first of each."""
    shown = []
    for group in groups:
        first_of = {read.pair.split: read for read in reversed(group)}
        kept = [read for read in group if first_of[read.pair.split] is read] if _across(group) else group
        shown.append(" = ".join(read.name for read in kept[:NAMED]))
    return _some(shown)


# -----------------------------------------------------------------------------------------------------------
# Alignment


def _note_shifts(reads: Sequence[Read], notes: _Notes) -> None:
    tried = [(read, read.shift) for read in reads if read.shift is not None]
    clear = sorted(
        ((read, shift) for read, shift in tried if shift.clarity >= CLEAR), key=lambda found: -found[1].length
    )
    if not clear:
        if tried:
            notes.facts.append(
                f"Alignment: the sides share too few edges to tell a shift ({len(tried)} pairs tried)."
            )
        return
    down, right = (
        float(np.median([getattr(shift, axis) for _, shift in clear])) for axis in ("down", "right")
    )
    limits = [(read, shift, _shift_limit(read)) for read, shift in clear]
    shifted = [(read, shift) for read, shift, limit in limits if shift.length > limit]
    worst = ", ".join(f"{read.name} ({_direction(shift.down, shift.right)})" for read, shift in clear[:3])
    notes.facts.append(
        f"Alignment, estimated on edges: clear for {len(clear)} of {len(tried)} pairs tried; median shift "
        f"{_direction(down, right)}; worst: {worst}."
    )
    certain = [(read, shift) for read, shift in shifted if shift.clarity >= VERY_CLEAR]
    if len(clear) >= 3 and math.hypot(down, right) > min(limit for *_, limit in limits):
        notes.warnings.append(
            f"The targets as a whole seem shifted by {_direction(down, right)} against the sources; register "
            "them, since a network can only blur what is misaligned."
        )
    elif len(shifted) > max(2, 0.2 * len(clear)):
        names = _some([f"{read.name} ({_direction(s.down, s.right)})" for read, s in shifted])
        notes.warnings.append(
            f"{_are(len(shifted))} probably misaligned: {names}; look at them side by side."
        )
    elif certain:
        names = _some([f"{read.name} ({_direction(s.down, s.right)})" for read, s in certain])
        notes.warnings.append(f"{_are(len(certain))} misaligned: {names}; look at them side by side.")


def _shift_limit(read: Read) -> float:
    """Source pixels beyond which a shift is reported: at least half a pixel of the smaller image."""
    side = _of(read, 0)
    return max(SHIFTED_PX, 0.5 * max(side.height, side.width) / SHIFT_PX)


def _direction(down: float, right: float) -> str:
    parts = [
        f"{abs(value):.1f} px {names[value < 0]}"
        for value, names in ((right, ("right", "left")), (down, ("down", "up")))
        if abs(value) >= 0.05
    ]
    return " and ".join(parts) or "0 px"


# -----------------------------------------------------------------------------------------------------------
# Values


def _note_specs(found: PairSet, data: DataConfig, notes: _Notes) -> tuple[ImageSpec, ImageSpec] | None:
    try:
        specs = measure_specs(found, data)
    except DataError as error:
        notes.problems.append(str(error))
        return None
    for role, spec in zip(("source", "target"), specs, strict=True):
        notes.facts.append(f"The {role} will be read as: {spec.words()}.")
        flat = [str(c) for c, (low, high) in enumerate(zip(spec.low, spec.high, strict=True)) if low == high]
        if spec.kind != "labels" and flat:
            notes.warnings.append(
                f"Of the {role}'s {spec.channels} channels, number {_some(flat)} (from 0) never varies."
            )
    told = notes.warnings if data.alpha == "auto" else notes.facts  # else it is as was asked for
    told.extend(alpha_notes(found.split("train"), *specs))
    for loss in measure_losses(found.split("train"), *specs):
        (notes.warnings if loss.much else notes.facts).append(loss.sentence)
    return specs
