"""Start to first answer, and memory when idle: the real process with the shipped configuration.

A start is counted from the fork to the whole first answer of `echo`, so it holds everything: the
interpreter, the imports, the configuration, the listening socket, the first call.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.scene import Scene

ROOT = Path(__file__).parent.parent.parent
RUNS, QUICK_RUNS = 7, 3
SETTLE = 1.0  # seconds between the first answer and the look at the memory
PATIENCE = 15.0  # seconds

BODY = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "hello"}]})


@dataclass
class Run:
    seconds: float
    mebibytes: float


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask(port: int) -> int:
    """One chat completion; its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(
            "POST", "/v1/chat/completions", BODY, {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def resident(pid: int) -> float:
    """Resident memory in MiB (proc_pid_status(5), VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS: memory can be measured on Linux only")


def one_run() -> Run:
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        port = free_port()
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(ROOT / "config.yaml")]
        command += ["--port", str(port), "--admin-port", str(free_port()), "--data", folder]
        log = Path(folder, "log")
        with log.open("wb") as output:
            began = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment()
            )
        try:
            while (status := try_to_ask(port)) is None:
                if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                    raise RuntimeError(f"the gateway did not answer:\n{log.read_text('utf-8')}")
                time.sleep(0.005)
            seconds = time.perf_counter() - began
            if status != 200:
                raise RuntimeError(f"the gateway answered {status}:\n{log.read_text('utf-8')}")
            time.sleep(SETTLE)
            return Run(seconds, resident(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def try_to_ask(port: int) -> int | None:
    try:
        return ask(port)
    except ConnectionRefusedError:
        return None


def environment() -> dict[str, str]:
    """As on a machine where nobody has set anything up for the gateway."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GATEWAY_", "OPENAI_"))
    }


def start(scene: Scene) -> None:
    """Start to first answer, and memory when idle."""
    one_run()  # the first start compiles and fills the disk cache: not a start as it is every day
    runs = [one_run() for _ in range(QUICK_RUNS if scene.pace.quick else RUNS)]
    for what, values, unit, floor, goal in (
        ("start to first answer", [run.seconds for run in runs], "s", 1.0, 0.5),
        ("idle memory", [run.mebibytes for run in runs], "MiB", 75.0, 60.0),
    ):
        scene.figure(Figure("start", what, values, unit, floor, goal, most=True))
