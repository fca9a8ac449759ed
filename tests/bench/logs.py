"""`gateway logs` over 5 million rows, with every filter that has an index, and the journal: what
keeping costs, how fast words are found, and what age and size cost."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from gateway.clock import SystemClock
from gateway.config import Journal
from gateway.exchange import Timings, ulid
from gateway.journal.keeper import FOLDER, Keeper
from gateway.journal.reader import JournalReader, Search
from gateway.journal.segments import Segments, segments, size_of
from gateway.journal.shape import Captured, Record, Side
from gateway.usage.ledger import NAME
from gateway.usage.questions import LogQuestion
from gateway.usage.reader import Reader
from tests.bench.ledger import DAY, MOST_MEBIBYTES, _form, _peak
from tests.usage.samples import NOON

ROWS = 5_000_000
MOST_SECONDS = 0.2  # requirement G5
KEPT = 20_000  # chat requests through the journal, 2 KB of text each
LEAST_PER_SECOND = 300
RECORDS = 5_000_000  # of a few words, as they are in the files
STEP = 5000
BY_ROW = NOON - 45 * DAY

LOGS = {
    "newest": LogQuestion(),
    "far back": LogQuestion(until=NOON - 60 * DAY),
    "a page far back": LogQuestion(before=ulid(int(BY_ROW * 1000), bytes(10))),
    "of one key": LogQuestion(key="key-3"),
    "of one key, a day": LogQuestion(key="key-3", since=BY_ROW, until=BY_ROW + DAY),
    "of one model": LogQuestion(model="model-1"),
    "of models": LogQuestion(model="model-*"),
    "of models, an hour": LogQuestion(model="*-1", since=BY_ROW, until=BY_ROW + 3600),
    "of models of one key": LogQuestion(model="mod*3", key="key-3"),
    "failed": LogQuestion(status=(500, 599)),
    "of one status": LogQuestion(status=(503, 503)),
    "hits": LogQuestion(cache="hit"),
    "hits of one key": LogQuestion(cache="hit", key="key-10"),
    "of no key": LogQuestion(key="nobody"),
    "following": LogQuestion(follow=True),
}
SEARCHES = {
    "a word in all": Search("common"),
    "a word in one": Search("needle"),
    "a word in none": Search("nothing"),
    "words in a row": Search("common w77 x7"),
    "common, far back": Search("common", before=f"{RECORDS // 10}"),
}


def fill(data: Path) -> None:
    """The rows as SQL makes them."""
    asyncio.run(_form(data))
    with closing(sqlite3.connect(data / NAME, isolation_level=None)) as base:
        base.execute("PRAGMA synchronous = OFF")
        base.execute("BEGIN")
        base.executemany(
            "INSERT INTO requests (id, at, key_id, key, model, upstream, endpoint, stream, status, "
            "outcome, cache, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, "
            "usage_source, cost_nano, saved_tokens, total_ms, overhead_ms, bytes_in, bytes_out, "
            "attempts) VALUES (?, ?, ?, ?, ?, 'openai', 'chat/completions', 0, ?, 'ok', ?, 500, "
            "200, 50, 0, 'upstream', 4000, 0, 900.0, 1.0, 300, 4000, 1)",
            map(_row, range(ROWS)),
        )
        base.execute("COMMIT")


def _row(number: int) -> tuple[object, ...]:
    at = int((NOON - 90 * DAY * (1 - number / ROWS)) * 1000)
    key, status = f"key-{number % 20}", 503 if number % 997 == 0 else 200
    cache, model = "hit" if number % 50 == 0 else "miss", f"model-{number % 5}"
    return (ulid(at, number.to_bytes(10, "big")), at, f"id-{key}", key, model, status, cache)


def fill_journal(data: Path) -> None:
    """Records as its thread writes them, without the bodies' weight."""
    files = Segments(data / FOLDER)
    at = NOON
    for first in range(0, RECORDS, STEP):
        if not files.is_open:
            files.open(at, lambda _: False)
        records = [
            Record(f"{n}", b"packed", f"common w{n % 997} x{n % 13} needle" if n == 777 else
                   f"common w{n % 997} x{n % 13}")
            for n in range(first, first + STEP)
        ]  # fmt: skip
        files.insert(records)
        if first % (RECORDS // 16) < STEP:
            files.close()
            at += DAY
    files.close()


async def ask(data: Path) -> bool:
    """Ask each question; whether the floors hold, of time and of memory."""
    reader, good = Reader(data, "Europe/Berlin"), True
    for name, page in LOGS.items():
        began = time.perf_counter()
        await reader.logs(page)
        took = time.perf_counter() - began
        good &= took < MOST_SECONDS
        print(f"logs, {name:28} {took:7.4f} s  (floor {MOST_SECONDS} s)")
    reader.close()
    journal = JournalReader(data)
    for name, search in SEARCHES.items():
        began = time.perf_counter()
        found = await journal.search(search)
        took = time.perf_counter() - began
        good &= took < MOST_SECONDS
        print(f"search, {name:26} {took:7.4f} s, {len(found)} found  (floor {MOST_SECONDS} s)")
    journal.close()
    most = _peak()
    print(f"memory of who asks             {most:6.1f} MiB  (floor {MOST_MEBIBYTES} MiB)")
    return good and most < MOST_MEBIBYTES


async def keep(data: Path) -> bool:
    """What one request costs on the disk and in time; memory stays where it was."""
    words = ["".join(random.Random(n).choices("abcdefghijklmnop", k=6)) for n in range(20_000)]
    dice = random.Random(1)
    keeper = Keeper(data, Journal(bodies=True), SystemClock(), [], str)
    keeper.start()
    began, cpu, text = time.perf_counter(), time.process_time(), 0
    for n in range(KEPT):
        said = '{{"messages":[{{"role":"user","content":"{}"}}]}}'.format(
            " ".join(dice.choices(words, k=290))
        )
        text += len(said)
        side = Side([("content-type", "application/json")], said.encode(), len(said))
        keeper.put(Captured(ulid(n, bytes(10)), side, Side(), 200, Timings()))
        while keeper.waiting > 1000:
            await asyncio.sleep(0.01)
    await keeper.flush(60)
    rate = KEPT / (time.perf_counter() - began)
    cpu = (time.process_time() - cpu) / KEPT * 1e6
    await keeper.close()
    size = sum(map(size_of, segments(data / FOLDER)))
    print(
        f"journal   {rate:8.0f} requests/s, {cpu:.0f} us of processor and {size / KEPT:.0f} bytes"
    )
    print(
        f"          of disk each, for {text / KEPT:.0f} bytes of text (floor {LEAST_PER_SECOND} /s)"
    )
    return rate > LEAST_PER_SECOND


def main() -> bool:
    """Print all of it; whether every floor holds."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        good = asyncio.run(keep(Path(folder)))
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        fill(Path(folder))
        fill_journal(Path(folder))
        files = segments(Path(folder) / FOLDER)
        done = subprocess.run([sys.executable, "-m", "tests.bench.logs", folder], check=False)
        began = time.perf_counter()
        keeper = Segments(Path(folder) / FOLDER)
        keeper.delete(files[0])
        print(f"deleting {RECORDS // len(files)} records {time.perf_counter() - began:7.4f} s")
    return good and done.returncode == 0


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(ask(Path(sys.argv[1]))) else 1)
