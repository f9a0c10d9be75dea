"""One process or many follows from the environment alone."""

import os
import socket

import pytest

from darts_dist import processes
from darts_dist.errors import ClusterError, ConfigError, InputError, StorageError

OURS = {"DARTS_COORDINATOR": "h:1234", "DARTS_NUM_PROCESSES": "2", "DARTS_PROCESS_ID": "1"}
SLURM = {
    **{"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "2"},
    **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
}

INDEXED = {"KUBERNETES_SERVICE_HOST": "h", "JOB_COMPLETION_INDEX": "0"}


def test_no_variables_mean_one_process():
    assert processes.coordinator({}) is None
    assert not processes.found_by_jax({})


def test_our_three_variables_name_a_place_in_the_cluster():
    assert processes.coordinator(OURS) == ("h:1234", 2, 1)
    alone = {**OURS, "DARTS_NUM_PROCESSES": "1", "DARTS_PROCESS_ID": "0"}
    assert processes.coordinator(alone) == ("h:1234", 1, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"DARTS_PROCESS_ID": ""}, "DARTS_NUM_PROCESSES without DARTS_PROCESS_ID"),
        ({"DARTS_COORDINATOR": "", "DARTS_PROCESS_ID": ""}, "without DARTS_COORDINATOR, DARTS_PRO"),
        ({"DARTS_PROCESS_ID": "2"}, "numbered from 0"),
        ({"DARTS_NUM_PROCESSES": "two"}, "not a whole number"),
        ({"DARTS_NUM_PROCESSES": "-1"}, "not a whole number"),
        ({"DARTS_COORDINATOR": "host"}, "host:port"),
        ({"DARTS_COORDINATOR": "host:0"}, "host:port"),
        ({"DARTS_COORDINATOR": "host:70000"}, "host:port"),
    ],
)
def test_incomplete_or_contradictory_variables_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        processes.coordinator({**OURS, **change})


@pytest.mark.parametrize(
    ("environment", "many"),
    [
        (SLURM, True),
        ({**SLURM, "SLURM_NTASKS": "1"}, False),
        ({name: SLURM[name] for name in SLURM if name != "SLURM_STEP_NODELIST"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({**INDEXED, "TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_a_launcher_is_believed_when_it_says_more_than_one(environment, many):
    assert processes.found_by_jax(environment, "cpu") is many


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI 4"),
        (INDEXED, "package 'kubernetes'"),
    ],
)
def test_a_launcher_that_jax_cannot_read_is_an_error(environment, said):
    with pytest.raises(ConfigError, match=said):
        processes.found_by_jax(environment)


def test_a_port_in_use_is_named_before_jax_crashes_on_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        processes.check_address(address, bind=False)
        with pytest.raises(ClusterError, match="cannot listen on port"):
            processes.check_address(address, bind=True)
    processes.check_address(address, bind=True)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "no..host"])
def test_an_unknown_coordinator_is_named(host):
    with pytest.raises(ClusterError, match="host is unknown"):
        processes.check_address(f"{host}:1", bind=False)


def test_a_folder_belongs_to_one_process_until_it_is_given_back(tmp_path):
    folder = tmp_path / "runs" / "new"
    held = processes.claim(str(folder))
    with pytest.raises(InputError, match=f"another process works in {folder}; wait"):
        processes.claim(str(folder))
    os.close(held)
    os.close(processes.claim(str(folder)))
    assert list(folder.iterdir()) == []
    (folder / "file").write_text("")
    with pytest.raises(StorageError, match="file cannot be opened: File exists"):
        processes.claim(str(folder / "file"))
    assert processes.claim("gs://bucket/run") == -1
