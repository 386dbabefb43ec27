"""From raw rows to a data set folder: sources, feature ops, splits, histories, and the atomic commit.

Everything that touches rows is a Spark SQL expression or join, so executors import no Python of ours.
"""
