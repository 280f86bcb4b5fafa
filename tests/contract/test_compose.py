"""docker-compose.yml: what a container may do, and where the balancer and its replicas meet."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.paths import ROOT

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
BALANCER = (ROOT / "docker" / "balancer" / "haproxy.cfg").read_text("utf-8")
OTHERS = {"prometheus", "grafana"}  # images of others, with users of their own


@pytest.mark.parametrize("name", COMPOSE)
def test_a_container_can_change_nothing_but_its_volumes(name: str) -> None:
    service: dict[str, Any] = COMPOSE[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")


@pytest.mark.parametrize("name", [name for name, each in COMPOSE.items() if each.get("ports")])
def test_a_port_is_open_to_this_machine_alone_unless_a_variable_opens_it(name: str) -> None:
    for port in COMPOSE[name]["ports"]:
        assert port.startswith(("127.0.0.1:", "${BIND_ADDRESS:-127.0.0.1}:")), port


@pytest.mark.parametrize("name", COMPOSE)
def test_a_container_is_bounded(name: str) -> None:
    assert COMPOSE[name]["pids_limit"] <= 4096
    assert COMPOSE[name]["mem_limit"]


def test_predict_gets_its_key() -> None:
    assert COMPOSE["predict"]["environment"]["MERGELINE_API_KEY"] == "${MERGELINE_API_KEY:-}"


def test_our_images_run_as_a_user_and_carry_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    ours = {name: service["image"] for name, service in COMPOSE.items() if name not in OTHERS}
    wrong = {
        name: image
        for name, image in ours.items()
        if not re.fullmatch(rf"mergeline-\w+:{re.escape(version)}(-gpu)?", image)
    }
    assert not wrong
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
    stages = dockerfile.split("\nFROM ")[1:]
    targets = {stage.splitlines()[0].split()[-1]: stage for stage in stages}
    assert {"engine", "client", "balancer"} <= set(targets)
    for name in ("engine", "client", "balancer"):
        assert re.search(r"^USER 10001$", targets[name], re.MULTILINE)


def test_the_balancer_finds_the_replicas_and_outlives_their_drain() -> None:
    port = str(COMPOSE["serve"]["environment"]["SERVICE_PORT"])
    assert f'"${{SERVE_HOST}}:{port}"' in BALANCER
    assert COMPOSE["serve-2"]["networks"]["default"]["aliases"] == ["serve"]
    [front] = re.findall(r"^frontend api\n    bind :(\d+)", BALANCER, re.MULTILINE)
    [published] = COMPOSE["balancer"]["ports"]
    assert published.endswith(f":{front}")
    [hard_stop] = re.findall(r"hard-stop-after (\d+)s", BALANCER)
    drain = Settings.model_fields["drain_timeout_s"].default
    grace = int(COMPOSE["balancer"]["stop_grace_period"].removesuffix("s"))
    assert drain < int(hard_stop) < grace
    assert int(COMPOSE["serve"]["stop_grace_period"].removesuffix("s")) > drain
