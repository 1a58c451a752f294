"""The bytes that operators read and write, counted by hand for small steps."""

from __future__ import annotations

import torch

from benchmarks.speed.traffic import moved_bytes

X = torch.zeros(10, 20)  # 800 bytes


def test_an_operator_reads_its_inputs_and_writes_its_output() -> None:
    assert moved_bytes(lambda: X + X.clone()) == 2 * 800 + 3 * 800


def test_views_and_empty_tensors_move_nothing() -> None:
    assert moved_bytes(lambda: (X.view(20, 10).t()[2:], torch.empty_like(X), X.detach())) == 0


def test_an_expanded_dimension_is_read_once() -> None:
    assert moved_bytes(lambda: X + torch.zeros(20).expand(10, 20)) == 80 + 800 + 80 + 800


def test_an_operator_on_lists_writes_the_first_one() -> None:
    assert moved_bytes(lambda: torch._foreach_add_([X], [X])) == 3 * 800


def test_the_backward_pass_is_counted() -> None:
    """It makes the loss's gradient of 4 bytes, which is expanded and multiplied with the input."""
    weight = torch.zeros(20, 30, requires_grad=True)  # 2400 bytes
    forward = (800 + 2400 + 1200) + (1200 + 4)
    moved = moved_bytes(lambda: (X @ weight).sum().backward())  # type: ignore[no-untyped-call]
    assert moved == forward + (4 + 4) + (800 + 4 + 2400)
