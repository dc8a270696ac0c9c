"""The composition root: commands that parse, build, run and print."""
