"""One command's time with the house, and what its failures mean for the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gateway.commands.house import House, Refused, Unreachable, open_house
from gateway.commands.options import failed, open_config, read_config, wrong


@contextmanager
def session(where: Mapping[str, Any], *, makes: bool = False) -> Iterator[House]:
    """The house that `--config` and `--data` name; made if need be for who `makes` something.

    Ends the process with 1 where nothing answers or nothing is known by that name, with 2 where the
    question was wrong.
    """
    config = read_config(open_config(where["config_path"], {"data": where["data"]}))
    try:
        with open_house(config, makes=makes) as house:
            yield house
    except Refused as error:
        if error.status == 400:
            wrong(f"gateway: {error}")
        failed(str(error))
    except Unreachable as error:
        failed(str(error))
