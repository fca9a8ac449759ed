"""Gigabytes pass and memory stays flat: uploads, long answers, slow readers (I6, H7, K6)."""

from __future__ import annotations

import hashlib

import pytest

from tests.e2e.conftest import Start
from tests.e2e.process import Gateway
from tests.e2e.raw import CHAT, Answer, Events, Raw, chat, request
from tests.scripted.client import Scripted
from tests.scripted.replies import (
    BODY,
    DONE,
    GATE,
    SSE_HEAD,
    chunk,
    completion,
    delta,
    finish,
    head,
    reply,
    send,
)

MB = 1_000_000
BLOCK = bytes(range(256)) * 4096  # 1 MiB
# What may be on its way between two ends: the gateway's window, and the kernel's buffers of two
# connections.
UNDERWAY = 24 * MB
GROWTH = 40 * MB  # of the process's memory, over a transfer several times as large


def upload(gateway: Gateway, path: str, blocks: int, *, chunked: bool) -> tuple[Answer, str]:
    """A multipart form with a file of `blocks` MiB; the answer, and the digest of all bytes
    sent."""
    boundary = "frontier"
    first = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f.bin"\r\n\r\n'
    ).encode()
    last = f"\r\n--{boundary}--\r\n".encode()
    digest = hashlib.sha256(first)
    kind = ("Content-Type", f"multipart/form-data; boundary={boundary}")
    size = len(first) + blocks * len(BLOCK) + len(last)
    length = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(size))

    def piece(data: bytes) -> bytes:
        return chunk(data) if chunked else data

    block = piece(BLOCK)
    with Raw(gateway.address) as raw:
        raw.send(request(path, headers=[kind, length]) + piece(first))
        for _ in range(blocks):
            raw.send(block)
            digest.update(BLOCK)
        digest.update(last)
        raw.send(piece(last) + (chunk(b"") if chunked else b""))
        return raw.answer(), digest.hexdigest()


@pytest.mark.parametrize(
    ("blocks", "chunked"),
    [
        pytest.param(200, False, id="200MiB"),
        pytest.param(50, True, id="50MiB-chunked"),
        pytest.param(1023, False, id="1GiB", marks=pytest.mark.soak),
    ],
)
def test_upload_in_flat_memory(start: Start, up: Scripted, blocks: int, chunked: bool) -> None:
    """K6: streamed both ways; what the upstream got is what was sent."""
    gateway = start()
    with Raw(gateway.address) as raw:
        assert raw.ask(CHAT, chat("echo")).status == 200  # everything is loaded
    before = gateway.memory()["VmHWM"]
    name = up.play([BODY, *reply(b'{"id":"file-1"}')])
    answer, digest = upload(gateway, f"/v1/files/{name}", blocks, chunked=chunked)
    assert (answer.status, answer.body) == (200, b'{"id":"file-1"}')
    seen = up.wait(name, "ended")
    assert seen.sha256 == digest
    assert (seen.header("content-type") or "").endswith("boundary=frontier")
    assert gateway.memory()["VmHWM"] - before < GROWTH
    line = gateway.line(id=answer.id)
    assert (line["outcome"], line["bytes_in"]) == ("ok", seen.length)


def test_upload_waits_for_a_slow_upstream(start: Start, up: Scripted) -> None:
    """Back-pressure toward the client: what the upstream does not read is not taken."""
    gateway = start()
    name = up.play([("take", 1), GATE, BODY, *reply(b"{}")])
    blocks = 100
    size = blocks * len(BLOCK)
    with Raw(gateway.address) as raw:
        raw.send(
            request(
                f"/v1/files/{name}",
                headers=[("Content-Length", str(size)), ("Content-Type", "audio/wav")],
            )
        )
        raw.send(BLOCK)
        up.wait(name, "received", least=1)
        before = gateway.memory()["VmHWM"]
        raw.sock.settimeout(1)  # how long a full pipe is pushed; nothing passes or fails by it
        sent = len(BLOCK)
        try:
            while sent < size:
                sent += raw.sock.send(BLOCK[: size - sent])
        except TimeoutError:
            pass
        assert sent < UNDERWAY, "the gateway took what its upstream did not"
        assert gateway.memory()["VmHWM"] - before < GROWTH
        raw.sock.settimeout(20)
        up.go(name)
        whole = BLOCK * 2
        while sent < size:
            at = sent % len(BLOCK)
            sent += raw.sock.send(whole[at : at + min(len(BLOCK), size - sent)])
        assert raw.answer().status == 200
    assert up.wait(name, "ended").length == size


def test_upload_may_be_answered_early(house: Gateway, up: Scripted) -> None:
    """An upstream that refuses a large file before it has read it is heard."""
    name = up.play([("take", 1), *reply(b'{"error":"no"}', "413 Content Too Large"), ("cut",)])
    size = 30 * len(BLOCK)
    with Raw(house.address) as raw:
        raw.send(
            request(
                f"/v1/files/{name}",
                headers=[("Content-Length", str(size)), ("Content-Type", "a/b")],
            )
        )
        raw.send(BLOCK)
        answer = raw.answer()
    assert answer.status in (413, 502)
    house.line(id=answer.id)


def test_client_leaves_in_mid_upload(house: Gateway, up: Scripted) -> None:
    """B5: the upstream's half of the upload is closed, not left to hang."""
    name = up.play([BODY, *reply(b"{}")])
    with Raw(house.address) as raw:
        raw.send(
            request(
                f"/v1/files/{name}",
                headers=[("Content-Length", "9000000"), ("Content-Type", "a/b")],
            )
        )
        raw.send(BLOCK)
        up.wait(name, "head")
    seen = up.wait(name, "ended")
    assert seen.ended == "client_closed" and not seen.whole
    assert house.line(path=f"/v1/files/{name}")["outcome"] == "client_disconnect"


@pytest.mark.parametrize("kind", ["stream", "json", "file"])
def test_slow_reader_holds_the_upstream_back(start: Start, up: Scripted, kind: str) -> None:
    """I6: 100 MB to a client that reads when it likes: the upstream waits, memory is flat, others
    are served."""
    gateway = start()
    event = delta("x" * (MB - 200))
    pieces = 100
    if kind == "stream":
        steps = [
            send(SSE_HEAD),
            ("bulk", chunk(event), pieces),
            send(chunk(finish() + DONE) + chunk(b"")),
        ]
        total = len(event) * pieces + len(finish() + DONE)
    else:
        event = b" " * MB
        total = len(event) * pieces
        mime = "application/json" if kind == "json" else "application/octet-stream"
        fields = [("Content-Type", mime), ("Content-Length", str(total))]
        steps = [send(head(headers=fields)), ("bulk", event, pieces)]
    name = up.play(steps)
    asked = (
        request(f"/v1/files/{name}/content", method="GET")
        if kind == "file"
        else request(CHAT, chat(name, stream=kind == "stream"))
    )
    with Raw(gateway.address) as other, Raw(gateway.address, receive_buffer=65536) as raw:
        assert other.ask(CHAT, chat("echo")).status == 200
        before = gateway.memory()["VmHWM"]
        raw.send(asked)
        answer = raw.head()
        body = raw.pieces(answer)
        for _ in range(300):  # work, not waiting: time enough to pull 100 MB, were it pulled
            assert other.ask(CHAT, chat("echo")).status == 200
        held = up.wait(name, "head")
        assert held.sent < UNDERWAY and held.ended is None
        got = 0
        if answer.header("content-length"):
            while got < total:
                got += len(raw.exactly(min(MB, total - got)))
                assert up.calls(name)[0].sent - got < UNDERWAY
        else:
            for data in body:
                got += len(data)
        assert got == total
        assert gateway.memory()["VmHWM"] - before < GROWTH
    assert up.wait(name, "ended").ended == "done"
    assert gateway.line(id=answer.id)["outcome"] == "ok"


def test_reader_that_never_reads_is_cut(start: Start, up: Scripted) -> None:
    """`server.slow_reader`: no progress for so long, and the upstream is let go."""
    gateway = start(slow_reader="500ms")
    piece = chunk(delta("x" * MB))
    model = up.play([send(SSE_HEAD), ("bulk", piece, 100), ("stall",)])
    with Raw(gateway.address, receive_buffer=8192) as raw:
        raw.send(request(CHAT, chat(model, stream=True)))
        assert Events(raw).head.status == 200
        seen = up.wait(model, "ended")
    assert seen.ended == "client_closed" and seen.sent < 100 * len(piece)
    assert gateway.line(model=model)["outcome"] == "client_disconnect"


def test_large_bodies_share_a_budget(start: Start, up: Scripted) -> None:
    """H7: bodies in flight together are bounded; who does not fit gets 503 and may try again."""
    gateway = start(body_limit="4MiB", body_budget="5MiB")
    size = 3 * MB
    with Raw(gateway.address) as one, Raw(gateway.address) as two:
        body = b'{"model":"echo","messages":[{"role":"user","content":"hi"}],"pad":"'
        body += b"x" * (size - len(body) - 2) + b'"}'
        fields = [
            ("Content-Length", str(size)),
            ("Content-Type", "application/json"),
            ("Expect", "100-continue"),
        ]
        one.send(request(CHAT, headers=fields))
        assert one.head().status == 100  # accepted: its bytes are reserved
        two.send(request(CHAT, headers=fields))
        two.answer().error(503, "overloaded")
        one.send(body)
        assert one.answer().status == 200
    with Raw(gateway.address) as three:
        assert three.send(request(CHAT, body)).answer().status == 200, (
            "the budget was not given back"
        )


def test_large_answer_passes_whole(raw: Raw, house: Gateway, up: Scripted) -> None:
    """A JSON answer of 20 MB, byte for byte."""
    body = b'{"pad":"' + b"y" * 20_000_000 + b'",' + reply(completion())[0][1].partition(b"{")[2]
    model = up.play(reply(body))
    answer = raw.ask(CHAT, chat(model))
    assert answer.body == body
    assert house.line(id=answer.id)["outcome"] == "ok"
