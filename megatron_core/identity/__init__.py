"""What an artifact is: content hashes, Merkle roots, manifests, and where they were made."""

from megatron_core.identity.environment import Environment, likely_causes
from megatron_core.identity.hashing import hash_bytes, hash_code, hash_file, hash_json, merkle_root
from megatron_core.identity.manifest import (
    FileEntry,
    Manifest,
    RunRecord,
    list_files,
    manifest_path,
    read_manifest,
    verify_files,
)

__all__ = [
    "Environment",
    "FileEntry",
    "Manifest",
    "RunRecord",
    "hash_bytes",
    "hash_code",
    "hash_file",
    "hash_json",
    "likely_causes",
    "list_files",
    "manifest_path",
    "merkle_root",
    "read_manifest",
    "verify_files",
]
