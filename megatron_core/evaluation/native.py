"""Our own model as one of lm-eval's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from megatron_core.config import SamplingConfig
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.inference import (
    Continuation,
    Decoder,
    Generator,
    StoredModel,
    open_tokenizer,
    special_tokens,
)
from megatron_core.inference.scoring import Answer, Question, score
from megatron_core.inference.service import Service
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import Mesh

Pair = tuple[Any, list[int], list[int]]


def open_service(
    mesh: Mesh,
    decoder: Decoder,
    tokenizer: Path,
    stored: StoredModel,
    *,
    slots: int,
    batch_tokens: int | None,
    on_done: Callable[[int], None] = lambda number: None,
) -> Service:
    """What the ranks of ``mesh`` do for a :class:`NativeModel`: score and generate.

    ``on_done`` is told how many more requests this rank has done.
    """
    encoder = open_tokenizer(tokenizer, stored)
    _, ends = special_tokens(tokenizer, encoder)
    generator = Generator(decoder, encoder, slots=slots, ends=ends)

    def ask(part: Sequence[Question]) -> list[list[Answer]]:
        return score(decoder, part, together=batch_tokens, on_done=on_done)

    def write(part: Sequence[list[int]], config: SamplingConfig) -> list[Continuation]:
        return generator.generate(part, config, lambda _, piece: on_done(int(piece is None)))

    return Service(mesh, {"score": ask, "generate": write})


@register_model("reforge")
class NativeModel(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """A decoder of ours, on one rank or on many.

    Every request is computed alone unless the service's rows say otherwise, so its answer depends
    neither on a batch nor on an order. Also ``lm_eval.simple_evaluate("reforge", model_args=
    "checkpoint=DIR,tokenizer=DIR")``, once this module is imported.
    """

    def __init__(
        self,
        service: Service,
        tokenizer: Tokenizer,
        *,
        first: int,
        context: int,
    ) -> None:
        """
        Args:
            service: Of the model, on its first rank.
            tokenizer: Of the model.
            first: Token that texts begin after.
            context: Tokens the model sees at most.
        """
        super().__init__()
        self._service, self._encoder = service, tokenizer
        self._first, self.max_length = first, context

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> NativeModel:
        """From ``checkpoint`` and ``tokenizer``, folders, and ``max_length``, on one rank."""
        stored = StoredModel.find(Path(arg_dict["checkpoint"]))
        mesh = Mesh(Layout(), 0, torch.device("cpu"))
        folder = Path(arg_dict["tokenizer"])
        service = open_service(mesh, stored.load(mesh), folder, stored, slots=8, batch_tokens=None)
        encoder = Tokenizer.load(folder)
        first, _ = special_tokens(folder, encoder)
        context = int(arg_dict.get("max_length", stored.config.positions))
        return cls(service, encoder, first=first, context=context)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> NativeModel:
        """As :meth:`create_from_arg_obj`, from ``checkpoint=DIR,tokenizer=DIR``."""
        return cls.create_from_arg_obj(utils.simple_parse_args_string(arg_string))

    @property
    def eot_token_id(self) -> int:
        return self._encoder.end_of_document

    @property
    def prefix_token_id(self) -> int:
        return self._first

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        return self._encoder.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Requests whose sequences are the same, but for the last token, are computed once."""
        ends: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        places = []
        for _key, context, continuation in requests:
            # What does not fit is cut on the left; the last token is only predicted.
            tokens = tuple((context + continuation)[-(self.max_length + 1) :][:-1])
            known = ends.setdefault(tokens, [])
            places.append((tokens, len(known)))
            known.append(tuple(continuation))
        questions = [Question(tokens, tuple(known)) for tokens, known in ends.items()]
        answers = dict(zip(ends, self._service.ask("score", questions), strict=True))
        found = [answers[tokens][number] for tokens, number in places]
        return [(one.log_likelihood, one.greedy) for one in found]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Of whole texts, in windows as lm-eval cuts them."""
        windows: list[Pair] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            rolling = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]), prefix_token=self._first,
                max_seq_len=self.max_length, context_len=1,
            )  # fmt: skip
            for context, continuation in map(utils.make_disjoint_window, rolling):
                windows.append((None, context, continuation))
                owners.append(number)
        totals = [0.0] * len(requests)
        answers = self._loglikelihood_tokens(windows)
        for number, (log_likelihood, _) in zip(owners, answers, strict=True):
            totals[number] += log_likelihood
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to a text to stop at; what does not fit is cut on the left."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        texts = [""] * len(requests)
        end = self._encoder.decode([self._encoder.end_of_document])
        for numbers in groups.values():
            settings = normalize_gen_kwargs(dict(requests[numbers[0]].args[1]))
            until = handle_stop_sequences(settings.pop("until", None), eos=end)
            config = _sampling(settings, until)
            room = self.max_length - config.tokens
            prompts = [
                self.tok_encode(requests[number].args[0])[-room:] or [self._first]
                for number in numbers
            ]
            made = self._service.ask("generate", prompts, config=config)
            for number, one in zip(numbers, made, strict=True):
                text = self._encoder.decode(one.tokens)
                texts[number] = postprocess_generated_text(text, until, None)
        return texts


def _sampling(settings: Mapping[str, Any], until: Sequence[str]) -> SamplingConfig:
    sampled = bool(settings.get("do_sample", False))
    return SamplingConfig(
        tokens=int(settings["max_gen_toks"]),
        temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
        top_k=settings.get("top_k") if sampled else None,
        top_p=settings.get("top_p") if sampled else None,
        stop=list(until),
    )
