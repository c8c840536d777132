"""Which of MongoDB's errors are transient, so that the same request may succeed later, and which are our own faults.

Decided in this order: the class of the driver's exception, its error labels, the server's error code. The numbers are
from the server's `error_codes.yml`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    CursorNotFound,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    WriteConcernError,
)

DUPLICATE_KEY = 11000
"""The code of a write that was refused because a unique key is taken."""

_TRANSIENT_LABELS = (
    "RetryableWriteError",
    "TransientTransactionError",
    "RetryableReadError",
    "RetryableError",
    "SystemOverloadedError",
    "NoWritesPerformed",
)
_FIRST_ASSERTION = 10_000
"""Codes below are the server's named errors; from here on, most are assertions about the command that was sent."""

_NOT_PRIMARY = {10058, 10107, 11602, 13435, 13436}
_INTERRUPTION = {11600, 11601, 46841, 91331, 10045600}
_STALE_ROUTING = {13388}
_BUSY = {12586, 12587, 50915}
_OUT_OF_SPACE = {14031}
_UNREACHABLE = {56846}
_TRANSIENT_ASSERTIONS = _NOT_PRIMARY | _INTERRUPTION | _STALE_ROUTING | _BUSY | _OUT_OF_SPACE | _UNREACHABLE

_MALFORMED = {2, 3, 4, 5, 9, 10, 12, 14, 15, 16, 17, 19, 20, 21, 22, 78, 81, 97, 111, 151, 159, 165, 168, 169, 171, 181}
_MALFORMED |= {195, 207, 218, 223, 224, 227, 232, 233, 241, 242, 257, 263, 291, 292, 352, 357, 361, 377, 378, 386, 411}
_NAMES = {26, 27, 28, 29, 30, 34, 40, 47, 48, 52, 53, 54, 55, 56, 57, 61, 66, 73, 115, 118, 160, 161, 166, 167, 182}
_INDEXES_AND_SCHEMA = {67, 68, 72, 84, 85, 86, 116, 121, 197, 201, 359}
_PERMISSIONS = {11, 31, 32, 33, 35, 49, 58, 214}
_NOT_SUPPORTED = {59, 62, 76, 101, 123, 148, 186, 188, 226, 235, 238, 243, 256, 258, 271, 322, 323, 324, 334, 347, 354}
_FAULTS = frozenset(_MALFORMED | _NAMES | _INDEXES_AND_SCHEMA | _PERMISSIONS | _NOT_SUPPORTED)
"""Named errors that a retry does not cure: what we sent is wrong, or MongoDB is not set up for it.

Unauthorized (13) and AuthenticationFailed (18) are not listed: they last until an administrator grants the role or
corrects the password, and until then a request gets the same 503 as while MongoDB is down.
"""


def is_outage(error: BaseException) -> bool:
    """Whether this error means that MongoDB is unreachable, changing its primary, busy or overloaded.

    The outcome of a write is then unknown, and repeating it with the same values is right. A named server error that is
    not in the list of our own faults counts as an outage, because the request itself may well be valid: 503, not 500.
    """
    if isinstance(error, ConnectionFailure | ExecutionTimeout | WriteConcernError | CursorNotFound):
        return True
    if not isinstance(error, OperationFailure) or isinstance(error, DuplicateKeyError):
        return False
    if any(error.has_error_label(label) for label in _TRANSIENT_LABELS):
        return True
    if isinstance(error, BulkWriteError):
        return _is_outage_of_bulk(error)
    return is_transient(error.code)


def is_transient(code: int | None) -> bool:
    """Whether a server error with this code goes away by itself."""
    if code is None:
        return False
    return code in _TRANSIENT_ASSERTIONS if code >= _FIRST_ASSERTION else code not in _FAULTS


def _is_outage_of_bulk(error: BulkWriteError) -> bool:
    details = error.details or {}
    codes: Iterable[int | None] = (entry.get("code") for entry in details.get("writeErrors", ()))
    return bool(details.get("writeConcernErrors")) or any(is_transient(code) for code in codes)


def raise_write_concern_error(reply: Mapping[str, Any]) -> None:
    """Raises WriteConcernError if the write is not known to be on a majority: its outcome is unknown then."""
    if error := reply.get("writeConcernError"):
        raise WriteConcernError(error.get("errmsg", "not on a majority"), error.get("code"), error)


def write_error(entry: Mapping[str, Any]) -> OperationFailure:
    """One of the `writeErrors` of a reply, as the driver would raise it."""
    return OperationFailure(entry.get("errmsg", "write error"), entry["code"], entry)
