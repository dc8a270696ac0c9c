"""Contents: what they are made of, how they are named, and how they lie on disk."""
