"""Modules are compiled where there is a compiler; where there is none, the stage says so and goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from orchestrator.contract import Params
from pipelines.compiling import compile_in_place
from tests.pipelines.openmmlab.harness import Recorder, make_context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of itself
@pytest.mark.parametrize(("compiler", "is_compiled"), [(sys.executable, True), ("no-such-compiler", False)])
def test_modules_are_compiled_where_there_is_a_compiler(
    compiler: str, is_compiled: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", compiler)  # any program: nothing is compiled before the first call
    recorder, modules = Recorder(tmp_path), [nn.Linear(2, 2), nn.Linear(2, 2)]
    compile_in_place(modules, make_context(recorder, Params(), tmp_path))
    assert [module._compiled_call_impl is not None for module in modules] == [is_compiled] * 2
    assert len(recorder.events) == (not is_compiled)
