"""Redirect URIs: registered and matched exactly, but for the port on the loopback interface."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.oauth.errors import InvalidRequest
from libs.oauth.redirect_uris import check_registrable, match_redirect_uri, with_query, with_raw_query

APP = "https://app.example.test/callback"
LOOPBACK = "http://127.0.0.1/callback"


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param(APP, id="https"),
        pytest.param("http://app.example.test/callback", id="http"),
        pytest.param("https://app.example.test", id="no-path"),
        pytest.param("https://app.example.test:8443/cb?tenant=1&x=%2F", id="port-and-query"),
        pytest.param("http://127.0.0.1:5000/cb", id="loopback"),
        pytest.param("http://[::1]/cb", id="loopback-ipv6"),
        pytest.param("com.example.app:/callback", id="private-use-scheme"),
        pytest.param("com.example.app:///callback", id="private-use-scheme-empty-authority"),
        pytest.param("COM.Example.App:/callback", id="private-use-scheme-upper-case"),
    ],
)
def test_an_absolute_uri_may_be_registered(uri: str) -> None:
    """Web and native clients register theirs, which are kept as they are spelled."""
    assert check_registrable(uri) == uri


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        pytest.param("", "printable ASCII", id="empty"),
        pytest.param("/callback", "private-use", id="relative"),
        pytest.param("app.example.test/callback", "private-use", id="no-scheme"),
        pytest.param("https:///callback", "host", id="no-host"),
        pytest.param("https://", "host", id="scheme-alone"),
        pytest.param(f"{APP}#", "fragment", id="empty-fragment"),
        pytest.param(f"{APP}#top", "fragment", id="fragment"),
        pytest.param("https://user@app.example.test/", "user information", id="user"),
        pytest.param("https://user:password@app.example.test/", "user information", id="password"),
        pytest.param("https://app.example.test@evil.example.test/", "user information", id="user-like-a-host"),
        pytest.param("https://app.example.test:port/", "absolute", id="port-no-number"),
        pytest.param("https://app.example.test:99999/", "absolute", id="port-out-of-range"),
        pytest.param("https://[::1/", "absolute", id="bracket"),
        pytest.param("javascript:alert(1)", "private-use", id="javascript"),
        pytest.param("data:text/html,x", "private-use", id="data"),
        pytest.param("urn:ietf:wg:oauth:2.0:oob", "private-use", id="out-of-band"),
        pytest.param("myapp:/callback", "private-use", id="scheme-without-dot"),
        pytest.param("https://app.example.test\\@evil.example.test/", "backslash", id="backslash"),
        pytest.param("https://app.example.test/a b", "spaces", id="space"),
        pytest.param(f"{APP}\r\nLocation: x", "printable ASCII", id="line-break"),
        pytest.param("https://app.example.test/é", "printable ASCII", id="not-ascii"),
        pytest.param("https://app.example.test/\0", "printable ASCII", id="nul"),
        pytest.param(f"{APP}?{'a' * 2048}", "2048", id="endless"),
    ],
)
def test_what_cannot_be_a_redirect_uri_is_refused_at_registration(uri: str, says: str) -> None:
    """A mistake, or an open door, is said when the client is registered, not when a user comes by."""
    with pytest.raises(ValueError, match=says):
        check_registrable(uri)


def test_the_requested_uri_is_used_where_it_is_registered() -> None:
    """One of several, named exactly."""
    assert match_redirect_uri(APP, ["https://other.example.test/", APP]) == APP


@pytest.mark.parametrize("requested", [None, ""], ids=["absent", "empty"])
def test_the_only_one_need_not_be_named(requested: str | None) -> None:
    """RFC 6749 §3.1.2.3: a client with one registered URI may leave it out."""
    assert match_redirect_uri(requested, [APP]) == APP


@pytest.mark.parametrize(
    ("requested", "registered", "says"),
    [
        pytest.param(None, [], "no redirect URI", id="client-has-none"),
        pytest.param(APP, [], "no redirect URI", id="client-has-none-and-names-one"),
        pytest.param(None, [APP, LOOPBACK], "several", id="several-and-none-named"),
        pytest.param("https://evil.example.test/", [APP], "not registered", id="other"),
    ],
)
def test_a_missing_match_says_why(requested: str | None, registered: list[str], says: str) -> None:
    """Until the URI is proven the browser stays here, so the answer must tell the client's developer."""
    with pytest.raises(InvalidRequest) as refused:
        match_redirect_uri(requested, registered)
    assert says in refused.value.description


@pytest.mark.parametrize(
    "requested",
    [
        pytest.param(f"{APP}/", id="slash-more"),
        pytest.param(APP[:-1], id="prefix"),
        pytest.param(f"{APP}-evil", id="registered-is-its-prefix"),
        pytest.param(f"{APP}/../evil", id="dots"),
        pytest.param(f"{APP}?a=1", id="query-more"),
        pytest.param(f"{APP}#", id="fragment"),
        pytest.param(APP.upper(), id="upper-case"),
        pytest.param(APP.replace("https", "http"), id="other-scheme"),
        pytest.param(APP.replace("app.example.test", "app.example.test:443"), id="default-port-spelled"),
        pytest.param(APP.replace("app.", "evil@app."), id="user-information"),
        pytest.param(APP.replace("callback", "%63allback"), id="escaped-letter"),
        pytest.param(f" {APP}", id="space-before"),
    ],
)
def test_matching_is_exact(requested: str) -> None:
    """RFC 9700 §4.1.3: exact string matching; nothing is normalised, no prefix is enough."""
    with pytest.raises(InvalidRequest):
        match_redirect_uri(requested, [APP])


@pytest.mark.parametrize(
    ("requested", "registered"),
    [
        pytest.param("http://127.0.0.1:51004/callback", LOOPBACK, id="port-more"),
        pytest.param("http://127.0.0.1/callback", "http://127.0.0.1:51004/callback", id="port-less"),
        pytest.param("http://127.0.0.1:1/callback", "http://127.0.0.1:2/callback", id="other-port"),
        pytest.param("http://[::1]:51004/callback", "http://[::1]/callback", id="ipv6"),
        pytest.param("http://127.0.0.1:9/cb?a=1", "http://127.0.0.1/cb?a=1", id="same-query"),
    ],
)
def test_a_native_client_may_listen_on_any_port(requested: str, registered: str) -> None:
    """RFC 8252 §7.3: on the loopback interface the port is the operating system's choice."""
    assert match_redirect_uri(requested, [registered]) == requested


@pytest.mark.parametrize(
    ("requested", "registered"),
    [
        pytest.param("http://127.0.0.1:9/other", LOOPBACK, id="other-path"),
        pytest.param("http://127.0.0.1:9/callback?a=1", LOOPBACK, id="query-more"),
        pytest.param("http://127.0.0.1:9/callback#a", LOOPBACK, id="fragment"),
        pytest.param("https://127.0.0.1:9/callback", LOOPBACK, id="https"),
        pytest.param("http://[::1]:9/callback", LOOPBACK, id="other-interface"),
        pytest.param("http://localhost:9/callback", "http://localhost/callback", id="localhost-is-a-name"),
        pytest.param("http://127.0.0.1.evil.example.test:9/callback", LOOPBACK, id="host-that-begins-so"),
        pytest.param("http://127.0.0.1@evil.example.test/callback", LOOPBACK, id="user-like-loopback"),
        pytest.param("http://evil@127.0.0.1:9/callback", LOOPBACK, id="user-information"),
        pytest.param("http://127.0.0.1:99999/callback", LOOPBACK, id="port-out-of-range"),
        pytest.param("http://127.0.0.1:x/callback", LOOPBACK, id="port-no-number"),
        pytest.param("http://127.0.0.1:9\\@evil.example.test/callback", LOOPBACK, id="backslash"),
        pytest.param("http://127.0.0.1:9/call\tback", LOOPBACK, id="tab-that-parsers-drop"),
        pytest.param("http://127.0.0.1:9/callback\n", LOOPBACK, id="line-break-that-parsers-drop"),
        pytest.param("http://app.example.test:9/callback", "http://app.example.test/callback", id="not-loopback"),
    ],
)
def test_only_the_port_is_free(requested: str, registered: str) -> None:
    """The exception is for the port of the two loopback addresses, and for nothing else."""
    with pytest.raises(InvalidRequest):
        match_redirect_uri(requested, [registered])


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        pytest.param(APP, f"{APP}?code=c+1&state=%26", id="no-query"),
        pytest.param(f"{APP}?a=1", f"{APP}?a=1&code=c+1&state=%26", id="query"),
        pytest.param(f"{APP}?", f"{APP}?code=c+1&state=%26", id="empty-query"),
        pytest.param("com.example.app:///cb", "com.example.app:///cb?code=c+1&state=%26", id="empty-authority"),
        pytest.param("com.example.app:/cb", "com.example.app:/cb?code=c+1&state=%26", id="no-authority"),
    ],
)
def test_parameters_are_added_to_the_query(uri: str, expected: str) -> None:
    """RFC 6749 §4.1.2: the query that is there is retained; every other character of the URI, too."""
    assert with_query(uri, {"code": "c 1", "state": "&"}) == expected


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20), min_size=1, max_size=4))
def test_whatever_is_added_is_read_back(parameters: dict[str, str]) -> None:
    """A state of any characters comes back to the client as it was, and cannot add a parameter of its own."""
    query = urlsplit(with_query(f"{APP}?a=1", parameters)).query
    assert parse_qsl(query, keep_blank_values=True) == [("a", "1"), *parameters.items()]


@pytest.mark.parametrize(
    ("uri", "query", "expected"),
    [
        pytest.param("https://login.test/in", "a=%2F+b", "https://login.test/in?a=%2F+b", id="as-it-came"),
        pytest.param("https://login.test/in?t=1", "a=1", "https://login.test/in?t=1&a=1", id="has-a-query"),
        pytest.param("https://login.test/in#top", "a=1", "https://login.test/in?a=1#top", id="before-the-fragment"),
        pytest.param("https://login.test/in", "", "https://login.test/in", id="nothing-to-add"),
    ],
)
def test_a_query_is_passed_on_as_it_came(uri: str, query: str, expected: str) -> None:
    """The login page gets the very characters that the client sent, wherever its own URL ends."""
    assert with_raw_query(uri, query) == expected
