"""The registrations of a client: each of its APIs has its own redirect URIs, policies and metadata."""

from collections.abc import Mapping
from datetime import datetime

from contracts.clients import Client, Registration

_FIELDS = tuple(Registration.model_fields)


def registrations_of(client: Client) -> Mapping[str, Client]:
    """The client as each of its APIs sees it, by API id, in the order of registration."""
    if not client.others:
        return {client.api_id: client}
    every = sorted((_registration(client), *client.others), key=lambda each: (each.created_at, each.api_id))
    return {own.api_id: _seen_from(client, own, tuple(o for o in every if o is not own)) for own in every}


def registered_on(client: Client | None, api_id: str) -> Client | None:
    """The client as this API sees it; None if it is not registered there."""
    if client is None or client.api_id == api_id:
        return client
    return registrations_of(client).get(api_id) if client.others else None


def with_registration(client: Client, added: Client) -> Client:
    """The client, seen from an API on which it is now registered as well, with the secrets that it has.

    Grants from before an earlier registration was deleted stay revoked.
    """
    every = (_registration(client), *client.others)
    moments = [client.unregistered_at, *(each.revoked_before for each in every)]
    revoked_before = max((moment for moment in moments if moment is not None), default=None)
    own = _registration(added).model_copy(update={"revoked_before": revoked_before})
    return _seen_from(client, own, every)


def without_registration(client: Client, now: datetime) -> Client | None:
    """The client without the registration from which it is seen; None if that was the only one."""
    if not client.others:
        return None
    first, *others = client.others
    return _seen_from(client, first, tuple(others)).model_copy(update={"unregistered_at": now})


def _registration(client: Client) -> Registration:
    return Registration.model_construct(**{name: getattr(client, name) for name in _FIELDS})


def _seen_from(client: Client, own: Registration, others: tuple[Registration, ...]) -> Client:
    fields = {name: getattr(own, name) for name in _FIELDS}
    return client.model_copy(update={**fields, "others": others})
