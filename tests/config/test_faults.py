"""Bad files, and exactly what is said of them (requirement L5; reliability.md, "config typos")."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config import Config, ConfigError, load


def no_file(path: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", path)


def faults_of(text: str | bytes, **env: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, env, no_file)
    lines = [str(fault) for fault in caught.value.faults]
    assert str(caught.value) == "\n".join(lines)
    return [line.removeprefix("config.yaml:") for line in lines]


ONE = "upstreams:\n  - name: a\n    base_url: https://a.example\n"  # a fourth line may follow

# One row each: the file, and the whole of what is said.
TYPES: list[tuple[str | bytes, str]] = [
    ("server:\n  prot: 1", "2: server.prot: unknown name (did you mean 'port'?)"),
    (
        "servers: {}",
        "1: servers: unknown name (did you mean 'server'?)",
    ),
    (
        "zzz: {}",
        "1: zzz: unknown name (known are server, admin, data, upstreams, models, keys, cache, "
        "quota, usage, journal, metrics, traces)",
    ),
    ("metrics:\n\n  opne: true", "3: metrics.opne: unknown name (did you mean 'open'?)"),
    (
        "server: {port: eighty}",
        "1: server.port: a whole number is wanted, found the text 'eighty'",
    ),
    ('server: {port: "80"}', "1: server.port: a whole number is wanted, found the text '80'"),
    ("server: {port: true}", "1: server.port: a whole number is wanted, found true"),
    ("server: {port: 80.0}", "1: server.port: a whole number is wanted, found the number 80.0"),
    ("server: {port: 0x50}", "1: server.port: a whole number is wanted, found the number 0x50"),
    ("server: {port: 080}", "1: server.port: a whole number is wanted, found the number 080"),
    ("server: {port: [80]}", "1: server.port: a whole number is wanted, found a list"),
    ("server: {port: }", "1: server.port: a whole number is wanted, found nothing"),
    (
        "server: {port: " + "9" * 5000 + "}",
        "1: server.port: a whole number is wanted, found a text of 5000 characters",
    ),
    (
        "server:\n  host: 127",
        "2: server.host: text is wanted, found the number 127: put it in quotes",
    ),
    ("server: {host: true}", "1: server.host: text is wanted, found true: put it in quotes"),
    ("data:", '1: data: text is wanted, found nothing: write "" for an empty one'),
    ("data: {a: b}", "1: data: text is wanted, found a mapping"),
    (
        "keys: {passthrough: yes}",
        "1: keys.passthrough: true or false is wanted, found the text 'yes'",
    ),
    ("keys: {open: 1}", "1: keys.open: true or false is wanted, found the number 1"),
    ('keys: {open: "true"}', "1: keys.open: true or false is wanted, found the text 'true'"),
    (
        "keys: {anonymous: sometimes}",
        "1: keys.anonymous: one of loopback, never, always is wanted, found the text 'sometimes'",
    ),
    (
        "server: {body_limit: 64}",
        "1: server.body_limit: a size has a unit: write 64MiB"
        " (B, KiB, MiB, GiB, TiB, KB, MB, GB); found the number 64",
    ),
    (
        "server: {body_limit: 64M}",
        "1: server.body_limit: a size is wanted: write 64MiB"
        " (B, KiB, MiB, GiB, TiB, KB, MB, GB); found the text '64M'",
    ),
    (
        "server: {slow_reader: 30}",
        "1: server.slow_reader: a duration has a unit: write 30s (ms, s, m, h, d);"
        " found the number 30",
    ),
    (
        "server: {slow_reader: none}",
        "1: server.slow_reader: a duration is wanted: write 30s or 1h30m (ms, s, m, h, d);"
        " found the text 'none'",
    ),
    (
        "server: {slow_reader: []}",
        "1: server.slow_reader: a duration (30s) is wanted, found a list",
    ),
    ("server: 5", "1: server: a mapping is wanted, found the number 5"),
    ("server: [5]", "1: server: a mapping is wanted, found a list"),
    (
        "server: {cors_origins: a}",
        "1: server.cors_origins: a list, as in [a, b] or [], is wanted, found the text 'a'",
    ),
    (
        "server:\n  cors_origins:",
        "2: server.cors_origins: a list, as in [a, b] or [], is wanted, found nothing",
    ),
    (
        "keys: {aliases: [a]}",
        "1: keys.aliases: a mapping, as in {name: value} or {}, is wanted, found a list",
    ),
    ("upstreams: [5]", "1: upstreams[0]: a mapping is wanted, found the number 5"),
    (
        "upstreams:\n  - base_url: 'echo:'",
        "2: upstreams[0].name: missing; every upstream has one",
    ),
    (
        ONE + "    models: [a, 4.1]",
        "4: upstreams[0].models[1]: text is wanted, found the number 4.1: put it in quotes",
    ),
    (
        ONE + "    rename: {gpt-4.1: [x]}",
        "4: upstreams[0].rename['gpt-4.1']: text is wanted, found a list",
    ),
    (
        ONE + "    passthrough: none",
        "4: upstreams[0].passthrough: true or false is wanted, found the text 'none'",
    ),
    (
        ONE + "    timeouts: {total: 0s}",
        "4: upstreams[0].timeouts.total: must be above 0",
    ),
    (
        ONE + "    api_key: 123",
        '4: upstreams[0].api_key: text is wanted: put the value in quotes, or write ""',
    ),
]

STRUCTURE: list[tuple[str | bytes, str]] = [
    ("- a", "1: sections are wanted (server:, upstreams:, ...)"),
    ("\n\nhello", "3: sections are wanted (server:, upstreams:, ...)"),
    ("data: a\nserver: {}\ndata: b", "3: data: given twice, first in line 1: keep one"),
    (
        "server:\n  port: 1\n  host: ::1\n  port: 2",
        "4: server.port: given twice, first in line 2: keep one",
    ),
    ("server:\n  <<: {port: 1}", "2: server['<<']: merge keys are not taken: write it out"),
    ("server: &a {}", "1: '&a': anchors are not taken"),
    (
        ONE + "    models: [*gpt]",
        "4: '*gpt' is an alias, and aliases are not taken:"
        " write the value out, or a pattern in quotes",
    ),
    ("data: !!str a", "1: the tag 'tag:yaml.org,2002:str': tags are not taken"),
    (
        "data: !!python/object:os.system a",
        "1: the tag 'tag:yaml.org,2002:python/object:os.system': tags are not taken",
    ),
    ("server:\n  ? [a]\n  : b", "2: a name is plain text, not a list or a mapping"),
    ("data: a\n---\ndata: b", "2: a second document: remove '---'"),
    ("data: " + "[" * 200_000, "1: nested deeper than 16"),
    ("server:\n  '${A}': 1", "2: server['${A}']: only values take ${NAME}, names do not"),
    (b"data: a\n# caf\xe9\n", "2: not UTF-8; save the file as UTF-8"),
    (
        b"# \xc3\xa9\xc3\xa9\n\x00",
        "2: a character that YAML does not allow: control characters are not allowed",
    ),
    ("data: \ud800", "1: half of a surrogate pair"),
]


@pytest.mark.parametrize(
    ("text", "fault"), TYPES + STRUCTURE, ids=[f for _, f in TYPES + STRUCTURE]
)
def test_one_fault_is_told_with_its_line_and_what_would_be_right(
    text: str | bytes, fault: str
) -> None:
    assert faults_of(text) == [fault]


# libyaml and the parser in Python word these differently: only line and hint are ours.
SYNTAX = [
    ("server:\n\tport: 1", 2, "indent with spaces, not with tabs"),
    ("server: {port: ${PORT}}", 1, "inside {} and [] write '${NAME}' in quotes"),
    ("data: a\nupstreams:\n  - {name: a, api_key: ${KEY}}", 3, "write '${NAME}' in quotes"),
    (ONE + "    models: [*]", 4, "write a pattern that begins with * in quotes"),
    ("server: {", 1, "not YAML"),
    ("data: 'a\n\n", 2, "not YAML"),
    ("data: a: b", 1, "not YAML"),
    ("data: a\n port: 1", 2, "not YAML"),
]


@pytest.mark.parametrize(("text", "line", "hint"), SYNTAX)
def test_what_is_not_yaml_is_one_fault_with_its_line(text: str, line: int, hint: str) -> None:
    [fault] = faults_of(text)
    assert fault.startswith(f"{line}: not YAML: ")
    assert hint in fault


def test_all_kinds_of_fault_are_told_at_once_in_the_order_of_lines() -> None:
    text = """\
        server:
          prot: 9000
          port: "80"
          tls: {cert: a}
        admin: 5
        upstreams:
          - name: a
            base_url: http://u:p@h/?x
            models: [gpt-4, 5, "${NO}", true, x, ""]
            headers: {Host: x}
          - base_url: ${MISSING}
            delay: 5s
            timeouts: {connect: 10s, total: nine}
          - 7
          - name: a
            base_url: http://b.example
            delay: 1s
        keys: {anonymous: sometimes, open: no}
        data: ""
        data: ./d
        """
    told = [fault.split(": ", 2)[:2] for fault in faults_of(textwrap.dedent(text))]
    assert told == [
        ["2", "server.prot"],
        ["3", "server.port"],
        ["4", "server.tls.cert"],
        ["5", "admin"],
        ["8", "upstreams[0].base_url"],
        ["8", "upstreams[0].base_url"],
        ["9", "upstreams[0].models[1]"],
        ["9", "upstreams[0].models[2]"],
        ["9", "upstreams[0].models[3]"],
        ["9", "upstreams[0].models[5]"],  # its own place, though three before it were taken out
        ["10", "upstreams[0].headers.Host"],
        ["11", "upstreams[1].base_url"],  # and no word on `delay`: it may be echo:
        ["11", "upstreams[1].name"],
        ["13", "upstreams[1].timeouts.total"],
        ["14", "upstreams[2]"],
        ["15", "upstreams[3].name"],
        ["17", "upstreams[3].delay"],
        ["18", "keys.anonymous"],
        ["18", "keys.open"],
        ["19", "data"],
        ["20", "data"],
    ]


def test_a_rule_is_silent_where_a_value_it_rests_on_is_wrong_already() -> None:
    """The default that stands in for a wrong value is no fault of the file's writer."""
    [fault] = faults_of("server: {port: x}\nadmin: {port: 8080}")
    assert "a whole number" in fault
    [fault] = faults_of("upstreams: [5]")
    assert "a mapping" in fault


def test_a_fault_names_the_file_as_it_was_given() -> None:
    with pytest.raises(ConfigError, match=r"^/etc/gw\.yaml:1: nope: unknown name"):
        load("nope: 1", {}, no_file, name="/etc/gw.yaml")


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\n", "---\n", "~", "null", "{}", b"\xef\xbb\xbf"]
)
def test_an_empty_file_is_all_defaults(text: str | bytes) -> None:
    assert load(text, {}, no_file) == Config()


def test_a_section_without_settings_has_its_defaults() -> None:
    assert load("server:\nadmin:\nkeys:\n  aliases:\n", {}, no_file) == Config()


# Words of configurations, and what YAML is made of, in any order.
WORDS = st.sampled_from(
    [
        *("server", "admin", "data", "upstreams", "keys", "name", "base_url", "models", "api_key"),
        *("timeouts", "port", "host", "echo:", "none", "8080", "30s", "64MiB", "true", "~"),
        *("http://h/v1", "${A}", "${A:-b}", "${", "$${", "&a", "*a", "!", "!!str", "|", ">", "'"),
        *(": ", ":\n", "\n", "\n  ", "\n- ", " ", "{", "}", "[", "]", ",", "#", "---\n", "\t"),
        *('"', "%", "@", "`", "<<", "\x00", "é"),
    ]
)


@given(st.one_of(st.lists(WORDS, max_size=30).map("".join), st.text(max_size=60), st.binary()))
@example("upstreams:\n  - name: ${A}\n    base_url: ${A}\n  - ${A}\n")
@example("? {a: b}\n: c")
@example("*")
def test_junk_is_a_configuration_or_a_config_error(text: str | bytes) -> None:
    try:
        assert isinstance(load(text, {"A": "x"}, no_file), Config)
    except ConfigError as error:
        assert error.faults
        assert all(fault.line for fault in error.faults)
        lines = [fault.line or 0 for fault in error.faults]
        assert lines == sorted(lines)
