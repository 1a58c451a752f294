"""Pins: `pins/<key>.json` says who wants to keep a stage's results. `artifacts gc` keeps them."""

from __future__ import annotations

from orchestrator.artifact import Sha256, Value
from orchestrator.errors import IntegrityError
from orchestrator.store.protocol import Store

FOLDER = "pins"


class Pin(Value):
    """Why a stage's results are kept."""

    schema_version: int = 1
    key: Sha256
    stage: str
    job: str | None
    """The job through which the stage was named; None if it was named by its Key."""
    pinned_by: str
    pinned_at_s: float


def pin_name(key: str) -> str:
    return f"{FOLDER}/{key}.json"


def write_pin(store: Store, pin: Pin) -> bool:
    """Write a pin. Returns False if the stage has one already, which stays."""
    return store.create(pin_name(pin.key), pin.model_dump_json(indent=2).encode())


def load_pin(store: Store, key: str) -> Pin | None:
    """Return the pin of a Key, or None. Raises IntegrityError if it is not readable."""
    document = store.read(pin_name(key))
    if document is None:
        return None
    try:
        return Pin.model_validate_json(document)
    except ValueError as err:
        where = f"store {store.uri}: {pin_name(key)}"
        raise IntegrityError(f"{where}: not a pin; delete it and pin again") from err


def remove_pin(store: Store, key: str) -> bool:
    """Remove the pin of a Key. Returns whether there was one."""
    is_pinned = store.read(pin_name(key)) is not None
    store.delete(pin_name(key))
    return is_pinned


def pinned_keys(store: Store) -> frozenset[str]:
    """Return the Keys with a pin. A pin counts by its name, even if its content is damaged."""
    names = (entry.name for entry in store.entries(FOLDER))
    return frozenset(name.removeprefix(f"{FOLDER}/").removesuffix(".json") for name in names)
