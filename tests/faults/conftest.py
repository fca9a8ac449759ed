"""The scripted upstream and gateways of a test's own, as in tests/e2e/; and disks to break."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import _no_proxy, closed_port, start, up

__all__ = ["_no_proxy", "closed_port", "start", "up"]

Remount = Callable[[str], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Remount]:
    """A file system of its own for `data/cache`, 2 MiB; what is yielded mounts it with options."""
    folder = tmp_path / "data" / "cache"
    folder.mkdir(parents=True)
    (tmp_path / "data").chmod(0o700)

    def mount(*args: str) -> None:
        done = subprocess.run(
            ["mount", *args, str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (
            f"{done.stderr.strip()}: run it as root, or as `unshare -Urm make faults`"
        )

    mount("-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs")
    try:
        yield lambda options: mount("-o", f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
