"""What a content is: its manifest, pieces and blocks, names and link. Pure: no files, no sockets."""
