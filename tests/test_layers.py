"""The shape of the package: imports point down, and each outside library has its one door."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent / "darts_dist"
FILES = sorted(ROOT.rglob("*.py"))

LAYERS = {
    0: "agreement compiled config trainconfig planconfig ending errors genotype cluster hlo hlotext"
    " knobs machines textknobs processes roofline rules schema topology watchdog xla_flags",
    1: "spaces nets data",
    2: "methods checkpoint packing replicas metrics events optim losses data.pipeline picture"
    " interop interop_network interop_recurrent torchfile torchpickle weightfile",
    3: "loop opening run health profiling task bilevel training network models steps searchstep"
    " programs keeping seedwork searchwork textmodels textwork textdata textsteps texttask"
    " planning plandata plancosts",
    4: "cli summary search journal trainjournal tellings pages select apart train evaluate"
    " plan plansweep planstore plantables plandrawing __init__ __main__",
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names.split()}

DOORS = {
    "jax.distributed": ("cluster",),
    "jax.config.update": ("cluster",),
    "orbax": ("checkpoint",),
    "tensorboardX": ("events",),
    "grain": ("data",),
    "flax": ("nets", "spaces"),
    "urllib.request": ("data.download",),
}
BLIND = {  # who must know nothing of whom
    "nets": ("config", "cluster"),
    "methods": ("nets", "data"),
    "loop": ("nets", "spaces", "search"),
}


def name_of(file):
    """`nets.norm` for darts_dist/nets/norm.py, `nets` for its __init__."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


NAMES = {name_of(file) for file in FILES}


def within(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def mentions(file):
    """Every dotted name that a file imports or reaches from an import, `jax.distributed` too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
    return found


def inner_imports(file):
    """The modules of this package that a file imports."""
    dotted = {name.removeprefix("darts_dist.") for name in mentions(file) if "darts_dist." in name}
    found = {max((one for one in NAMES if within(name, [one])), default="") for name in dotted}
    return found - {"", name_of(file)}


def layer_of(name):
    known = [one for one in LAYER if within(name, [one])]
    assert known, f"{name} has no layer; add it to LAYERS here and to docs/architecture.md"
    return LAYER[max(known, key=len)]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_down(file):
    for imported in inner_imports(file):
        assert layer_of(imported) <= layer_of(name_of(file)), f"{file} imports {imported}"


def test_no_import_goes_round_in_a_circle():
    graph = {name_of(file): inner_imports(file) for file in FILES}
    assert tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_its_door(library):
    for file in FILES:
        if any(within(name, [library]) for name in mentions(file)):
            assert within(name_of(file), DOORS[library]), f"{file} uses {library}"


@pytest.mark.parametrize("reader", BLIND)
def test_some_know_nothing_of_others(reader):
    for file in FILES:
        if within(name_of(file), [reader]):
            known = {one for one in inner_imports(file) if within(one, BLIND[reader])}
            assert not known, f"{file} imports {known}"


def test_the_checks_see_what_they_look_for(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("import jax\nfrom darts_dist import cluster\njax.distributed.shutdown()\n")
    assert {"jax.distributed.shutdown", "darts_dist.cluster"} <= mentions(file)


def test_the_command_line_is_read_without_jax():
    code = "import sys, darts_dist.cli; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent).returncode == 0
