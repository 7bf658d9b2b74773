"""Work in a thread that is gone afterwards."""

import threading

import pytest

from pellucid.errors import UserError
from pellucid.inference.aside import aside


def test_what_was_done_aside_is_returned_and_its_thread_is_gone():
    before = set(threading.enumerate())
    who = aside(threading.current_thread)
    assert who is not threading.current_thread()
    assert not who.is_alive()
    assert set(threading.enumerate()) == before


def test_what_goes_wrong_aside_is_raised_here():
    def wrong():
        raise UserError("here", "found this", "that")

    with pytest.raises(UserError, match="found this"):
        aside(wrong)
