"""The table of kinds. Importing it imports neither torch nor ray: an entry is named by a string."""

from __future__ import annotations
