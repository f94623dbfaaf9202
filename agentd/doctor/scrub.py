"""Takes secrets out of what a stranger will read: the known ones in every form they may be written, and look-alikes.

Known are the values of this configuration and environment that are secret by their place. Look-alikes are found by
their shape, for what a peer or a program has said: better one word too many withheld than one too few.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from agentd import log
from agentd.config import Config, keys

MASK: Final = log.MASK
VALUE_MIN_CHARS: Final = 6
"""A shorter value would blot out half of every text and protect nothing."""
FILE_MAX_BYTES: Final = 64 * 1024

_SECRET_NAME: Final = re.compile(r"(?i)token|secret|passw|passphrase|api_?key|private|credential|auth|cookie|session|_key$|^key$|_pat$|_dsn$")  # fmt: skip
_SHAPES: Final = re.compile(
    r"""(?x)
    -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*                                       # JSON web token
    | \b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk-|npm_|pypi-|hf_)[\w-]{12,}
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)                                         # user:password of a URL
    | (?i:(?<=bearer\ )|(?<=basic\ ))[\w.~+/=-]{6,}
    | (?i:(?<=token=)|(?<=secret=)|(?<=password=)|(?<=passwd=)|(?<=api_key=)|(?<=apikey=)|(?<=signature=)|(?<=sig=))[^\s&"',;]{3,}
    """,
    re.DOTALL,
)


class Scrubber:
    """Masks `secrets` and look-alikes in text, and in every text of a JSON value."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {
            form for secret in secrets if len(secret) >= VALUE_MIN_CHARS for form in written_forms(secret)
        }
        # Longest first, so that a secret that contains another is masked whole.
        ordered = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered)), re.IGNORECASE) if ordered else None

    def text(self, text: str) -> str:
        known = text if self._known is None else self._known.sub(MASK, text)
        return _SHAPES.sub(MASK, log.masked(known))

    def json(self, value: Any) -> Any:  # noqa: ANN401 - JSON
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(str(key)): self.json(item) for key, item in value.items()}
            case list() | tuple():
                return [self.json(item) for item in value]
            case _:
                return value


def written_forms(secret: str) -> set[str]:
    """`secret` as it may stand in other text: as it is, escaped in JSON, in a URL, in hex, and in base64.

    A secret inside something longer that was encoded as a whole has one of three forms in base64, by where it began;
    the characters at both ends depend on its neighbours and are left out.
    """
    raw = secret.encode("utf-8", "surrogatepass")
    forms = {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(raw, safe=""),
        quote(raw),
        "".join(f"%{byte:02X}" for byte in raw),
        raw.hex(),
    }
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        first = -(-shift * 8 // 6)
        last = (shift + len(raw)) * 8 // 6
        inner = encoded[first:last]
        forms |= {inner, inner.replace("+", "-").replace("/", "_")}
    return {form for form in forms if len(form) >= VALUE_MIN_CHARS}


def secrets_of(settings: Config, environ: Mapping[str, str]) -> set[str]:
    """Every value that is secret by its place, each also without what stands around it."""
    return {part for value in _secret_values(settings, environ) for part in _parts(value)}


def _secret_values(settings: Config, environ: Mapping[str, str]) -> Iterator[str]:
    yield settings.coder.token
    yield from (header.partition("=")[2] for header in settings.coder.headers)
    yield from (environ.get(name, "") for name in settings.snapshots.redact_env)
    # Of our own variables the schema knows which are secret: CODER_AGENT_TOKEN_FILE, for one, is only a path.
    ours = {name: key.spec.secret for key in keys().values() for name in key.env}
    yield from (value for name, value in environ.items() if ours.get(name, bool(_SECRET_NAME.search(name))))
    for file in (settings.coder.token_file, settings.snapshots.http_headers_file):
        if file is not None:
            yield from _lines(file)
    for destination in settings.snapshots.destinations:
        # Whoever knows the path of a web hook may post to it.
        parts = urlsplit(destination)
        yield parts.query
        if parts.scheme in ("http", "https"):
            yield parts.path.strip("/")


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_MAX_BYTES).decode("utf-8-sig", "replace")
    except OSError:
        return []  # what cannot be read cannot be in the bundle; the doctor says that it cannot
    return [line.partition(": ")[2] or line for line in content.splitlines()]


def _parts(value: str) -> Iterator[str]:
    value = value.strip()
    yield value
    yield from (word for word in re.split(r"[\s,;=&]+", value) if len(word) >= 2 * VALUE_MIN_CHARS)
    scheme, _, rest = value.partition(" ")
    if scheme.lower() in ("bearer", "basic", "token"):
        yield rest
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(rest, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return
        yield pair
        yield pair.partition(":")[2]
