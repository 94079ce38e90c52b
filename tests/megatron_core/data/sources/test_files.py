"""Which files a path names, in what order; what cannot be read is counted, not lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_core.data.sources.files import SourceFile, matching_files, read_files
from megatron_core.data.sources.reading import open_buffered
from megatron_core.data.sources.source import Broken
from megatron_core.errors import CorpusError

SUFFIXES = (".jsonl", ".jsonl.gz")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)


def names(path: str) -> list[str]:
    return [file.name for file in matching_files(path, SUFFIXES)]


def test_names_are_relative_and_in_order() -> None:
    make("d/b.jsonl", "d/a/z.jsonl", "d/a.jsonl.gz", "d/.no.jsonl", "d/.no/x.jsonl", "d/n.txt")
    assert names("d") == ["a.jsonl.gz", "a/z.jsonl", "b.jsonl"]
    assert names(str(Path("d").resolve())) == names("d")
    assert names("d/b.jsonl") == ["b.jsonl"]
    assert names("d/*.jsonl") == ["b.jsonl"]
    assert names("d/**/*.jsonl") == ["a/z.jsonl", "b.jsonl"]
    assert names("*/a/*") == ["d/a/z.jsonl"]
    assert names("d/n*") == ["n.txt"]  # a glob says itself which suffix it wants
    assert names("d/?") == ["a/z.jsonl"]  # a folder that a glob matches is read as a folder


def test_nothing_there_is_an_error_that_names_the_path() -> None:
    Path("empty").mkdir()
    for path in ("none/*.x", "missing.jsonl", "empty", "empty/**"):
        with pytest.raises(CorpusError, match=path.replace("*", r"\*")):
            names(path)


def test_a_name_with_glob_characters_is_a_file() -> None:
    make("a[1].jsonl")
    assert names("a[1].jsonl") == ["a[1].jsonl"]


def test_links_are_followed_but_not_in_circles() -> None:
    make("d/deep/a.jsonl", "elsewhere/b.jsonl")
    Path("d/linked").symlink_to(Path("elsewhere").resolve())
    for number in range(3):  # together more ways around than could ever be walked
        Path(f"d/deep/up{number}").symlink_to("..")
    Path("d/itself.jsonl").symlink_to("itself.jsonl")
    expected = ["deep/a.jsonl", "itself.jsonl", "linked/b.jsonl"]
    assert names("d") == expected
    assert names("d/**/*.jsonl") == expected
    assert [str(broken) for broken in read("d") if isinstance(broken, Broken)] == [
        "itself.jsonl: unreadable after 0 records: Too many levels of symbolic links"
    ]


def test_a_name_that_is_no_utf8_is_spelled_out() -> None:
    Path(os.fsdecode(b"caf\xe9.jsonl")).write_text("x")
    assert names(".") == ["caf\\xe9.jsonl"]


def read(path: str) -> list[str | Broken]:
    def lines(file: SourceFile) -> Iterator[str]:
        with open_buffered(file.path) as stream:
            yield from (line.decode() for line in stream)

    return list(read_files(path, SUFFIXES, lines))


def test_what_is_no_file_is_one_broken_record() -> None:
    make("d/a.jsonl", "d/gone.jsonl")
    Path("d/folder.jsonl").mkdir()
    os.mkfifo("d/pipe.jsonl")
    Path("d/dangling.jsonl").symlink_to("nowhere")
    found = []
    for record in read_files("d", SUFFIXES, lambda file: [open_buffered(file.path).read()]):
        Path("d/gone.jsonl").unlink(missing_ok=True)  # after it was listed
        found.append(record)
    assert found[0] == b"d/a.jsonl"
    assert [str(broken).replace("unreadable after 0 records: ", "") for broken in found[1:]] == [
        "dangling.jsonl: No such file or directory",
        "folder.jsonl: a folder, not a file",
        "gone.jsonl: No such file or directory",
        "pipe.jsonl: no regular file",
    ]


def test_a_folder_of_parts_that_is_named_like_a_file_is_read() -> None:
    make("d/table.jsonl/part-0.jsonl", "d/table.jsonl/part-1.jsonl")
    parts = ["table.jsonl/part-0.jsonl", "table.jsonl/part-1.jsonl"]
    assert names("d") == names("d/*.jsonl") == parts


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_broken() -> None:
    make("d/a.jsonl", "d/closed/b.jsonl")
    Path("d/closed").chmod(0)
    assert [str(broken) for broken in read("d") if isinstance(broken, Broken)] == [
        "closed: unreadable after 0 records: Permission denied"
    ]
    Path("d/closed").chmod(0o700)
