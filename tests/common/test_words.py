"""Words that users write: found whatever their case, or answered with the nearest."""

from __future__ import annotations

import pytest

from common.errors import UserError
from common.words import find_word


class _ToolError(UserError):
    pass


@pytest.mark.parametrize(("word", "place"), [("wave", 1), ("WAVE", 1), ("Wave", 2), ("sit down", 0)])
def test_a_word_is_found_whatever_its_case_but_in_its_own_first(word, place):
    assert find_word(word, ("Sit down", "wave", "Wave"), "--class", "classes") == place


def test_a_word_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(_ToolError) as refusal:
        find_word("wavee", ["sit", "wave"], "--class", "classes", _ToolError)
    assert str(refusal.value) == "--class 'wavee': not found (did you mean 'wave'?); the data set has 2 classes"
