"""The language of a text, by the model that py3langid carries (Lui and Baldwin, 2012)."""

from __future__ import annotations

from functools import cache
from typing import Any

from megatron_core.config.corpus.curate import Language
from megatron_core.errors import ConfigError, MissingExtraError


class LanguageIdentifier:
    """Tells languages, and which of them the recipe keeps.

    Raises:
        MissingExtraError: py3langid is not installed.
        ConfigError: the model does not know a language of the recipe.
    """

    def __init__(self, config: Language) -> None:
        from threadpoolctl import ThreadpoolController

        self._model = _load_model()
        self._config = config
        self._threads = ThreadpoolController()
        known = self._model.labels
        if unknown := sorted({*config.languages} - {*known}):
            raise ConfigError(
                f"curate.language.languages: no language {', '.join(unknown)} in py3langid's "
                f"model: the codes are ISO 639's, all are {', '.join(sorted(known))}"
            )

    def identify(self, text: str) -> tuple[str, float]:
        """The most probable language of ``text``, by its code, and its probability."""
        # One thread: how many share a product may change its last bit.
        with self._threads.limit(limits=1, user_api="blas"):
            language, probability = self._model.classify(text[: self._config.characters])
        return str(language), float(probability)

    def drop_reason(self, language: str, probability: float) -> str | None:
        """Why a document of this language goes, or None when it stays."""
        if language not in self._config.languages:
            return "language/other"
        if probability < self._config.min_probability:
            return "language/uncertain"
        return None


@cache
def _load_model() -> Any:
    try:
        from py3langid import langid
    except ImportError as error:
        raise MissingExtraError("py3langid, which tells languages,", "curation") from error
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
