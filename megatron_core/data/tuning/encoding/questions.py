"""Questions with the windows of their contexts, and answers from scores of their tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_core.data.tokenizer import Pieces, Tokenizer
from megatron_core.data.tuning.encoding.rows import Framing, Rows, pad
from megatron_core.data.tuning.questions import SpanQuestion
from megatron_core.errors import ConfigError

_NOWHERE = -1


@dataclass(frozen=True)
class EncodedQuestions:
    """Windows of contexts, each after its question.

    Attributes:
        rows: Their tokens; the second text is the context's.
        targets: int64 ``[n, 2]``: where in the row the first answer starts and where its last
            token is; ``null`` twice if the window does not hold all of it.
        null: int64 ``[n]``: the place that stands for no answer: [CLS], or a decoder's last token.
        starts: int64 ``[n, length]``: the character of the context where a token starts, -1 for
            what is no token of the context.
        stops: int64 ``[n, length]``: the character after it, likewise.
        questions: int64 ``[n]``: the question of each row, from 0.
        counts: Questions in several windows (``windowed``), questions that lost tokens
            (``cut_questions``).
    """

    rows: Rows
    targets: Tensor
    null: Tensor
    starts: Tensor
    stops: Tensor
    questions: Tensor
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class FoundAnswer:
    """A span of a context: ``score`` is the sum of the scores of its two ends, as logits."""

    text: str
    start: int
    score: float


@dataclass(frozen=True, slots=True)
class FoundAnswers:
    """What a model answers to one question.

    Attributes:
        best: The best spans, best first; of the same characters once.
        null: The score of no answer, the least over the windows.
    """

    best: tuple[FoundAnswer, ...]
    null: float

    def text(self, threshold: float = 0.0) -> str:
        """The answer; empty if no answer is better than the best one by more than ``threshold``."""
        if not self.best or self.null - self.best[0].score > threshold:
            return ""
        return self.best[0].text


def encode_questions(
    questions: Sequence[SpanQuestion],
    tokenizer: Tokenizer,
    *,
    length: int,
    framed: bool,
    question_length: int = 64,
    shared: int = 128,
) -> EncodedQuestions:
    """Windows of ``length`` tokens: the question, then a part of its context.

    Args:
        questions: What is asked.
        tokenizer: Of the model.
        length: Tokens of a row.
        framed: For an encoder.
        question_length: Most tokens of a question; the rest is cut.
        shared: Tokens of the context that two neighbouring windows have in common.

    Raises:
        ConfigError: a question may leave no more than ``shared`` tokens for the context.
    """
    framing = Framing(tokenizer, length, framed=framed, texts=2)
    if framing.room - question_length <= shared:
        raise ConfigError(
            f"a length of {length} leaves {framing.room - question_length} tokens of context "
            f"beside a question of {question_length}: that must be more than {shared}, the shared "
            "ones"
        )
    asked = tokenizer.encode_batch([one.question for one in questions])
    texts = list(dict.fromkeys(one.context for one in questions))
    contexts = dict(zip(texts, tokenizer.encode_with_places(texts), strict=True))
    counts: Counter[str] = Counter()
    sequences, targets, nulls, places, owners = [], [], [], [], []
    for number, (one, words) in enumerate(zip(questions, asked, strict=True)):
        context = contexts[one.context]
        counts["cut_questions"] += len(words) > question_length
        words = words[:question_length]
        room = framing.room - len(words)
        windows = _windows(len(context.ids), room, shared)
        counts["windowed"] += len(windows) > 1
        offset, covering = framing.start(len(words)), _covering(one, context)
        for first, stop in windows:
            null = 0 if framed else offset + stop - first
            inside = covering is not None and first <= covering[0] and covering[1] < stop
            sequences.append([words, context.ids[first:stop]])
            targets.append(
                [offset + at - first for at in covering] if covering and inside else [null, null]
            )
            nulls.append(null)
            places.append([(_NOWHERE, _NOWHERE)] * offset + context.places[first:stop])
            owners.append(number)
    starts, stops = ([[place[end] for place in row] for row in places] for end in (0, 1))
    return EncodedQuestions(
        framing.rows(sequences),
        torch.tensor(targets, dtype=torch.int64).reshape(-1, 2),
        torch.tensor(nulls, dtype=torch.int64),
        pad(starts, length, _NOWHERE),
        pad(stops, length, _NOWHERE),
        torch.tensor(owners, dtype=torch.int64),
        dict(sorted((+counts).items())),
    )


def find_answers(
    encoded: EncodedQuestions,
    questions: Sequence[SpanQuestion],
    start_scores: Tensor,
    end_scores: Tensor,
    *,
    best: int = 20,
    longest: int = 30,
) -> list[FoundAnswers]:
    """The best spans of each question over all windows of its context.

    The two ends are among the ``best`` places of their own in a window (Devlin et al., 2019). Of
    equal scores the earlier span comes first.

    Args:
        encoded: What was predicted.
        questions: The same.
        start_scores: Logits of the first token, ``[n, length]``.
        end_scores: Of the last.
        best: Spans to give, at most.
        longest: Tokens of a span, at most.
    """
    spans: list[dict[tuple[int, int], float]] = [{} for _ in questions]
    nulls = [float("inf")] * len(questions)
    for row in range(len(encoded.rows)):
        owner, null = int(encoded.questions[row]), int(encoded.null[row])
        first_scores, last_scores = start_scores[row].double(), end_scores[row].double()
        nulls[owner] = min(nulls[owner], float(first_scores[null] + last_scores[null]))
        inside = torch.nonzero(encoded.starts[row] != _NOWHERE).flatten()
        firsts, lasts = (_top(scores, inside, best) for scores in (first_scores, last_scores))
        starts, stops = encoded.starts[row].tolist(), encoded.stops[row].tolist()
        opening, closing = first_scores.tolist(), last_scores.tolist()
        for first in firsts:
            for last in lasts:
                if not first <= last < first + longest:
                    continue
                place, score = (starts[first], stops[last]), opening[first] + closing[last]
                spans[owner][place] = max(score, spans[owner].get(place, score))
    return [
        FoundAnswers(_ranked(one.context, found, best), null)
        for one, found, null in zip(questions, spans, nulls, strict=True)
    ]


def _ranked(
    context: str, found: Mapping[tuple[int, int], float], best: int
) -> tuple[FoundAnswer, ...]:
    answers = []
    for (start, stop), score in sorted(found.items(), key=lambda one: (-one[1], one[0])):
        text = context[start:stop]
        if text.strip():  # A piece may have the white space before its word.
            begins = start + len(text) - len(text.lstrip())
            answers.append(FoundAnswer(text.strip(), begins, score))
        if len(answers) == best:
            break
    return tuple(answers)


def _top(scores: Tensor, among: Tensor, count: int) -> list[int]:
    order = torch.sort(scores[among], descending=True, stable=True).indices
    return [int(at) for at in among[order[:count]]]


def _windows(count: int, room: int, shared: int) -> list[tuple[int, int]]:
    """Parts of ``count`` tokens, at least one, each but the first beginning ``shared`` early."""
    found = [(0, min(room, count))]
    while found[-1][1] < count:
        first = found[-1][1] - shared
        found.append((first, min(first + room, count)))
    return found


def _covering(one: SpanQuestion, context: Pieces) -> tuple[int, int] | None:
    """The first and last token of the context that the first answer is in."""
    if not one.answers:
        return None
    answer = one.answers[0]
    end = answer.start + len(answer.text)
    found = [
        n for n, (begins, ends) in enumerate(context.places) if begins < end and ends > answer.start
    ]
    return (found[0], found[-1]) if found else None
