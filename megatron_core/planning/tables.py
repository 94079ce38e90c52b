"""A plan as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.table import Table

from megatron_core.planning.hardware import Hardware
from megatron_core.planning.plan import Plan
from megatron_core.planning.tuning import TuningPlan

_KINDS = {
    "weights": "weights",
    "optimizer": "main weights, moments",
    "gradients": "gradient sums",
    "activations": "activations",
    "workspace": "temporaries",
}


def plan_tables(plan: Plan, hardware: str) -> Iterator[Table]:
    """Model, memory, time and traffic."""
    yield _model(plan)
    yield _memory(plan, hardware)
    yield _time(plan, hardware)
    if plan.transfers:
        yield _traffic(plan)


def tuning_table(plans: Sequence[TuningPlan], hardware: Hardware, name: str) -> Table:
    """What each training of ``finetune`` takes of the fullest rank."""
    table = _table(
        f"fine-tuning, memory of the fullest rank ({name})", "", "trained", "frozen",
        "FLOPs per token", "weights", "main, moments", "step", "total",
        f"of {_bytes(hardware.usable)}",
    )  # fmt: skip
    for plan in plans:
        counts = (f"{plan.trained:,}", f"{plan.frozen:,}", _engineering(plan.step_flops))
        needed = plan.memory
        if needed is None:
            table.add_row(plan.name, *counts, "not on this layout")
            continue
        sizes = (needed.weights, needed.optimizer, needed.step, needed.total)
        table.add_row(
            plan.name, *counts, *map(_bytes, sizes), _share(needed.total, hardware.usable)
        )
    return table


def verdict(plan: Plan) -> str:
    """Whether a rank's memory is enough, in a sentence."""
    needed, usable = plan.needed.total, plan.usable
    if plan.fits:
        return f"it fits: {_bytes(needed)} of {_bytes(usable)} on the fullest rank"
    better = [choice for choice, memory in plan.memory.items() if memory.total <= usable]
    hint = f"recompute {better[0]} would" if better else "no recompute choice would either"
    return (
        f"it does NOT fit: the fullest rank needs {_bytes(needed)} and has {_bytes(usable)}; {hint}"
    )


def _table(title: str, *columns: str, header: bool = True) -> Table:
    table = Table(title=title, title_justify="left", show_header=header)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _model(plan: Plan) -> Table:
    job = plan.job
    table = _table("model", "", "", header=False)
    table.add_row("parameters", f"{plan.parameters:,}")
    if plan.active != plan.parameters:
        table.add_row("parameters that a token meets", f"{plan.active:,}")
    table.add_row("FLOPs per token, forward", _engineering(plan.forward_flops))
    table.add_row("FLOPs per token, with backward", _engineering(plan.step_flops))
    table.add_row("sequences per step", f"{job.batch:,} of {job.sequence:,} tokens")
    table.add_row("microbatches per pipeline", f"{job.microbatches:,} of {job.microbatch:,}")
    table.add_row("ranks", f"{job.layout.ranks:,} as {job.layout}")
    return table


def _memory(plan: Plan, hardware: str) -> Table:
    choices = list(plan.memory)
    mine = [f"[bold]{c}[/]" if c == plan.job.recompute else c for c in choices]
    table = _table(f"memory of the fullest rank ({hardware}), by recompute", "", *mine)
    for kind, name in _KINDS.items():
        table.add_row(name, *(_bytes(getattr(plan.memory[c], kind)) for c in choices))
    if plan.needed.exchange == plan.needed.step:
        name = "or, at the end, gradients exchanged"
        table.add_row(name, *(_bytes(plan.memory[c].exchange) for c in choices))
    table.add_section()
    totals = [plan.memory[c].total for c in choices]
    table.add_row("total", *(_bytes(total) for total in totals))
    table.add_row(
        f"of {_bytes(plan.usable)}",
        *(_share(total, plan.usable) for total in totals),
    )
    return table


def _time(plan: Plan, hardware: str) -> Table:
    time = plan.time
    table = _table(f"estimated step ({hardware})", "", "seconds", "share")
    rows = {
        "matrix products": time.work.products,
        "elementwise": time.work.elementwise,
        "tensor ranks": time.work.tensor,
        "context ranks": time.work.context,
        "expert ranks": time.work.expert,
        "pipeline messages": time.work.pipeline,
        "pipeline bubble": time.bubble,
        "gradients and weights": time.data,
        "optimizer": time.optimizer,
    }
    for name, seconds in rows.items():
        if seconds:
            table.add_row(name, f"{seconds:.3g}", f"{seconds / time.total:.1%}")
    table.add_section()
    table.add_row("step", f"{time.total:.3g}", "")
    table.add_row("tokens per second", f"{plan.tokens / time.total:,.0f}", "")
    share = f"{plan.rate / plan.peak:.0%} of peak"
    table.add_row("FLOP/s per rank", _engineering(plan.rate), share)
    return table


def _traffic(plan: Plan) -> Table:
    table = _table("sent by a rank in a step", "between ranks of", "what", "times", "each", "all")
    table.columns[1].justify = "left"
    for transfer in plan.transfers:
        values = asdict(transfer)
        table.add_row(
            values["dimension"],
            values["what"],
            f"{transfer.times:,.0f}",
            _bytes(transfer.bytes),
            _bytes(transfer.total),
        )
    return table


def _share(needed: float, usable: float) -> str:
    return f"[{'green' if needed <= usable else 'red'}]{needed / usable:.0%}[/]"


def _bytes(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} B"


def _engineering(value: float) -> str:
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:,.4g} {unit}"
    return f"{value:,.0f}"
