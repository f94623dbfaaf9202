"""The metadata services of AWS, Azure and Google in one server. The real ones listen on 169.254.169.254."""

import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from agentd.simulator import faults, instance_identity
from agentd.simulator.faults import Fault, FaultPlan, FaultyServer
from agentd.simulator.serving import Changes, Listener, RequestLog

AWS_TOKEN: Final = "/latest/api/token"  # noqa: S105 - a path
AWS_IDENTITY: Final = "/latest/dynamic/instance-identity/"
AZURE: Final = "/metadata/attested/document"
GOOGLE: Final = "/computeMetadata/v1/instance/service-accounts/default/identity"


class SimulatedMetadata(FaultyServer):
    """A metadata server on 127.0.0.1, for `async with`. Its documents contain `instance_id`.

    AWS is IMDSv2 only: a document requires the session token of `PUT /latest/api/token`.
    """

    def __init__(
        self, instance_id: str = "i-0123456789abcdef0", *, port: int = 0, now: Callable[[], float] = time.time
    ) -> None:
        self.instance_id = instance_id
        self._aws_tokens: dict[str, float] = {}
        self._now = now
        self._log = RequestLog(now, Changes())
        self._faults = FaultPlan()
        self._listener = Listener(self._handle, host="127.0.0.1", port=port)

    def fault(self, kind: str, *, times: int = 1, **params: Any) -> None:  # noqa: ANN401 - per kind
        """Inject a fault of `faults.EXCHANGE` into the next `times` requests."""
        self._faults.add("*", Fault(kind, params), times)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        entry = self._log.record(request, "metadata")
        fault = self._faults.take("metadata")

        async def answer() -> web.StreamResponse:
            return self._answer(request)

        response = await answer() if fault is None else await faults.inject(fault, request, answer)
        self._log.record_status(entry, response.status)
        return response

    def _answer(self, request: web.Request) -> web.Response:
        if request.path == AWS_TOKEN:
            return self._aws_token(request)
        if request.path.startswith(AWS_IDENTITY):
            return self._aws_identity(request)
        if request.path == AZURE:
            if request.headers.get("Metadata", "").lower() != "true" or "api-version" not in request.query:
                return web.json_response(
                    {"error": "Bad request. Required metadata header not specified"}, status=400
                )
            return web.json_response(
                {"encoding": "pkcs7", "signature": instance_identity.azure(self.instance_id)}
            )
        if request.path == GOOGLE:
            if request.headers.get("Metadata-Flavor") != "Google":
                return web.Response(status=403, text="Missing Metadata-Flavor:Google header.\n")
            return web.Response(
                text=instance_identity.google(self.instance_id, request.query.get("audience", ""))
            )
        return web.Response(status=404, text="404 - Not Found")

    def _aws_token(self, request: web.Request) -> web.Response:
        ttl = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if request.method != "PUT":
            return web.Response(status=405)
        if not ttl.isdecimal() or not 1 <= int(ttl) <= 21_600:
            return web.Response(status=400)
        token = uuid.uuid4().hex
        self._aws_tokens[token] = self._now() + int(ttl)
        return web.Response(text=token)

    def _aws_identity(self, request: web.Request) -> web.Response:
        token = request.headers.get("X-aws-ec2-metadata-token", "")
        if self._aws_tokens.get(token, 0.0) <= self._now():
            return web.Response(status=401)
        document, signature = instance_identity.aws(self.instance_id)
        parts = {"document": document, "signature": signature}
        name = request.path.removeprefix(AWS_IDENTITY)
        return web.Response(text=parts[name]) if name in parts else web.Response(status=404)
