"""What a store holds and which of it is needed, in a temporary SQLite file: a store may have
millions of names, more than memory.

SQLite rather than a merge of sorted lists: references come in no order, so a merge would need a
sort on disk as well, and an index also answers the questions of each re-check.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

CACHE_KIB = 16384

_TABLES = """
CREATE TABLE parts (
    id INTEGER PRIMARY KEY, kind TEXT, name TEXT, num INTEGER, size INTEGER, age_s REAL,
    goes INTEGER DEFAULT 0, UNIQUE (kind, name));
CREATE TABLE refs (part INTEGER, name TEXT, PRIMARY KEY (name, part)) WITHOUT ROWID;
CREATE INDEX refs_of_part ON refs (part);
CREATE TABLE roots (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Found(NamedTuple):
    """A part that goes: an object or a folder of the store."""

    name: str
    num: int
    """Objects in it."""
    size: int
    """In bytes."""


class Inventory:
    """The parts of a store, what each refers to, and which of them go.

    A part has a kind, and the name of its object or folder in the store.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add(self, kind: str, name: str, *, size: int, age_s: float) -> None:
        """Add an object to the part `name`. A part is as old as its youngest object."""
        self._database.execute(
            "INSERT INTO parts (kind, name, num, size, age_s) VALUES (?, ?, 1, ?, ?) "
            "ON CONFLICT (kind, name) DO UPDATE SET num = num + 1, size = size + excluded.size, "
            "age_s = min(age_s, excluded.age_s)",
            (kind, name, size, age_s),
        )

    def refer(self, kind: str, name: str, names: Iterable[str]) -> None:
        """Note that the part `name` refers to `names`."""
        found = self._database.execute(
            "SELECT id FROM parts WHERE kind = ? AND name = ?", (kind, name)
        ).fetchone()
        self._database.executemany(
            "INSERT OR IGNORE INTO refs VALUES (?, ?)", ((found[0], one) for one in names)
        )

    def add_root(self, name: str) -> None:
        """Note a name that is needed, whatever refers to it."""
        self._database.execute("INSERT OR IGNORE INTO roots VALUES (?)", (name,))

    def choose(self, kind: str, *, least_age_s: float) -> None:
        """Let the parts of `kind` go that are old enough and not needed.

        Parts that go first do not count as a need, nor do parts of the same kind.
        """
        self._database.execute(
            "UPDATE parts SET goes = 1 WHERE kind = ? AND age_s >= ? "
            "AND NOT EXISTS (SELECT 1 FROM roots WHERE roots.name = parts.name) "
            "AND NOT EXISTS (SELECT 1 FROM refs JOIN parts AS needing ON needing.id = refs.part "
            "WHERE refs.name = parts.name AND NOT needing.goes AND needing.kind != parts.kind)",
            (kind, least_age_s),
        )

    def keep_roots(self, kind: str) -> None:
        """Keep the parts of `kind` that are roots, and the parts of this kind that they need."""
        self._database.execute(
            "UPDATE parts SET goes = 0 WHERE kind = ? AND goes AND name IN (SELECT * FROM roots)",
            (kind,),
        )
        self._database.execute(
            "WITH RECURSIVE kept (id) AS (SELECT id FROM parts WHERE kind = ?1 AND NOT goes "
            "UNION SELECT needed.id FROM kept JOIN refs ON refs.part = kept.id "
            "JOIN parts AS needed ON needed.kind = ?1 AND needed.name = refs.name) "
            "UPDATE parts SET goes = 0 WHERE kind = ?1 AND goes AND id IN (SELECT * FROM kept)",
            (kind,),
        )

    def keep(self, kind: str, name: str) -> None:
        """Keep a part after all."""
        self._database.execute(
            "UPDATE parts SET goes = 0 WHERE kind = ? AND name = ?", (kind, name)
        )

    def goes(self, kind: str, name: str) -> bool:
        """Whether a part goes."""
        found = self._database.execute(
            "SELECT goes FROM parts WHERE kind = ? AND name = ?", (kind, name)
        ).fetchone()
        return found is not None and bool(found[0])

    def is_needed(self, name: str) -> bool:
        """Whether `name` is a root, or a part that stays refers to it."""
        found = self._database.execute(
            "SELECT 1 FROM roots WHERE name = ?1 UNION ALL SELECT 1 FROM refs "
            "JOIN parts ON parts.id = refs.part WHERE refs.name = ?1 AND NOT parts.goes LIMIT 1",
            (name,),
        )
        return found.fetchone() is not None

    def going(self, kind: str, *, after: str, most: int) -> list[Found]:
        """Return up to `most` parts of `kind` that go, by name: those after `after`."""
        rows = self._database.execute(
            "SELECT name, num, size FROM parts WHERE kind = ? AND name > ? AND goes "
            "ORDER BY name LIMIT ?",
            (kind, after, most),
        )
        return [Found(*row) for row in rows]

    def total(self, kind: str) -> tuple[int, int, int]:
        """Return how many parts of `kind` go, how many objects they have, and their bytes."""
        row = self._database.execute(
            "SELECT count(*), total(num), total(size) FROM parts WHERE kind = ? AND goes", (kind,)
        ).fetchone()
        return int(row[0]), int(row[1]), int(row[2])


@contextmanager
def open_inventory() -> Iterator[Inventory]:
    """Yield an empty inventory, whose file is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-gc-") as folder:
        # Autocommit and neither journal nor sync: nobody reads the file after a crash.
        database = sqlite3.connect(Path(folder, "inventory"), isolation_level=None)
        try:
            for pragma in ("journal_mode = OFF", "synchronous = OFF", "temp_store = FILE"):
                database.execute(f"PRAGMA {pragma}")
            database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            database.executescript(_TABLES)
            database.execute("BEGIN")
            yield Inventory(database)
        finally:
            database.close()
