"""`coterie doctor`: whether this machine can do a run. `judging.py` decides, `probes.py` looks."""
