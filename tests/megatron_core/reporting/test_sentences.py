"""The sentences say who wins, also when it is a baseline."""

from __future__ import annotations

from typing import Any

from megatron_core.reporting.sentences import (
    masked_sentence,
    multiple_choice_sentence,
    perplexity_sentence,
    task_sentence,
)
from tests import projects


def plain(sentence: str) -> str:
    """The sentence with common spaces only."""
    return sentence.replace("\u00a0", " ")


def _bits(**models: float) -> dict[str, dict[str, float]]:
    return {model: {"bits_per_byte": value} for model, value in models.items()}


def _scored(metric: str, margin: float | None, **values: float) -> dict[str, Any]:
    def of(value: float) -> dict[str, float]:
        interval = {} if margin is None else {"low": value - margin, "high": value + margin}
        return {"value": value, **interval}

    return {who: {metric: of(value)} for who, value in values.items()}


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


def test_a_task_is_won_only_past_the_intervals() -> None:
    def sentence(model: float, baseline: float, margin: float | None = 0.02) -> str:
        scores = _scored(
            "macro_f1", margin, model=model, tfidf_logistic_regression=baseline, majority=0.1
        )
        return task_sentence("macro_f1", scores)

    assert sentence(0.7, 0.6).endswith("The model wins.")
    assert sentence(0.6, 0.7).endswith("The baseline wins.")
    assert "The model is ahead, but the intervals overlap" in sentence(0.61, 0.60)
    assert sentence(0.60, 0.61).endswith(
        "The baseline is ahead, but the intervals overlap: no clear winner."
    )
    assert sentence(0.6, 0.6).endswith("They are level.")
    assert sentence(0.7, 0.6, None) == (
        "The fine-tuned model reaches a macro-F1 of 0.700; TF-IDF + logistic regression reaches "
        "0.600. The model is ahead; no intervals say how clearly."
    )
    assert "TF-IDF + logistic regression reaches 0.600 (95 % interval 0.580 to 0.620)" in sentence(
        0.7, 0.6
    )


def test_of_some_metrics_less_is_better() -> None:
    def sentence(model: float) -> str:
        scores = _scored("mean_squared_error", 0.1, model=model, mean=1.0, tfidf_ridge=2.0)
        return task_sentence("mean_squared_error", scores)

    assert "mean of the training examples reaches 1.000" in sentence(0.5)
    assert sentence(0.5).endswith("The model wins.")
    assert sentence(1.5).endswith("The baseline wins.")
    assert sentence(0.9).endswith("The model is ahead, but the intervals overlap: no clear winner.")


def test_the_model_before_is_no_baseline() -> None:
    scores = _scored("accuracy", 0.1, model=0.9, start=0.5)
    assert task_sentence("accuracy", scores, trainings=3) == (
        "The fine-tuned model, on average over 3 trainings, reaches an accuracy of 0.900 (95 % "
        "interval 0.800 to 1.000); the model before reaches 0.500 (95 % interval 0.400 to 0.600). "
        "The fine-tuned model wins."
    )
    scores = _scored("accuracy", 0.1, model=0.5, start=0.9)
    assert task_sentence("accuracy", scores).endswith("The model before wins.")
    assert task_sentence("accuracy", _scored("accuracy", None, model=0.5)) == (
        "The fine-tuned model reaches an accuracy of 0.500."
    )


def test_a_score_that_could_not_be_computed_is_said_to_be_missing() -> None:
    scores = {"model": {}, **_scored("pearson", 0.1, tfidf_ridge=0.5)}
    assert "has no Pearson correlation" in task_sentence("pearson", scores)


def test_the_encoder_that_finds_most() -> None:
    def of(value: float) -> dict[str, float]:
        return {
            "accuracy": value, "accuracy_low": value - 0.1, "accuracy_high": value + 0.1
        }  # fmt: skip

    assert plain(masked_sentence({"pretrained": of(0.3), "adapted": of(0.4)})) == (
        "The adapted model finds 40.0 % of the hidden tokens (95 % interval 30.0 % to 50.0 %); "
        "the pretrained model 30.0 %."
    )
    assert ";" not in masked_sentence({"pretrained": of(0.3)})


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
