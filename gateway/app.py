"""The composition root: the one file that names concrete classes, and the order of start and stop.

Start: lock the data directory, read secrets, open the sinks, build the upstreams, open the admin
plane, then the data plane. Stop: refuse new requests (503, the socket still listens), let open
answers end, cut what is left after `server.drain_timeout`, close in the reverse order of the start.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from gateway.admin import Rooms
from gateway.balances import Balances
from gateway.boarding import Boarding
from gateway.cache.store import TwoTier
from gateway.calls import Calls
from gateway.clock import SystemClock
from gateway.config import (
    Config,
    ConfigError,
    Fault,
    UpstreamSection,
    aliases_of,
    as_running,
    is_loopback,
    masked,
    reloadable,
    secrets_of,
    warnings,
)
from gateway.errors import Draining
from gateway.gauges import (
    StoredKeys,
    watch_access_log,
    watch_cache,
    watch_disk,
    watch_journal,
    watch_ledger,
    watch_quotas,
    watch_traces,
    watch_traffic,
    watch_upstreams,
)
from gateway.house import House
from gateway.journal.keeper import Keeper
from gateway.journal.reader import JournalReader
from gateway.journal.writer import open_access_log
from gateway.keys.penalty import Penalty
from gateway.keys.rules import blotted
from gateway.keys.store import Callers, DataError, load_admin_token, lock_data, open_register
from gateway.metering import Metering
from gateway.metrics import LoopLag, Metrics, standard_registry
from gateway.pipeline import Pipeline
from gateway.quota.rules import Given
from gateway.quota.store import Quotas
from gateway.traces import open_traces
from gateway.upstream import build
from gateway.upstream.client import HTTPUpstream
from gateway.upstream.echo import EchoUpstream
from gateway.usage.calendar import window_bounds
from gateway.usage.ledger import SQLiteLedger
from gateway.usage.prices import PriceList
from gateway.usage.reader import Reader
from gateway.watch import ConfigFile, Watcher
from gateway.web.admin import AdminPlane
from gateway.web.chat import Routes, edge_of
from gateway.web.control import ControlSocket
from gateway.web.errors import render
from gateway.web.ops import Ops
from gateway.web.server import DataPlane

AnyUpstream = HTTPUpstream | EchoUpstream

log = logging.getLogger("gateway")

CUT_GRACE = 5.0  # seconds for cut streams to be told and booked, at the end of a drain
SWITCH = 0.001  # seconds
FLUSH = 5.0  # seconds for the access log to be written out
TRACES_FLUSH = 3.0  # seconds for spans to be sent, at the end
PRICES = 1.0  # seconds from the start to the reading of the price data


class Gateway:
    """One running gateway."""

    def __init__(self, config: Config, file: ConfigFile) -> None:
        self.config = config
        self.file = file
        self.clock = SystemClock()
        self.instance = secrets.token_hex(8)
        self._built: dict[str, tuple[UpstreamSection, AnyUpstream]] = {}
        self._retired: list[AnyUpstream] = []  # replaced by a reload, still answering
        self._stops = 0
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._stack = AsyncExitStack()

    # -- start -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring everything up. OSError and DataError name what is in the way."""
        config, stack = self.config, self._stack
        data = Path(config.data)
        stack.callback(lock_data(data).close)
        admin_token = load_admin_token(data, config.admin.token)
        self.register = open_register(data, self.clock)
        stack.push_async_callback(self.register.close)
        await self.register.start()
        self.callers = Callers(
            config.keys,
            self.register,
            self.clock,
            admin_token=admin_token,
            bind_is_loopback=is_loopback(config.server.host),
        )
        zone = config.quota.timezone
        self.ledger = SQLiteLedger(data, config.usage, zone, self.clock, self.instance)
        stack.push_async_callback(self.ledger.close)
        await self.ledger.start()
        self.books = Reader(data, zone, self.ledger.flush)
        stack.callback(self.books.close)
        self.prices = PriceList(config.models, self.clock)
        workers = ThreadPoolExecutor(2, thread_name_prefix="gateway-work")
        stack.callback(workers.shutdown, wait=False, cancel_futures=True)
        self.access_log = open_access_log(config.server.access_log, self.clock)
        stack.callback(self.access_log.close, FLUSH)
        self.traces = open_traces(
            config.traces,
            config.upstreams,
            scheme="https" if config.server.tls.cert else "http",
            instance=self.instance,
        )
        stack.callback(self.traces.close, TRACES_FLUSH)
        self.metrics = Metrics(standard_registry(), self.clock)
        # Also where nothing is kept any more: what was kept can still be seen and purged.
        self.cache = TwoTier(config.cache, data / "cache", self.clock)
        stack.push_async_callback(self.cache.close)
        await self.cache.start()
        stack.push_async_callback(self._close_upstreams)
        calls = Calls(self.clock, workers)
        self.journal = Keeper(data, config.journal, self.clock, secrets_of(config), blotted)
        stack.push_async_callback(self.journal.close)
        self.journal.start()
        self.kept = JournalReader(data, self.journal.flush)
        stack.callback(self.kept.close)
        self.quotas = Quotas(config.quota, self.clock, partial(window_bounds, zone=ZoneInfo(zone)))
        self.metering = Metering(
            config.quota, config.models, self.quotas, self.prices, self.ledger, calls
        )
        self.boarding = Boarding(config.cache, self.cache, self.clock, calls)
        self.house = House(
            keys=self.callers,
            upstreams=self._build_upstreams(config),
            sinks=(self.metrics, self.access_log, self.traces),
            clock=self.clock,
            render=render,
            calls=calls,
            boarding=self.boarding,
            ledger=self.ledger,
            prices=self.prices,
            metering=self.metering,
            penalty=Penalty(self.clock),
            instance=self.instance,
            body_limit=config.server.body_limit,
            upload_limit=config.server.upload_limit,
            missing_usage=config.usage.on_missing_usage,
            journal=self.journal,
        )
        self.balances = Balances(
            self.quotas,
            self.books,
            self.clock,
            lambda: {key.id for key in self.register.keys},
            lambda: self.house.upstreams,
        )
        stack.push_async_callback(self.balances.close)
        await self.balances.restore()
        self.ops = Ops()
        self.ops.check("ledger", self.ledger.works)
        self.ops.check("ledger", self._books_are_kept)
        await self._open_planes(admin_token)

    async def _open_planes(self, admin_token: str) -> None:
        config, stack = self.config, self._stack
        self.admin = AdminPlane(
            config,
            token=admin_token,
            metrics=self.metrics,
            config_view=lambda: masked(self.config),
            ops=self.ops,
            rooms=Rooms(
                self.cache,
                self.clock,
                skipped=partial(self.metrics.counted, "gateway_cache_store_skipped_total"),
                keys=self.register,
                books=self.books,
                journal=self.kept,
                standing=self._standing,
            ),
        )
        address = await self.admin.start()
        stack.push_async_callback(self.admin.close)
        control = ControlSocket(Path(config.data), self.admin.control_connection)
        await control.start()
        stack.callback(control.close)
        self.routes = Routes(
            Pipeline(self.house), self.ops, edge_of(config.server), self.clock, self.traces
        )
        self.plane = DataPlane(
            self.routes,
            settings=config.server,
            clock=self.clock,
            render=render,
            loop=asyncio.get_running_loop(),
        )
        watch_traffic(self.metrics, self.plane, self.house, self.ops)
        watch_upstreams(self.metrics, lambda: [one for _, one in self._built.values()])
        watch_disk(self.metrics, Path(config.data))
        self.metrics.follow_keys(StoredKeys(self.register))
        lag = LoopLag(asyncio.get_running_loop(), self.metrics)
        stack.callback(lag.close)
        watch_access_log(self.metrics, self.access_log)
        watch_cache(self.metrics, self.cache, self.boarding)
        watch_ledger(self.metrics, self.ledger)
        watch_quotas(self.metrics, self.quotas, self.register, self.clock)
        watch_traces(self.metrics, self.traces)
        watch_journal(self.metrics, self.journal)
        listening = await self.plane.start()
        stack.callback(self.plane.close)
        watcher = Watcher(self.file, self._reload, self._keep)
        watcher.start()
        stack.push_async_callback(watcher.close)
        # Behind the first requests, which it would delay; who needs a price sooner reads it then.
        asyncio.get_running_loop().call_later(PRICES, self.prices.warm)
        say(f"data plane on {_url(listening, config.server.tls.cert)}")
        say(f"admin plane on {_url(address, config.admin.tls.cert)}")

    async def _standing(self, kind: str, id: str, name: str, limits: Given) -> list[dict[str, Any]]:
        return self.quotas.standing(kind, id, name, limits)

    def _books_are_kept(self) -> bool:
        """Calls may go on for a while without the ledger's disk; then they are refused."""
        allowed = self.config.usage.when_down
        return allowed is None or self.ledger.stats().down_for <= allowed

    def _build_upstreams(self, config: Config) -> list[AnyUpstream]:
        """The configured upstreams; one whose section has not changed keeps its connections."""
        built: dict[str, tuple[UpstreamSection, AnyUpstream]] = {}
        for section in config.upstreams:
            old = self._built.get(section.name)
            if old is not None and old[0] == section:
                built[section.name] = old
            else:
                upstream = build(section, instance_id=self.instance, clock=self.clock)
                built[section.name] = (section, upstream)
        self._built = built
        self.metrics.configure(
            upstreams=config.upstreams,
            models=[model.name for model in config.models],
            aliases=aliases_of(config),
        )
        return [upstream for _, upstream in built.values()]

    # -- reload ------------------------------------------------------------------------------------

    def _reload(self, config: Config) -> None:
        """Take a new configuration. What is under way ends with the old one."""
        for path in reloadable(self.config, config):
            say(f"{path} has changed; that takes effect at the next start")
        try:
            config = as_running(self.config, config)
        except ConfigError as error:
            self._keep(error.faults)
            return
        before = {name: upstream for name, (_, upstream) in self._built.items()}
        self.house.upstreams = self._build_upstreams(config)
        self.house.body_limit = config.server.body_limit
        self.house.upload_limit = config.server.upload_limit
        self.house.missing_usage = config.usage.on_missing_usage
        self.plane.settings = config.server
        self.callers.reconfigure(config.keys, bind_is_loopback=is_loopback(self.config.server.host))
        self.boarding.reconfigure(config.cache)
        self.routes.edge = edge_of(config.server)
        self.admin.reconfigure(config)
        self.cache.reconfigure(config.cache)
        self.ledger.reconfigure(config.usage)
        self.prices.reconfigure(config.models)
        self.traces.reconfigure(config.traces, config.upstreams)
        self.journal.reconfigure(config.journal, secrets_of(config))
        self.balances.reconfigure(config.quota)
        self.metering.reconfigure(config.quota, config.models)
        self.config = config
        self.metrics.reloaded(ok=True)
        self.access_log.reopen()
        kept = {id(upstream) for _, upstream in self._built.values()}
        self._retired += [one for one in before.values() if id(one) not in kept]
        for warning in warnings(config):
            say(f"warning: {warning}")
        say("configuration reloaded")

    def _keep(self, faults: list[Fault]) -> None:
        self.metrics.reloaded(ok=False)
        self.access_log.reopen()
        for fault in faults:
            say(str(fault))
        say("the configuration was not taken; the old one stays")

    async def _close_upstreams(self) -> None:
        for upstream in [*self._retired, *(upstream for _, upstream in self._built.values())]:
            await upstream.close()

    # -- stop --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """SIGTERM or SIGINT: the first one drains, a second one does not wait."""
        self._stops += 1
        (self._stop if self._stops == 1 else self._hurry).set()

    async def run(self) -> None:
        """Serve until told to stop, then stop as the module's docstring says."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        async with self._stack:
            await self.start()
            gc.collect()
            gc.freeze()  # what the start made stays: no collection need walk over it again
            gc.set_threshold(10_000)  # young objects; hundreds of requests under way have fewer
            await self._stop.wait()
            await self._drain()

    async def _drain(self) -> None:
        """Let open answers end; then cut what is left, telling each client inside its stream."""
        self.house.draining = True
        self.ops.draining = True
        self.plane.begin_drain()
        if self.plane.in_flight:
            say(f"stopping: requests under way: {self.plane.in_flight}")
        loop, limit = asyncio.get_running_loop(), self.config.server.drain_timeout
        ended = loop.create_task(self.plane.wait_closed(limit))
        hurry = loop.create_task(self._hurry.wait())
        await asyncio.wait({ended, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not (ended.done() and ended.result()):
            for leash in list(self.house.flights):
                leash.pull(
                    Draining("The gateway stopped before the answer was whole.", retry_after=1)
                )
            await self.plane.wait_closed(CUT_GRACE)
        for waiting in (ended, hurry):
            waiting.cancel()
        say("stopped")


def run(config: Config, file: ConfigFile) -> int:
    """Serve until stopped; the process's exit code."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    gateway = Gateway(config, file)
    for warning in warnings(config):
        say(f"warning: {warning}")
    # Beside a busy loop the ledger's thread must not wait 5 ms for each turn: ends wait for it.
    sys.setswitchinterval(SWITCH)
    try:
        with asyncio.Runner(loop_factory=loop_factory(config.server.event_loop)) as runner:
            runner.run(gateway.run())
    except (DataError, OSError, ValueError) as error:
        say(f"cannot start: {error}")
        return 1
    return 0


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """asyncio's own loop, or uvloop's where it is chosen."""
    if name != "uvloop":
        return asyncio.new_event_loop
    import uvloop  # noqa: PLC0415  (not loaded unless chosen)

    return uvloop.new_event_loop


def say(message: str) -> None:
    """One line to the operator."""
    print(f"gateway: {message}", file=sys.stderr, flush=True)


def _url(address: tuple[str, int], cert: str) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{'https' if cert else 'http'}://{host}:{address[1]}"
