"""The journal of a running gateway: nothing said leaks while bodies are off, and what is redacted
never (G6, G7); what is kept is found, shown, exported, copied, and survives kill -9."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.journal.reader import JournalReader
from tests.e2e.cached import killed
from tests.e2e.conftest import config_for
from tests.e2e.process import ADMIN_TOKEN, Gateway
from tests.e2e.raw import CHAT, Cut, Raw, request
from tests.e2e.test_keys import command, create
from tests.scripted.client import Scripted
from tests.scripted.replies import completion, error, event, finish, reply, stream, usage_event

KEY = "canary-callers-key-0123456789"
SAID = {
    "prompt": "canaryprompt7f",
    "arguments": "canaryarguments3b",
    "result": "canaryresult9d",
    "image": "Y2FuYXJ5aW1hZ2U1Y2FuYXJ5",
    "answer": "canaryanswer1e",
    "pieces": "canarypieces4a",
    "error": "canaryerror8c",
    "refused": "canaryrefused2d",
}


def body(model: str, **more: Any) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "f"}}
    call["function"] = {"name": "f", "arguments": json.dumps({"q": SAID["arguments"]})}
    image = {"url": f"data:image/png;base64,{SAID['image']}"}
    content = [{"type": "text", "text": SAID["prompt"]}, {"type": "image_url", "image_url": image}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": SAID["result"]},
    ]
    return {"model": model, "messages": messages, **more}


def tool(arguments: str) -> bytes:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f"}}
    call["function"] = {"name": "f", "arguments": arguments}
    return event(choices=[{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}])


def talk(gateway: Gateway, up: Scripted, **headers: str) -> list[str]:
    """Say everything in every way; the ids."""
    pieces = [SAID["pieces"][:5], SAID["pieces"][5:]]
    whole = [*(tool(json.dumps(one)[1:-1]) for one in pieces), finish(), usage_event()]
    refusal = error("400", "bad", f"no: {SAID['error']}")
    json_model = up.play(reply(completion(SAID["answer"])))
    asked = [
        body(json_model),
        body(json_model),  # a hit
        body(up.play(stream(whole)), stream=True),
        body(up.play([*stream(whole[:1], close=False), ("cut",)]), stream=True),
        body(up.play(reply(refusal, "400 Bad Request"))),
        {"model": "", "messages": SAID["refused"]},
    ]
    ids = []
    for one in asked:
        with Raw(gateway.address) as raw:
            given = [("Authorization", f"Bearer {KEY}"), *headers.items()]
            raw.send(request(CHAT, one, given))
            head = raw.head()
            ids.append(head.id)
            try:
                list(raw.pieces(head))
            except Cut:
                continue
    return ids


def leaks(folder: Path, words: dict[str, str], *more: str) -> set[tuple[str, str]]:
    """Where below `data`, but for the cache, and in which text, stands what."""
    places = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "cache" not in path.parts and path.name != "config.yaml"
    }
    places |= {f"text {number}": text.encode() for number, text in enumerate(more)}
    return {(at, name) for at, data in places.items() for name, word in words.items()
            if word.encode() in data}  # fmt: skip


def asked(gateway: Gateway, path: str, token: str = ADMIN_TOKEN) -> str:
    wanted = urllib.request.Request(f"http://127.0.0.1:{gateway.admin_port}{path}")
    wanted.add_header("Authorization", f"Bearer {token}")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(wanted) as got:
        return str(got.read().decode())


def rows(gateway: Gateway, question: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(asked(gateway, f"/admin/logs?{question}"))
    return found


def configured(up: Scripted, **section: Any) -> dict[str, Any]:
    return config_for(up) | {"cache": {"enabled": True}, "journal": section}


@pytest.fixture
def gateway(tmp_path: Path, up: Scripted) -> Iterator[Gateway]:
    with Gateway(tmp_path, configured(up, bodies=True)) as running:
        yield running


def test_g6_with_bodies_off_nothing_said_is_anywhere(tmp_path, up):
    with Gateway(tmp_path, configured(up)) as gateway:
        ids = talk(gateway, up)
        texts = [asked(gateway, path) for path in ("/metrics", "/admin/logs", "/admin/config")]
        texts += [asked(gateway, f"/admin/logs/{one}") for one in ids]
        assert all(json.loads(text)["kept"] is None for text in texts[3:])
    assert not (tmp_path / "data" / "journal").exists()
    texts += [gateway.stdout.text, gateway.stderr.text]
    assert leaks(tmp_path, SAID | {"key": KEY}, *texts) == set()


def test_g6_what_is_redacted_is_nowhere_with_bodies_on(tmp_path, up):
    section = {"bodies": True, "redact": {"members": ["q"], "patterns": ["canary[a-z]+[0-9][a-f]"]}}
    with Gateway(tmp_path, configured(up, **section)) as gateway:
        ids = talk(gateway, up, Cookie=KEY, **{"X-My-Token": "canary-in-a-header"})
        texts = [asked(gateway, f"/admin/logs/{one}") for one in ids]
        assert all(json.loads(text)["kept"]["request"]["body"] for text in texts)
        texts.append(asked(gateway, "/admin/logs?format=jsonl&bodies=true"))
    words = {name: word for name, word in SAID.items() if name != "image"}
    words |= {"key": KEY, "header": "canary-in-a-header"}
    assert leaks(tmp_path, words, *texts, gateway.stderr.text) == set()


def test_hits_misses_errors_and_refusals_are_kept_alike(gateway, up):
    ids = talk(gateway, up)
    kept = {row["id"]: row for row in rows(gateway, "bodies=true")}
    assert set(kept) == set(ids)
    answers = [kept[one]["kept"]["response"] for one in ids]
    assert [kept[one]["cache"] for one in ids[:2]] == ["miss", "hit"]
    assert SAID["answer"] in answers[0]["body"]
    assert answers[0]["body"] == answers[1]["body"]
    assert json.loads(answers[2]["body"])["choices"][0]["message"]["tool_calls"][0]["function"] == {
        "name": "f",
        "arguments": SAID["pieces"],
    }
    assert json.loads(answers[3]["body"])["error"]["code"] == "upstream_error"
    assert SAID["error"] in answers[4]["body"]
    assert (answers[5]["status"], kept[ids[5]]["outcome"]) == (400, "refused")
    assert SAID["refused"] in kept[ids[5]]["kept"]["request"]["body"]
    found = {name: [row["id"] for row in rows(gateway, f"search={word}")]
             for name, word in SAID.items()}  # fmt: skip
    assert found["answer"] == [ids[1], ids[0]]
    assert (found["pieces"], found["error"]) == ([ids[2]], [ids[4]])
    assert found["refused"] == [ids[5]]
    assert found["arguments"] == ids[4::-1]
    assert [r["id"] for r in rows(gateway, f"search={SAID['prompt']}&status=4xx")] == [ids[4]]
    assert rows(gateway, f"search={SAID['prompt']}&cache=hit&since=1h")[0]["id"] == ids[1]


def test_pages_and_export_have_each_row_once(gateway, up):
    ids = talk(gateway, up) + talk(gateway, up)
    for question in ("", f"&search={SAID['prompt']}"):
        every = [row["id"] for row in rows(gateway, f"limit=100{question}")]
        assert set(every) <= set(ids)
        paged: list[str] = []
        while page := rows(
            gateway, f"limit=2{question}" + (f"&before={paged[-1]}" if paged else "")
        ):
            paged += [row["id"] for row in page]
        assert paged == every
        lines = asked(gateway, f"/admin/logs?format=jsonl&bodies=1{question}").splitlines()
        assert [json.loads(line)["id"] for line in lines] == every
    assert len(asked(gateway, "/admin/logs?format=jsonl&limit=3").splitlines()) == 3


@pytest.mark.parametrize(
    "question",
    [
        *("search=%22%2A", "search=", "limit=1001", "limit=21&bodies=1", "format=xml", "limit=0"),
        "format=jsonl&follow=1",
    ],
)
def test_what_cannot_be_asked_is_refused(gateway, question):
    with pytest.raises(urllib.error.HTTPError, match="400"):
        rows(gateway, question)


def test_a_key_a_header_and_a_reload_decide(tmp_path, up):
    with Gateway(tmp_path, configured(up)) as gateway:
        key = create(gateway, "a", "--log-bodies", "on")
        model = up.play(*[reply(completion("x"))] * 9, prefix="shared")

        def kept(key: str, **headers: str) -> bool:
            with Raw(gateway.address) as raw:
                given = [("Authorization", f"Bearer {key}"), *headers.items()]
                one = raw.send(request(CHAT, body(model), given)).answer().id
            return json.loads(asked(gateway, f"/admin/logs/{one}"))["kept"] is not None

        assert kept(key)
        assert not kept(KEY)
        assert not kept(key, **{"X-Gateway-Log": "none"})
        command(gateway, "keys", "set", "a", "--log-bodies", "off")
        assert not kept(key)


def test_a_copy_is_whole_and_can_be_read_elsewhere(gateway, up, tmp_path):
    ids = talk(gateway, up)
    copy = tmp_path / "copy"
    command(gateway, "backup", str(copy))
    assert (copy / "journal").stat().st_mode & 0o777 == 0o700
    files = list((copy / "journal").iterdir())
    assert {path.suffix for path in files} == {".db"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    reader = JournalReader(copy)
    assert set(reader._kept(ids)) == set(ids)
    reader.close()


def test_kill_9_loses_a_second_at_most_and_the_files_are_sound(tmp_path, up):
    """What a look has shown is on the disk, and there is no file that cannot be read."""
    with killed(tmp_path, configured(up, bodies=True)) as gateway:
        ids = talk(gateway, up)
        assert len(rows(gateway, f"search={SAID['prompt']}")) == 5  # waits for what is on its way
        talk(gateway, up)
    reader = JournalReader(tmp_path / "data")
    assert set(reader._kept(ids)) == set(ids)
    reader.close()
    with Gateway(tmp_path, configured(up, bodies=True)) as gateway:
        more = talk(gateway, up)
        found = {row["id"] for row in rows(gateway, f"search={SAID['prompt']}&limit=100")}
        assert {*ids[:5], *more[:5]} <= found
        assert "cannot" not in gateway.stderr.text
