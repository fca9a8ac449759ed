"""What holds for every test: how hard hypothesis tries, and that no test leaves a task behind.

HYPOTHESIS_PROFILE=deep searches longer and differently each time; `fast`, the default, is
deterministic, so that a red run is red again.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "fast",
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("deep", max_examples=5_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


@pytest.fixture
async def _tasks_of_the_test() -> AsyncIterator[None]:
    """Fails the test that leaves a task running: in production nobody would ever stop it."""
    yield
    for _ in range(3):  # a task that was just cancelled ends in the loop's next turns
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"the test has left {len(left)} task(s) running: {left}"


@pytest.fixture(autouse=True)
def _no_task_is_left(request: pytest.FixtureRequest) -> None:
    # Set up before the test's own fixtures, so torn down after them.
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_tasks_of_the_test")
