"""`orchestrator report --verify` checks the bytes that the numbers come from."""

from __future__ import annotations

import io

import pytest

from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.report import report
from tests.orchestrator.artifacts.published import Published, published

__all__ = ["published"]


def run(*options: str) -> tuple[int, str]:
    stream = io.StringIO()
    code = report(parse_arguments(["report", "job.yaml", "--verify", *options]), stream)
    return code, stream.getvalue()


@pytest.mark.usefixtures("published")
def test_an_intact_chain_is_below_the_table() -> None:
    code, text = run()
    assert code == 0
    last = text.splitlines()[-1]
    assert last == "Verified: 2 stages, 4 files, 14 B: 0 faults (all bytes were read)"


def test_a_changed_byte_behind_a_number_is_exit_code_3(published: Published) -> None:
    name = published.blob(b"weights")
    published.store.write(name, b"weighty")
    code, text = run()
    assert code == 3
    assert f"{name} (checkpoint/model.safetensors): wrong bytes: " in text
    assert "to make it again: orchestrator run job.yaml --force pretrain" in text


def test_other_formats_have_the_result_on_stderr(
    published: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    published.store.delete(published.blob(b"[]"))
    code, text = run("--format", "csv")
    assert code == 3
    assert "Verified" not in text
    assert "Verified: 2 stages, 4 files, 14 B: 1 fault (" in capsys.readouterr().err


def test_a_comparison_is_not_verified(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(["report", "job.yaml", "other.yaml", "--verify"])
    assert "leave out --plots and --verify" in capsys.readouterr().err
