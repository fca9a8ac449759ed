"""Any order of stores, look-ups, purges, time and restarts, against a dict (stateful)."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from gateway.cache.store import TwoTier
from gateway.entry import Selector, Ticket
from tests.cache.fake import FakeCache
from tests.cache.samples import ALL, MiB, SetClock, ask, entry, key_of, recording, section

KEYS = st.sampled_from([key_of(name) for name in "abcd"])
CALLERS = st.sampled_from(["alice", "bob"])
MODELS = st.sampled_from(["gpt-4o", "gpt-5", "llama"])
SELECTORS = st.one_of(
    st.just(ALL),
    st.builds(Selector, digest=KEYS),
    st.builds(Selector, key=CALLERS, model=st.none() | st.sampled_from(["gpt-*", "llama"])),
    st.builds(Selector, request=st.integers(0, 30).map(str)),
)


class Machine(RuleBasedStateMachine):
    """The cache beside the fake, which is a dict; both are asked the same."""

    tickets = Bundle("tickets")

    @initialize(memory=st.sampled_from([0, 3000, MiB]))
    def start(self, memory: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.clock, self.memory, self.number, self.life = SetClock(), memory, 0, 0
        self.model = FakeCache(self.clock)
        self.cache = self._started()

    def _started(self) -> TwoTier:
        cache = TwoTier(section(memory=self.memory), self.folder / "cache", self.clock)
        self.loop.run_until_complete(cache.start())
        return cache

    @rule(target=tickets)
    def take_off(self) -> tuple[int, Ticket, Ticket]:
        return self.life, self.cache.ticket(), self.model.ticket()

    @rule(key=KEYS, caller=CALLERS, model=MODELS, ticket=tickets, ttl=st.sampled_from([0, 50, 500]),
          both=st.booleans(), size=st.sampled_from([10, 2000]))  # fmt: skip
    def land(self, key, caller, model, ticket, ttl, both, size) -> None:
        self.number += 1
        life, of_cache, of_model = ticket
        if life != self.life:  # no flight outlives a restart
            return
        body = b"%d" % self.number * size
        made = entry(
            body, created=self.clock.now(), key=caller, model=model, ttl=ttl,
            request_id=str(self.number),
        )  # fmt: skip
        if both:
            other = recording(body, created=self.clock.now(), ttl=100, request_id=f"s{self.number}")
            made = replace(made, stream=other)
        kept = self.cache.store(key, made, of_cache)
        assert kept is self.model.store(key, made, of_model)

    @rule(key=KEYS)
    def look_up(self, key) -> None:
        found = self.loop.run_until_complete(ask(self.cache, key))
        assert found == self.model.find(key)

    @rule(selector=SELECTORS)
    def purge(self, selector) -> None:
        stale = [key for key in self.model.entries if self.model.find(key) is None]
        for key in stale:  # when an expired row goes is nobody's to say
            del self.model.entries[key]
        self.loop.run_until_complete(self.cache.purge(selector))
        self.loop.run_until_complete(self.model.purge(selector))

    @rule(seconds=st.sampled_from([1, 60, 400]))
    def wait(self, seconds) -> None:
        self.clock.wall += seconds

    @rule()
    def settle(self) -> None:
        self.loop.run_until_complete(self.cache.flush())

    @rule()
    def restart(self) -> None:
        self.loop.run_until_complete(self.cache.close())
        self.cache = self._started()
        self.life += 1

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "cache"):
            figures = self.cache.stats().memory
            assert 0 <= figures.size <= figures.limit == self.memory

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.loop.run_until_complete(self.cache.close())
            assert not sum(self.cache.stats().disk.errors.values())
            self.loop.close()
            shutil.rmtree(self.folder, ignore_errors=True)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=30, stateful_step_count=25)
