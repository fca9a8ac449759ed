"""The data directory's secrets and lock, and remembered callers (contract, "Files"; C3)."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import Anonymous, Keys
from gateway.errors import InvalidAPIKey
from gateway.keys import store
from gateway.keys.register import Register
from gateway.keys.rules import Peppers
from gateway.keys.store import (
    Callers,
    DataError,
    has_pepper,
    load_admin_token,
    load_peppers,
    lock_data,
)
from gateway.keys.table import Nowhere
from tests.exchanges import FixedClock

ADMIN = "the-admin-token-of-this-test"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Secrets ----------------------------------------------------------------------------------------


def test_the_pepper_is_made_once_and_kept(tmp_path):
    assert not has_pepper(tmp_path, {})
    first = load_peppers(tmp_path, {})
    assert len(bytes.fromhex(first.current.decode())) == 32
    assert first.all == (first.current,)
    assert has_pepper(tmp_path, {})
    assert mode(tmp_path / "secret") == 0o600
    assert load_peppers(tmp_path, {}) == first


def test_two_directories_have_two_peppers(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert load_peppers(tmp_path / "a", {}) != load_peppers(tmp_path / "b", {})


def test_the_file_s_text_in_the_variable_is_the_same_pepper(tmp_path):
    kept = load_peppers(tmp_path, {})
    text = (tmp_path / "secret").read_text()
    (tmp_path / "secret").unlink()
    assert load_peppers(tmp_path, {"GATEWAY_PEPPER": text}) == kept
    assert not (tmp_path / "secret").exists()


@pytest.mark.parametrize("text", ["", "\n", "short", "x" * 31])
def test_an_empty_or_short_pepper_is_refused(tmp_path, text):
    """An empty HMAC secret has forged payments elsewhere: never run with one."""
    (tmp_path / "secret").write_text(text)
    (tmp_path / "secret").chmod(0o600)
    with pytest.raises(DataError, match=r"secret is (empty|too short).*takes 32"):
        load_peppers(tmp_path, {})
    with pytest.raises(DataError, match="GATEWAY_PEPPER is"):
        load_peppers(tmp_path, {"GATEWAY_PEPPER": text})
    (tmp_path / "secret").write_text(f"{'n' * 64}\n{text.strip()}\n{'o' * 64}\n")
    with pytest.raises(DataError):
        load_peppers(tmp_path, {})


def test_two_peppers_while_keys_move_to_the_new_one(tmp_path):
    """The current one stands first, in the file and in the environment alike (C3)."""
    new, old = "n" * 64, "o" * 64
    (tmp_path / "secret").write_text(f"{new}\n{old}\n")
    (tmp_path / "secret").chmod(0o600)
    both = load_peppers(tmp_path, {})
    assert both.all == (new.encode(), old.encode())
    variables = {"GATEWAY_PEPPER": new, "GATEWAY_PEPPER_OLD": old}
    assert load_peppers(tmp_path, variables) == both
    assert load_peppers(tmp_path, variables | {"GATEWAY_PEPPER_OLD": ""}).all == both.all[:1]
    with pytest.raises(DataError, match="GATEWAY_PEPPER_OLD is too short"):
        load_peppers(tmp_path, variables | {"GATEWAY_PEPPER_OLD": "short"})
    (tmp_path / "secret").write_text(f"{new}\n{old}\n{old}\n")
    with pytest.raises(DataError, match="more than two lines"):
        load_peppers(tmp_path, {})
    assert new not in repr(both)
    assert old not in repr(both)


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o604, 0o660])
@pytest.mark.parametrize("name", ["secret", "admin.token"])
def test_a_secret_that_others_can_read_is_refused(tmp_path, bits, name):
    load_peppers(tmp_path, {})
    canary = load_admin_token(tmp_path, "")
    (tmp_path / name).chmod(bits)
    with pytest.raises(DataError, match="chmod 600") as refusal:
        load_peppers(tmp_path, {})
        load_admin_token(tmp_path, "")
    assert canary not in str(refusal.value)


def test_a_disk_that_fails_leaves_no_half_pepper(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="No space left"):
        load_peppers(tmp_path, {})
    assert not (tmp_path / "secret").exists()


def test_the_admin_token_is_made_once_and_kept(tmp_path):
    first = load_admin_token(tmp_path, "")
    assert len(first) >= 32
    assert mode(tmp_path / "admin.token") == 0o600
    assert load_admin_token(tmp_path, "") == first


def test_a_configured_admin_token_needs_no_file(tmp_path):
    assert load_admin_token(tmp_path, ADMIN) == ADMIN
    assert not (tmp_path / "admin.token").exists()


@pytest.mark.parametrize(
    "token", ["short", "x" * 5000, "with a space in it", "schlüssel" * 3, "\x00" * 20]
)
def test_an_admin_token_that_no_header_can_carry_is_refused(tmp_path, token):
    with pytest.raises(DataError) as refusal:
        load_admin_token(tmp_path, token)
    assert token not in str(refusal.value)


# The lock ---------------------------------------------------------------------------------------


def test_the_data_directory_is_the_owner_s_alone(tmp_path):
    lock_data(tmp_path / "deep" / "data").close()
    assert mode(tmp_path / "deep" / "data") == 0o700
    assert mode(tmp_path / "deep" / "data" / "lock") == 0o600


def test_a_second_server_is_refused_and_told_by_whom(tmp_path):
    lock = lock_data(tmp_path)
    try:
        with pytest.raises(
            DataError, match=rf"in use by another gateway \(process {os.getpid()}\)"
        ):
            lock_data(tmp_path)
    finally:
        lock.close()
    lock.close()
    lock_data(tmp_path).close()


def test_a_server_in_another_process_is_refused_until_this_one_ends(tmp_path):
    code = (
        "import sys; from pathlib import Path; from gateway.keys.store import lock_data\n"
        f"lock = lock_data(Path({str(tmp_path)!r})); print('mine', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        with pytest.raises(DataError, match=f"process {holder.pid}"):
            lock_data(tmp_path)
        holder.kill()
    lock_data(tmp_path).close()


def test_a_directory_that_others_write_is_refused(tmp_path):
    """E1."""
    tmp_path.chmod(0o777)
    with pytest.raises(DataError, match="may be written by others"):
        lock_data(tmp_path)
    assert not (tmp_path / "lock").exists()


def test_a_file_in_the_place_of_the_directory_is_a_plain_word(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match="cannot be used for data"):
        lock_data(tmp_path / "data")


# Callers ----------------------------------------------------------------------------------------


def callers() -> Callers:
    clock = FixedClock()
    register = Register(Nowhere(), Peppers(b"p" * 64), clock)
    return Callers(Keys(), register, clock, admin_token=ADMIN, bind_is_loopback=True)


def test_a_caller_who_comes_again_costs_no_digest(monkeypatch):
    house = callers()
    first = house.identify("Bearer sk-1")
    monkeypatch.setattr(store, "caller_of", None)  # calling it would fail
    assert house.identify("bearer sk-1") is first
    assert house.identify(None, "sk-1") is first


def test_remembered_callers_are_bounded_and_the_longest_unmet_is_forgotten(monkeypatch):
    monkeypatch.setattr(store, "REMEMBERED", 3)
    house = callers()
    kept = house.identify("Bearer sk-0")
    for number in range(1, 50):
        house.identify(f"Bearer sk-{number}")
        assert house.identify("Bearer sk-0") is kept
    assert len(house._met) == 3


def test_refusals_are_not_remembered():
    house = callers()
    for token in (ADMIN, "gw_unknown"):
        with pytest.raises(InvalidAPIKey):
            house.identify(f"Bearer {token}")
    assert not house._met


def test_a_reload_holds_from_the_next_request_on():
    house = callers()
    shown = house.identify("Bearer sk-1").name
    house.reconfigure(Keys(aliases={shown: "billing"}), bind_is_loopback=True)
    assert house.identify("Bearer sk-1").name == "billing"
    house.reconfigure(Keys(passthrough=False), bind_is_loopback=True)
    with pytest.raises(InvalidAPIKey):
        house.identify("Bearer sk-1")


def test_a_reload_can_shut_anonymous_callers_out():
    house = callers()
    assert house.identify(None).name == "anonymous"
    house.reconfigure(Keys(anonymous=Anonymous.NEVER), bind_is_loopback=True)
    with pytest.raises(InvalidAPIKey):
        house.identify(None, None)


def test_no_secret_in_a_repr():
    """G7."""
    house = callers()
    house.identify("Bearer sk-canary")
    assert "canary" not in repr(house)
    assert ADMIN not in repr(house)
