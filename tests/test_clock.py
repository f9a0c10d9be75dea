"""Limits are counted by a clock that nobody sets: the wall clock only dates what people read."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
WALL = {"time.time", "time.time_ns", "time.localtime", "time.strftime", "time.gmtime"}
WALL |= {"datetime.now", "datetime.datetime.now", "datetime.utcnow", "datetime.today"}
DATED = {
    ("cli.py", "time.strftime"),  # the default name of a run folder
    ("metrics.py", "time.strftime"),  # lines of log.txt
    ("events.py", "time.time"),  # what TensorBoard shows
}


def wall_clock(text):
    """Every use of the wall clock in a module's text."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute | ast.Name):
            name = ast.unparse(node)
            if name in WALL:
                found.add(name)
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_wall_clock_is_for_dates_alone():
    files = [*(ROOT / "darts_dist").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    used = {(file.name, name) for file in files for name in wall_clock(file.read_text())}
    assert used <= DATED


def test_the_check_sees_what_it_looks_for():
    text = "import time\nfrom time import time_ns\nuntil = time.time() + datetime.now().second"
    assert wall_clock(text) == {"time.time", "time.time_ns", "datetime.now"}
