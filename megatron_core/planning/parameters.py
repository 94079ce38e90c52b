"""How many weights a transformer has, and how they are spread over ranks."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_core.planning.architecture import Architecture


@dataclass(frozen=True)
class Weights:
    """Numbers of weights, by where they live.

    Attributes:
        split: Cut over the tensor shards.
        whole: On every tensor rank.
        experts: Of all experts: cut over the tensor shards, spread over the expert ranks.
    """

    split: int = 0
    whole: int = 0
    experts: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.split + self.whole + self.experts

    @property
    def dense(self) -> Weights:
        """Those of no expert."""
        return Weights(self.split, self.whole)

    @property
    def sparse(self) -> Weights:
        """Those of experts."""
        return Weights(experts=self.experts)

    def __add__(self, other: Weights) -> Weights:
        return Weights(
            self.split + other.split, self.whole + other.whole, self.experts + other.experts
        )

    def __mul__(self, times: int) -> Weights:
        return Weights(self.split * times, self.whole * times, self.experts * times)

    def per_rank(self, *, tensor: int, expert: int) -> int:
        """Those of one rank when ``tensor`` ranks share the shards and ``expert`` the experts."""
        return self.split // tensor + self.whole + self.experts // (tensor * expert)


def layer_weights(a: Architecture) -> Weights:
    """One block: attention, feed-forward, two norms."""
    width = a.query + 2 * a.key
    attention = Weights(split=a.hidden * (width + a.query))
    biases = Weights(split=width, whole=a.hidden) if a.biases else Weights()
    return attention + biases + _feed_forward(a) + _norm(a) * 2


def _feed_forward(a: Architecture) -> Weights:
    into = 2 if a.gated else 1
    if a.experts is None:
        biases = Weights(split=into * a.ffn, whole=a.hidden) if a.biases else Weights()
        return Weights(split=(into + 1) * a.hidden * a.ffn) + biases
    each = (into + 1) * a.hidden * a.experts.ffn
    if a.biases:
        each += into * a.experts.ffn + a.hidden
    return Weights(whole=a.hidden * a.experts.count, experts=a.experts.count * each)


def _norm(a: Architecture) -> Weights:
    return Weights(whole=a.hidden * (2 if a.norm == "layer" else 1))


def embedding_weights(a: Architecture) -> Weights:
    """The table of tokens, and of positions when they are learned."""
    positions = Weights(whole=a.positions * a.hidden) if a.learned_positions else Weights()
    return Weights(split=a.vocabulary * a.hidden) + positions


def head_weights(a: Architecture) -> Weights:
    """The final norm and the matrix of logits, tied or not."""
    return _norm(a) + Weights(split=a.vocabulary * a.hidden)


def parameters(a: Architecture) -> int:
    """Trained weights of the whole model; tied embeddings count once."""
    total = layer_weights(a) * a.layers + embedding_weights(a) + head_weights(a)
    return total.total - (a.vocabulary * a.hidden if a.tied_embeddings else 0)


def active_parameters(a: Architecture) -> int:
    """The weights that one token meets: with experts, only those it is sent to."""
    if a.experts is None:
        return parameters(a)
    unused = a.experts.count - a.experts.chosen
    return parameters(a) - a.layers * layer_weights(a).experts // a.experts.count * unused
