"""The report as one HTML file that opens from disk, without a network."""

from orchestrator.report.page.page import (
    make_environment,
    make_page,
    make_policy,
    make_sections,
    resource,
)

__all__ = ["make_environment", "make_page", "make_policy", "make_sections", "resource"]
