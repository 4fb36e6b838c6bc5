"""Learners: what a round asks of the banks' rows, and what the sums of the answers become."""
