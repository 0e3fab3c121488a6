"""`python -m tools.bench [lpu] [gpu] [dram] [trace] [viewer] [export]`: how fast the emulator itself is on one core."""

from __future__ import annotations

import os
import platform
import sys

from tools import console
from tools.bench.engines import BENCHES, Shown
from tools.report import table


def main(names: list[str]) -> int:
    """Print one line a rate. Returns the exit code."""
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        console.message(f"error: no benchmark {unknown[0]}; benchmarks: {', '.join(BENCHES)}")
        return 2
    console.data(f"{cpu_name()}, {os.cpu_count()} cores, Python {platform.python_version()}, one core used\n")
    rows = []
    for name in names or BENCHES:
        for rate in BENCHES[name]():
            if isinstance(rate, Shown):
                rows.append([rate.what, rate.value, rate.unit, rate.aim])
                continue
            aim = f"{rate.aim / 1e6:g} M" if rate.aim else ""
            rows.append([rate.what, f"{rate.per_second / 1e6:,.2f} M", rate.unit, aim])
    console.data(table(rows, ["what", "measured", "unit", "first aim"]))
    return 0


def cpu_name() -> str:
    """Name of this computer's processor, as far as it can be found without a privilege."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
