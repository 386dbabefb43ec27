"""Scoring rows and ranking items for users."""
