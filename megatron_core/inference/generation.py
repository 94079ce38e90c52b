"""Continue prompts, several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from megatron_core.config import SamplingConfig
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import ReforgeError
from megatron_core.inference.decoder import Decoder
from megatron_core.inference.sampling import Draws, choose
from megatron_core.inference.sequences import Cache
from megatron_core.inference.text import GrowingText

Ending = Literal["end", "stop", "tokens", "positions"]
OnText = Callable[[int, str | None], None]


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt.

    Attributes:
        tokens: Without the one that ends a document.
        text: Of the tokens, up to a text to stop at.
        ending: The end of the document, a text to stop at, as many tokens as were asked for, or
            no position left in the model.
    """

    tokens: list[int]
    text: str
    ending: Ending


class Generator:
    """A decoder with its tokenizer, and room for some sequences at a time.

    A continuation depends on its prompt, on how it is drawn and on the number of slots, which is
    the shape of the matrix products; not on the prompts beside it, nor on their order.
    """

    def __init__(
        self, decoder: Decoder, tokenizer: Tokenizer, *, slots: int, ends: frozenset[int]
    ) -> None:
        """
        Args:
            decoder: What continues.
            tokenizer: Its vocabulary may be smaller than the decoder's, whose rest is never drawn.
            slots: Sequences at a time.
            ends: Tokens that end a document.
        """
        self.decoder, self.tokenizer, self.slots, self.ends = decoder, tokenizer, slots, ends
        self.positions = decoder.positions

    def check(self, prompts: Sequence[Sequence[int]]) -> None:
        """Refuse prompts that leave no position for one more token, or have no token.

        Raises:
            ReforgeError: naming the prompt.
        """
        for number, prompt in enumerate(prompts, start=1):
            if not 0 < len(prompt) < self.positions:
                raise ReforgeError(
                    f"prompt {number} has {len(prompt)} tokens; the model has {self.positions} "
                    "positions, and a continuation needs one: shorten the prompt"
                )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        config: SamplingConfig,
        on_text: OnText | None = None,
    ) -> list[Continuation]:
        """The continuation of each of ``prompts``.

        It ends before a token that ends a document or a text of ``config.stop``, after
        ``config.tokens``, or when the model has no position left.

        Args:
            prompts: Tokens.
            config: How to draw, and when to stop.
            on_text: Told the number of a prompt and a piece of its continuation when that is
                certain, and None after the last.

        Raises:
            ReforgeError: a prompt is too long, or empty; nothing was computed.
        """
        self.check(prompts)
        if not prompts:
            return []
        return _Run(self, prompts, config, on_text or _ignore).finish()


def _ignore(number: int, piece: str | None) -> None:
    """Nobody listens."""


class _Growing:
    """One continuation on its way."""

    def __init__(self, number: int, prompt: Sequence[int], run: _Run) -> None:
        self.number, self.run, self.tokens = number, run, list[int]()
        self.most = min(run.config.tokens, run.maker.positions - len(prompt))
        self.draws = Draws(run.config.seed, prompt)
        self.text = GrowingText(run.maker.tokenizer, run.config.stop)

    def extend(self, logits: Tensor) -> Ending | None:
        """Choose the next token from ``logits [vocabulary]``; why it was the last, if it was."""
        config, maker = self.run.config, self.run.maker
        known = logits[: maker.tokenizer.vocabulary_size]
        token = choose(known, config, self.draws[len(self.tokens)])
        if token in maker.ends:
            return "end"
        self.tokens.append(token)
        if piece := self.text.add(token):
            self.run.on_text(self.number, piece)
        if self.text.stopped:
            return "stop"
        if len(self.tokens) < self.most:
            return None
        return "tokens" if self.most == config.tokens else "positions"

    def finish(self, ending: Ending) -> Continuation:
        """The whole of it; a text to stop at may show only now that no character is open."""
        self.run.on_text(self.number, self.text.end())
        self.run.on_text(self.number, None)
        return Continuation(self.tokens, self.text.text, "stop" if self.text.stopped else ending)


class _Run:
    """Prompts that take slots as these become free."""

    def __init__(
        self,
        maker: Generator,
        prompts: Sequence[Sequence[int]],
        config: SamplingConfig,
        on_text: OnText,
    ) -> None:
        self.maker, self.config, self.on_text = maker, config, on_text
        longest = min(max(map(len, prompts)) + config.tokens, maker.positions)
        longest += len(maker.decoder.prompt)
        self.cache = Cache(maker.slots, longest, maker.decoder.config.window)
        self.slots: list[_Growing | None] = [None] * maker.slots
        self.waiting = deque(enumerate(prompts))
        self.done: dict[int, Continuation] = {}

    def finish(self) -> list[Continuation]:
        """Continue all of them."""
        while self.waiting or any(self.slots):
            for slot in range(len(self.slots)):
                while self.slots[slot] is None and self.waiting:
                    number, prompt = self.waiting.popleft()
                    self.slots[slot] = _Growing(number, prompt, self)
                    self._extend(slot, self.maker.decoder.begin(self.cache, slot, prompt).cpu())
            if any(self.slots):
                newest = [None if one is None else one.tokens[-1] for one in self.slots]
                logits = self.maker.decoder.advance(self.cache, newest).cpu()
                for slot in range(len(self.slots)):
                    self._extend(slot, logits[slot])
        return [self.done[number] for number in sorted(self.done)]

    def _extend(self, slot: int, logits: Tensor) -> None:
        growing = self.slots[slot]
        if growing is None or (ending := growing.extend(logits)) is None:
            return
        self.done[growing.number] = growing.finish(ending)
        self.slots[slot] = None
        self.cache.free(slot)
