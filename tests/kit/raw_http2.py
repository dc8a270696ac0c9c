"""A caller that speaks HTTP/2 by hand, and so can do what no gRPC client does: open calls without a request,
or grant no window."""

from __future__ import annotations

import asyncio
from typing import Any

import h2.config
import h2.connection
import h2.settings


class RawCaller:
    """One connection. It answers pings, and takes no more bytes than its window allows."""

    def __init__(self, port: int, window: int = 65_535) -> None:
        """`window` are the bytes that the other side may send on each stream."""
        self._port = port
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        settings = {
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
            h2.settings.SettingCodes.ENABLE_PUSH: 0,
        }
        self._http.local_settings = h2.settings.Settings(client=True, initial_values=settings)
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.seen: list[Any] = []
        """What the other side sent, as events of h2."""

    async def __aenter__(self) -> RawCaller:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._http.initiate_connection()
        self._flush()
        self._reading = asyncio.create_task(self._read(reader))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._writer is not None
        assert self._reading is not None
        self._writer.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, self._writer.wait_closed(), return_exceptions=True)

    def call(self, method: str, request: bytes | None = None) -> int:
        """Open a call, and send its request if there is one; returns the stream's number."""
        stream = self._http.get_next_available_stream_id()
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "peer"),
            ("te", "trailers"),
        ]
        self._http.send_headers(stream, [*fields, ("content-type", "application/grpc")])
        if request is not None:
            self._http.send_data(stream, b"\0" + len(request).to_bytes(4, "big") + request, end_stream=True)
        self._flush()
        return stream

    def _flush(self) -> None:
        assert self._writer is not None
        self._writer.write(self._http.data_to_send())

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65_536):
            self.seen += self._http.receive_data(data)
            self._flush()
