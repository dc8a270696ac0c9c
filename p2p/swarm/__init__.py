"""The pure decisions of one peer: what to ask of whom, and whom to serve."""
