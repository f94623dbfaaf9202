"""Gets the agent's session token from coderd in exchange for the cloud's signed identity of this instance.

The metadata server of AWS, Azure or Google returns the signed proof, and coderd returns the token for it
(coderd `workspaceresourceauth.go`, codersdk `agentsdk/{aws,azure,google}.go`). A new build has a new token,
so agentd repeats the exchange after each 401. While a claim job runs, the exchange fails or returns the same
token; both are normal.
"""

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Final, Literal

from yarl import URL

from agentd import log
from agentd.coderd.answers import Answer, identity_error
from agentd.coderd.client import proxy_failure
from agentd.coderd.errors import CoderdError, IdentityError, MetadataError
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.http_client import failure, json_object, read_start
from agentd.proxy import Proxy, request_options
from agentd.tls import aiohttp

Kind = Literal["aws-instance-identity", "azure-instance-identity", "google-instance-identity"]

METADATA_URL: Final = "http://169.254.169.254"
"""The link-local address that all three clouds use. A number, so that it works without a DNS resolver."""
STEP_TIMEOUT_S: Final = 10.0
"""Limit of each of the two steps, the proof and the exchange."""
_ANSWER_MAX_BYTES: Final = 64 * 1024
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,512}")


class InstanceIdentityToken:
    """A `TokenSource` that gets the token at its first use and again after each 401.

    `agent_name` chooses one of several agents on this instance. `headers`, `tls` and `proxy` are for coderd.
    `metadata_proxy` is the proxy for the metadata server: like the Coder agent, agentd treats it as any other
    server, so NO_PROXY should name it.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        coder_url: str,
        session: aiohttp.ClientSession,
        agent_name: str = "",
        headers: ExtraHeaders | None = None,
        tls: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
        metadata_url: str = METADATA_URL,
        metadata_proxy: Proxy | None = None,
    ) -> None:
        self._kind = kind
        self._exchange_url = f"{coder_url.rstrip('/')}/api/v2/workspaceagents/{kind}"
        self._session = session
        self._agent_name = agent_name
        self._headers = headers or ExtraHeaders()
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._proxy = proxy
        self._metadata_url = metadata_url.rstrip("/")
        self._metadata_proxy = metadata_proxy
        self._token = ""
        self._failure = ""
        # One exchange at a time: the stream and an upload can receive the same 401 within a second.
        self._exchanging = asyncio.Lock()
        self._log = log.get("identity")

    async def current(self) -> str:
        async with self._exchanging:
            if not self._token:
                self._token = await self._fetch()
            return self._token

    async def renew(self, rejected: str) -> bool:
        async with self._exchanging:
            if self._token in ("", rejected):
                try:
                    self._token = await self._fetch()
                except CoderdError as exc:
                    # Keep the old token: after a claim coderd accepts it again.
                    if str(exc) != self._failure:
                        self._log.warning("identity.not_renewed", error=str(exc))
                    self._failure = str(exc)
            return self._token not in ("", rejected)

    async def _fetch(self) -> str:
        hint = "is agentd on an instance of that cloud?"
        if self._metadata_proxy is not None:
            hint = "add 169.254.169.254 to NO_PROXY"
        async with _step("metadata server", MetadataError, hint, self._metadata_proxy):
            proof = await self._proof()
        if self._agent_name:
            proof["agent_name"] = self._agent_name
        async with _step("coderd", IdentityError, "check coder.url", self._proxy):
            token = await self._exchange(proof)
        log.register_secret(token)
        self._failure = ""
        self._log.info("identity.exchanged", kind=self._kind)
        return token

    async def _proof(self) -> dict[str, str]:
        cloud = self._kind.removesuffix("-instance-identity")
        return await {"aws": self._aws, "azure": self._azure, "google": self._google}[cloud]()

    async def _aws(self) -> dict[str, str]:
        # IMDSv2. In a container its answer needs a hop limit of 2.
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
        session = (await self._get_metadata("PUT", "/latest/api/token", ttl)).strip()
        if not _TOKEN.fullmatch(session):
            raise MetadataError("metadata server: the IMDSv2 session token is not valid")
        headers = {"X-aws-ec2-metadata-token": session}
        identity = "/latest/dynamic/instance-identity"
        signature = await self._get_metadata("GET", f"{identity}/signature", headers)
        document = await self._get_metadata("GET", f"{identity}/document", headers)
        return {"signature": signature, "document": document}

    async def _azure(self) -> dict[str, str]:
        path = "/metadata/attested/document?api-version=2020-09-01"
        attested = json_object(await self._get_metadata("GET", path, {"Metadata": "true"}))
        signature, encoding = attested.get("signature"), attested.get("encoding")
        if not isinstance(signature, str) or not isinstance(encoding, str):
            raise MetadataError("metadata server: the attested document has no signature and encoding")
        return {"signature": signature, "encoding": encoding}

    async def _google(self) -> dict[str, str]:
        path = "/computeMetadata/v1/instance/service-accounts/default/identity?audience=coder&format=full"
        token = await self._get_metadata("GET", path, {"Metadata-Flavor": "Google"})
        return {"json_web_token": token.strip()}

    async def _get_metadata(self, method: str, path: str, headers: Mapping[str, str]) -> str:
        """The text of the metadata server's 200."""
        url = URL(self._metadata_url + path, encoded=True)
        options = request_options(self._metadata_proxy, headers)
        async with self._session.request(method, url, allow_redirects=False, **options) as response:
            if response.status != 200:
                raise MetadataError(
                    f"metadata server: {response.status} to {method} {url.path}",
                    status=response.status,
                    hint="coder.auth must name this cloud, and the instance must allow metadata access",
                )
            # coderd checks the proof, so it also rejects one that is cut off.
            body = await read_start(response.content.iter_any(), _ANSWER_MAX_BYTES)
            return body.decode("utf-8", "replace")

    async def _exchange(self, proof: Mapping[str, str]) -> str:
        headers = {**await self._headers.current(), "Content-Type": "application/json"}
        async with self._session.post(
            URL(self._exchange_url, encoded=True),
            data=json.dumps(proof).encode(),
            allow_redirects=False,
            ssl=self._tls,
            **request_options(self._proxy, headers),
        ) as response:
            body = await read_start(response.content.iter_any(), _ANSWER_MAX_BYTES)
            if response.status != 200:
                raise identity_error(Answer.of(response.status, response.headers, body))
        token = json_object(body).get("session_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise IdentityError("coderd: the answer holds no session token", status=200)
        return token


@contextlib.asynccontextmanager
async def _step(peer: str, kind: type[IdentityError], hint: str, proxy: Proxy | None) -> AsyncIterator[None]:
    """Raise `kind` if `peer` does not answer the block within `STEP_TIMEOUT_S`, or the error of the proxy."""
    try:
        async with asyncio.timeout(STEP_TIMEOUT_S):
            yield
    except TimeoutError as exc:
        raise kind(f"{peer}: no answer within {STEP_TIMEOUT_S:g}s", hint=hint) from exc
    except (aiohttp.ClientError, OSError) as exc:
        if proxy is not None and (error := proxy_failure(exc, proxy)) is not None:
            raise error from exc
        raise kind(f"{peer}: {failure(exc)}", hint=hint) from exc
