"""Who is let in by the serving side of gRPC: calls whose request is awaited, streams that are not ours, and
from where somebody calls."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import grpc

if TYPE_CHECKING:
    _Interceptor = grpc.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.ServerInterceptor

HANDLERS: Final = 64
"""Threads in which gRPC calls us, at most: a call leaves at once when its request is there."""
REQUEST_TIME: Final = 10.0
"""Seconds within which a request must follow its call."""
CROWD: Final = HANDLERS // 4
CROWD_TIME: Final = 0.25
"""The same while more requests than `CROWD` are awaited. It is long: a request is sent together with the
headers of its call."""


class Gate(_Interceptor):
    """Sees to it that no call holds a thread of gRPC for long, and that of some methods few are open.

    gRPC waits for the request of a call in the thread that is to handle it, without end. So every method is
    given to it as one that takes a stream of requests, which on the wire is the same; the first is awaited
    here, and `sweep` cancels calls of which it does not come.
    """

    def __init__(self, limits: dict[str, int]) -> None:
        """`limits`: how many calls of a method, by its full name, may be open; others are not bounded
        here."""
        self._limits = limits
        self._open: Counter[str] = Counter()
        self._awaited: dict[object, tuple[float, Any]] = {}
        """When calls began whose request has not come yet, and their contexts."""
        self._lock = threading.Lock()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Called by gRPC for each call, before its handler."""
        handler = continuation(details)
        if handler is None:
            return None
        limit = self._limits.get(details.method)
        given = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        behaviour = given if limit is None else self._bounded(given, details.method, limit)
        if not handler.request_streaming:
            behaviour = self._with_first(behaviour)
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def _with_first(self, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(behaviour)  # the marks that gRPC looks for are carried over
        def run(requests: Iterator[Any], context: Any, *more: Any) -> Any:
            return behaviour(self._first(requests, context), context, *more)

        return run

    def _first(self, requests: Iterator[Any], context: Any) -> Any:
        """The request of a call. Raises what ends the call when there is none."""
        ticket = object()
        with self._lock:
            self._awaited[ticket] = time.monotonic(), context
        try:
            request = next(requests, None)
        finally:
            with self._lock:
                self._awaited.pop(ticket, None)
        if request is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a call is one request")
        return request

    def sweep(self) -> None:
        """Cancel what has waited too long for its request; to be called each `CROWD_TIME`, in any thread."""
        with self._lock:
            limit = CROWD_TIME if len(self._awaited) > CROWD else REQUEST_TIME
            until = time.monotonic() - limit
            late = [context for began, context in self._awaited.values() if began < until]
        for context in late:
            context.cancel()

    def _bounded(self, behaviour: Callable[..., Any], method: str, limit: int) -> Callable[..., Any]:
        @functools.wraps(behaviour)
        def run(request: Any, context: Any, *more: Any) -> Any:
            with self._lock:
                full = self._open[method] >= limit
                self._open[method] += not full
            if full:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams of this kind")
            if not context.add_callback(lambda: self._ended(method)):
                self._ended(method)
            return behaviour(request, context, *more)

        return run

    def _ended(self, method: str) -> None:
        with self._lock:
            self._open[method] -= 1


def host_of(connection: str) -> str:
    """The host in what gRPC calls a peer: `ipv4:10.0.0.7:41000`, `ipv6:%5B::1%5D:41000`. An IPv4 address
    inside IPv6 counts as itself."""
    host = unquote(connection.partition(":")[2]).rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        mapped = getattr(ipaddress.ip_address(host), "ipv4_mapped", None)
        if mapped is not None:
            return str(mapped)
    return host
