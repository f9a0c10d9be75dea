"""What ends a run before its last step: seeds that diverge, a NaN that is looked for, copies of a
state that come apart.

Place: layer 3; `run` asks at steps, saves and ends of epochs.
"""

import contextlib

import numpy as np

from darts_dist import cluster, replicas
from darts_dist.checkpoint import Checkpoints
from darts_dist.errors import ClusterError, DivergedError
from darts_dist.events import Events
from darts_dist.metrics import Recorder
from darts_dist.task import States, Task


class Health:
    """Which seeds of a run still train.

    alive: bool[S].
    """

    def __init__(
        self, task: Task, recorder: Recorder, events: Events, checkpoints: Checkpoints
    ) -> None:
        """Takes all seeds to be alive."""
        self.task, self.seeds = task, task.seeds
        self.recorder, self.events, self.checkpoints = recorder, events, checkpoints
        self.alive = np.ones(len(self.seeds), bool)
        self._compared = 0  # the last step whose copies of the states were found equal

    def watch(self, done: int, alive: np.ndarray) -> None:
        """Tells which seeds have diverged by step `done`; DivergedError when none is left.

        alive: bool[S], at that step.
        """
        for at in np.flatnonzero(self.alive & ~alive):
            self.recorder.message(
                f"seed {self.seeds[at]} became non-finite by step {done} and was stopped"
            )
            self.events.end(done, self.seeds[at], completed=False)
        self.alive = alive.copy()
        if not alive.any():
            raise DivergedError(
                f"every seed ({', '.join(map(str, self.seeds))}) became non-finite by step "
                f"{done}; {self._advice()}"
            )

    @contextlib.contextmanager
    def stopped_at_nan(self, done: int):
        """Tells of the first NaN, which debug.nans stops at, as of a run that diverged."""
        try:
            yield
        except FloatingPointError as error:
            raise DivergedError(
                f"seed {', '.join(map(str, self.seeds))}, step {done}: {error}; {self._advice()}"
            ) from error

    def compare(self, done: int, states: States) -> None:
        """Raises ClusterError where replicas of a seed have come apart; no such state is saved."""
        if self.task.mesh.shape["data"] == 1 or done == self._compared:
            return
        if odd := replicas.odd_ones(states):
            self.checkpoints.wait()
            cluster.leave()
            raise ClusterError(
                f"the copies of a seed's state differ at step {done} on {odd}: a device or a link "
                "computes wrongly; take it out of the run and start again; last good: "
                f"{self._last_good()}"
            )
        self._compared = done

    def _advice(self) -> str:
        return (
            f"last good: {self._last_good()}; lower weights.learning_rate or clip more "
            "(weights.clip_norm)"
        )

    def _last_good(self) -> str:
        good = self.checkpoints.steps()
        return f"checkpoint of step {good[-1]}" if good else "no checkpoint yet"
