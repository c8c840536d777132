"""Explains why MongoDB cannot be used: one sentence that says what to change, instead of the driver's own text."""

from typing import Any

from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

_NOT_INITIALIZED = 94
_NO_TRANSACTION_NUMBERS = 20
_AUTHENTICATION_FAILED = 18
_UNAUTHORIZED = 13
_OUT_OF_DISK = 14031


class NotAReplicaSet(PyMongoError):
    """The server is a standalone mongod, which has neither majority writes nor retryable writes."""


class NotInitiated(PyMongoError):
    """The server was started as a member of a replica set that is not initiated yet."""


def sentence(error: PyMongoError, topology: Any = None) -> str:
    """What is wrong and, in most cases, what to do. `topology` is the driver's topology description."""
    if isinstance(error, NotAReplicaSet):
        return "this MongoDB is not a replica set; start mongod with --replSet and call rs.initiate() once"
    if isinstance(error, NotInitiated):
        return _UNINITIATED
    if _REFUSED in str(error):
        return _USER_REFUSED  # the driver wraps this error if it occurs while connecting in the background
    if isinstance(error, AutoReconnect) and topology is not None and _is_refused(topology):
        return _USER_REFUSED
    if isinstance(error, ServerSelectionTimeoutError):
        return _no_primary(topology) or brief(error)
    if isinstance(error, OperationFailure):
        if error.code == _AUTHENTICATION_FAILED:
            return _USER_REFUSED
        if error.code == _UNAUTHORIZED:
            return _NOT_PERMITTED
        if error.code == _NOT_INITIALIZED:
            return _UNINITIATED
        if error.code == _NO_TRANSACTION_NUMBERS:
            return sentence(NotAReplicaSet())
        if error.code == _OUT_OF_DISK:
            return "the disk of MongoDB is full"
    if isinstance(error, ConfigurationError):
        return f"the driver refuses an option of the URL: {brief(error)}"
    return brief(error)


def brief(error: PyMongoError) -> str:
    """The driver's text without configuration, topology and the server's whole reply; at most 200 characters."""
    text = str(error)
    for end in (" (configured timeouts", ", Timeout:", ", Topology Description", ", full error"):
        text = text.partition(end)[0]
    return text[:200] or type(error).__name__


_REFUSED = "Authentication failed"
_USER_REFUSED = "MongoDB refuses the user name or password, or authSource= names another database than the user's"
_NOT_PERMITTED = (
    "this MongoDB user may not do what is needed; it must have the role readWrite on the database, or "
    "deploy.prepare_mongodb must have made its role and the indexes for this version"
)
_UNINITIATED = "the replica set is not initiated; call rs.initiate() once"


def _is_refused(topology: Any) -> bool:
    """Whether a server refused the user on the driver's last connection attempt."""
    return any(_REFUSED in str(server.error) for server in topology.server_descriptions().values() if server.error)


def _no_primary(topology: Any) -> str | None:
    """Why no primary was found, from what each server replied."""
    servers = topology.server_descriptions().values() if topology is not None else ()
    if not servers:
        # The driver drops servers that are not members of the replica set that the URL names.
        name = getattr(topology, "replica_set_name", None)
        if name:
            return f"no server there is a member of a replica set named {name!r}, which replicaSet= in the URL asks for"
        return None
    kinds = {server.server_type_name for server in servers}
    if "RSGhost" in kinds:
        return _UNINITIATED
    if kinds & {"RSSecondary", "RSOther", "RSArbiter"}:
        return "the replica set has no primary now; a majority of its members must be up"
    return "; ".join(_unreachable(server) for server in servers)


def _unreachable(server: Any) -> str:
    host, port = server.address
    reason = brief(server.error) if server.error else "no response"
    address = f"{host}:{port}"
    return f"nothing can be reached at {address}: {reason.removeprefix(f'{address}: ')}"
