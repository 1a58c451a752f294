"""What a worker checks on its machine before it fetches anything."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from orchestrator.artifact import Artifact, File
from orchestrator.cluster.machine import check_store, input_bytes, scratch_folder
from orchestrator.cluster.worker import _call
from orchestrator.contract import StageContext, StageResult
from orchestrator.errors import MachineError, StoreError
from orchestrator.runs.record import record_name
from orchestrator.store import open_store

HERE = f"machine {socket.gethostname()}: "
OTHER_UID = 12345


def _attempt(store_uri: str) -> Any:
    return SimpleNamespace(store_uri=store_uri, provenance={"run_id": "now"})


def _check(store_uri: str, *, is_writer: bool = True) -> None:
    check_store(_attempt(store_uri), is_writer=is_writer)


def test_store_of_the_run_passes_and_keeps_nothing(store_uri: str) -> None:
    store = open_store(store_uri)
    store.write(record_name("now"), b"{}")
    _check(store_uri)
    assert store.names("runs") == [record_name("now")]
    if not store_uri.startswith("s3://"):
        assert [path.name for path in Path(store_uri).iterdir()] == ["runs"]


def test_store_without_the_runs_record_is_refused(store_uri: str) -> None:
    with pytest.raises(
        MachineError, match=f"^{HERE}store .* is not the store of the driver: .*runs/now/run.json"
    ) as err:
        _check(store_uri, is_writer=False)
    assert "share one folder at the same path on all machines, or use --store" in str(err.value)


def _as_other_user(store_uri: str, said: multiprocessing.SimpleQueue[str]) -> None:
    os.setuid(OTHER_UID)
    try:
        _check(store_uri, is_writer=False)
        _check(store_uri)
    except MachineError as err:
        said.put(str(err))


@pytest.mark.skipif(os.getuid() != 0, reason="changes the user id, which only root can")
def test_error_for_a_read_only_store_names_the_machine() -> None:
    context = multiprocessing.get_context("fork")
    said: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users
        Path(folder).chmod(0o755)
        open_store(folder).write(record_name("now"), b"{}")
        child = context.Process(target=_as_other_user, args=(folder, said))
        child.start()
        child.join()
        assert not said.empty()
        text = said.get()
    assert text.startswith(f"{HERE}store {folder}: cannot write probe-")
    assert ": Permission denied; choose a folder that you can write to" in text


def test_store_that_does_not_answer_is_a_temporary_error(
    monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("orchestrator.s3.client.MAX_ATTEMPTS", 1)
    with pytest.raises(StoreError, match=f"^{HERE}store s3://{bucket}: cannot read"):
        _check(f"s3://{bucket}")


def test_missing_credentials_are_a_machine_error(
    monkeypatch: pytest.MonkeyPatch, bucket: str, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(
        MachineError, match=f"^{HERE}.* no credentials for S3; set AWS_ACCESS_KEY_ID"
    ):
        _check(f"s3://{bucket}")


@pytest.fixture
def untrusted_endpoint(tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a server with a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1)
    )
    pem = made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "server.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # the client hangs up
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_untrusted_certificate_is_a_machine_error(
    untrusted_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", untrusted_endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("orchestrator.s3.client.MAX_ATTEMPTS", 1)
    with pytest.raises(
        MachineError, match=f"^{HERE}store s3://a: cannot read .*CERTIFICATE_VERIFY_FAILED"
    ):
        _check("s3://a")


def test_scratch_without_space_for_the_inputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    file = File(path="a", sha256="a" * 64, size=2**30)
    attempt: Any = SimpleNamespace(
        inputs={"backbone": Artifact(files=(file,)), "of": Artifact(files=(file,))}
    )
    assert input_bytes(attempt) == 2**31
    usage = shutil.disk_usage("/")._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    needs = "has 1024 MiB free, but the stage needs 2064 MiB; free some space, or set TMPDIR"
    with (
        pytest.raises(MachineError, match=f"^{HERE}.*{needs}"),
        scratch_folder("x-", num_bytes=2**31),
    ):
        pass
    with scratch_folder("x-") as folder:
        assert folder.is_dir()


def test_scratch_that_cannot_be_created_is_a_machine_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    lacks = "cannot create a temporary folder: No such file or directory; .*TMPDIR"
    with pytest.raises(MachineError, match=f"^{HERE}{lacks}"), scratch_folder("x-"):
        pass


def test_a_full_disk_is_a_machine_error() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x/model.safetensors")
    said = (
        f"^{HERE}a disk is full: .*No space left on device: '/tmp/x/model.safetensors'; free some "
        "space"
    )
    with pytest.raises(MachineError, match=said), scratch_folder("x-"):
        raise full
    with pytest.raises(FileNotFoundError), scratch_folder("x-"):
        raise FileNotFoundError(errno.ENOENT, "missing")


def _fill_disk(_: StageContext) -> StageResult:
    raise OSError(errno.ENOSPC, "full")


def test_a_full_disk_is_not_a_stage_error() -> None:
    attempt: Any = SimpleNamespace(entry=f"{__name__}:_fill_disk")
    context: Any = None
    with pytest.raises(OSError, match="full"):
        _call(attempt, context)
