"""A run in its folder: resumed or new, recorded, saved, ended; whatever its task is.

Place: layer 3. A verb makes the task (`task`) and names the journal that tells of it. Everything
that can be wrong with config, data and folder is found before anything is compiled.
"""

import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath

from darts_dist import agreement, cluster, loop, metrics, opening, packing, processes
from darts_dist import config as configs
from darts_dist.checkpoint import Checkpoints
from darts_dist.errors import CheckpointError, DivergedError, InputError, Interrupted
from darts_dist.events import Events
from darts_dist.health import Health
from darts_dist.metrics import Recorder
from darts_dist.profiling import Profile
from darts_dist.task import States, Task
from darts_dist.trainconfig import AnyConfig
from darts_dist.watchdog import Watchdog


class Journal(Protocol):
    """What tells of a run: made from its task, recorder and events."""

    def begin(self) -> None:
        """Says what each seed's run is, new or resumed."""

    def step(self, done: int, values: dict[str, np.ndarray], step_s: float, rate: float) -> None:
        """Records one step: metrics f[S], its time, its learning rate."""

    def epoch(self, epoch: int, done: int, seen: dict[str, Any]) -> None:
        """Records an epoch: the task's `shown`, and where it was evaluated the sums `valid`."""

    def standings(
        self, total: int, alive: np.ndarray, last: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """Returns seeds, best_seed and metrics of result.json after `total` steps; last: what the
        task's `last_scores` are.
        """
        ...

    def leave(self, folder: epath.Path, result: dict[str, Any]) -> None:
        """Writes what a finished run leaves besides result.json."""


def start(config: AnyConfig, *, control: bool = False) -> None:
    """Sets jax up as a config has it; control: as `cluster.start` takes it."""
    cluster.start(
        control=control,
        platform=config.cluster.platform,
        cpu_devices=config.cluster.cpu_devices,
        float64=config.precision.compute == "float64",
        matmul=config.precision.matmul,
        deterministic=config.precision.deterministic,
        eager=config.debug.eager,
        recurrent=config.space.kind == "rnn",
        cache=config.compile.cache,
        cache_dir=config.compile.cache_dir,
        initialization_timeout_s=config.cluster.initialization_timeout_s,
        heartbeat_timeout_s=config.cluster.heartbeat_timeout_s,
    )


def carry_out(
    verb: str,
    config: AnyConfig,
    workdir: str,
    debug: bool,
    make: Callable[[], Task],
    journal: Callable[[Any, Recorder, Events], Journal],
    lines_file: str,
) -> dict[str, Any]:
    """Returns the content of result.json of a run in `workdir`, new, resumed or long finished.

    make: called once jax is set up, if the run is not finished.  lines_file: gets a line for each
    seed and epoch.
    """
    began = time.perf_counter()
    folder = epath.Path(workdir)
    several = processes.several(os.environ, config.cluster.platform)
    finished = None if several else opening.finished(config, folder)
    if finished is not None:
        return finished
    start(config)
    if several:
        opening.agree(config, folder)
        finished = agreement.together(lambda: opening.finished(config, folder))
    if finished is None:
        watched = not (debug or config.debug.nans or config.debug.eager)
        with contextlib.closing(Watchdog(opening.limits(config), on=watched)) as watch:
            run = agreement.together(lambda: Run(verb, make(), journal, folder, lines_file, watch))
            finished = _finish(run, began)
    return finished


def _finish(run: "Run", began: float) -> dict[str, Any]:
    """Returns the result of a run after its last step; where it fails, all processes leave."""
    try:
        return run.run(began)
    except (Interrupted, DivergedError):  # on all processes, at one step
        cluster.leave()
        raise
    except InputError:
        cluster.leave(meet=False)
        raise
    finally:
        run.close()


def shapes(state: Any) -> Any:
    """Returns shapes, dtypes and shardings of a state, as restoring wants them."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


class Run:
    """A task with its folder: what the loop asks of it, and what it leaves behind."""

    def __init__(
        self,
        verb: str,
        task: Task,
        journal: Callable[[Any, Recorder, Events], Journal],
        folder: epath.Path,
        lines_file: str,
        watch: Watchdog,
    ) -> None:
        """Opens the folder; nothing is compiled yet."""
        config = task.config
        self.verb, self.task, self.config, self.folder = verb, task, config, folder
        self.seeds, self.watch = task.seeds, watch
        self.claim = processes.claim(os.fspath(folder)) if cluster.is_main() else -1
        self.pace = loop.Pace(
            task.epoch_steps * config.schedule.epochs,
            task.epoch_steps,
            config.log.every_steps,
            config.checkpoint.every_steps,
        )
        self.versions = opening.versions()
        self.recorder = metrics.Recorder(
            folder,
            main=cluster.is_main(),
            seeds=self.seeds,
            total_steps=self.pace.total,
            lines_file=lines_file,
        )
        self.events = Events(folder, on=cluster.is_main() and config.log.tensorboard)
        self.journal = journal(task, self.recorder, self.events)
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep)
        steps = config.log.profile_steps if cluster.is_main() else 0
        self.profile = Profile(folder, steps, self._texts, self.recorder.message)
        self.health = Health(task, self.recorder, self.events, self.checkpoints)
        self.resumed_from: list[int] = []
        self.timings: dict[str, float] = {}

    def run(self, began: float) -> dict[str, Any]:
        """Returns the result after the last step."""
        self._agree()
        opened = time.perf_counter()
        self.watch.enter("compile")
        keep = cluster.used_cache() if self.config.compile.cache else ""
        compiled = self.task.compile(keep)
        self.timings = {"startup_s": opened - began, **compiled}
        preemption = cluster.Preemption()
        try:
            states, start = self._restore(self.task.init())
            self.events.drop_after(start)
            self.journal.begin()
            work = loop.Work(
                feed=self.task.batches,
                advance=self._advance,
                report=self._report,
                before=self.profile.before,
                end_epoch=self._end_epoch,
                save=self._save,
                flush=self.checkpoints.wait,
            )
            states, times = loop.fit(states, start, work, self.pace, preemption, self.watch)
        finally:
            preemption.close()
        return self._finish(states, times, began)

    def close(self) -> None:
        """Closes what is open; a failed run keeps what it wrote."""
        self.profile.close()
        self.events.close()
        self.recorder.close()
        if self.claim >= 0:
            os.close(self.claim)

    def _agree(self) -> None:
        """All processes hold the same pictures and mesh; process 0 writes the config down."""
        if jax.process_count() > 1:
            mesh = {"the mesh": repr(dict(self.task.mesh.shape))}
            agreement.check_same(mesh | self.task.identity())
        if cluster.is_main() and not (self.folder / "config.toml").exists():
            metrics.write_whole(self.folder / "config.toml", configs.dump(self.config))
        mesh = self.task.mesh
        self.recorder.message(
            f"{len(self.seeds)} seeds on {mesh.devices.size} devices "
            f"(mesh seed={mesh.shape['seed']}, data={mesh.shape['data']}), "
            f"{self.pace.total} steps of {self.task.step_examples} {self.task.unit}; compiling"
        )
        if self.config.log.network:
            self.recorder.message(self.task.table())

    def _restore(self, states: States) -> tuple[States, int]:
        like = shapes(self.task.join(states))
        found = self.checkpoints.restore(like, self._check_meta)
        notes = self.folder / "resumed_from.json"
        if found is None:
            self.recorder.drop_after(0)
            return states, 0
        state, meta, start = found
        self.resumed_from = [*opening.read_starts(notes, meta["resumed_from"]), start]
        if cluster.is_main():
            metrics.write_whole(notes, json.dumps(self.resumed_from))
        self.recorder.drop_after(start)
        self.recorder.message(f"resumed from step {start}")
        self.health.alive = np.asarray(jax.device_get(cluster.gather(state.alive)))
        return self.task.split(state), start

    def _check_meta(self, meta: dict[str, Any]) -> None:
        old = configs.parse_as(
            type(self.config), meta["config"], "the checkpoint", self.config.name
        )
        opening.check_config(self.config, old, "the checkpoint", self.folder)
        for key, now in self.task.about().items():
            if meta.get(key) != now:
                raise CheckpointError(
                    f"the checkpoint was made with another {key}; give what it was made with, or "
                    f"{opening.elsewhere(self.folder)}"
                )
        if meta["epoch_steps"] != self.pace.epoch:
            raise CheckpointError(
                f"the checkpoint has {meta['epoch_steps']} steps an epoch, and the data now "
                f"make {self.pace.epoch}; "
                f"give the same {self.task.unit}"
            )

    def _texts(self) -> dict[str, str]:
        programs = self.task.programs.programs
        return {name: one.executable.as_text() for name, one in programs.items() if one.executable}

    # What the loop asks for.

    def _advance(self, states: States, batch: Any, done: int) -> tuple[States, Any]:
        with self.health.stopped_at_nan(done + 1):
            states, metrics = self.task.advance(states, batch, done // self.pace.epoch)
        every = self.config.debug.replicas_every_steps
        if every and (done + 1) % every == 0:
            self.health.compare(done + 1, states)
        return states, metrics

    def _report(self, done: int, values: dict[str, np.ndarray], step_s: float) -> None:
        self.health.watch(done, values["alive"])
        self.journal.step(done, values, step_s, self.task.rate((done - 1) // self.pace.epoch))

    def _end_epoch(self, epoch: int, states: States) -> States:
        last = epoch + 1 == self.config.schedule.epochs
        done = (epoch + 1) * self.pace.epoch
        every = self.config.evaluation.every_epochs
        due = last or (epoch + 1) % every == 0
        self.health.compare(done, states)
        sums = {}
        if due:
            with self.health.stopped_at_nan(done):
                states, sums["valid"] = self.task.end_epoch(states)
        wanted = self.task.show(states, *self.task.shown) | sums
        seen = jax.device_get(cluster.gather(wanted))
        self.health.watch(done, np.asarray(seen["alive"]))
        self.journal.epoch(epoch, done, seen)
        return states

    def _save(self, done: int, states: States) -> None:
        self.health.compare(done, states)
        meta = opening.meta(self.config, self.pace.epoch, self.resumed_from, self.task.about())
        self.checkpoints.save(done, self.task.join(states), meta)

    def _finish(self, states: States, times: list[float], began: float) -> dict[str, Any]:
        self.profile.end(self.pace.total, states)
        digests = packing.digests(self.task.join(states))
        median = statistics.median(times[1:] or times) if times else 0.0
        examples = self.task.step_examples * len(self.seeds)
        self.timings |= {
            "first_step_s": times[0] if times else 0.0,
            "step_ms_median": 1000 * median,
            "examples_per_s": examples / median if median else 0.0,
            "wall_s": time.perf_counter() - began,
        }
        self.watch.enter("evaluation")
        last = jax.device_get(cluster.gather(self.task.last_scores(states)))
        result = self._result(digests, last)
        for at in np.flatnonzero(self.health.alive):
            self.events.end(self.pace.total, self.seeds[at], completed=True)
        if cluster.is_main():
            self.journal.leave(self.folder, result)
            text = metrics.to_json(result, indent=1)
            metrics.write_whole(self.folder / "result.json", text + "\n")
        return result

    def _result(self, digests: list[str], last: dict[str, np.ndarray]) -> dict[str, Any]:
        standings = self.journal.standings(self.pace.total, self.health.alive, last)
        for one, digest in zip(standings["seeds"], digests, strict=True):
            one["state_digest"] = digest
        mesh = self.task.mesh
        device = mesh.devices.flat[0]
        return {
            "verb": self.verb,
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
            **standings,
            "resumed_from": self.resumed_from,
            "state_digest": packing.digest(digests),
            "timings": {name: round(float(value), 4) for name, value in self.timings.items()},
        }
