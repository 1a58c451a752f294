"""What the live page shows now: sections with versions, so that a viewer gets only what changed.

Readers of the store write it from their threads; the server reads it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

VIEWER_TIMEOUT_S = 10.0
"""A page asks every 2 s. Without a question for this long, nobody looks, and nothing is read."""

PARTS = ("now", "report")
"""In the order of the page. Each has a reader of its own."""


@dataclass(frozen=True)
class Trouble:
    """Why a reader of the store has nothing new."""

    what: str
    """In a few words, such as `store unreachable`."""
    since_s: float
    """Seconds since the epoch."""
    text: str


@dataclass(frozen=True)
class Section:
    html: str
    version: int
    """The version of the board with which this content came."""


@dataclass
class Board:
    """The sections of the page, in the parts that their readers write."""

    clock: Callable[[], float] = time.time
    """Seconds since the epoch."""
    server_id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Versions count from the start of this process."""
    _parts: dict[str, dict[str, Section]] = field(
        default_factory=lambda: {part: {} for part in PARTS}
    )
    _troubles: dict[str, Trouble] = field(default_factory=dict)
    _version: int = 0
    _title: str = ""
    _read_at_s: float | None = None
    _seen_at_s: float = float("-inf")
    _is_closed: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, part: str, sections: Mapping[str, str], *, title: str | None = None) -> None:
        """Replace the sections of a part. Those with new content get a new version."""
        with self._changed:
            before = self._parts[part]
            self._version += 1
            self._parts[part] = {
                name: before[name]
                if name in before and before[name].html == html
                else Section(html, self._version)
                for name, html in sections.items()
            }
            self._title = title or self._title

    def note_read(self, reader: str) -> None:
        """Record that the reader reached the store just now."""
        with self._changed:
            self._read_at_s = self.clock()
            self._troubles.pop(reader, None)

    def note_trouble(self, reader: str, what: str, text: str) -> None:
        """Record that the reader failed. The time of its first failure in a row is kept."""
        with self._changed:
            since_s = self._troubles[reader].since_s if reader in self._troubles else self.clock()
            self._troubles[reader] = Trouble(what, since_s, text)

    def update_since(self, version: int) -> dict[str, JsonValue]:
        """What changed after `version`, for the script of the page. Ask with 0 for everything."""
        with self._changed:
            sections = self._all()
            trouble = min(self._troubles.values(), key=lambda one: one.since_s, default=None)
            return {
                "server": self.server_id,
                "version": self._version,
                "title": self._title,
                "now_s": self.clock(),
                "read_at_s": self._read_at_s,
                "trouble": None
                if trouble is None
                else {"what": trouble.what, "since_s": trouble.since_s, "text": trouble.text},
                "names": list(sections),
                "sections": {
                    name: section.html
                    for name, section in sections.items()
                    if section.version > version
                },
            }

    def _all(self) -> dict[str, Section]:
        return {name: section for part in self._parts.values() for name, section in part.items()}

    def note_viewer(self) -> None:
        """Record that a page asked just now."""
        with self._changed:
            self._seen_at_s = time.monotonic()
            self._changed.notify_all()

    def wait_for_viewer(self) -> bool:
        """Return True when a page has asked within VIEWER_TIMEOUT_S, or False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_viewer())
            return not self._is_closed

    def _has_viewer(self) -> bool:
        return time.monotonic() - self._seen_at_s < VIEWER_TIMEOUT_S

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, timeout=seconds)

    def close(self) -> None:
        """End the waits of the readers."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
