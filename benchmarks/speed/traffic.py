"""The bytes that the operators of a step read and write, as if nothing were cached.

An operator reads each of its input tensors and writes each of its output tensors once. An expanded
dimension counts once. A view moves nothing, and neither does making an empty tensor. Temporary
tensors inside an operator are not counted, and neither is traffic inside compiled code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def moved_bytes(step: Callable[[], object]) -> int:
    """Bytes that `step` reads and writes, forward and backward, when it runs eagerly."""
    counter = _Counter()
    with counter:
        step()
    return counter.num_bytes


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = list(_tensors([args, *(kwargs or {}).values()]))
        returned = list(_tensors(result))
        if not returned:  # operators on lists of tensors change the first list in place
            returned = list(_tensors(args[:1]))
        if not (_is_view(func, given, returned) or "empty" in func.overloadpacket.__name__):
            self.num_bytes += sum(map(_bytes, given)) + sum(map(_bytes, returned))
        return result


def _is_view(func: Any, given: list[Tensor], returned: list[Tensor]) -> bool:
    """Whether all outputs share memory with inputs that the operator does not change."""
    storages = {tensor.untyped_storage().data_ptr() for tensor in given}
    is_shared = all(tensor.untyped_storage().data_ptr() in storages for tensor in returned)
    return is_shared and not func._schema.is_mutable


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _bytes(tensor: Tensor) -> int:
    num_distinct = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        num_distinct *= size if stride else min(size, 1)
    return num_distinct * tensor.element_size()
