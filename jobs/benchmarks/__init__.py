"""Measurements that users can repeat: `shardrec bench`."""
