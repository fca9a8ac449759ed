"""What may be read and kept, and what an equal request is (C1-C9, D1, D2)."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.cache import rules
from gateway.cache.rules import (
    NO_WISH,
    Landing,
    Policies,
    Traits,
    Wish,
    bypass_reason,
    identity,
    landed,
    may_keep,
    read_wish,
    scope_of,
    traits_of,
)
from gateway.config import Cache, CacheRule, Duration, Scope, Size
from gateway.entry import is_like
from gateway.exchange import Caller, CallerKind, Summary, Usage
from tests.cache.samples import entry, recording

POLICY = Policies(Cache()).of("gpt-4o")

# Wishes (C8) -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache_control", "ttl", "wish"),
    [
        (None, None, NO_WISH),
        ("", "", NO_WISH),
        ("no-cache", None, Wish(reads=False)),
        ("No-Cache", None, Wish(reads=False)),
        ('no-cache="field"', None, Wish(reads=False)),
        ("no-store", None, Wish(reads=False, keeps=False)),
        ("max-age=60", None, Wish(max_age=60)),
        ('MAX-AGE = "60"', None, Wish(max_age=60)),
        ("max-age=0", None, Wish(max_age=0)),
        ("max-age=60, max-age=5", None, Wish(max_age=5)),
        ("max-age=junk, max-age=5", None, Wish(max_age=5)),
        ("max-age=5, max-age=junk", None, Wish(max_age=5)),
        ("max-age=" + "9" * 30, None, Wish(max_age=2**31)),
        *((f"max-age={junk}", None, NO_WISH) for junk in ("", "-1", "1.5", "1e3", "x", "٣", "0x1")),
        ("max-age", None, NO_WISH),
        ("only-if-cached", None, Wish(only_if_cached=True)),
        ("no-cache , only-if-cached,max-age=3", None, Wish(False, True, 3, True)),
        ("no-transform, private, foo=bar, ,=,", None, NO_WISH),
        (None, "60", Wish(ttl=60)),
        (None, " 60 ", Wish(ttl=60)),
        (None, "0", Wish(keeps=False, ttl=0)),
        *((None, junk, NO_WISH) for junk in ("-1", "1.5", "x", "1h", "60, 70")),
    ],
)
def test_a_wish_is_read_and_junk_is_ignored(cache_control, ttl, wish):
    assert read_wish(cache_control, ttl) == wish


@given(st.text(), st.text())
def test_no_header_makes_it_raise(cache_control, ttl):
    assert isinstance(read_wish(cache_control, ttl), Wish)


def test_controls_that_a_key_may_not_use_are_ignored():
    asked = "no-cache, no-store, max-age=5, only-if-cached"
    assert read_wish(asked, "60", frozenset()) == NO_WISH
    assert read_wish(asked, "60", frozenset({rules.MAX_AGE, rules.TTL})) == Wish(max_age=5, ttl=60)


def test_a_ttl_lowers_and_raises_up_to_the_most():
    assert POLICY.ttl_for(NO_WISH) == 86_400
    assert POLICY.ttl_for(Wish(ttl=60)) == 60
    assert POLICY.ttl_for(Wish(ttl=7 * 86_400)) == 7 * 86_400
    assert POLICY.ttl_for(Wish(ttl=365 * 86_400)) == 30 * 86_400


# Policies ----------------------------------------------------------------------------------------


def test_off_anywhere_is_off_and_the_nearest_time_counts():
    off = CacheRule(["*-search"], enabled=False)
    quick = CacheRule(["gpt-*"], ttl=Duration(60), sampled=False, enabled=True)
    policies = Policies(Cache(models=[off, quick]))
    assert not policies.of("gpt-4o-search").enabled  # the first rule that matches holds
    assert policies.of("llama").enabled
    assert not policies.of("llama", enabled=False).enabled
    assert not policies.of("gpt-4o", enabled=False).enabled
    assert not Policies(Cache(enabled=False, models=[quick])).of("gpt-4o").enabled
    assert policies.of("gpt-4o", ttl=600).ttl == 60
    assert policies.of("llama", ttl=600).ttl == 600
    assert policies.of("llama", ttl=1e9).ttl == 30 * 86_400
    assert (policies.of("gpt-4o").sampled, policies.of("llama").sampled) == (False, True)


@pytest.mark.parametrize(
    ("name", "pattern", "like"),
    [
        ("gpt-4o", "gpt-4o", True), ("gpt-4o", "gpt-4", False), ("gpt-4o", "GPT-4o", False),
        ("gpt-4o", "*", True), ("", "*", True), ("gpt-4o", "gpt-*", True), ("gpt-", "gpt-*", True),
        ("gpt-4o", "*o", True), ("gpt-4o", "g*4*", True), ("gpt-4o", "g*o*4", False),
        ("aba", "ab*ba", False), ("abba", "ab*ba", True), ("a[b]?", "a[b]?", True),
        ("ab", "a?", False), ("a" * 5000, "*a" * 50 + "b", False), ("axbxc", "a**c", True),
    ],
)  # fmt: skip
def test_patterns(name, pattern, like):
    assert is_like(name, pattern) is like


# Bypasses (C9) -----------------------------------------------------------------------------------

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, None),
        ({"store": True}, "store"),
        ({"store": False}, None),
        ({"store": None}, None),
        ({"background": True}, "background"),
        ({"background": False}, None),
        ({"web_search_options": {}}, "web_search_options"),
        ({"web_search_options": None}, None),
        ({"temperature": 1.5, "n": 3}, None),
    ],
)
def test_what_never_comes_near_the_cache(more, reason):
    assert bypass_reason(traits_of({**CHAT, **more}), NO_WISH, POLICY) == reason


@pytest.mark.parametrize(
    ("more", "sampled"),
    [
        ({}, True),
        ({"temperature": None}, True),
        ({"temperature": 0}, False),
        ({"temperature": 0.0}, False),
        ({"temperature": -0.0}, False),
        ({"temperature": 1e-9}, True),
        ({"temperature": False}, True),
        ({"temperature": "0"}, True),
        ({"temperature": 0, "n": 1}, False),
        ({"temperature": 0, "n": 2}, True),
        ({"temperature": 1, "seed": 7}, True),
    ],
)
def test_what_is_drawn_by_lot_passes_by_where_sampled_is_off(more, sampled):
    """C9: documented; absent means OpenAI's 1, and a seed is no promise."""
    off = replace(POLICY, sampled=False)
    assert traits_of({**CHAT, **more}).sampled is sampled
    assert bypass_reason(traits_of({**CHAT, **more}), NO_WISH, off) == (
        "sampled" if sampled else None
    )


def test_the_other_bypasses():
    plain = Traits(None, False)
    assert bypass_reason(plain, NO_WISH, replace(POLICY, enabled=False)) == "disabled"
    assert bypass_reason(plain, read_wish("no-store", None), POLICY) == "no_store"
    assert bypass_reason(traits_of(CHAT, "nan"), NO_WISH, POLICY) == "not_canonical"
    for looked_up_or_kept in ("no-cache", "max-age=0", "only-if-cached"):
        assert bypass_reason(plain, read_wish(looked_up_or_kept, None), POLICY) is None
    assert bypass_reason(plain, read_wish(None, "0"), POLICY) is None


# What may be kept (D1) ---------------------------------------------------------------------------

WHOLE = Summary(usage=Usage(), finish_reasons=("stop",), complete=True)
JSON = Landing(200, "application/json", False, WHOLE, 100)
STREAM = Landing(200, "text/event-stream; charset=utf-8", True, WHOLE, 100)


def ended(landing: Landing, **summary: object) -> Landing:
    return replace(landing, summary=replace(WHOLE, **summary))


REFUSED = [
    ("status", replace(JSON, status=201)),
    ("status", replace(JSON, status=206)),
    ("status", replace(JSON, status=429)),
    ("status", replace(JSON, status=500)),
    ("encoded", replace(JSON, encoded=True)),
    ("content_type", replace(JSON, content_type="text/event-stream")),
    ("content_type", replace(JSON, content_type="text/html")),
    ("content_type", replace(JSON, content_type="")),
    ("content_type", replace(JSON, content_type="application/jsonl")),
    ("content_type", replace(STREAM, content_type="application/json")),
    ("too_large", replace(JSON, size=POLICY.max_entry + 1)),
    ("too_large", ended(JSON, missing="too_large")),
    ("error", ended(JSON, error=True)),
    ("error", ended(STREAM, error=True)),
    ("not_json", ended(JSON, missing="not_json", complete=False, finish_reasons=())),
    ("not_json", ended(STREAM, observer_errors=1)),
    ("incomplete", ended(JSON, complete=False)),
    ("incomplete", ended(STREAM, complete=False)),
    ("incomplete", replace(STREAM, choices=2)),
    ("no_choices", ended(JSON, finish_reasons=())),
    ("no_choices", ended(STREAM, finish_reasons=())),
    *(
        ("finish_reason", ended(landing, finish_reasons=reasons))
        for landing in (JSON, STREAM)
        for reasons in (("length",), ("content_filter",), ("stop", "length"), ("unheard-of",))
    ),
    ("clamped", replace(ended(JSON, finish_reasons=("length",)), clamped=True)),
]


@pytest.mark.parametrize(("reason", "landing"), REFUSED)
def test_each_refusal_has_its_word(reason, landing):
    assert may_keep(landing, NO_WISH, POLICY) == reason
    assert reason in rules.REFUSALS


def test_each_word_is_tested():
    assert {reason for reason, _ in REFUSED} | {"no_store"} == rules.REFUSALS


@pytest.mark.parametrize(
    "landing",
    [
        JSON, STREAM,
        replace(JSON, content_type="Application/JSON ; charset=utf-8"),
        replace(JSON, size=POLICY.max_entry),
        replace(JSON, choices=2),  # the upstream gave one, and all that it gave is here
        replace(ended(STREAM, finish_reasons=("stop", "tool_calls")), choices=2),
        ended(JSON, finish_reasons=("function_call",)),
        ended(STREAM, usage=None, missing="no_usage"),
        replace(JSON, clamped=True),  # it stopped of itself, below the lowered cap
    ],
)  # fmt: skip
def test_what_is_whole_is_kept(landing):
    assert may_keep(landing, NO_WISH, POLICY) is None
    assert may_keep(landing, read_wish("no-cache, max-age=0", "60"), POLICY) is None
    assert may_keep(landing, read_wish("no-store", None), POLICY) == "no_store"
    assert may_keep(landing, read_wish(None, "0"), POLICY) == "no_store"


def test_a_finish_reason_may_be_added_and_a_clamped_end_stays_out():
    lenient = Policies(Cache(finish_reasons=["stop", "length"], max_entry=Size(100))).of("m")
    cut = ended(JSON, finish_reasons=("length",))
    assert may_keep(cut, NO_WISH, lenient) is None
    assert may_keep(replace(cut, clamped=True), NO_WISH, lenient) == "clamped"


# Two forms ---------------------------------------------------------------------------------------


def test_the_later_landing_takes_its_own_form_and_the_older_other_one_where_it_can():
    old = replace(
        entry(b"json", created=10), stream=recording(b"sse", created=10, request_id="01O")
    )
    new = entry(b"new", created=20, form="stream")
    assert landed(None, new, converts=False) == new
    assert landed(old, new, converts=True) == new
    assert landed(old, new, converts=False) == replace(old, stream=new.stream)
    later = replace(old, json=recording(b"later", created=30))
    assert landed(later, new, converts=True) == replace(later, stream=new.stream)
    assert landed(replace(old, json=None), new, converts=False) == new


# Identity (C1-C4) --------------------------------------------------------------------------------

REQUEST: dict[str, Any] = {
    "scope": "issued:1",
    "path": "chat/completions",
    "query": "",
    "upstream": "openai",
    "base_url": "https://api.openai.com/v1",
    "model": "gpt-4o",
    "headers": [("openai-beta", "a=1")],
    "body": b'{"model":"gpt-4o"}',
}


@pytest.mark.parametrize("part", REQUEST)
def test_each_part_counts(part):
    changed = {
        **REQUEST,
        part: b"other" if part == "body" else [("openai-beta", "b")] if part == "headers" else "x",
    }
    assert identity(**changed) != identity(**REQUEST)


def test_headers_count_in_any_order_and_case():
    same = [(name.title(), value) for name, value in REQUEST["headers"]]
    assert identity(**{**REQUEST, "headers": same}) == identity(**REQUEST)
    two = [("openai-organization", "o"), ("openai-project", "p")]
    one_way = identity(**{**REQUEST, "headers": two})
    assert identity(**{**REQUEST, "headers": two[::-1]}) == one_way != identity(**REQUEST)
    swapped = [("openai-organization", "p"), ("openai-project", "o")]
    assert identity(**{**REQUEST, "headers": swapped}) != one_way


def test_there_is_no_identity_without_a_scope():
    with pytest.raises(ValueError, match="without a scope"):
        identity(**{**REQUEST, "scope": ""})


TEXT = st.text(max_size=6)


@given(
    st.lists(TEXT, min_size=6, max_size=6), st.lists(TEXT, min_size=6, max_size=6),
    st.lists(st.tuples(TEXT, TEXT), max_size=2), st.lists(st.tuples(TEXT, TEXT), max_size=2),
    st.binary(max_size=6), st.binary(max_size=6),
)  # fmt: skip
def test_no_part_pretends_to_be_another(one, other, heads, others, body, another):
    """C4: whatever a body or a header holds, it is not a scope. Equal only where all is equal."""

    def digest(texts: list[str], headers: list[tuple[str, str]], text: bytes) -> bytes:
        names = ("path", "query", "upstream", "base_url", "model")
        rest = dict(zip(names, texts[1:], strict=True))
        return identity(
            scope="s" + texts[0],
            headers=[(f"openai-{k}", v) for k, v in headers],
            body=text,
            **rest,
        )

    def parts(texts, headers, text):
        return texts, sorted((k.lower(), v) for k, v in headers), text

    equal = parts(one, heads, body) == parts(other, others, another)
    assert (digest(one, heads, body) == digest(other, others, another)) is equal


def test_the_digest_is_the_same_in_every_process_and_version():
    """C3: over restarts and PYTHONHASHSEED. Another digest needs another FORMAT."""
    expected = "f79aa13c49e47e0d0171be92059792da504af64f92a9b2eae916e829dd1992af"
    assert identity(**REQUEST).hex() == expected
    code = f"from gateway.cache.rules import identity; print(identity(**{REQUEST!r}).hex())"
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        )  # fmt: skip
        assert done.stdout.strip() == expected


def test_scopes():
    """C4: the caller's own by default; sharing is for issued keys only."""
    issued = Caller(CallerKind.ISSUED, "1", "a")
    passing = Caller(CallerKind.PASSTHROUGH, "1", "a")
    nobody = Caller(CallerKind.ANONYMOUS, "1", "a")
    own = [scope_of(caller, Scope.KEY) for caller in (issued, passing, nobody)]
    assert len(set(own)) == 3
    for scope in (Scope.TEAM, Scope.GLOBAL):
        assert scope_of(passing, scope, "t") == own[1]
        assert scope_of(nobody, scope, "t") == own[2]
    other = Caller(CallerKind.ISSUED, "2", "b")
    assert scope_of(other, Scope.KEY) != own[0]
    assert scope_of(issued, Scope.TEAM, "t") == scope_of(other, Scope.TEAM, "t") != own[0]
    assert scope_of(issued, Scope.TEAM, "t") != scope_of(issued, Scope.TEAM, "u")
    assert scope_of(issued, Scope.TEAM) == own[0]
    assert scope_of(issued, Scope.GLOBAL) == scope_of(other, Scope.GLOBAL)
    assert scope_of(Caller(CallerKind.ISSUED, "x", "x"), Scope.TEAM, "global") != scope_of(
        issued, Scope.GLOBAL
    )
