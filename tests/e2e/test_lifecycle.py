"""Start, reload, drain, stop: what a running gateway does with signals and files, and with itself
(L1, L2, L5)."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import Start, config_for
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Cut, Events, Raw, chat, request
from tests.e2e.test_endings import in_stream_error
from tests.scripted.client import PATIENCE, Scripted
from tests.scripted.replies import DONE, GATE, completion, delta, finish, reply, stream


def until_ready_is(gateway: Gateway, status: int) -> None:
    """Ask /readyz on fresh connections until it says so."""
    for _ in range(2000):
        with Raw(gateway.address) as raw:
            if raw.ask("/readyz", method="GET").status == status:
                return
    raise AssertionError(f"/readyz never said {status}")


def test_stop_lets_the_open_stream_end(start: Start, up: Scripted) -> None:
    """L1: 503 on /readyz and for new requests, /healthz lives, the stream completes, exit 0."""
    gateway = start()
    events = [delta("Hel"), delta("lo"), finish(), DONE]
    model = up.play(stream(events, paced=True))
    with Raw(gateway.address) as open_stream, Raw(gateway.address) as idle:
        assert idle.ask("/readyz", method="GET").status == 200
        open_stream.send(request(CHAT, chat(model, stream=True)))
        up.go(model)
        got = Events(open_stream)
        assert got.next() == events[0]
        gateway.process.send_signal(signal.SIGTERM)
        until_ready_is(gateway, 503)
        with Raw(gateway.address) as late:
            late.ask(CHAT, chat("echo")).error(503, "draining")
        with Raw(gateway.address) as probe:
            assert probe.ask("/healthz", method="GET").status == 200
        with suppress(Cut, OSError):  # one from before hears the same or is closed; it never hangs
            idle.ask(CHAT, chat("echo")).error(503, "draining")
        up.go(model, 10)
        assert got.rest() == events[1:]
    assert gateway.process.wait(PATIENCE) == 0
    assert gateway.line(model=model)["outcome"] == "ok"
    with pytest.raises(ConnectionRefusedError):
        Raw(gateway.address)


def test_stop_without_work_is_prompt(start: Start) -> None:
    """An idle keep-alive connection does not hold up the exit."""
    gateway = start()
    with Raw(gateway.address) as raw:
        assert raw.ask(CHAT, chat("echo")).status == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("streaming", [False, True], ids=["json", "stream"])
def test_drain_time_ends(start: Start, up: Scripted, streaming: bool) -> None:
    """L1: after `drain_timeout` what is left is told inside its stream (or with a 503), booked,
    and closed."""
    gateway = start(drain_timeout="300ms")
    model = up.play([*(stream([delta("Hel")], close=False) if streaming else []), ("stall",)])
    with Raw(gateway.address) as raw:
        raw.send(request(CHAT, chat(model, stream=streaming)))
        up.wait(model, "body")
        if streaming:
            got = Events(raw)
            assert got.next() == delta("Hel")
        gateway.process.send_signal(signal.SIGTERM)
        if streaming:
            in_stream_error(got.rest(), "draining")
        else:
            raw.answer().error(503, "draining")
    assert gateway.process.wait(PATIENCE) == 0
    assert up.wait(model, "ended").ended == "client_closed"
    line = gateway.line(model=model)
    assert (line["outcome"], line["error"]) == ("drained", "draining")


def test_second_signal_ends_at_once(start: Start, up: Scripted) -> None:
    """L1: no waiting for the stream; still a line for it."""
    gateway = start()
    model = up.play([*stream([delta("Hel")], close=False), ("stall",)])
    with Raw(gateway.address) as raw:
        raw.send(request(CHAT, chat(model, stream=True)))
        assert Events(raw).next() == delta("Hel")
        gateway.process.send_signal(signal.SIGTERM)
        until_ready_is(gateway, 503)
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(PATIENCE)
    assert up.wait(model, "ended").ended == "client_closed"
    gateway.process.returncode = 0  # a forced end may say so
    assert gateway.line(model=model)["outcome"] in ("drained", "client_disconnect")


def test_interrupt_stops_like_terminate(start: Start) -> None:
    """Ctrl-C: no traceback, exit 0."""
    gateway = start()
    gateway.process.send_signal(signal.SIGINT)
    assert gateway.process.wait(PATIENCE) == 0


# Reload -------------------------------------------------------------------------------------------


def with_model(up: Scripted, pattern: str) -> dict[str, object]:
    config = config_for(up)
    config["upstreams"].append(
        {"name": "later", "models": [pattern], "base_url": up.url, "auth": "none"}
    )
    return config


@pytest.mark.parametrize("how", ["signal", "file"])
def test_reload(start: Start, up: Scripted, how: str) -> None:
    """L5: a new upstream serves; a stream from before goes on through it."""
    gateway = start()
    events = [delta("Hel"), finish(), DONE]
    old = up.play(stream(events, paced=True))
    new = up.play(reply(completion("from the new one")), prefix="later")
    with Raw(gateway.address) as raw, Raw(gateway.address) as streaming:
        raw.ask(CHAT, chat(new)).error(404, "model_not_found")
        streaming.send(request(CHAT, chat(old, stream=True)))
        up.go(old)
        got = Events(streaming)
        assert got.next() == events[0]
        gateway.write(with_model(up, "later-*"))
        if how == "signal":
            gateway.process.send_signal(signal.SIGHUP)
        gateway.stderr.until(lambda said: next((x for x in said if "reload" in x.lower()), None))
        for _ in range(1000):
            if (answer := raw.ask(CHAT, chat(new))).status == 200:
                break
        assert answer.json() == completion("from the new one")
        up.go(old, 5)
        assert got.rest() == events[1:]
    assert gateway.line(model=old)["outcome"] == "ok"


@pytest.mark.parametrize("how", ["signal", "file"])
def test_bad_reload_keeps_the_old(start: Start, up: Scripted, how: str) -> None:
    """L5: and says what is wrong, with its path."""
    gateway = start()
    config = config_for(up)
    config["upstreams"][0]["modles"] = ["x"]
    gateway.write(config)
    if how == "signal":
        gateway.process.send_signal(signal.SIGHUP)
    said = gateway.stderr.until(lambda said: next((x for x in said if "modles" in x), None))
    assert "models" in said, "the nearest valid name"
    with Raw(gateway.address) as raw:
        assert raw.ask(CHAT, chat("echo")).status == 200
        assert raw.ask("/readyz", method="GET").status == 200


def test_log_is_reopened(start: Start) -> None:
    """SIGHUP after logrotate has moved the file: lines go on in a new one."""
    gateway = start()
    with Raw(gateway.address) as raw:
        first = raw.ask(CHAT, chat("echo")).id
        gateway.line(id=first)
        moved = gateway.log.path.with_suffix(".1")
        gateway.log.path.rename(moved)
        gateway.process.send_signal(signal.SIGHUP)
        gateway.stderr.until(lambda said: next((x for x in said if "reload" in x.lower()), None))
        gateway.log._read = 0
        second = raw.ask(CHAT, chat("echo")).id
        gateway.line(id=second)
    assert first in moved.read_text() and second not in moved.read_text()


# Start --------------------------------------------------------------------------------------------


def test_second_server_on_the_same_data_is_refused(start: Start, up: Scripted) -> None:
    first = start()
    with pytest.raises(AssertionError, match=r"(?i)lock|already|another"):
        Gateway(first.folder, config_for(up)).__enter__()


def test_own_address_as_upstream_is_refused_at_start(tmp_path: Path, up: Scripted) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = config_for(up)
    config["upstreams"][0]["base_url"] = f"http://127.0.0.1:{port}/v1"
    gateway = Gateway(tmp_path, config, "--port", str(port))
    with pytest.raises(AssertionError, match="base_url"):
        gateway.__enter__()
    assert gateway.process.returncode == 2


@pytest.fixture
def detour() -> Iterator[tuple[int, list[int]]]:
    """Another name for the gateway's address: a port that forwards to the one put into the list."""
    target: list[int] = []
    listening = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = [listening]

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", target[0]))
            except OSError:
                return
            ends.extend((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listening.getsockname()[1], target
    listening.shutdown(socket.SHUT_RDWR)
    for end in ends:
        end.close()
    thread.join(PATIENCE)


@pytest.mark.parametrize("streaming", [False, True], ids=["json", "stream"])
def test_request_that_comes_back_is_refused(
    start: Start, up: Scripted, detour: tuple[int, list[int]], streaming: bool
) -> None:
    """A loop the start-time check cannot see: 502 at once, not a circle until the sockets run
    out."""
    port, target = detour
    config = config_for(up)
    config["upstreams"][0]["base_url"] = f"http://127.0.0.1:{port}/v1"
    gateway = start(config)
    target.append(gateway.port)
    with Raw(gateway.address) as raw:
        answer = raw.ask(CHAT, chat("open-loop", stream=streaming))
        answer.error(502, "upstream_error")
    assert [x["status"] for x in gateway.log.wait(2)] == [502, 502], "one way in, one way back"


def test_connect_timeout(start: Start, up: Scripted) -> None:
    """I1: an address that never answers costs `timeouts.connect`, not the system's two minutes."""
    config = config_for(up)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.socket() as waiting, socket.socket() as another:
            for one in (waiting, another):  # the queue is full: further SYNs are dropped
                one.setblocking(False)
                one.connect_ex(full.getsockname())
            config["upstreams"][0] |= {
                "base_url": f"http://127.0.0.1:{full.getsockname()[1]}/v1",
                "timeouts": {"connect": "300ms"},
            }
            gateway = start(config)
            with Raw(gateway.address) as raw:
                raw.ask(CHAT, chat("open-x")).error(504, "upstream_timeout")
    assert gateway.line(model="open-x")["outcome"] == "upstream_timeout"


def test_total_timeout(start: Start, up: Scripted) -> None:
    """I1: `total` bounds even a stream that is alive, and is off by default."""
    config = config_for(up)
    config["upstreams"][0]["timeouts"] = {"total": "500ms"}
    gateway = start(config)
    model = up.play([*stream([delta("Hel")], close=False), GATE])
    with Raw(gateway.address) as raw:
        raw.send(request(CHAT, chat(model, stream=True)))
        got = Events(raw)
        assert got.next() == delta("Hel")
        in_stream_error(got.rest(), "upstream_timeout")
    assert gateway.line(model=model)["outcome"] == "upstream_timeout"
