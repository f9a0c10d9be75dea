"""What can go wrong, as a user meets it: each class is one exit code of the command line.

Raised at the border where bad input enters; caught by one wrapper, `ending.outcome`, and nowhere
else.
"""


class DartsError(Exception):
    """An error whose text is meant for the user; `exit_code` is what the process ends with."""

    exit_code = 1


class InputError(DartsError):
    """Bad input: command line, config, data, genotype, checkpoint or topology."""

    exit_code = 2


class ConfigError(InputError):
    """A config key or value that cannot be."""


class DataError(InputError):
    """Data on disk that is missing, broken or of another kind than said."""


class GenotypeError(InputError):
    """A genotype that does not parse or names what does not exist."""


class CheckpointError(InputError):
    """A checkpoint that does not fit this run or cannot be read."""


class DivergedError(DartsError):
    """Every seed of the run became non-finite."""

    exit_code = 3


class ClusterError(DartsError):
    """A peer or the coordinator was lost, or a step stalled; a new start resumes."""

    exit_code = 4


class StorageError(DartsError):
    """The disk is full, read-only or gone; what was there is kept."""

    exit_code = 5


class Interrupted(DartsError):
    """Preempted or interrupted by the user; the state is saved and a new start resumes."""

    exit_code = 75


BY_CODE: dict[int, type[DartsError]] = {
    kind.exit_code: kind
    for kind in (InputError, DivergedError, ClusterError, StorageError, Interrupted)
}
"""The class of what another process ended by, or told of, by its exit code."""
