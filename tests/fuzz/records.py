"""Real records, codes and tokens for requests, created on demand."""

import base64
import re
import secrets
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from libs.runtime import utc_now
from tests.builders import CALLBACK, api_document
from tests.fuzz.running import Running
from tests.services.system import PASSWORD
from tests.unit.tyk_definitions import changed

_REAL = re.compile(r"REAL_[A-Z_]+[A-Z]")
_DELIVERED_WITHIN = 10.0
_EXTENSION = "x-tyk-api-gateway"


class Records:
    """An API with its records. `REAL_CLIENT_ID` in a text stands for its client's id, and so on."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._made: dict[str, str] = {}
        self._makers: Mapping[str, Callable[[], str]] = {
            "REAL_KEY": lambda: running.key,
            "REAL_API_ID": lambda: str(self._api["id"]),
            "REAL_API_REF": lambda: str(self._api["place"]),
            "REAL_URI": lambda: f"{self._api['place']}/things",
            "REAL_CLIENT_ID": lambda: str(self._client["client_id"]),
            "REAL_SECRET": lambda: str(self._client["secret"]),
            "REAL_BASIC": lambda: base64.b64encode(f"{self['CLIENT_ID']}:{self['SECRET']}".encode()).decode(),
            "REAL_POLICY_ID": self._policy,
            "REAL_USERNAME": self._user,
            "REAL_OPERATOR_ID": self._operator,
            "REAL_DELIVERY_ID": self._delivery,
            "REAL_CODE": self._code,
            "REAL_ACCESS": lambda: str(self._tokens["access_token"]),
            "REAL_REFRESH": lambda: str(self._tokens["refresh_token"]),
            "REAL_TOKEN_ID": self._token_id,
            "REAL_NOW": lambda: utc_now().isoformat(),
            "REAL_NEW": lambda: f"new-{secrets.token_hex(6)}",
        }

    def __getitem__(self, name: str) -> str:
        return self.resolved(f"REAL_{name}")

    def resolved(self, text: str) -> str:
        """The text with its placeholders replaced."""
        return _REAL.sub(lambda found: self._one(found[0]), text)

    def resolved_bytes(self, data: bytes) -> bytes:
        """The same for bytes."""
        return self.resolved(data.decode("latin-1")).encode("latin-1") if b"REAL_" in data else data

    def resolved_all(self, value: Any) -> Any:
        """The same for every text in a document."""
        match value:
            case str():
                return self.resolved(value)
            case bytes():
                return self.resolved_bytes(value)
            case dict():
                return {key: self.resolved_all(member) for key, member in value.items()}
            case list():
                return [self.resolved_all(item) for item in value]
        return value

    def spend(self) -> None:
        """Codes and tokens may have been used, so create new ones next time."""
        for name in ("REAL_CODE", "REAL_ACCESS", "REAL_REFRESH", "REAL_TOKEN_ID", "REAL_NEW"):
            self._made.pop(name, None)
        self.__dict__.pop("_tokens", None)

    def _one(self, name: str) -> str:
        if name not in self._makers:
            return name
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    @cached_property
    def _api(self) -> dict[str, str]:
        hook = {"onKeyChangeUrl": f"{self._running.neighbour.url}/hook", "sharedSecret": "a-shared-secret"}
        document = changed(
            api_document(), f"{_EXTENSION}/server/authentication/securitySchemes/tykOAuth/notifications", hook
        )
        document = changed(document, f"{_EXTENSION}/upstream/url", f"{self._running.neighbour.url}/up")
        response = self._running.ask("POST", "/api/apis/oas", json=document)
        return {"id": response["ID"], "place": document[_EXTENSION]["server"]["listenPath"]["value"].strip("/")}

    @cached_property
    def _client(self) -> dict[str, Any]:
        said = {"redirect_uri": CALLBACK, "policy_id": self["POLICY_ID"]}
        client: dict[str, Any] = self._running.ask("POST", f"/api/apis/oauth/{self['API_ID']}", json=said)
        return client

    @cached_property
    def _tokens(self) -> dict[str, Any]:
        form = {"grant_type": "authorization_code", "code": self._code(), "redirect_uri": CALLBACK}
        headers = {"Authorization": self.resolved("Basic REAL_BASIC")}
        tokens: dict[str, Any] = self._running.ask(
            "POST", f"/{self['API_REF']}/oauth/token", data=form, headers=headers
        )
        return tokens

    def _code(self) -> str:
        form = {"response_type": "code", "client_id": self["CLIENT_ID"], "redirect_uri": CALLBACK, "subject": "alice"}
        path = f"/api/apis/oauth/{self['API_ID']}/authorize-client"
        return str(self._running.ask("POST", path, data=form)["code"])

    def _token_id(self) -> str:
        assert self["ACCESS"]
        path = f"/api/apis/oauth/{self['API_ID']}/{self['CLIENT_ID']}/tokens"
        return str(self._running.ask("GET", path)[-1]["code"])

    def _policy(self) -> str:
        said = {"access_rights": {self["API_ID"]: {}}, "rate": 1_000_000, "per": 1}
        return str(self._running.ask("POST", "/api/portal/policies", json=said)["ID"])

    def _user(self) -> str:
        username = f"user-{secrets.token_hex(6)}"
        self._running.ask("POST", f"/api/apis/keys/basic/{username}", json={"password": PASSWORD})
        return username

    def _operator(self) -> str:
        said = {"name": "somebody", "permissions": ["read"]}
        return str(self._running.ask("POST", "/api/operators", json=said)["operator_id"])

    def _delivery(self) -> str:
        assert self["ACCESS"]
        path = f"/api/notifications/deliveries?api_id={self['API_ID']}"
        deadline = time.monotonic() + _DELIVERED_WITHIN
        while not (deliveries := self._running.ask("GET", path)["deliveries"]):
            assert time.monotonic() < deadline, "no delivery"
            time.sleep(0.02)
        return str(deliveries[0]["id"])
