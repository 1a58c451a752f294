"""The report as one HTML file that opens from disk, without a network."""

from orchestrator.report.page.page import make_page

__all__ = ["make_page"]
