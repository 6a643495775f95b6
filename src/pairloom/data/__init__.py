"""Pairs of images: finding, measuring, reading, jittering, deriving, checking; the built-in sample set."""

from pairloom.data.augment import augment, evaluation_geometry
from pairloom.data.finding import find_pairs
from pairloom.data.loading import training_batches
from pairloom.data.masks import View
from pairloom.data.measuring import measure_specs, spec_notes
from pairloom.data.pairs import DataError, ImageRef, Pair, PairSet, evenly, fingerprint, read_pair
from pairloom.data.views import evaluation_view, load_pair, training_view

__all__ = [
    "DataError",
    "ImageRef",
    "Pair",
    "PairSet",
    "View",
    "augment",
    "evaluation_geometry",
    "evaluation_view",
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
