"""`shardrec doctor`: what this machine has, what is wrong with it, and how to mend it.

Nothing here imports torch, Spark or any other package of shardrec's: one that is missing or broken is what a
person wants to hear of. What has to be imported is imported by a process of its own.
"""
