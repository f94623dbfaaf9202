"""Turns a terminal's text and times into values that coderd's log-snapshot handler and its database accept. Pure.

coderd decodes the body with Go's encoding/json, stores it as PostgreSQL jsonb and decodes it again for readers. One
invalid field loses the whole snapshot, so every field is repaired instead of refused.
"""

import re
import unicodedata
from datetime import date
from typing import Final

FALLBACK_TIME: Final = "0001-01-01T00:00:00Z"
"""Go's zero time. coderd also uses it for a missing time."""

# Spaces and carriage returns at the end of a line. The lookbehind and the possessive `++` make it linear: each run is
# tried once, from its start.
_LINE_END: Final = re.compile(r"(?<![ \r])[ \r]++(?=\n|\Z)")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_TIME: Final = re.compile(
    r"(\d{4})(-\d\d-\d\d)[Tt ]((?:[01]\d|2[0-3]):[0-5]\d):([0-5]\d|60)(?:[.,](\d{1,9})\d*)? ?"
    r"(?:[Zz]|([+-](?:[01]\d|2[0-3])):?([0-5]\d)?)?",
    re.ASCII,
)

# Code points after which the end of a character is no longer searched. The longest emoji in use (two people, each with
# a skin tone, kissing) has ten; a longer pile of accents is cut at any place.
_CLUSTER_MAX: Final = 16
_FLAG_RUN_MAX: Final = 64
_ZWJ: Final = "\u200d"


def clean_text(text: str) -> str:
    """Return `text` without a terminal's padding and without what coderd's decoder or database rejects.

    - A lone surrogate becomes U+FFFD, as in Go's decoder (Python cannot encode it). Pairs are joined.
    - U+0000 is removed: PostgreSQL refuses it in jsonb, so coderd would answer 500 to every attempt.
    - Spaces at line ends are removed: a terminal pads every line to its width with them, which is most of a screen's
      bytes. Line feeds and carriage returns stay.
    """
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = text.replace("\0", "")
    return _LINE_END.sub(lambda run: run[0].replace(" ", ""), text)


def clean_time(text: str) -> str:
    """Return `text` as a time that Go's strict RFC 3339 parser accepts; a valid time stays unchanged.

    Repairs a missing zone (to UTC), a space or `t` instead of `T`, a comma before the fraction, `+01` or `+0100`, more
    than the nine digits that Go reads, and a leap second. Any other text becomes `FALLBACK_TIME`, because a snapshot
    with an invalid time is lost as a whole.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return FALLBACK_TIME
    year, day, minute, second, fraction, zone_hours, zone_minutes = match.groups()
    try:
        # The calendar repeats after 400 years. Go has a year 0, Python does not.
        date.fromisoformat(f"{2000 + int(year) % 400}{day}")
    except ValueError:
        return FALLBACK_TIME
    second = "59" if second == "60" else second
    zone = f"{zone_hours}:{zone_minutes or '00'}" if zone_hours else "Z"
    return f"{year}{day}T{minute}:{second}{'.' + fraction if fraction else ''}{zone}"


def cluster_start(text: str, at: int) -> int:
    """Return the first place at or after `at` where a cut does not split a character as a reader sees it.

    Handles combining marks, variation selectors, emoji joined by U+200D, skin tones, flags, Hangul syllables in parts
    and CRLF. Returns `at` if there is no such place within `_CLUSTER_MAX` code points.
    """
    for place in range(at, min(at + _CLUSTER_MAX, len(text))):
        if not _inside_cluster(text, place):
            return place
    return at


def _inside_cluster(text: str, at: int) -> bool:
    if at == 0:
        return False
    before, after = text[at - 1], text[at]
    if before < "\u0300" and after < "\u0300":
        return before == "\r" and after == "\n"
    if before == _ZWJ or _extends(after):
        return True
    if _is_flag_letter(before) and _is_flag_letter(after):
        run = 0
        while run < min(at, _FLAG_RUN_MAX) and _is_flag_letter(text[at - 1 - run]):
            run += 1
        return run % 2 == 1
    return False


def _extends(char: str) -> bool:
    return (
        char == _ZWJ
        or unicodedata.category(char) in ("Mn", "Me", "Mc")
        or "\U0001f3fb" <= char <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= char <= "\U000e007f"  # tags, as in the flag of Wales
        or "\u1160" <= char <= "\u11ff"  # vowels and finals of a Hangul syllable written in parts
    )


def _is_flag_letter(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
