"""How the processes of `launch_local` end: exit codes by the project's table, and words."""

import signal

MEANINGS = {
    0: "done",
    1: "failed: an error of the program, see its log",
    2: "failed: bad input, see its log",
    3: "failed: every seed diverged",
    4: "failed: the cluster failed, a peer was lost or a step stalled",
    5: "failed: storage failed",
    75: "left with its state saved: preempted or interrupted",
}
SIGNALS = {
    signal.SIGKILL: "was killed by SIGKILL: from outside, or memory ran out",
    signal.SIGABRT: "aborted (SIGABRT): the coordinator or a peer was lost, or a bug below Python",
    signal.SIGSEGV: "crashed (SIGSEGV) below Python",
    signal.SIGBUS: "crashed (SIGBUS): a file that is mapped was cut short, or the disk is full",
    signal.SIGTERM: "was ended by SIGTERM before it could save",
    signal.SIGINT: "was ended by SIGINT before it could save",
}


def exit_code(status):
    """Returns the project's code for a return status; death by a signal, of a shell too, is 4."""
    if status < 0 or status - 128 in set(signal.Signals):
        return 4
    return status if status in MEANINGS else 1


def describe(number, status, *, killed=False):
    """Returns in words how process `number` ended; killed: whether the launcher sent it SIGKILL."""
    if killed and status == -signal.SIGKILL:
        return f"process {number} did not leave in time and was killed"
    if status < 0:
        known = f"died by {signal.Signals(-status).name}"
        return f"process {number} {SIGNALS.get(-status, known)}"
    return f"process {number} {MEANINGS.get(status, f'ended with the unknown code {status}')}"


def cause(statuses):
    """Returns the status that tells most of why processes ended, of those seen ending together.

    A process that says what is wrong comes before one that died, and that before those that then
    lost a peer.
    """
    order = {2: 0, 3: 0, 5: 0, 75: 2, 1: 3, 4: 4, 0: 5}
    return min(statuses, key=lambda status: order.get(status, 1), default=0)
