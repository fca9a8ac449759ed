"""The gateway's real process, the scripted upstream's, and clients for both.

`house` is one gateway that most tests share; `start` starts others with what a test needs. After
every test the shared gateway must be free of tracebacks (B9) and of requests with two access
lines (B1).

The shared gateway's upstreams, by the model's first word (each but `echo` and `down` is the
scripted one):
    open-*    keyless: takes every caller, sends no credential (the first: also for no model)
    own-*     the caller's own token is forwarded
    keyed-*   has a key of its own, not shared
    shared-*  has a key of its own for every caller
    hasty-*   keyless, gives up on a silent upstream soon
    down-*    nobody listens there
    public-*  renamed on the way
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.process import Gateway
from tests.e2e.raw import Raw
from tests.scripted.client import Scripted

PROVIDER_KEY = "canary-provider-key-77aa"
OWN_TOKEN = "canary-own-token-51cc"
HEADER_SECRET = "canary-header-secret-3e"
QUERY_SECRET = "canary-query-secret-8d"
ORIGIN = "https://app.example"
SOON = "300ms"  # how long `hasty` waits for an upstream that will never say a thing


@pytest.fixture(scope="session")
def up() -> Iterator[Scripted]:
    with Scripted() as running:
        yield running


@pytest.fixture(scope="session")
def closed_port() -> Iterator[int]:
    """A port on which every connection is refused: bound, never listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def config_for(up: Scripted, closed_port: int = 1, **server: Any) -> dict[str, Any]:
    """The shared gateway's configuration; a test may change it for a gateway of its own.

    The cache is off: here each request is to reach the upstream, and each leaving client to end it.
    """
    keyless = {"base_url": up.url, "auth": "none"}
    return {
        "cache": {"enabled": False},
        "server": {"cors_origins": [ORIGIN], "trusted_proxies": ["127.0.0.1"], **server},
        "upstreams": [
            {"name": "open", "models": ["open-*"], **keyless},
            {"name": "echo", "base_url": "echo:", "models": ["echo"]},
            {"name": "own", "base_url": up.url, "models": ["own-*"]},
            {"name": "keyed", "base_url": up.url, "models": ["keyed-*"], "api_key": PROVIDER_KEY},
            {
                "name": "shared",
                "base_url": up.url,
                "models": ["shared-*"],
                "api_key": PROVIDER_KEY,
                "share_api_key": True,
                "headers": {"X-Extra": HEADER_SECRET},
                "query": {"key": QUERY_SECRET},
            },
            {
                "name": "hasty",
                "models": ["hasty-*"],
                "timeouts": {"first_byte": SOON, "idle": SOON},
                **keyless,
            },
            {
                "name": "down",
                "base_url": f"http://127.0.0.1:{closed_port}/v1",
                "models": ["down-*"],
                "auth": "none",
            },
            {"name": "renamed", "models": ["public-name"], "rename": {"public-name": "real-name"}}
            | keyless,
        ],
    }


@pytest.fixture(scope="session")
def _shared(
    up: Scripted, closed_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("house")
    with Gateway(folder, config_for(up, closed_port)) as running:
        yield running


@pytest.fixture
def house(_shared: Gateway) -> Iterator[Gateway]:
    """The gateway that most tests share."""
    yield _shared
    _shared.check()


def caching_config(up: Scripted, **cache: Any) -> dict[str, Any]:
    """The same with the cache as shipped, but for the settings that are given, and for the deadline
    of the disk: no busy machine may decide a test."""
    return config_for(up) | {"cache": {"disk_deadline": "60s"} | cache}


@pytest.fixture(scope="session")
def _caching(up: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("caching"), caching_config(up)) as running:
        yield running


@pytest.fixture
def caching(_caching: Gateway) -> Iterator[Gateway]:
    """The gateway that most tests of the cache share."""
    yield _caching
    _caching.check()


Start = Callable[..., Gateway]


@pytest.fixture
def start(tmp_path: Path, up: Scripted) -> Iterator[Start]:
    """Start a gateway of the test's own: `start(config, *args)`, by default with the shared one's
    configuration and `server` members as keywords. It ends with the test."""
    with ExitStack() as stack:

        def started(
            config: Mapping[str, Any] | None = None,
            *args: str,
            env: Mapping[str, str] | None = None,
            **server: Any,
        ) -> Gateway:
            return stack.enter_context(
                Gateway(tmp_path, config or config_for(up, **server), *args, env=env)
            )

        yield started


@pytest.fixture
def raw(house: Gateway) -> Iterator[Raw]:
    """A raw connection to the shared gateway."""
    with Raw(house.address) as connection:
        yield connection


@pytest.fixture
def client(house: Gateway) -> Iterator[openai.OpenAI]:
    """The current openai client, its own token, no retries: one request is one request."""
    with openai.OpenAI(base_url=house.v1, api_key=OWN_TOKEN, max_retries=0) as found:
        yield found


@pytest.fixture
def caller(caching: Gateway) -> Iterator[openai.OpenAI]:
    """The same client of the gateway with the cache on."""
    with openai.OpenAI(base_url=caching.v1, api_key=OWN_TOKEN, max_retries=0) as found:
        yield found


@pytest.fixture(scope="session", autouse=True)
def _no_proxy() -> Iterator[None]:
    """Clients here speak to loopback only, whatever the machine's proxy is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
            patch.delenv(name, raising=False)
        yield
