"""Provide what libraries expect of a user's account: a name, a home and writable caches.

Containers often run under a user id without an entry in /etc/passwd (`docker run --user 12345`,
OpenShift), without HOME, or with a HOME that this user must not write to. This module imports only
the standard library. It runs before Ray and torch are imported, because both look these up at
import.
"""

from __future__ import annotations

import getpass
import os
import secrets
import stat
import tempfile
from pathlib import Path

CACHES = {
    "XDG_CACHE_HOME": ".cache",  # the orchestrator's data cache, torch.hub, huggingface
    "MPLCONFIGDIR": ".config/matplotlib",
    "TRITON_HOME": "",
}
"""Variables that name a library's cache folder, with the folder's default path below the home."""


def complete_environment() -> None:
    """Set USER, HOME and the cache folders in `os.environ` if this user has none that work.

    Child processes inherit them. Variables that are already set keep their values. HOME keeps its
    value even if it is not writable, because AWS's configuration may be there.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        os.environ["USER"] = f"uid-{os.getuid()}"
    home = _home()
    if home is not None and _can_write_below(home / ".cache"):
        return
    private = _private_folder()
    if private is None:
        return  # no writable disk: the code that needs one reports it
    if home is None:
        os.environ["HOME"] = str(private)
        return
    for name, path in CACHES.items():
        os.environ.setdefault(name, str(private / path))


def provide_ray_token() -> None:
    """Set a token for the Ray that this process starts, if Ray cannot store its own in the home
    folder."""
    kept = Path(".ray") / "auth_token"
    is_given = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    home = _home()
    if is_given or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or home is None:
        return
    if not os.path.exists(home / kept) and not _can_write_below(home / kept.parent):  # noqa: PTH110  may be denied
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _home() -> Path | None:
    """Return the home folder, which may not exist. None if no home is known."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _can_write_below(folder: Path) -> bool:
    """Whether `folder` is writable, or can be created if it is missing."""
    existing = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), Path())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _private_folder() -> Path | None:
    """Return this user's own folder for temporary files, the same for all processes if possible."""
    try:
        folder = Path(tempfile.gettempdir()) / f"orchestrator-home-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    # Libraries run code from their caches: a folder that another user owns or may write is not
    # used.
    is_ours = found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700  # noqa: PLR2004
    if stat.S_ISDIR(found.st_mode) and is_ours:
        return folder
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
