"""Run a command and print its wall time and the peak memory of the machine above what was used before.

    python benchmarks/measure.py make quickstart

Ray's processes are no children of the command, so the memory of the whole machine is looked at, every half second;
close other programs first.
"""

import subprocess
import sys
import time

import psutil

INTERVAL_S = 0.5
GIB = 2**30


def main() -> int:
    before = psutil.virtual_memory().used
    start, peak = time.monotonic(), 0
    process = subprocess.Popen(sys.argv[1:])
    while True:
        peak = max(peak, psutil.virtual_memory().used - before)
        try:
            status = process.wait(INTERVAL_S)
            break
        except subprocess.TimeoutExpired:
            continue
    print(
        f"wall {time.monotonic() - start:.0f} s, peak memory {peak / GIB:.2f} GiB, exit status {status}"
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
