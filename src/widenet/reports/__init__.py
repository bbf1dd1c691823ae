"""A run as one HTML page: nothing to load from elsewhere, readable on a phone, on paper and in the dark."""

from widenet.reports.curves import read_scalars
from widenet.reports.page import write_report

__all__ = ["read_scalars", "write_report"]
