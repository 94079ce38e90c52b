"""Files known by their content: hashed once, checked ever after, and what is computed from them."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_core.errors import IntegrityError
from megatron_core.files import staged_folder, write_json
from megatron_core.identity import hash_file, hash_json, manifest_path, read_manifest

Arrays = dict[str, NDArray[Any]]

_MADE_FROM = "made_from.json"


class Stamps:
    """SHA-256 of files, computed again only when size, times of change or inode are others.

    A file of stamps serves all ranks of a machine: the first to ask hashes, the others wait.
    """

    def __init__(self, path: Path) -> None:
        """Keep the stamps in the JSON file ``path``."""
        self.path = path

    def hashes(self, files: Iterable[Path]) -> dict[Path, str]:
        """The hash of each file."""
        with _locked(self.path):
            known = self._read()
            stamps = {file: _stamp(file) for file in files}
            found = {}
            for file, stamp in stamps.items():
                name = str(file.resolve())
                if known.get(name, {}).get("stamp") != stamp:
                    known[name] = {"stamp": stamp, "sha256": hash_file(file)}
                    write_json(self.path, known)  # so that a kill costs one file at most
                found[file] = str(known[name]["sha256"])
        return found

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}  # what is torn is no more than hashes to be computed again
        return known if isinstance(known, dict) else {}


def verify_tokens(tokens: Path, stamps: Stamps) -> None:
    """Check the indexed datasets below ``tokens`` against the hashes in the manifest beside it.

    A folder without a manifest is no stage's artifact, and there is nothing to check it against.

    Raises:
        IntegrityError: a file is missing or is not the one that was recorded.
    """
    if not manifest_path(tokens).exists():
        return
    recorded = read_manifest(manifest_path(tokens)).files
    for name in recorded:
        if not (tokens / name).is_file():
            raise IntegrityError(f"{tokens / name} is missing: run `reforge tokenize` again")
    for file, found in stamps.hashes(tokens / name for name in recorded).items():
        if found != recorded[file.relative_to(tokens).as_posix()].sha256:
            raise IntegrityError(
                f"{file} was changed after it was recorded in {manifest_path(tokens)}: run "
                "`reforge tokenize` again"
            )


class IndexCache:
    """Arrays that are a pure function of files and of a recipe, computed once and mapped.

    Each set has a folder of its own, named by what it was made from. What it was made from and
    the hash of each array lie beside the arrays.
    """

    def __init__(self, folder: Path | None) -> None:
        """Keep the arrays below ``folder``; None computes them anew and keeps nothing."""
        self.folder = folder

    def load(
        self, name: str, files: Iterable[Path], recipe: Mapping[str, Any],
        build: Callable[[], Arrays],
    ) -> Arrays:  # fmt: skip
        """What ``build`` gives.

        Args:
            name: Of the set of arrays.
            files: All the files that ``build`` reads.
            recipe: All else that the arrays depend on.

        Raises:
            IntegrityError: a kept array was changed.
        """
        if self.folder is None:
            return build()
        stamps = Stamps(self.folder / "stamps.json")
        hashes = {file.name: digest for file, digest in stamps.hashes(files).items()}
        made_from = {"name": name, "files": hashes, "recipe": dict(recipe)}
        target = self.folder / f"{name}-{hash_json(made_from)[:24]}"
        with _locked(target):
            if not target.exists():
                _write(target, made_from, build())
        return _open(target, made_from, stamps)


def _write(target: Path, made_from: Mapping[str, Any], arrays: Arrays) -> None:
    with staged_folder(target) as staging:
        for name, array in arrays.items():
            np.save(staging / f"{name}.npy", array)
        hashes = {name: hash_file(staging / f"{name}.npy") for name in arrays}
        write_json(staging / _MADE_FROM, {"made_from": made_from, "sha256": hashes})


def _open(target: Path, made_from: Mapping[str, Any], stamps: Stamps) -> Arrays:
    try:
        written = json.loads((target / _MADE_FROM).read_text(encoding="utf-8"))
        paths = {name: target / f"{name}.npy" for name in written["sha256"]}
        found = stamps.hashes(paths.values())
        whole = written["made_from"] == made_from and all(
            found[path] == written["sha256"][name] for name, path in paths.items()
        )
    except (OSError, ValueError, KeyError):
        whole = False
    if not whole:
        raise IntegrityError(
            f"{target} is not what was computed: remove it, and it is computed again"
        )
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
