"""Which addresses need a token, and which tokens are good."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import JobError
from orchestrator.live.access import Access, make_access

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("unset", [None, ""])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_needs_no_token(host: str, unset: str | None) -> None:
    access = make_access(host, token_file=None, token=unset)
    assert access == Access(is_local=True, token=None)
    assert access.allows(authorization=None, cookie=None)


@pytest.mark.parametrize("unset", [None, ""])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "gpu-1", "127.0.0.1.evil.example"])
def test_another_address_needs_a_token(host: str, unset: str | None) -> None:
    with pytest.raises(JobError, match=f"--host {host}: .* set ORCHESTRATOR_TOKEN or give --token"):
        make_access(host, token_file=None, token=unset)
    assert make_access(host, token_file=None, token=TOKEN) == Access(is_local=False, token=TOKEN)


def test_a_short_token_is_refused_without_showing_it() -> None:
    with pytest.raises(JobError, match="ORCHESTRATOR_TOKEN: the token has") as refused:
        make_access("127.0.0.1", token_file=None, token=TOKEN[:-1])
    assert TOKEN[:-1] not in str(refused.value)


def test_a_file_is_preferred_to_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}-of-the-file\n")
    access = make_access("0.0.0.0", token_file=tmp_path / "token", token=TOKEN)
    assert access.token == f"{TOKEN}-of-the-file"
    assert access.allows(authorization=f"bearer  {TOKEN}-of-the-file", cookie=None)
    assert not access.allows(authorization=f"Bearer {TOKEN}", cookie=TOKEN)


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file or directory"), (b"\xff" * 20, "not UTF-8 text")]
)
def test_a_token_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JobError, match=f"--token-file {path}: cannot be read: {why}"):
        make_access("0.0.0.0", token_file=path, token=None)


@pytest.mark.parametrize("text", ["\N{SNOWMAN}" * 16, "\udcff" * 16, ""])
def test_any_text_may_be_compared(text: str) -> None:
    assert not Access(is_local=False, token=TOKEN).is_token(text)
