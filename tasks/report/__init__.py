"""The web report of a family of SAEs: a folder of pages that open without a network."""

from tasks.report.page import write
from tasks.report.records import MemberReport, Report

__all__ = ["MemberReport", "Report", "write"]
