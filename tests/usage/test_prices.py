"""Prices are those of the data's own package, to the last digit, without loading it."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ModelSection, Price, TierPrice
from gateway.exchange import NO_COST, NO_USAGE, Cost, Usage, UsageSource
from gateway.usage.prices import BUILTIN, REMEMBERED, PriceList
from gateway.usage.rules import flat, nano, tokens_of
from gateway.usage.snapshot import Daily, Model, Since, Snapshot, load, takes
from tests.usage.samples import SetClock

ROOT = Path(__file__).parents[2]
OPENAI = "https://api.openai.com/v1"
USAGE = Usage(1000, 100, 200, 0, UsageSource.UPSTREAM)
AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def data() -> Snapshot:
    return load()


def prices(data: Snapshot, *models: ModelSection) -> PriceList:
    return PriceList(models, SetClock(AT.timestamp()), lambda: data)


def cost(found: PriceList, model: str, url: str = OPENAI, tier: str | None = None) -> Cost:
    return found.cost("openai", url, model, USAGE, tier)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tier", [None, "default", "flex", "priority"])
@pytest.mark.parametrize("prompt", [1000, 300_000])
def test_each_price_is_the_one_that_the_package_works_out(data, tier, prompt):
    """The oracle is the package itself: every model of those who sell here most."""
    import genai_prices
    from genai_prices.data_snapshot import get_snapshot

    usage = Usage(prompt, 500, 200, source=UsageSource.UPSTREAM)
    oracle = genai_prices.Usage(input_tokens=prompt, output_tokens=500, cache_read_tokens=200)
    context = None if tier is None else {"service_tier": tier}
    compared = 0
    for provider in get_snapshot().providers:
        if provider.id not in {"openai", "anthropic", "google", "deepseek", "mistral", "groq"}:
            continue
        mine = next(one for one in data.providers if one.id == provider.id)
        for model in provider.models:
            try:
                wanted = model.calc_price(
                    oracle, provider, genai_request_timestamp=AT, price_context=context
                )
            except ValueError:
                continue  # has prices for other things than these tokens
            if any(takes(one.match, model.id.lower()) for one in mine.models):
                found = next(one for one in mine.models if takes(one.match, model.id.lower()))
                if found.match != mine.models[provider.models.index(model)].match:
                    continue  # an earlier model takes this name
                rates = found.rates(AT, tier)
                mined = 0 if rates is None else nano(rates.pico(tokens_of(usage)))
                per_call = getattr(wanted.model_price, "requests_kcount", None) or 0
                exact = (wanted.total_price - Decimal(per_call) / 1000) * 10**9
                assert abs(exact - mined) <= 1, (provider.id, model.id)
                compared += 1
    assert compared > 200


def test_the_version_is_the_package_s(data):
    from importlib.metadata import version

    assert data.version == version("genai-prices") == cost(prices(data), "gpt-4o").version


def test_loading_the_data_loads_neither_the_package_nor_what_it_needs():
    code = (
        "import sys; from gateway.usage.snapshot import load; assert load().providers; "
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"genai_prices", "pydantic", "httpx2"} & set(done.stdout.split())


def test_who_serves_decides_and_else_the_model_s_name(data):
    found = prices(data)
    assert cost(found, "gpt-4o").nano_usd == 2_000_000 + 250_000 + 1_000_000
    assert cost(found, "gpt-4o", "http://10.0.0.1:8000/v1") == cost(found, "gpt-4o")
    assert cost(found, "gpt-4o", "https://api.deepseek.com") == NO_COST  # not sold there


@pytest.mark.parametrize("model", ["my-llama", "", "gpt-4o-of-mine-own", "a" * 100_000])
def test_what_has_no_price_has_no_cost_and_never_zero(data, model):
    assert cost(prices(data), model, "http://10.0.0.1:8000/v1") == NO_COST
    assert NO_COST.nano_usd is None


def test_a_tier_has_its_price_and_an_unknown_one_the_usual(data):
    found = prices(data)
    flex, usual = cost(found, "o3", tier="flex").nano_usd, cost(found, "o3").nano_usd
    assert flex is not None
    assert usual is not None
    assert flex * 2 == usual
    assert cost(found, "o3", tier="scale") == cost(found, "o3", tier="default") == cost(found, "o3")


def test_echo_costs_nothing_and_says_so(data):
    assert (
        prices(data).cost("echo", "echo:", "anything", USAGE, None) == BUILTIN == Cost(0, "builtin")
    )


def test_unknown_usage_has_an_unknown_cost(data):
    assert prices(data).cost("openai", OPENAI, "gpt-4o", NO_USAGE, None) == NO_COST


def test_the_configuration_s_price_stands_above_the_data(data):
    tiers = {"flex": TierPrice(output=Price(1_000_000))}
    mine = ModelSection(
        "gpt-4*", input=Price(2_000_000), output=Price(4_000_000), tiers=tiers, context_tokens=9
    )
    found = prices(data, ModelSection("gpt-*", context_tokens=5), mine)
    assert cost(found, "gpt-4o") == Cost(1000 * 2000 + 100 * 4000, "config")
    assert cost(found, "gpt-4o", tier="flex") == Cost(1000 * 2000 + 100 * 1000, "config")
    assert cost(found, "o3").version == data.version
    found.reconfigure([])
    assert cost(found, "gpt-4o").version == data.version


def test_free_is_a_price(data):
    free = ModelSection("llama*", input=Price(0), output=Price(0))
    assert cost(prices(data, free), "llama-3", "http://localhost:1/v1") == Cost(0, "config")


def test_prices_change_with_the_day_and_the_hour():
    old, new = {"input": flat(Price(9)), "output": flat(Price(0))}, {"input": flat(Price(1))}
    model = Model(("equals", "m"), ((None, old), (Since(date(2026, 5, 1)), new)))
    before, after = datetime(2026, 4, 30, 23, 59, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)
    assert [model.rates(at, None).input for at in (before, after)] == [((0, 9),), ((0, 1),)]  # type: ignore[union-attr]
    night = Daily(time(23), time(5))
    held = [night.holds(datetime(2026, 5, 1, hour, tzinfo=UTC)) for hour in (22, 23, 0, 4, 5)]
    assert held == [False, True, True, True, False]


def test_the_data_is_read_once_and_off_the_loop_s_thread(data):
    reads: list[str] = []
    gate = threading.Event()

    def read() -> Snapshot:
        reads.append(threading.current_thread().name)
        gate.set()
        return data

    found = PriceList((), SetClock(), read)
    found.cost("echo", "echo:", "m", USAGE, None)
    assert reads == []  # not even asked for
    found.warm()
    assert gate.wait(20)
    assert cost(found, "gpt-4o").nano_usd
    assert reads == ["gateway-prices"]


def test_without_data_costs_are_unknown_and_the_log_says_why(caplog):
    def broken() -> Snapshot:
        raise ImportError("it is not there")

    found = PriceList((), SetClock(), broken)
    assert cost(found, "gpt-4o") == NO_COST
    assert "it is not there" in caplog.text


# The dearest (issue: quotas) ----------------------------------------------------------------------

HOURS = [AT + timedelta(hours=3 * n) for n in range(8)]
LATER = [*HOURS, AT + timedelta(days=400), AT + timedelta(days=4000)]


def used(prompt: int, completion: int, part: str = "", spoken: bool = False) -> Usage:
    """All of the prompt is one part of it."""
    return Usage(
        prompt,
        completion,
        prompt if part == "cached" else 0,
        source=UsageSource.UPSTREAM,
        details={
            "prompt_tokens_details": {part: prompt},
            "completion_tokens_details": {"audio_tokens": completion if spoken else 0},
        },
    )


PARTS = ("", "cached", "cache_write_tokens", "audio_tokens")


def test_no_usage_costs_more_than_the_dearest_tokens(data):
    """Every model of the data, every tier, size and part, at every time of day and later."""
    models = [model for provider in data.providers for model in provider.models]
    tokens = [tokens_of(used(10**7, 0, part)) for part in PARTS]
    tokens += [tokens_of(used(0, 10**6, spoken=spoken)) for spoken in (False, True)]
    small = [tokens_of(used(1, 1, part)) for part in PARTS]
    compared = 0
    for model in models:
        found = model.dearest(AT, own_tiers=True)
        timed = len(model.dated) > 1
        for tier in {None, *(name for name, *_ in model.tiers)}:
            for at in LATER if timed else [AT]:
                rates = model.rates(at, tier)
                if found is None:
                    continue
                assert rates is not None
                for one in (*tokens, *small):
                    output = one.plain_output + one.audio_output
                    assert rates.pico(one) <= one.prompt * found[0] + output * found[1]
                    compared += 1
    assert compared > 5000


def test_what_has_a_price_has_a_dearest_one_and_it_is_one_of_its_own(data):
    for provider in data.providers:
        for model in provider.models:
            known = model.rates(AT, None) is not None
            assert (model.dearest(AT, own_tiers=False) is not None) == known
            steps = [
                step for prices in [*model.dated, *model.tiers] for step in prices[-1].values()
            ]
            own = {price for one in steps for _, price in one} | {0}
            assert set(model.dearest(AT, own_tiers=True) or ()) <= own


@given(
    st.sampled_from(["gpt-4o", "o3", "gpt-5", "gpt-4o-audio-preview", "mine"]),
    st.sampled_from([None, "flex", "priority", "default", "batch"]),
    st.integers(0, 10**6),
    st.integers(0, 10**5),
    st.sampled_from(PARTS),
    st.booleans(),
)
def test_a_row_never_costs_more_than_was_reserved(
    data, model, tier, prompt, completion, part, spoken
):
    mine = ModelSection(
        "mine",
        input=Price(3),
        output=Price(5),
        cached_input=Price(4),
        tiers={"priority": TierPrice(output=Price(9)), "flex": TierPrice(input=Price(1))},
    )
    found = prices(data, mine)
    dearest = found.dearest(OPENAI, model)
    assert dearest is not None
    usage = used(prompt, completion, part, spoken)
    booked = found.cost("openai", OPENAI, model, usage, tier).nano_usd
    assert booked is not None
    assert booked <= nano(prompt * dearest[0] + completion * dearest[1])


def test_the_dearest_of_configured_prices_counts_all_of_their_tiers(data):
    mine = ModelSection(
        "gpt-4o",
        input=Price(3),
        output=Price(5),
        cached_input=Price(4),
        tiers={"priority": TierPrice(output=Price(9)), "flex": TierPrice(input=Price(1))},
    )
    found = prices(data, mine)
    assert found.dearest(OPENAI, "gpt-4o") == (4, 9)
    of_the_data = prices(data).dearest(OPENAI, "gpt-4o")
    found.reconfigure([])
    assert found.dearest(OPENAI, "gpt-4o") == of_the_data != (4, 9)


def test_a_tier_counts_only_where_it_holds(data):
    """Of another provider's model, tiers are not asked for."""
    usual, steps = {"input": flat(Price(2))}, {"input": ((0, Price(1)), (5, Price(7)))}
    model = Model(("equals", "m"), ((None, usual),), (("x", None, steps),))
    assert model.dearest(AT, own_tiers=True) == (7, 0)
    assert model.dearest(AT, own_tiers=False) == (2, 0)


def test_what_was_dearer_once_does_not_count_and_what_will_be_does():
    past, future = Since(date(2026, 10, 1)), Since(date(2027, 1, 1))
    night = Daily(time(23), time(5))
    dated = ((None, 9), (past, 1), (night, 3), (future, 2))
    model = Model(("equals", "m"), tuple((when, {"input": flat(Price(p))}) for when, p in dated))
    assert model.dearest(AT, own_tiers=True) == (3, 0)
    assert model.dearest(datetime(2026, 9, 1, tzinfo=UTC), own_tiers=True) == (9, 0)
    assert model.dearest(datetime(2027, 1, 1, tzinfo=UTC), own_tiers=True) == (2, 0)


def test_echo_is_free_and_an_unknown_model_has_no_price(data):
    found = prices(data)
    assert found.dearest("echo:", "anything") == (0, 0)
    assert found.dearest("http://10.0.0.1:8000/v1", "my-llama") is None
    free = ModelSection("my-llama", input=Price(0), output=Price(0))
    assert prices(data, free).dearest("http://10.0.0.1:8000/v1", "my-llama") == (0, 0)


def test_as_many_models_are_remembered_as_clients_may_name(data):
    found = prices(data)
    for number in range(REMEMBERED + 5):
        found.dearest("http://x/v1", f"model-{number}")
    assert len(found._dearest) == len(found._found) == REMEMBERED
