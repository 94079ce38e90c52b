"""Conversations from files, and as text by templates, transformers' own rendering beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tuning.chat import JinjaTemplate, Part, PlainTemplate, open_template
from megatron_core.data.tuning.instructions import Turn, read_conversations, read_prompts
from megatron_core.errors import CorpusError

TURNS = (
    Turn("system", "Be user."),
    Turn("user", " hi assistant\n"),
    Turn("assistant", "Yes?"),
    Turn("user", "hi"),
    Turn("assistant", "hi"),
)
CHAT_ML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('no system turn') }}{% endif %}{% endfor %}"
)


def lines(path: Path, records: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_messages(tmp_path: Path) -> None:
    said = [{"role": turn.role, "content": turn.content} for turn in TURNS]
    (one,) = read_conversations(lines(tmp_path / "a.jsonl", [{"messages": said}])).items
    assert (one.id, one.turns) == ("a.jsonl:1", TURNS)


@pytest.mark.parametrize(
    ("roles", "problem"),
    [
        (["user"], "no turn of the assistant"),
        (["assistant", "user"], "the roles are assistant, user; allowed is one system or none"),
        (["user", "user", "assistant"], "the roles are user, user, assistant; allowed is one"),
        (["user", "tool"], "a message in 'messages' needs `role`"),
        ([], "the roles are none"),
    ],
)
def test_what_is_no_conversation(tmp_path: Path, roles: list[str], problem: str) -> None:
    path = lines(tmp_path / "a.jsonl", [{"messages": [{"role": r, "content": "x"} for r in roles]}])
    with pytest.raises(CorpusError, match=f"a.jsonl:1: {problem}"):
        read_conversations(path)


def test_prompts_and_answers_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('n,kind,said,note\n1,PLAN,"a: x\nb: y",z\n2,PLAN,c, \n')
    read = read_prompts(
        tmp_path / "a.csv", prompt="Write {kind}:\n{said}", response="note", system="kind", id="n"
    )
    assert read.counts == {"empty_left_out": 1}
    assert read.items[0].turns == (
        Turn("system", "PLAN"), Turn("user", "Write PLAN:\na: x\nb: y"), Turn("assistant", "z")
    )  # fmt: skip


def test_the_plain_template() -> None:
    parts = PlainTemplate("</s>").parts(TURNS)
    assert "".join(part.text for part in parts) == (
        "System: Be user.\n\nUser:  hi assistant\n\n\nAssistant: Yes?</s>\n\nUser: hi"
        "\n\nAssistant: hi</s>"
    )
    assert "".join(p.text for p in parts if p.trained) == " Yes?</s> hi</s>"
    prompt = "".join(part.text for part in PlainTemplate("</s>").prompt(TURNS[:2]))
    assert "".join(part.text for part in parts).startswith(prompt + " Yes?")


def test_a_template_of_jinja() -> None:
    template = JinjaTemplate(CHAT_ML, {}, "x")
    parts = template.parts(TURNS)
    assert [p.text for p in parts if p.trained] == ["Yes?", "<|im_end|>", "hi", "<|im_end|>"]
    assert [p.text for p in parts if p.content] == [
        "Be user.", "hi assistant", "Yes?", "hi", "hi"
    ]  # fmt: skip
    assert template.prompt(TURNS[:2])[-1] == Part("<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_without_a_mark_before_the_answer() -> None:
    template = JinjaTemplate(LLAMA_2, {"bos_token": "<s>", "eos_token": "</s>"}, "x")
    parts = template.parts(TURNS[1:])
    assert "".join(p.text for p in parts) == (
        "<s>[INST]  hi assistant\n [/INST] Yes?</s>[INST] hi [/INST] hi</s>"
    )
    assert "".join(p.text for p in parts if p.trained) == " Yes?</s> hi</s>"
    with pytest.raises(CorpusError, match=r"does not take turns of system, .*: no system turn"):
        template.parts(TURNS)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{% for %}", "is no chat template"),
        ("{{ messages[-1].content }}", "writes earlier turns in another way"),
        ("{% for m in messages %}{{ m.content | upper }}.{% endfor %}", "changes what is said"),
        ("{{ ''.__class__.__mro__ }}", "is unsafe"),
    ],
)
def test_templates_that_do_not_do(source: str, problem: str) -> None:
    with pytest.raises(CorpusError, match=f"place .*{problem}"):
        JinjaTemplate(source, {}, "place").parts([*TURNS, Turn("user", "more")])


def test_templates_are_found(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["byte_bpe"]
    plain = open_template(folder, Tokenizer.load(folder, parse_special_tokens=True))
    assert plain.parts(TURNS[1:3])[-1] == Part("<|endoftext|>", trained=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template": "{{ eos_token }}"})
    )
    tokenizer = Tokenizer.load(tmp_path)
    assert open_template(tmp_path, tokenizer).prompt(()) == [Part("<|endoftext|>")]
    (tmp_path / "chat_template.jinja").write_text("file")
    assert open_template(tmp_path, tokenizer).prompt(()) == [Part("file")]


@pytest.mark.parametrize("source", [CHAT_ML, LLAMA_2])
def test_transformers_writes_the_same(folders: dict[str, Path], source: str) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folders["sentencepiece_bpe"])
    special = {"bos_token": theirs.bos_token, "eos_token": theirs.eos_token}
    ours = JinjaTemplate(source, special, "x")
    turns = TURNS[1:]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    text = theirs.apply_chat_template(messages, chat_template=source, tokenize=False)
    assert "".join(part.text for part in ours.parts(turns)) == text
    asked = theirs.apply_chat_template(
        messages[:1], chat_template=source, tokenize=False, add_generation_prompt=True
    )
    assert "".join(part.text for part in ours.prompt(turns[:1])) == asked
