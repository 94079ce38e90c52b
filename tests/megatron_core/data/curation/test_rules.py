"""Each rule by a text that fails it alone."""

from __future__ import annotations

import pytest

from megatron_core.config import CurateConfig
from megatron_core.data.curation import drop_reason

GOOD = "A text of plain words that is long enough to stay."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        (GOOD[:39], "too_short"),
        (GOOD[:40], None),
        (GOOD * 3, "too_long"),
        ("0123456789 " * 6, "few_letters"),
        ("हिन्दी में लिखा हुआ एक साधारण वाक्य जो काफ़ी लम्बा है।", None),  # a third are marks
        ("one line that comes back\n" * 3 + "and another one", "repeated_lines"),
        ("one line that comes back\n\n" * 2 + "and another one", None),
    ],
)
def test_each_rule(text: str, reason: str | None) -> None:
    config = CurateConfig(max_characters=120, max_repeated_lines=0.4, min_alphabetic=0.8)
    assert drop_reason(text, config) == reason
