"""Trials: arms that differ in how they choose batches, trained side by side over several seeds, at equal cost.

A trial is a run directory, so `coterie run` is what does it, and what goes on with it after an interruption.
"""
