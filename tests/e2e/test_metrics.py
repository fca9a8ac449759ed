"""The metrics page of a real gateway: bounded, there from the start, whole (M1, M2, M6)."""

from __future__ import annotations

import http.client
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.metrics import TABLE
from tests.e2e.cached import until
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Raw, chat, request
from tests.e2e.test_keys import command, create
from tests.scripted.client import Scripted
from tests.scripted.replies import (
    DONE,
    completion,
    delta,
    error,
    finish,
    reply,
    stream,
    usage_event,
)

OUTPUT = "gateway_request_output_tokens_count"
NEWER = {"Accept": "application/openmetrics-text; version=1.0.0"}
RANDOM = 300
# Their rooms have nothing to say without a limit, a refusal or a full family.
SILENT = {
    *(spec.name for spec in TABLE if "quota" in spec.name),
    "gateway_ledger_errors_total",
    "gateway_journal_errors_total",
    "gateway_metric_series_capped_total",
    "gateway_cache_bypass_total",
}


def config(up: Scripted) -> dict[str, Any]:
    return {
        "upstreams": [
            {"name": "echo", "base_url": "echo:", "models": ["echo"]},
            {"name": "open", "base_url": up.url, "auth": "none", "models": ["small", "open-*"]},
        ],
        "keys": {"anonymous": "always"},
    }


@pytest.fixture(scope="module")
def gateway(up: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("metrics"), config(up)) as started:
        yield started


def samples(gateway: Gateway) -> list[Any]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=15)
    try:
        connection.request("GET", "/metrics", headers=NEWER)
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return [one for family in text_string_to_metric_families(text) for one in family.samples]


def of_key(gateway: Gateway, key: str) -> dict[str, float]:
    """The sum of each of its samples."""
    found: dict[str, float] = {}
    for one in samples(gateway):
        if one.labels.get("key") == key:
            found[one.name] = found.get(one.name, 0) + one.value
    return found


def series(gateway: Gateway) -> int:
    return sum(one.name.startswith("gateway_") for one in samples(gateway))


def test_every_configured_model_is_there_before_it_is_asked_for(gateway: Gateway) -> None:
    found = {
        (one.labels["code"], one.labels["cache"]): one.value
        for one in samples(gateway)
        if one.name == "gateway_requests_total" and one.labels["model"] == "small"
    }
    assert {("200", state) for state in ("hit", "miss", "joined", "bypass")} <= found.keys()
    assert not any(found.values())


def test_a_key_s_series_come_before_its_first_request_and_go_with_it(gateway: Gateway) -> None:
    """M2."""
    token = create(gateway, "carol")
    until(lambda: bool(of_key(gateway, "carol")), "series of the new key")
    assert not any(of_key(gateway, "carol").values())
    with Raw(gateway.address) as raw:
        assert (
            raw.ask(headers=[("Authorization", f"Bearer {token}")], body=chat("echo")).status == 200
        )
    until(lambda: of_key(gateway, "carol")["gateway_input_tokens_total"] > 0, "its tokens")
    assert of_key(gateway, "carol")["gateway_key_requests_total"] == 1
    command(gateway, "keys", "revoke", "carol")
    until(lambda: not of_key(gateway, "carol"), "no series of a revoked key")


def test_strangers_make_no_series(gateway: Gateway) -> None:
    """M1: random models that nobody serves, and random paths."""
    dice = random.Random(11)

    def word() -> str:
        return "".join(dice.choices("abcdefghijklmnopqrstuvwxyz-0123456789", k=12))

    def storm(number: int) -> None:
        with Raw(gateway.address) as raw:
            for _ in range(number):
                raw.send(request(CHAT, chat(word()))).answer()
                raw.send(request(f"/v1/{word()}/{word()}", b"{}")).answer()

    def counted(number: int) -> bool:
        others = [
            one.value
            for one in samples(gateway)
            if one.name == "gateway_requests_total" and one.labels["model"] == "other"
        ]
        return sum(others) == number

    storm(20)
    until(lambda: counted(40), "the first are counted")
    before = series(gateway)
    storm(RANDOM)
    until(lambda: counted(40 + 2 * RANDOM), "all are counted")
    assert series(gateway) == before


def missing(gateway: Gateway) -> set[str]:
    """Families that have no sample."""
    told = {one.name for one in samples(gateway)}
    endings = {"histogram": "_count", "summary": "_count"}
    return {one.name for one in TABLE if one.name + endings.get(one.type, "") not in told} - SILENT


def by_label(gateway: Gateway, name: str, label: str) -> dict[str, float]:
    return {one.labels[label]: one.value for one in samples(gateway) if one.name == name}


def test_every_family_is_fed(gateway: Gateway, up: Scripted) -> None:
    """And an exemplar leads to its request."""
    events = [delta("Hel"), delta("lo"), finish(), usage_event(), DONE]
    limits = [("x-ratelimit-remaining-requests", "41"), ("x-ratelimit-remaining-tokens", "9000")]
    up.play(stream(events, headers=limits), name="small")
    up.play(reply(error("500", "server_error", "no"), "500 Oops"), name="open-1")
    up.play(reply(completion()), name="open-2")
    with Raw(gateway.address) as raw:
        for body in (
            *(chat("small", stream=True), chat("small", stream=True)),
            *(chat("open-1"), chat("open-2")),
        ):
            raw.send(request(CHAT, body)).answer()
    until(lambda: "open-2" in by_label(gateway, OUTPUT, "model"), "the last call is counted")
    assert missing(gateway) == set()
    assert by_label(gateway, "gateway_upstream_ratelimit_remaining", "kind") == {
        "requests": 41,
        "tokens": 9000,
    }
    # How much is a matter of time: on a busy machine the call may be the quicker one.
    assert "small" in by_label(gateway, "gateway_cache_saved_seconds_total", "model")
    marks = [one.exemplar.labels["request_id"] for one in samples(gateway) if one.exemplar]
    assert set(marks) <= {line["id"] for line in gateway.log.look()}
    assert marks


def test_a_reload_brings_series_of_new_models(up: Scripted, tmp_path: Path) -> None:
    made = config(up)
    with Gateway(tmp_path, made) as gateway:
        made["upstreams"].append({"name": "more", "base_url": up.url, "models": ["later"]})
        gateway.write(made)
        gateway.stderr.until(lambda said: next((x for x in said if "reload" in x.lower()), None))
        until(
            lambda: any(one.labels.get("model") == "later" for one in samples(gateway)),
            "series of the new model",
        )
        assert not any(one.value for one in samples(gateway) if one.labels.get("model") == "later")
