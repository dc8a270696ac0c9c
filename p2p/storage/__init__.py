"""Files on a disk: what is shared, what is downloaded, and what is remembered of both. All of it blocks, and
runs in worker threads."""
