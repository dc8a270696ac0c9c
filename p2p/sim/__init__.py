"""A swarm in virtual time: the real decisions, and everything else made up."""
