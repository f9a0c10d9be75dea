"""The launch scripts under real schedulers, where these are installed; their texts everywhere."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import launching
import pytest
import yaml

pytestmark = pytest.mark.multiprocess
SCRIPTS = launching.ROOT / "scripts"
SHELL = [path for path in SCRIPTS.iterdir() if path.suffix in (".sh", ".sbatch")]
LONG = ("schedule.steps_per_epoch=4000", "log.every_steps=10", "checkpoint.every_steps=10")
SHORT = ("schedule.steps_per_epoch=10",)


def missing(*programs):
    """Marks a test that takes programs which are not here."""
    absent = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_a_script_is_short_and_parses(path):
    assert len(path.read_text().splitlines()) < 80
    assert subprocess.run(["bash", "-n", path]).returncode == 0


@missing("shellcheck")
@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_a_script_has_no_known_pitfall(path):
    done = subprocess.run(["shellcheck", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def on_path(tmp_path):
    """An environment in which `darts-dist` is this checkout's, with few devices."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "darts-dist"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m darts_dist "$@"\n')
    program.chmod(0o755)
    return launching.environment(
        PATH=f"{folder}:{os.environ['PATH']}", JAX_NUM_CPU_DEVICES="1", DARTS_GRACE_S="15"
    )


def words(workdir, *overrides):
    """What follows darts-dist in a small search."""
    return launching.search(workdir, *overrides)[3:]


def result(workdir):
    return json.loads((workdir / "result.json").read_text())


def mpi(workdir, *overrides):
    options = ["--oversubscribe", "-n", "2"]
    options += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return [SCRIPTS / "launch_mpi.sh", *options, "--", *words(workdir, *overrides)]


@pytest.mark.slow
@missing("mpirun")
def test_mpi_runs_a_search(tmp_path, on_path):
    done = subprocess.run(mpi(tmp_path / "run", *SHORT), env=on_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["devices"]["processes"] == 2


@pytest.mark.slow
@missing("mpirun")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_mpirun_saves_and_the_same_line_resumes(tmp_path, on_path, number):
    workdir = tmp_path / "run"
    with subprocess.Popen(mpi(workdir, *LONG), env=on_path, stderr=subprocess.PIPE) as process:
        launching.until(lambda: launching.newest(workdir) or process.poll() is not None, 180)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    kept = launching.newest(workdir)
    assert f"stopped at step {kept}, and the state is saved".encode() in said
    assert process.returncode != 0


@pytest.mark.slow
@missing("mpirun")
def test_mpi_ends_with_the_code_of_the_failure(tmp_path, on_path):
    bad = mpi(tmp_path / "run", "data.global_batch=7")
    done = subprocess.run(bad, env=on_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "data.global_batch" in done.stderr


SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
MpiDefault=none
KillWait=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path, on_path):
    """A SLURM cluster of this machine alone; yields the environment of its commands."""
    folder = tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "key").write_bytes(os.urandom(64))
    (folder / "key").chmod(0o400)
    with socket.create_server(("", 0)) as one, socket.create_server(("", 0)) as other:
        ports = [server.getsockname()[1] for server in (one, other)]
    settings = {"host": socket.gethostname(), "ports": ports, "cores": os.cpu_count()}
    (folder / "slurm.conf").write_text(SLURM.format(folder=folder, **settings))
    environment = {**on_path, "SLURM_CONF": str(folder / "slurm.conf")}
    munge = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file")]
    munge += [f"--key-file={folder}/key", f"--seed-file={folder}/seed"]
    daemons = [
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-N", socket.gethostname()],
    ]
    started = []
    try:
        for daemon in daemons:
            with (folder / f"{daemon[0]}.out").open("wb") as output:
                started.append(
                    subprocess.Popen(daemon, env=environment, stdout=output, stderr=output)
                )
            time.sleep(1)
        launching.until(lambda: "idle" in command(environment, "sinfo", "--noheader"), 60, 0.5)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(20)


def command(environment, *argv):
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def submit(environment, log, *overrides_of_sbatch, words):
    """Returns the number of a job of two processes on this machine."""
    options = ["--ntasks-per-node=2", "--overcommit", f"--output={log}", *overrides_of_sbatch]
    said = command(environment, "sbatch", *options, str(SCRIPTS / "launch_slurm.sbatch"), *words)
    assert "Submitted batch job" in said, said
    return said.split()[-1]


def job_state(environment, job):
    said = command(environment, "scontrol", "show", "job", job)
    return re.findall(r"JobState=(\w+)", said)[0], re.findall(r" ExitCode=(\d+)", said)[0]


needs_slurm = pytest.mark.skipif(
    os.geteuid() != 0 or any(map(lambda one: shutil.which(one) is None, ("slurmctld", "munged"))),
    reason="starts a SLURM cluster: takes root, slurm-wlm and munge",
)


@pytest.mark.slow
@needs_slurm
@pytest.mark.timeout(600)
def test_slurm_runs_a_search_and_starts_it_again_after_a_death(slurm, tmp_path):
    workdir, log = tmp_path / "run", tmp_path / "job.log"
    sizes = ("schedule.epochs=1", "schedule.steps_per_epoch=200")
    job = submit(slurm, log, words=words(workdir, *sizes))
    launching.until(lambda: launching.newest(workdir), 180)
    kept = launching.newest(workdir)
    os.kill(workers(workdir)[-1], signal.SIGKILL)
    launching.until(lambda: job_state(slurm, job)[0] == "COMPLETED", 400, 1)
    found = result(workdir)
    assert found["devices"]["processes"] == 2
    assert len(found["resumed_from"]) == 1 and found["resumed_from"][0] >= kept
    assert "start 2 follows" in log.read_text()


@pytest.mark.slow
@needs_slurm
@pytest.mark.timeout(600)
def test_slurm_tells_of_the_time_limit_and_starts_what_saved_again(slurm, tmp_path):
    workdir, log = tmp_path / "run", tmp_path / "job.log"
    options = ("--time=1", "--signal=TERM@30")
    job = submit(slurm, log, *options, words=words(workdir, *LONG))
    launching.until(lambda: "start 2 follows" in (log.read_text() if log.exists() else ""), 180, 1)
    step = re.findall(r"stopped at step (\d+), and the state is saved", log.read_text())
    assert step[0] == step[1]
    launching.until(lambda: f"resumed from step {step[0]}" in log.read_text(), 300, 1)
    command(slurm, "scancel", job)
    launching.until(lambda: job_state(slurm, job)[0] == "CANCELLED", 120, 1)


@pytest.mark.slow
@needs_slurm
def test_slurm_does_not_start_bad_input_again(slurm, tmp_path):
    log = tmp_path / "job.log"
    job = submit(slurm, log, words=words(tmp_path / "run", "data.global_batch=7"))
    launching.until(lambda: job_state(slurm, job) == ("FAILED", "2"), 120, 1)
    assert "follows" not in log.read_text()


def workers(workdir):
    """The processes of a run, by their command lines."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"darts_dist" in argv and str(workdir).encode() in argv:
            found.append(int(path.parent.name))
    return sorted(found)


def test_the_jobset_is_one_indexed_job_that_starts_again_by_the_table_of_codes():
    text = (SCRIPTS / "launch_gke_jobset.yaml").read_text()
    assert len(text.splitlines()) < 80
    jobset = yaml.safe_load(text)
    check(jobset, JOBSET)
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (replicated["replicas"], job["completionMode"]) == (1, "Indexed")
    assert job["parallelism"] == job["completions"]
    (final,) = job["podFailurePolicy"]["rules"]
    assert final["onExitCodes"]["values"] == [2, 3, 5]
    (container,) = job["template"]["spec"]["containers"]
    assert final["onExitCodes"]["containerName"] == container["name"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    words = [*container["command"], *container["args"]]
    assert words[0] == "darts-dist" and "--workdir" in words
    assert (launching.ROOT / words[2]).is_file()


EXIT_CODES = {"containerName": str, "operator": {"In", "NotIn"}, "values": [int]}
POD = {
    "restartPolicy": {"Never"},  # which podFailurePolicy takes
    "terminationGracePeriodSeconds": int,
    "nodeSelector": dict,
    "containers": [
        {
            "name": str,
            "image": str,
            "command": [str],
            "args": [str],
            "ports": [{"containerPort": int}],
            "resources": {"requests": dict, "limits": dict},
        }
    ],
}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": {"Indexed", "NonIndexed"},
    "backoffLimit": int,
    "podFailurePolicy": {
        "rules": [{"action": {"FailJob", "Ignore", "Count"}, "onExitCodes": EXIT_CODES}]
    },
    "template": {"spec": POD},
}
ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
REASONS = {"BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"}
JOBSET = {
    "apiVersion": {"jobset.x-k8s.io/v1alpha2"},
    "kind": {"JobSet"},
    "metadata": {"name": str, "annotations": dict},
    "spec": {
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [{"action": ACTIONS, "onJobFailureReasons": [REASONS]}],
        },
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}
"""The part of the JobSet and Job schemas that the file uses: names, types, allowed values."""


def check(found, wanted, where="jobset"):
    """Raises where a tree has a key, a type or a value that the schema does not know."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict), where
        assert found.keys() <= wanted.keys(), f"{where}: {found.keys() - wanted.keys()}"
        for key, value in found.items():
            check(value, wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list):
        assert isinstance(found, list) and found, where
        for value in found:
            check(value, wanted[0], f"{where}[]")
    elif isinstance(wanted, set):
        assert found in wanted, f"{where} = {found}"
    else:
        assert isinstance(found, wanted) and not isinstance(found, bool), where


@pytest.mark.parametrize(
    "broken",
    [{"kind": "Jobset"}, {"spec": {"replicatedJobs": [{"replicas": "1"}]}}, {"extra": 1}],
)
def test_the_schema_refuses_what_it_does_not_know(broken):
    with pytest.raises(AssertionError):
        check(broken, JOBSET)
