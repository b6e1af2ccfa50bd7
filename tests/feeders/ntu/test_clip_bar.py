"""Ctrl-C under the progress bar of the commands of `data/`."""

from __future__ import annotations

import signal
import weakref

import pytest

from feeders.ntu.clip_bar import ClipBar


class Thing:
    """Something that a weak reference may point to."""


def test_an_interrupt_in_a_callback_of_a_weak_reference_is_not_lost():
    """Python ignores what such a callback raises, and h5py runs many."""
    before = signal.getsignal(signal.SIGINT)
    thing = Thing()
    watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), ClipBar("prepare") as bar:
        bar(1, 3)
        del thing
        assert watch() is None
        bar(2, 3)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_does_not_wait():
    with ClipBar("prepare"):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
