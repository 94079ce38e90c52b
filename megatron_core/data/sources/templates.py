"""The wikitext templates that hold words of a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Values = Sequence[str]


def template_text(name: str, values: Values) -> str:
    """What a template shows in running text; empty for navigation, notices and boxes.

    ``name`` is in lower case; ``values`` are its unnamed arguments as plain text.
    """
    if values and name in _SHOWING:
        return _SHOWING[name](values)
    if values and name.startswith("lang-"):
        return values[0]
    return _SYMBOLS.get(name, "")


def _first(values: Values) -> str:
    return values[0]


def _last(values: Values) -> str:
    return values[-1]


def _paragraph(values: Values) -> str:
    return f"\n\n{values[0]}\n\n"


def _listed(values: Values) -> str:
    return "\n\n" + "\n\n".join(values) + "\n\n"


def _measure(values: Values) -> str:
    """``{{convert|5|km|mi}}``, and ranges as in ``{{convert|5|to|8|km}}``."""
    if len(values) > 3 and values[1] in {"to", "-", "–", "and", "by", "x", "or"}:
        return f"{values[0]} {values[1]} {values[2]} {_UNITS.get(values[3], values[3])}"
    unit = values[1] if len(values) > 1 else ""
    return f"{values[0]} {_UNITS.get(unit, unit)}".strip()


def _around(before: str) -> Callable[[Values], str]:
    return lambda values: f"{before}{values[0]}"


def _table(groups: Mapping[str, Callable[[Values], str]]) -> dict[str, Callable[[Values], str]]:
    return {name.strip(): show for names, show in groups.items() for name in names.split(",")}


_SHOWING = _table(
    {
        "quote, quotation, blockquote, cquote, rquote, quote box, bquote": _paragraph,
        "nowrap, nobr, small, smaller, big, large, midsize, math, mvar, abbr, tooltip": _first,
        "keypress, sub, unicode, polytonic, script, linktext, sic, not a typo, val, num": _first,
        "formatnum, gaps, iast, shy, visible anchor, vanchor, vr, nihongo, zh, em, strong": _first,
        "ill, interlanguage link, angbr, sc, flag, flagcountry, term, defn, okina": _first,
        "lang, rtl-lang, transl, transliteration": _last,
        "hlist, ordered list, unbulleted list, columns-list, plainlist": _listed,
        "convert, cvt": _measure,
        "frac, fraction, sfrac": "/".join,
        "chem, chem2": "".join,
        "reign": "–".join,
        "circa, c.": _around("c. "),
        "as of, asof": _around("As of "),
        "sup": _around("^"),
        "e": _around("×10^"),
        "usd, us$": _around("$"),
        "hms": _around("HMS "),
        "uss": _around("USS "),
        "music": lambda values: {"flat": "♭", "sharp": "♯", "natural": "♮"}.get(values[0], ""),
    }
)
_SYMBOLS = {
    "ndash": "–", "spaced ndash": " – ", "snd": " – ", "dash": " – ",
    "mdash": "—", "emdash": "—", "mdashb": "—",
    "'": "'", "\"'": "\"'", "' \"": "' \"", "'s": "'s",
    "=": "=", "!": "|", "nbsp": " ", "thinsp": " ",
    "co2": "CO2", "carbon": "C", "hydrogen": "H", "oxygen": "O", "nitrogen": "N",
    "pi": "π", "°": "°", "minus": "−", "times": "×", "sdot": "·", "·": "·", "okina": "ʻ",
    "circa": "c.", "c.": "c.", "bce": "BCE", "ad": "AD", "bc": "BC",
}  # fmt: skip
_UNITS = {
    "sqmi": "square miles", "sqft": "square feet", "sqkm": "km²", "km2": "km²", "m2": "m²",
    "m3": "m³", "C": "°C", "F": "°F", "ft": "feet", "mi": "miles", "lb": "pounds", "in": "inches",
    "acre": "acres",
}  # fmt: skip
