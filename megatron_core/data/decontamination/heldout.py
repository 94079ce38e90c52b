"""Which documents are held out."""

from __future__ import annotations

import hashlib

import orjson

from megatron_core.config import DecontaminateConfig
from megatron_core.data.documents import Document


def is_heldout(document: Document, config: DecontaminateConfig) -> bool:
    """Whether a document is held out: SHA-256 of seed and unit, read as a number in [0, 1).

    The unit is the document's id, or, with ``config.heldout_by``, the value that its metadata has
    under that key; so all documents of a patient are on one side.
    """
    digest = hashlib.sha256(f"{config.seed}:{_unit(document, config)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < config.heldout


def has_group(document: Document, config: DecontaminateConfig) -> bool:
    """Whether ``config.heldout_by`` says something of the document; without it goes by its id."""
    return config.heldout_by is not None and document.metadata.get(config.heldout_by) is not None


def _unit(document: Document, config: DecontaminateConfig) -> str:
    if not has_group(document, config):
        return document.id
    value = document.metadata[str(config.heldout_by)]
    return f"{config.heldout_by}={orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()}"
