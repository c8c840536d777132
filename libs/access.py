"""Operators at the door: whose key a management request carries, and what it opens."""

from aiohttp import web

from contracts.operators import Operator, Permission
from libs.catalog import Catalog
from libs.http.errors import NotAuthenticated, NotPermitted

_LONGEST_KEY = 512


class Access:
    """Checks operator keys against the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def require(self, request: web.Request, permission: Permission) -> Operator:
        """The operator whose key is in `Authorization` (a `Bearer ` prefix is accepted).

        Raises NotAuthenticated, or NotPermitted where the operator has neither this permission nor `admin`.
        """
        operator = await self.holder(request)
        if operator is None:
            raise NotAuthenticated("Not authorised")
        if not permits(operator, permission):
            raise NotPermitted(f"You don't have access to this: the permission '{permission}' is missing")
        return operator

    async def holder(self, request: web.Request) -> Operator | None:
        """The operator whose key the request carries, if any."""
        key = request.headers.get("Authorization", "")
        if key[:7].lower() == "bearer ":
            key = key[7:].strip()
        return await self._catalog.operator(key) if 0 < len(key) <= _LONGEST_KEY else None


def permits(operator: Operator, permission: Permission) -> bool:
    """Whether the operator may do this; `admin` may do everything."""
    return permission in operator.permissions or Permission.ADMIN in operator.permissions
