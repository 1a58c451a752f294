"""Write the dashboard and the alerts: `python -m orchestrator.monitoring FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.monitoring.files import ALERTS_FILE, DASHBOARD_FILE, alerts_text, dashboard_text


def main(folder: Path) -> None:
    """Write both files into `folder`."""
    for name, text in {DASHBOARD_FILE: dashboard_text(), ALERTS_FILE: alerts_text()}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
