"""Completes what libraries expect of a user's account: a name, a home, and caches that can be
written.

Containers often run under a user id that has no entry in /etc/passwd (`docker run --user 12345`,
OpenShift), without HOME, or with a HOME that this user may not write. Imports the standard library
only: it runs before Ray and torch are imported, since both look these up at import.
"""

from __future__ import annotations

import getpass
import os
import secrets
import stat
import tempfile
from pathlib import Path

CACHES = {
    "XDG_CACHE_HOME": ".cache",  # our own data cache, torch.hub, huggingface
    "MPLCONFIGDIR": ".config/matplotlib",
    "TRITON_HOME": "",
}
"""Variables that name a folder which a library writes, with its path below the home."""


def complete_environment() -> None:
    """Set USER, HOME and the folders of caches in `os.environ` where this user has none that work.

    Processes that this one starts inherit them. A variable that is set already keeps its value;
    HOME does also where it cannot be written, because AWS's configuration may be there.
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
        return  # no disk to write: what needs one reports that
    if home is None:
        os.environ["HOME"] = str(private)
        return
    for name, path in CACHES.items():
        os.environ.setdefault(name, str(private / path))


def provide_ray_token() -> None:
    """Set a secret for the Ray that this process starts, where Ray cannot keep its own in the home
    folder."""
    kept = Path(".ray") / "auth_token"
    is_given = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    home = _home()
    if is_given or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or home is None:
        return
    if not os.path.exists(home / kept) and not _can_write_below(home / kept.parent):  # noqa: PTH110  may be denied
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _home() -> Path | None:
    """The home folder, which need not exist; None where nothing names one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _can_write_below(folder: Path) -> bool:
    """Whether `folder` can be written, or made where it is missing."""
    existing = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), Path())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _private_folder() -> Path | None:
    """This user's own folder for temporary files; the same one for all processes where possible."""
    try:
        folder = Path(tempfile.gettempdir()) / f"orchestrator-home-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    # Libraries run what they find in their caches: a folder that others made or may write is not
    # used.
    is_ours = found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700  # noqa: PLR2004
    if stat.S_ISDIR(found.st_mode) and is_ours:
        return folder
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
