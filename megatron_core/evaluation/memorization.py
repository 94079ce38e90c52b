"""What a decoder remembers of its training text: canaries, and what it repeats verbatim."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from megatron_core.config import EvaluateConfig, MemorizationConfig, SamplingConfig
from megatron_core.data.canaries import Canaries
from megatron_core.data.datasets.order import permute
from megatron_core.data.datasets.windows import open_streams
from megatron_core.data.indexed import IndexedDataset
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import CorpusError
from megatron_core.evaluation.exposure import measure_exposure
from megatron_core.evaluation.overlap import Overlaps
from megatron_core.inference.scoring import Question
from megatron_core.inference.service import Service

_SPLITS = {"train": "training", "heldout": "held-out"}


@dataclass(frozen=True)
class Beginning:
    """The first tokens of a document, without one that texts begin after, and what follows."""

    prefix: list[int]
    continuation: list[int]


class Memorization:
    """Asks models what they remember of a tokenized corpus.

    Everything is a pure function of the recipe and the model: which documents are begun, and what
    is drawn.
    """

    def __init__(self, tokenized: Path, encoder: Tokenizer, config: EvaluateConfig) -> None:
        """
        Args:
            tokenized: Folder of stage `tokenize`.
            encoder: The tokenizer that made it.
            config: With a section ``memorization``.

        Raises:
            CorpusError: no document of a split is long enough.
            IntegrityError: the canaries are damaged.
        """
        if config.memorization is None:
            raise ValueError("evaluate.memorization is null")
        self._settings: MemorizationConfig = config.memorization
        self._encoder, self._config = encoder, config
        self._canaries = Canaries.read(tokenized)
        self._streams = open_streams(tokenized / "train")
        self._beginnings = {
            split: _beginnings(open_streams(tokenized / split), split, self._settings, config.seed)
            for split in _SPLITS
        }

    def measure(self, service: Service, *, first: int) -> dict[str, Any]:
        """What the model of ``service`` remembers, from its first rank.

        Args:
            service: See :func:`~megatron_core.evaluation.native.open_service`.
            first: Token that texts begin after.

        Returns:
            ``canaries``, None if none were planted, else see :func:`measure_exposure`; and
            ``overlaps``, see :meth:`_overlaps`.
        """
        canaries = None
        if self._canaries is not None:
            canaries = measure_exposure(
                self._canaries,
                lambda texts: self._bits(service, texts, first),
                self._settings.alternatives,
            )
        return {"canaries": canaries, "overlaps": self._overlaps(self._written(service, first))}

    def _bits(self, service: Service, texts: Sequence[str], first: int) -> list[float]:
        """-log2 of the probability of each text."""
        tokens = [tuple(self._encoder.encode(text)) for text in texts]
        questions = [Question((first, *ids[:-1]), (ids,)) for ids in tokens]
        return [
            -answer.log_likelihood / math.log(2) for (answer,) in service.ask("score", questions)
        ]

    def _written(self, service: Service, first: int) -> dict[str, list[list[int]]]:
        """The continuations of each set of prompts, in tokens."""
        settings, seed = self._settings, self._config.seed

        def ask(prompts: Sequence[Sequence[int]], temperature: float, seed: int) -> list[list[int]]:
            config = SamplingConfig(
                tokens=settings.continuation, temperature=temperature, seed=seed
            )
            made = service.ask("generate", [[first, *prompt] for prompt in prompts], config=config)
            return [one.tokens for one in made]

        begun = {
            split: [one.prefix for one in beginnings]
            for split, beginnings in self._beginnings.items()
        }
        free: list[list[int]] = [[], *map(self._encoder.encode, self._config.generation.prompts)]
        return {
            "train_likeliest": ask(begun["train"], 0.0, seed),
            "train_drawn": ask(begun["train"], settings.temperature, seed),
            "heldout_likeliest": ask(begun["heldout"], 0.0, seed),
            "free": [
                tokens
                for number in range(settings.samples)
                for tokens in ask(free, settings.temperature, seed + number)
            ],
        }

    def _overlaps(self, written: Mapping[str, list[list[int]]]) -> dict[str, dict[str, Any]]:
        """The longest run of tokens that each text shares with the training split, by set.

        The sets are continuations of training documents' beginnings, the likeliest and drawn; of
        held-out documents' beginnings; of nothing and of the recipe's prompts, drawn; and
        ``heldout_text``, what really follows in the held-out documents: how much two texts of
        this kind share when nothing was remembered.
        """
        truths = {
            split: [one.continuation for one in found] for split, found in self._beginnings.items()
        }
        sets = {**written, "heldout_text": truths["heldout"]}
        overlaps = Overlaps([tokens for texts in sets.values() for tokens in texts])
        overlaps.read(stream.tokens for stream in self._streams.values())
        ending = iter(overlaps.ending())
        found = {}
        for name, texts in sets.items():
            runs = [list(map(int, next(ending))) for _ in texts]
            found[name] = self._longest(texts, runs)
            if name in written and name != "free":
                found[name] |= _repeated(texts, truths[name.partition("_")[0]])
        return found

    def _longest(
        self, texts: Sequence[Sequence[int]], ending: Sequence[Sequence[int]]
    ) -> dict[str, Any]:
        """The longest runs of ``texts``, given the longest that ends at each of their tokens."""
        runs = [max(lengths, default=0) for lengths in ending]
        number = max(range(len(runs)), key=lambda n: runs[n])
        end = ending[number].index(runs[number]) + 1 if runs[number] else 0
        text = self._encoder.decode(list(texts[number][end - runs[number] : end]))
        return {
            "texts": len(texts),
            "longest": runs[number],
            "longest_words": len(text.split()),
            "longest_text": text,
            "median": median(runs),
            "runs": sorted(runs, reverse=True),
        }


def _repeated(texts: Sequence[list[int]], truths: Sequence[list[int]]) -> dict[str, Any]:
    """How many continuations are the true ones to the last token (Carlini et al., 2023)."""
    same = sum(text == truth for text, truth in zip(texts, truths, strict=True))
    return {"verbatim": same, "verbatim_share": same / len(texts)}


def _beginnings(
    streams: Mapping[str, IndexedDataset], split: str, config: MemorizationConfig, seed: int
) -> list[Beginning]:
    """Of documents that are long enough, in the order of a permutation of all of them."""
    size = config.prefix + config.continuation
    found = []
    for document in _shuffled(list(streams.values()), f"{seed}:memorization:{split}"):
        # One token more, so that what follows is never the end of the document.
        if len(document) > size:
            tokens = document[:size].tolist()
            found.append(Beginning(tokens[: config.prefix], tokens[config.prefix :]))
            if len(found) == config.documents:
                break
    if not found:
        raise CorpusError(
            f"no {_SPLITS[split]} document has more than {size} tokens: lower "
            "evaluate.memorization.prefix or .continuation"
        )
    return found


def _shuffled(datasets: Sequence[IndexedDataset], key: str) -> Iterator[Any]:
    total = sum(map(len, datasets))
    for number in range(total):
        place = permute(number, total, key)
        for dataset in datasets:
            if place < len(dataset):
                yield dataset[place]
                break
            place -= len(dataset)
