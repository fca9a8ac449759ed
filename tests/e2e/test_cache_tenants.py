"""Whose answers they are: two keys never see, join, purge or time each other's entries (C4, C5)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from tests.e2e.cached import Lookups, admin, ask, figures, on_disk, state
from tests.e2e.conftest import Start, caching_config
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Events, Raw, chat, request
from tests.scripted.client import Scripted
from tests.scripted.providers import TEXT
from tests.scripted.replies import DONE, GATE, completion, hello, reply, stream

ANN = ("Authorization", "Bearer sk-ann-0001")
BOB = ("Authorization", "Bearer sk-bob-0002")
ONLY = ("Cache-Control", "only-if-cached")
NOBODY = ("X-Nothing", "1")
PAIRS = pytest.mark.parametrize(
    ("prefix", "one", "two"),
    [("own", ANN, BOB), ("open", ANN, BOB), ("shared", ANN, BOB), ("open", ANN, NOBODY),
     ("own", ANN, ("Authorization", "Bearer sk-ann-0001x")),
     ("own", ANN, ("Authorization", "Bearer SK-ANN-0001"))],
    ids=["own", "keyless", "shared", "anonymous", "longer", "case"],
)  # fmt: skip
Pair = tuple[str, str]


def answers(up: Scripted, *texts: str, prefix: str) -> str:
    return up.play(*(reply(completion(text)) for text in texts), prefix=prefix)


def said(answer: Any) -> Any:
    return answer.json()["choices"][0]["message"]["content"]


@PAIRS
def test_neither_sees_the_others(
    caching: Gateway, up: Scripted, prefix: str, one: Pair, two: Pair
) -> None:
    """The same body: other entries, under other keys, in both directions."""
    model = answers(up, "ann's", "bob's", prefix=prefix)
    assert said(ask(caching, chat(model), one)) == "ann's"
    ask(caching, chat(model), two, ONLY).error(504, "not_cached")
    miss = ask(caching, chat(model), two)
    assert (state(miss), said(miss)) == ("miss", "bob's")
    hits = [ask(caching, chat(model), who) for who in (one, two)]
    assert [(state(hit), said(hit)) for hit in hits] == [("hit", "ann's"), ("hit", "bob's")]
    keys = {hit.header("x-gateway-cache-key") for hit in hits}
    assert len(keys) == 2
    by_other_header = ask(caching, chat(model), ("api-key", one[1].removeprefix("Bearer ")))
    assert (state(by_other_header), said(by_other_header)) == ("hit", "ann's")


@PAIRS
def test_neither_joins_the_others(
    caching: Gateway, up: Scripted, prefix: str, one: Pair, two: Pair
) -> None:
    """Two calls in the air at once, each with its own answer."""
    looked = Lookups(caching)
    model = up.play(
        [GATE, *reply(completion("first"))], [GATE, *reply(completion("second"))], prefix=prefix
    )
    with ExitStack() as stack:
        raws = [stack.enter_context(Raw(caching.address)) for _ in range(4)]
        for number, (raw, who) in enumerate(zip(raws, (one, two, one, two), strict=True)):
            raw.send(request(CHAT, chat(model), [who]))
            looked.wait(number + 1)
            up.wait(model, "body", min(number, 1))
        up.go(model, 2)
        got = [raw.answer() for raw in raws]
    assert [state(answer) for answer in got] == ["miss", "miss", "joined", "joined"]
    assert said(got[0]) == said(got[2]) != said(got[1]) == said(got[3])
    assert len(up.calls(model)) == 2


def test_a_live_stream_is_not_joined(caching: Gateway, up: Scripted) -> None:
    model = up.play(
        [*stream(hello()[:1], close=False), GATE, *stream(hello()[1:])[1:]],
        stream(TEXT.events),
        prefix="own",
    )
    with Raw(caching.address) as raw:
        raw.send(request(CHAT, chat(model, stream=True), [ANN]))
        events = Events(raw)
        events.next()
        bobs = ask(caching, chat(model, stream=True), BOB)
        assert (state(bobs), bobs.body) == ("miss", b"".join([*TEXT.events[:-2], DONE]))
        up.go(model)
        assert events.rest()[-1] == DONE


def test_a_body_cannot_pretend(caching: Gateway, up: Scripted) -> None:
    """The scope is no part of the body, and nothing in a body is read as one."""
    model = answers(up, *"abcdef", prefix="own")
    ask(caching, chat(model), ANN)
    name = caching.line(model=model)["key"]
    for forged in (
        {"user": name},
        {"scope": f"passthrough:{name}"},
        {"metadata": {"key": name}},
    ):
        assert state(ask(caching, chat(model, **forged), BOB)) == "miss"
    for header in (("X-Gateway-Scope", name), ("X-Gateway-Key", name), ("api-key", "sk-ann-0001")):
        assert said(ask(caching, chat(model), BOB, header)) != "a"


def test_a_purge_takes_one_keys_alone(caching: Gateway, up: Scripted) -> None:
    model = answers(up, "ann's", "bob's", prefix="own")
    for who in (ANN, BOB):
        ask(caching, chat(model), who)
    anns = caching.log.wait(2, model=model)[0]["key"]
    assert admin(caching, "/admin/cache/purge", {"key": anns, "model": model}) == {"purged": 1}
    assert ask(caching, chat(model), ANN, ONLY).status == 504
    assert said(ask(caching, chat(model), BOB, ONLY)) == "bob's"


def test_the_others_entries_change_nothing_of_a_look_up(start: Start, up: Scripted) -> None:
    """Timing: a look-up is one get under a digest that has the scope in it. Whether the other's
    entry is there or not, the same is asked of memory and disk, and neither is found."""
    gateway = start(caching_config(up))
    known, unknown = (answers(up, "x", prefix="own") for _ in range(2))
    ask(gateway, chat(known), ANN)
    on_disk(gateway, 1)  # its own arrival is nothing that a look-up did

    def cost(model: str) -> tuple[int, ...]:
        before = figures(gateway)
        ask(gateway, chat(model), BOB, ONLY).error(504, "not_cached")
        after = figures(gateway)
        return tuple(
            after[tier][word] - before[tier][word]
            for tier in ("memory", "disk")
            for word in ("hits", "misses", "entries")
        )

    assert cost(known) == cost(unknown) == (0, 1, 0, 0, 1, 0)
    assert up.calls(unknown) == []


def test_global_scope_is_not_for_them(start: Start, up: Scripted) -> None:
    """Contract: for passthrough callers the scope is always the caller's own."""
    gateway = start(caching_config(up, scope="global"))
    model = answers(up, "ann's", "bob's", prefix="own")
    assert [state(ask(gateway, chat(model), who)) for who in (ANN, BOB)] == ["miss", "miss"]


def test_a_credential_is_asked_for_before_the_cache(caching: Gateway, up: Scripted) -> None:
    """C5: whoever may not, may not have what is kept either."""
    model = answers(up, "ann's", prefix="own")
    ask(caching, chat(model), ANN)
    ask(caching, chat(model), ("Authorization", "Bearer gw_unknown")).error(401, "invalid_api_key")
    ask(caching, chat(model)).error(403, "upstream_not_allowed")
