"""The tokens of conversations, and which of them the loss is on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from kernels.cross_entropy import IGNORED
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tuning.chat import Part
from megatron_core.data.tuning.encoding.rows import longest_first
from megatron_core.errors import ConfigError, CorpusError


@dataclass(frozen=True, slots=True)
class PartTokens:
    """The tokens of a conversation; ``owners`` is the number of each one's part."""

    ids: tuple[int, ...]
    owners: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def trained(self) -> list[bool]:
        """Whether the loss is on each token."""
        return [self.parts[owner].trained for owner in self.owners]

    def targets(self) -> list[int]:
        """The next token where the loss is on it, else ``IGNORED``."""
        following = zip(self.ids[1:], self.trained[1:], strict=True)
        return [*(token if trained else IGNORED for token, trained in following), IGNORED]

    def without(self, excess: int) -> PartTokens | None:
        """``excess`` fewer tokens: those that others than the assistant say lose their ends.

        The longest content loses a token at a time. None where there are not so many.
        """
        if excess <= 0:
            return self
        loose = [n for n, part in enumerate(self.parts) if part.content and not part.trained]
        sizes = [self.owners.count(n) for n in loose]
        if sum(sizes) < excess:
            return None
        left = dict(zip(loose, longest_first(sizes, sum(sizes) - excess), strict=True))
        kept = []
        for at, owner in enumerate(self.owners):
            if owner not in left:
                kept.append(at)
            elif left[owner]:
                left[owner] -= 1
                kept.append(at)
        return PartTokens(
            tuple(self.ids[n] for n in kept), tuple(self.owners[n] for n in kept), self.parts
        )


def encode_parts(
    texts: Sequence[Sequence[Part]], names: Sequence[str], tokenizer: Tokenizer
) -> list[PartTokens]:
    """The tokens of each conversation, encoded as one text; a token is of the part it starts in.

    Args:
        texts: The parts of each conversation.
        names: Of the conversations, for messages.
        tokenizer: Opened with ``parse_special_tokens``, so that those of a template are tokens.

    Raises:
        ConfigError: the tokenizer was opened otherwise.
        CorpusError: somebody says a control token, which would be one.
    """
    if not tokenizer.parses_special_tokens:
        raise ConfigError(
            "conversations need a tokenizer opened with parse_special_tokens: the control tokens "
            "of a chat template are tokens"
        )
    control = {number: text for text, number in tokenizer.special_tokens.items()}
    encoded = tokenizer.encode_with_places(["".join(p.text for p in parts) for parts in texts])
    found = []
    for parts, name, (ids, places) in zip(texts, names, encoded, strict=True):
        edges = list(accumulate((len(part.text) for part in parts), initial=0))[:-1]
        owners = [bisect_right(edges, start) - 1 for start, _ in places]
        for token, owner in zip(ids, owners, strict=True):
            # Unknown characters become a control token too, which nobody has spelled out.
            if token in control and parts[owner].content and control[token] in parts[owner].text:
                raise CorpusError(
                    f"conversation {name!r} says {control[token]!r}, a control token of the "
                    "tokenizer: take it out of the data"
                )
        found.append(PartTokens(tuple(ids), tuple(owners), tuple(parts)))
    return found
