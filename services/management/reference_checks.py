"""Checks that referenced records exist: with a typo, a policy or client would silently grant nothing."""

from collections.abc import Iterable

from libs.http.error_responses import BadRequest
from libs.store.apis import Apis
from libs.store.policies import Policies


async def require_policies(policies: Policies, policy_ids: Iterable[str]) -> None:
    """Raises BadRequest naming the first of these policies that does not exist."""
    if unknown := await policies.first_unknown(policy_ids):
        raise BadRequest(f"there is no policy '{unknown}'")


async def require_apis(apis: Apis, api_ids: Iterable[str]) -> None:
    """Raises BadRequest naming the first of these APIs that does not exist."""
    if unknown := await apis.first_unknown(api_ids):
        raise BadRequest(f"access_rights: there is no API '{unknown}'")
