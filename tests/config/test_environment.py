"""`${NAME}`, its defaults and its secret files (requirement L6); and no secret is ever told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, Secret, load, masked

CANARY = "sk-canary-3Zq9vT0pXw7L"


def read_text(path: str) -> str:
    return Path(path).read_text("utf-8")


def key_of(value: str, **env: str) -> str:
    text = f"upstreams:\n  - name: a\n    base_url: https://a.example\n    api_key: {value}\n"
    return load(text, env, read_text).upstreams[0].api_key


def fault_of(value: str, **env: str) -> str:
    with pytest.raises(ConfigError) as caught:
        key_of(value, **env)
    [fault] = caught.value.faults
    assert (fault.path, fault.line) == ("upstreams[0].api_key", 4)
    return fault.message


@pytest.mark.parametrize(
    ("value", "env", "key"),
    [
        ("${K}", {"K": "x"}, "x"),
        ('"${K}"', {"K": "x"}, "x"),
        ("a-${K}-b-${L}", {"K": "x", "L": "y"}, "a-x-b-y"),
        ("${K}", {"K": "123"}, "123"),  # a number's look does not matter where text is wanted
        ("${K}", {"K": "null"}, "null"),
        ("${K}", {"K": ""}, ""),
        ("${K:-d}", {}, "d"),
        ("${K:-d}", {"K": ""}, "d"),
        ("${K:-d}", {"K": "x"}, "x"),
        ("${K:-}", {}, ""),
        ("'${K:-a:b-c}'", {}, "a:b-c"),
        ("${K}", {"K": "${L}"}, "${L}"),  # what comes in is not looked at again
        ("$${K}", {}, "${K}"),
        ("$K", {"K": "x"}, "$K"),
        ("${K}", {"K": "x#y'\"{}[]:-"}, "x#y'\"{}[]:-"),  # no content becomes YAML
    ],
)
def test_a_variable_is_replaced_inside_the_parsed_value(
    value: str, env: dict[str, str], key: str
) -> None:
    assert key_of(value, **env) == key


@pytest.mark.parametrize("line", ["port: ${P}", '{port: "${P}"}', "port: ${Q:-9000}"])
def test_a_variable_may_be_a_number(line: str) -> None:
    """In {} YAML wants it in quotes, so quotes do not make text of it."""
    text = f"server: {line}" if line.startswith("{") else f"server:\n  {line}"
    assert load(text, {"P": "9000"}, read_text).server.port == 9000


def test_a_variable_may_be_of_any_kind() -> None:
    text = "server: {body_limit: '${S}', slow_reader: '${D}'}\nkeys: {open: '${B}'}\ndata: ${P}"
    env = {"S": "1MiB", "D": "5s", "B": "true", "P": "007"}
    config = load(text, env, read_text)
    assert (config.server.body_limit, config.server.slow_reader) == (1 << 20, 5.0)
    assert (config.keys.open, config.data) == (True, "007")


def test_a_missing_variable_is_named() -> None:
    assert "neither K nor K_FILE" in fault_of("${K}")
    assert "neither K nor K_FILE" in fault_of("${K}", K_FILE="")


@pytest.mark.parametrize("value", ["${}", "${K", "${1}", "${K:default}", "${K-d}", "a${ K }"])
def test_what_only_looks_like_a_variable_is_refused(value: str) -> None:
    assert "${NAME:-default}" in fault_of(f"'{value}'", K="x")


@pytest.mark.parametrize(
    ("content", "key"), [("x\n", "x"), ("x", "x"), ("x\r\n", "x"), ("123\n", "123")]
)
@pytest.mark.parametrize("value", ["${K}", "${K:-d}"])
def test_a_secret_comes_from_the_file_that_name_file_names(
    tmp_path: Path, content: str, key: str, value: str
) -> None:
    (tmp_path / "secret").write_bytes(content.encode())
    file = str(tmp_path / "secret")
    assert key_of(value, K_FILE=file) == key
    assert key_of(value, K_FILE=file, K="") == key
    assert key_of(value, K_FILE=file, K="own") == "own"


@pytest.mark.parametrize(
    ("content", "what"),
    [(None, "cannot read"), (b"", "is empty"), (b"\n", "is empty"), (b"\xff", "not UTF-8 text")],
)
def test_a_secret_file_that_holds_no_secret_is_refused(
    tmp_path: Path, content: bytes | None, what: str
) -> None:
    """An empty secret is worse than none (reliability.md, new-api 2026-04)."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    message = fault_of("${K:-d}", K_FILE=str(file))
    assert "K_FILE" in message
    assert what in message


def test_what_the_shipped_file_asks_for_is_asked_without_it_too() -> None:
    env = {"OPENAI_API_KEY": "sk-1", "GATEWAY_ADMIN_TOKEN": "0123456789abcdeX"}
    for text in ("", "admin:\n", "admin: {port: 8081}\n"):
        config = load(text, env, read_text)
        assert config.admin.token == "0123456789abcdeX"
        assert [upstream.api_key for upstream in config.upstreams] == ["", "sk-1"]
    own = load("admin: {token: 'abcdefghijklmnop'}", env, read_text)
    assert own.admin.token == "abcdefghijklmnop"
    with pytest.raises(ConfigError) as caught:
        load("", {"GATEWAY_ADMIN_TOKEN": "x"}, read_text)
    assert str(caught.value) == "config.yaml:1: admin.token: too short: at least 16 characters"


EVERYWHERE = """\
server: {{port: {0}, body_limit: {0}, slow_reader: {0}, event_loop: {0}, cors_origins: [{0}],
  trusted_proxies: [{0}]}}
admin: {{token: {0}, hosts: [{0}]}}
upstreams:
  - {{name: {0}, base_url: {0}, api_key: {0}, auth: {0}, proxy: {0}, headers: {{Host: {0}}},
      paths: [{0}], rename: {{a: {0}}}, timeouts: {{connect: {0}}}, on_disconnect: {0}}}
  - {{name: {0}, base_url: "http://u:{1}@h", inject_usage: {0}, models: {0}}}
keys: {{anonymous: {0}, open: {0}, aliases: {{x: {0}}}}}
"""


@pytest.mark.parametrize("canary", [CANARY, f"{CANARY}\r\nX: y", f"{CANARY} "])
def test_no_fault_tells_the_content_of_a_variable(canary: str) -> None:
    """Requirement G7: also where a secret was put into the wrong setting."""
    with pytest.raises(ConfigError) as caught:
        load(EVERYWHERE.format('"${K}"', "${K}"), {"K": canary}, read_text)
    assert len(caught.value.faults) > 15
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value)


def test_a_secret_is_in_no_repr_and_in_no_masked_view() -> None:
    """G7, and `GET /admin/config` of the contract."""
    text = """\
admin: {token: "${K}"}
upstreams:
  - name: a
    base_url: https://a.example
    api_key: ${K}
    headers: {X-Key: "${K}"}
    query: {key: "${K}", empty: ""}
    proxy: http://user:${K}@proxy.example:3128
"""
    config = load(text, {"K": CANARY}, read_text)
    assert config.upstreams[0].api_key == CANARY
    assert f"{config.upstreams[0].api_key}" == CANARY  # as text it is itself: it has to be sent
    assert CANARY not in repr(config)
    shown = masked(config)
    assert CANARY not in str(shown)
    assert shown["admin"]["token"] == "***"
    assert shown["upstreams"][0]["api_key"] == "***"
    assert shown["upstreams"][0]["headers"] == {"X-Key": "***"}
    assert shown["upstreams"][0]["query"] == {"key": "***", "empty": ""}
    assert shown["upstreams"][0]["proxy"] == "http://***@proxy.example:3128"
    assert masked(Config())["admin"]["token"] == ""
    assert repr(Secret("")) == "''"
