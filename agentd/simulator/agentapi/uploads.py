"""`POST /upload`: multipart, one field `file` of at most 10 MiB. The server's stop deletes the files."""

import hashlib
import shutil
import tempfile
from email import message_from_bytes, policy
from email.message import Message
from pathlib import Path
from typing import Final

from aiohttp import web

from agentd.simulator.agentapi import answers

MAX_FILE_BYTES: Final = 10 << 20


class Uploads:
    """`agentapi-uploads-N/<16 digits of the sha256>/<name>` in the system's temporary directory."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    async def serve(self, request: web.Request, body: bytes) -> web.Response:
        """Store the file and answer with its path."""
        part = _file_part(request, body)
        if part is None:
            return answers.problem(
                request,
                422,
                "Unprocessable Entity",
                "validation failed",
                [{"message": "File required", "location": "file", "value": None}],
            )
        content = part.get_payload(decode=True)
        data = content if isinstance(content, bytes) else b""
        if len(data) > MAX_FILE_BYTES:
            return answers.problem(request, 400, "Bad Request", "file size exceeds 10MB limit")
        path = self._store(_base_name(part.get_filename()), data)
        return answers.reply(request, "UploadResponseBody", {"ok": True, "filePath": str(path)})

    def remove(self) -> None:
        """Delete all uploaded files."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _store(self, name: str, data: bytes) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="agentapi-uploads-"))
        folder = self._folder / hashlib.sha256(data).hexdigest()[:16]
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_bytes(data)
        return path


def _file_part(request: web.Request, body: bytes) -> Message | None:
    head = f"Content-Type: {request.headers.get('Content-Type', '')}\r\n\r\n".encode()
    for part in message_from_bytes(head + body, policy=policy.HTTP).walk():
        if part.get_param("name", header="content-disposition") == "file":
            return part
    return None


def _base_name(name: str | None) -> str:
    """The last component of the client's file name, without what a file system refuses."""
    plain = (
        (name or "")
        .replace("\0", "")
        .rpartition("/")[2]
        .encode("utf-8", "replace")[:255]
        .decode("utf-8", "ignore")
    )
    return plain if plain not in ("", ".", "..") else "file"
