"""What one record says of others must be there: a typo would silently grant nothing."""

from collections.abc import Iterable

from libs.http.errors import BadRequest
from libs.store.apis import Apis
from libs.store.policies import Policies


async def require_policies(policies: Policies, policy_ids: Iterable[str]) -> None:
    """Raises BadRequest that names the first policy that does not exist."""
    if unknown := await policies.first_unknown(policy_ids):
        raise BadRequest(f"there is no policy '{unknown}'")


async def require_apis(apis: Apis, api_ids: Iterable[str]) -> None:
    """Raises BadRequest that names the first API that does not exist."""
    if unknown := await apis.first_unknown(api_ids):
        raise BadRequest(f"access_rights: there is no API '{unknown}'")
