"""What the fields of a definition mean here: `type | default | effect`, by path.

The paths are those of libs/tyk/oas_members.py and classic_members.py. A field that is used there and missing here, or
here and missing there, stops the generation of the page.
"""

from collections.abc import Mapping

_GATEWAY = "x-tyk-api-gateway."
_SCHEME = f"{_GATEWAY}server.authentication.securitySchemes.<name>."
_DECLARED = "components.securitySchemes.<name>."
_OPERATION = f"{_GATEWAY}middleware.operations.<name>."
_GLOBAL = f"{_GATEWAY}middleware.global."
NOTHING = ""
"""For fields that describe the API, and change nothing here."""


def _each(prefix: str, names: str, text: str) -> dict[str, str]:
    return {f"{prefix}{name}": text for name in names.split()}


def _sources(prefix: str) -> dict[str, str]:
    return {
        f"{prefix}header.enabled": "true, false | `false` | the token may come in a header",
        f"{prefix}header.name": "text | `Authorization` | the name of the header; a `Bearer ` prefix is accepted",
        f"{prefix}query.enabled": "true, false | `false` | the token may come in the query",
        f"{prefix}query.name": "text | that of the header | the name of the parameter",
        f"{prefix}cookie.enabled": "true, false | `false` | the token may come in a cookie",
        f"{prefix}cookie.name": "text | that of the header | the name of the cookie",
    }


_UPSTREAM = (
    "where calls go (`http`, `https`, `ws`, `wss`). Without an upstream, or with one that only Tyk can call (`tyk://`, "
    "`h2c://`, references such as `env://`), calls get 502; tokens and `/verify` work"
)
_SESSIONS = "the lifetime of access tokens, if it is under an hour and `accessTokenLifetime` is not set"
_LISTS = "a call of another path or method is refused with 403, as soon as one operation has it"
OAS: Mapping[str, str] = {
    "openapi": "text | required | begins with `3.`",
    "paths": "object | none | names the operations (`operationId`) that `middleware.operations` refers to",
    "security": "array | none | the schemes that a call must satisfy; names entries of `components.securitySchemes`",
    "x-tokenwire": "object | none | the extension, see above",
    **_each("", "info servers components tags externalDocs webhooks jsonSchemaDialect", NOTHING),
    f"{_DECLARED}type": "`oauth2`, `apiKey` | required | `oauth2`: issues tokens; `apiKey`: accepts tokens that "
    "another API issued (Auth Token)",
    f"{_DECLARED}in": "`header`, `query`, `cookie` | required with `apiKey` | where the token is",
    f"{_DECLARED}name": "text | `Authorization` | its name there, with `apiKey`",
    **_each(f"{_DECLARED}", "description scheme bearerFormat", NOTHING),
    f"{_DECLARED}flows.authorizationCode.scopes": "object | none | the scopes that clients may ask for, each with a "
    "sentence for people. The flow itself enables the grant `authorization_code`",
    f"{_DECLARED}flows.clientCredentials.scopes": "object | none | the same; the flow enables the grant "
    "`client_credentials`",
    f"{_DECLARED}flows.password.scopes": "object | none | the same; the flow enables the grant `password`",
    f"{_DECLARED}flows.implicit.scopes": "object | none | declares scopes; the implicit grant itself is not offered",
    **{
        f"{_DECLARED}flows.{flow}.{name}": NOTHING
        for flow in ("authorizationCode", "clientCredentials", "password", "implicit")
        for name in ("authorizationUrl", "tokenUrl", "refreshUrl")
    },
    f"{_GATEWAY}info.name": "text | required | the name of the API",
    f"{_GATEWAY}info.id": "text | made at import | the API's id; also a path under which it is reached",
    f"{_GATEWAY}info.orgId": "text | none | kept and shown",
    f"{_GATEWAY}info.dbId": NOTHING,
    f"{_GATEWAY}info.expiration": "`2030-01-31 23:59`, UTC | none | calls are refused with 403 afterwards",
    f"{_GATEWAY}info.state.active": "true, false | `true` | `false`: the API is not served",
    f"{_GATEWAY}info.state.internal": "true, false | `false` | `true`: calls from outside get 404",
    f"{_GATEWAY}info.versioning.enabled": "true, false | `false` | a call names a version of the API",
    f"{_GATEWAY}info.versioning.name": "text | none | the name of this version",
    f"{_GATEWAY}info.versioning.default": "text | this version | the version of calls that name none",
    f"{_GATEWAY}info.versioning.location": "`header`, `url-param`, `url` | `header` | where calls name it",
    f"{_GATEWAY}info.versioning.key": "text | `x-api-version` | the name of the header or parameter",
    f"{_GATEWAY}info.versioning.versions": "array of `{name}` | none | the other versions",
    **_each(f"{_GATEWAY}info.versioning.", "stripVersioningData urlVersioningPattern fallbackToDefault", NOTHING),
    f"{_GATEWAY}server.listenPath.value": "text | required | the path of the API on the edge, such as `/orders/`",
    f"{_GATEWAY}server.listenPath.strip": "true, false | `false` | the upstream gets the path without it",
    f"{_GATEWAY}server.authentication.enabled": "true, false | required in `authentication` | calls need a token; "
    "without `authentication` the API is open to everyone",
    f"{_GATEWAY}server.authentication.stripAuthorizationData": "true, false | `false` | the upstream does not get "
    "the token",
    f"{_GATEWAY}server.authentication.securitySchemes": "object | none | Tyk's settings of each scheme, by its name",
    f"{_GATEWAY}server.authentication.securityProcessingMode": "`legacy`, `compliant` | `legacy` | `compliant`: the "
    "entries of `security` are alternatives",
    **_each(f"{_GATEWAY}server.authentication.", "baseIdentityProvider security", NOTHING),
    f"{_GATEWAY}server.authentication.customKeyLifetime.enabled": "true, false | `false` | it counts",
    f"{_GATEWAY}server.authentication.customKeyLifetime.value": f"duration, such as `10m` | none | {_SESSIONS}",
    f"{_GATEWAY}server.authentication.customKeyLifetime.respectValidity": "true, false | `false` | `true`: it does not "
    "count",
    f"{_SCHEME}enabled": "true, false | `false` | the scheme counts",
    f"{_SCHEME}allowedAuthorizeTypes": "array of `code`, `token` | `code` | a list without `code` takes the grant "
    "`authorization_code` away; `token` (implicit) is not offered",
    f"{_SCHEME}refreshToken": "true, false | `false` | enables the grant `refresh_token`: the grants of users get a "
    "refresh token",
    f"{_SCHEME}authLoginRedirect": "URL | none | the login page, to which `/oauth/authorize` sends the browser",
    f"{_SCHEME}notifications.onKeyChangeUrl": "URL | none | where webhooks go ([guide](../guides/webhook-receiver.md))",
    f"{_SCHEME}notifications.sharedSecret": "text | none | the secret in `X-Tyk-Shared-Secret`, and of the signature",
    **_each(
        _SCHEME,
        "providers scopeCheck tokenExchange protectedResourceMetadata",
        "object | none | a scheme with one of these accepts tokens of another server, and is not one of ours",
    ),
    **_sources(_SCHEME),
    f"{_GATEWAY}server.ipAccessControl.enabled": "true, false | `false` | the lists count",
    f"{_GATEWAY}server.ipAccessControl.allow": "array of addresses and networks | everyone | others get 403",
    f"{_GATEWAY}server.ipAccessControl.block": "array of addresses and networks | none | these get 403",
    f"{_GATEWAY}server.customDomain.enabled": "true, false | `false` | the API has a host of its own",
    f"{_GATEWAY}server.customDomain.name": "host, with `{name}` or `{name:regex}` | none | other hosts get 404",
    **_each(f"{_GATEWAY}server.", "gatewayTags slug detailedTracing", NOTHING),
    f"{_GATEWAY}upstream.url": f"URL | required; may be empty | {_UPSTREAM}",
    f"{_GATEWAY}upstream.loadBalancing.enabled": "true, false | `false` | calls go to the targets",
    f"{_GATEWAY}upstream.loadBalancing.targets": "objects `url`, `weight` | none | get the calls in turn, by weight",
    f"{_GATEWAY}upstream.rateLimit.enabled": "true, false | `false` | the limit counts",
    f"{_GATEWAY}upstream.rateLimit.rate": "number | none | so many calls of all callers together; then 429",
    f"{_GATEWAY}upstream.rateLimit.per": "duration, such as `1m` | none | in this time",
    f"{_GATEWAY}upstream.authentication.enabled": NOTHING,
    f"{_GATEWAY}upstream.preserveTrailingSlash": NOTHING,
    f"{_GLOBAL}cors.enabled": "true, false | `false` | browsers may call the API from other origins",
    f"{_GLOBAL}cors.allowedOrigins": "array | none | such as `https://app.example.test`, `https://*.example.test`, `*`",
    f"{_GLOBAL}cors.allowedMethods": "array | `GET`, `POST`, `HEAD` | the methods",
    f"{_GLOBAL}cors.allowedHeaders": "array | `Accept`, `Content-Type`, `X-Requested-With` | what requests may carry",
    f"{_GLOBAL}cors.exposedHeaders": "array | none | what scripts may read of responses",
    f"{_GLOBAL}cors.allowCredentials": "true, false | `false` | with cookies; not together with `*`",
    f"{_GLOBAL}cors.maxAge": "seconds, at most 604800 | `0` | how long browsers may cache the preflight",
    f"{_GLOBAL}cors.optionsPassthrough": "true, false | `false` | the upstream answers preflights",
    f"{_GLOBAL}cors.debug": NOTHING,
    f"{_GLOBAL}transformRequestHeaders.enabled": "true, false | `false` | headers are changed for the upstream",
    f"{_GLOBAL}transformRequestHeaders.add": "array of `{name, value}` | none | added; `$tyk_meta.<key>` in a value is "
    "replaced by the metadata of client, user and policy",
    f"{_GLOBAL}transformRequestHeaders.remove": "array of names | none | removed",
    f"{_GLOBAL}requestSizeLimit": "`{enabled, value}` | none | larger bodies (bytes) get 413, those without a "
    "length 411",
    f"{_GLOBAL}ignoreCase": "`{enabled}` | none | paths of operations match in any letter case",
    f"{_GLOBAL}skipRateLimit": "true, false | `false` | the API's own rate limits do not count",
    f"{_GLOBAL}pluginConfig.driver": NOTHING,
    f"{_GLOBAL}skipQuotaReset": NOTHING,
    f"{_OPERATION}allow": f"`{{enabled, ignoreCase}}` | none | only such operations may be called: {_LISTS}",
    f"{_OPERATION}block": "`{enabled, ignoreCase}` | none | calls get 403",
    f"{_OPERATION}ignoreAuthentication": "`{enabled, ignoreCase}` | none | calls need no token",
    f"{_OPERATION}internal": "`{enabled, ignoreCase}` | none | calls from outside get 403",
    f"{_OPERATION}requestSizeLimit": "`{enabled, value}` | none | larger bodies get 413",
    f"{_OPERATION}virtualEndpoint": "`{enabled}` | none | calls get 403, since its code is not run",
    f"{_OPERATION}rateLimit": "`{enabled, rate, per}` | none | more calls of all callers together get 429",
    **_each(_OPERATION, "trackEndpoint doNotTrackEndpoint", NOTHING),
}
"""Of Tyk OAS definitions."""

_VERSION = "version_data.versions.<name>."
_PATHS = f"{_VERSION}extended_paths."


def _classic_source(prefix: str) -> dict[str, str]:
    return {
        f"{prefix}auth_header_name": "text | `Authorization` | the header with the token",
        f"{prefix}disable_header": "true, false | `false` | not in a header",
        f"{prefix}use_param": "true, false | `false` | the token may come in the query",
        f"{prefix}param_name": "text | that of the header | the name of the parameter",
        f"{prefix}use_cookie": "true, false | `false` | the token may come in a cookie",
        f"{prefix}cookie_name": "text | that of the header | the name of the cookie",
        **_each(prefix, "name signature", NOTHING),
    }


CLASSIC: Mapping[str, str] = {
    "name": "text | required | the name of the API",
    "api_id": "text | made at import | the API's id; also a path under which it is reached",
    "org_id": "text | none | kept and shown",
    "active": "true, false | `true` | `false`: the API is not served",
    "internal": "true, false | `false` | `true`: calls from outside get 404",
    "expiration": "`2030-01-31 23:59`, UTC | none | calls are refused with 403 afterwards, if there are no versions",
    "tokenwire": "object | none | the extension, see above",
    "use_keyless": "true, false | `false` | the API is open to everyone",
    "use_oauth2": "true, false | `false` | the API issues tokens",
    "use_standard_auth": "true, false | `true` without another method | accepts tokens that another API issued (Auth "
    "Token)",
    "strip_auth_data": "true, false | `false` | the upstream does not get the token",
    "oauth_meta.allowed_access_types": "array of grant types | required with `use_oauth2` | enables "
    "`authorization_code`, `client_credentials`, `password`, `refresh_token`",
    "oauth_meta.allowed_authorize_types": "array of `code`, `token` | `code` | a list without `code` takes the grant "
    "`authorization_code` away",
    "oauth_meta.auth_login_redirect": "URL | none | the login page, to which `/oauth/authorize` sends the browser",
    "notifications.oauth_on_keychange_url": "URL | none | where webhooks go ([guide](../guides/webhook-receiver.md))",
    "notifications.shared_secret": "text | none | the secret in `X-Tyk-Shared-Secret`, and of the signature",
    **_classic_source("auth_configs.oauth."),
    **_classic_source("auth_configs.authToken."),
    "auth": "object | none | the same for Auth Token, if there is no `auth_configs.authToken`",
    "CORS": "object | none | as `cors` of Tyk OAS: `enable`, `allowed_origins`, `allowed_methods`, `allowed_headers`, "
    "`exposed_headers`, `allow_credentials`, `max_age`, `options_passthrough`",
    "domain": "host | none | other hosts get 404",
    "domain_disabled": "true, false | `false` | `domain` does not count",
    "enable_ip_whitelisting": "true, false | `true` with `allowed_ips` | `allowed_ips` counts",
    "allowed_ips": "array of addresses and networks | everyone | others get 403",
    "enable_ip_blacklisting": "true, false | `true` with `blacklisted_ips` | `blacklisted_ips` counts",
    "blacklisted_ips": "array of addresses and networks | none | these get 403",
    "ip_access_control_disabled": "true, false | `false` | neither list counts",
    "global_rate_limit": "`{rate, per}` | none | so many calls of all callers together, in so many seconds; then 429",
    "disable_rate_limit": "true, false | `false` | the API's own rate limits do not count",
    "proxy.listen_path": "text | required | the path of the API on the edge, such as `/orders/`",
    "proxy.target_url": f"URL | none | {_UPSTREAM}",
    "proxy.target_list": "URLs | none | with `enable_load_balancing`, get the calls in turn",
    "proxy.strip_listen_path": "true, false | `false` | the upstream gets the path without it",
    **_each("proxy.", "enable_load_balancing disable_strip_slash check_host_against_uptime_tests", NOTHING),
    "proxy.transport.ssl_force_common_name_check": NOTHING,
    "definition": "object | none | where a call names its version: `location` (`header`, `url-param`, `url`), `key`, "
    "and `fallback_to_default`",
    "version_data.not_versioned": "true, false | `true` | the API has no versions",
    "version_data.default_version": "text | none | the version of calls that name none",
    f"{_VERSION}name": NOTHING,
    f"{_VERSION}expires": "`2030-01-31 23:59`, UTC | none | calls of this version are refused with 403 afterwards",
    f"{_VERSION}use_extended_paths": "true, false | `true` with `extended_paths` | it counts, not `paths`",
    f"{_VERSION}paths.ignored": "array of paths | none | calls need no token",
    f"{_VERSION}paths.white_list": f"array of paths | none | only these may be called: {_LISTS}",
    f"{_VERSION}paths.black_list": "array of paths | none | calls get 403",
    f"{_PATHS}ignored": "array of `{path, method}` | none | calls need no token; only with `use_extended_paths: true`",
    f"{_PATHS}white_list": f"array of `{{path, method}}` | none | only these may be called: {_LISTS}",
    f"{_PATHS}black_list": "array of `{path, method}` | none | calls get 403",
    f"{_PATHS}internal": "array of `{path, method}` | none | calls from outside get 403",
    f"{_PATHS}virtual": "array of `{path, method}` | none | calls get 403, since its code is not run",
    f"{_PATHS}size_limits": "array of `{path, method, size_limit}` | none | larger bodies (bytes) get 413",
    f"{_PATHS}rate_limit": "array of `{path, method, rate, per}` | none | more calls of all callers together get 429",
    **_each(_PATHS, "track_endpoints do_not_track_endpoints", NOTHING),
    f"{_VERSION}global_headers": "object | none | headers that are added for the upstream; `$tyk_meta.<key>` in a "
    "value is replaced by metadata",
    f"{_VERSION}global_headers_remove": "array of names | none | headers that are removed",
    f"{_VERSION}global_headers_disabled": "true, false | `false` | `global_headers` does not count",
    f"{_VERSION}global_size_limit": "bytes | none | larger bodies get 413, those without a length 411",
    f"{_VERSION}global_size_limit_disabled": "true, false | `false` | `global_size_limit` does not count",
    f"{_VERSION}ignore_endpoint_case": "true, false | `false` | paths match in any letter case",
    **_each(_VERSION, "global_response_headers_disabled global_enforce_timeout_disabled", NOTHING),
    "session_lifetime": f"seconds | none | {_SESSIONS}",
    "session_lifetime_respects_key_expiration": "true, false | `false` | `true`: `session_lifetime` does not count",
    **_each("custom_middleware.", "driver id_extractor", NOTHING),
    **_each(
        "",
        "custom_middleware_bundle_disabled upstream_certificates_disabled certificate_pinning_disabled "
        "session_lifetime_disabled config_data_disabled do_not_track "
        "detailed_tracing error_overrides_disabled basic_auth openid_options client_certificates scopes "
        "jwt_signing_method jwt_source jwt_jwks_uris jwt_identity_base_field jwt_client_base_field "
        "jwt_identit_base_field jwt_policy_field_name jwt_default_policies jwt_skip_kid jwt_issued_at_validation_skew "
        "jwt_expires_at_validation_skew jwt_not_before_validation_skew jwt_scope_to_policy_mapping "
        "jwt_scope_claim_name idp_client_id_mapping_disabled hmac_allowed_clock_skew hmac_allowed_algorithms id _id "
        "slug tags tags_disabled base_identity_provided_by auth_provider session_provider dont_set_quota_on_create "
        "expire_analytics_after is_oas security_requirements security_requirement_scopes created_at updated_at "
        "jwt_disable_issued_at_validation jwt_disable_expires_at_validation hook_references "
        "jwt_disable_not_before_validation disable_expire_analytics version_name last_updated user_owners "
        "user_group_owners is_site",
        NOTHING,
    ),
}
"""Of Tyk Classic definitions."""
