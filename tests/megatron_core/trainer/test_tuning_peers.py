"""One step of every fine-tuning method against transformers and peft, or by hand beside them.

In float64, with all of the engine in it, and in fp32; on a grid of one and on one of two tensor
shards, whose arithmetic one rank does alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kernels.cross_entropy import IGNORED
from megatron_core.config import BatchSizes, Grid, LoraConfig, ModelConfig, SoftPromptConfig
from megatron_core.conversion.families import bert, llama
from megatron_core.conversion.family import Family, example
from megatron_core.exchange import ModelFolder
from megatron_core.model import HeadSpec, LanguageModel, Share, TaskModel, parameter_shards
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer.adapted import BACKBONE
from megatron_core.trainer.assemble import begin
from megatron_core.trainer.examples import ExampleObjective, Examples
from tests.engines import whole_gradient
from tests.models import random_decoder, stored_weights
from tests.peers import double_by_default, give_weights, taken, their_gradients
from tests.tunings import PROMPT, Tuning, examples, make, settings

Weights = dict[str, Tensor]
Peer = Callable[["Case", Weights, Batch], tuple[Tensor, dict[str, Callable[[], Tensor]]]]

LLAMA = example(llama.FAMILY, tied_embeddings=False)
BERT = example(bert.FAMILY)
LORA = LoraConfig(rank=3, alpha=5.0, matrices=["query", "value", "gate", "up", "down"])
OURS = {
    "q_proj": "query", "v_proj": "value", "gate_proj": "gate", "up_proj": "up",
    "down_proj": "down",
}  # fmt: skip
ANGLES = LanguageModel(LLAMA).rotary


@dataclass(frozen=True)
class Case:
    """A method, and what computes the mean loss of a batch from the same weights elsewhere.

    The peer gives the loss, and for names of ours where their gradients are after ``backward``.
    """

    tuning: Tuning
    peer: Peer
    change: Callable[[Examples], Examples] = lambda made: made

    @property
    def family(self) -> Family:
        return llama.FAMILY if self.tuning.model is LLAMA else bert.FAMILY

    def examples(self, count: int) -> Examples:
        return self.change(examples(self.tuning, count))


def theirs(case: Case, kind: Any, weights: Weights, own: dict[str, str], **changes: Any) -> Any:
    """A model of transformers with our weights; ``own`` says which of ours its others are."""
    config = case.tuning.model
    # Where padding is known by its id, its row of the embedding gets no gradient there.
    pad = 0 if case.family is llama.FAMILY else None
    values = {**case.family.write(config), "pad_token_id": pad, "bos_token_id": 1}
    settings = CONFIG_MAPPING[case.family.model_type].from_dict(values | changes)
    model = kind._from_config(settings) if kind is not BertModel else kind(settings, False)
    if kind is LlamaForSequenceClassification:
        model.score = nn.Linear(config.hidden, settings.num_labels)  # theirs has no bias
    body = {name.removeprefix(BACKBONE): w for name, w in weights.items()}
    whole = nn.ModuleDict({"bert": model}) if kind is BertModel else model
    left = give_weights(whole, case.family, config, body)
    assert left == set(own.values())
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, their in own.items():
            parameters[their].copy_(weights[name])
    return model.double().eval()


def gradients(case: Case, model: nn.Module, own: dict[str, str]) -> Callable[[], Weights]:
    """What its parameters have after ``backward``, by our names."""
    prefix = BACKBONE if case.tuning.head else ""

    def read() -> Weights:
        whole = nn.ModuleDict({"bert": model}) if isinstance(model, BertModel) else model
        found = their_gradients(whole, case.family, case.tuning.model)
        parameters = dict(model.named_parameters())
        return {f"{prefix}{name}": g for name, g in found.items()} | {
            name: parameters[their].grad for name, their in own.items()
        }

    return read


def real(batch: Batch) -> Tensor:
    """bool ``[b, length]``, where there is text."""
    if batch.documents is None:
        return torch.ones_like(batch.tokens, dtype=torch.bool)
    return batch.documents >= 0


def shifted(batch: Batch, prompt: int = 0) -> Tensor:
    """Labels as transformers has them: of the token itself."""
    assert (batch.targets[:, -1] == IGNORED).all()
    return F.pad(batch.targets[:, :-1], (1, 0), value=IGNORED)[:, prompt:]


# Peers


def causal(case: Case, weights: Weights, batch: Batch) -> Any:
    model = theirs(case, LlamaForCausalLM, weights, {})
    loss = model(batch.tokens, attention_mask=real(batch), labels=shifted(batch)).loss
    return loss, gradients(case, model, {})


def lora(case: Case, weights: Weights, batch: Batch) -> Any:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = theirs(case, LlamaForCausalLM, weights, {})
    settings = peft.LoraConfig(
        r=LORA.rank, lora_alpha=LORA.alpha, target_modules=list(OURS),
        lora_dropout=0.0,
    )  # fmt: skip
    model = peft.get_peft_model(base, settings).double().eval()
    known = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            before, _, factor = name.removesuffix(".default.weight").rpartition(".lora_")
            layer, _, matrix = before.partition("layers.")[2].split(".")
            ours = next(
                key
                for key in weights
                if key.startswith(f"layers.{layer}.")
                and key.endswith(f".{OURS[matrix]}.lora.{factor.lower()}")
            )
            known[ours] = parameter
            parameter.data.copy_(weights[ours])
    loss = model(batch.tokens, attention_mask=real(batch), labels=shifted(batch)).loss
    return loss, lambda: {name: parameter.grad for name, parameter in known.items()}


def prompt_tuning(case: Case, weights: Weights, batch: Batch) -> Any:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = theirs(case, LlamaForCausalLM, weights, {})
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=PROMPT)
    model = peft.get_peft_model(base, settings).double().eval()
    (vectors,) = (p for p in model.parameters() if p.requires_grad)
    vectors.data.copy_(weights["soft_prompt.weight"])
    loss = model(
        batch.tokens[:, PROMPT:], attention_mask=real(batch)[:, PROMPT:].long(),
        labels=shifted(batch, PROMPT),
    ).loss  # fmt: skip
    return loss, lambda: {"soft_prompt.weight": vectors.grad}


def encoded_prompt(case: Case, weights: Weights, batch: Batch) -> Any:
    """By hand: peft's network has three layers."""
    own = {n: w.requires_grad_() for n, w in weights.items() if n.startswith("soft_prompt.")}
    model = theirs(case, LlamaForCausalLM, without(weights, own), {})
    up, up_bias, down, down_bias = (
        own[f"soft_prompt.encoder.{n}"]
        for n in ("up_weight", "up_bias", "down_weight", "down_bias")
    )
    vectors = F.relu(own["soft_prompt.weight"] @ up.T + up_bias) @ down.T + down_bias
    rest = model.get_input_embeddings()(batch.tokens[:, PROMPT:])
    inputs = torch.cat([vectors.expand(len(rest), -1, -1), rest], dim=1)
    loss = model(inputs_embeds=inputs, attention_mask=real(batch), labels=shifted(batch)).loss
    return loss, lambda: {name: w.grad for name, w in own.items() if w.grad is not None}


def last_token(case: Case, weights: Weights, batch: Batch) -> Any:
    head = case.tuning.head
    own = {"head.weight": "score.weight", "head.bias": "score.bias"}
    model = theirs(
        case, LlamaForSequenceClassification, weights, own, num_labels=head.outputs,
        problem_type="regression" if head.kind == "value" else "single_label_classification",
    )  # fmt: skip
    labels = batch.targets[0] if head.kind == "value" else batch.targets[0].long()
    loss = model(batch.tokens, attention_mask=real(batch), labels=labels).loss
    return loss, gradients(case, model, own)


def tags(case: Case, weights: Weights, batch: Batch) -> Any:
    own = {"head.weight": "classifier.weight", "head.bias": "classifier.bias"}
    model = theirs(
        case, BertForTokenClassification, weights, own, num_labels=case.tuning.head.outputs
    )
    loss = model(
        batch.tokens, attention_mask=real(batch), token_type_ids=batch.types, labels=batch.targets
    ).loss
    return loss, gradients(case, model, own)


def span(case: Case, weights: Weights, batch: Batch) -> Any:
    """Theirs is the mean of first and last position; ours is the sum, and over the text alone."""
    own = {"head.weight": "qa_outputs.weight", "head.bias": "qa_outputs.bias"}
    model = theirs(case, BertForQuestionAnswering, weights, own)
    first, last = batch.targets
    found = model(
        batch.tokens, attention_mask=real(batch), token_type_ids=batch.types,
        start_positions=first, end_positions=last,
    )  # fmt: skip
    if real(batch).all():
        return 2 * found.loss, gradients(case, model, own)
    logits = [
        x.masked_fill(~real(batch), -torch.inf) for x in (found.start_logits, found.end_logits)
    ]
    loss = F.cross_entropy(logits[0], first) + F.cross_entropy(logits[1], last)
    return loss, gradients(case, model, own)


def pooled(case: Case, weights: Weights, batch: Batch) -> Any:
    """The head by hand on the hidden states; it sees none of a soft prompt."""
    names = ("head.weight", "head.bias", "backbone.soft_prompt.weight")
    own = {name: weights[name].requires_grad_() for name in names if name in weights}
    model = theirs(case, BertModel, without(weights, own), {})
    inputs, text = model.get_input_embeddings()(batch.tokens), real(batch)
    vectors = own.get(names[2], inputs[0, :0])
    before = len(vectors)
    inputs = torch.cat([vectors.expand(len(inputs), -1, -1), inputs[:, before:]], dim=1)
    hidden = model(
        inputs_embeds=inputs, attention_mask=text, token_type_ids=batch.types
    ).last_hidden_state[:, before:]  # fmt: skip
    rows = torch.arange(len(hidden))
    match case.tuning.head.pooling:
        case "first":
            x = hidden[:, 0]
        case "mean":
            parts = zip(hidden, text[:, before:], strict=True)
            x = torch.stack([h[counts].mean(dim=0) for h, counts in parts])
        case _:
            x = torch.cat([hidden[rows, at] for at in batch.targets[1:]], dim=1)
    loss = F.cross_entropy(x @ own["head.weight"].T + own["head.bias"], batch.targets[0])
    read = gradients(case, model, {})

    def found() -> Weights:
        trained = {} if before else read()
        return trained | {name: w.grad for name, w in own.items() if w.grad is not None}

    return loss, found


def preferences(case: Case, weights: Weights, batch: Batch) -> Any:
    """Rafailov et al. (2023), equation 7, on the logits of transformers."""
    model = theirs(case, LlamaForCausalLM, weights, {})
    scores = model(batch.tokens, attention_mask=real(batch)).logits.log_softmax(dim=-1)
    reference, following = batch.targets[0], batch.targets[1:].T.long()
    likely = scores.gather(2, following.clamp(min=0)[..., None])[..., 0]
    policy = likely.where(following >= 0, 0.0).sum(dim=1)
    ratio = policy - reference
    chosen, rejected = ratio[::2], ratio[1::2]
    return -torch.log(torch.sigmoid(0.5 * (chosen - rejected))).mean(), gradients(case, model, {})


def without(weights: Weights, own: Weights) -> Weights:
    return {name: w for name, w in weights.items() if name not in own}


# What is changed in the examples


def answers(made: Examples) -> Examples:
    """Only the ends of texts count, as in instruction tuning; what has no next token does not."""
    targets = made.targets.clone()
    targets[:, -1] = IGNORED
    targets[:, : PROMPT + 3] = IGNORED
    return replace(made, targets=targets)


def whole_texts(made: Examples) -> Examples:
    return replace(made, documents=torch.zeros_like(made.documents))


PROMPTED = SoftPromptConfig(tokens=PROMPT)
ENCODED = SoftPromptConfig(tokens=PROMPT, encoder=8)
CASES = {
    "sft": Case(Tuning(LLAMA), causal, answers),
    "lora": Case(Tuning(LLAMA, adapter=LORA), lora, answers),
    "prompt": Case(Tuning(LLAMA, adapter=PROMPTED), prompt_tuning, answers),
    "encoded_prompt": Case(Tuning(LLAMA, adapter=ENCODED), encoded_prompt, answers),
    "last": Case(Tuning(LLAMA, HeadSpec("classes", 3, "last")), last_token),
    "value": Case(Tuning(LLAMA, HeadSpec("value", 1, "last")), last_token),
    "tags": Case(Tuning(BERT, HeadSpec("tags", 5)), tags),
    "span": Case(Tuning(BERT, HeadSpec("span", 2)), span),
    "span_of_whole": Case(Tuning(BERT, HeadSpec("span", 2)), span, whole_texts),
    "mean": Case(Tuning(BERT, HeadSpec("classes", 3)), pooled),
    "first": Case(Tuning(BERT, HeadSpec("classes", 3, "first")), pooled),
    "marks": Case(Tuning(BERT, HeadSpec("classes", 4, "marks", marks=2)), pooled),
    "mean_prompt": Case(Tuning(BERT, HeadSpec("classes", 3), PROMPTED), pooled),
    "first_prompt": Case(Tuning(BERT, HeadSpec("classes", 3, "first"), PROMPTED), pooled),
    "marks_prompt": Case(Tuning(BERT, HeadSpec("classes", 4, "marks", marks=2), PROMPTED), pooled),
    "preferences": Case(Tuning(LLAMA, preferences=True), preferences),
}


# Ours


def start(model: ModelConfig) -> ModelFolder:
    """Weights of which no two could be swapped unnoticed."""
    weights = {n: w * (0.5 if w.ndim > 1 else 1) for n, w in stored_weights(
        random_decoder(model)).items()}  # fmt: skip
    return ModelFolder(Path("nowhere"), model, weights, None, None)  # type: ignore[arg-type]


def built(case: Case, share: Share, folder: ModelFolder) -> LanguageModel | TaskModel:
    """What is trained beside the start's weights is drawn too: no factor of a change is zero."""
    tuning = case.tuning
    model = begin(make(tuning)(share), folder, tuning.adapter, seed=1)
    prefix = BACKBONE if tuning.head else ""
    for shard in parameter_shards(model):
        place = shard.place
        if place.tensor not in {prefix + name for name in folder.weights}:
            generator = torch.Generator().manual_seed(
                len(place.tensor) + sum(map(ord, place.tensor))
            )
            whole = torch.randn(place.shape, generator=generator, dtype=torch.float32) * 0.3
            shard.parameter.data.copy_(place.cut(whole))
    body = model.backbone if isinstance(model, TaskModel) else model
    if isinstance(body.rotary, Tensor):
        body.rotary = ANGLES.to(torch.get_default_dtype())
    return model


def ours(case: Case, tensor: int) -> Ours:
    """What the engine finds on a grid of ``tensor`` shards."""
    config = settings(
        case.tuning, grid=Grid(tensor=tensor), batch=BatchSizes(sequences=8, microbatch=4)
    )
    folder, read = start(case.tuning.model), case.examples(23)
    objective = ExampleObjective(read, case.examples(5), seed=1)
    with open_mesh(Layout(), "cpu", 1) as mesh:
        model = case.tuning.model
        engine = Engine(lambda share: built(case, share, folder), config, mesh, model=model)
        loss = engine.gradient(objective.read, 1).read().mean
        mean = engine.heldout(objective.heldout(4, 1)).mean
    whole, prefix = built(case, Share(), folder), BACKBONE if case.tuning.head else ""
    weights = {
        shard.place.tensor: shard.parameter.detach().clone() for shard in parameter_shards(whole)
    } | {prefix + name: weight for name, weight in folder.weights.items()}
    rows = [objective.order.item(k)[1] for k in range(8 // read.together)]
    step, heldout = taken(read, rows), taken(objective.test, range(5))
    return Ours(loss, mean, whole_gradient(engine), weights, step, heldout)


@dataclass(frozen=True)
class Ours:
    """Mean losses of a step and of the examples held out, and what they are of."""

    loss: float
    heldout_loss: float
    gradient: Weights
    weights: Weights
    step: Batch
    heldout: Batch


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_the_peers(name: str, tensor: int, precision: str) -> None:
    """Held-out examples count once each, and what fills up the last microbatch does not."""
    case, double = CASES[name], precision == "fp64"
    with double_by_default() if double else nullcontext():
        found = ours(case, tensor)
    with double_by_default():
        weights = {n: w.detach().double() for n, w in found.weights.items()}
        heldout, _ = case.peer(case, dict(weights), found.heldout)
        loss, gradients = case.peer(case, dict(weights), found.step)
        loss.backward()
        expected = gradients()
    assert loss.dtype == torch.float64
    assert found.loss == pytest.approx(loss.item(), rel=1e-12 if double else 1e-5)
    assert found.heldout_loss == pytest.approx(heldout.item(), rel=1e-12 if double else 1e-5)
    assert found.gradient.keys() == expected.keys()
    for key, gradient in expected.items():
        size = float(gradient.abs().max())
        difference = float((found.gradient[key] - gradient).abs().max())
        # What is added to all that a softmax is over changes nothing: its gradient is zero.
        assert size > 1e-6 or key.endswith("bias"), key
        assert difference <= (1e-11 if double else 1e-4) * max(size, 1e-2), key
