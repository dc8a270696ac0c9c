"""Files on a disk: what is shared, what is downloaded, and what is remembered of both.

All functions and methods block, and run in worker threads; only `hashing` awaits them.
"""
