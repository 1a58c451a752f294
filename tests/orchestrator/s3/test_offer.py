"""Which AWS settings a worker on another machine adopts from the driver."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.s3.offer import OFFER, adopt_offer, locations_of_s3, make_absolute, make_offer

SECRET = "sEcReT"
CONFIG = """
[profile lab]
endpoint_url = https://name:sEcReT@store.example:9000
region = eu-west-1
ca_bundle = /etc/lab/ca.pem
request_checksum_calculation = when_supported
aws_access_key_id = sEcReT
aws_secret_access_key = sEcReT
s3 =
  addressing_style = path
"""


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a machine whose only settings are a config file and keys."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(CONFIG)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


def test_offer_has_the_settings_of_the_config_file_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "lab")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{SECRET}@proxy:3128")
    offer = make_offer(os.environ)
    assert SECRET not in json.dumps(offer)
    assert offer == {
        "AWS_ENDPOINT_URL_S3": "https://store.example:9000",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_CA_BUNDLE": "/etc/lab/ca.pem",
        "AWS_PROFILE": "lab",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported",
        "addressing_style": "path",
        "AWS_CONFIG_FILE": os.environ["AWS_CONFIG_FILE"],
        "AWS_SHARED_CREDENTIALS_FILE": os.environ["AWS_SHARED_CREDENTIALS_FILE"],
    }


def test_variable_takes_precedence_over_the_config_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PROFILE": "lab",
        "ENDPOINT_URL": "http://other",
        "CA_BUNDLE": "/other",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    offer = make_offer(os.environ)
    assert offer["AWS_ENDPOINT_URL_S3"] == "http://other"
    assert offer["AWS_CA_BUNDLE"] == "/other"


def test_settings_of_an_invalid_config_file_are_not_offered(machine: Path) -> None:
    (machine / "config").write_text("[broken\n")
    assert set(make_offer(os.environ)) == {"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"}


def test_machine_without_settings_offers_nothing(
    monkeypatch: pytest.MonkeyPatch, machine: Path
) -> None:
    monkeypatch.delenv("AWS_CONFIG_FILE")
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE")
    monkeypatch.setenv("HOME", str(machine))
    assert make_offer(os.environ) == {}


def test_locations_of_s3_have_no_users_and_passwords() -> None:
    environ = {"AWS_ENDPOINT_URL": f"http://me:{SECRET}@host:9000", "AWS_SECRET_ACCESS_KEY": SECRET}
    assert locations_of_s3(environ) == {"AWS_ENDPOINT_URL": "http://host:9000"}


def test_worker_adopts_only_files_that_its_machine_has(machine: Path) -> None:
    offer = {
        "AWS_CA_BUNDLE": "/no/such/ca.pem",
        "AWS_CONFIG_FILE": str(machine / "config"),
        "AWS_PROFILE": "lab",
        "AWS_ENDPOINT_URL_S3": "http://offered",
        "addressing_style": "path",
    }
    environ = {OFFER: json.dumps(offer)}
    assert adopt_offer(environ) == "path"
    assert environ == {
        OFFER: environ[OFFER],
        "AWS_CONFIG_FILE": str(machine / "config"),
        "AWS_PROFILE": "lab",
        "AWS_ENDPOINT_URL_S3": "http://offered",
    }
    environ = {OFFER: json.dumps({"AWS_PROFILE": "unknown here"})}
    adopt_offer(environ)
    assert "AWS_PROFILE" not in environ


def test_worker_may_use_an_endpoint_without_tls_if_its_driver_may() -> None:
    offer = make_offer({"ORCHESTRATOR_ALLOW_HTTP": "1"})
    environ = {OFFER: json.dumps(offer)}
    adopt_offer(environ)
    assert environ["ORCHESTRATOR_ALLOW_HTTP"] == "1"


def test_own_settings_take_precedence_over_the_offer(machine: Path) -> None:
    own = {"AWS_ENDPOINT_URL": "http://own", "AWS_CA_BUNDLE": "/own", "AWS_ACCESS_KEY_ID": "own"}
    offer = {
        "AWS_ENDPOINT_URL_S3": "http://offered",
        "AWS_CA_BUNDLE": str(machine / "config"),
        "AWS_PROFILE": "lab",
    }
    environ = {OFFER: json.dumps(offer), **own}
    adopt_offer(environ)
    assert environ == {OFFER: json.dumps(offer), **own}


def test_without_an_offer_nothing_changes() -> None:
    environ = {"AWS_REGION": "eu-west-1"}
    assert adopt_offer(environ) is None
    assert environ == {"AWS_REGION": "eu-west-1"}


def test_relative_paths_become_absolute_for_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {
        "AWS_CA_BUNDLE": "ca.pem",
        "AWS_CONFIG_FILE": "~/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/a/b",
    }
    make_absolute(environ)
    assert environ == {
        **environ,
        "AWS_CA_BUNDLE": str(tmp_path / "ca.pem"),
        "AWS_CONFIG_FILE": "~/config",
    }
