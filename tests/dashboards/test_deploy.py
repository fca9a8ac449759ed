"""compose.yaml, Prometheus's files and Grafana's: every path, port and variable in them is there.

No container engine is needed: what one would find missing is looked for here.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from gateway.config import Config
from tests.dashboards.boards import FILES, FOLDER, ROOT, variables

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES = COMPOSE["services"]
GATEWAY, PROMETHEUS, GRAFANA = (SERVICES[name] for name in ("gateway", "prometheus", "grafana"))
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def load(path: str) -> Any:
    return yaml.safe_load((FOLDER / path).read_text("utf-8"))


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """What stands where in a container: inner path to volume or path here."""
    found = [one.removesuffix(":ro").rpartition(":") for one in service["volumes"]]
    return {inner: outer for outer, _, inner in found}


def behind(service: dict[str, Any], path: str) -> Path:
    """The file here that a path in the container is."""
    for inner, outer in mounts(service).items():
        if outer.startswith("./") and (path == inner or path.startswith(f"{inner}/")):
            return ROOT / f"{outer}{path.removeprefix(inner)}"
    raise AssertionError(f"{path} is on no mount of {mounts(service)}")


def test_every_mount_is_there_and_every_volume_is_named() -> None:
    for service in SERVICES.values():
        for outer in mounts(service).values():
            if outer.startswith("./"):
                assert (ROOT / outer).exists(), outer
            else:
                assert outer in COMPOSE["volumes"]
    used = {outer for service in SERVICES.values() for outer in mounts(service).values()}
    assert set(COMPOSE["volumes"]) <= used


def test_all_three_listen_on_this_machine_alone() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items()}
    assert ports == {
        "gateway": ["127.0.0.1:8080:8080"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_an_image_has_a_version_or_is_built_here() -> None:
    assert GATEWAY["build"] == "." and (ROOT / "Dockerfile").exists()
    for service in (PROMETHEUS, GRAFANA):
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"])


def test_the_gateway_finds_its_configuration_and_its_data() -> None:
    [config] = re.findall(r'"--config", "([^"]+)"', DOCKERFILE)
    [data] = re.findall(r'"--data", "([^"]+)"', DOCKERFILE)
    assert behind(GATEWAY, config) == ROOT / "dashboards/compose.config.yaml"
    assert mounts(GATEWAY)[data] == "gateway-data"
    [port] = re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.M)
    assert port == str(Config().server.port) == "8080"


def test_the_gateway_takes_its_configuration() -> None:
    file = FOLDER / "compose.config.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check", "--config", str(file)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(file.read_text("utf-8"))
    assert "port" not in config["admin"], "the scrape's target is the default port"
    assert config["metrics"]["open"] is True


def test_prometheus_reads_its_files_and_finds_the_gateway() -> None:
    [config] = [c for c in PROMETHEUS["command"] if c.startswith("--config.file=")]
    file = behind(PROMETHEUS, config.partition("=")[2])
    assert file == FOLDER / "prometheus/compose.yml" and file.exists()
    inside, outside = load("prometheus/compose.yml"), load("prometheus/prometheus.yml")
    port = Config().admin.port
    assert targets(inside) == [f"gateway:{port}"] and targets(outside) == [f"127.0.0.1:{port}"]
    assert "gateway" in load("compose.config.yaml")["admin"]["hosts"], "as Host of the scrape"
    for one in (inside, outside):
        one["scrape_configs"][0]["static_configs"][0]["targets"] = []
    assert inside == outside, "the two differ in the target alone"
    assert outside["scrape_configs"][0]["job_name"] == "gateway"


def targets(config: Any) -> Any:
    [job] = config["scrape_configs"]
    [found] = job["static_configs"]
    return found["targets"]


def test_promtool_takes_the_scrape_configurations() -> None:
    for name in ("prometheus.yml", "compose.yml"):
        done = subprocess.run(
            ["promtool", "check", "config", str(FOLDER / "prometheus" / name)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    source = behind(GRAFANA, "/etc/grafana/provisioning/datasources/gateway.yaml")
    provider = behind(GRAFANA, "/etc/grafana/provisioning/dashboards/gateway.yaml")
    used = re.findall(r"\$(\w+)", "".join(code(path) for path in (source, provider)))
    assert set(used) <= set(GRAFANA["environment"]), "a variable that is not set is empty"
    [prometheus] = yaml.safe_load(source.read_text("utf-8"))["datasources"]
    interval = load("prometheus/prometheus.yml")["global"]["scrape_interval"]
    assert prometheus["jsonData"]["timeInterval"] == interval
    assert GRAFANA["environment"]["PROMETHEUS_URL"] == "http://prometheus:9090"
    [place] = yaml.safe_load(provider.read_text("utf-8"))["providers"]
    folder = GRAFANA["environment"][place["options"]["path"].removeprefix("$")]
    assert behind(GRAFANA, folder) == ROOT / "./dashboards"
    home = GRAFANA["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert behind(GRAFANA, home).exists()


def code(path: Path) -> str:
    """A YAML file without its comments."""
    return re.sub(r"#.*", "", path.read_text("utf-8"))


def test_who_waits_for_whom() -> None:
    assert PROMETHEUS["depends_on"] == ["gateway"] and GRAFANA["depends_on"] == ["prometheus"]
    drain = Config().server.drain_timeout
    assert int(GATEWAY["stop_grace_period"].removesuffix("s")) > drain


# --- docs/dashboards.md ---------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "dashboards.md").read_text("utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)


def test_the_page_names_every_dashboard_and_its_question() -> None:
    for name, board in FILES.items():
        assert f"| {board['title']} | {board['description']} |" in PAGE
        assert f"](pictures/{name}.png)" in PAGE
        assert (ROOT / "docs" / "pictures" / f"{name}.png").stat().st_size < 300_000
    assert all(f"`{name}`" in PAGE for name in variables(FILES["overview"]))


def test_panels_that_the_page_sends_to_are_there() -> None:
    table = PAGE.partition("| dashboard |")[2].partition("\n\n")[0]
    titles = {panel["title"] for board in FILES.values() for panel in board["panels"]}
    named = {one.strip("*") for one in re.findall(r"\*[^*]+\*", table)}
    assert named
    assert all(any(title.startswith(name) for title in titles) for name in named)


def test_the_page_s_commands_name_what_exists() -> None:
    commands = "\n".join(SHELL)
    paths = re.findall(r"(?:\$PWD/|=)(dashboards[\w./]*)", commands)
    assert len(paths) == 3 and all((ROOT / path).exists() for path in paths)
    source, provider = "datasources/gateway.yaml", "dashboards/gateway.yaml"
    wanted = re.findall(r"\$(\w+)", code(FOLDER / "grafana" / source))
    wanted += re.findall(r"\$(\w+)", code(FOLDER / "grafana" / provider))
    assert all(f"{name}=" in commands for name in wanted)
    [config] = re.findall(r'"--config", "([^"]+)"', DOCKERFILE)
    assert f"--config {config} --data /data" in commands
    assert targets(load("prometheus/prometheus.yml")) == ["127.0.0.1:8081"], "as make serve has it"
    for port in ("8080/v1", "9090", "3000"):
        assert f"http://127.0.0.1:{port}" in PAGE
