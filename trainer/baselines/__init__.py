"""Recommenders that are fitted without embedding tables, to compare models with.

They are measured by the evaluation of models: the same rows, masked items, K, groups and intervals.
"""
