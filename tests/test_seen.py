"""What came of late is known again; a pass over all there is, is not remembered for long."""

from __future__ import annotations

from gateway.seen import Seen


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_what_came_is_known_the_next_time():
    seen = Seen(1000)
    assert not any(seen.before(key(number)) for number in range(50))
    assert sum(seen.before(key(number)) for number in range(50)) > 40  # some shared a place


def test_it_forgets():
    seen = Seen(64)
    for number in range(10_000):
        seen.before(key(number))
    assert sum(seen.before(key(number)) for number in range(1000)) < 5


def test_it_takes_8_bytes_for_each_and_room_for_one_is_enough():
    assert len(Seen(1000)._hashes) == 1024
    seen = Seen(0)
    assert not seen.before(b"a")
    assert seen.before(b"a")
