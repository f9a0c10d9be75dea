import json
import pathlib
import subprocess
import sys

BENCH = pathlib.Path(__file__).parent.parent / "tools" / "bench.py"


def bench(*arguments):
    command = [sys.executable, str(BENCH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_input_bench_counts_pictures_a_second_as_json_and_as_a_table():
    rows = json.loads(bench("input", "--seconds", "0.01", "--json"))["input"]
    assert all(row["pictures_per_s"] > 0 and row["pictures_per_cpu_s"] > 0 for row in rows)
    table = bench("input", "--seconds", "0.01").splitlines()
    assert table[0].split() == list(rows[0])
    assert len(table) == len(rows) + 1
