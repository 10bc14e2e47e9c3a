"""`coterie status`: where a run stands, from the files of its run directory and, where it is at hand, from SLURM.

`reading.py` reads, `standing.py` decides, `text.py` spells.
"""
