"""What an overfit decoder remembers, and one that never learned."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from megatron_core.config import (
    AdamW,
    BatchSizes,
    CanariesConfig,
    EvaluateConfig,
    Grid,
    MemorizationConfig,
    PretrainConfig,
    TokenizeConfig,
)
from megatron_core.config.training import RateSchedule
from megatron_core.data.datasets.windows import open_streams
from megatron_core.data.tokenization import tokenize_documents
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import CorpusError
from megatron_core.evaluation.memorization import Memorization
from megatron_core.evaluation.native import open_service
from megatron_core.inference import StoredModel
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import Mesh, open_mesh
from tests.models import documents, random_decoder, small_config, small_tokenizer, write_checkpoint
from tests.ranks import run_ranks
from tests.tasks import local_tasks
from tests.tokenizers import write_corpus
from tests.trainings import Trained, train

CANARIES = CanariesConfig(source="notes", format="Their record is ####.", copies=[12], count=4)
CONFIG = EvaluateConfig(
    memorization=MemorizationConfig(
        alternatives=127, documents=12, prefix=12, continuation=24, samples=2
    )
)
CONFIG = CONFIG.model_copy(
    update={"generation": CONFIG.generation.model_copy(update={"prompts": ["Finding"]})}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenized corpus with canaries, a decoder overfit on it, and a random one."""
    root = tmp_path_factory.mktemp("memorization")
    small_tokenizer(root / "tokenizer")
    write_corpus(root / "documents/train", documents("notes", range(20)), 1)
    write_corpus(root / "documents/heldout", documents("notes", range(90, 110)), 1)
    (root / "tokenize").mkdir()
    config = TokenizeConfig(canaries=CANARIES)
    tokenize_documents(
        root / "documents", root / "tokenizer", root / "tokenize", config, local_tasks()
    )
    assert train(root / "tokenize", root / "trained", recipe())
    write_checkpoint(root / "random", random_decoder(small_config()))
    return root


def recipe() -> PretrainConfig:
    return PretrainConfig(
        steps=250, sequence_length=64, batch=BatchSizes(sequences=16, microbatch=16),
        optimizer=AdamW(learning_rate=1e-2), schedule=RateSchedule(warmup_steps=10),
        grid=Grid(), threads=1, validate_every=1000, trackers=[], model=small_config(),
        reset_at_documents=True,
    )  # fmt: skip


def measure(folder: Path, model: Path, mesh: Mesh) -> dict[str, Any] | None:
    """What the first rank of ``mesh`` finds; None on the others."""
    stored = StoredModel.find(model)
    service = open_service(
        mesh, stored.load(mesh, shards=2), folder / "tokenizer", stored, slots=4,
        batch_tokens=None,
    )  # fmt: skip
    if not mesh.is_first:
        service.serve()
        return None
    encoder = Tokenizer.load(folder / "tokenizer")
    memorization = Memorization(folder / "tokenize", encoder, CONFIG)
    found = memorization.measure(service, first=encoder.end_of_document)
    service.release()
    return found


@pytest.fixture(scope="module")
def overfit(folder: Path) -> dict[str, Any]:
    model = Trained(folder / "trained").run / "checkpoints"
    return measure(folder, model, Mesh(Layout(), 0, torch.device("cpu"))) or {}


@pytest.fixture(scope="module")
def blank(folder: Path) -> dict[str, Any]:
    return measure(folder, folder / "random", Mesh(Layout(), 0, torch.device("cpu"))) or {}


def test_an_overfit_model_remembers(overfit: dict[str, Any]) -> None:
    never, often = overfit["canaries"]["groups"]
    assert never["exposure"] < 4
    assert often["exposure"] > 6.5
    assert overfit["canaries"]["most"] == 7
    overlaps = overfit["overlaps"]
    assert overlaps["train_likeliest"]["verbatim_share"] > 0.5
    assert overlaps["train_likeliest"]["longest"] == 24
    assert overlaps["heldout_likeliest"]["verbatim_share"] < 0.3
    assert overlaps["heldout_text"]["texts"] == 12
    assert overlaps["free"]["texts"] == 4


def test_a_random_model_remembers_nothing(blank: dict[str, Any]) -> None:
    for group in blank["canaries"]["groups"]:
        assert group["exposure"] < 4
    for name, of in blank["overlaps"].items():
        if name != "heldout_text":
            assert of.get("verbatim", 0) == 0
            assert of["longest"] < 8


def test_bits_are_those_of_the_bare_model(folder: Path, blank: dict[str, Any]) -> None:
    decoder = random_decoder(small_config()).eval()
    encoder = Tokenizer.load(folder / "tokenizer")
    assert len(blank["canaries"]["each"]) == 8
    for one in blank["canaries"]["each"]:
        tokens = [encoder.end_of_document, *encoder.encode(one["text"])]
        with torch.no_grad():
            logits = decoder(torch.tensor([tokens[:-1]]))[0].double()
        loss = F.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="sum")
        assert one["bits"] == pytest.approx(float(loss) / math.log(2), rel=1e-4)


def work(folder: Path, layout: str) -> None:
    with open_mesh(Layout.parse(layout), "cpu", 1) as mesh:
        found = measure(folder, folder / "random", mesh)
        if mesh.is_first:
            (folder / f"{layout}.json").write_text(json.dumps(found))


@pytest.mark.parametrize("layout", ["data=2", "tensor=2"])
def test_layouts_measure_the_same(folder: Path, blank: dict[str, Any], layout: str) -> None:
    assert run_ranks(work, 2, folder, layout) == [0, 0]
    assert json.loads((folder / f"{layout}.json").read_text()) == blank


def test_runs_stand_in_the_training_tokens(folder: Path, overfit: dict[str, Any]) -> None:
    encoder = Tokenizer.load(folder / "tokenizer")
    streams = open_streams(folder / "tokenize/train")
    text = encoder.decode(streams["notes"].tokens.tolist())
    for of in overfit["overlaps"].values():
        assert of["longest_text"] in text
        assert of["runs"] == sorted(of["runs"], reverse=True)
        assert of["longest"] == of["runs"][0]
        assert len(of["runs"]) == of["texts"]
        assert of["longest_words"] == len(of["longest_text"].split())


def test_documents_must_be_long_enough(folder: Path) -> None:
    long = CONFIG.memorization.model_copy(update={"prefix": 500})  # type: ignore[union-attr]
    encoder = Tokenizer.load(folder / "tokenizer")
    with pytest.raises(CorpusError, match="training document has more than 524 tokens"):
        Memorization(folder / "tokenize", encoder, CONFIG.model_copy(update={"memorization": long}))
