"""The FCN-score between its floor and its ceiling, by hand; predicted labels, by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pairloom.evaluation.confusion import MEASURES, confusion_matrix, scores
from pairloom.evaluation.fcn_score import FcnScore, FcnScorer, fcn_score
from pairloom.evaluation.foreign_segmenters import FunctionSegmenter
from pairloom.evaluation.label_score import label_score
from pairloom.evaluation.segmenter import (
    Segmenter as OurSegmenter,
)
from pairloom.evaluation.segmenter import (
    SegmenterError,
    build_network,
)
from pairloom.images import ImageSpec, to_array, to_tensor

GREYS = (0, 80, 160, 240)
"""A photo shows class k as this grey."""


def label_spec(count: int = 4, *, one_hot: bool = False) -> ImageSpec:
    return ImageSpec(
        channels=1,
        dtype="uint8",
        kind="labels",
        low=(0.0,),
        high=(count - 1.0,),
        palette=tuple((k,) for k in range(count)),
        palette_names=("sky", "road", "car", "sign")[:count],
        one_hot=one_hot,
    )


def by_grey(photo: np.ndarray) -> np.ndarray:
    """Knows sky, road and car; signs it takes for cars."""
    index = np.abs(photo[:, :, :1].astype(int) - np.array(GREYS)).argmin(axis=2)
    return np.where(index == 3, 2, index)


JUDGE = FunctionSegmenter(function=by_grey, label_spec=label_spec(), name="by grey")
MEAN = np.zeros((8, 8, 3), np.uint8)
"""Seen as sky everywhere."""


def photo_of(index: np.ndarray) -> np.ndarray:
    return np.array(GREYS, np.uint8)[index][:, :, None].repeat(3, axis=2)


def truths(count: int, side: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.choice(4, (side, side), p=[0.4, 0.3, 0.2, 0.1]) for _ in range(count)]


def triples(count: int = 30, wrong: float = 0.5) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Generated photos of which half the pixels show another class."""
    rng = np.random.default_rng(1)
    for truth in truths(count):
        shown = np.where(rng.random(truth.shape) < wrong, (truth + 1) % 3, truth)
        yield photo_of(shown), photo_of(truth), truth


def test_floor_ceiling_and_skill_by_hand() -> None:
    found = fcn_score(JUDGE, triples(), MEAN, resamples=500)
    matrices: dict[str, Any] = {"generated": 0, "ceiling": 0, "floor": 0}
    for generated, real, truth in triples():
        for who, photo in (("generated", generated), ("ceiling", real)):
            matrices[who] += confusion_matrix(by_grey(photo), truth, 4)
        matrices["floor"] += confusion_matrix(np.zeros((16, 16), int), truth, 4)
    for who, matrix in matrices.items():
        assert getattr(found, who).scores == scores(matrix)
    assert found.reported == tuple(MEASURES)
    assert (found.known, found.unknown) == ((0, 1, 2), (3,))
    known = {who: scores(matrix, [0, 1, 2]) for who, matrix in matrices.items()}
    assert known["ceiling"].pixel_accuracy == known["ceiling"].class_iou == 1
    for name in MEASURES:
        g, c, f = (getattr(known[who], name) for who in ("generated", "ceiling", "floor"))
        skill = found.skill[name]
        assert skill.mean == pytest.approx((g - f) / (c - f))
        assert skill.low < skill.mean < skill.high
        assert skill.count == 30
    assert found.floor.scores.recall == (1, 0, 0, 0)


def test_perfect_photos_have_skill_one_and_empty_ones_none() -> None:
    good = fcn_score(JUDGE, triples(wrong=0), MEAN, resamples=200)
    empty = fcn_score(JUDGE, ((MEAN, r, t) for _, r, t in triples()), MEAN, resamples=200)
    for name in MEASURES:
        for score, value in ((good, 1.0), (empty, 0.0)):
            skill = score.skill[name]
            assert (skill.mean, skill.low, skill.high) == pytest.approx((value,) * 3)


def test_the_same_images_in_the_same_order_give_the_same_score_streamed_or_not() -> None:
    scorer = FcnScorer(JUDGE, MEAN)
    for triple in triples():
        scorer.add(*triple)
    assert scorer.result(resamples=300) == fcn_score(JUDGE, triples(), MEAN, resamples=300)


def test_labels_keep_their_size_and_answers_come_to_it() -> None:
    """A label map of twice the photo's size: one pixel of truth may differ within one of the photo."""
    truth = np.zeros((16, 16), int)
    truth[:8], truth[0, 0] = 1, 2
    half = truth[1::2, 1::2]
    found = fcn_score(JUDGE, [(photo_of(half), photo_of(half), truth)], MEAN, resamples=50)
    assert found.generated.scores.pixel_accuracy == pytest.approx(255 / 256)
    tensor = torch.from_numpy(photo_of(half).transpose(2, 0, 1) / 127.5 - 1).float()
    again = fcn_score(JUDGE, [(tensor, tensor, truth)], MEAN, resamples=50)
    assert again.to_dict() == found.to_dict()


def test_nothing_is_reported_where_real_photos_are_no_clearer_than_a_mean_one() -> None:
    blind = FunctionSegmenter(function=lambda p: np.zeros(p.shape[:2], int), label_spec=label_spec())
    found = fcn_score(blind, triples(), MEAN, resamples=200)
    assert found.reported == () and found.skill == {}
    words = found.words()
    assert "No FCN-score is reported, as on real photos" in words
    assert words.count("not reported") == 3
    assert "generated: recall" not in words
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["generated"]["scores"] is None
    assert values["generated"]["intervals"] == dict.fromkeys(MEASURES)
    assert values["ceiling"]["scores"]["recall"][0] == 1


def test_one_measure_may_be_reported_and_another_not() -> None:
    """Nearly all is sky, so that pixel accuracy cannot tell a photo from nothing; class accuracy can."""
    rng = np.random.default_rng(4)

    def rare() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for _ in range(12):
            truth = np.zeros((16, 16), int)
            truth[0, 0] = 1
            real = truth.copy()
            real[1, :2] = rng.integers(0, 2)  # a mistake now and then
            yield photo_of(truth), photo_of(real), truth

    found = fcn_score(JUDGE, rare(), MEAN, resamples=300)
    assert found.reported == ("class_accuracy", "class_iou")
    assert set(found.skill) == {"class_accuracy", "class_iou"}
    values = found.to_dict()
    assert values["generated"]["scores"]["pixel_accuracy"] is None
    assert values["generated"]["scores"]["class_accuracy"] == 1
    assert "Not all figures are reported" in found.words()


def test_ignored_and_absent_classes_are_out_of_everything() -> None:
    judge = FunctionSegmenter(function=by_grey, label_spec=label_spec(), ignored=0)
    some = [(g, r, np.where(t == 3, 255, t)) for g, r, t in triples()]
    found = fcn_score(judge, some, MEAN, resamples=100)
    assert found.ignored == 0
    assert found.known == (1, 2) and found.unknown == ()
    assert found.ceiling.scores.class_iou == 1
    assert math.isnan(found.ceiling.scores.recall[0]) and math.isnan(found.ceiling.scores.recall[3])
    assert found.floor.scores.pixel_accuracy == 0, "the mean photo is seen as the ignored class"
    lines = found.words().splitlines()
    assert not any(line.startswith(("sky", "sign")) for line in lines)


def test_the_words_are_aligned_and_say_what_to_know() -> None:
    found = fcn_score(JUDGE, triples(6), MEAN, resamples=200)
    lines = found.words().splitlines()
    assert lines[0] == "FCN-score by by grey, 4 classes, 6 images [95 % interval]"
    head, first = lines[2], lines[3]
    for column in ("generated", "real photos", "mean photo", "skill"):
        at = head.index(column)
        assert first[at] in "01" and first[at - 1] == " "
    text = found.words()
    assert "finds less than 0.3 of 1 class, which the skill leaves out: sign (0.00)." in text
    assert "With 6 images, the intervals are rough" in text
    assert "not comparable" in text
    assert max(map(len, lines)) < 220 and not any(line != line.rstrip() for line in lines)
    json.dumps(found.to_dict(), allow_nan=False)
    assert isinstance(found, FcnScore)


def test_a_network_of_ours_judges_whatever_size_the_labels_have() -> None:
    spec = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
    network = build_network("own", 3, 4, torch.Generator().manual_seed(0))
    judge = OurSegmenter(network, "own", spec, label_spec())
    photo = np.zeros((9, 5, 3), np.uint8)
    found = fcn_score(judge, [(photo, photo, np.zeros((31, 1), int))], photo, resamples=20)
    assert found.images == 1
    assert found.reported == ()


def test_mistakes_are_sentences() -> None:
    with pytest.raises(SegmenterError, match="no images to score; choose a split that has pairs"):
        fcn_score(JUDGE, [], MEAN)
    with pytest.raises(SegmenterError, match=r"shape \(4, 4, 3\); it must be \(height, width\)"):
        FcnScorer(JUDGE, MEAN).add(MEAN, MEAN, np.zeros((4, 4, 3), int))
    with pytest.raises(ValueError, match="class indices are integers"):
        FcnScorer(JUDGE, MEAN).add(MEAN, MEAN, np.zeros((8, 8)))


# -----------------------------------------------------------------------------------------------------------
# Photo -> labels

COLOURS = ImageSpec(
    channels=3,
    dtype="uint8",
    kind="labels",
    low=(0.0,) * 3,
    high=(255.0,) * 3,
    palette=((0, 0, 0), (255, 0, 0), (0, 255, 0)),
)


def test_predicted_labels_by_hand() -> None:
    palette = np.array(COLOURS.palette, np.uint8)
    truth = palette[np.array([[0, 0, 1], [1, 2, 2]])]
    near = palette[np.array([[0, 1, 1], [1, 2, 0]])] ^ np.uint8(9)  # not quite in the palette's colours
    found = label_score([near], [truth], COLOURS, resamples=50)
    assert found.model.scores.pixel_accuracy == pytest.approx(4 / 6)
    assert found.model.scores.recall == pytest.approx((1 / 2, 1, 1 / 2))
    assert found.model.scores.iou == pytest.approx((1 / 3, 2 / 3, 1 / 2))
    assert found.commonest.pixel_accuracy == pytest.approx(2 / 6)
    assert found.commonest.class_iou == pytest.approx(1 / 9)
    text = found.words()
    assert "Predicted labels, 1 image" in text and "0,255,0" in text and "rough" in text
    json.dumps(found.to_dict(), allow_nan=False)


def test_one_hot_outputs_and_ignored_classes() -> None:
    spec = label_spec(one_hot=True)
    truth = truths(1)[0].astype(np.uint8)[..., None]
    rng = torch.Generator().manual_seed(0)
    output = to_tensor(truth, spec) + 0.8 * torch.randn(4, 16, 16, generator=rng)
    expected = confusion_matrix(output.argmax(0).numpy(), truth[..., 0], 4, 3)
    predicted = to_array(output.clamp(-1e3, 1e3), spec)
    found = label_score([predicted], [truth], spec, ignored=3, resamples=20)
    assert found.model.scores.to_dict() == scores(expected).to_dict()
    assert found.ignored == 3 and found.classes == ("sky", "road", "car", "sign")


def test_the_truth_is_never_resized() -> None:
    palette = np.array(COLOURS.palette, np.uint8)
    index = np.array([[0, 1], [2, 0]])
    large = index.repeat(4, axis=0).repeat(4, axis=1)
    large[0, 0] = 1
    found = label_score([palette[index]], [palette[large]], COLOURS, resamples=20)
    assert found.model.scores.pixel_accuracy == pytest.approx(63 / 64)


def test_label_maps_that_cannot_be_scored_are_sentences() -> None:
    one = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(SegmenterError, match="no label maps to score"):
        label_score([], [], COLOURS)
    with pytest.raises(SegmenterError, match=r"A predicted label map has shape \(4, 4, 1\) of uint8"):
        label_score([one[..., :1]], [one], COLOURS)
    with pytest.raises(SegmenterError, match="only label maps can be scored by class"):
        label_score([one], [one], JUDGE.photo_spec)
    for predicted, truth in (([one], [one, one]), ([one, one], [one])):
        with pytest.raises(SegmenterError, match="as many predicted label maps as true ones"):
            label_score(predicted, truth, COLOURS)
