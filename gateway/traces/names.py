"""The one table of what spans say: each attribute's name and meaning, and of which version. Pure.

Names of others are OpenTelemetry's semantic conventions, as the package
opentelemetry-semantic-conventions of `SEMCONV` spells them (a test holds them equal); what these
have no word for begins with `gateway.`. docs/traces.md is held to this table.
"""

from __future__ import annotations

SEMCONV = "1.44.0"
SCHEMA_URL = f"https://opentelemetry.io/schemas/{SEMCONV}"

METHOD = "http.request.method"
METHOD_ORIGINAL = "http.request.method_original"
ROUTE = "http.route"
STATUS = "http.response.status_code"
SCHEME = "url.scheme"
PATH = "url.path"
ADDRESS = "server.address"
PORT = "server.port"
ERROR = "error.type"

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
STREAM = "gen_ai.request.stream"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
SERVICE_TIER = "openai.response.service_tier"

REQUEST_ID = "gateway.request.id"
KEY = "gateway.key"
TEAM = "gateway.team"
TAG = "gateway.tag."  # and the tag's name
OUTCOME = "gateway.outcome"
OVERHEAD = "gateway.overhead"
CACHE = "gateway.cache.status"
CACHE_REASON = "gateway.cache.reason"
CACHE_KEY = "gateway.cache.key"
CACHE_AGE = "gateway.cache.age"
SAVED_TOKENS = "gateway.saved.tokens"
SAVED_COST = "gateway.saved.cost_usd"
UPSTREAM = "gateway.upstream.name"
UPSTREAM_ID = "gateway.upstream.request_id"
ATTEMPTS = "gateway.upstream.attempts"
QUEUED = "gateway.upstream.queued"
USAGE_SOURCE = "gateway.usage.source"
COST = "gateway.cost_usd"

SERVER, LOOKUP, CLIENT = "server", "look-up", "client"  # the three spans

TABLE: dict[str, tuple[str, str]] = {
    METHOD: (f"{SERVER}, {CLIENT}", "the method; `_OTHER` for one that is not known"),
    METHOD_ORIGINAL: (SERVER, "that method as it came"),
    ROUTE: (SERVER, "`/v1/` and the endpoint, as metrics name it"),
    SCHEME: (SERVER, "`http` or `https`, of the data plane"),
    PATH: (SERVER, "the path without the query; what looks like a key is blotted out"),
    STATUS: (f"{SERVER}, {CLIENT}", "as sent; as the upstream sent it"),
    ERROR: (f"{SERVER}, {CLIENT}", "the error's code, as in metrics and log; the status is ERROR"),
    OPERATION: (CLIENT, "`chat`, `text_completion`, `embeddings`"),
    PROVIDER: (CLIENT, "by the upstream's host, else the upstream's name"),
    REQUEST_MODEL: (f"{SERVER}, {CLIENT}", "as asked; as sent upstream"),
    STREAM: (f"{SERVER}, {CLIENT}", "true for a stream"),
    RESPONSE_MODEL: (CLIENT, "as the upstream says"),
    FINISH_REASONS: (CLIENT, "one for each choice"),
    FIRST_CHUNK: (CLIENT, "of a stream: seconds from the call to its first content"),
    INPUT_TOKENS: (CLIENT, "of the prompt, the cached ones included"),
    OUTPUT_TOKENS: (CLIENT, "of the answer, those of reasoning included"),
    CACHED_TOKENS: (CLIENT, "those that the upstream had cached itself"),
    REASONING_TOKENS: (CLIENT, "those of reasoning"),
    SERVICE_TIER: (CLIENT, "of the answer"),
    ADDRESS: (CLIENT, "the upstream's host"),
    PORT: (CLIENT, "the upstream's port"),
    REQUEST_ID: (SERVER, "`X-Gateway-Request-Id`: the log line's and the ledger row's id"),
    KEY: (SERVER, "the key's name, never the key"),
    TEAM: (SERVER, "its team's name"),
    TAG: (SERVER, "and the tag's name: each of `X-Gateway-Tags`"),
    OUTCOME: (SERVER, "what ended the request, as in the log"),
    OVERHEAD: (SERVER, "seconds that the gateway itself took"),
    CACHE: (f"{SERVER}, {LOOKUP}", "`hit`, `miss`, `joined`, `bypass`; look-up: `hit`, `miss`"),
    CACHE_REASON: (SERVER, "why the cache was passed by, or the answer not kept"),
    CACHE_KEY: (SERVER, "16 hex digits"),
    CACHE_AGE: (LOOKUP, "of a hit: seconds"),
    SAVED_TOKENS: (SERVER, "that a hit, or joining, did not cost"),
    SAVED_COST: (SERVER, "dollars, likewise"),
    UPSTREAM: (f"{SERVER}, {CLIENT}", "the upstream's name in the configuration"),
    UPSTREAM_ID: (CLIENT, "its own `x-request-id`"),
    ATTEMPTS: (CLIENT, "calls made, where there was more than one; the span covers all"),
    QUEUED: (CLIENT, "seconds of waiting for a free connection"),
    USAGE_SOURCE: (CLIENT, "`upstream`, or `estimated`"),
    COST: (CLIENT, "dollars, by the price data"),
}  # fmt: skip
