"""The gateway in front of a real model server, named by the environment variable LLAMA
(docs/real-model.md)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.process import Gateway

MODEL = "smollm2"


@pytest.fixture(scope="session")
def llama() -> str:
    """The model server's base URL."""
    url = os.environ.get("LLAMA", "").rstrip("/")
    assert url, "say where the model is: make test-real LLAMA=http://127.0.0.1:PORT"
    return url


@pytest.fixture(scope="session")
def _house(llama: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    upstream = {"name": "llama", "base_url": llama, "auth": "none", "models": ["*"]}
    config = {
        "upstreams": [upstream],
        "cache": {"enabled": False},
    }  # each test asks the model itself
    with Gateway(tmp_path_factory.mktemp("real"), config) as running:
        yield running


@pytest.fixture
def house(_house: Gateway) -> Iterator[Gateway]:
    yield _house
    _house.check()
