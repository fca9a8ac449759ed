"""The books: rows per second beside a saturated event loop, and questions to a year of them.

A year is 5 million requests of 20 keys and 5 models, as its sums: the rows of 90 days of it are
there too. What a question needs of memory is measured in a process of its own.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gateway.clock import SystemClock
from gateway.config import Usage as Section
from gateway.exchange import ulid
from gateway.usage.columns import FOUND_BY
from gateway.usage.ledger import NAME, SQLiteLedger
from gateway.usage.migrations import PART
from gateway.usage.questions import LogQuestion, UsageQuestion
from gateway.usage.reader import Reader
from tests.usage.samples import NOON, hit

BESIDE = 20_000  # rows, beside a busy loop
LEAST_PER_SECOND = 2000
MOST_BACKLOG = 10_000

YEAR = 5_000_000  # requests
ROWS = 500_000  # of which the rows are there
KEYS, MODELS = 20, 5
MOST_SECONDS = 1.0
MOST_MEBIBYTES = 100.0  # the largest answer, 36,600 rows, included

DAY = 86_400
QUESTIONS = {
    "all": UsageQuestion(),
    "by key and model": UsageQuestion(("key", "model")),
    "by day": UsageQuestion(("day",)),
    "by key, model and day": UsageQuestion(("key", "model", "day")),
    "of one key, 7 days": UsageQuestion(("day",), key="key-3", since=NOON - 7 * DAY),
}
LOGS = {
    "newest": LogQuestion(),
    "of one key": LogQuestion(key="key-3"),
    "failed": LogQuestion(status=(500, 599)),
    "hits": LogQuestion(cache="hit"),
    "far back": LogQuestion(until=NOON - 60 * DAY),
}


@dataclass
class Beside:
    """What rows cost beside a loop that has no rest: CPU in us per row, on the loop's thread and on
    the writer's; the loop's slowest turns in us."""

    rate: float
    backlog: int
    loop: float
    writer: float
    turns: list[float]


async def beside_a_busy_loop(data: Path) -> Beside:
    """Rows of hits, a batch of 4 for each turn. Two bytes go through a socket for each row, as a
    loop that serves does."""
    ledger = SQLiteLedger(data, Section(), "UTC", SystemClock(), "bench")
    await ledger.start()
    [thread] = [one for one in threading.enumerate() if one.name == "gateway-ledger"]
    cpu = time.pthread_getcpuclockid(thread.ident or 0)
    rows = [
        hit(n, NOON + n / 8000, key=f"key-{n % KEYS}", model=f"model-{n % MODELS}")
        for n in range(BESIDE)
    ]
    near, far = socket.socketpair()
    longest, own, turns = 0, 0.0, []
    began, before = time.perf_counter(), time.clock_gettime(cpu)
    for n, row in enumerate(rows):
        turn, mine = time.perf_counter(), time.thread_time()
        ledger.add(row)
        own += time.thread_time() - mine
        near.send(b"x" * 2000)
        far.recv(4000)
        spin = time.perf_counter() + 100e-6
        while time.perf_counter() < spin:
            pass
        turns.append((time.perf_counter() - turn) * 1e6)
        if n % 4 == 0:
            await asyncio.sleep(0)
            longest = max(longest, ledger.stats().backlog)
    await ledger.flush(60)
    took, written = time.perf_counter() - began, time.clock_gettime(cpu) - before
    await ledger.close()
    near.close()
    far.close()
    count = len(rows)
    return Beside(count / took, longest, own / count * 1e6, written / count * 1e6, sorted(turns))


def fill(data: Path) -> None:
    """A year, as SQL makes it: through the ledger it would take ten minutes."""
    asyncio.run(_form(data))
    per_quarter = YEAR / (365 * 96 * KEYS * MODELS)
    with closing(sqlite3.connect(data / NAME, isolation_level=None)) as base:
        base.execute("PRAGMA synchronous = OFF")
        base.execute("BEGIN")
        base.execute(
            "INSERT INTO series SELECT k.value * ? + m.value + 1, 'id-' || k.value, "
            "'key-' || k.value, '', '', 'model-' || m.value, 'openai', '' "
            "FROM json_each(?) k, json_each(?) m",
            (MODELS, str(list(range(KEYS))), str(list(range(MODELS)))),
        )
        last = int(NOON) // 900
        base.execute(
            "WITH RECURSIVE q(n) AS (SELECT ? UNION ALL SELECT n + 1 FROM q WHERE n < ?) "
            "INSERT INTO quarters SELECT n, s.id, c, c * 500, c * 200, c * 50, 0, c * 4000, 0, 0, "
            "c * 100, c * 800, c, c * 700 FROM (SELECT n, s.id AS s, 1 + abs(random()) % 2 AS c "
            "FROM q, series s WHERE (n * 7 + s.id * 13) % 100 < ?) JOIN series s ON s.id = s",
            (last - 365 * 96, last, int(min(1.0, per_quarter / 1.5) * 100)),
        )
        base.execute(
            "INSERT INTO days SELECT (SELECT max(first) FROM calendar WHERE first <= quarter), "
            "series, sum(requests), sum(prompt_tokens), sum(completion_tokens), "
            "sum(cached_tokens), 0, sum(cost_nano), 0, 0, sum(saved_tokens), "
            "sum(saved_cost_nano), sum(counted), sum(counted_tokens) FROM quarters GROUP BY 1, 2"
        )
        base.executemany(
            "INSERT INTO requests (id, at, key_id, key, model, upstream, endpoint, stream, status, "
            "outcome, cache, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, "
            "usage_source, cost_nano, saved_tokens, total_ms, overhead_ms, bytes_in, bytes_out, "
            "attempts) VALUES (?, ?, ?, ?, ?, 'openai', 'chat/completions', 0, ?, 'ok', ?, 500, "
            "200, 50, 0, 'upstream', 4000, 0, 900.0, 1.0, 300, 4000, 1)",
            map(_row, range(ROWS)),
        )
        for what in FOUND_BY:
            base.execute(
                f"INSERT INTO places SELECT DISTINCT '{what}', {what}, substr(id, 1, ?) "
                "FROM requests",
                (PART,),
            )
        base.execute("COMMIT")


def _row(number: int) -> tuple[object, ...]:
    at = int((NOON - 90 * DAY * (1 - number / ROWS)) * 1000)
    key = f"key-{number % KEYS}"
    status = 503 if number % 997 == 0 else 200
    cache = "hit" if number % 50 == 0 else "miss"
    return (ulid(at, number.to_bytes(10, "big")), at, f"id-{key}", key, "model-1", status, cache)


async def _form(data: Path) -> None:
    ledger = SQLiteLedger(data, Section(), "Europe/Berlin", SystemClock(), "bench")
    await ledger.start()
    await ledger.close()


async def ask(data: Path) -> bool:
    """Ask each question, print how long it took; whether the floors hold."""
    reader, good = Reader(data, "Europe/Berlin"), True
    for name, question in QUESTIONS.items():
        began = time.perf_counter()
        rows = await reader.usage(question)
        took = time.perf_counter() - began
        good &= took < MOST_SECONDS and bool(rows)
        print(f"usage, {name:24} {took:6.3f} s, {len(rows)} rows  (floor {MOST_SECONDS} s)")
    for name, page in LOGS.items():
        began = time.perf_counter()
        found = await reader.logs(page)
        took = time.perf_counter() - began
        good &= took < MOST_SECONDS / 5 and bool(found)
        print(f"logs, {name:25} {took:6.3f} s  (floor {MOST_SECONDS / 5} s)")
    reader.close()
    most = _peak()
    print(f"memory of who asks             {most:6.1f} MiB  (floor {MOST_MEBIBYTES} MiB)")
    return good and most < MOST_MEBIBYTES


def _peak() -> float:
    """Peak resident memory of this process in MiB (proc_pid_status(5), VmHWM). Not `ru_maxrss`:
    that is handed on over exec, and would be the peak of who started this one."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def main() -> bool:
    """Print all of it; whether every floor holds."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        found = asyncio.run(beside_a_busy_loop(Path(folder)))
    print(
        f"rows beside a busy loop  {found.rate:8.0f} /s, backlog up to {found.backlog}  "
        f"(floor {LEAST_PER_SECOND} /s, {MOST_BACKLOG})"
    )
    print(
        f"CPU of a row             {found.loop:8.1f} us on the loop's thread, "
        f"{found.writer:.1f} us on the writer's"
    )
    print(
        f"turns of the loop        {found.turns[len(found.turns) // 2]:8.0f} us, "
        f"p99 {found.turns[len(found.turns) * 99 // 100]:.0f} us, longest {found.turns[-1]:.0f} us"
    )
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        fill(Path(folder))
        done = subprocess.run([sys.executable, "-m", "tests.bench.ledger", folder], check=False)
    return found.rate > LEAST_PER_SECOND and found.backlog < MOST_BACKLOG and done.returncode == 0


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(ask(Path(sys.argv[1]))) else 1)
