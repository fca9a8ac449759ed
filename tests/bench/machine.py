"""The machine: who runs on which core, what CPU a process has used, and what is installed.

The server under measurement has one core to itself, the load and the upstreams another: no side
gains from a second core that the other one does not use. Where there is one core, all share it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
CORES = sorted(os.sched_getaffinity(0))
SERVER = CORES[0]
LOAD = CORES[1 % len(CORES)]
UPSTREAM = CORES[2 % len(CORES)] if len(CORES) > 2 else LOAD


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes that are started meanwhile run on this core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu(pids: list[int]) -> float:
    """CPU seconds that these processes have had so far, all their threads (proc(5), schedstat:
    nanoseconds, where `stat` counts ticks of ten milliseconds)."""
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total += int((thread / "schedstat").read_text("ascii").split()[0])
    return total / 1e9


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    return [int(child) for child in listed.split()]


def resident(pid: int) -> int:
    """Resident memory in bytes (proc_pid_status(5), VmRSS)."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))
    if found is None:
        raise RuntimeError("no VmRSS: memory can be measured on Linux only")
    return int(found[1]) * 1024


def which(program: str) -> str | None:
    """Where a program is; Debian keeps nginx where a plain user's PATH does not look."""
    return shutil.which(program, path=PATH)


def described(loop: str) -> dict[str, object]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    model = re.search(r"model name\s*:\s*(.+)", info)
    return {
        "cpu": model[1].strip() if model else platform.processor(),
        "cores": len(CORES),
        "pinned": "the server on one core, load and upstreams on another"
        if len(CORES) > 1
        else "one core for all",
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "event_loop": loop,
        "versions": {
            **{name: metadata.version(name) for name in ("aiohttp", "httptools", "uvloop")},
            "nginx": _version("nginx", "-v"),
            "wrk": _version("wrk", "-v"),
        },
        "commit": _commit(),
    }


def _version(program: str, flag: str) -> str:
    path = which(program)
    if path is None:
        return "none"
    done = subprocess.run([path, flag], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stderr + done.stdout)
    return found[0] if found else "unknown"


def _commit() -> str:
    git = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
