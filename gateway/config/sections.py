"""The sections of config.yaml, one frozen class each; nothing else knows a default.

A class says what a value is; `checks.py` says which values may stand together.
"""

from __future__ import annotations

from enum import StrEnum

from attrs import asdict, field, frozen

from gateway.config.kinds import (
    NO_SECRET,
    PROXY_OF_THE_ENVIRONMENT,
    Duration,
    GiB,
    KiB,
    Limit,
    MiB,
    Money,
    Part,
    Period,
    Price,
    Secret,
    SecretURL,
    Size,
)


@frozen
class TLS:
    """PEM files; both or none."""

    cert: str = ""
    key: str = ""


@frozen
class Server:
    """The data plane."""

    host: str = "127.0.0.1"
    port: int = 8080
    access_log: str = "stdout"  # stdout, none, or a path
    body_limit: Size = Size(64 * MiB)  # one chat completion's body
    body_budget: Size = Size(512 * MiB)  # all buffered bodies in flight together
    upload_limit: Size = Size(1 * GiB)  # one streamed body (files, audio)
    header_timeout: Duration = Duration(15)  # from connect, or first byte, to the head's end
    body_timeout: Duration = Duration(30)  # without any body byte
    body_min_rate: Size = Size(1 * KiB)  # per second, averaged, after the first `body_timeout`
    keepalive_timeout: Duration = Duration(630)  # idle between two requests
    slow_reader: Duration = Duration(30)  # a client that takes no byte for so long is cut
    drain_timeout: Duration = Duration(120)  # after SIGTERM, for streams to end
    max_connections: int = 10000
    max_in_flight: int = 2000  # requests; more get 503 overloaded
    cors_origins: list[str] = field(factory=list)
    trusted_proxies: list[str] = field(factory=list)  # addresses or networks
    tls: TLS = TLS()
    event_loop: str = "asyncio"  # asyncio or uvloop


@frozen
class Admin:
    """The admin plane. `token` empty: made at first start in data/admin.token."""

    host: str = "127.0.0.1"
    port: int = 8081
    token: Secret = NO_SECRET
    hosts: list[str] = field(factory=list)
    tls: TLS = TLS()


class Disconnect(StrEnum):
    """What becomes of an upstream call whose client has left."""

    FINISH = "finish"
    ABORT = "abort"


@frozen
class Timeouts:
    """Seconds; `total` None means none (requirement I1)."""

    connect: Duration = Duration(10)
    first_byte: Duration = Duration(600)
    idle: Duration = Duration(300)
    total: Duration | None = None


@frozen
class UpstreamSection:
    """One upstream. The list's order decides which of several matching ones serves."""

    name: str
    base_url: str
    api_key: Secret = NO_SECRET
    models: list[str] = field(factory=lambda: ["*"])
    rename: dict[str, str] = field(factory=dict)  # public name: real name
    auth: str = "bearer"  # bearer, header:NAME, none
    headers: dict[str, Secret] = field(factory=dict)
    query: dict[str, Secret] = field(factory=dict)
    passthrough: bool | None = None  # None: true where there is no api_key
    share_api_key: bool = False
    paths: list[str] = field(
        factory=lambda: ["chat/completions", "completions", "embeddings", "models", "moderations"]
    )
    timeouts: Timeouts = Timeouts()
    on_disconnect: Disconnect = Disconnect.FINISH
    inject_usage: bool = True
    max_tokens_field: str = "max_completion_tokens"
    proxy: SecretURL = PROXY_OF_THE_ENVIRONMENT  # env, none, or a URL
    ca_file: str = ""
    delay: Duration = Duration(0)  # echo: only; before each chunk
    max_connections: int = 1000  # at once; further calls wait, visibly
    keepalive: Duration = Duration(15)  # idle connections end; shorter than the upstream's own
    cache: bool = True  # may its answers be kept
    cache_ttl: Duration | None = None  # None: cache.ttl


class Anonymous(StrEnum):
    """When a caller without a credential is let in."""

    LOOPBACK = "loopback"
    NEVER = "never"
    ALWAYS = "always"


@frozen
class Keys:
    """Who may call."""

    passthrough: bool = True
    anonymous: Anonymous = Anonymous.LOOPBACK
    open: bool = False  # let such callers use keyless and shared upstreams beyond loopback too
    aliases: dict[str, str] = field(factory=dict)  # pass-XXXXXXXX: a name for logs and metrics


class Scope(StrEnum):
    """Who shares a cached answer. Team and global are for issued keys only (requirement C4)."""

    KEY = "key"
    TEAM = "team"
    GLOBAL = "global"


@frozen
class CacheRule:
    """What is different for some models; the first rule that matches a model holds, None: as
    without it."""

    models: list[str] = field(factory=lambda: ["*"])
    enabled: bool | None = None
    ttl: Duration | None = None
    sampled: bool | None = None


@frozen
class Abandoned:
    """What calls may go on, whose clients have all left, so that the answer is kept."""

    flights: int = 100  # at once
    bytes: Size = Size(64 * MiB)  # of all their recordings
    time: Duration = Duration(600)  # each, from when the last client left


@frozen
class Cache:
    """Equal requests get the same answer."""

    enabled: bool = True
    ttl: Duration = Duration(86_400)
    max_ttl: Duration = Duration(30 * 86_400)  # what X-Gateway-Cache-TTL may ask for
    sampled: bool = True  # also where the temperature is not 0, or n above 1
    scope: Scope = Scope.KEY
    ignore_fields: list[str] = field(factory=list)  # top-level members that make no difference
    finish_reasons: list[str] = field(factory=lambda: ["stop", "tool_calls", "function_call"])
    memory: Size = Size(256 * MiB)
    size_limit: Size = Size(4 * GiB)  # on disk; 0: nothing is kept there
    max_entry: Size = Size(8 * MiB)
    disk_deadline: Duration = Duration(0.1)  # a look-up on disk that takes longer is a miss
    models: list[CacheRule] = field(factory=list)
    abandoned: Abandoned = Abandoned()


class Durability(StrEnum):
    """What a row that was waited for survives."""

    PROCESS = "process"  # the process's death
    POWER = "power"  # the machine's, too


class OnMissingUsage(StrEnum):
    """What is booked for an answer whose usage is not known (requirement B3)."""

    ESTIMATE = "estimate"
    NONE = "none"
    PROMPT_ONLY = "prompt_only"


class AfterCrash(StrEnum):
    """What is booked for a call that was open when the gateway died."""

    PROMPT = "prompt"
    FULL = "full"


@frozen
class Usage:
    """The books: a row for each request, and sums that stay."""

    durability: Durability = Durability.PROCESS
    commit_wait: Duration = Duration(2)  # the end of an answer waits so long for its row
    when_down: Duration | None = Duration(30)  # calls without a row that is safe; None: no end
    after_crash: AfterCrash = AfterCrash.PROMPT
    on_missing_usage: OnMissingUsage = OnMissingUsage.ESTIMATE
    keep: Duration | None = Duration(90 * 86_400)  # rows; sums stay. None: rows stay too


class AtLimit(StrEnum):
    """What becomes of a request whose bound is more than what is left."""

    CLAMP = "clamp"  # its output cap is lowered to what is left
    REJECT = "reject"
    LAST_REQUEST = "last_request"  # it may complete, and is the last


class CountHits(StrEnum):
    """What an answer from the cache, or one that was joined, counts against."""

    REQUESTS = "requests"  # limits on requests
    ALL = "all"  # and those on tokens, with the tokens that it saved
    NONE = "none"


class Unpriced(StrEnum):
    """What callers with a budget get of a model without a price."""

    REJECT = "reject"
    ALLOW = "allow"  # it is booked without a cost


@frozen
class DefaultLimits:
    """What each caller may use, of what its key does not say itself; None: no limit."""

    rpm: Limit | None = None  # requests a minute
    tpm: Limit | None = None  # tokens a minute
    requests_per_day: Limit | None = None
    tokens_per_day: Limit | None = None
    tokens_per_month: Limit | None = None
    budget: Money | None = None
    per: Period | None = None  # what the budget is for
    max_parallel: Limit | None = None  # requests at a time

    @property
    def by_name(self) -> dict[str, int | str]:
        """Those that are set, in the form of a key's own (`Grant.limits`)."""
        given = asdict(self, filter=lambda _, value: value is not None)
        return given if self.per is None else given | {"per": self.per.value}


@frozen
class Quota:
    """What callers may use. `timezone`: where days, weeks and months begin."""

    timezone: str = "UTC"
    default: DefaultLimits = DefaultLimits()
    default_output: int = 4096  # tokens that a request without a cap may take, for each answer
    at_limit: AtLimit = AtLimit.CLAMP
    clamp_min: int = 256  # tokens of output; no cap is lowered further
    wait: Duration = Duration(2)  # for open requests to settle; 0: not at all
    count_hits: CountHits = CountHits.REQUESTS
    hits_when_spent: bool = True  # answers from the cache where nothing is left
    unpriced: Unpriced = Unpriced.REJECT


@frozen
class TierPrice:
    """Another price for a service tier; None: as without it."""

    input: Price | None = None
    output: Price | None = None
    cached_input: Price | None = None


@frozen
class ModelSection:
    """What a model costs, instead of the data's price, and how much it takes. The first section
    whose name matches and that says it holds."""

    name: str  # or a pattern; as the upstream calls it
    input: Price | None = None
    output: Price | None = None
    cached_input: Price | None = None  # None: as input
    context_tokens: int | None = None
    tiers: dict[str, TierPrice] = field(factory=dict)  # by the answer's service_tier


@frozen
class JournalRule:
    """What is different for some models; the first rule that matches a model holds."""

    models: list[str] = field(factory=lambda: ["*"])
    bodies: bool = False


def _secret_members() -> list[str]:
    return [
        *("password", "passwd", "secret", "client_secret", "api_key", "apikey", "authorization"),
        *("access_token", "refresh_token", "id_token", "private_key"),
    ]


@frozen
class Redact:
    """What of a body is not kept: the values of JSON members with these names (case does not
    count), and what these regular expressions match."""

    members: list[str] = field(factory=_secret_members)
    patterns: list[str] = field(factory=list)


@frozen
class JournalQueue:
    """What may wait in memory; past it bodies are left out, then records (requirement G2)."""

    records: int = 10_000
    bytes: Size = Size(64 * MiB)


@frozen
class Journal:
    """Bodies and headers of requests, beside their rows in the books."""

    bodies: bool = False
    models: list[JournalRule] = field(factory=list)
    max_body: Size = Size(256 * KiB)  # of each body; what is longer is cut
    redact: Redact = Redact()
    keep: Duration | None = Duration(7 * 86_400)
    size_limit: Size = Size(2 * GiB)  # of all files
    queue: JournalQueue = JournalQueue()


@frozen
class Metrics:
    """`open`: /metrics without the token from anywhere."""

    open: bool = False


@frozen
class Traces:
    """Spans for a collector; off while `endpoint` is empty."""

    endpoint: str = ""  # of OTLP over HTTP; without a path, /v1/traces is added
    headers: dict[str, Secret] = field(factory=dict)
    sample: Part = Part(1.0)  # of the requests whose caller says nothing
    service_name: str = "gateway"
    timeout: Duration = Duration(10)  # of one export, its retries included


def _shipped_upstreams() -> list[UpstreamSection]:
    return [
        UpstreamSection(name="echo", base_url="echo:", models=["echo"]),
        UpstreamSection(name="openai", base_url="https://api.openai.com/v1"),
    ]


@frozen
class Config:
    """The whole file."""

    server: Server = Server()
    admin: Admin = Admin()
    data: str = "./data"
    upstreams: list[UpstreamSection] = field(factory=_shipped_upstreams)
    models: list[ModelSection] = field(factory=list)
    keys: Keys = Keys()
    cache: Cache = Cache()
    quota: Quota = Quota()
    usage: Usage = Usage()
    journal: Journal = Journal()
    metrics: Metrics = Metrics()
    traces: Traces = Traces()
