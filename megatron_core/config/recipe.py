"""The whole recipe, and the checks that cross its sections."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from megatron_core.config.convert import ConvertConfig
from megatron_core.config.corpus import (
    ByteBpe,
    CurateConfig,
    DecontaminateConfig,
    DedupConfig,
    ExistingTokenizer,
    IngestConfig,
    TokenizeConfig,
    TokenizerConfig,
)
from megatron_core.config.evaluate import EvaluateConfig
from megatron_core.config.execution import ExecutionConfig, LocalExecution
from megatron_core.config.finetune import FinetuneConfig
from megatron_core.config.finetune.problems import finetune_problems
from megatron_core.config.kernels import EIGHT_BITS
from megatron_core.config.model import ModelConfig
from megatron_core.config.prediction import MaskingConfig, PredictionConfig
from megatron_core.config.pretrain import PretrainConfig
from megatron_core.config.problem import Problem, source_problems
from megatron_core.config.results import AuditConfig, ReportConfig
from megatron_core.config.section import Section
from megatron_core.config.training import TrainingConfig


class Recipe(Section):
    """Everything that may change the bits, a section per stage; and what runs them."""

    ingest: IngestConfig = Field(description="Sources into documents")
    curate: CurateConfig = Field(default_factory=CurateConfig, description="Quality rules")
    dedup: DedupConfig = Field(default_factory=DedupConfig, description="Exact and near copies")
    decontaminate: DecontaminateConfig = Field(
        default_factory=DecontaminateConfig, description="Held-out split, and distance from it"
    )
    tokenizer: TokenizerConfig = Field(
        default_factory=ByteBpe, description="The vocabulary: trained, or one that exists"
    )
    tokenize: TokenizeConfig = Field(
        default_factory=TokenizeConfig, description="Documents into indexed tokens"
    )
    pretrain: PretrainConfig = Field(
        default_factory=PretrainConfig, description="Training on the tokenized sources"
    )
    finetune: FinetuneConfig = Field(
        default_factory=FinetuneConfig, description="Domain adaptation and tasks"
    )
    convert: ConvertConfig = Field(
        default_factory=ConvertConfig, description="Export to Hugging Face"
    )
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="Scores")
    audit: AuditConfig = Field(default_factory=AuditConfig, description="Proof")
    report: ReportConfig = Field(default_factory=ReportConfig, description="One page")
    execution: ExecutionConfig = Field(
        default_factory=LocalExecution, description="On what the data stages run; changes no bit"
    )


# The order of the pipeline.
STAGES = tuple(name for name in Recipe.model_fields if name != "execution")


def training_runs(recipe: Recipe) -> dict[str, TrainingConfig]:
    """Every training run of the recipe by its dotted path."""
    runs: dict[str, TrainingConfig] = {"pretrain": recipe.pretrain}
    if recipe.finetune.continued is not None:
        runs["finetune.continued"] = recipe.finetune.continued
    for name, task in recipe.finetune.tasks.items():
        runs[f"finetune.tasks.{name}"] = task
    return runs


def cross_section_problems(recipe: Recipe) -> Iterator[Problem]:
    """What no section can see alone."""
    model = recipe.pretrain.model
    yield from _model_problems(model)
    # An existing tokenizer's size is known once it is opened: stage tokenizer checks it.
    if (
        not isinstance(recipe.tokenizer, ExistingTokenizer)
        and recipe.tokenizer.vocabulary > model.vocabulary
    ):
        yield Problem(
            "pretrain.model.vocabulary",
            f"must hold the tokenizer's {recipe.tokenizer.vocabulary} entries "
            "(tokenizer.vocabulary)",
            model.vocabulary,
        )
    if recipe.pretrain.steps == 0 and recipe.pretrain.start is None:
        yield Problem(
            "pretrain.steps", "must be at least 1, or pretrain.start name a model to take as it is",
            recipe.pretrain.steps,
        )  # fmt: skip
    for path, run in training_runs(recipe).items():
        yield from _training_problems(path, run, model)
        yield from _eight_bit_problems(path, run, model)
        if isinstance(run, PredictionConfig):
            yield from _dataset_problems(path, run, model)
            yield from _pair_problems(path, run, model)
            if model.kind == "encoder":
                yield from _masking_problems(f"{path}.masking", run.masking, model)
    yield from finetune_problems(recipe.finetune, recipe.ingest, model)
    if (recipe.evaluate.context or 0) > model.positions:
        yield Problem(
            "evaluate.context",
            f"must not exceed pretrain.model.positions = {model.positions}",
            recipe.evaluate.context,
        )
    yield from _evaluate_problems(recipe)
    yield from _memorization_problems(recipe)
    yield from _source_problems(recipe)


def _evaluate_problems(recipe: Recipe) -> Iterator[Problem]:
    config, path = recipe.evaluate, "evaluate.batch_tokens"
    if recipe.pretrain.model.kind == "encoder":
        for field in ("tasks", "question_source"):
            if found := getattr(config, field):
                yield Problem(
                    f"evaluate.{field}", "is of decoders alone: an encoder predicts no next token",
                    found,
                )  # fmt: skip
    if config.batch_tokens is None:
        return
    context = config.context or recipe.pretrain.sequence_length
    if config.batch_tokens < context:
        yield Problem(path, f"must hold what a model sees, {context} tokens", config.batch_tokens)
    if recipe.pretrain.model.experts is not None:
        yield Problem(
            path, "must be null for a mixture: an expert has as many rows as chose it, so a "
            "score would depend on what it is computed with",
            config.batch_tokens,
        )  # fmt: skip


def _memorization_problems(recipe: Recipe) -> Iterator[Problem]:
    canaries, config = recipe.tokenize.canaries, recipe.evaluate.memorization
    path = "tokenize.canaries"
    if canaries is not None:
        field, known, trained = f"{path}.source", recipe.ingest.sources, recipe.pretrain.sources
        if canaries.source not in known:
            yield Problem(
                field, f"is not one of ingest.sources: {', '.join(known)}", canaries.source
            )
        elif trained and canaries.source not in trained:
            yield Problem(
                field, "must be one of pretrain.sources, or nothing trains on the canaries",
                canaries.source,
            )  # fmt: skip
        if config is None:
            yield Problem(
                path, "must be null unless evaluate.memorization says how they are measured: a "
                "planted secret that nobody looks for is only noise",
            )  # fmt: skip
    if config is None:
        return
    path = "evaluate.memorization"
    if recipe.pretrain.model.kind == "encoder":
        yield Problem(path, "must be null for an encoder: it gives texts no probability")
    context = recipe.evaluate.context or recipe.pretrain.sequence_length
    if 1 + config.prefix + config.continuation > context:
        yield Problem(
            f"{path}.prefix",
            "with its continuation and the token that texts begin after must not exceed what a "
            f"model sees, {context} tokens: 1 + {config.prefix} + {config.continuation}",
            config.prefix,
        )


def _model_problems(model: ModelConfig) -> Iterator[Problem]:
    path = "pretrain.model"
    if model.head_width is None and model.hidden % model.heads:
        yield Problem(
            f"{path}.heads", f"must divide hidden = {model.hidden}, or give head_width", model.heads
        )
    elif model.position_embedding == "rotary" and model.head_size % 2:
        field = "heads" if model.head_width is None else "head_width"
        yield Problem(
            f"{path}.{field}",
            f"rotary positions need an even head size, not {model.head_size}",
            getattr(model, field),
        )
    if model.rope_scaling is not None and model.position_embedding != "rotary":
        yield Problem(f"{path}.rope_scaling", "is of rotary positions alone")
    if model.pooler and model.kind == "decoder":
        yield Problem(f"{path}.pooler", "is of encoders alone", model.pooler)
    if model.window is not None and model.kind == "encoder":
        yield Problem(f"{path}.window", "is of decoders alone: an encoder sees all", model.window)
    experts = model.experts
    if experts is not None and (model.activation != "swiglu" or model.ffn_bias):
        yield Problem(f"{path}.experts", "need activation: swiglu and ffn_bias: false")
    if experts is not None and experts.chosen > experts.count:
        yield Problem(
            f"{path}.experts.chosen", f"must not exceed count = {experts.count}", experts.chosen
        )
    if experts is not None and experts.chosen == 1 and experts.normalize:
        yield Problem(
            f"{path}.experts.normalize",
            "must be false when chosen is 1: the only weight would always be one, and the router "
            "would learn nothing from the loss",
            experts.normalize,
        )
    if model.heads % model.kv_heads:
        yield Problem(f"{path}.kv_heads", f"must divide heads = {model.heads}", model.kv_heads)


def _training_problems(path: str, run: TrainingConfig, model: ModelConfig) -> Iterator[Problem]:
    grid, batch = run.grid, run.batch
    if batch.sequences % (grid.data * batch.microbatch):
        yield Problem(
            f"{path}.batch.sequences",
            f"must be a multiple of grid.data × batch.microbatch = "
            f"{grid.data} × {batch.microbatch}",
            batch.sequences,
        )
    if run.sequence_length > model.positions:
        yield Problem(
            f"{path}.sequence_length",
            f"must not exceed pretrain.model.positions = {model.positions}",
            run.sequence_length,
        )
    if run.schedule.warmup_steps >= run.steps > 0:
        yield Problem(
            f"{path}.schedule.warmup_steps",
            f"must be below steps = {run.steps}",
            run.schedule.warmup_steps,
        )
    ffn = model.ffn if model.experts is None else model.experts.ffn
    for field, counts in (
        (
            "tensor",
            {
                "pretrain.model.heads": model.heads,
                "pretrain.model.kv_heads": model.kv_heads,
                "the feed-forward width": ffn,
                "pretrain.model.vocabulary": model.vocabulary,
                "a context chunk, sequence_length / grid.context": run.sequence_length
                // grid.context,
            },
        ),
        ("context", {"sequence_length": run.sequence_length}),
    ):
        degree = getattr(grid, field)
        for name, count in counts.items():
            if count % degree:
                yield Problem(f"{path}.grid.{field}", f"must divide {name} = {count}", degree)


def _eight_bit_problems(path: str, run: TrainingConfig, model: ModelConfig) -> Iterator[Problem]:
    backend, grid = run.kernels.linear, run.grid
    if backend not in EIGHT_BITS:
        return
    for name, value, needed in (
        ("device", run.device, "cuda"), ("precision", run.precision, "bf16"),
    ):  # fmt: skip
        if value != needed:
            yield Problem(f"{path}.{name}", f"must be {needed} with kernels.linear", value)
    multiple, field = EIGHT_BITS[backend], f"{path}.kernels.linear"
    if model.experts is not None:
        yield Problem(
            field, "is not for a mixture: an expert has as many rows as chose it, and they would "
            f"have to be a multiple of {multiple}",
            backend,
        )  # fmt: skip
        return
    for name, size in (
        ("pretrain.model.hidden", model.hidden),
        ("queries' width / grid.tensor", model.heads * model.head_size // grid.tensor),
        ("keys' width / grid.tensor", model.kv_heads * model.head_size // grid.tensor),
        ("pretrain.model.ffn / grid.tensor", model.ffn // grid.tensor),
        (f"{path}.sequence_length / grid.context", run.sequence_length // grid.context),
    ):
        if size % multiple:
            yield Problem(field, f"needs {name} = {size} to be a multiple of {multiple}", backend)


def _dataset_problems(path: str, run: PredictionConfig, model: ModelConfig) -> Iterator[Problem]:
    # What pairs need is said of them alone.
    framed = model.kind == "encoder" and run.masking.framed and run.masking.pairs == "none"
    if framed and run.reset_at_documents and run.packing != "best_fit":
        yield Problem(
            f"{path}.packing", "must be best_fit where each document is framed and sees itself "
            "alone: its frame needs room of its own",
            run.packing,
        )  # fmt: skip
    if run.order == "megatron":
        if model.kind == "encoder":
            yield Problem(
                f"{path}.order", "must be permuted for an encoder: Megatron's is that of its GPT",
                run.order,
            )  # fmt: skip
        if run.packing != "concatenate":
            yield Problem(
                f"{path}.packing", "must be concatenate with order: megatron", run.packing
            )
        if not run.sources:
            yield Problem(
                f"{path}.sources", "must name the sources with order: megatron", run.sources
            )


def _pair_problems(path: str, run: PredictionConfig, model: ModelConfig) -> Iterator[Problem]:
    pairs, field = run.masking.pairs, f"{path}.masking.pairs"
    if pairs == "none":
        if model.pooler and model.kind == "encoder":
            yield Problem(
                field, "must be sentence_order or next_sentence, which train the layers of "
                "pretrain.model.pooler; or set that to false",
                pairs,
            )  # fmt: skip
        return
    if model.kind == "decoder":
        yield Problem(field, "are of encoders alone: a decoder sees no second segment", pairs)
        return
    for name, right, needed in (
        ("pretrain.model.pooler", model.pooler, "true: the label is told by its layers"),
        ("pretrain.model.token_types", model.token_types >= 2, "at least 2, one for each segment"),
        (f"{path}.masking.framed", run.masking.framed, "true: [SEP] stands between the segments"),
        (
            f"{path}.reset_at_documents", not run.reset_at_documents,
            "false: the segments see each other",
        ),
        (
            f"{path}.packing", run.packing == "concatenate",
            "concatenate, its default: a sequence is one pair and packs nothing",
        ),
    ):  # fmt: skip
        if not right:
            yield Problem(name, f"must be {needed} ({field}: {pairs})")


def _masking_problems(path: str, masking: MaskingConfig, model: ModelConfig) -> Iterator[Problem]:
    if masking.token is not None and masking.token >= model.vocabulary:
        yield Problem(
            f"{path}.token", f"must be below pretrain.model.vocabulary = {model.vocabulary}",
            masking.token,
        )  # fmt: skip
    if masking.masked + masking.random > 1:
        yield Problem(
            f"{path}.random", f"must not exceed 1 - masked = {1 - masking.masked:g}", masking.random
        )


def _source_problems(recipe: Recipe) -> Iterator[Problem]:
    known = recipe.ingest.sources
    for path, run in training_runs(recipe).items():
        if not isinstance(run, PredictionConfig):
            continue
        for name, weight in run.sources.items():
            field = f"{path}.sources.{name}"
            if name not in known:
                yield Problem(field, f"is not one of ingest.sources: {', '.join(known)}", weight)
            elif weight <= 0:
                yield Problem(field, "must be above 0; leave a source out instead", weight)
    source = recipe.evaluate.question_source
    if source is not None:
        yield from source_problems("evaluate.question_source", source, "hpo", known)
