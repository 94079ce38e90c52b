"""Continuations: against transformers, alone and in company, on any layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_core.config import ConvertConfig, ModelConfig, SamplingConfig
from megatron_core.conversion import export_model
from megatron_core.conversion.families import FAMILIES
from megatron_core.conversion.family import Family, example
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import ConfigError, ReforgeError
from megatron_core.inference import Decoder, Generator, StoredModel, open_tokenizer
from megatron_core.inference.prompts import read_prompts, write_continuations
from megatron_core.inference.ranks import spread
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import Mesh, open_mesh
from tests.models import (
    random_decoder,
    small_config,
    small_tokenizer,
    stored_weights,
    write_checkpoint,
)
from tests.ranks import run_ranks

GREEDY = SamplingConfig(tokens=20, temperature=0)
DRAWN = SamplingConfig(tokens=20, temperature=1.3, top_k=200, top_p=0.98)
DECODERS = [family for family in FAMILIES if example(family).kind == "decoder"]
PROMPTS = [[5, 6], [7, 8, 9, 10], [11], [*range(20, 45)], [3, 4, 5]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(small_tokenizer(tmp_path_factory.mktemp("generation") / "tokenizer"))


def generator(
    tokenizer: Tokenizer, slots: int = 3, ends: frozenset[int] = frozenset(), **changes: object
) -> Generator:
    decoder = Decoder(random_decoder(small_config(**changes)))
    return Generator(decoder, tokenizer, slots=slots, ends=ends)


@pytest.mark.parametrize("config", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_with_and_without_what_is_kept(tokenizer: Tokenizer, config: SamplingConfig) -> None:
    """Against the whole forward pass for every token, through the same draws."""
    from megatron_core.inference.sampling import Draws, choose

    made = generator(tokenizer).generate(PROMPTS, config)
    decoder = random_decoder(small_config())
    for prompt, one in zip(PROMPTS, made, strict=True):
        tokens, draws = list(prompt), Draws(config.seed, prompt)
        for number in range(config.tokens):
            with torch.no_grad():
                logits = decoder(torch.tensor([tokens]))[0, -1]
            tokens.append(choose(logits, config, draws[number]))
        assert one.tokens == tokens[len(prompt) :]
        assert one.ending == "tokens"
        assert one.text == tokenizer.decode(one.tokens)


@pytest.mark.parametrize("experts", [False, True])
def test_a_continuation_depends_on_no_other(tokenizer: Tokenizer, experts: bool) -> None:
    changes: dict[str, object] = {}
    if experts:
        changes = {"experts": {"count": 4, "chosen": 2, "ffn": 24}}
    maker = generator(tokenizer, **changes)
    together = maker.generate(PROMPTS, DRAWN)
    assert maker.generate(PROMPTS[::-1], DRAWN)[::-1] == together
    assert [maker.generate([prompt], DRAWN)[0] for prompt in PROMPTS] == together
    assert len({tuple(one.tokens) for one in together}) == len(PROMPTS)
    short = maker.generate(PROMPTS, DRAWN.model_copy(update={"tokens": 5}))
    assert [one.tokens for one in short] == [one.tokens[:5] for one in together]
    assert maker.generate(PROMPTS, DRAWN.model_copy(update={"seed": 2})) != together


def test_where_it_ends(tokenizer: Tokenizer) -> None:
    (plain,) = generator(tokenizer).generate([[5, 6]], GREEDY)
    end = plain.tokens[7]
    (ended,) = generator(tokenizer, ends=frozenset({end})).generate([[5, 6]], GREEDY)
    assert ended.tokens == plain.tokens[: plain.tokens.index(end)]
    assert ended.ending == "end"
    text = plain.text[5:8]
    stopping = GREEDY.model_copy(update={"stop": ["never there", text]})
    (stopped,) = generator(tokenizer).generate([[5, 6]], stopping)
    assert stopped.text == plain.text[: plain.text.index(text)]
    assert stopped.ending == "stop"
    assert stopped.tokens == plain.tokens[: len(stopped.tokens)]
    pieces: list[str | None] = []
    generator(tokenizer).generate([[5, 6]], stopping, lambda _, piece: pieces.append(piece))
    assert pieces[-1] is None
    assert "".join(piece for piece in pieces if piece) == stopped.text


def test_the_model_s_positions_are_the_end(tokenizer: Tokenizer) -> None:
    maker = generator(tokenizer)
    long = GREEDY.model_copy(update={"tokens": 500})
    (full,) = maker.generate([[5, 6]], long)
    assert (len(full.tokens), full.ending) == (62, "positions")  # of 64
    (last,) = maker.generate([[1] * 63], long)
    assert (len(last.tokens), last.ending) == (1, "positions")
    with pytest.raises(ReforgeError, match="prompt 2 has 64 tokens; the model has 64 positions"):
        maker.generate([[5], [1] * 64], long)
    with pytest.raises(ReforgeError, match="prompt 1 has 0 tokens"):
        maker.generate([[]], long)


def test_tokens_that_the_tokenizer_lacks_are_never_drawn(tokenizer: Tokenizer) -> None:
    maker = generator(tokenizer, vocabulary=1000)
    made = maker.generate(PROMPTS, SamplingConfig(tokens=20, temperature=100.0))
    assert max(token for one in made for token in one.tokens) < 300


@pytest.mark.parametrize("family", DECODERS, ids=lambda family: family.model_type)
def test_greedy_is_that_of_transformers(
    family: Family, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Token for token, of a random model of every family that can be exported."""
    config = example(family, vocabulary=300, positions=64)
    export_model(
        stored_weights(random_decoder(config)), config, small_tokenizer(tmp_path / "tokenizer"),
        tmp_path / "model", ConvertConfig(), checkpoint="root",
    )  # fmt: skip
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    stored = StoredModel.find(tmp_path / "model")
    maker = Generator(stored.load(one_rank()), tokenizer, slots=4, ends=frozenset())
    for prompt, one in zip(PROMPTS, maker.generate(PROMPTS, GREEDY), strict=True):
        expected = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        assert one.tokens == expected[0, len(prompt) :].tolist()


def one_rank() -> Mesh:
    return Mesh(Layout(), 0, torch.device("cpu"))


CHECKPOINT_CONFIG = small_config()


def work(path: Path, layout: str, output: Path) -> None:
    """Continue the prompts on this rank of ``layout``."""
    with open_mesh(Layout.parse(layout), "cpu", 1) as mesh:
        stored = StoredModel.find(path)
        tokenizer = Tokenizer.load(path / "tokenizer")
        decoder = stored.load(mesh, shards=2)
        maker = Generator(decoder, tokenizer, slots=3, ends=frozenset())
        made = spread(mesh, PROMPTS, lambda part: maker.generate(part, DRAWN))
        scores = decoder.score([*range(9)])
        torch.save(([one.tokens for one in made], scores), output / f"{layout}-{mesh.rank}.pt")


def test_layouts_write_the_same_text(tmp_path: Path) -> None:
    small_tokenizer(tmp_path / "tokenizer")
    write_checkpoint(tmp_path / "checkpoints", random_decoder(CHECKPOINT_CONFIG))
    found = []
    for layout, ranks in (("data=1", 1), ("tensor=2", 2), ("data=2", 2)):
        assert run_ranks(work, ranks, tmp_path, layout, tmp_path) == [0] * ranks
        found += [torch.load(tmp_path / f"{layout}-{rank}.pt") for rank in range(ranks)]
    for tokens, scores in found[1:]:
        assert tokens == found[0][0]
        assert torch.equal(scores, found[0][1])
    decoder = random_decoder(CHECKPOINT_CONFIG)
    plain = Decoder(decoder).score([*range(9)])
    torch.testing.assert_close(found[0][1], plain, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_continued_is_said_first(tokenizer: Tokenizer, tmp_path: Path) -> None:
    encoder = ModelConfig(kind="encoder", **small_config().model_dump(exclude={"kind"}))
    write_checkpoint(tmp_path / "encoder", random_decoder(encoder))
    with pytest.raises(ReforgeError, match="predicts no next token"):
        StoredModel.find(tmp_path / "encoder")
    with pytest.raises(ReforgeError, match="holds no model"):
        StoredModel.find(tmp_path)
    write_checkpoint(tmp_path / "model", random_decoder(small_config(vocabulary=200)))
    stored = StoredModel.find(tmp_path / "model")
    with pytest.raises(ReforgeError, match=r"300 tokens, the model in .* 200"):
        open_tokenizer(small_tokenizer(tmp_path / "tokenizer"), stored)
    with pytest.raises(ConfigError, match="cannot be cut into 4 tensor shards: it has kv_heads"):
        stored.grid(1, 4)
    with pytest.raises(ConfigError, match="tensor=2: must divide the 1 tensor shards"):
        stored.grid(2)


def test_prompts_of_a_file_come_back_with_their_continuations(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "ä", "id": 3}\n\n"b"\n')
    rows = read_prompts(path)
    assert rows == [{"prompt": "ä", "id": 3}, {"prompt": "b"}]
    (tmp_path / "lines.txt").write_text("one line\n\n and another\n")
    assert [row["prompt"] for row in read_prompts(tmp_path / "lines.txt")] == [
        "one line", " and another",
    ]  # fmt: skip
    made = generator(tokenizer).generate([[5], [6]], GREEDY)
    write_continuations(tmp_path / "out.jsonl", rows, made)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "prompt": "ä", "id": 3, "text": made[0].text, "tokens": 20, "ending": "tokens",
    }  # fmt: skip
    for content, message in (
        ('{"prompt": 3}\n', "bad.jsonl:1: must be"), ("{\n", "bad.jsonl:1: not JSON"),
        ("\n", "holds no prompt"),
    ):  # fmt: skip
        (tmp_path / "bad.jsonl").write_text(content)
        with pytest.raises(ReforgeError, match=message):
            read_prompts(tmp_path / "bad.jsonl")
