"""Wikitext into prose."""

from __future__ import annotations

import html
import re
from typing import Any

import mwparserfromhell
from mwparserfromhell import nodes

from megatron_core.data.sources.templates import template_text

# Sections that are apparatus, not prose.
_APPARATUS = {
    "references", "external links", "see also", "further reading", "bibliography", "notes",
    "footnotes", "notes and references", "references and notes", "sources", "citations",
    "works cited", "literature", "gallery", "image gallery", "related articles", "publications",
    "endnotes", "general references", "references and further reading", "selected bibliography",
    "notes and citations", "explanatory notes", "filmography", "discography",
}  # fmt: skip
_HEADING = re.compile(r"^(={1,6})[ \t]*(.+?)[ \t]*\1[ \t]*$", re.MULTILINE)
_REMOVED = re.compile(
    r"<!--.*?-->|<ref\b[^>/]*/>|<ref\b[^>]*?/>|<ref\b[^>]*>.*?</ref\s*>|__[A-Z]+__",
    re.DOTALL | re.IGNORECASE,
)
# Namespaces and language prefixes whose links show nothing or a picture.
_UNSHOWN = re.compile(r"(file|image|category|media|template|portal|[a-z]{2,3}(-[a-z]+)?):", re.I)
_DROPPED_TAGS = {"ref", "table", "gallery", "timeline", "imagemap", "references", "score", "tr"}
_BREAKS = {"p": "\n\n", "blockquote": "\n\n", "div": "\n\n", "center": "\n\n", "hr": "\n\n"}
# Marks at the start of a line while the text is put together: a heading and its level, and a line
# that is one by itself (list items, verse, code); other lines continue their paragraph.
_HEADING_MARK, _LINE_MARK = "\x00", "\x01"


def clean_wikitext(source: str) -> str:
    """The prose of an article: paragraphs, list items and headings, each on its own lines.

    References, tables, pictures, categories, navigation and apparatus sections go; templates go
    except those that hold words of a sentence (quotations, units, foreign words).
    """
    body = _without_apparatus(_REMOVED.sub("", source))
    return _tidy(_render(mwparserfromhell.parse(body)))


def _without_apparatus(source: str) -> str:
    kept, position, dropping = [], 0, 0  # dropping: level of the section being dropped
    for match in _HEADING.finditer(source):
        level = len(match[1])
        if not dropping:
            kept.append(source[position : match.start()])
        position = match.start()
        if not dropping or level <= dropping:
            title = re.sub(r"[^a-z ]", "", match[2].lower()).strip()
            dropping = level if title in _APPARATUS else 0
    if not dropping:
        kept.append(source[position:])
    return "".join(kept)


def _render(code: Any) -> str:
    return "".join(map(_node, code.nodes)) if code is not None else ""


def _node(node: Any) -> str:
    match node:
        case nodes.Text():
            return str(node.value)
        case nodes.Wikilink():
            title = str(node.title).strip()
            if _UNSHOWN.match(title):
                return ""
            return _render(node.text) if node.text is not None else title.lstrip(":")
        case nodes.ExternalLink():
            return _render(node.title) if node.brackets else ""
        case nodes.HTMLEntity():
            return str(node.normalize())
        case nodes.Heading():
            return f"\n\n{_HEADING_MARK}{node.level}{_render(node.title).strip()}\n\n"
        case nodes.Template():
            return _template(node)
        case nodes.Tag():
            return _tag(node)
    return ""


def _tag(node: Any) -> str:
    name = str(node.tag).strip().lower()
    if name in _DROPPED_TAGS:
        return ""
    text = _render(node.contents)
    if name in {"br", "li", "dt", "dd"}:  # in wikitext an item's marker already starts a line
        return f"{_LINE_MARK}{text}" if node.wiki_markup else f"\n{_LINE_MARK}{text}"
    if name in {"poem", "pre", "source", "syntaxhighlight"}:
        return f"\n\n{text}\n\n".replace("\n", f"\n{_LINE_MARK}")
    if name == "sup" and text.strip("-−+").isdigit():
        return f"^{text}"
    around = _BREAKS.get(name, "")
    return f"{around}{text}{around}"


def _template(node: Any) -> str:
    name = str(node.name).strip().lower().replace("_", " ")
    values = [_render(param.value).strip() for param in node.params if not param.showkey]
    if not values:
        named = {str(param.name).strip().lower(): param.value for param in node.params}
        spoken = named.get("1") or named.get("text") or named.get("quote")
        values = [_render(spoken).strip()] if spoken else []
    return template_text(name, values)


_UNCLOSED_TABLE = re.compile(r"^[^\S\n]*(?:\{\||\||!|\[\[(?:file|image):).*\n?", re.I | re.M)
# In order: what the parser or the dropped templates leave behind.
_REPAIRS = [
    (re.compile(pattern, re.IGNORECASE | re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"[^\S\n]+", " "),
        (r"\b(?:https?|ftp)://\S+", ""),
        (r"\((?:[\s,;:/–-]|\bor\b|\band\b|listen|pronounced|e\.g\.|see)*\)", ""),
        (r"\([\s,;:]+", "("),
        (r"[^\S\n]*[,;:]*[^\S\n]*\)", ")"),
        (r"\[\s*\]", ""),
        (r" {2,}", " "),
        (r" +([,.;:!?)])", r"\1"),
        (r"([,:])(?:,| ,)+", r"\1"),
        (r"'{2,}", ""),
        (r"^[*#:; ]+", ""),
    )
]


def _tidy(text: str) -> str:
    text = "\n".join(_unwrapped(_UNCLOSED_TABLE.sub("", html.unescape(text))))
    for pattern, replacement in _REPAIRS:
        text = pattern.sub(replacement, text)
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if not line or any(map(str.isalnum, line))]
    lines = _without_empty_sections(lines)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _unwrapped(text: str) -> list[str]:
    """The lines of ``text``, where a paragraph that was wrapped over several is one."""
    lines = [""]
    continues = False  # whether the last line is a paragraph that the next line continues
    for line in text.split("\n"):
        # A space in front is wikitext for "as it stands".
        plain = bool(line.strip()) and line[0] not in f" {_HEADING_MARK}{_LINE_MARK}"
        if plain and continues:
            lines[-1] += f" {line}"
        else:
            lines.append(line.lstrip(_LINE_MARK))
        continues = plain
    return lines


def _without_empty_sections(lines: list[str]) -> list[str]:
    """Drop headings that lost all that stood below them, and unmark the others."""
    kept: list[str] = []
    next_level = 0  # of the heading that follows with nothing between; 0 when text follows
    seen_text = False
    for line in reversed(lines):
        if line.startswith(_HEADING_MARK):
            level = int(line[1])
            if seen_text or next_level > level:
                kept.append(line[2:])
                seen_text, next_level = False, level
        else:
            seen_text = seen_text or bool(line)
            kept.append(line)
    return kept[::-1]
