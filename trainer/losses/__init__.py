"""Losses of what models give for a batch."""
