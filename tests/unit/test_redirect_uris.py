"""Redirect URIs match exactly, except for the port on loopback addresses."""

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
    """Web and native clients' absolute URIs are kept as spelled."""
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
        pytest.param("https://app.example.test:port/", "port", id="port-no-number"),
        pytest.param("https://app.example.test:99999/", "port", id="port-out-of-range"),
        pytest.param("https://[::1/", "host", id="bracket"),
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
def test_an_invalid_redirect_uri_is_refused_at_registration(uri: str, says: str) -> None:
    """A wrong or dangerous URI is refused at registration."""
    with pytest.raises(ValueError, match=says):
        check_registrable(uri)


HOSTS_OF_SEVERAL_READINGS = [
    pytest.param("evil.test[::1]", id="name-before-brackets"),
    pytest.param("[::1]evil.test", id="name-behind-brackets"),
    pytest.param("[::1]:80evil.test", id="name-behind-the-port"),
    pytest.param("evil.test[::1]:80", id="name-before-brackets-and-port"),
    pytest.param("[evil.test]", id="name-in-brackets"),
    pytest.param("[::1", id="open-bracket"),
    pytest.param("::1", id="ipv6-without-brackets"),
    pytest.param("[::1%25lo]", id="zone"),
    pytest.param("[::1%lo]", id="zone-not-escaped"),
    pytest.param("[v1.x]", id="future-address"),
    pytest.param("[::ffff:127.0.0.256]", id="ipv6-with-a-bad-ipv4"),
    pytest.param("[[::1]]", id="two-brackets"),
    pytest.param("evil@127.0.0.1", id="user"),
    pytest.param("evil:x@[::1]", id="user-and-password"),
    pytest.param("@127.0.0.1", id="empty-user"),
    pytest.param("127%2E0.0.1", id="escaped-dot"),
    pytest.param("%31%32%37.0.0.1", id="escaped-digits"),
    pytest.param("evil.test%2f127.0.0.1", id="escaped-slash"),
    pytest.param("127.0.0.1%00.evil.test", id="escaped-nul"),
    pytest.param("2130706433", id="decimal-ipv4"),
    pytest.param("0x7f000001", id="hex-ipv4"),
    pytest.param("0x7f.0.0.1", id="hex-part"),
    pytest.param("127.0.0.0x1", id="hex-last-part"),
    pytest.param("017700000001", id="octal-ipv4"),
    pytest.param("0177.0.0.1", id="octal-part"),
    pytest.param("127.0.0.01", id="leading-zero"),
    pytest.param("127.1", id="short-ipv4"),
    pytest.param("127.0.1", id="three-parts"),
    pytest.param("127.0.0.256", id="part-out-of-range"),
    pytest.param("127.0.0.1.", id="ipv4-with-a-dot-at-its-end"),
    pytest.param("app.example.test.", id="name-with-a-dot-at-its-end"),
    pytest.param("app..example.test", id="empty-label"),
    pytest.param(".example.test", id="dot-at-its-start"),
    pytest.param("-app.example.test", id="hyphen-at-its-start"),
    pytest.param("app_.-.test", id="hyphen-alone"),
    pytest.param("app,example.test", id="comma"),
    pytest.param("app;example.test", id="semicolon"),
    pytest.param("a" * 64 + ".test", id="label-too-long"),
    pytest.param(".".join(["a" * 60] * 5), id="name-too-long"),
    pytest.param("127.0.0.1:", id="empty-port"),
    pytest.param("127.0.0.1:0", id="port-zero"),
    pytest.param("127.0.0.1:0080", id="port-with-leading-zeros"),
    pytest.param("127.0.0.1:+80", id="port-with-a-sign"),
    pytest.param("127.0.0.1:80:81", id="two-ports"),
    pytest.param("127.0.0.1:65536", id="port-out-of-range"),
    pytest.param("localhost:80,evil.test", id="port-and-more"),
]


@pytest.mark.parametrize("host", HOSTS_OF_SEVERAL_READINGS)
def test_a14_a_host_with_several_readings_is_refused_everywhere(host: str) -> None:
    """A host that parsers read differently is refused at registration, and never matches as loopback."""
    uri = f"http://{host}/cb"
    with pytest.raises(ValueError, match="redirect URI"):
        check_registrable(uri)
    for registered in ("http://127.0.0.1/cb", "http://[::1]/cb", "http://localhost/cb", uri):
        with pytest.raises(InvalidRequest):
            match_redirect_uri(uri, [registered], localhost_any_port=True)
    with pytest.raises(InvalidRequest):
        match_redirect_uri(None, [uri])
    with pytest.raises(InvalidRequest):
        match_redirect_uri("http://127.0.0.1:5000/cb", [uri])


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:65535",
        "[2001:db8::1]:8443",
        "[::ffff:127.0.0.1]",
        "xn--bcher-kva.test",
        "my_app.example.test",
        "10.1.2.3",
    ],
)
def test_a14_a_plain_host_is_registered_and_matched_exactly(host: str) -> None:
    """Hosts with one spelling are registered and match exactly."""
    uri = f"http://{host}/cb"
    assert match_redirect_uri(uri, [check_registrable(uri)]) == uri


@given(st.text(st.sampled_from("http:/.[]@:1x0%#?e"), max_size=24))
def test_a14_whatever_is_registrable_names_the_host_that_a_browser_reads(text: str) -> None:
    """A registered URI's host is exactly the text between `//` and the next slash, question mark or port."""
    uri = f"http://{text}"
    try:
        check_registrable(uri)
    except ValueError:
        return
    authority = text.replace("?", "/").partition("/")[0]
    assert urlsplit(uri).netloc == authority
    assert "@" not in authority


@pytest.mark.parametrize(
    ("requested", "registered", "allowed"),
    [
        pytest.param("http://localhost:5000/cb", "http://localhost/cb", True, id="other-port"),
        pytest.param("http://localhost/cb", "http://localhost:8080/cb", True, id="no-port"),
        pytest.param("http://localhost:5000/cb?a=1", "http://localhost/cb", False, id="query-more"),
        pytest.param("http://localhost:5000/other", "http://localhost/cb", False, id="other-path"),
        pytest.param("https://localhost:5000/cb", "https://localhost/cb", False, id="https"),
        pytest.param("http://127.0.0.1:5000/cb", "http://localhost/cb", False, id="address-for-the-name"),
        pytest.param("http://localhost:5000/cb", "http://127.0.0.1/cb", False, id="name-for-the-address"),
        pytest.param("http://localhost.:5000/cb", "http://localhost/cb", False, id="dot-at-its-end"),
        pytest.param("http://localhost.evil.test:5000/cb", "http://localhost/cb", False, id="name-that-begins-so"),
    ],
)
def test_d13_the_port_of_localhost_is_free_only_for_clients_that_say_so(
    requested: str, registered: str, allowed: bool
) -> None:
    """Without the client's option, the port of localhost must match."""
    with pytest.raises(InvalidRequest):
        match_redirect_uri(requested, [registered])
    if allowed:
        assert match_redirect_uri(requested, [registered], localhost_any_port=True) == requested
    else:
        with pytest.raises(InvalidRequest):
            match_redirect_uri(requested, [registered], localhost_any_port=True)


def test_the_requested_uri_is_used_where_it_is_registered() -> None:
    """The requested URI is used if it is one of the registered ones."""
    assert match_redirect_uri(APP, ["https://other.example.test/", APP]) == APP


@pytest.mark.parametrize("requested", [None, ""], ids=["absent", "empty"])
def test_the_only_one_need_not_be_named(requested: str | None) -> None:
    """RFC 6749 §3.1.2.3: a single registered URI may be omitted."""
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
    """A mismatch is explained, because the developer sees only this page."""
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
    """RFC 9700 §4.1.3: exact string matching, without normalisation or prefixes."""
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
    """RFC 8252 §7.3: any port on a loopback address."""
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
    """Only the port of the two loopback addresses is free."""
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
    """RFC 6749 §4.1.2: the existing query and all other characters are kept."""
    assert with_query(uri, {"code": "c 1", "state": "&"}) == expected


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20), min_size=1, max_size=4))
def test_whatever_is_added_is_read_back(parameters: dict[str, str]) -> None:
    """A state of any characters survives, and cannot add parameters."""
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
    """The login page gets the client's query unchanged, whatever its own URL is."""
    assert with_raw_query(uri, query) == expected
