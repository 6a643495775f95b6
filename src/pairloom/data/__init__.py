"""Pairs of images: finding, measuring, reading, jittering, deriving, checking; the built-in sample set."""

from pairloom.data.augment import augment, evaluation_geometry
from pairloom.data.finding import find_pairs
from pairloom.data.loading import training_batches
from pairloom.data.measuring import measure_specs, spec_notes
from pairloom.data.pairs import DataError, ImageRef, Pair, PairSet, evenly, fingerprint, read_pair
from pairloom.data.views import load_pair, training_view

__all__ = [
    "DataError",
    "ImageRef",
    "Pair",
    "PairSet",
    "augment",
    "evaluation_geometry",
    "evenly",
    "find_pairs",
    "fingerprint",
    "load_pair",
    "measure_specs",
    "read_pair",
    "spec_notes",
    "training_batches",
    "training_view",
]
