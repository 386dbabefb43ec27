"""The feature spec applied to raw columns with Arrow and numpy: the one code for Spark and for single rows.

Imports neither torch nor Spark. `raw_values` reads raw columns as numbers, tokens and times, the `*_ops`
modules hold the feature ops, and `RowEncoder` applies a fitted spec.
"""
