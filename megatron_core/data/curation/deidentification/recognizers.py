"""Presidio's recognizers, without the libraries of the models that they do not use."""

from __future__ import annotations

import sys
from typing import Any

from megatron_core.errors import MissingExtraError

_NOT_NEEDED = ("torch", "transformers")


def predefined_recognizers(purpose: str) -> Any:
    """Presidio's module of that name.

    With it comes spaCy, and with spaCy torch and transformers where they are installed: ten
    seconds for every process, for nothing that is used here. For as long as it is imported they
    are not to be found.

    Raises:
        MissingExtraError: presidio-analyzer, which is here for ``purpose``, is not installed.
    """
    hidden = [name for name in _NOT_NEEDED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        from presidio_analyzer import predefined_recognizers as found
    except ImportError as error:
        raise MissingExtraError(f"presidio-analyzer, which {purpose},", "clinical") from error
    finally:
        for name in hidden:
            del sys.modules[name]
    return found
