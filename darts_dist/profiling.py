"""Where the time of a few steps goes: a trace for XProf, and a table by part.

Place: layer 3, of `run`. The trace has an event for each kernel; the text of the program that it is
of says which lines of code it was made from.
"""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from etils import epath

from darts_dist import metrics

WARM = 2  # steps before those that count: the first waits for much that no later one does
HOST = {  # of the loop: annotation -> what it means
    "darts:feed": "next batch",
    "darts:dispatch": "dispatch",
    "darts:wait": "wait for devices",
    "darts:report": "report",
}
PACKAGE = "/darts_dist/"  # a cached program may have been compiled from another copy
SHARED = ("nets/primitives.py", "programs.py")  # code that others call for their own parts
NESTED = ("while", "call", "conditional")  # their kernels have events of their own
SHOWN = 12  # rows of a table

SECTIONS = {  # of a program's text: heading -> its rows, by number
    "FileNames": r'^(\d+) "(.*)"$',
    "FunctionNames": r'^(\d+) "(.*)"$',
    "FileLocations": r"^(\d+) \{file_name_id=(\d+) function_name_id=(\d+) ",
    "StackFrames": r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)\}$",
}
MADE = re.compile(
    r'^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{op_name="([^"]*)".*stack_frame_id=(\d+)'
)


class Profile:
    """Records some steps of this process's run.

    folder: gets `profile/`, the trace, and `profile.txt`, the table.  steps: how many; 0: none.
    texts() -> the text of each compiled program, by its name.  say: tells a line of text.
    """

    def __init__(
        self,
        folder: epath.Path,
        steps: int,
        texts: Callable[[], Mapping[str, str]],
        say: Callable[[str], None],
    ) -> None:
        """Records nothing yet."""
        self.folder, self.steps, self.texts, self.say = folder, steps, texts, say
        self.first = -1  # steps done when the trace begins
        self.place: tempfile.TemporaryDirectory[str] | None = None  # of the trace, while it grows

    def before(self, done: int, state: Any) -> None:
        """Begins or ends the trace before the step after `done`; state: of all steps so far."""
        if not self.steps:
            return
        if self.first < 0:
            self.first = done + WARM
        if done == self.first:
            jax.block_until_ready(state)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # a call of Python would cost more than what it tells
            self.place = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self.place.name, profiler_options=options)
        elif done == self.first + self.steps:
            self.end(done, state)

    def end(self, done: int, state: Any) -> None:
        """Ends a trace that is under way and tells what it has."""
        if self.place is None:
            return
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        place, steps, self.place, self.steps = self.place, done - self.first, None, 0
        with place as there:
            (file,) = pathlib.Path(there).rglob("*.xplane.pb")
            kept = self.folder / "profile" / file.parent.relative_to(there)
            kept.mkdir(parents=True, exist_ok=True)
            (kept / file.name).write_bytes(file.read_bytes())
            data = jax.profiler.ProfileData.from_file(str(file))
        told = table(events(data), self.texts(), steps)
        metrics.write_whole(self.folder / "profile.txt", told + "\n")
        self.say(f"{told}\n\n{self.folder / 'profile'}: the trace, for XProf")

    def close(self) -> None:
        """Ends a trace that is under way, and keeps nothing of it."""
        if self.place is not None:
            jax.profiler.stop_trace()
            self.place.cleanup()
            self.place = None


def events(data: Any) -> Iterable[tuple[str, str, float]]:
    """Yields (program or "", kernel or part of the loop, ms) of a trace's events."""
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in HOST:
                    yield "", event.name, event.duration_ns / 1e6
                    continue
                stats = dict(event.stats)
                if "hlo_op" in stats and not event.name.startswith("end: "):
                    name = str(stats["hlo_op"])
                    if name.split(".")[0] not in NESTED:
                        program = str(stats["hlo_module"]).removeprefix("jit_")
                        yield program, name, event.duration_ns / 1e6


def table(seen: Iterable[tuple[str, str, float]], texts: Mapping[str, str], steps: int) -> str:
    """Returns the time of a step by part of the loop, by program, by code, and of the longest
    kernels, as text; seen: (program, kernel, ms) of `steps` steps.
    """
    each = [(program, name, ms / steps) for program, name, ms in seen]
    kernels = [one for one in each if one[0]]
    origins = {program: origins_of(text) for program, text in texts.items()}

    def origin(program: str, name: str) -> str:
        return " ".join(origins.get(program, {}).get(name, ("other code",))).strip()

    devices = "kernels of all devices, added up"
    parts = {
        "host, by part of the loop": _sums((HOST[name], ms) for at, name, ms in each if not at),
        f"{devices}, by program": _sums((at, ms) for at, _, ms in kernels),
        f"{devices}, by code": _sums((origin(at, name), ms) for at, name, ms in kernels),
        "the longest kernels": _sums(
            (f"{at}: {name} of {origin(at, name)}", ms) for at, name, ms in kernels
        ),
    }
    lines = [f"Where the time of a step goes, mean of {steps}, in ms:"]
    for heading, sums in parts.items():
        whole = sum(sums.values()) or 1.0
        rows = sorted(sums.items(), key=lambda one: -one[1])[:SHOWN]
        lines += ["", heading] if rows else []
        lines += [f"{ms:12,.2f} {100 * ms / whole:5.0f} %  {name}" for name, ms in rows]
    return "\n".join(lines)


def _sums(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = collections.defaultdict(float)
    for name, ms in pairs:
        found[name] += ms
    return found


def origins_of(text: str) -> dict[str, tuple[str, str]]:
    """Returns (file and function of this package, "forward", "backward" or "") of each instruction
    of a compiled program's text, as far as it tells.
    """
    files, functions, places, frames = (
        _rows(text, heading, pattern) for heading, pattern in SECTIONS.items()
    )
    # jax 0.10 to 0.12 number the parents from 1 and the frames from 0.
    late = any(frame == parent for frame, (_, parent) in frames.items())

    def origin(frame: str) -> str:
        found = "other code"
        while frame in frames:
            place, parent = frames[frame]
            file, function = places[place]
            _, own, name = files[file][0].rpartition(PACKAGE)
            if own:
                found = f"{name} {functions[function][0].partition('.<locals>')[0]}"
                if name not in SHARED:
                    break
            frame = str(int(parent) - late)
        return found

    made = [(one[1], one[2], one[3]) for line in text.splitlines() if (one := MADE.match(line))]
    return {name: (origin(frame), _way(operation)) for name, operation, frame in made}


def _rows(text: str, heading: str, pattern: str) -> dict[str, list[str]]:
    section = text.partition(f"\n{heading}\n")[2].partition("\n\n")[0]
    return {number: rest for number, *rest in re.findall(pattern, section, re.MULTILINE)}


def _way(operation):
    if "transpose(" in operation:
        return "backward"
    return "forward" if "jvp(" in operation else ""
