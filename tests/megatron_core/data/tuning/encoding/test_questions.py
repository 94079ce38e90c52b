"""Windows of contexts, and the best span over them against a search through all spans."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tuning.encoding.questions import encode_questions, find_answers
from megatron_core.data.tuning.questions import Answer, SpanQuestion
from megatron_core.data.tuning.words import split_words
from megatron_core.errors import ConfigError
from tests.tokenizers import KINDS, corpus


def asked() -> list[SpanQuestion]:
    found = []
    for n, document in enumerate(corpus(6)):
        context = document.text.replace(" ", " é ", 2)
        words = context.split()
        start = context.index(f" {words[4 * n + 2]} ") + 1
        answer = Answer(context[start : start + len(words[4 * n + 2])], start)
        found.append(SpanQuestion(str(n), "abc de?", context, (answer,)))
    return [
        *found,
        SpanQuestion("none", "hg?", corpus(1)[0].text, ()),
        SpanQuestion("empty", "a", "", ()),
    ]


@pytest.mark.parametrize("length", [40, 600])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_found_where_they_were_put(
    folders: dict[str, Path], kind: str, length: int
) -> None:
    """Scores that are 1 at the targets give the answers, from whatever window holds them."""
    tokenizer, framed, questions = Tokenizer.load(folders[kind]), kind == "wordpiece", asked()
    found = encode_questions(
        questions, tokenizer, length=length, framed=framed, question_length=8, shared=16
    )
    scores = torch.zeros(2, *found.rows.tokens.shape)
    for row, edges in enumerate(found.targets.tolist()):
        for side in range(2):
            scores[side, row, edges[side]] = 1.0
    answers = find_answers(found, questions, *scores)
    for one, answer in zip(questions, answers, strict=True):
        nulls = found.null[found.questions == questions.index(one)]
        assert len(nulls) > (length == 40 and len(one.context) > 100)
        if one.answers:
            assert answer.best[0].text == one.answers[0].text
            assert answer.best[0].start == one.answers[0].start
            # In some window the answer is not there, so no answer is as good in the least.
            assert answer.text() == one.answers[0].text
        else:
            assert answer.text() == ""
            assert answer.null == 2.0


@pytest.mark.parametrize("framed", [True, False])
def test_windows_hold_the_whole_context(folders: dict[str, Path], framed: bool) -> None:
    tokenizer, questions = Tokenizer.load(folders["wordpiece"]), asked()
    found = encode_questions(
        questions, tokenizer, length=40, framed=framed, question_length=8, shared=16
    )
    for number, one in enumerate(questions):
        rows = torch.nonzero(found.questions == number).flatten().tolist()
        whole = tokenizer.encode(one.context)
        at = 0
        for row in rows:
            inside = found.starts[row] >= 0
            ids = found.rows.tokens[row][inside].tolist()
            assert ids == whole[at : at + len(ids)]
            if row != rows[-1]:
                assert int((found.rows.documents[row] >= 0).sum()) == 40
                at += len(ids) - 16
        assert at + len(ids) == len(whole)
        last = int((found.rows.documents[rows[-1]] >= 0).sum()) - 1
        assert int(found.null[rows[-1]]) == (0 if framed else last)


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe"])
def test_a_target_is_in_every_window_that_holds_the_answer(
    folders: dict[str, Path], kind: str
) -> None:
    tokenizer, context = Tokenizer.load(folders[kind]), corpus(1)[0].text
    words = split_words(context)
    questions = [
        SpanQuestion(str(n), "ab", context, (Answer(context[a.start : b.stop], a.start),))
        for n, (a, b) in enumerate(pairwise(words))
    ]
    found = encode_questions(
        questions, tokenizer, length=40, framed=kind == "wordpiece", question_length=8, shared=16
    )
    held = 0
    for row, (first, last) in enumerate(found.targets.tolist()):
        (answer,) = questions[int(found.questions[row])].answers
        starts, stops = found.starts[row], found.stops[row]
        begins, ends = int(starts[starts >= 0].min()), int(stops.max())
        if begins <= answer.start and answer.start + len(answer.text) <= ends:
            held += 1
            assert context[int(starts[first]) : int(stops[last])].strip() == answer.text
        else:
            assert first == last == int(found.null[row])
    assert len(questions) < held < len(found.rows)


def test_the_best_span_of_all(folders: dict[str, Path]) -> None:
    tokenizer, questions = Tokenizer.load(folders["wordpiece"]), asked()[:3]
    found = encode_questions(
        questions, tokenizer, length=40, framed=True, question_length=8, shared=16
    )
    scores = torch.randn(2, *found.rows.tokens.shape, generator=torch.Generator().manual_seed(5))
    answers = find_answers(found, questions, *scores, best=99, longest=4)
    for number, answer in enumerate(answers):
        naive: dict[tuple[int, int], float] = {}
        nulls = []
        for row in range(len(found.rows)):
            if int(found.questions[row]) != number:
                continue
            nulls.append(float(scores[0, row, 0].double() + scores[1, row, 0].double()))
            for first in range(40):
                for last in range(first, min(first + 4, 40)):
                    if found.starts[row, first] < 0 or found.starts[row, last] < 0:
                        continue
                    place = int(found.starts[row, first]), int(found.stops[row, last])
                    score = float(scores[0, row, first].double() + scores[1, row, last].double())
                    naive[place] = max(score, naive.get(place, score))
        (start, stop), score = max(naive.items(), key=lambda one: one[1])
        assert answer.best[0].text == questions[number].context[start:stop]
        assert answer.best[0].score == score
        assert len(answer.best) == 99
        assert answer.null == min(nulls)
        assert answer.text(threshold=-100.0) == ""


def test_no_room_for_the_context(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(folders["wordpiece"])
    with pytest.raises(ConfigError, match="a length of 40 leaves 29 tokens of context beside"):
        encode_questions(asked(), tokenizer, length=40, framed=True, question_length=8, shared=29)
    found = encode_questions(
        asked(), tokenizer, length=40, framed=True, question_length=1, shared=4
    )
    assert found.counts["cut_questions"] == 7
