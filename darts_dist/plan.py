"""The verb `plan`: what a search or training takes and costs on a machine that is not there.

Place: layer 4: config and topology -> compiled step -> figures, as one dict; `plantables` and
`plandrawing` show them.
"""

import functools
import os
from typing import Any

import msgspec
from etils import epath

from darts_dist import (
    cluster,
    genotype,
    machines,
    metrics,
    opening,
    plancosts,
    plandata,
    plandrawing,
    planning,
    planstore,
    roofline,
    topology,
)
from darts_dist import config as configs
from darts_dist.errors import StorageError
from darts_dist.planconfig import AnyPlan, PlanSearch, PlanTextSearch, PlanTextTrain
from darts_dist.plansweep import Sweeps
from darts_dist.plantables import summary
from darts_dist.train import load_genotype

__all__ = ["run", "summary"]


def run(config: AnyPlan, workdir: str, debug: bool) -> dict[str, Any]:
    """Returns the plan of a config; workdir: where `plan.json` and `plan.svg` go, "": nowhere."""
    del debug
    searches = isinstance(config, PlanSearch | PlanTextSearch)
    value = None if searches else load_genotype(config)
    counts = plandata.count(config)
    place = machines.parse(config.topology)
    topology.set_environment(place)
    cluster.start(
        platform="cpu",
        cpu_devices=place.count if place.kind == "cpu" else 0,
        float64=config.precision.compute == "float64",
        matmul=config.precision.matmul,
        deterministic=config.precision.deterministic,
        cache=config.compile.cache and place.kind == "cpu",  # jax reads no others without a device
        cache_dir=config.compile.cache_dir,
        alone=True,
        least_effort=_quick(config, place),
        recurrent=config.space.kind == "rnn",
    )
    machine, devices = machines.machine_of(place), topology.devices(place)
    lay_out = functools.partial(planning.lay_out, devices=devices)
    compiling = functools.partial(
        planning.compile_for, devices=devices, machine=machine, value=value
    )
    kept = planstore.Kept(
        compiling, _kept_in(config, place), _machinery(place, machine, devices, value)
    )
    sweeps = Sweeps(config, machine, place.count, lay_out, kept)
    first = sweeps.first
    told = plancosts.costs(config, counts, first, machine, place.count)
    blocks = config.seeds.count // first.mesh["seed"]
    result = {
        "verb": "plan",
        "name": config.name,
        "topology": place.text,
        "devices": place.count,
        "mesh": dict(first.mesh),
        "seeds": config.seeds.count,
        "blocks": blocks,
        "global_batch": config.data.global_batch,
        "local_batch": config.data.global_batch // first.mesh["data"],
        "number_format": plancosts.number_format(config),
        "multiply_adds": first.multiply_adds,
        **told,
        "machine": msgspec.to_builtins(machine),
        "notes": _notes(config, counts, machine, place, told["programs"]),
        "config_hash": configs.config_hash(config),
        "versions": opening.versions(),
        "timings": dict(first.timings),
    }
    if config.plan.global_batches:
        result["by_batch"] = sweeps.by_batch()
    if config.plan.seeds:
        result["by_seeds"] = sweeps.by_seeds()
    if kept.used:
        result["notes"].append(
            f"{kept.folder}: what an earlier call compiled is not compiled again"
        )
    if workdir:
        _write(workdir, "plan.json", metrics.to_json(result, indent=1) + "\n")
        _write(workdir, "plan.svg", plandrawing.svg(result))
    return result


def _kept_in(config, place) -> epath.Path | None:
    """Returns the folder of what calls leave to the next ones, if they shall.

    For CPUs jax's cache does; the rates of this machine's differ from call to call besides.
    """
    if not config.compile.cache or place.kind == "cpu":
        return None
    return configs.place(config.compile.cache_dir or cluster.cache_folder("plans"))


def _machinery(place, machine, devices, value) -> list[Any]:
    """Returns what figures depend on besides the config and this package."""
    trained = value and genotype.to_dict(value)
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    return [place.text, msgspec.to_builtins(machine), topology.compiler(devices), flags, trained]


def _quick(config, place) -> bool:
    """Whether programs are compiled in as little time as the compiler for TPUs knows how."""
    return place.platform == "tpu" and config.plan.effort == "least"


def _notes(config, counts, machine, place, programs) -> list[str]:
    """What an estimate rests on, and what of it is not known."""
    notes = [f"rates: {machine.source}", *roofline.ASSUMPTIONS]
    if plancosts.number_format(config) not in machine.flops_per_s:
        notes.append(f"FLOPs take no time: no peak of {plancosts.number_format(config)} is known")
    for told, words in (
        (lambda row: row["flops_from"] != "compiler", "FLOPs are from multiply-adds"),
        (
            lambda row: row["bytes_from"] != "compiler",
            "bytes are of its arguments and, twice, of what its kernels write",
        ),
        (lambda row: row["unknown_loops"], "has loops of unknown length, which count once"),
    ):
        if names := [row["program"] for row in programs if told(row)]:
            notes.append(f"{', '.join(names)}: {words}")
    searches = isinstance(config, PlanSearch | PlanTextSearch)
    if searches and config.method.warmup_epochs:
        notes.append("epochs of warm-up are counted as whole ones")
    if len(counts.lengths) > 1:
        shares = ", ".join(f"{length}: {share:.1%}" for length, share in counts.lengths.items())
        notes.append(f"steps by the words that their windows are padded to: {shares}")
    if isinstance(config, PlanTextTrain):
        notes.append("the scores of the best weights, once at the end, are not counted")
    if _quick(config, place):
        notes.append(
            "compiled with the least effort (plan.effort): a run is compiled with more, may keep "
            "more on the chip and take less memory"
        )
    if machine.platform == "cuda":
        notes.append("kernels are not tuned, as they are on a GPU that is there")
    if machine.kind != "cpu":
        notes.append(f"this package has not run on {machine.kind} yet: it was compiled for it")
    return notes


def _write(workdir: str, name: str, text: str) -> None:
    file = configs.place(workdir) / name
    try:
        file.write_text(text)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}") from None
