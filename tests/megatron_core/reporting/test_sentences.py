"""The sentences say who wins, also when it is a baseline."""

from __future__ import annotations

from megatron_core.reporting.sentences import (
    classification_sentence,
    multiple_choice_sentence,
    perplexity_sentence,
)
from tests import projects


def plain(sentence: str) -> str:
    """The sentence with common spaces only."""
    return sentence.replace("\u00a0", " ")


def _bits(**models: float) -> dict[str, dict[str, float]]:
    return {model: {"bits_per_byte": value} for model, value in models.items()}


def _f1(value: float, margin: float) -> dict[str, float]:
    return {"macro_f1": value, "macro_f1_low": value - margin, "macro_f1_high": value + margin}


def test_a_baseline_that_wins_is_named() -> None:
    sentence = plain(perplexity_sentence(projects.scores()["perplexity"]))
    assert "the trigram model is best with 1.500 bits per byte" in sentence
    assert "the adapted model, needs 1.800, 20.0 % more" in sentence
    assert "A baseline wins. On notes a trained model wins." in sentence
    assert "11.1 % fewer on notes and 5.0 % more on books" in sentence


def test_a_model_that_wins_but_not_everywhere() -> None:
    sentence = plain(
        perplexity_sentence(
            {
                "all": _bits(trigram=2.0, pretrained=1.0, adapted=1.5),
                "notes": _bits(trigram=1.0, pretrained=1.2, adapted=1.2),
            }
        )
    )
    assert "the pretrained model is best with 1.000" in sentence
    assert "the best baseline, the trigram model, needs 2.000, 100.0 % more" in sentence
    assert "On notes a baseline wins." in sentence
    assert "none on notes" in sentence


def test_the_classifier_wins_only_past_the_intervals() -> None:
    majority = _f1(0.1, 0.01)

    def sentence(model: float, baseline: float, margin: float) -> str:
        return classification_sentence(
            {
                "model": _f1(model, margin),
                "tfidf_logistic_regression": _f1(baseline, margin),
                "majority": majority,
                "classes": 3,
            }
        )

    assert sentence(0.7, 0.6, 0.02).endswith("The model wins.")
    assert sentence(0.6, 0.7, 0.02).endswith("The baseline wins.")
    assert "The model is ahead, but the intervals overlap" in sentence(0.61, 0.60, 0.02)
    assert sentence(0.60, 0.61, 0.02).endswith(
        "The baseline is ahead, but the intervals overlap: no clear winner."
    )
    assert "TF-IDF + logistic regression reaches 0.600 (95 % interval 0.580 to 0.620)" in sentence(
        0.7, 0.6, 0.02
    )


def test_better_than_guessing_means_past_the_interval() -> None:
    found = {
        "bigram": {"accuracy": 0.3, "accuracy_low": 0.24},
        "adapted": {"accuracy": 0.4, "accuracy_low": 0.34},
    }
    assert plain(multiple_choice_sentence(found, 0.25)) == (
        "The adapted model answers best with 40.0 %; guessing gets 25.0 %. "
        "Clearly better than guessing is the adapted model."
    )
    tied = {model: {"accuracy": 0.25, "accuracy_low": 0.19} for model in found}
    assert plain(multiple_choice_sentence(tied, 0.25)) == (
        "The bigram model and the adapted model answer best with 25.0 %; guessing gets 25.0 %. "
        "No model is clearly better than guessing."
    )
