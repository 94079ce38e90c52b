"""One self-contained page: no file beside it, no network, complete without scripts."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from megatron_core.files import write_text
from megatron_core.reporting import wording
from megatron_core.reporting.charts import share
from megatron_core.reporting.pipeline import pipeline_nodes
from megatron_core.reporting.proof import Circumstances
from megatron_core.reporting.results import Results


def write_page(path: Path, results: Results, circumstances: Circumstances) -> None:
    """Write the page to ``path``."""
    write_text(path, render(results, circumstances))


def render(results: Results, circumstances: Circumstances) -> str:
    """The page as HTML. Every text is escaped, and the page may load and run nothing else."""
    templates = Environment(
        loader=PackageLoader("megatron_core.reporting"),
        autoescape=True,  # texts come from the corpus
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _source(templates, "page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    templates.filters |= {
        "amount": wording.amount,
        "count": wording.count,
        "duration": wording.duration,
        "percent": wording.percent,
        "in_words": wording.amount_in_words,
        "listing": wording.listing,
        "short": _short,
    }
    return templates.get_template("page.html.j2").render(
        results=results,
        circumstances=circumstances,
        nodes=pipeline_nodes(results),
        total_seconds=sum(circumstances.seconds.values()),
        share=share,
        style=Markup(_source(templates, "page.css")),
        script=Markup(script),
        script_digest=digest,
    )


def _short(root: str) -> str:
    return root[:12]


def _source(templates: Environment, name: str) -> str:
    if templates.loader is None:
        raise TypeError("the environment has no loader")
    return templates.loader.get_source(templates, name)[0]
