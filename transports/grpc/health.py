"""The standard health service, `grpc.health.v1.Health`: a peer serves as long as its port is open.

Not the servicer of grpcio-health-checking. That one sends to its watchers while it holds the lock that each
check and the end of the server need, so that one watcher that takes no bytes stops them all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

NAME: Final[str] = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
WATCH: Final = f"/{NAME}/Watch"

_Answer: Any = health_pb2.HealthCheckResponse


class Health:
    """Answers for `services`, and for the server as a whole, which has no name."""

    def __init__(self, services: tuple[str, ...], senders: Executor) -> None:
        """`senders` lends a thread to each watcher while its answer is sent."""
        self._services = ("", *services)
        self._senders = senders

    def handler(self) -> Any:
        """What gRPC is to be given."""
        watch: Any = functools.partial(self._watch)
        watch.experimental_non_blocking = True
        asked, answered = health_pb2.HealthCheckRequest.FromString, _Answer.SerializeToString
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, asked, answered),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, asked, answered),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    def _check(self, request: Any, context: Any) -> Any:
        if request.service not in self._services:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _Answer(status=_Answer.SERVING)

    def _watch(self, request: Any, context: Any, send: Callable[[Any], None]) -> None:
        """Answer once; the stream stays open until the watcher goes or the server closes."""
        status = _Answer.SERVING if request.service in self._services else _Answer.SERVICE_UNKNOWN
        try:
            self._senders.submit(send, _Answer(status=status))
        except RuntimeError:  # the server has closed meanwhile, or there is no thread to be had
            context.abort(grpc.StatusCode.UNAVAILABLE, "the peer is stopping")
