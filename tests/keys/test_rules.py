"""Credentials out of headers, and who they make (contract, "Callers"; G7, N2)."""

from __future__ import annotations

import hmac
import re
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Anonymous, Keys
from gateway.errors import InvalidAPIKey
from gateway.exchange import CallerKind, Grant
from gateway.keys.rules import (
    TOKEN_LIMIT,
    Peppers,
    blotted,
    caller_of,
    digest,
    issue,
    may_use,
    pepper_name,
    policy,
    read_token,
    same,
)

PEPPER = b"p" * 64
ADMIN = "the-admin-token-of-this-test"
PLAIN = st.characters(codec="ascii")
OPEN = policy(Keys(), bind_is_loopback=True)


def who(token, rules=OPEN):
    return caller_of(token, rules, pepper=PEPPER, admin=digest(ADMIN))


@pytest.mark.parametrize(
    ("authorization", "api_key", "token"),
    [
        ("Bearer sk-1", None, "sk-1"),
        ("bearer sk-1", None, "sk-1"),
        ("BEARER  sk-1 ", None, "sk-1"),
        (None, "sk-2", "sk-2"),
        ("", " sk-2 ", "sk-2"),
        ("Bearer sk-1", "sk-2", "sk-1"),
        ("Bearer ", "sk-2", "sk-2"),
        ("Bearer", "sk-2", "sk-2"),
        ("Bearer none", None, "none"),  # clients that must send some key send this
        ("Bearer sk-no-key", None, "sk-no-key"),
        (None, None, None),
        ("", "", None),
        ("  ", "\t", None),
        ("Bearer", None, None),
        ("Bearer   ", "   ", None),
        ("Bearer " + "x" * TOKEN_LIMIT, None, "x" * TOKEN_LIMIT),
    ],
)
def test_a_token_is_read_from_either_header(authorization, api_key, token):
    assert read_token(authorization, api_key) == token


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        ("Basic c2VjcmV0", None),
        ("sk-without-a-scheme", None),
        ("Bearer a b", None),
        ("Bearer a, Bearer b", None),  # two headers, joined
        ("Bearer\tsk-1", None),
        ("Bearer sk-\x00", None),
        ("Bearer sk-\x7f", None),
        ("Bearer schlüssel", None),
        ("Bearer ' OR '1'='1", None),
        (None, "a, b"),
        (None, "k\u00e9"),
        ("Bearer " + "x" * (TOKEN_LIMIT + 1), None),
        ("Basic c2VjcmV0", "sk-2"),  # Authorization wins, also when it is wrong
    ],
)
def test_what_cannot_be_a_token_is_refused(authorization, api_key):
    with pytest.raises(InvalidAPIKey):
        read_token(authorization, api_key)


@given(st.text(), st.text())
def test_no_header_raises_anything_else(authorization, api_key):
    try:
        token = read_token(authorization, api_key)
    except InvalidAPIKey:
        return
    assert token is None or (token.isascii() and token.isprintable() and " " not in token)


@pytest.mark.parametrize("token", ["gw_", "gw_abc", "gw_" + "0" * 40, ADMIN])
def test_our_own_namespace_is_never_a_passthrough_token(token):
    with pytest.raises(InvalidAPIKey):
        who(token)


@pytest.mark.parametrize("token", ["GW_abc", "xgw_abc", "gwabc", ADMIN + "x", ADMIN[:-1], "none"])
def test_what_only_resembles_ours_is_a_passthrough_token(token):
    assert who(token).token == token


def test_a_passthrough_caller_is_told_apart_by_the_whole_keyed_digest():
    """CVE-2026-35030: never by a part of the token."""
    one, other = who("sk-" + "a" * 60 + "1"), who("sk-" + "a" * 60 + "2")
    assert one.id != other.id
    assert one.id == hmac.new(PEPPER, one.token.encode(), sha256).hexdigest()
    assert one.name == f"pass-{one.id[:8]}"
    assert one.kind is CallerKind.PASSTHROUGH


def test_an_alias_replaces_the_shown_name_and_not_the_identity():
    plain = who("sk-1")
    named = who("sk-1", policy(Keys(aliases={plain.name: "billing"}), bind_is_loopback=True))
    assert (named.name, named.id) == ("billing", plain.id)


def test_without_passthrough_every_token_is_refused():
    with pytest.raises(InvalidAPIKey):
        who("sk-1", policy(Keys(passthrough=False), bind_is_loopback=True))


@pytest.mark.parametrize(
    ("setting", "loopback", "admitted"),
    [
        (Anonymous.LOOPBACK, True, True),
        (Anonymous.LOOPBACK, False, False),
        (Anonymous.NEVER, True, False),
        (Anonymous.NEVER, False, False),
        (Anonymous.ALWAYS, True, True),
        (Anonymous.ALWAYS, False, True),
    ],
)
def test_anonymous_callers_are_let_in_by_the_setting(setting, loopback, admitted):
    rules = policy(Keys(anonymous=setting), bind_is_loopback=loopback)
    if admitted:
        caller = who(None, rules)
        assert (caller.kind, caller.name, caller.token) == (
            CallerKind.ANONYMOUS,
            "anonymous",
            None,
        )
    else:
        with pytest.raises(InvalidAPIKey):
            who(None, rules)


def test_no_secret_in_a_repr_or_a_refusal():
    """G7."""
    caller = who("sk-canary-4711")
    assert "canary" not in repr(caller) + caller.name + caller.id
    with pytest.raises(InvalidAPIKey) as refusal:
        who("gw_canary-4711")
    assert "canary" not in f"{refusal.value!r}{refusal.value.body()}{refusal.value.headers()}"


@given(st.text(PLAIN), st.text(PLAIN))
def test_same_is_equality(one, other):
    assert same(one, digest(other)) == (one == other)
    assert same(one, digest(one))


# Issued keys --------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_key_has_all_of_its_randomness(one, other):
    """C3: 256 bits, in one word that any header can carry."""
    assert re.fullmatch("gw_[0-9A-Za-z]{43}", issue(one))
    assert (issue(one) == issue(other)) == (one == other)
    assert read_token(f"Bearer {issue(one)}", None) == issue(one)


@given(st.binary(min_size=32, max_size=32), st.text(), st.text())
def test_a_key_that_stands_where_it_does_not_belong_is_blotted_out(entropy, before, after):
    """G7: in a path, a tag, a model's name."""
    assert issue(entropy) not in blotted(before + issue(entropy) + after)
    assert "[key]" in blotted(before + issue(entropy) + after)


@pytest.mark.parametrize("text", ["", "gpt-4o", "gw_", "gw_short", "x" * 99, "gw_" + "-" * 43])
def test_what_is_no_key_stays(text):
    assert blotted(text) == text


@pytest.mark.parametrize(
    ("patterns", "model", "may"),
    [
        ((), "anything", True),
        ((), None, True),
        (("gpt-4o",), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-4o",), "GPT-4o", False),
        (("gpt-4*",), "gpt-4o-mini", True),
        (("*-mini",), "gpt-4o-mini", True),
        (("*",), "", True),
        (("o1", "o3"), "o3", True),
        (("o1", "o3"), "o2", False),
        (("gpt-[45]",), "gpt-4", False),  # only `*` means anything
        (("gpt-?",), "gpt-4", False),
        (("*",), None, False),
    ],
)
def test_a_key_s_patterns_say_what_it_may_ask_for(patterns, model, may):
    assert may_use(Grant(models=patterns), model) is may
    assert may_use(None, model)


def test_peppers_are_told_apart_by_a_name_that_gives_nothing_away():
    new, old = Peppers(b"n" * 64, b"o" * 64), Peppers(b"o" * 64)
    name = pepper_name(b"o" * 64)
    assert (new.word(name), old.word(name)) == ("old", "current")
    assert old.word(pepper_name(b"n" * 64)) == "lost"
    assert name != pepper_name(b"n" * 64)
    assert "n" * 8 not in repr(new)
