"""A peer: server and client at once."""
