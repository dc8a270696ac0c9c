"""Sockets and threads, and nothing of content."""
