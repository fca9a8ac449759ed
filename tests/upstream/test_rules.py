"""Who serves what for whom; what goes out, what comes back. Tables and properties, no network."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Secret, UpstreamSection
from gateway.errors import InvalidAPIKey, ModelNotFound, UnknownURL, UpstreamNotAllowed
from gateway.exchange import Caller, CallerKind
from gateway.upstream import rules
from gateway.upstream.echo import EchoUpstream
from gateway.upstream.headers import DROPPED, is_loop, request_headers, response_headers, via_entry

A, I, P = CallerKind.ANONYMOUS, CallerKind.ISSUED, CallerKind.PASSTHROUGH  # noqa: E741


def section(**settings: object) -> UpstreamSection:
    given = {"name": "u", "base_url": "https://api.example.com/v1", **settings}
    return UpstreamSection(**given)  # type: ignore[arg-type]


def access(**settings: object) -> rules.Access:
    return rules.access(section(**settings))


# -- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "model", "matches"),
    [
        ("*", "", True),
        ("*", "any/thing at all", True),
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "GPT-4o", False),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-*", "gpt-", True),
        ("gpt-*", "my-gpt-4", False),
        ("*/llama-*", "meta/llama-3", True),
        ("a*b*a", "aba", True),
        ("a*b*a", "ab", False),
        ("a*a", "a", False),
        ("ft:[x]?", "ft:[x]?", True),  # only the star is special
        ("ft:[x]?", "ft:xy", False),
        ("", "", True),
    ],
)
def test_patterns(pattern: str, model: str, matches: bool) -> None:
    assert rules.Models([pattern], {}).match(model) is matches


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_patterns_agree_with_fnmatch(pattern: str, model: str) -> None:
    expected = re.match(fnmatch.translate(pattern), model) is not None
    assert rules.Models([pattern], {}).match(model) is expected


def test_a_hostile_model_name_takes_no_time() -> None:
    """A pattern of many stars, as a regex, would look at this for years."""
    assert not rules.Models(["*a" * 20 + "b"], {}).match("a" * 100_000)


def test_a_renamed_model_is_served_and_goes_out_under_its_real_name() -> None:
    models = rules.Models(["local-*"], {"gpt-4o": "llama"})
    assert models.match("gpt-4o")
    assert (models.real("gpt-4o"), models.real("local-1")) == ("llama", "local-1")


def test_the_listing_names_what_can_be_asked_for() -> None:
    models = rules.Models(["gpt-*", "named"], {"pub": "real", "pub2": "real", "gpt-x": "gpt-y"})
    listed: list[dict[str, object]] = [
        {"id": "gpt-1", "k": 1},
        {"id": "real"},
        {"id": "gpt-x"},
        {"id": "no"},
        {"id": 5},
    ]
    found = models.public(listed, "me")
    assert [m["id"] for m in found] == ["gpt-1", "pub", "pub2", "named", "gpt-x"]
    assert found[0] == {"id": "gpt-1", "k": 1}
    assert found[3] == {"id": "named", "object": "model", "created": 0, "owned_by": "me"}


# -- callers -------------------------------------------------------------------------------------

KEY = Secret("sk-own")
# settings, and for issued, passthrough, anonymous: what is sent (None: nothing), or no
TABLE: list[tuple[dict[str, object], tuple[object, object, object]]] = [
    ({}, ("no", "own", "no")),
    ({"passthrough": False}, ("no", "no", "no")),
    ({"share_api_key": True}, ("no", "own", "no")),
    ({"api_key": KEY}, ("key", "no", "no")),
    ({"api_key": KEY, "passthrough": True}, ("key", "own", "no")),
    ({"api_key": KEY, "share_api_key": True}, ("key", "key", "key")),
    ({"api_key": KEY, "share_api_key": True, "passthrough": True}, ("key", "own", "key")),
    ({"auth": "none"}, (None, None, None)),
    ({"auth": "none", "api_key": KEY}, (None, None, None)),
    ({"auth": "none", "passthrough": True}, (None, None, None)),
    ({"base_url": "echo:"}, (None, None, None)),
]


@pytest.mark.parametrize(("settings", "expected"), TABLE, ids=[str(list(s)) for s, _ in TABLE])
def test_callers_and_credentials(
    settings: dict[str, object], expected: tuple[object, object, object]
) -> None:
    """The contract's "Callers", whole."""
    rule = access(**settings)
    for kind, sent in zip((I, P, A), expected, strict=True):
        caller = Caller(kind, "id", "name", token="sk-theirs" if kind is P else None)
        assert rule.accepts(kind) is (sent != "no")
        assert rule.forwards(caller.kind) is (sent == "own")
        if sent == "no":
            with pytest.raises(UpstreamNotAllowed):
                rule.credential(caller)
            continue
        tokens = {"key": "Bearer sk-own", "own": "Bearer sk-theirs"}
        wanted = None if sent is None else ("authorization", tokens[str(sent)])
        assert rule.credential(caller) == wanted


def test_the_credential_stands_where_auth_says() -> None:
    rule = access(auth="header:Api-Key", api_key=KEY, passthrough=True)
    assert rule.credential(Caller(I, "", "")) == ("api-key", "sk-own")
    assert rule.credential(Caller(P, "", "", token="t")) == ("api-key", "t")


@pytest.mark.parametrize("token", [None, "", "a\r\nX: 1", "a\x00", "\u4f60"])
def test_a_token_that_cannot_be_sent_is_invalid(token: str | None) -> None:
    with pytest.raises(InvalidAPIKey):
        access().credential(Caller(P, "", "", token=token))


def test_no_secret_in_a_repr() -> None:
    rule, target = access(api_key=KEY), rules.target(section(query={"k": Secret("canary")}))
    assert "sk-own" not in repr(rule)
    assert "canary" not in repr(target)


# -- choice --------------------------------------------------------------------------------------


@dataclass
class Fake:
    name: str
    models: list[str]
    kinds: set[CallerKind] = field(default_factory=lambda: {I, P, A})
    builtin: bool = False

    def serves(self, model: str) -> bool:
        return rules.Models(self.models, {}).match(model)

    def accepts(self, kind: CallerKind) -> bool:
        return kind in self.kinds


ECHO = Fake("echo", ["echo"], builtin=True)
OWN = Fake("own", ["gpt-*"], {I})
PASS = Fake("pass", ["*"], {P})


@pytest.mark.parametrize(
    ("model", "kind", "chosen"),
    [
        ("echo", A, "echo"),
        ("gpt-4", I, "own"),
        ("gpt-4", P, "pass"),  # the first that matches and accepts
        ("gpt-4", A, UpstreamNotAllowed),
        ("o1", P, "pass"),
        ("o1", I, UpstreamNotAllowed),
        (None, I, "own"),
        (None, P, "pass"),
        (None, A, UpstreamNotAllowed),
    ],
)
def test_choice(model: str | None, kind: CallerKind, chosen: str | type[Exception]) -> None:
    upstreams = [ECHO, OWN, PASS]
    if isinstance(chosen, str):
        assert rules.choose(upstreams, model, kind).name == chosen  # type: ignore[arg-type]
    else:
        with pytest.raises(chosen):
            rules.choose(upstreams, model, kind)  # type: ignore[arg-type]


def test_nobody_to_choose() -> None:
    with pytest.raises(ModelNotFound) as caught:
        rules.choose([ECHO, OWN], "m" * 5000, I)  # type: ignore[list-item]
    assert caught.value.param == "model"
    assert len(caught.value.message) < 200
    with pytest.raises(UnknownURL):
        rules.choose([ECHO], None, I)  # type: ignore[list-item]


def test_echo_fits_the_port() -> None:
    from gateway.clock import SystemClock

    echo = EchoUpstream(UpstreamSection(name="echo", base_url="echo:", models=["echo"]),
                        clock=SystemClock())  # fmt: skip
    assert rules.choose([echo], "echo", A) is echo


# -- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("chat/completions", True),
        ("models/gpt-4o", True),
        ("models/org%3Aname", True),
        ("files/%E4%BD%A0.txt", True),
        ("files/100%25", True),
        ("files/a..b/...", True),
        ("", True),
        ("..", False),
        ("models/../files", False),
        ("models/./x", False),
        ("models/%2e%2e/files", False),
        ("models/%2E./files", False),
        ("models/.%2e", False),
        ("models%2f..%2ffiles", False),
        ("models%2Fx", False),
        ("models%5c..%5cfiles", False),
        ("models\\..\\files", False),
        ("models/..;/files", False),
        ("models/..;a=1/files", False),
        ("models/%252e%252e/files", False),
        ("models/%25252e%25252e/files", False),
        ("models%252ffiles", False),
        ("models/%00", False),
        ("models/%0d%0aX", False),
        ("models/%7f", False),
        ("models/x y", False),
        ("models/\x00", False),
        ("models/\xe9", False),
        ("models/%zz", False),
        ("models/%", False),
        ("models/x#y", False),
        ("models/x?y", False),
    ],
)
def test_paths_that_climb_are_never_relayed(path: str, safe: bool) -> None:
    """C3.4: a proxy that resolves dots, or an upstream that decodes twice, is not fooled."""
    assert rules.safe_path(path) is safe


@given(st.text("./%25efaF;\\", max_size=14))
def test_no_safe_path_climbs_however_often_it_is_decoded(path: str) -> None:
    if rules.safe_path(path):
        for _ in range(5):
            parts = re.split(r"[/\\]", path)
            assert not {".", ".."} & {part.split(";")[0] for part in parts}
            path = unquote(path)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("models", True),
        ("models/gpt-4o", True),
        ("models-secret", False),
        ("model", False),
        ("chat/completions", True),
        ("chat", False),
        ("Models", False),
        ("files", False),
        ("", False),
    ],
)
def test_paths_are_prefixes_by_whole_segments(path: str, allowed: bool) -> None:
    assert rules.allowed_path(path, section().paths) is allowed


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://h", "https://h/v1/a/b"),
        ("https://h/", "https://h/a/b"),
        ("https://h:8443/v2", "https://h:8443/v2/a/b"),
        ("http://[::1]:1/x/", "http://[::1]:1/x/a/b"),
    ],
)
def test_what_follows_v1_is_appended(base_url: str, url: str) -> None:
    assert rules.target(section(base_url=base_url)).url("a/b", "") == url


@pytest.mark.parametrize(
    ("configured", "asked", "sent"),
    [
        ({}, "", ""),
        ({}, "a=%2F&b=x+y&&c", "?a=%2F&b=x+y&&c"),
        ({}, "a=\xe9 b#c", "?a=%E9%20b%23c"),
        ({"api-version": "1 2"}, "", "?api-version=1%202"),
        ({"api-version": "1"}, "a=1", "?a=1&api-version=1"),
        ({"api-version": "1"}, "api-version=9&a=1&api%2Dversion=8", "?a=1&api-version=1"),
        ({"k": "a&b=c"}, "", "?k=a%26b%3Dc"),
    ],
)
def test_queries_merge_and_the_configured_wins(
    configured: dict[str, str], asked: str, sent: str
) -> None:
    target = rules.target(section(query={k: Secret(v) for k, v in configured.items()}))
    assert target.url("p", asked) == f"https://api.example.com/v1/p{sent}"


# -- headers -------------------------------------------------------------------------------------

SENT_ON = {
    "accept": "application/json",
    "content-type": "application/json",
    "user-agent": "OpenAI/Python 3",
    "openai-beta": "assistants=v2",
    "x-stainless-retry-count": "0",
    "idempotency-key": "k",
    "x-client-request-id": "c",
    "traceparent": "00-1-2-01",
    "tracestate": "a=b",
    "x-title": "App",
    "http-referer": "https://app",
    "anthropic-beta": "b",
    "range": "bytes=0-",
}
KEPT_BACK = [
    "authorization", "api-key", "cookie", "host", "content-length", "transfer-encoding", "te",
    "trailer", "upgrade", "keep-alive", "proxy-connection", "proxy-authorization", "expect",
    "accept-encoding", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded",
    "x-real-ip", "x-gateway-cache-ttl", "x-gateway-tags", "cache-control", "x-request-id",
    "accept-language", "origin", "referer", "x-anything", "openai_beta", "openai-be_ta",
    "openai-organization", "openai-project",
]  # fmt: skip


def outgoing(
    headers: list[tuple[str, str]],
    caller: Caller | None = None,
    configured: list[tuple[str, str]] | None = None,
    **settings: object,
) -> list[tuple[str, str]]:
    rule = access(**{"api_key": KEY, **settings})
    return request_headers(
        headers, caller or Caller(I, "", ""), rule, configured or [], via_entry("me")
    )


def test_what_a_client_may_say_goes_upstream_and_nothing_else() -> None:
    """K3, C3.3"""
    headers = [*SENT_ON.items(), *((name, "secret") for name in KEPT_BACK)]
    assert outgoing(headers) == [
        *SENT_ON.items(),
        ("via", "1.1 gateway-me"),
        ("accept-encoding", "identity"),
        ("authorization", "Bearer sk-own"),
    ]


def test_headers_named_in_connection_end_here() -> None:
    """RFC 9110 section 7.6.1: several fields, any case, odd spaces."""
    headers = [
        ("connection", "close, X-Title"), ("connection", " Idempotency-Key ,"),
        ("x-title", "1"), ("idempotency-key", "2"), ("accept", "3"),
    ]  # fmt: skip
    assert [n for n, _ in outgoing(headers)] == [
        "accept", "via", "accept-encoding", "authorization",
    ]  # fmt: skip


def test_the_organisation_goes_only_with_its_own_token() -> None:
    headers = [("openai-organization", "org"), ("openai-project", "p")]
    theirs = Caller(P, "", "", token="t")
    assert outgoing(headers, theirs, passthrough=True)[:2] == headers
    assert "openai-organization" not in dict(outgoing(headers))
    shared = outgoing(headers, theirs, passthrough=False, share_api_key=True)
    assert "openai-project" not in dict(shared)


def test_configured_headers_win() -> None:
    configured = [("x-own", "1"), ("user-agent", "forced"), ("via", "none")]
    found = outgoing([("user-agent", "a"), ("user-agent", "b")], None, configured)
    assert [pair for pair in found if pair[0] in dict(configured)] == configured


def test_earlier_hops_stay_in_via() -> None:
    found = dict(outgoing([("via", "1.0 a"), ("via", "1.1 b (c, d)")]))
    assert found["via"] == "1.0 a, 1.1 b (c, d), 1.1 gateway-me"


@pytest.mark.parametrize(
    ("via", "loop"),
    [
        (None, False),
        ("", False),
        ("1.1 gateway-me", True),
        ("1.1 a, 1.1 gateway-me", True),
        ("1.1 a,1.1 gateway-me (x), 1.1 b", True),
        ("1.1 gateway-me2", False),
        ("1.1 x-gateway-me", False),
        ("1.1 gateway-other", False),
    ],
)
def test_a_loop_is_seen(via: str | None, loop: bool) -> None:
    assert is_loop(via, "me") is loop


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("plain\tvalue", b"plain\tvalue"),
        ("\xe4\xbd\xa0", "你".encode()),  # UTF-8, as the server reads it: latin-1
        ("caf\xe9", b"caf\xe9"),
        ("你", None),
        ("a\rb", None),
        ("a\nb", None),
        ("a\x00", None),
        ("\xe4\xbd\xa0\x7f", None),
    ],
)
def test_a_header_is_sent_as_the_same_bytes_or_not_at_all(value: str, sent: bytes | None) -> None:
    found = rules.sendable(value)
    assert (None if found is None else found.encode("latin-1")) == sent


@pytest.mark.parametrize(
    "name",
    [*sorted(DROPPED), "x-gateway-a", "access-control-allow-origin", "x-accel-a", "x-named"],
)
def test_answer_headers_that_end_here(name: str) -> None:
    """K2. That the list itself is whole, `test_client.test_header_hygiene_of_an_answer` shows."""
    raw = [(b"Connection", b"X-Named"), (name.title().encode(), b"v"), (b"X-Kept", b"1")]
    assert response_headers(raw) == [("x-kept", "1")]


@pytest.mark.parametrize("value", [b"a\x00", b"a\rb", b"a\nSet-Cookie: x", b"\x1b[2J", b"\x7f"])
def test_an_answer_header_with_control_bytes_ends_here(value: bytes) -> None:
    """CVE-2026-34520: what is emitted again is checked again."""
    assert response_headers([(b"X-A", value), (b"X-B\x00", b"1")]) == []


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=8))
def test_no_client_header_replaces_ours(headers: list[tuple[str, str]]) -> None:
    lowered = [(name.lower(), value) for name, value in headers]
    found = outgoing([*lowered, ("authorization", "Bearer theirs"), ("accept-encoding", "gzip")])
    assert [v for n, v in found if n == "authorization"] == ["Bearer sk-own"]
    assert [v for n, v in found if n == "accept-encoding"] == ["identity"]
    assert len([v for n, v in found if n == "via"]) == 1
