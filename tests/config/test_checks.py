"""Rules between settings: what is refused, and what stands."""

from __future__ import annotations

import pytest
from attrs import evolve

from gateway.config import (
    Config,
    ConfigError,
    Duration,
    UpstreamSection,
    as_running,
    load,
    masked,
    reloadable,
    upstream_base,
    warnings,
    with_overrides,
)


def faults_of(text: str) -> list[tuple[str, str]]:
    try:
        load(text, {}, open_nothing)
    except ConfigError as error:
        return [(fault.path, fault.message) for fault in error.faults]
    return []


def open_nothing(path: str) -> str:
    raise AssertionError(path)


def upstream(settings: str, name: str = "a", url: str = "https://a.example") -> str:
    comma = ", " if settings else ""
    return f"upstreams: [{{name: {name}, base_url: '{url}'{comma}{settings}}}]"


@pytest.mark.parametrize(
    ("base_url", "base"),
    [
        ("https://host", "https://host/v1"),
        ("https://host/", "https://host"),
        ("https://host/v1", "https://host/v1"),
        ("https://host/v1/", "https://host/v1"),
        ("https://host/api/v3/", "https://host/api/v3"),
        ("https://host/api/v3", "https://host/api/v3"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ("echo:", "echo:"),
    ],
)
def test_what_follows_v1_is_appended_to(base_url: str, base: str) -> None:
    """Contract, "Upstreams": one without a path gets /v1, a trailing / means the root."""
    assert upstream_base(base_url) == base
    assert not faults_of(upstream("", url=base_url))


@pytest.mark.parametrize(
    "url",
    [
        *("", "a.example", "ftp://a.example", "http://", "http:///v1", "echo", "echo:x", "echo:/"),
        *(
            "http://a:0",
            "http://a:99999",
            "http://a:x",
            "http://[::1",
            "http://a b",
            "http://1.2.3",
        ),
        *("http://a.example/é", "http://-a", "http://a..b", "http://a\\b", "HTTP//a"),
        *(
            "http://u:p@a.example",
            "http://u@a.example",
            "http://a/?",
            "http://a/v1?k=1",
            "http://a#f",
        ),
    ],
)
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    [(path, message)] = faults_of(upstream("", url=url))
    assert path == "upstreams[0].base_url"
    assert "wanted" in message or "use " in message


REFUSED = [
    # server and admin
    ("server: {port: 65536}", "server.port", "0 to 65535"),
    ("server: {port: -1}", "server.port", "0 to 65535"),
    ("server: {host: ''}", "server.host", "an address"),
    ("server: {host: '[::1]'}", "server.host", "an address"),
    ("server: {host: 'a:80'}", "server.host", "an address"),
    ("server: {host: 127.0.0}", "server.host", "an address"),
    ("server: {port: 8081}", "server.port", "the same as admin.port"),
    ("server: {host: localhost, port: 8081}", "server.port", "the same as admin.port"),
    ("server: {host: 0.0.0.0, port: 8081}", "server.port", "the same as admin.port"),
    ("admin: {host: '::', port: 8080}", "server.port", "the same as admin.port"),
    ("server: {tls: {cert: a}}", "server.tls.cert", "needs tls.key"),
    ("admin: {tls: {key: a}}", "admin.tls.key", "needs tls.cert"),
    ("server: {body_limit: 1GiB}", "server.body_budget", "smaller than body_limit"),
    ("server: {upload_limit: 0}", "server.upload_limit", "above 0"),
    ("server: {header_timeout: 0s}", "server.header_timeout", "above 0"),
    ("server: {max_in_flight: 0}", "server.max_in_flight", "above 0"),
    ("server: {max_connections: -1}", "server.max_connections", "above 0"),
    ("server: {access_log: ' '}", "server.access_log", "stdout, none or a path"),
    ("server: {event_loop: trio}", "server.event_loop", "asyncio, uvloop"),
    ("server: {cors_origins: ['*']}", "server.cors_origins[0]", "list each origin"),
    ("server: {cors_origins: ['null']}", "server.cors_origins[0]", "an origin"),
    ("server: {cors_origins: ['https://a.example/']}", "server.cors_origins[0]", "no path"),
    ("server: {cors_origins: ['https://A.example']}", "server.cors_origins[0]", "an origin"),
    ("server: {trusted_proxies: [a]}", "server.trusted_proxies[0]", "a network"),
    ("server: {trusted_proxies: [10.0.0.1/8]}", "server.trusted_proxies[0]", "write 10.0.0.0/8"),
    ("admin: {token: short}", "admin.token", "at least 16"),
    ("admin: {token: changeme-changeme}", "admin.token", "an example"),
    ("admin: {token: aaaaaaaaaaaaaaaaaaaa}", "admin.token", "an example"),
    ("admin: {token: 'has spaces in the text'}", "admin.token", "without spaces"),
    ("admin: {token: gw_0123456789abcdef}", "admin.token", "gw_"),
    ("admin: {hosts: ['a.example:8081']}", "admin.hosts[0]", "without a port"),
    ("data: ''", "data", "a folder"),
    # upstreams
    ("upstreams: []", "upstreams", "empty"),
    (upstream("", name="A"), "upstreams[0].name", "1 to 64"),
    (upstream("", name="a" * 65), "upstreams[0].name", "1 to 64"),
    (upstream("delay: 1s"), "upstreams[0].delay", "only for"),
    (upstream("auth: basic"), "upstreams[0].auth", "bearer, none or header:NAME"),
    (upstream("auth: 'header:'"), "upstreams[0].auth", "bearer, none or header:NAME"),
    (upstream("auth: 'header:a b'"), "upstreams[0].auth", "end-to-end"),
    (upstream("auth: 'header:Connection'"), "upstreams[0].auth", "end-to-end"),
    (upstream("api_key: 'a b'"), "upstreams[0].api_key", "without spaces"),
    (upstream('api_key: "a\\n"'), "upstreams[0].api_key", "line ends"),
    (upstream("headers: {'a b': c}"), "upstreams[0].headers['a b']", "not a header"),
    (upstream("headers: {Host: c}"), "upstreams[0].headers.Host", "cannot be set"),
    (upstream("headers: {TE: c}"), "upstreams[0].headers.TE", "cannot be set"),
    (upstream("headers: {content-length: '1'}"), "upstreams[0].headers.content-length", "cannot"),
    (upstream('headers: {a: "b\\r\\nc: d"}'), "upstreams[0].headers.a", "no line ends"),
    (upstream("headers: {a: ' b'}"), "upstreams[0].headers.a", "outer spaces"),
    (upstream("headers: {a: b, A: b}"), "upstreams[0].headers.A", "twice"),
    (upstream("headers: {Authorization: b}"), "upstreams[0].headers.Authorization", "auth sends"),
    (upstream("auth: 'header:X-Key', headers: {x-key: b}"), "upstreams[0].headers.x-key", "auth"),
    (upstream("query: {'': b}"), "upstreams[0].query['']", "name is wanted"),
    (upstream("models: ['']"), "upstreams[0].models[0]", "pattern"),
    (upstream("rename: {'': b}"), "upstreams[0].rename['']", "public and real"),
    (upstream("rename: {a: ''}"), "upstreams[0].rename.a", "public and real"),
    (upstream("paths: [/v1/models]"), "upstreams[0].paths[0]", "chat/completions"),
    (upstream("paths: [v1/models]"), "upstreams[0].paths[0]", "chat/completions"),
    (upstream("paths: [a/../b]"), "upstreams[0].paths[0]", "chat/completions"),
    (upstream("max_tokens_field: ''"), "upstreams[0].max_tokens_field", "max_tokens"),
    (upstream("proxy: socks5://a"), "upstreams[0].proxy", "env, none or a URL"),
    (upstream("proxy: http://a/path"), "upstreams[0].proxy", "env, none or a URL"),
    (upstream("timeouts: {idle: 0}"), "upstreams[0].timeouts.idle", "above 0"),
    (upstream("max_connections: 0"), "upstreams[0].max_connections", "above 0"),
    (upstream("keepalive: 0s"), "upstreams[0].keepalive", "above 0"),
    # keys
    ("keys: {aliases: {pass-1: a}}", "keys.aliases.pass-1", "pass-1a2B3c4D"),
    ("keys: {aliases: {pass-12345678: ''}}", "keys.aliases.pass-12345678", "1 to 64"),
    ("keys: {aliases: {pass-12345678: pass-12345679}}", "keys.aliases.pass-12345678", "1 to 64"),
]


@pytest.mark.parametrize(("text", "path", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_stand_is_refused(text: str, path: str, message: str) -> None:
    [(found, said)] = faults_of(text)
    assert found == path
    assert message in said


@pytest.mark.parametrize(
    "text",
    [
        "server: {port: 0}\nadmin: {port: 0}",
        "server: {host: 10.0.0.1, port: 8081}\nadmin: {host: 10.0.0.2}",
        "server: {cors_origins: ['https://a.example', 'http://localhost:3000', 'app://x']}",
        "server: {trusted_proxies: [10.0.0.0/8, '::1', 192.168.1.1]}",
        "server: {tls: {cert: a, key: b}, access_log: /var/log/gw.log}",
        "server: {drain_timeout: 0, body_min_rate: 0}",
        "keys: {aliases: {pass-1a2B3c4D: app, pass-00000000: other}}",
        upstream("auth: 'header:api-key', api_key: k, query: {api-version: 2024-10-21}"),
        upstream("auth: none, headers: {Authorization: 'Basic YTpi'}"),
        upstream("models: [], rename: {a: b/c:d}, paths: ['*', responses]"),
        upstream("proxy: 'https://u:p@proxy.example:3128/'"),
        upstream("proxy: none, timeouts: {total: none}"),
        upstream("", url="http://my_llm:8000/v1"),
        upstream("delay: 20ms", url="echo:"),
    ],
)
def test_what_can_stand_is_taken(text: str) -> None:
    assert faults_of(text) == []


def test_names_are_unique() -> None:
    same = "{name: a, base_url: 'https://a.example'}"
    [(path, message)] = faults_of(f"upstreams: [{same}, {same}]")
    assert (path, message) == ("upstreams[1].name", "the name of upstreams[0]: each needs its own")
    found = faults_of("keys: {aliases: {pass-00000000: app, pass-00000001: app}}")
    assert {path for path, _ in found} == {
        "keys.aliases.pass-00000000",
        "keys.aliases.pass-00000001",
    }


@pytest.mark.parametrize(
    ("server", "url", "loop"),
    [
        ("{}", "http://127.0.0.1:8080/v1", True),
        ("{}", "http://localhost:8080", True),
        ("{}", "https://[::1]:8080/v1", True),
        ("{}", "http://0.0.0.0:8080/v1", True),
        ("{port: 80}", "http://localhost", True),
        ("{host: 0.0.0.0}", "http://127.0.0.1:8080", True),
        ("{host: '::'}", "http://localhost:8080", True),
        ("{host: gw.example}", "http://GW.example:8080", True),
        ("{}", "http://127.0.0.1:8000/v1", False),
        ("{host: 0.0.0.0}", "http://10.0.0.7:8080", False),
        ("{host: 10.0.0.7}", "http://127.0.0.1:8080", False),
        ("{port: 0}", "http://127.0.0.1:8080", False),
    ],
)
def test_the_gateways_own_address_is_refused(server: str, url: str, loop: bool) -> None:
    """Design, "Edits to what passes through": its own address as `base_url` is refused at start."""
    found = faults_of(f"server: {server}\n{upstream('', url=url)}")
    assert [path for path, _ in found] == (["upstreams[0].base_url"] if loop else [])


OUTSIDE = "server: {host: 0.0.0.0}\n"
KEYLESS = upstream("auth: none")
SHARED = upstream("api_key: k, share_api_key: true")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (OUTSIDE + KEYLESS, "auth"),
        (OUTSIDE + SHARED, "share_api_key"),
        ("server: {host: gw.example}\n" + KEYLESS, "auth"),
        (OUTSIDE + KEYLESS + "\nkeys: {passthrough: false}", None),  # anonymous: loopback
        (OUTSIDE + KEYLESS + "\nkeys: {passthrough: false, anonymous: always}", "auth"),
        (OUTSIDE + KEYLESS + "\nkeys: {open: true}", None),
        ("server: {host: '::1'}\n" + KEYLESS, None),
        (OUTSIDE + upstream("", url="echo:"), None),  # does not count
        (OUTSIDE + upstream("auth: none", url="echo:"), None),
        (OUTSIDE + upstream("api_key: k"), None),  # issued keys only
        (OUTSIDE + upstream("share_api_key: true"), None),  # nothing to share
        (OUTSIDE + upstream(""), None),  # each brings its own
        # Own tokens are forwarded as such; only anonymous callers would use the shared key.
        (OUTSIDE + upstream("api_key: k, share_api_key: true, passthrough: true"), None),
        (
            OUTSIDE
            + upstream("api_key: k, share_api_key: true, passthrough: true")
            + "\nkeys: {anonymous: always}",
            "share_api_key",
        ),
    ],
)
def test_beyond_loopback_nobody_uses_what_is_not_theirs(text: str, where: str | None) -> None:
    """Contract, "Callers": refused at start unless keys.open is true."""
    found = faults_of(text)
    assert [path for path, _ in found] == ([f"upstreams[0].{where}"] if where else [])
    assert all("keys.open: true" in message for _, message in found)


def test_the_command_line_stands_above_the_file() -> None:
    config = with_overrides(Config(), host="::1", port=9000, admin_port=9001, data="/x")
    assert (config.server.host, config.server.port) == ("::1", 9000)
    assert (config.admin.port, config.data) == (9001, "/x")
    assert with_overrides(Config()) == Config()
    assert with_overrides(Config(), port=0).server.port == 0


def test_the_whole_is_checked_again_with_the_command_line() -> None:
    config = load(KEYLESS, {}, open_nothing)
    with pytest.raises(ConfigError, match=r"^command line: upstreams\[0\]\.auth: needs no key"):
        with_overrides(config, host="0.0.0.0")
    with pytest.raises(ConfigError, match=r"^command line: server\.port: the same as admin\.port"):
        with_overrides(Config(), admin_port=8080)


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (upstream("api_key: k", url="http://a.example"), ["upstreams[0].base_url"]),
        (upstream("api_key: k", url="http://127.0.0.1:8000"), []),
        (upstream("", url="http://a.example"), []),
        (upstream("auth: none, api_key: k"), ["upstreams[0].api_key"]),
        (upstream("auth: none, passthrough: true"), ["upstreams[0].passthrough"]),
        (upstream("share_api_key: true"), ["upstreams[0].share_api_key"]),
        ("admin: {host: 0.0.0.0}", ["admin.host"]),
        ("admin: {host: 0.0.0.0, tls: {cert: a, key: b}}", []),
        ("", []),
    ],
)
def test_what_is_likely_not_meant_is_a_warning(text: str, paths: list[str]) -> None:
    found = warnings(load(text, {}, open_nothing))
    assert [warning.partition(":")[0] for warning in found] == paths


def test_a_reload_says_what_needs_a_restart() -> None:
    old = Config()
    server = evolve(old.server, port=1, host="::1", slow_reader=Duration(1), max_in_flight=1)
    admin = evolve(old.admin, tls=evolve(old.admin.tls, cert="a", key="b"), hosts=["a"])
    new = evolve(old, server=server, admin=admin, data="/x", upstreams=old.upstreams[:1])
    assert reloadable(old, new) == ["server.host", "server.port", "admin.tls", "data"]
    assert reloadable(old, evolve(old, upstreams=old.upstreams[:1])) == []


def test_a_running_process_keeps_what_needs_a_restart() -> None:
    server = evolve(Config().server, host="0.0.0.0", port=9000)
    running = evolve(Config(), server=server, data="/x")
    new = load("server: {slow_reader: 5s, port: 1}\nadmin: {port: 2}", {}, open_nothing)
    merged = as_running(running, new)
    assert reloadable(running, merged) == []
    assert merged.server.slow_reader == 5.0


def test_a_file_cannot_make_an_open_socket_private() -> None:
    """The socket is bound beyond loopback until a restart: anyone could use the upstream."""
    running = evolve(Config(), server=evolve(Config().server, host="0.0.0.0"))
    new = load("server: {host: 127.0.0.1}\n" + KEYLESS, {}, open_nothing)
    with pytest.raises(ConfigError, match=r"^until a restart: upstreams\[0\]\.auth: needs no key"):
        as_running(running, new)


def test_the_masked_view_is_written_as_the_file_is() -> None:
    section = UpstreamSection(name="a", base_url="https://a.example", passthrough=False)
    shown = masked(evolve(Config(), upstreams=[section]))
    assert shown["server"]["body_limit"] == "64MiB"
    assert shown["server"]["keepalive_timeout"] == "10m30s"
    assert shown["upstreams"][0]["timeouts"]["total"] == "none"
    assert shown["upstreams"][0]["on_disconnect"] == "finish"
    assert shown["upstreams"][0]["proxy"] == "env"
