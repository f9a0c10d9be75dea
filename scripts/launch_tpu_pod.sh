#!/bin/bash
# One run on all hosts of a Cloud TPU pod slice:
#
#   scripts/launch_tpu_pod.sh NAME ZONE search my.toml --workdir gs://bucket/runs/mine
#
# After the name and the zone of the slice come the words of darts-dist; every host needs
# `pip install 'darts-dist[tpu]'` and the config file at the same place, --workdir has to be a bucket
# or a disk that all of them see. jax finds the other hosts by the TPU's metadata.
#
# A slice that was preempted is gone, so nothing is started again here; with a queued resource that
# is created anew, the same line resumes from the last checkpoint (after 4 and 75, too).
#
#   DARTS_BIN      darts-dist on the hosts (default: ~/.local/bin/darts-dist)
#   DARTS_PROJECT  the Google Cloud project (default: gcloud's own)
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: $0 NAME ZONE VERB [CONFIG.toml] --workdir DIR ..." >&2
  exit 2
fi
name=$1 zone=$2
shift 2

# Quoted for the hosts' shell; the path of the program is left to it, for the sake of ~.
words=$(printf '%q ' "$@")
command="JAX_PLATFORMS=tpu ${DARTS_BIN:-~/.local/bin/darts-dist} $words"

project=()
if [ -n "${DARTS_PROJECT:-}" ]; then
  project=(--project "$DARTS_PROJECT")
fi

exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" "${project[@]}" \
  --worker=all --command="$command"
