"""Content hashes and the Merkle root over named content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Domain prefixes keep a leaf from ever reading as an inner node (RFC 6962, section 2.1).
_LEAF, _NODE = b"\x00", b"\x01"


def hash_bytes(content: bytes | memoryview) -> str:
    """SHA-256 of ``content`` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of ``value`` as canonical JSON: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hash_bytes(text.encode())


def merkle_root(leaves: Mapping[str, str]) -> str:
    """The Merkle root over ``{name: digest}``, in the order of the names.

    Two mappings have one root if and only if they hold the same names with the same digests.
    """
    level = [
        hashlib.sha256(_LEAF + f"{len(name)}:{name}:{leaves[name]}".encode()).digest()
        for name in sorted(leaves)
    ]
    if not level:
        return hash_bytes(_LEAF)
    while len(level) > 1:
        paired = [
            hashlib.sha256(_NODE + level[i] + level[i + 1]).digest()
            for i in range(0, len(level) - 1, 2)
        ]
        level = paired + level[len(paired) * 2 :]
    return level[0].hex()


def hash_code() -> str:
    """SHA-256 over the package's own source files: what two versions under work differ in."""
    package = Path(__file__).parent.parent
    sources = sorted(path.relative_to(package).as_posix() for path in package.rglob("*.py"))
    return hash_json({name: hash_file(package / name) for name in sources})
