"""Where the webhooks of an API go, as of now."""

from contracts.apis import Notifications
from libs.catalog import Catalog


async def address_of(catalog: Catalog, api_id: str) -> Notifications | None:
    """The URL and the shared secret; None where the API is gone, or wants no webhooks any more."""
    api = await catalog.api(api_id)
    if api is None or api.oauth is None or api.oauth.notifications is None:
        return None
    return api.oauth.notifications if api.oauth.notifications.on_key_change_url else None
