"""The report: one HTML page of what was made, how good it is, and how to check it."""

from megatron_core.reporting.page import render, write_page
from megatron_core.reporting.project import Project
from megatron_core.reporting.proof import Circumstances, read_circumstances
from megatron_core.reporting.results import Results, read_results

__all__ = [
    "Circumstances",
    "Project",
    "Results",
    "read_circumstances",
    "read_results",
    "render",
    "write_page",
]
