"""Removes secrets from the texts of a debug bundle.

Known secrets are the values of configuration and environment that are secret by their key or name. They are
masked in every encoding. Other texts that look like a secret are masked as well, because peers and programs
may print secrets that agentd does not know; some of these texts are not secret.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agentd import log, proxy
from agentd.config import Config, keys
from agentd.durable import read_file
from agentd.masking import Mask

FILE_MAX_BYTES: Final = 64 * 1024

_SECRET_NAME: Final = re.compile(r"(?i)token|secret|passw|passphrase|api_?key|private|credential|auth|cookie|session|_key$|^key$|_pat$|_dsn$")  # fmt: skip
_LOOKS_SECRET: Final = re.compile(
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
    """Masks `secrets`, and texts that look like a secret, in a text or in every text of a JSON value."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = [secret for secret in secrets if len(secret) >= log.SECRET_MIN_CHARS]
        self._known = Mask(known, encoded=(form for secret in known for form in encodings(secret)))

    def text(self, text: str) -> str:
        return _LOOKS_SECRET.sub(log.MASK, log.masked(self._known.replace(text)))

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


def encodings(secret: str) -> set[str]:
    """`secret` in hex, base64, and percent-encoded completely. `masking.Mask` covers escaped forms.

    Inside a longer text that was encoded in base64 as a whole, a secret has one of three forms, which depends
    on its offset. The characters at both ends depend on the text around it and are not part of the form.
    """
    raw = secret.encode("utf-8", "surrogatepass")
    forms = {"".join(f"%{byte:02X}" for byte in raw), raw.hex()}
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        first = -(-shift * 8 // 6)
        last = (shift + len(raw)) * 8 // 6
        inner = encoded[first:last]
        forms |= {inner, inner.replace("+", "-").replace("/", "_")}
    return {form for form in forms if len(form) >= log.SECRET_MIN_CHARS}


def secrets_of(settings: Config, environ: Mapping[str, str]) -> set[str]:
    """Every secret value of configuration and environment, and the secret parts of each."""
    return {part for value in _secret_values(settings, environ) for part in _parts(value)}


def _secret_values(settings: Config, environ: Mapping[str, str]) -> Iterator[str]:
    yield settings.coder.token
    yield from (header.partition("=")[2] for header in settings.coder.headers)
    yield settings.coder.header_command
    yield from proxy.secrets_of(environ)
    yield from (environ.get(name, "") for name in settings.snapshots.redact_env)
    # For the variables of agentd the key decides, not the name: CODER_AGENT_TOKEN_FILE is a path, not a
    # secret.
    ours = {name: key.secret for key in keys().values() for name in key.env}
    yield from (value for name, value in environ.items() if ours.get(name, bool(_SECRET_NAME.search(name))))
    for file in (settings.coder.token_file, settings.snapshots.http_headers_file):
        if file is not None:
            yield from _lines(file)
    for destination in settings.snapshots.destinations:
        # The path of a web hook authorizes posting to it.
        parts = urlsplit(destination)
        yield parts.query
        if parts.scheme in ("http", "https"):
            yield parts.path.strip("/")


def _lines(file: Path) -> list[str]:
    """The lines of a token file or a headers file, of a header only the value."""
    try:
        content = read_file(file, FILE_MAX_BYTES, named_by_user=True).decode("utf-8-sig", "replace")
    except OSError:
        return []  # an unreadable file cannot be in the bundle; the findings of the doctor have the reason
    return [line.partition(": ")[2] or line for line in content.splitlines()]


def _parts(value: str) -> Iterator[str]:
    """`value`, its longer words, and the credentials of an `Authorization` header."""
    value = value.strip()
    yield value
    yield from (word for word in re.split(r"[\s,;=&]+", value) if len(word) >= 2 * log.SECRET_MIN_CHARS)
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
