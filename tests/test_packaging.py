"""pyproject.toml, the lock files and the image agree, and none of them names a host."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import gateway

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
RUNTIME = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
BUILD = [Requirement(line) for line in PYPROJECT["build-system"]["requires"]]
DEV = [Requirement(line) for line in PYPROJECT["dependency-groups"]["dev"]]
LOCKS = [
    "requirements.lock",
    "requirements-dev.lock",
    "tests/requirements-openai027.lock",
]


def locked(name: str) -> dict[str, set[Version]]:
    """The versions a lock file pins, by package (more than one where platforms differ)."""
    found: dict[str, set[Version]] = {}
    text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        requirement = Requirement(line.partition(" --hash=")[0].strip())
        assert "--hash=sha256:" in line, f"{name}: {requirement.name} has no hash"
        [pin] = requirement.specifier
        assert pin.operator == "==", f"{name}: {requirement} is no pin"
        found.setdefault(canonicalize_name(requirement.name), set()).add(Version(pin.version))
    return found


@pytest.mark.parametrize("requirement", RUNTIME, ids=lambda r: r.name)
def test_a_runtime_dependency_has_a_floor(requirement: Requirement) -> None:
    assert any(part.operator == ">=" for part in requirement.specifier), str(requirement)


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [("requirements.lock", RUNTIME + BUILD), ("requirements-dev.lock", RUNTIME + BUILD + DEV)],
)
def test_the_lock_holds_what_pyproject_asks_for(lock: str, wanted: list[Requirement]) -> None:
    pins = locked(lock)
    for requirement in wanted:
        versions = pins.get(canonicalize_name(requirement.name))
        assert versions, f"{lock} lacks {requirement}: make lock"
        assert all(version in requirement.specifier for version in versions), (
            f"{lock} has {versions} for {requirement}: make lock"
        )


def test_both_locks_pin_the_same_runtime() -> None:
    pins, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert {name: dev.get(name) for name in pins} == pins


def test_aiohttp_is_not_below_its_security_floor() -> None:
    [aiohttp] = [requirement for requirement in RUNTIME if requirement.name == "aiohttp"]
    assert Version("3.14.4") not in aiohttp.specifier
    assert min(locked("requirements.lock")["aiohttp"]) >= Version("3.14.5")


def test_the_first_generation_client_stays_so() -> None:
    [version] = locked("tests/requirements-openai027.lock")["openai"]
    assert version.release[:2] == (0, 27)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host_and_no_path(lock: str) -> None:
    host_or_path = re.compile(r"://|\bfile:|(^|[\s=@])/|--(?!hash=)|-i\b|-f\b")
    lines = (ROOT / lock).read_text("utf-8").splitlines()
    assert not [line for line in lines if host_or_path.search(line)]


def test_the_build_backend_is_locked() -> None:
    assert PYPROJECT["dependency-groups"]["build"] == PYPROJECT["build-system"]["requires"]


def test_there_is_one_version() -> None:
    assert PYPROJECT["project"]["version"] == gateway.__version__


def test_what_the_image_copies_exists() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    copies = [line.split()[1:-1] for line in lines if re.match(r"COPY (?!--from)", line)]
    assert copies
    missing = [source for sources in copies for source in sources if not (ROOT / source).exists()]
    assert not missing
