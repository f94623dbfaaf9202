"""`POST /upload`: multipart, one field `file`, at most 10 MiB; kept until nobody asks (nothing is written to disk)."""

import hashlib
from email import message_from_bytes, policy

from aiohttp import web

from agentd.simulator.agentapi import answers

MAX_FILE_BYTES = 10 << 20


async def serve(request: web.Request, body: bytes) -> web.Response:
    """Where the file would lie."""
    head = f"Content-Type: {request.headers.get('Content-Type', '')}\r\n\r\n".encode()
    parts = message_from_bytes(head + body, policy=policy.HTTP)
    found = [
        part for part in parts.iter_parts() if part.get_param("name", header="content-disposition") == "file"
    ]
    if not found:
        return answers.problem(
            request,
            422,
            "Unprocessable Entity",
            "validation failed",
            [{"message": "File required", "location": "file", "value": None}],
        )
    content = found[0].get_payload(decode=True)
    data = content if isinstance(content, bytes) else b""
    if len(data) > MAX_FILE_BYTES:
        return answers.problem(request, 400, "Bad Request", "file size exceeds 10MB limit")
    name = (found[0].get_filename() or "file").rpartition("/")[2]
    digest = hashlib.sha256(data).hexdigest()[:16]
    path = f"/tmp/agentapi-uploads-1/{digest}/{name}"  # noqa: S108 - the name AgentAPI gives, never opened here
    return answers.reply(request, "UploadResponseBody", {"ok": True, "filePath": path})
