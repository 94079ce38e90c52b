"""How likely a decoder finds given tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_core.errors import ReforgeError
from megatron_core.inference.decoder import Decoder


@dataclass(frozen=True)
class Answer:
    """Natural logarithm of the probability of some tokens, and whether each is the likeliest."""

    log_likelihood: float
    greedy: bool


@dataclass(frozen=True)
class Question:
    """A sequence, and ends that may follow all but their own last token of it.

    The last token of each of ``ends`` comes after ``tokens``, the others are the last of them.
    """

    tokens: tuple[int, ...]
    ends: tuple[tuple[int, ...], ...]


def score(
    decoder: Decoder,
    questions: Sequence[Question],
    *,
    together: int | None = None,
    on_done: Callable[[int], None] = lambda number: None,
) -> list[list[Answer]]:
    """The answers to each of ``questions``, one for each of its ends.

    Args:
        decoder: What is asked.
        questions: Each is computed alone, so that nothing else has a part in its answer.
        together: Compute them instead in rows of this many tokens, filled up: quicker for short
            ones, and as independent of each other, but of other shapes.
        on_done: Told how many more have been answered.

    Raises:
        ReforgeError: a question has more tokens than ``together``, or the model is a mixture,
            whose experts would have as many rows as the questions beside it made.
    """
    answers: dict[int, list[Answer]] = {}
    for numbers in _rows(questions, together, decoder):
        sequences = [questions[number].tokens for number in numbers]
        if together is None:
            logits = [decoder.score(tokens) for tokens in sequences]
        else:
            logits = decoder.score_together(sequences, together)
        for number, part in zip(numbers, logits, strict=True):
            answers[number] = list(_answers(part, questions[number].ends))
        on_done(len(numbers))
    return [answers[number] for number in range(len(questions))]


def _answers(logits: Tensor, ends: Sequence[Sequence[int]]) -> Iterator[Answer]:
    """As lm-eval's model of transformers does it, operation by operation."""
    log_probabilities = F.log_softmax(logits, dim=-1)
    for end in ends:
        last = log_probabilities[-len(end) :]
        tokens = torch.tensor(end, device=logits.device)
        found = last.gather(1, tokens[:, None])[:, 0]
        yield Answer(float(found.sum()), bool((last.argmax(dim=-1) == tokens).all()))


def _rows(
    questions: Sequence[Question], together: int | None, decoder: Decoder
) -> Iterator[list[int]]:
    """Numbers of the questions that share a row: the longest first, so that rows fill well."""
    if together is None:
        yield from ([number] for number in range(len(questions)))
        return
    sizes = [len(decoder.prompt) + len(one.tokens) for one in questions]
    longest = max(sizes, default=0)
    if longest > together or decoder.config.experts is not None:
        raise ReforgeError(
            f"rows of {together} tokens cannot hold a sequence of {longest}: raise batch_tokens"
            if longest > together
            else "sequences of a mixture are scored alone: its experts have as many rows as chose "
            "them; set batch_tokens to null"
        )
    waiting = sorted(range(len(questions)), key=lambda n: -sizes[n])
    while waiting:
        row, left, rest = list[int](), together, list[int]()
        for number in waiting:
            if sizes[number] <= left:
                row.append(number)
                left -= sizes[number]
            else:
                rest.append(number)
        yield row
        waiting = rest
