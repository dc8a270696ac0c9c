"""Enjambre: get a file from one machine to many, quickly and provably intact, with nothing installed but
Python."""

__version__ = "0.1.0"
