"""What a content is: its manifest, its pieces and blocks, its names, its link. Pure: no files, no sockets."""
