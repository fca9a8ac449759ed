"""Header lines: what could split a head is not in them, whatever stands beside it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.fields import fields_of, lines_of

names = st.sampled_from(["x-a", "content-type", "Content-Length", "x y", "", "x:", "x\r\ny", "x-b"])
values = st.text(st.sampled_from("ab \t\r\n\x00\x7f\xe9\u2028:"), max_size=6)


@given(st.lists(st.tuples(names, values)))
def test_lines_are_one_for_each_good_header(headers: list[tuple[str, str]]) -> None:
    """RFC 9110 section 5.5: no CR, LF or NUL; framing is the server's."""
    good = [
        (name, value)
        for name, value in headers
        if name in {"x-a", "content-type", "x-b"} and not set(value) & set("\r\n\x00\x7f\u2028")
    ]
    text = lines_of(headers)
    assert text == "".join(f"{name}: {value}\r\n" for name, value in good)
    assert fields_of(text) == good
