"""Which values may stand together: the rules that a type alone cannot state.

No message repeats a value: any may have come from a variable that holds a secret.
"""

from __future__ import annotations

import re
from collections import Counter
from ipaddress import ip_network
from urllib.parse import SplitResult

from gateway.config.addresses import (
    binds_collide,
    http_url,
    is_echo,
    is_host,
    is_loopback,
    is_origin,
    leads_to,
    port_of,
)
from gateway.config.books import books
from gateway.config.finding import Finding, Findings, positive
from gateway.config.sections import (
    TLS,
    Admin,
    Anonymous,
    Cache,
    Config,
    Keys,
    Server,
    UpstreamSection,
)
from gateway.config.tracing import tracing

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CREDENTIAL = re.compile(r"[\x21-\x7e]+")
_UPSTREAM_NAME = re.compile(r"[a-z0-9_.-]{1,64}")
_PATH = re.compile(r"[A-Za-z0-9_*.-]+(/[A-Za-z0-9_*.-]+)*")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PASS = re.compile(r"pass-[0-9A-Za-z]{8}")
_ALIAS = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_EXAMPLE = re.compile(r"(.)\1*$|.*(change.?me|example|placeholder|your.?token)", re.IGNORECASE)
# RFC 9110 section 7.6.1, and those that belong to one connection or one message.
_NOT_OURS_TO_SET = frozenset(
    {
        *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-connection", "proxy-authenticate", "proxy-authorization"),
        *("host", "content-length", "expect"),
    }
)
_SHORTEST_TOKEN = 16
_ENTRIES_AT_LEAST = 20  # of the largest size: the disk then stays within a tenth of its limit (E6)
_DECIDES = frozenset({"model", "messages", "tools", "response_format"})


def check(config: Config) -> list[Finding]:
    """Every rule that the whole breaks."""
    return [
        *(finding.below("server") for finding in _server(config.server)),
        *(finding.below("admin") for finding in _admin(config.admin)),
        *_ports(config),
        *([] if config.data.strip() else [Finding(("data",), "a folder is wanted")]),
        *_upstreams(config),
        *(finding.below("keys") for finding in _keys(config.keys)),
        *(finding.below("cache") for finding in _cache(config.cache)),
        *books(config),
        *(finding.below("traces") for finding in tracing(config.traces)),
        *_open(config),
    ]


# The two planes -----------------------------------------------------------------------------------


def _bind(plane: Server | Admin) -> Findings:
    if not is_host(plane.host):
        yield Finding(
            ("host",), "an address or a host name is wanted (127.0.0.1, ::1, 0.0.0.0 for all)"
        )
    if not 0 <= plane.port <= 65535:
        yield Finding(("port",), "a port is 0 to 65535 (0 takes a free one)")
    yield from _tls(plane.tls)


def _tls(tls: TLS) -> Findings:
    if bool(tls.cert) != bool(tls.key):
        missing, given = ("key", "cert") if tls.cert else ("cert", "key")
        yield Finding(("tls", given), f"needs tls.{missing} too", (("tls", missing),))


def _server(server: Server) -> Findings:
    yield from _bind(server)
    yield from positive(
        server,
        *("body_limit", "body_budget", "upload_limit", "header_timeout", "body_timeout"),
        *("keepalive_timeout", "slow_reader", "max_connections", "max_in_flight"),
    )
    if server.body_budget < server.body_limit:
        yield Finding(
            ("body_budget",), "smaller than body_limit: no such body fits", (("body_limit",),)
        )
    if not server.access_log.strip() or "\0" in server.access_log:
        yield Finding(("access_log",), "stdout, none or a path is wanted")
    if server.event_loop not in ("asyncio", "uvloop"):
        yield Finding(("event_loop",), "one of asyncio, uvloop is wanted")
    for index, origin in enumerate(server.cors_origins):
        if not is_origin(origin):
            why = "list each origin: '*' would let any page use its visitor's access"
            yield Finding(
                ("cors_origins", index),
                why if origin == "*" else "an origin is wanted: https://app.example, no path",
            )
    for index, network in enumerate(server.trusted_proxies):
        try:
            ip_network(network)
        except ValueError as error:
            host_bits = "host bits" in str(error)
            hint = f": write {ip_network(network, strict=False)}" if host_bits else ""
            what = "an address or a network (10.0.0.0/8) is wanted"
            yield Finding(("trusted_proxies", index), what + hint)


def _admin(admin: Admin) -> Findings:
    yield from _bind(admin)
    for index, host in enumerate(admin.hosts):
        if not is_host(host):
            yield Finding(("hosts", index), "a host name without a port is wanted")
    if not admin.token:
        return
    if len(admin.token) < _SHORTEST_TOKEN:
        yield Finding(("token",), f"too short: at least {_SHORTEST_TOKEN} characters")
    elif not _CREDENTIAL.fullmatch(admin.token):
        yield Finding(("token",), "must be printable ASCII without spaces")
    elif _EXAMPLE.match(admin.token):
        yield Finding(("token",), "this is an example, not a secret: make a random one")
    if admin.token.startswith("gw_"):
        yield Finding(("token",), "must not begin with gw_: that is how issued keys begin")


def _ports(config: Config) -> Findings:
    server, admin = config.server, config.admin
    if server.port and server.port == admin.port and binds_collide(server.host, admin.host):
        yield Finding(
            ("server", "port"),
            "the same as admin.port: each plane needs its own",
            (("admin", "port"), ("server", "host"), ("admin", "host")),
        )


# Upstreams ----------------------------------------------------------------------------------------


def _upstreams(config: Config) -> Findings:
    if not config.upstreams:
        yield Finding(("upstreams",), "empty: at least one is needed, say echo")
    first: dict[str, int] = {}
    for index, upstream in enumerate(config.upstreams):
        for finding in _upstream(upstream):
            yield finding.below("upstreams", index)
        if first.setdefault(upstream.name, index) != index:
            yield Finding(
                ("upstreams", index, "name"),
                f"the name of upstreams[{first[upstream.name]}]: each needs its own",
                (("upstreams", first[upstream.name], "name"),),
            )
        if _is_own_address(upstream.base_url, config.server):
            yield Finding(
                ("upstreams", index, "base_url"),
                "the gateway's own address: requests would go round in a loop",
                (("server", "host"), ("server", "port")),
            )


def _is_own_address(base_url: str, server: Server) -> bool:
    url = http_url(base_url)
    if url is None or port_of(url) != server.port:
        return False
    return leads_to(url.hostname or "", server.host)


def _upstream(upstream: UpstreamSection) -> Findings:
    if not _UPSTREAM_NAME.fullmatch(upstream.name):
        yield Finding(("name",), "1 to 64 of a-z 0-9 _ . - are wanted")
    yield from _base_url(upstream.base_url)
    yield from _credentials(upstream)
    yield from _headers(upstream)
    for index, pattern in enumerate(upstream.models):
        if not pattern.strip() or _CONTROL.search(pattern):
            yield Finding(("models", index), "a model's name or pattern is wanted (gpt-*)")
    for public, real in upstream.rename.items():
        if not public.strip() or not real.strip() or _CONTROL.search(public + real):
            yield Finding(("rename", public), "a model's public and real name are wanted")
    for index, path in enumerate(upstream.paths):
        if not _PATH.fullmatch(path) or path.startswith("v1/") or ".." in path:
            yield Finding(("paths", index), "what follows /v1/ is wanted: chat/completions")
    if not _FIELD.fullmatch(upstream.max_tokens_field):
        yield Finding(("max_tokens_field",), "a field's name is wanted: max_tokens")
    if upstream.proxy not in ("env", "none") and not _is_bare(http_url(upstream.proxy)):
        yield Finding(("proxy",), "env, none or a URL is wanted: http://proxy.example:3128")
    for finding in positive(upstream.timeouts, "connect", "first_byte", "idle", "total"):
        yield finding.below("timeouts")
    yield from positive(upstream, "max_connections", "keepalive", "cache_ttl")
    if upstream.delay and not is_echo(upstream.base_url):
        yield Finding(("delay",), "only for the built-in 'echo:'", (("base_url",),))


def _is_bare(url: SplitResult | None) -> bool:
    return url is not None and not url.query and not url.fragment and url.path in ("", "/")


def _base_url(base_url: str) -> Findings:
    if is_echo(base_url):
        return
    url = http_url(base_url)
    if url is None:
        yield Finding(
            ("base_url",), "'echo:' or an http(s) URL is wanted: https://api.example.com/v1"
        )
        return
    if "@" in url.netloc:
        yield Finding(("base_url",), "no user:password@ here: use api_key, auth or headers")
    if "?" in base_url or "#" in base_url:
        yield Finding(("base_url",), "no '?' or '#' here: use query")


def _credentials(upstream: UpstreamSection) -> Findings:
    kind, _, name = upstream.auth.partition(":")
    if kind == "header" and name:
        if not _TOKEN.fullmatch(name) or name.lower() in _NOT_OURS_TO_SET:
            yield Finding(("auth",), "header: needs the name of an end-to-end header (api-key)")
    elif upstream.auth not in ("bearer", "none"):
        yield Finding(("auth",), "bearer, none or header:NAME is wanted")
    if upstream.api_key and not _CREDENTIAL.fullmatch(upstream.api_key):
        yield Finding(("api_key",), "must be printable ASCII without spaces or line ends")


def _headers(upstream: UpstreamSection) -> Findings:
    kind, _, name = upstream.auth.partition(":")
    credential = {"bearer": "authorization", "header": name.lower()}.get(kind)
    seen: set[str] = set()
    for header, value in upstream.headers.items():
        lower = header.lower()
        if not _TOKEN.fullmatch(header):
            yield Finding(("headers", header), "not a header's name")
        elif lower in _NOT_OURS_TO_SET:
            yield Finding(("headers", header), "belongs to the connection, it cannot be set here")
        elif lower == credential:
            yield Finding(
                ("headers", header), "auth sends this one: set auth to none", (("auth",),)
            )
        elif lower in seen:
            yield Finding(("headers", header), "given twice, case does not count")
        if _CONTROL.search(value) or value != value.strip():
            yield Finding(
                ("headers", header), "no line ends, control characters or outer spaces in a value"
            )
        seen.add(lower)
    for parameter in upstream.query:
        if not parameter:
            yield Finding(("query", parameter), "a parameter's name is wanted")


# Callers ------------------------------------------------------------------------------------------


def _keys(keys: Keys) -> Findings:
    names = Counter(keys.aliases.values())
    for token, name in keys.aliases.items():
        if not _PASS.fullmatch(token):
            yield Finding(("aliases", token), "as logs show a token is wanted: pass-1a2B3c4D")
        if not _ALIAS.fullmatch(name) or _PASS.fullmatch(name):
            yield Finding(("aliases", token), "1 to 64 of A-Z a-z 0-9 _ . @ - are wanted")
        elif names[name] > 1:
            yield Finding(("aliases", token), "the name of several tokens: give each its own")


def _open(config: Config) -> Findings:
    """Whoever reaches the port could use what is not theirs (contract, "Callers")."""
    keys = config.keys
    if keys.open or is_loopback(config.server.host):
        return
    for index, upstream in enumerate(config.upstreams):
        keyless = upstream.auth == "none"
        shared = bool(upstream.api_key) and upstream.share_api_key
        if is_echo(upstream.base_url) or not (keyless or shared):
            continue
        # A token of the caller's own is forwarded where `passthrough` is set, and shares nothing.
        borrows = keys.passthrough and (keyless or not upstream.passthrough)
        if borrows or keys.anonymous is Anonymous.ALWAYS:
            why = "needs no key" if keyless else "shares its api_key"
            own = ("base_url", "auth", "share_api_key", "api_key", "passthrough")
            yield Finding(
                ("upstreams", index, "auth" if keyless else "share_api_key"),
                f"{why}, and server.host is beyond loopback: anyone who reaches it could use it."
                " Set keys.passthrough: false and keys.anonymous: never, or allow it with"
                " keys.open: true",
                (
                    ("server", "host"),
                    *(("keys", name) for name in ("open", "passthrough", "anonymous")),
                    *(("upstreams", index, name) for name in own),
                ),
            )


# Answers that are kept ----------------------------------------------------------------------------


def _cache(cache: Cache) -> Findings:
    yield from positive(cache, "ttl", "max_ttl", "max_entry", "disk_deadline")
    if cache.ttl > cache.max_ttl:
        yield Finding(("ttl",), "longer than max_ttl", (("max_ttl",),))
    if 0 < cache.size_limit < _ENTRIES_AT_LEAST * cache.max_entry:
        why = f"smaller than {_ENTRIES_AT_LEAST} times max_entry (0 keeps nothing on disk)"
        yield Finding(("size_limit",), why, (("max_entry",),))
    for index, name in enumerate(cache.ignore_fields):
        if name in _DECIDES:
            yield Finding(("ignore_fields", index), "answers depend on it: it cannot be ignored")
        elif not name.strip():
            yield Finding(("ignore_fields", index), "a field's name is wanted: user")
    if not cache.finish_reasons:
        yield Finding(("finish_reasons",), "empty: nothing would be kept, set enabled to off")
    for index, word in enumerate(cache.finish_reasons):
        if not _FIELD.fullmatch(word):
            yield Finding(("finish_reasons", index), "a finish reason is wanted: stop")
    yield from _cache_rules(cache)
    for finding in positive(cache.abandoned, "time"):
        yield finding.below("abandoned")


def _cache_rules(cache: Cache) -> Findings:
    for index, rule in enumerate(cache.models):
        for finding in positive(rule, "ttl"):
            yield finding.below("models", index)
        if rule.ttl is not None and rule.ttl > cache.max_ttl:
            yield Finding(("models", index, "ttl"), "longer than max_ttl", (("max_ttl",),))
        for place, pattern in enumerate(rule.models):
            if not pattern.strip() or _CONTROL.search(pattern):
                what = "a model's name or pattern is wanted (gpt-*)"
                yield Finding(("models", index, "models", place), what)


# What may be meant, and is worth a word -----------------------------------------------------------


def warnings(config: Config) -> list[str]:
    """Not refused, but likely not what is wanted. No secret stands in them."""
    found = []
    if not is_loopback(config.admin.host) and not config.admin.tls.cert:
        found.append("admin.host: beyond loopback without admin.tls: the token travels in clear")
    for index, upstream in enumerate(config.upstreams):
        here = f"upstreams[{index}]"
        url = http_url(upstream.base_url)
        clear = url and url.scheme == "http" and not is_loopback(url.hostname or "")
        if clear and upstream.api_key:
            found.append(f"{here}.base_url: plain http beyond loopback: api_key is sent in clear")
        if upstream.auth == "none" and upstream.api_key:
            found.append(f"{here}.api_key: never sent, for auth is none")
        if upstream.auth == "none" and upstream.passthrough:
            found.append(f"{here}.passthrough: no token is forwarded, for auth is none")
        if upstream.share_api_key and not upstream.api_key:
            found.append(f"{here}.share_api_key: there is no api_key to share")
    return found
