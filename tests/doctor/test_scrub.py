"""Known secrets are masked in every encoding; texts that look like a secret are masked as well."""

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd import config
from agentd.doctor.scrub import Scrubber, secrets_of
from agentd.log import MASK

SECRET = 's3cret/"Wörd"+&<plus>'


def forms(secret, before="", after=""):
    whole = f"{before}{secret}{after}"
    return [
        whole,
        json.dumps(whole),
        json.dumps(whole, ensure_ascii=False),
        quote(whole),
        quote(whole, safe=""),
        base64.b64encode(whole.encode()).decode(),
        base64.urlsafe_b64encode(whole.encode()).decode(),
        whole.encode().hex(),
        whole.encode().hex().upper(),
    ]


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("after", ["", "z", "zy"])
def test_a_known_secret_is_masked_in_every_encoding(before, after):
    scrubber = Scrubber([SECRET])
    for form in forms(SECRET, before, after):
        assert MASK in scrubber.text(f"text {form} and more"), form


@given(
    secret=st.text(st.characters(codec="utf-8"), min_size=6, max_size=30),
    around=st.text(st.characters(codec="utf-8"), max_size=5),
)
def test_a_secret_of_any_characters_is_masked_in_base64(secret, around):
    masked = Scrubber([secret]).text(base64.b64encode(f"{around}{secret}{around}".encode()).decode())
    assert MASK in masked


def test_keys_and_texts_at_any_depth_are_masked_and_other_values_unchanged():
    value = {"a": [{SECRET: f"x{SECRET}y", "n": 7, "t": None}], "b": True}
    assert Scrubber([SECRET]).json(value) == {"a": [{MASK: f"x{MASK}y", "n": 7, "t": None}], "b": True}


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdef123456",
        "https://user:hunter22@example.com/",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
        "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
        "AKIAIOSFODNN7EXAMPLE",
        "password=hunter2",
        "GET /x?sig=abc123&y=1",
        "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----",
    ],
)
def test_a_text_that_looks_like_a_secret_is_masked(text):
    assert MASK in Scrubber([]).text(text)


@pytest.mark.parametrize(
    "text",
    ["the token is of an older build", "11111111-1111-4111-8111-111111111111", "sha256 0123456789abcdef"],
)
def test_words_and_ids_are_unchanged(text):
    assert Scrubber(["x"]).text(text) == text


def test_a_short_value_is_not_masked():
    assert Scrubber(["on"]).text("once upon") == "once upon"


def test_the_secrets_of_every_part_of_the_configuration_are_found(tmp_path):
    token, headers = tmp_path / "token", tmp_path / "headers"
    token.write_text("token-in-a-file\n")
    headers.write_text("Authorization: Basic dXNlcjpwYXNzd29yZA==\n")
    environ = {
        "HOME": str(tmp_path),
        "CODER_AGENT_TOKEN_FILE": str(token),
        "CODER_AGENT_HEADER": "X-Proxy=proxy-secret",
        "AGENTD_SNAPSHOTS_HTTP_HEADERS_FILE": str(headers),
        "AGENTD_SNAPSHOTS_DESTINATIONS": "https://hooks.example/T000/web-hook-secret?key=query-secret",
        "AGENTD_SNAPSHOTS_REDACT_ENV": "PLAIN",
        "PLAIN": "named-by-the-operator",
        "DB_PASSWORD": "from-the-environment",
        "LANG": "C.UTF-8",
    }
    found = secrets_of(config.load(environ=environ), environ)
    assert found >= {
        "token-in-a-file", "proxy-secret", "dXNlcjpwYXNzd29yZA==", "user:password", "password",
        "T000/web-hook-secret", "query-secret", "named-by-the-operator", "from-the-environment",
    }  # fmt: skip
    assert not found & {"C.UTF-8", str(token), str(headers)}


def test_the_credentials_of_a_proxy_and_the_header_command_are_known_secrets():
    environ = {
        "https_proxy": "me:hunter2%2Fhunter2@proxy:3128",
        "CODER_AGENT_HEADER_COMMAND": "echo X-A=sesame-open",
    }
    settings = config.load(environ={"CODER_AGENT_HEADER_COMMAND": environ["CODER_AGENT_HEADER_COMMAND"]})
    scrubber = Scrubber(secrets_of(settings, environ))
    basic = base64.b64encode(b"me:hunter2/hunter2").decode()
    for text in ("hunter2/hunter2", "hunter2%2Fhunter2", basic, "echo X-A=sesame-open"):
        assert scrubber.text(f"a {text} b") == f"a {MASK} b"
