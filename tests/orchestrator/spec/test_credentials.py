"""A job with something that looks like a credential is refused, and no message shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec import load_job
from tests.orchestrator.spec.kinds import GOOD, KINDS, load_text
from tests.orchestrator.test_credentials import ID, KEY

ADVICE = (
    "a job is kept in the store and shown in reports, so remove it, revoke it, and provide a new "
    "one in an environment variable or in a file such as ~/.aws/credentials"
)


def _refused(text: str, folder: Path, *overrides: str, store: str | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        load_text(text, folder, *overrides, store=store)
    return str(caught.value).replace(f"{folder}/job.yaml:", "")


def test_each_line_with_a_credential_is_named_but_not_shown(tmp_path: Path) -> None:
    text = f"# secret {KEY}\n{GOOD.replace('seed: 7', f'sed: {ID}')}"
    line = text[: text.index(ID)].count("\n") + 1
    assert _refused(text, tmp_path).splitlines() == [
        f"1:10: contains what looks like a secret key; {ADVICE}",
        f"{line}:6: contains what looks like an AWS access key id; {ADVICE}",
    ]


def test_credential_in_an_extended_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(f"# {ID}\n{GOOD}")
    (tmp_path / "job.yaml").write_text("extends: base.yaml\n")
    with pytest.raises(SpecError, match=r"base\.yaml:1:3: contains what looks like an AWS access"):
        load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)


@pytest.mark.parametrize("override", [f"name={ID}", f"{ID}=1", f"stages.x.api_key={KEY}"])
def test_credential_in_an_override_is_refused(tmp_path: Path, override: str) -> None:
    message = _refused(GOOD, tmp_path, override)
    assert message.startswith("--set")
    assert "contains what looks like a" in message
    assert ID not in message
    assert KEY not in message


def test_credential_in_the_store_option_is_refused(tmp_path: Path) -> None:
    store = "s3://me:" + "sesame@bucket/x"
    assert _refused(GOOD, tmp_path, store=store) == (
        f"--store: contains what looks like a URL with a password; {ADVICE}"
    )


def test_job_keeps_its_files_and_overrides_as_written(tmp_path: Path) -> None:
    base, job = f"# a comment\n{GOOD}".encode(), b"\xef\xbb\xbfextends: base.yaml\r\n"
    (tmp_path / "base.yaml").write_bytes(base)
    (tmp_path / "job.yaml").write_bytes(job)
    loaded = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path, overrides=["seed=1"])
    assert loaded.source is not None
    assert loaded.source.files == (job, base)
    assert loaded.source.overrides == ("seed=1",)
