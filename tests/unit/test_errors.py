"""`NonFiniteError`: what it says, and that it can be sent to another process."""

import pickle

import pytest

import tbtrainer
from tbtrainer.errors import NonFiniteError

REPORT = {"message": "The loss itself was not finite at step 5.", "bad_step": 5}


def test_the_error_says_what_the_report_says() -> None:
    assert str(NonFiniteError(REPORT)) == REPORT["message"]


def test_the_error_is_public_and_a_floating_point_error() -> None:
    with pytest.raises(FloatingPointError):
        raise tbtrainer.NonFiniteError(REPORT)


def test_a_pickled_error_has_its_report() -> None:
    error = pickle.loads(pickle.dumps(NonFiniteError(REPORT)))
    assert isinstance(error, NonFiniteError)
    assert error.report == REPORT
    assert str(error) == REPORT["message"]


def test_an_error_without_a_message_says_something() -> None:
    assert str(NonFiniteError({})) == "A loss or a gradient was not finite."
