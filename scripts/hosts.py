"""Where the processes of `launch_local` run: this machine, or network namespaces as its hosts.

A namespace's processes see its network alone, a host name of its own and a hosts file that has all
of them: Gloo tells its peers the address of its host name. A thread in every namespace asks the
others for a sign of life.
"""

import ctypes
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time

PROBE_S = 1.0  # between two questions, and the longest wait for an answer
MISSES = 3  # unanswered questions in a row that make a host a lost one
ENTER = (  # words: hosts file, host name, command
    'mount --bind "$1" /etc/hosts && echo "$2" > /proc/sys/kernel/hostname && shift 2 && exec "$@"'
)


class HostError(Exception):
    """A namespace that is not there, or has no address."""


class Hosts:
    """The hosts of a run; without names, this machine alone."""

    def __init__(self, names):
        """Looks the addresses up; HostError tells of what is missing."""
        self.names = list(names)
        self._addresses = {name: _address(name) for name in self.names}
        self._misses = {(a, b): 0 for a in self.names for b in self.names if a != b}
        self._folder = None
        for name in self.names if len(self.names) > 1 else ():
            threading.Thread(target=self._probe, args=(name,), daemon=True).start()

    def of(self, number, processes, names):
        """Returns the host of a process, None for this machine; neighbours share one."""
        return names[number * len(names) // processes] if names else None

    def coordinator(self, names):
        """Returns (address, port that is free there) for process 0."""
        if not names:
            return "127.0.0.1", free_port()
        port = inside(names[0], free_port)
        return self._addresses[names[0]], port

    def command(self, name, command, folder):
        """Returns the command that runs `command` on a host; folder: for the hosts file."""
        if name is None:
            return command
        file = pathlib.Path(folder) / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{a} {n}" for n, a in self._addresses.items())]
        file.write_text("\n".join(lines) + "\n")
        enter = ["unshare", "--uts", "--mount", "sh", "-c", ENTER, "sh", str(file.resolve()), name]
        return [*("ip", "netns", "exec", name), *enter, *command]

    def reachable(self, names):
        """Returns those of the named hosts that reach each other: the largest group, the first."""
        groups = [
            [one for one in names if one == base or self._answers(base, one)] for base in names
        ]
        return max(groups, key=len, default=[])

    def doubtful(self, names):
        """Returns whether a host has failed to answer, and not often enough to count as lost."""
        own = [count for pair, count in self._misses.items() if set(pair) <= set(names)]
        return any(0 < count < MISSES for count in own)

    def _answers(self, a, b):
        return self._misses[a, b] < MISSES and self._misses[b, a] < MISSES

    def _probe(self, name):
        """Asks every other host again and again, in the namespace of one; runs in a thread."""
        _set_namespace(name)
        while True:
            began = time.monotonic()
            for other in self.names:
                if other != name:
                    answered = _answers(self._addresses[other])
                    self._misses[name, other] = 0 if answered else self._misses[name, other] + 1
            time.sleep(max(0.0, PROBE_S - (time.monotonic() - began)))


def free_port():
    """Returns a port that nothing on this host listens on."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.create_server(("", 0), family=family, dualstack_ipv6=both) as server:
        return server.getsockname()[1]


def inside(name, function):
    """Returns what a function returns in a network namespace, which only a thread enters."""
    results = []

    def enter():
        _set_namespace(name)
        results.append(function())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return results[0]


def _set_namespace(name):
    """Puts the calling thread into a network namespace (os.setns is there from 3.12 on)."""
    file = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(file, 0):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {name}")
    finally:
        os.close(file)


def _answers(address):
    """Returns whether a host answers; that nothing listens there is an answer."""
    try:
        socket.create_connection((address, 9), timeout=PROBE_S).close()
    except ConnectionRefusedError:
        pass
    except OSError:
        return False
    return True


def _address(name):
    """Returns the first IPv4 address of a namespace that is not its own loopback's."""
    if os.geteuid() or not shutil.which("ip"):
        raise HostError("--namespaces needs root and the program ip")
    asked = ["ip", "-netns", name, "-json", "-4", "address", "show", "scope", "global"]
    done = subprocess.run(asked, capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"--namespaces: {name}: {done.stderr.strip().splitlines()[0]}")
    for link in json.loads(done.stdout or "[]"):
        for one in link.get("addr_info", ()):
            return one["local"]
    raise HostError(f"--namespaces: {name} has no IPv4 address; give it one")
