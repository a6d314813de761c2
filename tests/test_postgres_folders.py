"""What an interrupted run of the tests leaves behind is removed by the next one, and nothing else is."""

import os
import subprocess
import sys

from tests.postgres import sweep


def test_folders_of_dead_runs_are_removed_and_others_stay(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    for name, owner in (("kbs_rim_pg_dead", process.pid), ("kbs_rim_pg_alive", os.getpid()), ("other", process.pid)):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "owner.pid").write_text(str(owner))
    (tmp_path / "kbs_rim_pg_new").mkdir()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kbs_rim_pg_alive", "kbs_rim_pg_new", "other"]
