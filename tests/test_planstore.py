"""What `plan` keeps of compiled programs from one call to the next."""

import pytest
from etils import epath

from darts_dist import planconfig, planstore
from darts_dist.planning import Compiled

WORDS = ("topology=h100:1", "data.kind=cifar10")


def config(*words):
    return planconfig.load(None, [*WORDS, *words])


class Compiling:
    """A compiler that counts what it is given."""

    def __init__(self):
        self.given = []

    def __call__(self, one):
        self.given.append(one.data.global_batch)
        program = {"program": "evaluate", "runs": {0: 1, 35: 2}, "flops": 0.1 + 0.2}
        spoken = {"program": "evaluate", "runs": {0: 1}, "axes": ["data"], "seconds": 1e-9 / 3}
        timings = {"trace_s": 1.0, "compile_s": 2.0}
        return Compiled({"seed": 1, "data": 1}, [program], [spoken], 7, 9, timings)


@pytest.fixture
def compiling():
    return Compiling()


def test_a_second_call_has_the_same_figures_and_compiles_nothing(tmp_path, compiling):
    folder = epath.Path(tmp_path / "plans")
    first = planstore.Kept(compiling, folder, "h100")(config())
    later = planstore.Kept(compiling, folder, "h100")
    again = later(config("plan.seeds=[1,2]", "name=other", "data.path=elsewhere"))
    assert len(compiling.given) == 1 and later.used == 1
    assert (again.programs, again.collectives) == (first.programs, first.collectives)
    assert (again.mesh, again.state_bytes, again.multiply_adds) == (dict(first.mesh), 7, 9)
    assert set(again.timings.values()) == {0.0}


@pytest.mark.parametrize(
    ("about", "words"),
    [("v5e", ()), ("h100", ("data.global_batch=64",)), ("h100", ("network.layers=5",))],
)
def test_another_machine_or_config_is_compiled(tmp_path, compiling, about, words):
    folder = epath.Path(tmp_path)
    planstore.Kept(compiling, folder, "h100")(config())
    other = planstore.Kept(compiling, folder, about)
    other(config(*words))
    assert len(compiling.given) == 2 and other.used == 0


def test_a_change_of_the_package_compiles_anew(tmp_path, compiling, monkeypatch):
    folder = epath.Path(tmp_path)
    planstore.Kept(compiling, folder, "h100")(config())
    monkeypatch.setattr("darts_dist.agreement.code_version", lambda: "newer")
    planstore.Kept(compiling, folder, "h100")(config())
    assert len(compiling.given) == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"mesh": 3}'])
def test_a_damaged_file_is_made_anew(tmp_path, compiling, content):
    kept = planstore.Kept(compiling, epath.Path(tmp_path), "h100")
    kept(config())
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(content)
    kept(config())
    assert kept.used == 0 and file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, compiling, capsys):
    (tmp_path / "file").write_text("")
    kept = planstore.Kept(compiling, epath.Path(tmp_path / "file" / "plans"), "h100")
    assert kept(config()).state_bytes == 7
    told = capsys.readouterr().err
    assert told.startswith("warning: nothing is kept for the next call: ") and "file" in told


def test_without_a_folder_each_call_compiles(compiling):
    kept = planstore.Kept(compiling, None, "h100")
    kept(config()), kept(config())
    assert len(compiling.given) == 2 and kept.used == 0
