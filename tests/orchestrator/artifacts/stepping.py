"""A store in memory whose requests a test lets happen one at a time, and commands that run so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from orchestrator.store.protocol import Entry


class KilledError(BaseException):
    """The process of a command was killed: nothing that it does has an effect any more."""


@dataclass
class Memory:
    """What a store holds: content and time of writing by name. One clock for all."""

    now_s: float = 0.0
    contents: dict[str, tuple[bytes, float]] = field(default_factory=dict)


class Command:
    """A command in a thread. Each of its requests to the store waits for a call of `step`."""

    def __init__(self, name: str, memory: Memory, act: Callable[[Command], None]) -> None:
        self.name = name
        self.memory = memory
        self.is_over = False
        self.next = ""
        """The request that the command makes next, such as `delete blobs`."""
        self.error: BaseException | None = None
        self._is_killed = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(act,), daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def step(self) -> None:
        """Let one request happen, and wait until the command is about to make the next one."""
        self._go.release()
        self._stopped.acquire()

    def kill(self) -> None:
        self._is_killed = True
        while not self.is_over:
            self.step()

    def pause(self, request: str) -> None:
        """Wait for `step`. Called before each request."""
        self.next = request
        self._stopped.release()
        self._go.acquire()
        if self._is_killed:
            raise KilledError

    def _run(self, act: Callable[[Command], None]) -> None:
        try:
            self.pause("begin")
            act(self)
        except KilledError:
            pass
        except Exception as err:  # noqa: BLE001  the test shows it
            self.error = err
        finally:
            self.is_over = True
            self._stopped.release()

    # What the command sees as its store and its clock.

    uri = "memory"

    def clock(self) -> float:
        return self.memory.now_s

    def sleep(self, _: float) -> None:
        self.pause("sleep")

    def read(self, name: str) -> bytes | None:
        self.pause(f"read {_folder(name)}")
        return self.memory.contents.get(name, (None, 0.0))[0]

    def write(self, name: str, content: bytes) -> None:
        self.pause(f"write {_folder(name)}")
        self.memory.contents[name] = content, self.memory.now_s

    def create(self, name: str, content: bytes) -> bool:
        self.pause(f"create {_folder(name)}")
        is_new = name not in self.memory.contents
        if is_new:
            self.memory.contents[name] = content, self.memory.now_s
        return is_new

    def delete(self, name: str) -> None:
        self.pause(f"delete {_folder(name)}")
        self.memory.contents.pop(name, None)

    def delete_many(self, names: Sequence[str], *, goes_on: Callable[[], bool]) -> list[str]:
        gone: list[str] = []
        for name in names:
            if not goes_on():
                break
            self.delete(name)
            gone.append(name)
        return gone

    def names(self, prefix: str) -> list[str]:
        self.pause(f"list {_folder(prefix)}")
        return sorted(name for name in self.memory.contents if name.startswith(f"{prefix}/"))

    def entries(self, prefix: str) -> Iterator[Entry]:
        self.pause(f"list {_folder(prefix)}")
        # In the order of writing: names have random parts, and hypothesis repeats the same steps.
        yield from [
            Entry(name, len(content), self.memory.now_s - written_s)
            for name, (content, written_s) in self.memory.contents.items()
            if name.startswith(f"{prefix}/")
        ]


def _folder(name: str) -> str:
    return name.partition("/")[0]
