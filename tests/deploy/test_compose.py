"""deploy/compose.yaml, by a strict model of the fields that it uses, and the files it mounts."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.deploy.files import DEPLOY, load_yaml


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BindOptions(Strict):
    create_host_path: bool


class Bind(Strict):
    type: Literal["bind"]
    source: str
    target: str
    read_only: bool
    bind: BindOptions


class Service(Strict):
    image: Annotated[str, Field(pattern=r"^[a-z/]+:[v\d][\w.]*\d$")]
    """With a version: `latest` would change what users get."""
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    ports: tuple[Annotated[str, Field(pattern=r"^127\.0\.0\.1:\d+:\d+$")], ...] = ()
    volumes: tuple[str | Bind, ...]
    network_mode: Literal["host"] | None = None
    restart: Literal["unless-stopped"]


class Compose(Strict):
    name: str
    services: dict[str, Service]
    volumes: dict[str, dict[str, str]]


COMPOSE = Compose.model_validate(load_yaml((DEPLOY / "compose.yaml").read_text()))
SERVICES = pytest.mark.parametrize("service", COMPOSE.services.values(), ids=COMPOSE.services)


@SERVICES
def test_service_listens_only_on_this_machine(service: Service) -> None:
    settings = [*service.command, *service.environment.values()]
    listens_itself = any("127.0.0.1" in setting for setting in settings)
    assert (listens_itself and not service.ports) or (
        service.ports and service.network_mode is None
    )


@SERVICES
def test_service_mounts_what_exists(service: Service) -> None:
    sources = [volume.partition(":")[0] for volume in service.volumes if isinstance(volume, str)]
    files = [source for source in sources if source.startswith("./")]
    assert [source for source in files if not (DEPLOY / source).exists()] == []
    assert set(sources) - set(files) <= set(COMPOSE.volumes)


@SERVICES
def test_service_has_no_secret_of_its_own(service: Service) -> None:
    secrets = [
        value for name, value in service.environment.items() if re.search("KEY|PASSWORD", name)
    ]
    assert [value for value in secrets if not re.fullmatch(r"\$\{\w+:\?choose one\}", value)] == []


def test_prometheus_reads_its_configuration() -> None:
    configuration = load_yaml((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    assert configuration["rule_files"] == ["alerts.yaml"]
    (job,) = configuration["scrape_configs"]
    assert job["job_name"] == "ray", "the label that docs/monitoring.md names"
    if promtool := shutil.which("promtool"):
        path = str(DEPLOY / "prometheus" / "prometheus.yaml")
        subprocess.run([promtool, "check", "config", path], check=True)


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    (source,) = load_yaml((DEPLOY / "grafana" / "datasource.yaml").read_text())["datasources"]
    assert source["url"] == "http://127.0.0.1:9090"
    assert "--web.listen-address=127.0.0.1:9090" in COMPOSE.services["prometheus"].command
    (provider,) = load_yaml((DEPLOY / "grafana" / "dashboards.yaml").read_text())["providers"]
    mounted = [str(volume).split(":")[1] for volume in COMPOSE.services["grafana"].volumes]
    assert f"{provider['options']['path']}/orchestrator.json" in mounted
