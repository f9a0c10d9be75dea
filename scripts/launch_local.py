"""Runs one command as several processes of one run on this machine, on CPU devices, and starts them
again when they fail.

    python scripts/launch_local.py --processes 2 --devices-per-process 4 --max-restarts 3 --
    darts-dist search tiny.toml --workdir runs/tiny

Each process gets the DARTS_ variables, its CPU devices and a thread pool of one size, so that on
the same number of devices the results are bit for bit those of any other split. A process that
dies, that is stopped or whose host is lost ends all: they get SIGTERM, a time of grace, SIGKILL,
and are started again, on a new port; the command resumes from its last complete checkpoint. With
--elastic it goes on with fewer processes and the same devices in all, so the results stay the same.

Bad input, a diverged run, full storage and an error of the program (codes 2, 3, 5, 1) are not
started again. A signal is passed on: all save, leave, and the code is 75; a second one kills.
The output of every process goes to its own file, DIR/processes/process-N.log where the command has
--workdir DIR; process 0's is shown too. The exit code is that of the process that failed first, by
the project's table (0 done, 2 bad input, 3 diverged, 4 cluster, 5 storage, 75 preempted).

Linux; standard library only. With --namespaces each process runs in a network namespace, as on a
host of its own (root).
"""

import argparse
import os
import pathlib
import shlex
import shutil
import sys
import tempfile

import hosts
import supervise


class Parser(argparse.ArgumentParser):
    """Arguments whose mistakes are told in one line."""

    def error(self, message):
        """Ends with 2."""
        line = " ".join(message.splitlines())
        self.exit(2, f"launch_local: error: {line}; --help tells more\n")


def read_arguments(arguments):
    """Returns the parsed command line; exits with 2 on one that makes no sense."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--processes", type=int, required=True, metavar="N")
    add("--devices-per-process", type=int, required=True, metavar="M")
    add("--max-restarts", type=int, default=0, metavar="K", help="starts after the first (0)")
    add(
        "--elastic", action="store_true", help="after a failure: fewer processes, more devices each"
    )
    add("--namespaces", default="", metavar="A,B", help="network namespaces to spread them over")
    add("--grace", type=float, default=5.0, metavar="S", help="seconds from SIGTERM to SIGKILL (5)")
    add("--logs", default="", metavar="DIR", help="folder of the output of each process")
    add("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    found = parser.parse_args(arguments)
    found.command = found.command[1:] if found.command[:1] == ["--"] else found.command
    if not found.command:
        parser.error("no command given; put it after --")
    if found.processes < 1 or found.devices_per_process < 1:
        parser.error("--processes and --devices-per-process have to be at least 1")
    if found.max_restarts < 0:
        parser.error("--max-restarts has to be at least 0")
    program = resolve(found.command[0])
    if program is None:
        parser.error(f"the command {found.command[0]!r} is not found")
    found.command[0] = program
    try:
        found.hosts = hosts.Hosts(found.namespaces.split(",") if found.namespaces else [])
    except hosts.HostError as error:
        parser.error(str(error))
    return found


def resolve(program):
    """Returns where a program is: as given, beside this Python, on PATH; None when nowhere."""
    beside = pathlib.Path(sys.executable).parent / program
    if os.sep not in program and beside.is_file():
        return str(beside)
    return shutil.which(program)


def log_folder(asked, command):
    """Returns the folder of the logs, made: as asked, in the command's workdir, a temporary one."""
    for at, word in enumerate(command):
        name, _, value = word.partition("=")
        if name == "--workdir" and not asked:
            workdir = value or "".join(command[at + 1 : at + 2])
            asked = os.path.join(workdir, "processes") if "://" not in workdir else ""
    try:
        if asked:
            os.makedirs(asked, exist_ok=True)
            with tempfile.TemporaryFile(dir=asked):
                return pathlib.Path(asked)
    except OSError as error:
        print(f"launch_local: no logs in {asked}: {error.strerror}", file=sys.stderr)
    return pathlib.Path(tempfile.mkdtemp(prefix="darts-local-"))


def main(arguments=None):
    """Returns the exit code of the whole."""
    found = read_arguments(arguments)
    logs = log_folder(found.logs, found.command)
    say = supervise.Teller(logs)
    say(f"{shlex.join(found.command)}, logs in {logs}")
    team = supervise.Team(
        command=found.command,
        processes=found.processes,
        devices=found.processes * found.devices_per_process,
        hosts=found.hosts,
        logs=logs,
        grace_s=found.grace,
        names=found.hosts.names,
    )
    return supervise.Supervisor(team, found.max_restarts, found.elastic, say).run()


if __name__ == "__main__":
    sys.exit(main())
