"""The verb `search`: config -> data, network and step -> the loop -> a run folder with genotypes
and a result.

Place: layer 4. Everything that can be wrong with config, data and folder is found before
anything is compiled.
"""

import importlib.metadata
import json
import platform
import statistics
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from darts_dist import cluster, genotype, loop, metrics, optim, packing, picture
from darts_dist import config as configs
from darts_dist.bilevel import Search, States
from darts_dist.checkpoint import Checkpoints
from darts_dist.config import Config
from darts_dist.data import sources
from darts_dist.errors import CheckpointError, ConfigError, DivergedError, InputError
from darts_dist.journal import Journal

PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy")


def run(config: Config, workdir: str, debug: bool) -> dict[str, Any]:
    """Returns the content of result.json after a search in `workdir`, new, resumed or long
    finished.
    """
    began = time.perf_counter()
    folder = epath.Path(workdir)
    _check_folder(config, folder)
    if (folder / "result.json").exists():
        return _read_result(folder / "result.json")
    cluster.start(
        platform=config.cluster.platform,
        cpu_devices=config.cluster.cpu_devices,
        float64=config.precision.compute == "float64",
        debug=debug,
        cache=config.compile.cache,
        cache_dir=config.compile.cache_dir,
        initialization_timeout_s=config.cluster.initialization_timeout_s,
        heartbeat_timeout_s=config.cluster.heartbeat_timeout_s,
    )
    search = Search(config, sources.load(config, "train"))
    recorded = Run(search, folder)
    try:
        return recorded.run(began)
    finally:
        recorded.close()


def _check_folder(config: Config, folder: epath.Path) -> None:
    """Compares a run folder's config with this one;
    ConfigError lists the keys that must not change.
    """
    stored = folder / "config.toml"
    if not stored.exists():
        return
    try:
        old = configs.load(str(stored))
    except ConfigError as error:
        raise ConfigError(f"{error}; mend it or remove it, checkpoints hold a copy") from None
    _check_config(config, old, f"the run in {folder}")


def _check_config(config: Config, old: Config, what: str) -> None:
    changed = [
        f"{key} (was {before!r}, now {now!r})"
        for key, before, now in configs.differences(old, config)
        if key not in configs.FREE_ON_RESUME
    ]
    if changed:
        raise ConfigError(
            f"{what} has another config: {', '.join(changed)}; give the old values or another "
            f"--workdir"
        )


def _read_result(path: epath.Path) -> dict[str, Any]:
    """Returns what a run that ended well wrote last."""
    try:
        result = json.loads(path.read_text())
        damage = "" if isinstance(result, dict) and "seeds" in result else "no result"
    except (OSError, ValueError) as error:
        damage = str(error)
    if damage:
        raise InputError(
            f"{path} is damaged: {damage}; remove it, and the run ends again from its checkpoint"
        )
    return result


class Run:
    """A search with its folder: what the loop asks of it, and what it leaves behind."""

    def __init__(self, search: Search, folder: epath.Path) -> None:
        """Opens the folder; nothing is compiled yet."""
        config = search.config
        self.search, self.config, self.folder, self.seeds = search, config, folder, search.seeds
        self.pace = loop.Pace(
            search.epoch_steps * config.schedule.epochs,
            search.epoch_steps,
            config.log.every_steps,
            config.checkpoint.every_steps,
        )
        self.rate = optim.cosine(
            config.weights.learning_rate, config.weights.learning_rate_min, config.schedule.epochs
        )
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        self.versions = {"python": platform.python_version(), **versions}
        self.recorder = metrics.Recorder(
            folder,
            main=cluster.is_main(),
            seeds=self.seeds,
            total_steps=self.pace.total,
            tensorboard=config.log.tensorboard,
        )
        self.journal = Journal(config, self.recorder, self.seeds)
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep)
        self.alive = np.ones(len(self.seeds), bool)
        self.resumed_from: list[int] = []
        self.timings: dict[str, float] = {}

    def run(self, began: float) -> dict[str, Any]:
        """Returns the result after the last step."""
        self._agree()
        opened = time.perf_counter()
        compiled = self.search.compile()
        self.timings = {"startup_s": opened - began, **compiled}
        preemption = cluster.Preemption()
        try:
            states, start = self._restore(self.search.init())
            work = loop.Work(
                feed=self.search.batches,
                advance=self._advance,
                report=self._report,
                end_epoch=self._end_epoch,
                save=self._save,
                flush=self.checkpoints.wait,
            )
            states, times = loop.fit(states, start, work, self.pace, preemption)
        finally:
            preemption.close()
        return self._finish(states, times, began)

    def close(self) -> None:
        """Closes what is open; a failed run keeps what it wrote."""
        self.recorder.close()

    def _agree(self) -> None:
        """All processes hold the same config, versions and mesh;
        process 0 writes the config down.
        """
        cluster.check_same(configs.dump(self.config), "the config")
        cluster.check_same(json.dumps(self.versions), "the set of versions")
        if cluster.is_main() and not (self.folder / "config.toml").exists():
            metrics.write_whole(self.folder / "config.toml", configs.dump(self.config))
        mesh = self.search.mesh
        self.recorder.message(
            f"{len(self.seeds)} seeds on {mesh.devices.size} devices "
            f"(mesh seed={mesh.shape['seed']}, data={mesh.shape['data']}), "
            f"{self.pace.total} steps of {self.config.data.global_batch} pictures; compiling"
        )

    def _restore(self, states: States) -> tuple[States, int]:
        state = self.search.join(states)
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        found = self.checkpoints.restore(like, self._check_meta)
        notes = self.folder / "resumed_from.json"
        if found is None:
            self.recorder.drop_after(0)
            return states, 0
        state, meta, start = found
        known = json.loads(notes.read_text()) if notes.exists() else meta["resumed_from"]
        self.resumed_from = [*known, start]
        if cluster.is_main():
            metrics.write_whole(notes, json.dumps(self.resumed_from))
        self.recorder.drop_after(start)
        self.recorder.message(f"resumed from step {start}")
        self.alive = np.asarray(jax.device_get(cluster.gather(state.alive)))
        return self.search.split(state), start

    def _check_meta(self, meta: dict[str, Any]) -> None:
        old = configs.parse(meta["config"], "the checkpoint")
        _check_config(self.config, old, "the checkpoint")
        if meta["epoch_steps"] != self.pace.epoch:
            raise CheckpointError(
                f"the checkpoint has {meta['epoch_steps']} steps an epoch, and the data now "
                f"make {self.pace.epoch}; "
                "give the same pictures"
            )

    # What the loop asks for.

    def _advance(self, states: States, batch: Any, done: int) -> tuple[States, Any]:
        epoch = done // self.pace.epoch
        architect = epoch >= self.config.method.warmup_epochs
        return self.search.step(states, batch, self.rate(epoch), architect=architect)

    def _report(self, done: int, values: dict[str, np.ndarray], step_s: float) -> None:
        self._watch(done, values["alive"])
        self.journal.step(done, values, step_s, self.rate((done - 1) // self.pace.epoch))

    def _watch(self, done: int, alive: np.ndarray) -> None:
        for at in np.flatnonzero(self.alive & ~alive):
            self.recorder.message(
                f"seed {self.seeds[at]} became non-finite by step {done} and was stopped"
            )
        self.alive = alive.copy()
        if not alive.any():
            good = self.checkpoints.steps()
            kept = f"checkpoint of step {good[-1]}" if good else "no checkpoint yet"
            raise DivergedError(
                f"every seed ({', '.join(map(str, self.seeds))}) became non-finite by step "
                f"{done}; last good: {kept}; "
                "lower weights.learning_rate or clip more (weights.clip_norm)"
            )

    def _end_epoch(self, epoch: int, states: States) -> None:
        last = epoch + 1 == self.config.schedule.epochs
        done = (epoch + 1) * self.pace.epoch
        every = self.config.evaluation.every_epochs
        due = last or (epoch + 1) % every == 0
        wanted = self.search.show(states, "alphas", "totals", "alive")
        if due:
            wanted["valid"] = self.search.evaluate(states)
        seen = jax.device_get(cluster.gather(wanted))
        self._watch(done, np.asarray(seen["alive"]))
        self.recorder.alphas(epoch, seen["alphas"])
        if due:
            self.journal.epoch(epoch, done, seen)

    def _save(self, done: int, states: States) -> None:
        meta = {
            "config": configs.dump(self.config),
            "epoch_steps": self.pace.epoch,
            "resumed_from": self.resumed_from,
            "versions": self.versions,
        }
        self.checkpoints.save(done, self.search.join(states), meta)

    def _finish(self, states: States, times: list[float], began: float) -> dict[str, Any]:
        digest = packing.digest(self.search.join(states))
        median = statistics.median(times[1:] or times) if times else 0.0
        pictures = self.config.data.global_batch * len(self.seeds)
        self.timings |= {
            "first_step_s": times[0] if times else 0.0,
            "step_ms_median": 1000 * median,
            "examples_per_s": pictures / median if median else 0.0,
            "wall_s": time.perf_counter() - began,
        }
        result = self._result(digest)
        if cluster.is_main():
            best = next(one for one in result["seeds"] if one["seed"] == result["best_seed"])
            text = genotype.to_json(genotype.from_dict(best["genotype"], "cnn"))
            metrics.write_whole(self.folder / "genotype.json", text + "\n")
            self._draw(result["seeds"])
            metrics.write_whole(self.folder / "result.json", json.dumps(result, indent=1) + "\n")
        return result

    def _draw(self, seeds: list[dict[str, Any]]) -> None:
        """Draws every seed's final cells into `cells/`."""
        for one in seeds:
            number = one["seed"]
            value = genotype.from_dict(one["genotype"], "cnn")
            for cell, svg in picture.each_cell(value, f"seed {number}").items():
                metrics.write_whole(self.folder / "cells" / f"seed-{number}-{cell}.svg", svg)

    def _result(self, digest: str) -> dict[str, Any]:
        mesh = self.search.mesh
        device = mesh.devices.flat[0]
        return {
            "verb": "search",
            "status": "completed",
            "config_hash": configs.config_hash(self.config),
            "versions": self.versions,
            "devices": {
                "platform": device.platform,
                "kind": device.device_kind,
                "count": mesh.devices.size,
                "processes": jax.process_count(),
                "mesh": dict(mesh.shape),
            },
            **self.journal.standings(self.pace.total, self.alive),
            "resumed_from": self.resumed_from,
            "state_digest": digest,
            "timings": {name: round(float(value), 4) for name, value in self.timings.items()},
        }
