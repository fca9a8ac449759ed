"""keys.db as a file: its mode, its migrations, what is no file of ours (contract, "Files")."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing

import pytest

from gateway.keys.table import MIGRATIONS, Nowhere, StoreFailed, Table
from tests.keys.fake import a_key, a_team


def make(path, *migrations) -> Table:
    table = Table(path, migrations or MIGRATIONS)
    table.open()
    return table


def second(base: sqlite3.Connection) -> None:
    base.execute("ALTER TABLE keys ADD COLUMN note TEXT")


def broken(base: sqlite3.Connection) -> None:
    base.execute("CREATE TABLE half (x)")
    base.execute("SELECT * FROM nothing")


def test_the_file_is_its_owner_s_alone(tmp_path):
    table = make(tmp_path / "keys.db")
    table.save_key(a_key())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("keys.db", "keys.db-wal", "keys.db-shm"), 0o600)
    table.close()
    (tmp_path / "keys.db").chmod(0o644)
    make(tmp_path / "keys.db").close()
    assert stat.S_IMODE((tmp_path / "keys.db").stat().st_mode) == 0o600


def test_a_change_is_on_disk_when_it_returns(tmp_path):
    """synchronous = FULL: read from outside, as what a kill leaves would be."""
    table = make(tmp_path / "keys.db")
    table.save_key(a_key())
    with closing(sqlite3.connect(f"file:{tmp_path}/keys.db?mode=ro", uri=True)) as other:
        assert other.execute("SELECT name FROM keys").fetchall() == [("key-1",)]
        assert other.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    assert table._connection.execute("PRAGMA synchronous").fetchall() == [(2,)]
    table.close()


def test_a_file_of_a_newer_gateway_is_refused_and_left_alone(tmp_path):
    make(tmp_path / "keys.db", *MIGRATIONS, second).close()
    before = (tmp_path / "keys.db").read_bytes()
    with pytest.raises(StoreFailed, match="version 2, written by a newer gateway"):
        make(tmp_path / "keys.db")
    assert (tmp_path / "keys.db").read_bytes() == before


def test_an_older_file_is_brought_forward_and_kept_beside(tmp_path):
    table = make(tmp_path / "keys.db")
    table.save_key(a_key())
    table.save_team(a_team())
    table.close()
    newer = Table(tmp_path / "keys.db", (*MIGRATIONS, second))
    assert newer.open() == ([a_key()], [a_team()])
    newer.close()
    old = tmp_path / "keys.db.v1"
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    assert Table(old).open() == ([a_key()], [a_team()])


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path):
    table = make(tmp_path / "keys.db")
    table.save_key(a_key())
    table.close()
    for _ in range(3):  # and again, over the copy of the try before
        with pytest.raises(StoreFailed, match="nothing"):
            make(tmp_path / "keys.db", *MIGRATIONS, second, broken)
    with closing(sqlite3.connect(tmp_path / "keys.db")) as base:
        assert base.execute("PRAGMA user_version").fetchall() == [(2,)]
        assert not base.execute("SELECT 1 FROM sqlite_master WHERE name = 'half'").fetchall()
    assert Table(tmp_path / "keys.db", (*MIGRATIONS, second)).open()[0] == [a_key()]


@pytest.mark.parametrize(
    "content", [b"this is no database", b"SQLite format 3\x00" + b"\xff" * 500]
)
def test_what_is_no_database_is_a_plain_word(tmp_path, content):
    (tmp_path / "keys.db").write_bytes(content)
    with pytest.raises(StoreFailed, match=r"keys\.db: "):
        make(tmp_path / "keys.db")
    assert (tmp_path / "keys.db").read_bytes() == content


def test_another_program_s_database_is_not_ours(tmp_path):
    with closing(sqlite3.connect(tmp_path / "keys.db")) as base:
        base.execute("CREATE TABLE other (x)")
    with pytest.raises(StoreFailed, match="another program's"):
        make(tmp_path / "keys.db")


def test_a_row_that_was_meddled_with_is_a_plain_word(tmp_path):
    table = make(tmp_path / "keys.db")
    table.save_key(a_key())
    table.close()
    with closing(sqlite3.connect(tmp_path / "keys.db")) as base:
        base.execute("UPDATE keys SET limits = 'nonsense'")
        base.commit()
    with pytest.raises(StoreFailed):
        make(tmp_path / "keys.db")


def test_a_copy_is_whole_and_takes_no_other_file_s_place(tmp_path):
    table = make(tmp_path / "keys.db")
    table.save_key(a_key())
    table.copy(tmp_path / "copy.db")
    table.save_key(a_key(2))
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    with pytest.raises(StoreFailed):
        table.copy(tmp_path / "copy.db")
    table.close()
    assert Table(tmp_path / "copy.db").open()[0] == [a_key()]


def test_what_is_not_open_changes_nothing(tmp_path):
    for store in (Table(tmp_path / "keys.db"), Nowhere()):
        for work in (
            lambda store=store: store.save_key(a_key()),
            lambda store=store: store.save_team(a_team()),
            lambda store=store: store.drop_team("x"),
        ):
            with pytest.raises(StoreFailed):
                work()
    assert not list(tmp_path.iterdir())
