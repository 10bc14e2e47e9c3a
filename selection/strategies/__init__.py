"""The ways to form batches: one name, one function of the problem."""

from selection.problem import Strategy
from selection.strategies.baselines import random
from selection.strategies.spectral import spectral

STRATEGIES: dict[str, Strategy] = {"random": random, "spectral": spectral}
"""By the name that `selection.strategy` has in a configuration."""
