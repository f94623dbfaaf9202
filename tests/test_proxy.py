"""Which proxy a URL has. The cases are those of Go's `golang.org/x/net/http/httpproxy` and of its documentation."""

import base64
import subprocess
import sys

import pytest

from agentd import log
from agentd.errors import ConfigError
from agentd.proxy import proxy_of, request_options, secrets_of

PROXY = {"HTTP_PROXY": "proxy", "HTTPS_PROXY": "proxy"}


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("cache.corp.example.com:1234", "http://cache.corp.example.com:1234"),
        ("cache.corp.example.com", "http://cache.corp.example.com:80"),
        ("localhost", "http://localhost:80"),
        ("localhost:3128", "http://localhost:3128"),
        ("https://cache.corp.example.com", "https://cache.corp.example.com:443"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://127.0.0.1:8080/", "https://127.0.0.1:8080"),
        ("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
        ("user:word@proxy:3128", "http://proxy:3128"),
    ],
)
def test_a_proxy_is_a_url_or_a_host_with_an_optional_port(value, url):
    assert proxy_of("http://example.com", {"HTTP_PROXY": value}).url == url


@pytest.mark.parametrize(
    ("environ", "url", "wanted"),
    [
        ({"HTTP_PROXY": "plain.tld", "HTTPS_PROXY": "secure.tld"}, "http://insecure.tld/", "http://plain.tld:80"),
        ({"HTTP_PROXY": "plain.tld", "HTTPS_PROXY": "secure.tld"}, "https://secure.tld/", "http://secure.tld:80"),
        ({"HTTP_PROXY": "plain.tld", "HTTPS_PROXY": "https://secure.tld"}, "https://x.tld/", "https://secure.tld:443"),
        ({"HTTP_PROXY": "plain.tld"}, "https://secure.tld/", None),
        ({"HTTP_PROXY": "plain.tld"}, "ftp://insecure.tld/", None),
        ({"HTTP_PROXY": "upper", "http_proxy": "lower"}, "http://x.tld", "http://upper:80"),
        ({"HTTP_PROXY": "", "http_proxy": "lower"}, "http://x.tld", "http://lower:80"),
        ({"https_proxy": "lower"}, "https://x.tld", "http://lower:80"),
        ({"HTTPS_PROXY": "p", "REQUEST_METHOD": "PUT"}, "https://x.tld", "http://p:80"),
        ({"ALL_PROXY": "p", "all_proxy": "p"}, "https://x.tld", None),
        ({}, "https://x.tld", None),
    ],
)  # fmt: skip
def test_the_scheme_of_the_url_chooses_the_variable_and_upper_case_precedes(environ, url, wanted):
    proxy = proxy_of(url, environ)
    assert (proxy and proxy.url) == wanted


NO_PROXY = (
    "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, 10.0.0.0/30,"
    " 2001:db8::52:0:1, [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, 2002:db8:a::45/64"
)


@pytest.mark.parametrize(
    ("host", "proxied"),
    [
        ("localhost", False), ("127.0.0.1", False), ("127.0.0.2", False), ("[::1]", False), ("[::2]", True),
        ("[::ffff:127.0.0.1]", False),
        ("192.168.1.1", False), ("192.168.1.2", True), ("192.168.1.3", False), ("192.168.1.4", True),
        ("10.0.0.2", False), ("10.0.0.4", True), ("[::ffff:10.0.0.2]", False),
        ("[2001:db8::52:0:1]", False), ("[2001:db8::52:0:2]", True), ("[2001:db8::52:0:3]", False),
        ("[2002:db8:a::123]", False), ("[fe80::424b:c8be:1643:a1b6]", True),
        ("barbaz.net", True), ("www.barbaz.net", False), ("foobar.com", False), ("www.foobar.com", False),
        ("foofoobar.com", True), ("baz.com", True), ("localhost.net", True), ("local.localhost", True),
        ("barbarbaz.net", True), ("wildcard.io", True), ("nested.wildcard.io", False), ("awildcard.io", True),
        ("FooBar.com", False),
    ],
)  # fmt: skip
def test_no_proxy_has_domains_addresses_networks_and_ports(host, proxied):
    for port in ("", ":80"):
        assert (proxy_of(f"http://{host}{port}/", {**PROXY, "NO_PROXY": NO_PROXY}) is not None) == proxied
    assert proxy_of(f"http://{host}", {**PROXY, "NO_PROXY": "*"}) is None


@pytest.mark.parametrize(
    ("no_proxy", "url", "proxied"),
    [
        ("example.com", "http://example.com/", False),
        (".example.com", "http://example.com/", True),
        ("ample.com", "http://example.com/", True),
        ("example.com", "http://foo.example.com/", False),
        (".foo.com", "http://example.com/", True),
        (".示例.com", "http://www.示例.com", False),
        ("xn--fsq092h.com", "http://www.示例.com", False),
        ("示例.com", "http://www.xn--fsq092h.com", False),
        ("example.com", "http://[1000::%25.example.com]:123", True),
        ("example.com:443", "https://example.com", False),
        ("example.com:443", "https://sub.example.com", False),
        ("example.com:443", "https://example.com:8443", True),
        ("example.com:80", "https://example.com", True),
        (".example.com:8443", "https://a.example.com:8443", False),
        ("EXAMPLE.com", "https://example.com", False),
        (" , example.com ,", "https://example.com", False),
        ("other.com,*", "https://example.com", False),
        (":1", "http://example.com", True),
        ("*example.com", "http://example.com", True),
        ("10.0.0.0/255.0.0.0", "http://10.0.0.1", True),
        ("10.1.2.3/8", "http://10.200.0.1", False),
        ("[2001:db8::1]", "http://[2001:db8::1]", True),
        ("1.2.3.4:", "http://1.2.3.4:99", False),
        ("169.254.169.254", "http://169.254.169.254/latest", False),
        ("", "http://169.254.169.254/latest", True),
    ],
)  # fmt: skip
def test_each_form_of_no_proxy(no_proxy, url, proxied):
    assert (proxy_of(url, {**PROXY, "NO_PROXY": no_proxy}) is not None) == proxied
    assert (proxy_of(url, {**PROXY, "no_proxy": no_proxy}) is not None) == proxied
    if no_proxy:
        assert proxy_of(url, {**PROXY, "NO_PROXY": "nothing.example", "no_proxy": no_proxy}) is not None


def test_http_proxy_is_an_error_in_a_cgi_environment():
    with pytest.raises(ConfigError, match=r"HTTP_PROXY: not used, because REQUEST_METHOD is set.*unset"):
        proxy_of("http://example.com", {"HTTP_PROXY": "http://10.1.2.3:8080", "REQUEST_METHOD": "GET"})


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "ftp"])
def test_a_proxy_of_another_kind_is_an_error_that_says_what_to_do(scheme):
    environ = {"HTTPS_PROXY": f"{scheme}://user:hunter2hunter2@proxy:1080"}
    with pytest.raises(ConfigError, match=rf"HTTPS_PROXY.*{scheme}.*set HTTPS_PROXY to an http://") as caught:
        proxy_of("https://coder.example", environ)
    assert "hunter2" not in str(caught.value)
    assert proxy_of("https://coder.example", {**environ, "NO_PROXY": "coder.example"}) is None


def test_credentials_are_percent_decoded_masked_and_registered_as_secrets():
    proxy = proxy_of("https://coder.example", {"HTTPS_PROXY": "http://d%C3%B6:p%40ss%2Fw%3Ard@proxy:3128"})
    assert base64.b64decode(proxy.authorization.removeprefix("Basic ")).decode() == "dö:p@ss/w:rd"
    assert str(proxy) == repr(proxy) == "http://d%C3%B6:[hidden]@proxy:3128"
    assert f"{proxy.url}" == "http://proxy:3128"
    assert proxy.url_with_credentials == "http://d%C3%B6:p%40ss%2Fw%3Ard@proxy:3128"
    shown = log.masked(f"p@ss/w:rd p%40ss%2Fw%3Ard {proxy.authorization}")
    assert shown == "[hidden] [hidden] Basic [hidden]"


def test_credentials_go_to_the_proxy_only():
    headers = {"A": "b"}
    assert request_options(None, headers) == {"headers": headers}
    tunnel = request_options(proxy_of("https://x.tld", {"HTTPS_PROXY": "u:w@p"}), headers)
    assert tunnel["headers"] == headers
    assert tunnel["proxy_headers"] == {"Proxy-Authorization": "Basic dTp3"}
    plain = request_options(proxy_of("http://x.tld", {"HTTP_PROXY": "u:w@p"}), headers)
    assert plain == {"headers": {"A": "b", "Proxy-Authorization": "Basic dTp3"}, "proxy": "http://p:80"}


@pytest.mark.parametrize(
    "value", ["http://user:hunter2#x@proxy:3128", "http://[::1", "http://", "http://p:0", "http://p:x"]
)
def test_a_value_that_is_not_a_url_is_an_error_without_the_value(value):
    with pytest.raises(
        ConfigError, match=r"^HTTPS_PROXY: is not the URL of a proxy; write http://USER"
    ) as caught:
        proxy_of("https://coder.example", {"HTTPS_PROXY": value})
    assert "hunter2" not in str(caught.value)
    assert proxy_of("https://localhost", {"HTTPS_PROXY": value}) is None


def test_the_secrets_of_all_variables_are_known():
    environ = {"http_proxy": "u:lowerword@p", "HTTPS_PROXY": "https://u:upper%21word@p"}
    assert {"lowerword", "upper!word", "upper%21word"} <= set(secrets_of(environ))


def test_the_module_loads_no_library_that_the_daemon_does_not_load_anyway():
    code = (
        "import sys, agentd.tls, agentd.log\n"
        "before = set(sys.modules)\n"
        "import agentd.proxy\n"
        "agentd.proxy.proxy_of('https://coder.example', {})\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["agentd.proxy"]
