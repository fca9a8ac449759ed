"""Refusals for quotas steer a client's retries (contract, "Errors"; issue: quotas, proof 5)."""

from __future__ import annotations

import pytest

from gateway.errors import InsufficientQuota, RateLimited


@pytest.mark.parametrize(
    ("seconds", "header", "milliseconds"),
    [(0.0, "1", "1"), (0.0001, "1", "1"), (0.25, "1", "250"), (1.0, "1", "1000"),
     (1.0001, "2", "1001"), (59.9, "60", "59900")],
)  # fmt: skip
def test_a_limit_of_the_moment_says_when_to_come_back(seconds, header, milliseconds):
    """Whole seconds, rounded up, and milliseconds: never too early."""
    error = RateLimited("Wait.", retry_after=seconds)
    assert error.headers() == [("Retry-After", header), ("retry-after-ms", milliseconds)]
    assert (error.status, error.type, error.code) == (429, *["rate_limit_exceeded"] * 2)


def test_without_a_time_there_is_no_header_of_one():
    assert RateLimited("Wait.").headers() == []


@pytest.mark.parametrize(
    ("seconds", "more"), [(None, []), (3600.5, [("Retry-After", "3601")])], ids=["never", "reset"]
)
def test_a_used_up_quota_is_not_to_be_repeated(seconds, more):
    error = InsufficientQuota("Used up.", retry_after=seconds)
    assert error.headers() == [("x-should-retry", "false"), *more]
    assert (error.status, error.type, error.code) == (429, *["insufficient_quota"] * 2)
