"""What to do instead of a request to the Tyk gateway's API that is not offered here."""

_KEYS = (
    "a key is a user of the password grant (POST /tyk/keys/{username}) or an OAuth token (GET and DELETE "
    "/tyk/keys/{token}); what a token may do is changed in the policies of its client"
)
_EXPORT = "read the definition with GET /tyk/apis/oas/{api_id}"
_INSTEAD = {
    "/tyk/keys/policy": "edit the policy, which counts for tokens already issued: PUT /tyk/policies/{policy_id}",
    "/tyk/keys": _KEYS,
    "/tyk/org": "organisations have no limits here; limit clients with policies",
    "/tyk/apis/oas/import": "send the document with its x-tyk-api-gateway to POST /tyk/apis/oas",
    "/tyk/apis/oas": _EXPORT,
    "/tyk/apis": "send the whole definition to PUT /tyk/apis/{api_id}",
    "/tyk/cache": "responses are not cached, so there is nothing to invalidate",
    "/tyk/certs": "certificates belong to the proxy in front of the gateway",
    "/tyk/health": "ask /hello, or /readyz and /metrics of each service",
}
"""By the beginning of the path, the longest first."""
_OTHERWISE = (
    "the Tyk gateway's API is offered if TOKENWIRE_TYK_GATEWAY_API is true, except for what docs/from-tyk.md names"
)


def instead_of(path: str) -> str:
    """A sentence that says what to do instead of a request to this path."""
    return next((said for start, said in _INSTEAD.items() if f"{path}/".startswith(f"{start}/")), _OTHERWISE)
