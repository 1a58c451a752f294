"""Write the dashboard and the alerts: `python -m orchestrator.monitoring FOLDER`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.monitoring.files import ALERTS_FILE, DASHBOARD_FILE, alerts_text, dashboard_text
from orchestrator.streams import exit_code_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.monitoring", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    folder: Path = parser.parse_args().folder
    for name, text in {DASHBOARD_FILE: dashboard_text(), ALERTS_FILE: alerts_text()}.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as err:
            raise StoreError(f"{path}: cannot be written: {err.strerror}") from err
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
