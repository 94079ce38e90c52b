"""Rules between our model's settings and those of a ``config.json``.

A rule writes their settings from our configuration and reads our fields from their settings.
Writing never fails: what a family cannot say is seen by reading back what was written, which
gives the nearest model that the family has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from megatron_core.config import ExpertsConfig, ModelConfig
from megatron_core.config.model import RotaryScaling

Settings = Mapping[str, Any]


class Unmapped(Exception):
    """A setting of theirs that our model cannot have."""

    def __init__(self, setting: str, value: object, allowed: str) -> None:
        super().__init__(f"{setting} is {value!r}; {allowed}")


class Rule(Protocol):
    """Some of our fields and some of their settings."""

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """Their settings."""
        ...

    def read(self, settings: Settings) -> dict[str, Any]:
        """Our fields; raises :class:`Unmapped`."""
        ...

    @property
    def reads(self) -> frozenset[str]:
        """The names of the settings that it speaks for."""
        ...


@dataclass(frozen=True)
class Same:
    """One value by two names, ``{ours: theirs}``; a later name of theirs has the last word."""

    names: Mapping[str, str]

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {theirs: getattr(config, ours) for ours, theirs in self.names.items()}

    def read(self, settings: Settings) -> dict[str, Any]:
        for theirs in self.names.values():
            if settings.get(theirs) is None:
                raise Unmapped(theirs, None, "it must be given")
        return {ours: settings[theirs] for ours, theirs in self.names.items()}

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.names.values())


@dataclass(frozen=True)
class Ours:
    """What all models of a family have in our terms."""

    fields: Mapping[str, Any]

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {}

    def read(self, settings: Settings) -> dict[str, Any]:
        return dict(self.fields)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset()


@dataclass(frozen=True)
class Without:
    """Settings of theirs for what our model has not, with the values that mean so."""

    values: Mapping[str, Any]

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return dict(self.values)

    def read(self, settings: Settings) -> dict[str, Any]:
        for name, value in self.values.items():
            given = settings.get(name)
            if given is not None and given != value:
                raise Unmapped(name, given, f"only {value!r} can be mapped")
        return {}

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.values)


@dataclass(frozen=True)
class Choice:
    """One field whose values have other names there: ``{ours: theirs}``, the first by default.

    ``more`` are other names of theirs for a value of ours.
    """

    ours: str
    theirs: str
    values: Mapping[Any, Any]
    more: Mapping[Any, Any] = field(default_factory=dict)

    def write(self, config: ModelConfig) -> dict[str, Any]:
        value = getattr(config, self.ours)
        default = next(iter(self.values.values()))
        return {self.theirs: self.values.get(value, default)}

    def read(self, settings: Settings) -> dict[str, Any]:
        known = {theirs: ours for ours, theirs in self.values.items()} | dict(self.more)
        value = settings.get(self.theirs)
        if value not in known:
            allowed = ", ".join(repr(name) for name in known)
            raise Unmapped(self.theirs, value, f"only {allowed} can be mapped")
        return {self.ours: known[value]}

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.theirs})


@dataclass(frozen=True)
class HeadWidth:
    """Their ``head_dim``; ours is null where it is the width over the heads."""

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"head_dim": config.head_size}

    def read(self, settings: Settings) -> dict[str, Any]:
        usual = settings["hidden_size"] // settings["num_attention_heads"]
        width = settings.get("head_dim") or usual
        return {"head_width": None if width == usual else width}

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"head_dim"})


@dataclass(frozen=True)
class FeedForwardWidth:
    """GPT-2's ``n_inner``: null is four times the width."""

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"n_inner": config.ffn}

    def read(self, settings: Settings) -> dict[str, Any]:
        return {"ffn": settings.get("n_inner") or 4 * settings["n_embd"]}

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"n_inner"})


@dataclass(frozen=True)
class TokenTypes:
    """BERT's ``type_vocab_size``, of one row at least."""

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"type_vocab_size": max(1, config.token_types)}

    def read(self, settings: Settings) -> dict[str, Any]:
        return {"token_types": settings["type_vocab_size"]}

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"type_vocab_size"})


@dataclass(frozen=True)
class Pooler:
    """BERT's pooler and the two classes of pairs, which ``architecture`` has beside the logits.

    Other architectures have none, whatever their files hold.
    """

    architecture: str

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"architectures": [self.architecture]} if config.pooler else {}

    def read(self, settings: Settings) -> dict[str, Any]:
        return {"pooler": self.architecture in (settings.get("architectures") or ())}

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"architectures"})


@dataclass(frozen=True)
class Window:
    """A sliding window in every layer, or in none.

    ``switched`` families have a switch beside the width, and a list of the layers it is for.
    """

    switched: bool = False

    def write(self, config: ModelConfig) -> dict[str, Any]:
        if not self.switched:
            return {"sliding_window": config.window}
        kind = "full_attention" if config.window is None else "sliding_attention"
        return {
            "layer_types": [kind] * config.layers,
            "max_window_layers": config.layers if config.window is None else 0,
            "sliding_window": config.window,
            "use_sliding_window": config.window is not None,
        }

    def read(self, settings: Settings) -> dict[str, Any]:
        window = settings.get("sliding_window")
        if not self.switched or window is None:
            return {"window": window}
        if not settings.get("use_sliding_window"):
            return {"window": None}
        kinds = set(settings.get("layer_types") or ["sliding_attention"])
        if kinds == {"full_attention"}:
            return {"window": None}
        if kinds != {"sliding_attention"}:
            raise Unmapped(
                "layer_types", sorted(kinds), "every layer must have the window, or none"
            )
        return {"window": window}

    @property
    def reads(self) -> frozenset[str]:
        more = {"use_sliding_window", "max_window_layers", "layer_types"} if self.switched else ()
        return frozenset({"sliding_window", *more})


@dataclass(frozen=True)
class Rotary:
    """``rope_parameters`` as transformers 5 has them; older readers find the base at the top."""

    def write(self, config: ModelConfig) -> dict[str, Any]:
        rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default"}
        scaling = config.rope_scaling
        if scaling is not None:
            rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
            if scaling.kind != "linear":
                rope["original_max_position_embeddings"] = scaling.original_positions
            if scaling.kind == "llama3":
                rope |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
            if scaling.kind == "yarn" and scaling.sharpness is not None:
                rope["attention_factor"] = scaling.sharpness
        older = {} if scaling is None else {"rope_scaling": rope}
        return {"rope_parameters": rope, "rope_theta": config.rope_theta, **older}

    def read(self, settings: Settings) -> dict[str, Any]:
        rope = dict(settings.get("rope_parameters") or {})
        kind = rope.pop("rope_type", rope.pop("type", "default"))
        rope.pop("type", None)
        theta = rope.pop("rope_theta", None)
        if theta is None:
            raise Unmapped("rope_parameters", settings.get("rope_parameters"), "it has no base")
        scaling = None
        if kind in ("linear", "llama3", "yarn"):
            names = _SCALING[kind]
            given = {ours: rope.pop(theirs) for theirs, ours in names.items() if rope.get(theirs)}
            if kind == "yarn":  # which falls back on the longest sequence, as others do not
                given.setdefault("original_positions", settings["max_position_embeddings"])
            scaling = RotaryScaling(kind=kind, **_floats(given))
        elif kind != "default":
            raise Unmapped(
                "rope_parameters.rope_type", kind,
                "only 'default', 'linear', 'llama3' and 'yarn' can be mapped",
            )  # fmt: skip
        for name, value in rope.items():
            if value is not None and value != _UNCHANGED.get(name):
                raise Unmapped(f"rope_parameters.{name}", value, "our model has no such setting")
        return {"rope_theta": float(theta), "rope_scaling": scaling}

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"rope_parameters", "rope_theta", "rope_scaling"})


_SCALING = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low",
        "high_freq_factor": "high",
        "original_max_position_embeddings": "original_positions",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_positions",
        "attention_factor": "sharpness",
    },
}
# What may stand there because it is what our model does.
_UNCHANGED = {"partial_rotary_factor": 1.0, "beta_fast": 32, "beta_slow": 1, "truncate": True}


@dataclass(frozen=True)
class ExpertCounts:
    """The mixture; ``{field of ours: setting}``, ``normalize`` being always so where not named."""

    names: Mapping[str, str]

    def write(self, config: ModelConfig) -> dict[str, Any]:
        experts = config.experts or ExpertsConfig()
        return {theirs: getattr(experts, ours) for ours, theirs in self.names.items()}

    def read(self, settings: Settings) -> dict[str, Any]:
        given = {ours: settings[theirs] for ours, theirs in self.names.items()}
        return {"experts": ExpertsConfig.model_validate(given), "ffn": given["ffn"]}

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.names.values())


def _floats(given: Mapping[str, Any]) -> dict[str, Any]:
    """Whole numbers where JSON dropped the fraction are what our fields want."""
    return {
        name: int(value) if name == "original_positions" else float(value)
        for name, value in given.items()
    }
