"""A run as one HTML page: nothing to load from elsewhere, readable on a phone, on paper and in the dark."""

from widenet.analysis.report.curves import read_scalars
from widenet.analysis.report.page import write_report

__all__ = ["read_scalars", "write_report"]
