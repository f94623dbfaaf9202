import os
import ssl
import subprocess
import sys

import pytest
import trustme
from aiohttp import web

from agentd.errors import ConfigError
from agentd.tls import aiohttp, client_context

# A self-signed test CA and server certificate for 127.0.0.1, valid from 2024 to 2124, created with openssl ca -selfsign.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBYDCCAQagAwIBAgIBATAKBggqhkjOPQQDAjAWMRQwEgYDVQQDDAthZ2VudGQg
dGVzdDAgFw0yNDAxMDEwMDAwMDBaGA8yMTI0MDEwMTAwMDAwMFowFjEUMBIGA1UE
AwwLYWdlbnRkIHRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASXEmekdhcY
uauRRLzVwfblGG0HiL5ZmkgvWiKYzIEnyKKlB+4E7e1kPVxbXUCjXiiOIQ8BRwcG
GMLEMOcvGfKzo0MwQTAPBgNVHRMBAf8EBTADAQH/MA8GA1UdEQQIMAaHBH8AAAEw
HQYDVR0OBBYEFDJpRSmT060fHbDy2FkCVmMIETQIMAoGCCqGSM49BAMCA0gAMEUC
IQCmppgo5Dvp1t4IO34wDinFajlOT9qHATbfl7FIAXHbUgIgK7i8ZjTJ5a0rIXrM
sbq0U+ukzTrhQap2cTZOuSCsLG0=
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgKEji0+iX4QaUJZbk
COUcGi1tFUJvUr1r8CuUWckLYqehRANCAASXEmekdhcYuauRRLzVwfblGG0HiL5Z
mkgvWiKYzIEnyKKlB+4E7e1kPVxbXUCjXiiOIQ8BRwcGGMLEMOcvGfKz
-----END PRIVATE KEY-----
"""


@pytest.fixture
def ca_file(tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text(CERTIFICATE)
    return path


@pytest.fixture
async def https_url(ca_file, tmp_path):
    """A server with a certificate of the test CA."""
    key = tmp_path / "key.pem"
    key.write_text(KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca_file, key)

    async def hello(_request):
        return web.Response(text="hello")

    app = web.Application()
    app.add_routes([web.get("/", hello)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


async def get(url: str, context: ssl.SSLContext | None) -> str:
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context or True) as response:
        return await response.text()


@pytest.mark.parametrize("url", ["http://coder.example.com", "http://127.0.0.1:3284"])
def test_a_plain_http_url_has_no_context(url, ca_file):
    assert client_context(url) is None
    assert client_context(url, ca_file) is None


async def test_a_server_of_the_configured_ca_is_trusted(https_url, ca_file):
    assert await get(https_url, client_context(https_url, ca_file)) == "hello"


async def test_a_server_of_an_unknown_ca_is_refused(https_url):
    context = client_context(https_url)
    assert context.verify_mode == ssl.CERT_REQUIRED
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await get(https_url, context)


async def test_a_certificate_for_another_host_is_refused(https_url, ca_file):
    elsewhere = https_url.replace("127.0.0.1", "localhost")
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await get(elsewhere, client_context(elsewhere, ca_file))


def test_the_configured_ca_is_added_to_those_of_the_system(ca_file):
    ours, systems = client_context("https://x", ca_file), client_context("https://x")
    assert len(ours.get_ca_certs()) == len(systems.get_ca_certs()) + 1


@pytest.mark.parametrize("content", [b"", b"hello", CERTIFICATE[:200].encode(), b"\xff" * 100])
def test_a_file_without_certificates_is_a_config_error(tmp_path, content):
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^coder\.ca_file: .*ca.pem cannot be read as PEM certificates"):
        client_context("https://coder.example.com", path)


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"No such file.*point it at the CA bundle"):
        client_context("https://coder.example.com", tmp_path / "none.pem")


def test_the_import_of_the_daemon_loads_no_ca_bundle():
    code = (
        "import ssl\n"
        "def parse(*_): raise SystemExit('a CA bundle was loaded')\n"
        "ssl.SSLContext.load_default_certs = parse\n"
        "import agentd.daemon.build, agentd.daemon.run\n"
        "assert ssl.SSLContext.load_default_certs is parse, 'it was not restored'\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.fixture
def no_system_cas(tmp_path, monkeypatch):
    """SSL_CERT_FILE and SSL_CERT_DIR name nothing, so that the CAs of this machine do not count."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(empty / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(empty))


async def test_ssl_cert_file_replaces_the_cas_of_the_system(https_url, ca_file, no_system_cas, monkeypatch):
    assert client_context(https_url).get_ca_certs() == []
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    context = client_context(https_url)
    assert len(context.get_ca_certs()) == 1
    assert await get(https_url, context) == "hello"


async def test_ssl_cert_dir_is_a_list_of_directories_whose_files_need_no_hashed_names(
    https_url, ca_file, no_system_cas, tmp_path, monkeypatch
):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (first / "notes.txt").write_text("no certificate")
    (first / "sub").mkdir()
    (second / "corporate.pem").write_text(CERTIFICATE)
    (second / "0a1b2c3d.0").symlink_to("corporate.pem")
    os.mkfifo(second / "pipe")
    monkeypatch.setenv("SSL_CERT_DIR", f"{first}::{tmp_path / 'gone'}:{second}")
    context = client_context(https_url)
    assert len(context.get_ca_certs()) == 1
    assert await get(https_url, context) == "hello"
    assert len(client_context(https_url, ca_file).get_ca_certs()) == 1, "the same certificate counts once"


@pytest.fixture
async def asks_for_certificate(tmp_path):
    """A server that accepts clients with a certificate of the test CA only; yields its URL, the CA and both files."""
    ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA).configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    client = ca.issue_cert("workspace.example", key_type=trustme.KeyType.ECDSA)
    paths = {"ca": tmp_path / "root.pem", "cert": tmp_path / "client.pem", "key": tmp_path / "client.key"}
    ca.cert_pem.write_to_path(paths["ca"])
    client.cert_chain_pems[0].write_to_path(paths["cert"])
    client.private_key_pem.write_to_path(paths["key"])

    async def hello(request):
        return web.Response(text=str(request.transport.get_extra_info("peercert") is not None))

    app = web.Application()
    app.add_routes([web.get("/", hello)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}/", paths
    await runner.cleanup()


async def test_the_client_certificate_is_presented(asks_for_certificate, tmp_path):
    url, paths = asks_for_certificate
    context = client_context(url, paths["ca"], cert_file=paths["cert"], key_file=paths["key"])
    assert await get(url, context) == "True"
    both = tmp_path / "both.pem"
    both.write_bytes(paths["cert"].read_bytes() + paths["key"].read_bytes())
    assert await get(url, client_context(url, paths["ca"], cert_file=both)) == "True"
    with pytest.raises(aiohttp.ClientError):
        await get(url, client_context(url, paths["ca"]))


ENCRYPTED_KEY = (
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
    "MIHjME4GCSqGSIb3DQEFDTBBMCkGCSqGSIb3DQEFDDAcBAiJ3nO8Z4oZ3wICCAAw\n"
    "-----END ENCRYPTED PRIVATE KEY-----\n"
)


@pytest.mark.parametrize("key", [None, b"", b"hello", KEY.encode(), ENCRYPTED_KEY.encode(), "missing"])
def test_a_client_certificate_without_its_key_is_a_config_error(tmp_path, key):
    cert, key_file = tmp_path / "client.pem", tmp_path / "client.key"
    issued = trustme.CA().issue_cert("workspace.example")
    issued.cert_chain_pems[0].write_to_path(cert)
    if isinstance(key, bytes):
        key_file.write_bytes(key)
    with pytest.raises(
        ConfigError, match=r"^coder\.client_cert_file: .*cannot be read.*coder\.client_key_file"
    ):
        client_context("https://coder.example", cert_file=cert, key_file=None if key is None else key_file)
