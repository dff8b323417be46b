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
    """Sends and receives messages in JSON over two descriptors, each after its length."""

    def __init__(self, incoming: int, outgoing: int, *, max_bytes: int):
        self._incoming, self._outgoing, self._max_bytes = incoming, outgoing, max_bytes
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
        """Receive the next message.

        Raises:
            Broken: more than `max_bytes` bytes come, or no JSON.
            Gone: nothing comes, and nothing will.
        """
        (size,) = HEADER.unpack(self._read(HEADER.size))
        if size > self._max_bytes:
            raise self.fail(Broken(f"an answer of {size} bytes is longer than {self._max_bytes}"))
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
        """Remember why nothing can be requested any more."""
        self.broken = error
        return error
