"""The members of a Tyk Classic definition: which are used here, which are not, and which must not be ignored."""

from libs.tyk.members import FORGEABLE, KNOWN, Each, Members, Refused, Unused, When

_OTHER_METHOD = Refused("a second authentication method, which a call would have to pass besides the token")
_CODE = Refused("code that may check or change calls; nothing runs it here")
_VALIDATION = Refused("request validation")
_CERTIFICATES = Refused("client certificates (mutual TLS)")
_UPSTREAM = Unused("not used; the upstream gets calls without it, and has to refuse or admit them itself")
_REPLY = Unused("mock responses are not offered; such calls go to the upstream")
_HEADERS = Unused(f"headers of single endpoints are not set, only those of global_headers; {FORGEABLE}")
_ANALYTICS = Unused("not used; the gateway counts calls by itself (docs/management.md, Usage)")
_all = dict.fromkeys
"""Members of the same kind."""

_HOOKS = Members(
    {
        "pre": Each(_CODE),
        "post": Each(_CODE),
        "post_key_auth": Each(_CODE),
        "auth_check": _CODE,
        "response": Unused("code that changes responses is not run"),
        "traffic_logs": _ANALYTICS,
        "driver": KNOWN,
        "id_extractor": KNOWN,
    }
)

_EXTENDED_PATHS = Members(
    {
        **_all(("ignored", "white_list", "black_list", "internal", "size_limits", "rate_limit"), KNOWN),
        "validate_json": Each(_VALIDATION),
        "validate_request": Each(_VALIDATION),
        "go_plugin": Each(_CODE),
        "virtual": KNOWN,
        "persist_graphql": Each(Unused("stored GraphQL queries are not offered; such calls go to the upstream")),
        "mock_response": Each(_REPLY),
        "cache": Unused("responses are not cached"),
        "advance_cache_config": Each(Unused("responses are not cached")),
        "transform": Each(Unused("bodies are not transformed")),
        "transform_response": Each(Unused("bodies are not transformed")),
        "transform_jq": Each(Unused("bodies are not transformed")),
        "transform_jq_response": Each(Unused("bodies are not transformed")),
        "transform_headers": Each(_HEADERS),
        "transform_response_headers": Each(Unused("response headers are not changed")),
        "hard_timeouts": Each(Unused("not used; TOKENWIRE_UPSTREAM_TIMEOUT holds for every call")),
        "circuit_breakers": Each(Unused("the proxy has no circuit breaker")),
        "url_rewrites": Each(Unused("paths are not rewritten")),
        "method_transforms": Each(Unused("methods are not changed")),
        "track_endpoints": KNOWN,
        "do_not_track_endpoints": KNOWN,
    }
)

_VERSION = Members(
    {
        "name": KNOWN,
        "expires": KNOWN,
        "paths": Members(_all(("ignored", "white_list", "black_list"), KNOWN)),
        "use_extended_paths": KNOWN,
        "extended_paths": When("use_extended_paths", True, _EXTENDED_PATHS, default=True),
        "global_headers": KNOWN,
        "global_headers_remove": KNOWN,
        "global_headers_disabled": KNOWN,
        "global_response_headers": When(
            "global_response_headers_disabled", False, Unused("response headers are not changed")
        ),
        "global_response_headers_remove": When(
            "global_response_headers_disabled", False, Unused("response headers are not changed")
        ),
        "global_response_headers_disabled": KNOWN,
        "ignore_endpoint_case": KNOWN,
        "global_size_limit": KNOWN,
        "global_size_limit_disabled": KNOWN,
        "global_enforce_timeout": When("global_enforce_timeout_disabled", False, Unused()),
        "global_enforce_timeout_disabled": KNOWN,
        "override_target": Unused("every version goes to proxy.target_url"),
    }
)

_PROXY = Members(
    {
        "listen_path": KNOWN,
        "target_url": KNOWN,
        "strip_listen_path": KNOWN,
        "enable_load_balancing": KNOWN,
        "target_list": KNOWN,
        "preserve_host_header": Unused("the upstream gets its own host, and the caller's in X-Forwarded-Host"),
        "disable_strip_slash": KNOWN,
        "check_host_against_uptime_tests": KNOWN,
        "service_discovery": Members({"use_discovery_service": Unused("service discovery is not offered")}, rest=True),
        "transport": Members(
            {
                "ssl_insecure_skip_verify": Unused("certificates of upstreams are always verified"),
                "ssl_ciphers": Unused(),
                "ssl_min_version": Unused(),
                "ssl_max_version": Unused(),
                "ssl_force_common_name_check": KNOWN,
                "proxy_url": Unused("upstreams are reached directly"),
            }
        ),
    }
)

_AUTH_CONFIG = Members(
    {
        "name": KNOWN,
        "auth_header_name": KNOWN,
        "disable_header": KNOWN,
        "use_param": KNOWN,
        "param_name": KNOWN,
        "use_cookie": KNOWN,
        "cookie_name": KNOWN,
        "use_certificate": _CERTIFICATES,
        "validate_signature": Refused("a signature of the token that a call must carry"),
        "signature": KNOWN,
    }
)

CLASSIC = Members(
    {
        **_all(
            ("name", "api_id", "org_id", "active", "internal", "use_keyless", "use_oauth2", "use_standard_auth"), KNOWN
        ),
        **_all(("strip_auth_data", "CORS", "definition", "auth", "tokenwire", "domain", "domain_disabled"), KNOWN),
        **_all(("enable_ip_whitelisting", "allowed_ips", "enable_ip_blacklisting", "blacklisted_ips"), KNOWN),
        **_all(("ip_access_control_disabled", "global_rate_limit", "disable_rate_limit", "expiration"), KNOWN),
        "oauth_meta": Members(_all(("allowed_access_types", "allowed_authorize_types", "auth_login_redirect"), KNOWN)),
        "notifications": Members(_all(("shared_secret", "oauth_on_keychange_url"), KNOWN)),
        "auth_configs": Members(
            {
                "oauth": _AUTH_CONFIG,
                "authToken": _AUTH_CONFIG,
            },
            rest=True,
        ),
        "proxy": _PROXY,
        "version_data": Members(
            {"not_versioned": KNOWN, "default_version": KNOWN, "versions": Each(_VERSION)},
        ),
        # Other methods: Tyk asks for each that is on, one after the other.
        **_all(
            (
                "use_basic_auth",
                "use_openid",
                "use_go_plugin_auth",
                "enable_jwt",
                "enable_signature_checking",
                "enable_coprocess_auth",
                "custom_plugin_auth_enabled",
            ),
            When("use_keyless", False, _OTHER_METHOD),
        ),
        "use_mutual_tls_auth": _CERTIFICATES,
        "external_oauth": When("use_keyless", False, Members({"enabled": _OTHER_METHOD}, rest=True)),
        "custom_middleware": _HOOKS,
        "custom_middleware_bundle": When("custom_middleware_bundle_disabled", False, _CODE),
        "custom_middleware_bundle_disabled": KNOWN,
        "graphql": Members({"enabled": Refused("the checks of a GraphQL API (schema, depth, fields)")}, rest=True),
        "json_rpc_version": Refused("the checks of a JSON-RPC API"),
        "upstream_auth": _UPSTREAM,
        "upstream_certificates": When("upstream_certificates_disabled", False, _UPSTREAM),
        "upstream_certificates_disabled": KNOWN,
        "pinned_public_keys": When(
            "certificate_pinning_disabled", False, Refused("pinned public keys of the upstream")
        ),
        "certificate_pinning_disabled": KNOWN,
        "request_signing": Members({"is_enabled": _UPSTREAM}, rest=True),
        # Switches and settings of what Tyk does besides.
        "disable_quota": Unused("quotas of policies still apply"),
        "session_lifetime": KNOWN,
        "session_lifetime_respects_key_expiration": KNOWN,
        "session_lifetime_disabled": KNOWN,
        "enable_batch_request_support": Unused("batches are not offered"),
        "cache_options": Members({"enable_cache": Unused("responses are not cached")}, rest=True),
        "event_handlers": Members({"events": Unused("events go to the bus (docs/architecture.md)")}, rest=True),
        "response_processors": Unused("responses are not changed"),
        "uptime_tests": Members({"check_list": Unused("upstreams are not probed")}, rest=True),
        "listen_port": Unused("every API is served on the gateway's port"),
        "protocol": Unused("every API is served over HTTP; TLS ends in front of the gateway"),
        "enable_proxy_protocol": Unused("the PROXY protocol is not spoken"),
        "application_protocol": Unused(),
        "certificates": Unused("TLS ends in front of the gateway"),
        "config_data": When("config_data_disabled", False, Unused("data for code that nothing runs here")),
        "config_data_disabled": KNOWN,
        "tag_headers": _ANALYTICS,
        "enable_detailed_recording": _ANALYTICS,
        "do_not_track": KNOWN,
        "analytics_plugin": Members({"enable": _ANALYTICS}, rest=True),
        "detailed_tracing": KNOWN,
        "enable_context_vars": Unused("only $tyk_meta is replaced in headers"),
        "error_overrides": When("error_overrides_disabled", False, Unused("error bodies are not changed")),
        "error_overrides_disabled": KNOWN,
        # Settings of methods and parts whose switches are above, and what only describes the API.
        **_all(("basic_auth", "openid_options", "client_certificates", "scopes", "jwt_signing_method"), KNOWN),
        **_all(("jwt_source", "jwt_jwks_uris", "jwt_identity_base_field", "jwt_client_base_field"), KNOWN),
        **_all(("jwt_identit_base_field", "jwt_policy_field_name", "jwt_default_policies", "jwt_skip_kid"), KNOWN),
        **_all(("jwt_issued_at_validation_skew", "jwt_expires_at_validation_skew"), KNOWN),
        **_all(("jwt_not_before_validation_skew", "jwt_scope_to_policy_mapping", "jwt_scope_claim_name"), KNOWN),
        **_all(("idp_client_id_mapping_disabled", "hmac_allowed_clock_skew", "hmac_allowed_algorithms"), KNOWN),
        **_all(("id", "_id", "slug", "tags", "tags_disabled", "base_identity_provided_by", "auth_provider"), KNOWN),
        **_all(("session_provider", "dont_set_quota_on_create", "expire_analytics_after", "is_oas"), KNOWN),
        **_all(("security_requirements", "security_requirement_scopes", "created_at", "updated_at"), KNOWN),
        **_all(("jwt_disable_issued_at_validation", "jwt_disable_expires_at_validation", "hook_references"), KNOWN),
        **_all(("jwt_disable_not_before_validation", "disable_expire_analytics"), KNOWN),
        **_all(("version_name", "last_updated", "user_owners", "user_group_owners", "is_site"), KNOWN),
    }
)
"""Of the definition itself."""
