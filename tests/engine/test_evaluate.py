"""Accuracies from logits, against counts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from engine.evaluate import measure

# Seven classes; the true class is ranked 1st, 5th, 6th, 1st.
RANKED = np.array([[7, 6, 5, 4, 3, 2, 1]] * 4, dtype=np.float32)


def test_top_one_and_top_five():
    accuracy = measure(RANKED, np.array([0, 4, 5, 0]))
    assert (accuracy.clips, accuracy.top1, accuracy.top5) == (4, 50.0, 75.0)


def test_classes_and_confusion():
    accuracy = measure(RANKED, np.array([0, 4, 5, 0]))
    assert accuracy.per_class[[0, 4, 5]].tolist() == [100.0, 0.0, 0.0]
    assert np.isnan(accuracy.per_class[[1, 2, 3, 6]]).all()
    assert accuracy.mean_class == pytest.approx(100 / 3)
    assert accuracy.confusion[[0, 4, 5], 0].tolist() == [2, 1, 1]
    assert accuracy.confusion.sum() == 4


def test_fewer_than_five_classes():
    accuracy = measure(np.eye(3, dtype=np.float32), np.array([1, 1, 2]))
    assert accuracy.top5 == 100.0
    assert accuracy.top1 == pytest.approx(200 / 3)
