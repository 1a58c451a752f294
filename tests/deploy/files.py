"""The folder deploy/, and how its tests read YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def load_yaml(text: str) -> Any:
    return yaml.load(text, Loader=yaml.CSafeLoader)
