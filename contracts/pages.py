"""Lists: their sizes, and the query parameters that select a page."""

from typing import Annotated

from pydantic import Field

from contracts.base import AdminRequest, Name

PAGE_SIZE = 100
"""Records per page in lists of Tyk's format."""
MOST_PAGES = 100
"""Pages that are counted and can be requested by number; the records after them are reached with `after`."""
MOST_SEARCHED = 5000
"""Records among which one request of a search looks; its `next` continues after them."""
MOST_CLIENTS_SEARCHED = 2000
"""Client apps among which one request of a search looks: their metadata has to be read."""
MOST_AT_ONCE = 500
"""Records of a list that is requested without pages."""


class PageQuery(AdminRequest):
    """Which page of a list."""

    p: int = 1
    """Page number, 1 to 100, with 100 records per page; a negative number returns the first 500 records as one page."""
    after: str | None = None
    """`next` of the previous page, instead of `p`: returns the 100 records after it. Works beyond page 100."""


class ApiQuery(PageQuery):
    """Which page of the APIs, and which of them."""

    q: Name = ""
    """Only APIs whose id, name or listen path contains this text, in any letter case; empty: all. Not with `p`. A page
    may have fewer than 100 APIs, or none, and still a `next`."""


class ClientQuery(PageQuery):
    """Which page of the client apps, and which of them."""

    q: Name = ""
    """Only client apps whose id, name, description, redirect URIs or metadata (as JSON) contain this text, in any
    letter case; empty: all. Not with `p`. A page may have fewer than 100 client apps, or none, and still a `next`."""


class TokenPageQuery(AdminRequest):
    """Which page of a client's tokens."""

    page: Annotated[int, Field(ge=1)] | None = None
    """Page number, 1 to 100, with 100 tokens per page; default: a plain list of up to 500."""
    after: str | None = None
    """The cursor of the `Link` header of the previous response, instead of `page`: the list after it."""
