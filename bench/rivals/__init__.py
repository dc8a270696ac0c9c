"""The programs that we are measured against: which are here, how to get the others, and how each is started
for a fair run."""
