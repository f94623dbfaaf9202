"""Instance identity documents, which the simulated metadata server signs and the simulated coderd verifies.

The formats are those of AWS, Azure and Google; the signature is an HMAC with a key that both simulators
share.
"""

import base64
import binascii
import hashlib
import hmac
import json
from typing import Final

_KEY: Final = b"agentd's simulated cloud"


class InvalidIdentityError(Exception):
    """The signature of an identity document is wrong. The text is the detail in coderd's answer."""

    def __init__(self) -> None:
        super().__init__("Signature verification failed.")


def aws(instance_id: str) -> tuple[str, str]:
    """The instance identity document and its signature."""
    document = json.dumps(
        {
            "accountId": "123456789012",
            "instanceId": instance_id,
            "region": "eu-central-1",
            "version": "2017-09-30",
        },
        indent=2,
    )
    return document, base64.b64encode(_mac(document.encode())).decode()


def verify_aws(document: str, signature: str) -> str:
    """The instance id. Raises `InvalidIdentityError`."""
    _compare(document.encode(), _unbase64(signature))
    return _text(document.encode(), "instanceId")


def azure(vm_id: str) -> str:
    """The attested document: one base64 text of signature and payload."""
    payload = json.dumps({"vmId": vm_id}).encode()
    return base64.b64encode(_mac(payload) + payload).decode()


def verify_azure(signature: str) -> str:
    """The VM id. Raises `InvalidIdentityError`."""
    raw = _unbase64(signature)
    _compare(raw[32:], raw[:32])
    return _text(raw[32:], "vmId")


def google(instance_id: str, audience: str) -> str:
    """A JSON Web Token for `audience`."""
    claims = {"aud": audience, "google": {"compute_engine": {"instance_id": instance_id}}}
    signed = ".".join(_part(json.dumps(one).encode()) for one in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{signed}.{_part(_mac(signed.encode()))}"


def verify_google(token: str) -> str:
    """The instance id, for the audience `coder`. Raises `InvalidIdentityError`."""
    signed, _, signature = token.rpartition(".")
    _compare(signed.encode(), _unbase64(signature, urlsafe=True))
    claims = json.loads(_unbase64(signed.partition(".")[2], urlsafe=True))
    if claims["aud"] != "coder":
        raise InvalidIdentityError
    return str(claims["google"]["compute_engine"]["instance_id"])


def _mac(payload: bytes) -> bytes:
    return hmac.digest(_KEY, payload, hashlib.sha256)


def _compare(payload: bytes, signature: bytes) -> None:
    if not hmac.compare_digest(_mac(payload), signature):
        raise InvalidIdentityError


def _text(payload: bytes, name: str) -> str:
    return str(json.loads(payload)[name])


def _part(payload: bytes) -> str:
    return base64.urlsafe_b64encode(payload).rstrip(b"=").decode()


def _unbase64(text: str, *, urlsafe: bool = False) -> bytes:
    padded = text + "=" * (-len(text) % 4)
    try:
        return base64.b64decode(padded, altchars=b"-_" if urlsafe else None, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidIdentityError from None
