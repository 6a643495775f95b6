"""Confusion matrices by hand and by a plain loop; the three figures; what their intervals must do."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pairloom.evaluation.confusion import (
    MEASURES,
    bootstrap_scores,
    confusion_matrix,
    plain,
    resampled,
    scores,
)


def by_loop(predicted: np.ndarray, truth: np.ndarray, classes: int, ignored: int | None) -> list[list[int]]:
    """Pixel by pixel, with no arithmetic on indices."""
    table = [[0] * (classes + 1) for _ in range(classes)]
    for ours, true in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if true not in range(classes) or true == ignored:
            continue
        table[true][ours if ours in range(classes) else classes] += 1
    return table


def scores_by_loop(table: list[list[int]]) -> tuple[float, float, float]:
    classes = len(table)
    recalls, overlaps, right, pixels = [], [], 0, 0
    for k in range(classes):
        true = sum(table[k])
        right, pixels = right + table[k][k], pixels + true
        if true:
            predicted = sum(row[k] for row in table)
            recalls.append(table[k][k] / true)
            overlaps.append(table[k][k] / (true + predicted - table[k][k]))
    return right / pixels, sum(recalls) / len(recalls), sum(overlaps) / len(overlaps)


def test_a_matrix_and_its_figures_by_hand() -> None:
    truth = np.array([[0, 0, 0, 1], [1, 1, 2, 2]])
    predicted = np.array([[0, 0, 1, 1], [1, 0, 2, 1]])
    matrix = confusion_matrix(predicted, truth, 3)
    assert matrix.tolist() == [[2, 1, 0, 0], [1, 2, 0, 0], [0, 1, 1, 0]]
    assert matrix.dtype == np.int64
    found = scores(matrix)
    assert found.pixel_accuracy == pytest.approx(5 / 8)
    assert found.recall == pytest.approx((2 / 3, 2 / 3, 1 / 2))
    assert found.class_accuracy == pytest.approx((2 / 3 + 2 / 3 + 1 / 2) / 3)
    assert found.iou == pytest.approx((2 / 4, 2 / 5, 1 / 2))
    assert found.class_iou == pytest.approx((2 / 4 + 2 / 5 + 1 / 2) / 3)
    assert found.share == pytest.approx((3 / 8, 3 / 8, 2 / 8))


@pytest.mark.parametrize("ignored", [None, 0, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_it_agrees_with_a_plain_loop(ignored: int | None, dtype: type) -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, 3, 5, 19, 255], (40, 30)).astype(dtype)
    predicted = rng.integers(0, 22, truth.shape).astype(dtype)
    matrix = confusion_matrix(predicted, truth, 19, ignored)
    table = by_loop(predicted, truth, 19, ignored)
    assert matrix.tolist() == table
    found = scores(matrix)
    assert (found.pixel_accuracy, found.class_accuracy, found.class_iou) == pytest.approx(
        scores_by_loop(table)
    )


def test_a_twentieth_class_spills_into_no_other_row() -> None:
    # The authors' histogram has index 19 * truth + predicted: there, class 19 on truth 4 is 0 on truth 5, and
    # on truth 18 it is beyond the end.
    truth = np.array([[4, 18, 18]])
    matrix = confusion_matrix(np.array([[19, 19, 18]]), truth, 19)
    assert matrix[5].sum() == 0
    assert matrix.sum(axis=1)[[4, 18]].tolist() == [1, 2]
    assert matrix[:, 19].sum() == 2
    found = scores(matrix)
    assert found.pixel_accuracy == pytest.approx(1 / 3)
    assert (found.recall[4], found.recall[18], found.iou[18]) == pytest.approx((0, 1 / 2, 1 / 2))
    assert confusion_matrix(np.array([[-1]]), np.array([[0]]), 19)[0, 19] == 1


def test_what_is_ignored_is_not_counted() -> None:
    truth = np.array([[0, 0, 1, 255]])
    matrix = confusion_matrix(np.array([[0, 1, 0, 0]]), truth, 2, ignored=0)
    assert matrix.tolist() == [[0, 0, 0], [1, 0, 0]]
    found = scores(matrix)
    assert (found.pixel_accuracy, found.class_accuracy, found.class_iou) == (0, 0, 0)
    assert math.isnan(found.recall[0])
    assert found.to_dict()["recall"] == [None, 0.0]


def test_classes_absent_from_the_truth_are_left_out_of_the_means() -> None:
    matrix = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 4]])
    found = scores(matrix)
    assert found.class_accuracy == pytest.approx((3 / 4 + 1) / 2)
    assert found.class_iou == pytest.approx((3 / 4 + 1) / 2)
    nothing = scores(np.zeros((3, 4), int))
    assert math.isnan(nothing.pixel_accuracy) and math.isnan(nothing.class_iou)
    json.dumps(nothing.to_dict(), allow_nan=False)


def test_only_some_classes_are_as_if_the_others_were_ignored() -> None:
    rng = np.random.default_rng(3)
    truth, predicted = rng.integers(0, 3, (2, 20, 20))
    some = scores(confusion_matrix(predicted, truth, 3), [0, 2])
    assert some.to_dict() == scores(confusion_matrix(predicted, truth, 3, ignored=1)).to_dict()
    whole = scores(confusion_matrix(predicted, truth, 3))
    assert some.recall[0] == whole.recall[0]
    assert some.iou[0] > whole.iou[0], "what was taken for class 0 and is of class 1 no longer counts"


def test_the_bootstrap_is_that_of_a_loop_over_draws() -> None:
    rng = np.random.default_rng(1)
    matrices = rng.integers(0, 50, (7, 4, 5))
    matrices[:4, 3] = 0  # a class that some draws do not hold
    draws = resampled(matrices, resamples=300, seed=5)
    times = np.random.default_rng(5).multinomial(7, np.full(7, 1 / 7), size=300)
    for r in range(0, 300, 29):
        table = sum(matrices[i] * times[r, i] for i in range(7))
        expected = scores_by_loop(table.tolist())
        assert [draws[name][r] for name in MEASURES] == pytest.approx(expected)


def test_an_interval_holds_the_data_sets_own_figure_and_narrows_with_images() -> None:
    rng = np.random.default_rng(2)

    def image() -> np.ndarray:
        truth = rng.integers(0, 3, (12, 12))
        wrong = rng.random(truth.shape) < rng.uniform(0.1, 0.5)
        return confusion_matrix(np.where(wrong, (truth + 1) % 3, truth), truth, 3)

    few, many = [image() for _ in range(10)], [image() for _ in range(160)]
    widths = []
    for matrices in (few, many):
        intervals = bootstrap_scores(matrices, resamples=2000)
        found = scores(np.sum(matrices, axis=0))
        for name in MEASURES:
            i = intervals[name]
            assert i.mean == getattr(found, name)
            assert i.low < i.mean < i.high
            assert i.count == len(matrices)
        widths.append(intervals["class_iou"].high - intervals["class_iou"].low)
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.5)
    assert bootstrap_scores(few, resamples=500) == bootstrap_scores(few, resamples=500)
    one = bootstrap_scores(few[:1])["class_iou"]
    assert one.low == one.mean == one.high


def test_mistakes_are_sentences() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) and the labels \(4, 4\); bring the prediction"):
        confusion_matrix(np.zeros((2, 2), int), np.zeros((4, 4), int), 3)
    with pytest.raises(ValueError, match="float64 values; class indices are integers"):
        confusion_matrix(np.zeros((2, 2)), np.zeros((2, 2), int), 3)
    with pytest.raises(ValueError, match="N from 1"):
        bootstrap_scores(np.zeros((0, 3, 4), int))


def test_plain_values_hold_nothing_that_json_does_not_know() -> None:
    value = {"a": (1, math.nan, [math.inf]), "b": scores(np.eye(2, dtype=int))}
    assert plain(value)["a"] == [1, None, [None]]
    assert plain(value)["b"]["iou"] == [1.0, 1.0]
