"""The members of a Tyk OAS definition: which are used here, which are not, and which must not be ignored."""

from libs.tyk.members import FORGEABLE, KNOWN, Each, Members, Refused, Unused

_all = dict.fromkeys
"""Members of the same kind."""
_OTHER_METHOD = Refused("a second authentication method, which a call would have to pass besides the token")
_CODE = Refused("code that may check or change calls; nothing runs it here")
_CERTIFICATES = Refused("client certificates (mutual TLS)")
_UPSTREAM = Unused("not used; the upstream gets calls without it, and has to refuse or admit them itself")
_CACHE = Unused("responses are not cached")
_BODIES = Unused("bodies are not transformed")
_ANALYTICS = Unused("not used; the gateway counts calls by itself (docs/management.md, Usage)")
_RESPONSE_HEADERS = Unused("response headers are not changed")
_PLUGIN = Members({"plugins": Each(_CODE)}, rest=True)
_PRIMITIVES = Refused("the checks of an MCP server")

_SOURCE = Members(_all(("enabled", "name"), KNOWN))
_SOURCES = _all(("header", "query", "cookie"), _SOURCE)

ISSUING_SCHEME = Members(
    {
        **_all(("enabled", "allowedAuthorizeTypes", "refreshToken", "authLoginRedirect"), KNOWN),
        **_SOURCES,
        "notifications": Members(_all(("onKeyChangeUrl", "sharedSecret"), KNOWN)),
        # Of schemes that accept another server's tokens; where they say something, the scheme is not one of ours.
        **_all(("providers", "scopeCheck", "tokenExchange", "protectedResourceMetadata"), KNOWN),
    }
)
"""Tyk's settings of a scheme that issues tokens here."""
AUTH_TOKEN_SCHEME = Members(
    {
        "enabled": KNOWN,
        **_SOURCES,
        "enableClientCertificate": _CERTIFICATES,
        "signatureValidation": Refused("a signature of the token that a call must carry"),
    }
)
"""Tyk's settings of a scheme of the Auth Token method."""
_FLOW = Members(_all(("authorizationUrl", "tokenUrl", "refreshUrl", "scopes"), KNOWN), open_prefix="x-")
DECLARED_SCHEME = Members(
    {
        **_all(("type", "description", "name", "in", "scheme", "bearerFormat"), KNOWN),
        "flows": Members(
            _all(("authorizationCode", "clientCredentials", "password", "implicit"), _FLOW), open_prefix="x-"
        ),
    },
    open_prefix="x-",
)
"""A scheme as OpenAPI declares it."""

_OPERATION = Members(
    {
        **_all(("allow", "block", "ignoreAuthentication", "internal", "requestSizeLimit", "rateLimit"), KNOWN),
        "virtualEndpoint": KNOWN,
        "validateRequest": Refused("request validation"),
        "postPlugins": Each(_CODE),
        "scopeCheck": Refused("a check of the token's scope on single endpoints"),
        "exchange": Refused("an exchange of the token for another one"),
        "mockResponse": Unused("mock responses are not offered; such calls go to the upstream"),
        "transformRequestMethod": Unused("methods are not changed"),
        "transformRequestBody": _BODIES,
        "transformResponseBody": _BODIES,
        "transformRequestHeaders": Unused(
            "headers of single endpoints are not set, only middleware.global.transformRequestHeaders is used; "
            f"{FORGEABLE}"
        ),
        "transformResponseHeaders": _RESPONSE_HEADERS,
        "urlRewrite": Unused("paths are not rewritten"),
        "cache": _CACHE,
        "enforceTimeout": Unused("not used; TOKENWIRE_UPSTREAM_TIMEOUT holds for every call"),
        "circuitBreaker": Unused("the proxy has no circuit breaker"),
        "trackEndpoint": KNOWN,
        "doNotTrackEndpoint": KNOWN,
    }
)

_GLOBAL = Members(
    {
        "cors": Members(
            {
                **_all(("enabled", "maxAge", "allowCredentials", "exposedHeaders", "allowedHeaders"), KNOWN),
                **_all(("optionsPassthrough", "allowedOrigins", "allowedMethods", "debug"), KNOWN),
            }
        ),
        "transformRequestHeaders": Members(_all(("enabled", "remove", "add"), KNOWN)),
        "requestSizeLimit": KNOWN,
        "ignoreCase": KNOWN,
        "skipRateLimit": KNOWN,
        "pluginConfig": Members(
            {"driver": KNOWN, "bundle": _CODE, "data": Unused("data for code that nothing runs here")}
        ),
        "prePlugin": _PLUGIN,
        "prePlugins": Each(_CODE),
        "postAuthenticationPlugin": _PLUGIN,
        "postAuthenticationPlugins": Each(_CODE),
        "postPlugin": _PLUGIN,
        "postPlugins": Each(_CODE),
        "responsePlugin": Unused("code that changes responses is not run"),
        "responsePlugins": Each(Unused("code that changes responses is not run")),
        "cache": _CACHE,
        "transformResponseHeaders": _RESPONSE_HEADERS,
        "contextVariables": Unused("only $tyk_meta is replaced in headers"),
        "trafficLogs": Members({"plugins": Each(_ANALYTICS)}, rest=True),
        "skipQuota": Unused("quotas of policies still apply"),
        "skipQuotaReset": KNOWN,
    }
)

_SERVER = Members(
    {
        "listenPath": Members(_all(("value", "strip"), KNOWN)),
        "authentication": Members(
            {
                **_all(("enabled", "stripAuthorizationData", "baseIdentityProvider", "securitySchemes"), KNOWN),
                **_all(("securityProcessingMode", "security"), KNOWN),
                "hmac": _OTHER_METHOD,
                "oidc": _OTHER_METHOD,
                "custom": _OTHER_METHOD,
                "certificateAuth": _CERTIFICATES,
                "customKeyLifetime": Members(_all(("enabled", "value", "respectValidity"), KNOWN)),
                "protectedResourceMetadata": Unused("the metadata of RFC 9728 is not offered"),
            }
        ),
        "clientCertificates": _CERTIFICATES,
        "ipAccessControl": Members(_all(("enabled", "allow", "block"), KNOWN)),
        "customDomain": Members({"enabled": KNOWN, "name": KNOWN, "certificates": Unused("TLS ends in front of it")}),
        "gatewayTags": KNOWN,
        "slug": KNOWN,
        "contextVariables": Unused("only $tyk_meta is replaced in headers"),
        "detailedActivityLogs": _ANALYTICS,
        "detailedTracing": KNOWN,
        "eventHandlers": Each(Unused("events go to the bus (docs/architecture.md)")),
        "batchProcessing": Unused("batches are not offered"),
        "protocol": Unused("every API is served over HTTP; TLS ends in front of the gateway"),
        "port": Unused("every API is served on the gateway's port"),
    }
)

_UPSTREAM_PART = Members(
    {
        "url": KNOWN,
        "rateLimit": Members(_all(("enabled", "rate", "per"), KNOWN)),
        "mutualTLS": _UPSTREAM,
        "certificatePinning": Refused("pinned public keys of the upstream"),
        "authentication": Members(
            {"enabled": KNOWN, "basicAuth": _UPSTREAM, "oauth": _UPSTREAM, "requestSigning": _UPSTREAM}
        ),
        "serviceDiscovery": Unused("service discovery is not offered"),
        "uptimeTests": Unused("upstreams are not probed"),
        "loadBalancing": Members(
            {
                **_all(("enabled", "targets"), KNOWN),
                "skipUnavailableHosts": Unused("upstreams are not probed"),
            }
        ),
        "preserveHostHeader": Unused("the upstream gets its own host, and the caller's in X-Forwarded-Host"),
        "preserveTrailingSlash": KNOWN,
        "tlsTransport": Unused("certificates of upstreams are always verified, by the defaults of OpenSSL"),
        "proxy": Unused("upstreams are reached directly"),
        "enforceTimeout": Unused("not used; TOKENWIRE_UPSTREAM_TIMEOUT holds for every call"),
    }
)

_EXTENSION = Members(
    {
        "info": Members(
            {
                **_all(("id", "dbId", "orgId", "name", "expiration"), KNOWN),
                "state": Members(_all(("active", "internal"), KNOWN)),
                "versioning": Members(
                    {
                        **_all(("enabled", "name", "default", "location", "key", "versions"), KNOWN),
                        **_all(("stripVersioningData", "urlVersioningPattern", "fallbackToDefault"), KNOWN),
                    }
                ),
            }
        ),
        "server": _SERVER,
        "upstream": _UPSTREAM_PART,
        "middleware": Members(
            {
                "global": _GLOBAL,
                "operations": Each(_OPERATION),
                "mcpTools": _PRIMITIVES,
                "mcpResources": _PRIMITIVES,
                "mcpPrompts": _PRIMITIVES,
                "paths": Refused("rules of an early version of Tyk OAS; write them under operations"),
            }
        ),
        "errorOverrides": Unused("error bodies are not changed"),
    }
)

DOCUMENT = Members(
    {
        **_all(("openapi", "info", "servers", "paths", "components", "security", "tags", "externalDocs"), KNOWN),
        **_all(("webhooks", "jsonSchemaDialect", "x-tokenwire"), KNOWN),
        "x-tyk-api-gateway": _EXTENSION,
        "x-tyk-streaming": Unused("streams are not offered"),
    },
    open_prefix="x-",
)
"""Of the whole document."""
