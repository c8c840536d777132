"""Product code uses no private name of a library outside the files that `deploy.check_private_attributes` lists."""

import pytest

from deploy.check_private_attributes import FENCES, check, main


def test_the_product_uses_private_names_only_in_listed_files(capsys: pytest.CaptureFixture[str]) -> None:
    """The check passes on this tree; what it prints otherwise names file, line and attribute."""
    status = main()
    assert (status, capsys.readouterr().err) == (0, "")
    assert all(FENCES.values()), "every fence gives its reason"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        pytest.param("from aiohttp.web_protocol import _ErrInfo", ["aiohttp.web_protocol._ErrInfo"], id="private-name"),
        pytest.param("import aiohttp._websocket.reader", ["aiohttp._websocket.reader"], id="private-module"),
        pytest.param("def f(answer):\n    return answer._protocol", ["_protocol"], id="attribute"),
        pytest.param("def f(answer):\n    return getattr(answer, '_protocol')", ["_protocol"], id="getattr"),
        pytest.param(
            "from aiohttp import web\nclass A(web.Response):\n    def f(self):\n        return self._body",
            ["_body"],
            id="inherited-attribute",
        ),
        pytest.param(
            "from aio_pika import Connection\nclass A(Connection): ...\nclass B(A):\n    def _tokenwire(self): ...",
            [],
            id="own-name-in-a-subclass",
        ),
        pytest.param(
            "from aiohttp import web\nclass A(web.Response): ...\nclass B(A):\n    async def _start(self): ...",
            ["_start"],
            id="override-in-a-subclass-of-a-subclass",
        ),
        pytest.param(
            "class Own:\n    def __init__(self):\n        self._x = 1\ndef f(own):\n    return own._x, own.__class__",
            [],
            id="own-class",
        ),
    ],
)
def test_the_check_finds(source: str, found: list[str]) -> None:
    """Every way to a private name that the check knows, and nothing that is the product's own."""
    assert [finding.name for _, finding in check({"libs/example.py": source})] == found
