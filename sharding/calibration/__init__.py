"""Measures what a rank of this machine can do, while the other ranks do the same."""
