"""The documents a tokenizer is trained and reported on."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable

from megatron_core.data.documents import Document
from megatron_core.progress import track


def draw_sample(documents: Iterable[Document], size: int) -> list[Document]:
    """The documents of the smallest hashes of ids that together reach ``size`` bytes.

    Which they are, and in what order, does not depend on the order of ``documents``; no more
    than about ``size`` bytes are held in memory.
    """
    # A heap with the largest hash on top: it leaves when the others are enough.
    heap: list[tuple[int, str, Document]] = []  # no two documents have one id
    total = 0
    for document in track(documents, "sampling documents"):
        if not document.text:
            continue
        digest = hashlib.sha256(document.id.encode()).digest()
        heapq.heappush(heap, (-int.from_bytes(digest), document.id, document))
        total += text_bytes(document)
        while total - text_bytes(heap[0][2]) >= size:
            total -= text_bytes(heapq.heappop(heap)[2])
    return [document for _, _, document in sorted(heap, key=lambda entry: (-entry[0], entry[1]))]


def text_bytes(document: Document) -> int:
    """Bytes of the text in UTF-8."""
    return len(document.text.encode())
