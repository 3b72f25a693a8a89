"""Reports: one self-contained page and its machine-readable twin."""

from truecue.report.pictures import Picture
from truecue.report.report import write_report

__all__ = ["Picture", "write_report"]
