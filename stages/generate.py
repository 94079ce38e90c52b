"""``reforge generate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from megatron_core.config import FinetuneConfig, SamplingConfig
from megatron_core.errors import ConfigError, IntegrityError, ReforgeError
from megatron_core.identity import manifest_path, read_manifest
from megatron_core.parallel.launch import joined_ranks, launch
from megatron_core.parallel.layout import Layout
from stages.models import language_models
from stages.run import ARTIFACTS

if TYPE_CHECKING:
    from megatron_core.inference import Continuation, Generator, StoredModel
    from megatron_core.parallel.mesh import Mesh

Prompts = Annotated[list[str] | None, typer.Argument(metavar="PROMPT…", help="Texts to continue.")]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="DIR",
        help="A checkpoint, a folder of checkpoints (the newest counts), a Hugging Face folder or "
        "a checkpoint of Megatron-Core; by default the project's last model.",
    ),
]
TokenizerFolder = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="DIR",
        help="By default the model's own folder, else artifacts/tokenizer.",
    ),
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input",
        metavar="FILE",
        help="Prompts: a line each, or in a .jsonl an object with a `prompt` each.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", help="JSON lines instead of the terminal."),
]
Tokens = Annotated[int, typer.Option(min=1, help="Longest continuation.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Draw from the likeliest K.")]
TopP = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Draw from the likeliest that together reach P."),
]
Stop = Annotated[list[str] | None, typer.Option(help="End before this text; repeatable.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the draws.")]
Slots = Annotated[
    int, typer.Option(min=1, help="Prompts continued at a time; may change the last bits.")
]
LayoutText = Annotated[
    str,
    typer.Option(
        "--layout",
        metavar="data=N,tensor=N",
        help="Ranks: `data` share the prompts, `tensor` the model. It changes no bit.",
    ),
]
Shards = Annotated[
    int | None,
    typer.Option(min=1, help="Tensor shards of the arithmetic; by default those of the training."),
]
PrecisionName = Annotated[str, typer.Option(help="fp32 or bf16.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[
    int, typer.Option(min=1, help="CPU threads of each rank; they can change bits.")
]


def generate(
    prompts: Prompts = None,
    model: Model = None,
    tokenizer: TokenizerFolder = None,
    source: Input = None,
    output: Output = None,
    tokens: Tokens = 128,
    temperature: Temperature = 0.7,
    top_k: TopK = None,
    top_p: TopP = None,
    stop: Stop = None,
    seed: Seed = 1,
    slots: Slots = 8,
    layout: LayoutText = "data=1",
    shards: Shards = None,
    precision: PrecisionName = "fp32",
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Continue texts with a decoder: greedy, or drawn with temperature, top-k and top-p.

    A continuation depends on its prompt, the seed and the options above, and not on the prompts
    beside it, their order or the layout. It ends before the end of a document or a `--stop`, after
    `--tokens`, or when the model's positions are full; a prompt that fills them is refused.

    Without `--output` the text appears as it comes. To serve a model, export it with
    `reforge convert` and give the folder to vLLM or the like.
    """
    if top_p == 0:
        raise ConfigError("--top-p 0: must be above 0")
    sampling = SamplingConfig(
        tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p, stop=stop or [], seed=seed
    )
    for option, value, known in (
        ("precision", precision, ("fp32", "bf16")), ("device", device, ("cpu", "cuda")),
    ):  # fmt: skip
        if value not in known:
            raise ConfigError(f"--{option} {value}: must be one of {', '.join(known)}")
    chosen = inference_layout(layout)

    from megatron_core.inference import (
        Generator,
        StoredModel,
        open_tokenizer,
        special_tokens,
    )  # fmt: skip
    from megatron_core.inference.prompts import read_prompts
    from megatron_core.parallel.mesh import open_mesh

    rows = _rows(prompts, source, read_prompts)
    stored = StoredModel.find(model or _last_model())
    stored.grid(chosen.tensor, shards)
    folder = tokenizer or _tokenizer_of(stored)
    encoder = open_tokenizer(folder, stored)
    first, ends = special_tokens(folder, encoder)
    encoded = [[first, *encoder.encode(row["prompt"])] for row in rows]
    if chosen.ranks > 1 and joined_ranks() is None:
        raise typer.Exit(launch(chosen.ranks, "stages.app", sys.argv[1:]))
    with open_mesh(chosen, device, threads) as mesh:
        decoder = stored.load(mesh, shards=shards, precision=precision)
        generator = Generator(decoder, encoder, slots=slots, ends=ends)
        generator.check(encoded)
        _continue(mesh, generator, rows, encoded, sampling, output)


def inference_layout(text: str) -> Layout:
    """The layout of a command that trains nothing: data and tensor ranks alone.

    Raises:
        ConfigError: it has other ranks, or not as many as were launched.
    """
    layout = Layout.parse(text)
    if layout.ranks != layout.data * layout.tensor or layout.expert > 1:
        raise ConfigError(f"--layout {text}: without training there are data and tensor ranks only")
    if (joined := joined_ranks()) is not None and joined != layout.ranks:
        raise ConfigError(
            f"--layout {text} needs {layout.ranks} ranks, but {joined} were launched: say with "
            "--layout how to spread the work over them"
        )
    return layout


def _rows(prompts: list[str] | None, source: Path | None, read: Any) -> list[dict[str, Any]]:
    if bool(prompts) == (source is not None):
        raise ConfigError("give prompts, or a file of them with --input")
    return [{"prompt": prompt} for prompt in prompts] if prompts else read(source)


def _last_model() -> Path:
    """The folder of the language model that no other of the project was trained from."""
    last = [ARTIFACTS / "pretrain"]
    manifest = manifest_path(ARTIFACTS / "finetune")
    if manifest.is_file():
        models = list(language_models(_finetuned(manifest)))
        begun = {model.start for model in models}
        tasks = [model for model in models if model.task is not None and model.task not in begun]
        last = [model.below(ARTIFACTS) for model in tasks or models[-1:]]
    if len(last) > 1:
        raise ReforgeError(
            "this project has several last models; name one with --model: "
            + ", ".join(map(str, last))
        )
    if not last[0].is_dir():
        raise ReforgeError(
            "this project has no model yet: run `reforge pretrain`, or name a --model"
        )
    return last[0]


def _finetuned(manifest: Path) -> FinetuneConfig:
    """The section as it was when the models were trained."""
    try:
        return FinetuneConfig.model_validate(read_manifest(manifest).recipe)
    except ValidationError as error:
        raise IntegrityError(
            f"{manifest} is of another version: run `reforge finetune` again, or name a --model"
        ) from error


def _tokenizer_of(stored: StoredModel) -> Path:
    return stored.tokenizer or ARTIFACTS / "tokenizer"


def _continue(
    mesh: Mesh, generator: Generator, rows: list[dict[str, Any]], encoded: list[list[int]],
    sampling: SamplingConfig, output: Path | None,
) -> None:  # fmt: skip
    """Generate on all ranks; the first writes."""
    from megatron_core.inference.prompts import Stream, write_continuations
    from megatron_core.inference.ranks import spread
    from megatron_core.progress import progress_bar

    shown = mesh.is_first and output is None
    stream = Stream([row["prompt"] for row in rows], _write)
    live = shown and mesh.layout.data == 1
    with progress_bar(shown=mesh.is_first and not live) as bar:
        task = bar.add_task("continuing", total=len(rows))

        def tell(number: int, piece: str | None) -> None:
            if live:
                stream(number, piece)
            elif piece is None:
                bar.advance(task, mesh.layout.data)

        def work(part: Any) -> list[Continuation]:
            return generator.generate(part, sampling, tell)

        made = spread(mesh, encoded, work)
    if shown and not live:
        for number, one in enumerate(made):
            stream(number, one.text)
            stream(number, None)
    if mesh.is_first and output is not None:
        write_continuations(output, rows, made)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
