"""Checks that referenced records exist: with a typo, a policy or client would silently grant nothing."""

from collections.abc import Iterable, Sequence

from libs.http.error_responses import BadRequest
from libs.store.apis import Apis
from libs.store.policies import Policies


async def require_policies(policies: Policies, policy_ids: Iterable[str]) -> None:
    """Raises BadRequest naming the first of these policies that does not exist."""
    if unknown := await policies.first_unknown(policy_ids):
        raise BadRequest(f"there is no policy '{unknown}'")


async def unknown_apis(apis: Apis, api_ids: Iterable[str]) -> Sequence[str]:
    """A warning for each of these APIs that does not exist (yet)."""
    wanted = list(api_ids)
    known = await apis.living(wanted)
    return [
        f"access_rights.{api_id}: there is no such API; it grants nothing until there is"
        for api_id in wanted
        if api_id not in known
    ]
