"""The command ``reforge``: one typed subcommand per stage, in the order of the pipeline."""

from __future__ import annotations

import errno
import logging
import sys
import time
from collections.abc import Callable

import typer

from megatron_core.errors import Interrupted, NumericalError, PeerLostError, ReforgeError
from megatron_core.parallel.launch import is_first_rank
from stages.audit import audit
from stages.convert import convert
from stages.curate import curate
from stages.decontaminate import decontaminate
from stages.dedup import dedup
from stages.evaluate import evaluate
from stages.finetune import finetune
from stages.generate import generate
from stages.ingest import ingest
from stages.init import init
from stages.plan import plan
from stages.pretrain import pretrain
from stages.report import report
from stages.run import console
from stages.schema import schema
from stages.tokenize import tokenize
from stages.tokenizer import tokenizer
from stages.trace import trace

app = typer.Typer(
    name="reforge",
    help="Rebuild a language model from raw text to benchmark score, bit for bit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

STAGES: tuple[Callable[..., None], ...] = (
    ingest,
    curate,
    dedup,
    decontaminate,
    tokenizer,
    tokenize,
    pretrain,
    finetune,
    convert,
    evaluate,
    audit,
    report,
)
TOOLS: tuple[Callable[..., None], ...] = (generate, init, plan, schema, trace)
for stage in STAGES:
    app.command(rich_help_panel="Stages, in the order of the pipeline")(stage)
for tool in TOOLS:
    app.command(rich_help_panel="Tools")(tool)


def main() -> None:
    """Run the command line; a failure the user can act on ends without a traceback."""
    _set_up_logging()
    try:
        app()
    except Interrupted as end:
        if is_first_rank():  # all ranks were interrupted together
            console.print(str(end), style="yellow", markup=False, soft_wrap=True)
        sys.exit(end.exit_code)
    except NumericalError as error:
        if is_first_rank():  # all ranks know it
            _say(error)
        sys.exit(error.exit_code)
    except ReforgeError as error:
        # The first rank speaks for all that fail alike, and a rank that fails for a reason of its
        # own before those that miss it: meanwhile the launcher ends those that need not speak.
        time.sleep(6 if isinstance(error, PeerLostError) else 0 if is_first_rank() else 3)
        _say(error)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT}:
            raise
        console.print(
            f"error: {error.filename}: {error.strerror}; free the disk or make it writable",
            style="red", markup=False, soft_wrap=True,
        )  # fmt: skip
        sys.exit(1)


def _say(error: ReforgeError) -> None:
    console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)


def _set_up_logging() -> None:
    """Our own notices go to stderr, those below warnings from the first rank alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("reforge: %(message)s"))
    for name in ("stages", "megatron_core"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if is_first_rank() else logging.WARNING)


if __name__ == "__main__":
    main()
