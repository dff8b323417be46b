"""Messages between the tests' process and the program's, which it does not trust."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

HEADER = struct.Struct("!I")


class Broken(BaseException):
    """The other side talks nonsense; no test may take this for an error of the program's."""


class Gone(Broken):
    """The other side has ended, or closed its pipes."""


class Channel:
    """Messages in JSON over two descriptors, each behind its length."""

    def __init__(self, incoming: int, outgoing: int, *, most: int):
        self._incoming, self._outgoing, self._most = incoming, outgoing, most
        self.broken: Broken | None = None  # for good, whoever catches the error

    def send(self, message: Any) -> None:
        content = json.dumps(message).encode()
        view = memoryview(HEADER.pack(len(content)) + content)
        try:
            while view:
                view = view[os.write(self._outgoing, view) :]
        except OSError as error:
            raise self.fail(Gone(f"cannot be written to: {error.strerror}")) from None

    def receive(self) -> Any:
        """The next message.

        Raises:
            Broken: more than `most` bytes come, or no JSON.
            Gone: nothing comes, and nothing will.
        """
        (size,) = HEADER.unpack(self._read(HEADER.size))
        if size > self._most:
            raise self.fail(Broken(f"an answer of {size} bytes is longer than {self._most}"))
        try:
            return json.loads(self._read(size))
        except (ValueError, RecursionError, MemoryError) as error:
            raise self.fail(Broken(f"no answer but nonsense: {type(error).__name__}")) from None

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = os.read(self._incoming, min(size - len(parts), 1 << 16))
            if not part:
                raise self.fail(Gone("nothing more comes"))
            parts += part
        return bytes(parts)

    def fail(self, error: Broken) -> Broken:
        """Remember why nothing can be asked any more."""
        self.broken = error
        return error
