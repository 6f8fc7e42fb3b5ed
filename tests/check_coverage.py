"""Whether the tests have run enough of `fima/`: the shares of lines and of branches, and where most is missing."""

import json
import sys
from pathlib import Path
from typing import Any

FLOORS = {"lines": 95.0, "branches": 90.0}
"""Smallest shares, in percent."""
COUNTS = {"lines": ("covered_lines", "num_statements"), "branches": ("covered_branches", "num_branches")}
NUM_SHOWN = 10


def shares(summary: dict[str, Any]) -> dict[str, float]:
    """Covered lines and branches in percent, of a summary in a JSON report of coverage.py."""
    found = {}
    for name, (covered, everything) in COUNTS.items():
        found[name] = 100 * summary[covered] / summary[everything] if summary[everything] else 100.0
    return found


def missing(summary: dict[str, Any]) -> int:
    """Lines and branches that no test runs."""
    return sum(int(summary[everything] - summary[covered]) for covered, everything in COUNTS.values())


def main(report: Path) -> int:
    """Print the shares and the files with most that is missing; return 1 where a share is too small."""
    content = json.loads(report.read_text())
    files = sorted(content["files"].items(), key=lambda item: -missing(item[1]["summary"]))
    for name, found in files[:NUM_SHOWN]:
        summary = found["summary"]
        lines, branches = (summary[everything] - summary[covered] for covered, everything in COUNTS.values())
        print(f"{name}: {lines} lines and {branches} branches are not run; lines {found['missing_lines']}")
    totals = shares(content["totals"])
    print(
        "coverage: "
        + ", ".join(f"{totals[name]:.1f} % of {name} (at least {floor:g})" for name, floor in FLOORS.items())
    )
    return int(any(totals[name] < floor for name, floor in FLOORS.items()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
