"""Which MongoDB errors are outages (503), and which are faults (500)."""

import pytest
from pymongo import errors

from libs.store.failures import is_outage

PASSING = [6, 7, 24, 43, 46, 50, 63, 64, 75, 79, 89, 90, 91, 96, 100, 107, 112, 117, 133, 134, 143, 146, 150, 175, 189]
PASSING += [13, 18]
PASSING += [202, 203, 215, 216, 237, 239, 246, 249, 250, 262, 264, 279, 290, 317, 355, 363, 365, 371, 384, 391, 402]
PASSING += [406, 407, 412, 433, 449, 450, 453, 462, 8000, 9001]
PASSING += [10058, 10107, 11600, 11601, 11602, 12586, 13388, 13435, 13436, 14031, 46841]
FAULTS = [2, 4, 9, 14, 16, 20, 26, 27, 28, 40, 48, 52, 59, 66, 67, 72, 73, 85, 86, 115, 121, 168, 197]
FAULTS += [10334, 11000, 12582, 17280, 28769, 31082, 40414, 40415, 51003]


@pytest.mark.parametrize("code", PASSING)
def test_b4_errors_that_pass_are_outages(code: int) -> None:
    """Unavailable, electing, interrupted, overloaded, unmet write concern: a later request may succeed."""
    assert is_outage(errors.OperationFailure("injected", code))


@pytest.mark.parametrize("code", FAULTS)
def test_b4_errors_that_do_not_pass_are_faults(code: int) -> None:
    """A wrong query or document is a fault, and reported as such."""
    assert not is_outage(errors.OperationFailure("injected", code))


@pytest.mark.parametrize(
    "error",
    [
        errors.AutoReconnect("gone"),
        errors.NetworkTimeout("late"),
        errors.NotPrimaryError("stepped down"),
        errors.ServerSelectionTimeoutError("nobody"),
        errors.WaitQueueTimeoutError("too many"),
        errors.ExecutionTimeout("late", 50),
        errors.CursorNotFound("gone", 43),
        errors.WriteConcernError("not on a majority", 100),
        errors.WTimeoutError("late", 64),
        errors.BulkWriteError({"writeErrors": [{"code": 11000}, {"code": 112}]}),
        errors.BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_b4_the_kind_of_error_decides_first(error: Exception) -> None:
    """Driver errors without a response, or with a late one, are outages."""
    assert is_outage(error)


@pytest.mark.parametrize("label", ["RetryableWriteError", "TransientTransactionError", "SystemOverloadedError"])
def test_b4_a_label_decides_before_the_code(label: str) -> None:
    """A retryable label of server or driver decides, even for unknown codes."""
    for code in (2, 999_999, None):
        assert is_outage(errors.OperationFailure("injected", code, {"errorLabels": [label]}))


@pytest.mark.parametrize(
    "error",
    [
        errors.DuplicateKeyError("taken", 11000),
        errors.DuplicateKeyError("taken", 11000, {"errorLabels": ["RetryableWriteError"]}),
        errors.BulkWriteError({"writeErrors": [{"code": 11000}]}),
        errors.OperationFailure("without a code"),
        errors.InvalidOperation("closed"),
        errors.InvalidName("a..b"),
        ValueError("nothing of MongoDB's"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_b4_our_own_errors_are_no_outage(error: Exception) -> None:
    """Errors of our own are faults, even without a code."""
    assert not is_outage(error)
