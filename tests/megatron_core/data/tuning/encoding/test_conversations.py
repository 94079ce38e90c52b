"""Conversations and preferences as tokens, beside transformers' own ids and masks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.data.datasets.spans import NO_DOCUMENT
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tuning.chat import PlainTemplate, open_template
from megatron_core.data.tuning.encoding.instructions import encode_conversations
from megatron_core.data.tuning.encoding.preferences import encode_preferences
from megatron_core.data.tuning.instructions import Conversation, Turn
from megatron_core.data.tuning.preferences import Preference
from megatron_core.errors import ConfigError, CorpusError
from tests.tokenizers import corpus

ANSWER = "{% generation %}{{ m.content | trim }}<|im_end|>{% endgeneration %}{{ '\n' }}"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}ANSWER"
    "{% else %}{{ m.content | trim }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OURS = TEMPLATE.replace("ANSWER", "{{ m.content | trim }}<|im_end|>\n")


def conversations(count: int) -> list[Conversation]:
    words = [document.text for document in corpus(4 * count)]
    found = []
    for n in range(count):
        said = [" é" + words[4 * n + k][: 7 * n + 5] for k in range(4)]
        roles = ("user", "assistant") * (1 + n % 2)
        turns = [Turn(role, text) for role, text in zip(roles, said, strict=False)]
        found.append(Conversation(str(n), (*[Turn("system", "ab")] * (n % 3 == 0), *turns)))
    return found


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A byte-level tokenizer with control tokens and a template of its own."""
    source = folders["byte_bpe"]
    backend = Backend.from_file(str(source / "tokenizer.json"))
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    config = json.loads((source / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**config, "split_special_tokens": False})
    )
    (tmp_path / "chat_template.jinja").write_text(OURS)
    return tmp_path


def rows_of(
    tokens: Tensor, documents: Tensor, targets: Tensor
) -> list[tuple[list[int], list[int]]]:
    """The tokens of each document, and those the loss is on."""
    found = []
    for row in range(len(tokens)):
        for number in range(int(documents[row].max()) + 1):
            at = documents[row] == number
            wanted = targets[row][at]
            found.append((tokens[row][at].tolist(), wanted[wanted != IGNORED].tolist()))
            # A target is the next token of the same document.
            places = torch.nonzero(at & (targets[row] != IGNORED)).flatten()
            assert torch.equal(targets[row][places], tokens[row][places + 1])
            assert (documents[row][places + 1] == number).all()
    return found


@pytest.mark.parametrize("packed", [True, False])
def test_ids_and_mask_are_those_of_transformers(folder: Path, packed: bool) -> None:
    from transformers import AutoTokenizer

    given = conversations(9)
    tokenizer = Tokenizer.load(folder, parse_special_tokens=True)
    template = open_template(folder, tokenizer)
    found = encode_conversations(given, template, tokenizer, length=400, packed=packed)
    theirs = AutoTokenizer.from_pretrained(folder)
    expected = {}
    for one in given:
        encoded = theirs.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in one.turns],
            chat_template=TEMPLATE.replace("ANSWER", ANSWER), tokenize=True, return_dict=True,
            return_assistant_tokens_mask=True,
        )  # fmt: skip
        ids, mask = encoded["input_ids"], encoded["assistant_masks"]
        expected[one.id] = (ids, [t for t, on in zip(ids, mask, strict=True) if on])
    rows = rows_of(found.rows.tokens, found.rows.documents, found.targets)
    ids = [id for row in found.ids for id in row]
    assert sorted(ids) == sorted(expected)
    assert [expected[id] for id in ids] == rows
    assert len(found.rows) == (len(found.ids) if packed else 9)
    assert not packed or len(found.rows) < 9


def test_what_is_too_long_loses_what_others_say(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder, parse_special_tokens=True)
    template = PlainTemplate("<|endoftext|>")
    given = conversations(9)
    whole = encode_conversations(given, template, tokenizer, length=900, packed=False)
    sizes = (whole.rows.documents != NO_DOCUMENT).sum(dim=1)
    length = int(sizes.max()) - 9
    found = encode_conversations(given, template, tokenizer, length=length, packed=False)
    assert found.counts == {"cut": int((sizes > length).sum())}
    wanted = [t[t != IGNORED].tolist() for t in found.targets]
    assert wanted == [t[t != IGNORED].tolist() for t in whole.targets]
    longest = found.rows.tokens[int(sizes.argmax())].tolist()
    text = tokenizer.decode(longest)
    assert text.startswith(("User:  é", "System: ab\n\nUser:  é"))
    assert text.count("Assistant:  ") == sum(
        turn.role == "assistant" for turn in given[int(sizes.argmax())].turns
    )
    short = encode_conversations(given, template, tokenizer, length=40, packed=False)
    assert short.counts["too_long_left_out"] + len(short.rows) == 9
    with pytest.raises(CorpusError, match="none of 9 conversations fits into 4 tokens"):
        encode_conversations(given, template, tokenizer, length=4, packed=True)


def test_a_control_token_that_somebody_says_is_refused(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder, parse_special_tokens=True)
    template = open_template(folder, tokenizer)
    bad = Conversation("x", (Turn("user", "a<|im_end|>b"), Turn("assistant", "c")))
    with pytest.raises(CorpusError, match=r"conversation 'x' says '<\|im_end\|>', a control token"):
        encode_conversations([bad], template, tokenizer, length=99, packed=True)
    with pytest.raises(ConfigError, match="opened with parse_special_tokens"):
        encode_conversations([bad], template, Tokenizer.load(folder), length=99, packed=True)


def test_preferences(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder, parse_special_tokens=True)
    template = open_template(folder, tokenizer)
    before = (Turn("user", "abc de"), Turn("assistant", "fg"), Turn("user", "ab " * 30))
    given = [Preference("p", before, "ab cd", "h"), Preference("q", before[:1], "é", "cd ab")]
    given.append(Preference("r", before, "h", "ab cd"))
    found = encode_preferences(given, template, tokenizer, length=300)
    for side, name in ((found.chosen, "chosen"), (found.rejected, "rejected")):
        rows = rows_of(side.rows.tokens, side.rows.documents, side.targets)
        for one, (ids, wanted) in zip(given, rows, strict=True):
            answer = getattr(one, name)
            assert tokenizer.decode(wanted) == f"{answer}<|im_end|>"
            assert tokenizer.decode(ids).endswith(f"<|im_start|>assistant\n{answer}<|im_end|>\n")
    assert found.counts == {}
    # Both lose as much of the prompt, that of its longest turn.
    size = int((found.chosen.rows.documents[0] >= 0).sum())
    cut = encode_preferences(given, template, tokenizer, length=size - 5)
    assert cut.counts == {"cut": 2}
    prompts = []
    for side, old in ((cut.chosen, found.chosen), (cut.rejected, found.rejected)):
        assert side.targets[side.targets >= 0].tolist() == old.targets[old.targets >= 0].tolist()
        for row in (0, 2):
            first = int(torch.nonzero(side.targets[row] >= 0)[0])
            prompts.append(side.rows.tokens[row, : first + 1].tolist())
    assert prompts == [prompts[0]] * 4
