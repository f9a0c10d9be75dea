#!/bin/bash
# One run as the processes of Open MPI 4, a process for each host:
#
#   scripts/launch_mpi.sh --host node1,node2 -- search my.toml --workdir /shared/runs/mine
#
# Before -- stand options of mpirun (hosts, -n, --hostfile), after it the words of darts-dist, which
# has to be on PATH on every host; --workdir has to be on a file system that all of them see. The
# first process has to run on the host of mpirun: jax takes that host's address for the coordinator's.
# MPI starts the processes and does nothing else. Variables of jax, XLA and this project are passed on.
#
# mpirun starts nothing again. Its exit code is that of the process that failed first; after 4 (a
# process was lost) and 75 (SIGTERM or Ctrl-C to mpirun: saved) the same line resumes:
#
#   until scripts/launch_mpi.sh ...; do [[ $? =~ ^(4|75)$ ]] || break; done
#
# A step and a save have to fit into DARTS_GRACE_S seconds (20) after a signal.
set -euo pipefail

options=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
  options+=("$1")
  shift
done
if [ $# -lt 2 ]; then
  echo "usage: $0 [MPIRUN OPTIONS] -- VERB [CONFIG.toml] --workdir DIR ..." >&2
  exit 2
fi
shift

while IFS= read -r name; do
  options+=(-x "$name")
done < <(compgen -e | grep -E '^(JAX_|XLA_|DARTS_|PYTHONPATH$)' || true)

# Between SIGTERM and SIGKILL to the processes mpirun sleeps for a second, too short to save a state;
# it also does so, for all of the time given here, after one of them has failed.
exec mpirun --mca odls_base_sigkill_timeout "${DARTS_GRACE_S:-20}" "${options[@]}" darts-dist "$@"
