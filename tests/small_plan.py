"""The verb plan in a process of its own, and a search that it compiles in seconds."""

import json
import os
import subprocess
import sys

SMALL = """
[space]
operations = ["none", "skip_connect", "sep_conv_3x3"]
[network]
channels = 2
layers = 1
nodes = 1
image_px = 32
stem = "imagenet"
[method]
warmup_epochs = 1
"""


def plan(folder, *words):
    command = [sys.executable, "-m", "darts_dist", "plan", *words, "--json"]
    environment = {**os.environ, "JAX_PLATFORMS": "tpu"}
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
