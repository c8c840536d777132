"""What a policy of Tyk's says without an effect is named, since it would restrict calls there."""

from typing import Any

import pytest

from libs.tyk.policy_notes import policy_notes

RIGHT = {"api_id": "orders", "versions": ["Default"], "allowed_urls": [], "limit": None}
LIMITED = [{"path": "/a", "methods": [{"name": "GET", "limit": {"rate": 1, "per": 60}}]}]


@pytest.mark.parametrize(
    ("policy", "beginnings"),
    [
        pytest.param({"rate": 5, "per": 1, "access_rights": {"orders": RIGHT}}, [], id="nothing"),
        pytest.param({"throttle_interval": 2}, ["throttle_interval: "], id="throttling"),
        pytest.param({"throttle_interval": -1, "max_query_depth": -1, "hmac_enabled": False}, [], id="not-set"),
        pytest.param({"max_query_depth": 3}, ["max_query_depth: "], id="depth"),
        pytest.param(
            {"access_rights": {"orders": {**RIGHT, "endpoints": LIMITED}}},
            [],
            id="endpoints",
        ),
        pytest.param(
            {
                "access_rights": {
                    "orders": {
                        "endpoints": [
                            {"path": "/a", "methods": None},
                            {"path": "/b", "methods": [{"name": "GET", "limit": {"rate": 5}}, {"name": "PUT"}]},
                        ]
                    }
                }
            },
            [
                "access_rights.orders.endpoints.0: names no method",
                "access_rights.orders.endpoints.1: a limit of GET has no period",
                "access_rights.orders.endpoints.1: PUT has no limit there",
            ],
            id="idle-endpoints",
        ),
        pytest.param(
            {"access_rights": {"orders": {**RIGHT, "restricted_types": [{"name": "Q", "fields": ["a"]}]}}},
            ["access_rights.orders.restricted_types: "],
            id="graphql",
        ),
        pytest.param({"access_rights": {"orders": {**RIGHT, "endpoints": [], "allowed_types": None}}}, [], id="empty"),
        pytest.param({"access_rights": [RIGHT]}, [], id="no-mapping"),
    ],
)
def test_c1_a_restriction_without_effect_is_named(policy: dict[str, Any], beginnings: list[str]) -> None:
    """With its path; zero values and Tyk's -1 say nothing."""
    notes = policy_notes(policy)
    assert len(notes) == len(beginnings)
    assert all(note.startswith(beginning) for note, beginning in zip(notes, beginnings, strict=True))
