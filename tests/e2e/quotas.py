"""What tests of quotas do again and again: keys with limits, answers of a known size, how limits
stand."""

from __future__ import annotations

from typing import Any

from tests.e2e.cached import ask, metric, until
from tests.e2e.conftest import config_for
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Answer, chat
from tests.e2e.test_keys import admin
from tests.scripted.client import Scripted, Step
from tests.scripted.replies import DONE, completion, delta, finish, reply, stream, usage_event

PROMPT, TOOK = 11, 150  # tokens that the upstream tells of: of a prompt, of a whole call
BOUND = 2 + 64 + 16  # of the prompt `hi` (docs/quotas.md)
USAGE = {"prompt_tokens": PROMPT, "completion_tokens": TOOK - PROMPT, "total_tokens": TOOK}
DOLLAR = 10**9
PRICES = [{"name": name, "input": 1, "output": 1} for name in ("open-*", "own-*", "keyed-*")]


def config(up: Scripted, *, cache: bool = False, **quota: Any) -> dict[str, Any]:
    """A token of any kind costs a millionth of a dollar; nobody without a credential."""
    shared = config_for(up)
    return shared | {
        "cache": {"enabled": cache},
        "models": PRICES,
        "quota": quota,
        "keys": {"anonymous": "never"},
    }


def short(text: str = "Hello", reason: str = "stop", usage: dict[str, int] = USAGE) -> list[Step]:
    """An answer as JSON that says what it took."""
    body = completion(text, usage=usage)
    body["choices"][0]["finish_reason"] = reason
    return reply(body)


def streamed(*, paced: bool = False) -> list[Step]:
    """The same as a stream."""
    return stream([delta("Hello"), finish(), usage_event(USAGE), DONE], paced=paced)


def create(gateway: Gateway, name: str, **limits: Any) -> str:
    """The text of a new key with these limits."""
    status, made = admin(gateway, "POST", "/admin/keys", {"name": name, **limits})
    assert status in (200, 201), made
    return str(made["key"])


def team(gateway: Gateway, name: str, **limits: Any) -> None:
    status, made = admin(gateway, "PATCH", f"/admin/teams/{name}", limits)
    if status == 404:
        status, made = admin(gateway, "POST", "/admin/teams", {"name": name, **limits})
    assert status in (200, 201), made


def use(gateway: Gateway, key: str, body: dict[str, Any], *more: tuple[str, str]) -> Answer:
    """One request with that key."""
    return ask(gateway, body, ("Authorization", f"Bearer {key}"), *more, target=CHAT)


def say(gateway: Gateway, key: str, model: str, *, stream: bool = False, **more: Any) -> Answer:
    """One that says hi."""
    return use(gateway, key, chat(model, stream=stream, **more))


def standing(gateway: Gateway, name: str, kind: str = "keys") -> dict[str, dict[str, Any]]:
    """How the limits of a key or a team stand, by their names."""
    status, shown = admin(gateway, "GET", f"/admin/{kind}/{name}")
    assert status == 200, shown
    return dict(shown["quota"])


def used(gateway: Gateway, name: str, kind: str = "keys") -> dict[str, float]:
    """What is used of each of its limits; nothing is held."""
    found = standing(gateway, name, kind)
    assert not any(one["reserved"] for one in found.values()), found
    return {name: one["used"] for name, one in found.items()}


def at_rest(gateway: Gateway) -> None:
    """Nothing is under way and nothing is held: exactly 0 (F3)."""
    until(lambda: metric(gateway, "gateway_requests_in_flight") == 0, "no request under way")
    until(lambda: metric(gateway, "gateway_upstream_in_flight") == 0, "no call under way")
    until(lambda: metric(gateway, "gateway_quota_reserved") == 0, "nothing is held")


def booked(gateway: Gateway, by: str = "key") -> dict[str, dict[str, Any]]:
    """The sums of the ledger, by key or team."""
    status, rows = admin(gateway, "GET", f"/admin/usage?by={by}")
    assert status == 200, rows
    return {row[by]: row for row in rows}


def tokens(row: dict[str, Any]) -> int:
    return int(row["prompt_tokens"] + row["completion_tokens"])
