"""The commands of `bin/peer`, loaded when they run."""
