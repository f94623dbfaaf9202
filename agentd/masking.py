"""Masks secrets in texts: in every written form, also where a terminal wrapped them, and at both ends of a cut. Pure.

A text that is shortened is masked first: the rest of a secret at a cut is still a secret. `masked` takes a whole text,
`excerpt` the start of one, `MaskedOutput` the output of a program that arrives in chunks.

A search compares folded texts: without letter case, without dashes, and without everything that a terminal, a table, a
quotation or a diff puts between two characters. Folding and `find` run at the speed of C, so the time is linear.
"""

import codecs
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from agentd.written_forms import NEVER_ESCAPED, pattern_of

MASK: Final = "[hidden]"
# Masking a very short value would hide half of every line and protect nothing.
SECRET_MIN_CHARS: Final = 6
# At a cut, this many characters (without dashes and the like) that continue a secret are masked.
_EDGE_MIN_CHARS: Final = 4
_DEPTH_MAX: Final = 64
_BLOCK_CHARS: Final = 4096
# A line of output without an end is masked in pieces of this size.
_LINE_MAX_CHARS: Final = 16 * 1024
_OVERLAP_CHARS: Final = 1024
_HELD_MAX_CHARS: Final = 64 * 1024

_LITERALS: Final = re.compile(r"[A-Za-z0-9_.]+")

# Characters that a search ignores. For a secret in ASCII these are also all characters outside of ASCII: borders,
# no-break spaces, soft hyphens, zero-width characters, NEL.
_NOISE: Final = bytes([*range(33), 127]) + rb"|>+\-"
_LOWER: Final = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
_SIGNIFICANT: Final = frozenset(map(chr, range(128))) - frozenset(_NOISE.decode())
_UNICODE_NOISE: Final = re.compile(
    r"[\s\0-\x1f\x7f-\xa0\xad|>+\\\-\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u2000-\u200f\u2010-\u2015\u2028-\u202f"
    r"\u205f-\u206f\u2212\u2500-\u259f\u3000\ufe00-\ufe0f\ufeff]+"
)
# Sequences that stand for a colour, a link or a line end. They are searched as they are, and as blanks.
_TERMINAL_SEQUENCE: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])"
)
_ESCAPED_BREAK: Final = re.compile(r"(?<!\\)\\++(?:[nrtvf]|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})")

_Folded = TypeVar("_Folded", bytes, str)


class _Fold(Generic[_Folded]):
    """How texts are folded. The fold of a concatenation is the concatenation of the folds."""

    def fold(self, text: str) -> _Folded:
        raise NotImplementedError

    def places(self, block: str) -> list[int]:
        """For each character of the folded block, its place in the block."""
        raise NotImplementedError


class _AsciiFold(_Fold[bytes]):
    def fold(self, text: str) -> bytes:
        return text.encode("ascii", "ignore").translate(_LOWER, _NOISE)

    def places(self, block: str) -> list[int]:
        return [place for place, char in enumerate(block) if char in _SIGNIFICANT]


class _UnicodeFold(_Fold[str]):
    def fold(self, text: str) -> str:
        # The small sigma has two forms, and `lower` chooses by the text around it.
        return _UNICODE_NOISE.sub("", text).replace("\u03a3", "\u03c3").replace("\u03c2", "\u03c3").lower()

    def places(self, block: str) -> list[int]:
        return [place for place, char in enumerate(block) for _ in self.fold(char)]


class Span(NamedTuple):
    """A part of a text."""

    start: int
    end: int


class _Needle(Generic[_Folded]):
    """A folded secret."""

    def __init__(self, folded: _Folded) -> None:
        self.folded: _Folded = folded
        # A secret such as "aaaaaa" overlaps itself: the next search starts at its smallest period.
        size = len(folded)
        self._step = next(at for at in range(1, size + 1) if folded.startswith(folded[at:]))

    def hits(self, text: _Folded, *, cut_start: bool, cut_end: bool) -> Iterator[Span]:
        size = len(self.folded)
        at = text.find(self.folded)
        while at >= 0:
            start, end = at, at + size
            while (at := text.find(self.folded, at + self._step)) >= 0 and at < end:
                end = at + size
            yield Span(start, end)
        if cut_start and (rest := self._rest_at_start(text)):
            yield Span(0, rest)
        if cut_end and (begun := self.begun_at_end(text, _EDGE_MIN_CHARS)):
            yield Span(len(text) - begun, len(text))
        if cut_start and cut_end and _EDGE_MIN_CHARS <= len(text) < size and text in self.folded:
            yield Span(0, len(text))

    def _rest_at_start(self, text: _Folded) -> int:
        sizes = range(min(len(self.folded) - 1, len(text)), _EDGE_MIN_CHARS - 1, -1)
        return next((size for size in sizes if text.startswith(self.folded[-size:])), 0)

    def begun_at_end(self, text: _Folded, at_least: int) -> int:
        """How many characters at the end of `text` begin this secret, 0 if fewer than `at_least`."""
        sizes = range(min(len(self.folded) - 1, len(text)), at_least - 1, -1)
        return next((size for size in sizes if text.endswith(self.folded[:size])), 0)


class _Written:
    """A secret that a quoted text shows differently: the pattern of its forms, compiled at its first use."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._pattern: re.Pattern[str] | None = None
        # No form changes these characters, so a text without them needs no search.
        literal = max(_LITERALS.findall(secret), key=len, default="")
        self._literal = _ASCII.fold(literal)
        # Without an escape in it, only a secret that folds to little, or that has noise at an end, needs the pattern.
        self._is_folded = len(_UNICODE.fold(secret)) >= SECRET_MIN_CHARS and not (
            _UNICODE_NOISE.match(secret) or _UNICODE_NOISE.match(secret[-1])
        )

    def spans(self, text: str, folded: bytes) -> Iterator[Span]:
        if self._literal not in folded or (self._is_folded and "%" not in text and "\\" not in text):
            return
        if self._pattern is None:
            self._pattern = re.compile(pattern_of(self._secret), re.IGNORECASE if self._literal else 0)
        for match in self._pattern.finditer(text):
            yield Span(*match.span())


_ASCII: Final = _AsciiFold()
_UNICODE: Final = _UnicodeFold()


class Mask:
    """Replaces `secrets` in texts. A secret shorter than `SECRET_MIN_CHARS` is ignored.

    A secret is found in the forms that `repr`, JSON and URLs give it, also nested in one another, and wrapped: with any
    control characters, white space, borders, zero-width characters, `>`, `|`, `+`, backslashes and terminal sequences
    between its characters. Each line of a secret that has several is a secret too. `encoded` are texts such as base64
    that a quotation does not change.
    """

    def __init__(self, secrets: Iterable[str], *, encoded: Iterable[str] = ()) -> None:
        given, encodings = set(secrets), {text for text in encoded if len(text) >= SECRET_MIN_CHARS}
        texts = {text for secret in given for text in (secret, *map(str.strip, secret.splitlines()))}
        texts = {text for text in texts if len(text) >= SECRET_MIN_CHARS}
        ascii_folds = {_ASCII.fold(text) for text in texts | encodings if text.isascii()}
        unicode_folds = {_UNICODE.fold(text) for text in texts if not text.isascii()}
        self._ascii = [_Needle(one) for one in sorted(ascii_folds) if len(one) >= SECRET_MIN_CHARS]
        self._unicode = [_Needle(one) for one in sorted(unicode_folds) if len(one) >= SECRET_MIN_CHARS]
        self._written = [_Written(text) for text in sorted(texts) if not _is_plain(text)]
        self.is_empty = not texts | encodings

    def replace(
        self, text: str, replacement: str = MASK, *, cut_start: bool = False, cut_end: bool = False
    ) -> str:
        """`text` with `replacement` for each secret. At an end where the text was cut, also for a part of a secret."""
        spans = self.spans(text, cut_start=cut_start, cut_end=cut_end)
        return _replaced(text, spans, replacement) if spans else text

    def spans(self, text: str, *, cut_start: bool = False, cut_end: bool = False) -> list[Span]:
        """The places of the secrets, in order, without overlaps."""
        if self.is_empty or not text:
            return []
        found: set[Span] = set()
        for view in _views(text):
            folded = _ASCII.fold(view)
            hits = [
                hit for one in self._ascii for hit in one.hits(folded, cut_start=cut_start, cut_end=cut_end)
            ]
            found.update(_in_text(view, _ASCII, hits))
            if self._unicode:
                plain = _UNICODE.fold(view)
                hits = [
                    hit
                    for one in self._unicode
                    for hit in one.hits(plain, cut_start=cut_start, cut_end=cut_end)
                ]
                found.update(_in_text(view, _UNICODE, hits))
        if self._written:
            folded = _ASCII.fold(text)
            found.update(span for one in self._written for span in one.spans(text, folded))
        return _merged(found)

    def begun_at(self, text: str) -> int:
        """The place from which the end of `text` may be the start of a secret; its length if it is not."""
        begun = len(text)
        for view in _views(text):
            folded = _ASCII.fold(view)
            size = max((one.begun_at_end(folded, 1) for one in self._ascii), default=0)
            begun = min([begun, *_first_places(view, _ASCII, folded, size)])
            if self._unicode:
                plain = _UNICODE.fold(view)
                size = max((one.begun_at_end(plain, 1) for one in self._unicode), default=0)
                begun = min([begun, *_first_places(view, _UNICODE, plain, size)])
        return begun


class MaskedOutput:
    """The output of a program: masked as it arrives, of which the last `tail_bytes` are kept.

    `feed` returns what is masked already, in whole lines where they are short. What may still become a secret is held
    back until more arrives or `finish` is called.
    """

    def __init__(self, tail_bytes: int) -> None:
        self._tail_bytes = tail_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._done = ""

    def feed(self, data: bytes) -> str:
        text = self._decoder.decode(data)
        self._held += text
        if "\n" not in text and len(self._held) < _LINE_MAX_CHARS:
            return ""
        mask = _registry.mask
        spans = mask.spans(self._held)
        end = self._held.rfind("\n") + 1
        if len(self._held) - end >= _LINE_MAX_CHARS:
            end = len(self._held) - _OVERLAP_CHARS
        end = min(end, mask.begun_at(self._held))
        end = next((span.start for span in spans if span.start < end < span.end), end)
        out = _replaced(self._held[:end], [span for span in spans if span.end <= end], MASK)
        self._held = self._held[end:]
        if len(self._held) > _HELD_MAX_CHARS:
            # The start of a secret, and then only what stands between its characters.
            self._held = _UNICODE_NOISE.sub("", self._held)[-_HELD_MAX_CHARS:]
        return self._keep(out)

    def finish(self) -> str:
        """The rest, after the end of the output."""
        rest, self._held = self._held + self._decoder.decode(b"", final=True), ""
        return self._keep(masked(rest))

    def tail(self) -> str:
        """The last `tail_bytes` of the output so far, at a whole character."""
        text = self._done + masked(self._held, cut_end=True)
        end = text[-self._tail_bytes :].encode()[-self._tail_bytes :]
        return end.decode("utf-8", "ignore")

    def _keep(self, text: str) -> str:
        self._done = (self._done + text)[-self._tail_bytes :]
        return text


class _Registry:
    """The secrets of this process."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self.mask = Mask(())

    def add(self, secret: str) -> None:
        if len(secret) >= SECRET_MIN_CHARS and secret not in self.secrets:
            self.secrets.add(secret)
            self.mask = Mask(self.secrets)

    def clear(self) -> None:
        self.secrets.clear()
        self.mask = Mask(())


_registry: Final = _Registry()


def register_secret(secret: str) -> None:
    """Mask `secret` from now on wherever a text leaves agentd: logs, errors, tracebacks, output, reports, the local API.

    `Mask` has the forms. A text shorter than `SECRET_MIN_CHARS` is never masked.
    """
    _registry.add(secret)


def registered_secrets() -> tuple[str, ...]:
    """Every value that `register_secret` accepted."""
    return tuple(_registry.secrets)


def masked(text: str, *, cut_start: bool = False, cut_end: bool = False) -> str:
    """`text` with `MASK` for every registered secret. At an end where the text was cut, also for a part of one."""
    return _registry.mask.replace(text, cut_start=cut_start, cut_end=cut_end)


def excerpt(text: str, max_chars: int) -> str:
    """The start of `text`, masked before it is cut."""
    return masked(text, cut_end=True)[:max_chars]


def masked_values(value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - JSON
    """The JSON value `value` with every text in it masked, keys included."""
    match value:
        case str():
            return masked(value)
        case dict() if depth < _DEPTH_MAX:
            return {masked(str(key)): masked_values(item, depth + 1) for key, item in value.items()}
        case list() | tuple() if depth < _DEPTH_MAX:
            return [masked_values(item, depth + 1) for item in value]
        case None | bool() | int() | float():
            return value
        case _:
            return masked(str(value))


def _is_plain(secret: str) -> bool:
    """Whether the folded search finds the whole secret: no form changes it, and it neither starts nor ends with noise."""
    return (
        all(char in NEVER_ESCAPED for char in secret)
        and secret[0] in _SIGNIFICANT
        and secret[-1] in _SIGNIFICANT
        and len(_ASCII.fold(secret)) >= SECRET_MIN_CHARS
    )


def _views(text: str) -> Iterator[str]:
    """`text` in each reading, all of the same length."""
    yield text
    if "\x1b" in text:
        text = _TERMINAL_SEQUENCE.sub(_blank, text)
        yield text
    if "\\" in text:
        yield _ESCAPED_BREAK.sub(_blank, text)


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _in_text(text: str, fold: _Fold[Any], hits: Sequence[Span]) -> Iterator[Span]:
    """The places in `text` of `hits` in its fold."""
    if hits:
        places = _places(text, fold, sorted({one for hit in hits for one in (hit.start, hit.end - 1)}))
        for hit in hits:
            yield Span(places[hit.start], places[hit.end - 1] + 1)


def _first_places(text: str, fold: _Fold[Any], folded: bytes | str, size: int) -> Iterable[int]:
    """Where the last `size` characters of the fold begin in `text`, nothing for 0."""
    return _places(text, fold, [len(folded) - size]).values() if size else ()


def _places(text: str, fold: _Fold[Any], wanted: Sequence[int]) -> dict[int, int]:
    """The places in `text` of the characters `wanted` (in order) of its fold."""
    found: dict[int, int] = {}
    done = 0
    for start in range(0, len(text), _BLOCK_CHARS):
        block = text[start : start + _BLOCK_CHARS]
        size = len(fold.fold(block))
        if len(found) < len(wanted) and wanted[len(found)] < done + size:
            places = fold.places(block)
            while len(found) < len(wanted) and wanted[len(found)] < done + size:
                one = wanted[len(found)]
                found[one] = start + places[one - done]
        done += size
    return found


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def _replaced(text: str, spans: Iterable[Span], replacement: str) -> str:
    parts: list[str] = []
    at = 0
    for span in spans:
        parts += (text[at : span.start], replacement)
        at = span.end
    return "".join([*parts, text[at:]])
