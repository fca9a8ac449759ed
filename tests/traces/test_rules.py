"""The spans that an Exchange makes: which, when, with what; never a prompt, answer or secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import UpstreamSection
from gateway.exchange import (
    CacheState,
    Cost,
    Exchange,
    Outcome,
    Summary,
    Timings,
    TraceContext,
    Usage,
    UsageSource,
)
from gateway.traces import names, rules
from gateway.wire.trace import Parent
from tests.exchanges import exchange

CONTEXT = TraceContext("a" * 32, "b" * 16, "c" * 16, 1, "d" * 16, "v=1")
OPENAI = rules.Target("openai", "api.openai.com", 443)
AT = 1_750_000_000_250_000_000
TIMES = Timings(
    admitted=1.5, looked_up=2.0, called=2.5, connected=3.0, first_byte=203.25, first_token=210.0,
    last_byte=900.0, booked=901.0, total=902.0, queued=0.5, upstream=890.0,
)  # fmt: skip
PAGE = (Path(__file__).parents[2] / "docs" / "traces.md").read_text("utf-8")


def spans(**changes: Any) -> dict[str, rules.Span]:
    x = exchange(**{"context": CONTEXT, "timings": TIMES, "cache": CacheState.MISS, **changes})
    made = rules.spans(x, CONTEXT, OPENAI, "http")
    assert len(made) == rules.count(x) == len({span.kind for span in made})
    return {span.kind: span for span in made}


def ended(outcome: Outcome, status: int, error: str | None = None, **more: Any) -> dict[str, Any]:
    return {"outcome": outcome, "status": status, "error": error, **more}


# Which --------------------------------------------------------------------------------------------


def test_a_miss_has_three_spans() -> None:
    made = spans()
    assert {kind: (span.name, span.id, span.parent) for kind, span in made.items()} == {
        names.SERVER: ("POST /v1/chat/completions", "b" * 16, "d" * 16),
        names.LOOKUP: ("cache.lookup", "", "b" * 16),
        names.CLIENT: ("chat gpt-4o-2024", "c" * 16, "b" * 16),
    }
    assert [span.remote for span in made.values()] == [True, False, False]
    assert not any(span.error for span in made.values())


def test_their_times_are_the_exchanges() -> None:
    made = spans()
    assert {kind: (span.start - AT, span.end - AT) for kind, span in made.items()} == {
        names.SERVER: (0, 902_000_000),
        names.LOOKUP: (1_500_000, 2_000_000),
        names.CLIENT: (2_500_000, 900_000_000),
    }


def test_a_hit_has_no_call() -> None:
    made = spans(cache=CacheState.HIT, attempts=0, cache_age=4.5, saved=Usage(10, 5))
    assert made.keys() == {names.SERVER, names.LOOKUP}
    assert made[names.SERVER].attributes[names.CACHE] == "hit"
    assert made[names.SERVER].attributes[names.SAVED_TOKENS] == 15
    assert made[names.LOOKUP].attributes == {names.CACHE: "hit", names.CACHE_AGE: 4.5}


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"cache": CacheState.JOINED, "attempts": 0}, {names.SERVER, names.LOOKUP}),
        ({"timings": Timings(total=1.0), "attempts": 0}, {names.SERVER}),
        (
            {"cache": CacheState.BYPASS, "timings": Timings(called=1.0)},
            {names.SERVER, names.CLIENT},
        ),
        (ended(Outcome.REFUSED, 404, "model_not_found", timings=Timings()), {names.SERVER}),
    ],
)
def test_there_is_a_span_for_what_was_done(changes: dict[str, Any], kinds: set[str]) -> None:
    assert spans(**changes).keys() == kinds


def test_strangers_are_not_recorded() -> None:
    assert rules.is_recorded(exchange(context=CONTEXT))
    assert not rules.is_recorded(exchange(context=CONTEXT, caller=None))
    assert not rules.is_recorded(exchange(context=None))
    unsampled = TraceContext("a" * 32, "b" * 16, "c" * 16, 2)
    assert not rules.is_recorded(exchange(context=unsampled))


# Sampling -----------------------------------------------------------------------------------------

FRESH = "1" * 32 + "2" * 16 + "3" * 16


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_the_caller_decides(flags: int, part: float) -> None:
    placed = rules.place(Parent("a" * 32, "d" * 16, flags), "v=1", part, FRESH)
    assert placed == TraceContext("a" * 32, "2" * 16, "3" * 16, flags, "d" * 16, "v=1")


def test_flags_that_nobody_knows_are_not_passed_on() -> None:
    """W3C, section 3.2.2.5.2."""
    assert rules.place(Parent("a" * 32, "d" * 16, 0xFF), None, 1.0, FRESH).flags == 3


def test_a_state_without_its_parent_or_too_long_is_dropped() -> None:
    assert rules.place(None, "v=1", 1.0, FRESH) == TraceContext("1" * 32, "2" * 16, "3" * 16, 1)
    long = f"v={'1' * 600}"
    assert rules.place(Parent("a" * 32, "d" * 16, 1), long, 1.0, FRESH).state is None


@given(st.integers(0, 2**128 - 1))
def test_all_or_nothing(number: int) -> None:
    assert rules.is_sampled(f"{number:032x}", 1.0)
    assert not rules.is_sampled(f"{number:032x}", 0.0)


@given(st.integers(0, 2**128 - 1), st.sampled_from([0.0, 0.0001, 0.25, 0.5, 1.0]))
def test_it_decides_as_opentelemetry_does(number: int, part: float) -> None:
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    theirs = TraceIdRatioBased(part).should_sample(None, number, "").decision.is_sampled()
    assert rules.is_sampled(f"{number:032x}", part) == theirs


# Errors -------------------------------------------------------------------------------------------

UNDONE = Timings(called=2.5, booked=9.0, total=9.0)


@pytest.mark.parametrize(
    ("changes", "server", "client"),
    [
        (ended(Outcome.OK, 200), None, None),
        (ended(Outcome.UPSTREAM_STATUS, 429, "upstream_429"), None, "upstream_429"),
        (ended(Outcome.UPSTREAM_STATUS, 500, "upstream_500"), "upstream_500", "upstream_500"),
        (ended(Outcome.UPSTREAM_TIMEOUT, 504, "upstream_timeout"), *["upstream_timeout"] * 2),
        (ended(Outcome.UPSTREAM_TRUNCATED, 200, "upstream_error"), *["upstream_error"] * 2),
        (ended(Outcome.UPSTREAM_IN_BAND_ERROR, 200, "in_band_error"), *["in_band_error"] * 2),
        (ended(Outcome.CLIENT_DISCONNECT, 499, "client_disconnect"), None, None),
        (ended(Outcome.INTERNAL, 500, "internal_error"), "internal_error", None),
        (
            ended(Outcome.INTERNAL, 500, "internal_error", timings=UNDONE),
            *["internal_error"] * 2,
        ),
        (ended(Outcome.DRAINED, 200, "draining", timings=UNDONE), "draining", "draining"),
    ],
)
def test_an_error_is_recorded_where_it_is_one(
    changes: dict[str, Any], server: str | None, client: str | None
) -> None:
    """recording-errors.md; http-spans.md: a 4xx is no error of the server's."""
    made = spans(**changes)
    for kind, error in ((names.SERVER, server), (names.CLIENT, client)):
        assert made[kind].error == error
        assert made[kind].attributes.get(names.ERROR) == error


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (ended(Outcome.REFUSED, 429, "insufficient_quota"), None),
        (ended(Outcome.REFUSED, 503, "ledger_unavailable"), "ledger_unavailable"),
    ],
)
def test_a_refusal_is_an_error_from_500_on(changes: dict[str, Any], error: str | None) -> None:
    assert spans(**changes)[names.SERVER].error == error


def test_a_call_without_an_end_lasts_until_it_was_booked() -> None:
    made = spans(**ended(Outcome.UPSTREAM_ERROR, 502, "upstream_error", timings=UNDONE))
    assert made[names.CLIENT].end - AT == 9_000_000
    assert names.STATUS not in made[names.CLIENT].attributes


# What they say ------------------------------------------------------------------------------------


def test_the_calls_span_follows_the_genai_conventions() -> None:
    said = Summary(
        finish_reasons=("stop", "length"), model="gpt-4o-2024-08-06", service_tier="flex"
    )
    usage = Usage(12, 34, 5, 6, UsageSource.UPSTREAM)
    assert spans(summary=said, usage=usage, cost=Cost(1_500_000))[names.CLIENT].attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-2024",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.response.finish_reasons": ("stop", "length"),
        "gen_ai.response.time_to_first_chunk": 0.2075,
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 34,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.reasoning.output_tokens": 6,
        "openai.response.service_tier": "flex",
        "http.response.status_code": 200,
        "server.address": "api.openai.com",
        "server.port": 443,
        "gateway.upstream.name": "openai",
        "gateway.upstream.request_id": "req_upstream",
        "gateway.upstream.queued": 0.0005,
        "gateway.usage.source": "upstream",
        "gateway.cost_usd": 0.0015,
    }


def test_a_call_that_is_no_models_is_plain_http() -> None:
    call = spans(endpoint="files", model=None, model_served=None, stream=False)[names.CLIENT]
    assert call.name == "POST /v1/files"
    assert call.attributes[names.METHOD] == "POST"
    assert not {names.OPERATION, names.PROVIDER} & call.attributes.keys()


def test_a_strange_method_makes_no_name() -> None:
    server = spans(method="BREW" * 100)[names.SERVER]
    assert server.name == "HTTP /v1/chat/completions"
    assert server.attributes[names.METHOD] == "_OTHER"
    assert len(str(server.attributes[names.METHOD_ORIGINAL])) == rules.LONGEST


def test_texts_are_cut() -> None:
    huge = "x" * 10_000
    said = Summary(model=huge, finish_reasons=(huge,), service_tier=huge)
    made = spans(path=huge, model=huge, model_served=huge, upstream_request_id=huge, summary=said)
    longest = rules.LONGEST + len("chat ")
    for span in made.values():
        texts = [span.name]
        for value in span.attributes.values():
            texts += value if isinstance(value, tuple) else [str(value)]
        assert max(map(len, texts)) <= longest


@pytest.mark.parametrize(
    ("base_url", "target"),
    [
        ("https://api.openai.com/v1", rules.Target("openai", "api.openai.com", 443)),
        (
            "https://me.openai.azure.com/openai/v1/",
            rules.Target("azure.ai.openai", "me.openai.azure.com", 443),
        ),
        (
            "https://us-east5-aiplatform.googleapis.com/v1",
            rules.Target("gcp.vertex_ai", "us-east5-aiplatform.googleapis.com", 443),
        ),
        ("http://127.0.0.1:8000", rules.Target("mine", "127.0.0.1", 8000)),
        ("https://notapi.openai.com.evil.example", None),
        ("echo:", rules.Target("mine")),
    ],
)
def test_a_provider_is_known_by_its_host(base_url: str, target: rules.Target | None) -> None:
    [found] = rules.targets([UpstreamSection("mine", base_url)]).values()
    assert found == target or (target is None and found.provider == "mine")


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("https://c/api/public/otel/v1/traces", "https://c/api/public/otel/v1/traces"),
    ],
)
def test_a_bare_endpoint_gets_the_usual_path(endpoint: str, url: str) -> None:
    assert rules.traces_url(endpoint) == url


# The table ----------------------------------------------------------------------------------------


def conventions() -> set[str]:
    """All attribute names of the conventions' package."""
    from opentelemetry.semconv import _incubating
    from opentelemetry.semconv._incubating.attributes import (
        error_attributes,
        gen_ai_attributes,
        http_attributes,
        openai_attributes,
        server_attributes,
        url_attributes,
    )

    assert _incubating
    modules = [error_attributes, gen_ai_attributes, http_attributes]
    modules += [openai_attributes, server_attributes, url_attributes]
    return {v for m in modules for k, v in vars(m).items() if k.isupper() and isinstance(v, str)}


def test_the_names_are_those_of_the_conventions() -> None:
    from opentelemetry.semconv.schemas import Schemas

    theirs = {name for name in names.TABLE if not name.startswith("gateway.")}
    assert len(theirs) > 20
    assert theirs <= conventions()
    assert names.SCHEMA_URL in {schema.value for schema in Schemas}


def everything() -> Exchange:
    return exchange(
        context=CONTEXT,
        timings=TIMES,
        method="BREW",
        cache=CacheState.MISS,
        cache_reason="incomplete",
        cache_key="0" * 16,
        cache_age=1.0,
        attempts=2,
        saved=Usage(1, 2),
        saved_cost=Cost(1),
        cost=Cost(1),
        outcome=Outcome.UPSTREAM_IN_BAND_ERROR,
        summary=Summary(finish_reasons=("stop",), model="m", service_tier="t"),
    )


def test_each_attribute_stands_in_the_table_and_on_the_page() -> None:
    used: dict[str, set[str]] = {}
    for x in (everything(), exchange(endpoint="files", context=CONTEXT, timings=TIMES)):
        for span in rules.spans(x, CONTEXT, OPENAI, "http"):
            for name in span.attributes:
                used.setdefault(name, set()).add(span.kind)
    tags = used.pop(f"{names.TAG}team")
    assert {**used, names.TAG: tags} == {
        name: set(on.split(", ")) for name, (on, _) in names.TABLE.items() if name != names.TEAM
    }
    for name, (on, meaning) in names.TABLE.items():
        assert f"| `{name}{'NAME' if name == names.TAG else ''}` | {on} | {meaning} |" in PAGE
    assert names.SEMCONV in PAGE


def test_no_secret_stands_in_a_span() -> None:
    x = everything()
    assert x.caller is not None and x.caller.token
    shown = repr(rules.spans(x, CONTEXT, OPENAI, "http"))
    assert x.caller.token not in shown
    assert x.caller.id not in shown
    assert x.client not in shown
