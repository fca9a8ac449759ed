"""Alive and ready (L2)."""

from __future__ import annotations

import json

import pytest

from gateway.web.ops import Ops


def read(answer):
    status, headers, body = answer
    assert ("content-type", "application/json") in headers
    return status, json.loads(body)


def test_whoever_answers_is_alive_and_ready():
    ops = Ops()
    assert read(ops.healthz()) == (200, {"status": "ok"})
    assert read(ops.readyz()) == (200, {"status": "ok"})


def test_draining_is_alive_and_not_ready():
    """L1."""
    ops = Ops()
    ops.draining = True
    assert read(ops.healthz())[0] == 200
    assert read(ops.readyz()) == (503, {"status": "draining"})


def broken() -> bool:
    raise OSError("secret-canary")


@pytest.mark.parametrize("works", [lambda: False, broken])
def test_a_check_that_fails_is_named(works):
    ops = Ops()
    ops.check("ledger", lambda: True)
    ops.check("keys", works)
    status, body = read(ops.readyz())
    assert (status, body) == (503, {"status": "not_ready", "failed": ["keys"]})
    assert read(ops.healthz())[0] == 200


def test_a_check_is_asked_each_time():
    ops, state = Ops(), [False]
    ops.check("ledger", lambda: state[0])
    assert read(ops.readyz())[0] == 503
    state[0] = True
    assert read(ops.readyz())[0] == 200
