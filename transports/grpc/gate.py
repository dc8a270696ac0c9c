"""Who is let in by the serving side of gRPC: how many streams of a service that is not ours, and from what host somebody calls."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc

if TYPE_CHECKING:
    _Interceptor = grpc.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.ServerInterceptor


class Gate(_Interceptor):
    """Bounds how many streams of a method are open at once. `limits` is by the method's full name; others are not bounded."""

    def __init__(self, limits: dict[str, int]) -> None:
        self._limits = limits
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Called by gRPC for each call, before its handler."""
        handler = continuation(details)
        limit = self._limits.get(details.method)
        if handler is None or limit is None:
            return handler
        if handler.stream_stream is not None:
            return handler._replace(stream_stream=self._bounded(handler.stream_stream, details.method, limit))
        return handler._replace(unary_stream=self._bounded(handler.unary_stream, details.method, limit))

    def _bounded(self, behaviour: Callable[..., Any], method: str, limit: int) -> Callable[..., Any]:
        @functools.wraps(behaviour)  # the marks that gRPC looks for are carried over
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
    """The host in what gRPC calls a peer: `ipv4:10.0.0.7:41000`, `ipv6:%5B::1%5D:41000`. An IPv4 address inside IPv6 counts as itself."""
    host = unquote(connection.partition(":")[2]).rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        mapped = getattr(ipaddress.ip_address(host), "ipv4_mapped", None)
        if mapped is not None:
            return str(mapped)
    return host
