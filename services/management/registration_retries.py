"""Retried registrations: if the response to a registration was lost, repeating the request returns the same client."""

import asyncio
import hashlib

import orjson
import structlog

from contracts.clients import Client, ClientRegistration
from contracts.operators import Operator
from libs.deadlines import IN_FLIGHT_WITHIN, UNSENT_RESPONSE_WINDOW
from libs.encryption import KeyRing
from libs.event_encoding import EventContext
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.clients import Clients
from libs.supervision import spawn

CHECK_INTERVAL = 0.05
"""Seconds between two checks whether the response to the first request has been written."""
_ID_LENGTH = 32

log = structlog.get_logger("management")


class RegistrationRetries:
    """Distinguishes a retry from a second registration with the same content.

    A client keeps a digest of its registration request until the response has been written. A request with the same
    digest is a retry if the first response was never written; otherwise it registers another client.
    """

    def __init__(self, clients: Clients, keys: KeyRing) -> None:
        self._clients = clients
        self._keys = keys
        self._sent: set[str] = set()
        """Digests of requests whose response this process has written, while the database does not show it yet."""
        self._recording: set[asyncio.Task[None]] = set()

    def digest(self, operator: Operator, api_id: str, registration: ClientRegistration) -> str:
        """A keyed digest of the whole request and of the operator who sent it."""
        said = registration.model_dump(mode="json", exclude={"secret"})
        secret = registration.secret.get_secret_value() if registration.secret else None
        text = orjson.dumps([operator.operator_id, api_id, said, secret], option=orjson.OPT_SORT_KEYS)
        return self._keys.digest("registration", text)

    @staticmethod
    def client_id(digest: str) -> str:
        """The client id generated for this request; a retry gets the same."""
        return hashlib.sha256(digest.encode()).hexdigest()[:_ID_LENGTH]

    async def find(self, client_id: str, api_id: str, digest: str, ctx: EventContext) -> Client | None:
        """The client of an earlier, identical request whose response was never written; None if there is none.

        Waits while the earlier request may still be in progress. Raises TemporarilyUnavailable.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + IN_FLIGHT_WITHIN
        while True:
            client = await self._clients.registered(client_id, api_id)
            if client is None or client.registration != digest or digest in self._sent:
                return None
            if client.updated_at != client.created_at or ctx.now - client.created_at > UNSENT_RESPONSE_WINDOW:
                return None
            if loop.time() >= deadline:
                return client
            await asyncio.sleep(CHECK_INTERVAL)

    def written(self, client: Client) -> None:
        """Record in the background that the response was written; returns at once."""
        if client.registration is None:
            return
        self._sent.add(client.registration)
        task = spawn("registration-response-sent", self._record(client, client.registration))
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)

    async def _record(self, client: Client, digest: str) -> None:
        try:
            await self._clients.note_response_sent(client)
        except TemporarilyUnavailable as error:
            # Harmless: an identical request within the window gets this client again, and the window ends by itself.
            log.warning("registration_response_not_recorded", client_id=client.client_id, error=error.detail)
        finally:
            self._sent.discard(digest)
