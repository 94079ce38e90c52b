"""Roots against a recursive Merkle tree, and what must and must not change them."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.identity import hash_bytes, hash_file, hash_json, merkle_root

NAMES = st.text(max_size=4) | st.sampled_from(["a", "a/b", "1:a", "ab", "b"])
DIGESTS = st.text("0123456789abcdef", min_size=1, max_size=3)
LEAVES = st.dictionaries(NAMES, DIGESTS, max_size=9)


def recursive_root(leaves: Mapping[str, str]) -> str:
    """RFC 6962's tree: the left subtree is the largest power of two below the count."""

    def node(names: list[str]) -> bytes:
        if len(names) == 1:
            (name,) = names
            leaf = f"{len(name)}:{name}:{leaves[name]}"
            return hashlib.sha256(b"\x00" + leaf.encode()).digest()
        cut = 1 << (len(names) - 1).bit_length() - 1
        return hashlib.sha256(b"\x01" + node(names[:cut]) + node(names[cut:])).digest()

    return node(sorted(leaves)).hex() if leaves else hashlib.sha256(b"\x00").hexdigest()


@pytest.mark.parametrize("count", [*range(34), 100])
def test_the_root_is_that_of_the_recursive_tree(count: int) -> None:
    leaves = {f"file {i * 7 % 101}": hash_bytes(b"%d" % i) for i in range(count)}
    assert merkle_root(leaves) == recursive_root(leaves)


@given(LEAVES, LEAVES)
def test_equal_roots_mean_equal_mappings(a: dict[str, str], b: dict[str, str]) -> None:
    assert (merkle_root(a) == merkle_root(b)) == (a == b)


@given(LEAVES.filter(bool), st.data())
def test_any_small_change_is_another_root(leaves: dict[str, str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(leaves)))
    renamed = {(f"{n}+" if n == name else n): digest for n, digest in leaves.items()}
    altered = {**leaves, name: leaves[name] + "0"}
    removed = {n: digest for n, digest in leaves.items() if n != name}
    roots = {merkle_root(changed) for changed in (leaves, renamed, altered, removed)}
    assert len(roots) == (4 if len(renamed) == len(leaves) else len(roots))
    assert merkle_root(leaves) not in {merkle_root(m) for m in (renamed, altered, removed)}


@given(LEAVES)
def test_the_order_of_insertion_has_no_say(leaves: dict[str, str]) -> None:
    assert merkle_root(dict(reversed(leaves.items()))) == merkle_root(leaves)


def test_an_inner_node_is_no_leaf() -> None:
    four = dict.fromkeys("abcd", "0")
    assert merkle_root(four) != merkle_root({"a": merkle_root({"a": "0", "b": "0"}), "c": "0"})


def test_files_hash_as_sha256sum_does(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 5000)
    theirs = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert hash_file(path) == theirs.stdout.split()[0] == hash_bytes(path.read_bytes())


def test_json_hashes_by_value() -> None:
    value = {"b": [1, 2.5, None], "a": {"ü": True}}
    assert hash_json(value) == hash_json(json.loads(json.dumps(value, indent=3)))
    assert hash_json(value) == hash_json(dict(reversed(value.items())))
    assert hash_json(value) != hash_json({**value, "b": [2.5, 1, None]})
    assert hash_json({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
