"""A tokenizer that exists, copied into the artifact."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from megatron_core.data.tokenizer.folder import (
    CONFIG,
    MODEL,
    TOKENIZER,
    VOCABULARY,
    open_backend,
    read_config,
    read_roles,
)
from megatron_core.data.tokenizer.sentence_piece import write_converted
from megatron_core.errors import CorpusError, IntegrityError
from megatron_core.files import write_json

# Data alone: whatever else lies in such a folder, code and pickles too, stays there.
_COPIED = (TOKENIZER, "special_tokens_map.json", "chat_template.jinja", VOCABULARY)


def adopt(source: Path, output: Path, end_of_document: str | None) -> None:
    """Copy the tokenizer ``source``, a Hugging Face folder or a SentencePiece file, to ``output``.

    Args:
        end_of_document: Token that ends documents, if not the one the tokenizer names.

    Raises:
        CorpusError: there is none, it cannot be read, or no token ends documents.
    """
    if source.is_dir() and not (source / TOKENIZER).is_file() and (source / MODEL).is_file():
        source = source / MODEL
    if source.is_file():
        content = source.read_bytes()
        try:
            write_converted(content, output, end_of_document)
        except CorpusError as error:
            raise CorpusError(f"tokenizer.path: {source}: {error}") from error
        shutil.copyfile(source, output / MODEL)
    elif (source / TOKENIZER).is_file():
        _copy_folder(source, output, end_of_document)
    else:
        raise CorpusError(
            f"tokenizer.path: {source} is neither a folder with {TOKENIZER} or {MODEL} nor a "
            "SentencePiece file"
        )
    roles = read_roles(read_config(output))
    end = roles.get("eos") or roles.get("sep")
    if end is None or open_backend(output).token_to_id(end) is None:
        raise CorpusError(
            f"{source} has no token {end or 'that ends a sequence'}: name one of its tokens with "
            "tokenizer.end_of_document"
        )


def verify_unchanged(source: Path, taken: Path, end_of_document: str | None) -> None:
    """Check that ``source`` would still give the artifact ``taken``.

    One that is no longer there is not missed: the artifact has all that it gave.

    Raises:
        IntegrityError: it was changed since.
    """
    if not source.exists():
        return
    with TemporaryDirectory() as folder:
        again = Path(folder)
        try:
            adopt(source, again, end_of_document)
        except CorpusError:
            same = False
        else:
            given = {path.name for path in again.iterdir()}
            kept = {path.name for path in taken.iterdir()} & {*_COPIED, CONFIG, MODEL}
            same = given == kept and not any(
                filecmp.cmpfiles(again, taken, given, shallow=False)[1:]
            )
    if not same:
        raise IntegrityError(
            f"tokenizer.path: {source} was changed after {taken} was made of it: run `reforge "
            "tokenizer` again"
        )


def _copy_folder(source: Path, output: Path, end_of_document: str | None) -> None:
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, output / name)
    config = read_config(source) if (source / CONFIG).is_file() else {}
    config.pop("auto_map", None)  # Names code of the folder, which is not run.
    config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    if not read_roles(config) and (output / "special_tokens_map.json").is_file():
        config |= json.loads((output / "special_tokens_map.json").read_text(encoding="utf-8"))
    if end_of_document:
        config["eos_token"] = end_of_document
    write_json(output / CONFIG, config)
