"""The tracker: bytes in the server, answers in the service, memory in the store."""
