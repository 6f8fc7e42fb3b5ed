import json
from pathlib import Path

import pytest

from tests.check_coverage import main


@pytest.mark.parametrize(("lines", "branches", "code"), [(95, 90, 0), (94, 100, 1), (100, 89, 1)])
def test_each_share_has_a_floor_of_its_own(
    lines: int, branches: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = {"num_statements": 100, "covered_lines": lines, "num_branches": 100, "covered_branches": branches}
    files = {"fima/some.py": {"summary": summary, "missing_lines": [7]}}
    report = tmp_path / "coverage.json"
    report.write_text(json.dumps({"totals": summary, "files": files}))
    assert main(report) == code
    said = capsys.readouterr().out
    assert f"fima/some.py: {100 - lines} lines and {100 - branches} branches are not run; lines [7]" in said
    assert f"coverage: {lines:.1f} % of lines (at least 95), {branches:.1f} % of branches (at least 90)" in said
