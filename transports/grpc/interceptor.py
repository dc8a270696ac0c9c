"""Bounds what incoming gRPC calls may hold: a handler thread for which no request was sent, and streams of
the services that are not ours."""

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

from transports.grpc.health import WATCH
from transports.grpc.limits import GrpcLimits, GrpcTimeouts

if TYPE_CHECKING:
    _Interceptor = grpc.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.ServerInterceptor

REFLECTION: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


class CallInterceptor(_Interceptor):
    """Sees each call before its handler does.

    gRPC waits for the request of a call in the thread that is to handle it, without end. A client that opens
    calls and sends no request would so take all threads. Therefore every method is given to gRPC as one that
    takes a stream of requests, which is the same on the wire. The first request is awaited here, and
    `cancel_late` cancels the calls of which it does not come.
    """

    def __init__(
        self, timeouts: GrpcTimeouts, limits: GrpcLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._timeouts = timeouts
        self._crowd = limits.handler_threads // 4
        """Awaited requests beyond which they must come quickly."""
        self._streams = {REFLECTION: limits.reflection_streams, WATCH: limits.watch_streams}
        """Calls of a method that may be open at once; other methods are not bounded here."""
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._awaited: dict[object, tuple[float, Any]] = {}
        """When calls began whose request has not come yet, and their contexts."""
        self._lock = threading.Lock()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Called by gRPC for each call, before its handler."""
        handler = continuation(details)
        if handler is None:
            return None
        most = self._streams.get(details.method)
        given = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        behaviour = given if most is None else self._bounded(given, details.method, most)
        if not handler.request_streaming:
            behaviour = self._with_request(behaviour)
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def cancel_late(self) -> None:
        """Cancel the calls whose request is late; to be called each `crowd_s`, in any thread."""
        with self._lock:
            crowded = len(self._awaited) > self._crowd
            until = self._clock() - (self._timeouts.crowd_s if crowded else self._timeouts.request_s)
            late = [context for began, context in self._awaited.values() if began < until]
        for context in late:
            context.cancel()

    def _with_request(self, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(behaviour)  # the marks that gRPC looks for are carried over
        def run(requests: Iterator[Any], context: Any, *more: Any) -> Any:
            return behaviour(self._request(requests, context), context, *more)

        return run

    def _request(self, requests: Iterator[Any], context: Any) -> Any:
        """Wait for the request of a call. Raises what ends the call when there is none."""
        key = object()
        with self._lock:
            self._awaited[key] = self._clock(), context
        try:
            request = next(requests, None)
        finally:
            with self._lock:
                self._awaited.pop(key, None)
        if request is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a call is one request")
        return request

    def _bounded(self, behaviour: Callable[..., Any], method: str, most: int) -> Callable[..., Any]:
        @functools.wraps(behaviour)
        def run(request: Any, context: Any, *more: Any) -> Any:
            with self._lock:
                full = self._open[method] >= most
                self._open[method] += not full
            if full:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams of this kind")
            if not context.add_callback(lambda: self._on_ended(method)):
                self._on_ended(method)
            return behaviour(request, context, *more)

        return run

    def _on_ended(self, method: str) -> None:
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
