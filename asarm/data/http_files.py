"""Files by http(s) address for `datasets`, which reads them only with packages it does not bring.

Every answer's length is checked: a connection that is cut must not look like the end of a file.
"""

from __future__ import annotations

from http.client import HTTPException, HTTPResponse
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

TIMEOUT = 60  # seconds without a byte


class HttpFiles(AbstractFileSystem):
    """The part of a file system that reading a stream needs; paths are whole addresses."""

    protocol = ("http", "https")
    cachable = False  # `fsspec` would keep sizes of files that changed

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def unstrip_protocol(self, name: str) -> str:
        return name

    def info(self, path: str, **settings: Any) -> dict[str, Any]:
        """Return size and identity of a file; OSError where the server does not say.

        A first byte is requested: not every server that gives files answers HEAD.
        """
        with _answer(Request(path, headers={"Range": "bytes=0-0"})) as answer:
            length = answer.headers.get("Content-Length", "")
            if answer.status == 206:
                length = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if not length.isdecimal():
                raise ValueError(f"{path} has no known length; fetch it and name the local file")
            etag = answer.headers.get("ETag")
        return {"name": path, "size": int(length), "type": "file", "ETag": etag}

    def isfile(self, path: str) -> bool:
        """Return True, or raise what `info` raises: an inherited one would hide trouble."""
        return bool(self.info(path))

    def isdir(self, path: str) -> bool:
        return False

    def _open(self, path: str, mode: str = "rb", **settings: Any) -> AbstractBufferedFile:
        names = ("block_size", "cache_type", "cache_options")
        return HttpFile(self, path, mode, **{k: v for k, v in settings.items() if k in names})


class HttpFile(AbstractBufferedFile):
    """One file, fetched in ranges; from front to back where the server gives only the whole."""

    whole: HTTPResponse | None = None  # the answer of a server that gives no ranges
    position = 0  # of the next byte in it

    def _fetch_range(self, start: int, end: int) -> bytes:
        try:
            if self.whole is not None and self.position <= start:
                body = self._read_on(start, end)
            else:
                body = self._ask(start, end)
        except HTTPException as error:
            raise ConnectionError(f"the answer broke off ({error!r})") from None
        if len(body) != end - start:
            self._forget()
            raise ConnectionError(f"{end - start} bytes were requested and {len(body)} came")
        return body

    def _ask(self, start: int, end: int) -> bytes:
        self._forget()
        answer = _answer(Request(self.path, headers={"Range": f"bytes={start}-{end - 1}"}))
        if answer.status == 206:
            with answer:
                return answer.read()
        self.whole, self.position = answer, 0
        return self._read_on(start, end)

    def _read_on(self, start: int, end: int) -> bytes:
        answer = cast(HTTPResponse, self.whole)
        while self.position < start:
            skipped = len(answer.read(min(start - self.position, self.blocksize)))
            if not skipped:
                return b""
            self.position += skipped
        body = answer.read(end - start)
        self.position += len(body)
        return body

    def _forget(self) -> None:
        if self.whole is not None:
            self.whole.close()
            self.whole = None

    def close(self) -> None:
        """End the connection."""
        self._forget()
        super().close()


def register() -> None:
    """Make `datasets` open addresses with these classes; doing so again is harmless."""
    for protocol in HttpFiles.protocol:
        fsspec.register_implementation(protocol, HttpFiles, clobber=True)


def _answer(request: Request) -> HTTPResponse:
    request.add_header("User-Agent", "asarm")
    request.add_header("Accept-Encoding", "identity")
    try:
        return urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        error.close()  # it is the answer too, and holds a connection
        raise
    except HTTPException as error:
        raise ConnectionError(f"no answer ({error!r})") from None
