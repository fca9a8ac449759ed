"""`traces`: where spans go, and what has to be installed for it."""

from __future__ import annotations

import pytest

from gateway.config import ConfigError, load, masked


def open_nothing(path: str) -> str:
    raise AssertionError(path)


@pytest.mark.parametrize(
    ("text", "path", "word"),
    [
        ("{endpoint: collector}", "traces.endpoint", "http(s) URL"),
        ("{endpoint: 'grpc://c:4317'}", "traces.endpoint", "http(s) URL"),
        ("{endpoint: 'http://u:p@c'}", "traces.endpoint", "use headers"),
        ("{endpoint: 'http://c/?token=x'}", "traces.endpoint", "use headers"),
        ("{headers: {'a b': x}}", "traces.headers['a b']", "name of a header"),
        ("{headers: {Content-Type: x}}", "traces.headers.Content-Type", "free to set"),
        ('{headers: {a: "x\\ny"}}', "traces.headers.a", "printable ASCII"),
        ("{headers: {a: ' x'}}", "traces.headers.a", "outer spaces"),
        ("{sample: 1.1}", "traces.sample", "0 to 1"),
        ("{sample: -0.1}", "traces.sample", "0 to 1"),
        ("{sample: 10%}", "traces.sample", "0.1 for a tenth"),
        ("{sample: 0.00001}", "traces.sample", "4 decimals"),
        ("{sample: [1]}", "traces.sample", "found a list"),
        ("{service_name: ''}", "traces.service_name", "a name is wanted"),
        ("{timeout: 0}", "traces.timeout", "above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, path: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"traces: {text}", {}, open_nothing)
    [fault] = caught.value.faults
    assert fault.path == path
    assert word in fault.message


@pytest.mark.parametrize("text", ["0", "1", "0.25", "1.0", "0.0001", '"0.5"'])
def test_a_part_of_the_whole(text: str) -> None:
    assert load(f"traces: {{sample: {text}}}", {}, open_nothing).traces.sample == float(
        text.strip('"')
    )


def test_headers_are_secret() -> None:
    config = load("traces: {headers: {Authorization: Basic canary}}", {}, open_nothing)
    assert "canary" not in repr(config)
    assert masked(config)["traces"]["headers"] == {"Authorization": "***"}


def test_without_the_extra_an_endpoint_is_refused_with_what_to_install() -> None:
    text = "server: {port: 0}\ntraces:\n  endpoint: http://127.0.0.1:4318\n"
    asked = []

    def installed(module: str) -> bool:
        asked.append(module)
        return False

    with pytest.raises(ConfigError) as caught:
        load(text, {}, open_nothing, installed=installed)
    [fault] = caught.value.faults
    assert (fault.line, fault.path) == (3, "traces.endpoint")
    assert "pip install" in fault.message
    assert asked == ["opentelemetry.exporter.otlp.proto.http"]
    assert not load("", {}, open_nothing, installed=installed).traces.endpoint
