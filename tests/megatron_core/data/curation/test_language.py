"""Languages of texts that anybody can tell, and refusals."""

from __future__ import annotations

import pytest

pytest.importorskip("py3langid", reason="the extra `curation` is not installed")

from megatron_core.config.corpus.curate import Language
from megatron_core.data.curation.language import LanguageIdentifier
from megatron_core.errors import ConfigError

TEXTS = {
    "en": "The patient was seen in the clinic and will come back in two weeks for his results.",
    "de": "Der Patient wurde in der Klinik untersucht und kommt in zwei Wochen wieder.",
    "fr": "Le patient a été examiné à la clinique et reviendra dans deux semaines.",
    "ru": "Пациент был осмотрен в клинике и вернётся через две недели.",
    "ar": "تم فحص المريض في العيادة وسيعود بعد أسبوعين.",
    "ja": "患者は診療所で診察を受け、二週間後に再診する予定です。",
}


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told(code: str) -> None:
    identifier = LanguageIdentifier(Language(languages=["en", "de"]))
    language, probability = identifier.identify(TEXTS[code])
    assert (language, probability > 0.65) == (code, True)
    reason = None if code in ("en", "de") else "language/other"
    assert identifier.drop_reason(language, probability) == reason


def test_a_text_that_could_be_anything_is_uncertain() -> None:
    identifier = LanguageIdentifier(Language(languages=["en", "de"], min_probability=0.9))
    _, probability = identifier.identify("Radio Hotel Taxi")
    assert probability < 0.9
    assert identifier.drop_reason("en", probability) == "language/uncertain"


def test_only_the_start_is_looked_at() -> None:
    identifier = LanguageIdentifier(Language(languages=["en"], characters=len(TEXTS["de"])))
    assert identifier.identify(TEXTS["de"] + TEXTS["en"] * 50) == identifier.identify(TEXTS["de"])


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no language english in .* all are ace, af,"):
        LanguageIdentifier(Language(languages=["en", "english"]))
