"""TensorBoard's event files: numbers, pictures, text and hyperparameters, a run for each seed.

Place: layer 2, and the only module that imports tensorboardX. It writes what it is given, computes
nothing and has no thread: what cannot be written is a StorageError at once. The first part of a tag
is a section in TensorBoard: what is compared stands in one.
"""

import os
import struct
import time
from collections.abc import Mapping, Sequence

from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.api_pb2 import Status  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.proto.plugin_hparams_pb2 import (
    HParamsPluginData,  # pyright: ignore[reportAttributeAccessIssue]
    SessionEndInfo,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.proto.summary_pb2 import (
    Summary,  # pyright: ignore[reportAttributeAccessIssue]
    SummaryMetadata,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.proto.tensor_pb2 import (
    TensorProto,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.proto.tensor_shape_pb2 import (
    TensorShapeProto,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.summary import hparams

from darts_dist.metrics import storage

ABOUT = {
    "loss/train": "training loss of one step's batch, before the step",
    "loss/train_epoch": "mean of the training loss over an epoch's steps",
    "loss/valid": "mean cross entropy after an epoch, over the pictures or words that score: in a "
    "search, those that train the alphas",
    "loss/alpha_batch": "cross entropy of one step's batch for the alphas, where the method takes "
    "their gradient",
    "accuracy/train": "per cent right of one step's training batch, before the step",
    "accuracy/train_epoch": "per cent right over an epoch's training steps",
    "perplexity/train": "e to the power of one step's training loss, before the step",
    "perplexity/train_epoch": "e to the power of the mean training loss over an epoch's steps",
    "perplexity/valid": "e to the power of a word's mean cross entropy after an epoch, over the "
    "text that scores",
    "perplexity/alpha_batch": "e to the power of the loss of one step's batch for the alphas",
    "accuracy/valid": "per cent right after an epoch, over the pictures that score",
    "accuracy/valid_top5": "per cent of those pictures whose class is among the five likeliest",
    "accuracy/alpha_batch": "per cent right of one step's batch for the alphas, where the method "
    "takes their gradient",
    "gradient_norm/weights": "norm of the weights' gradient, before clipping",
    "gradient_norm/alphas": "norm of the alphas' gradient, of both cells together",
    "learning_rate/weights": "learning rate of the weights; that of alphas is constant",
    "speed/examples_per_s": "training pictures or words in a second, over all seeds",
    "speed/step_ms": "time of one step of all seeds",
    "alphas/entropy_normal": "normal cell: entropy of the mixture weights over log K, mean over "
    "edges; 1: all K operations count alike, 0: one is chosen on each edge",
    "alphas/entropy_reduce": "reduction cell: entropy of the mixture weights over log K, mean over "
    "edges; 1: all K operations count alike, 0: one is chosen on each edge",
    "alphas/entropy_recurrent": "recurrent cell: entropy of the mixture weights over log K, mean "
    "over edges; 1: all K operations count alike, 0: one is chosen on each edge",
    "alphas/weights_recurrent": "recurrent cell: mixture weights in per cent, edges by operations",
    "cells/recurrent": "the recurrent cell that would be derived",
    "alphas/weights_normal": "normal cell: mixture weights in per cent, edges by operations",
    "alphas/weights_reduce": "reduction cell: mixture weights in per cent, edges by operations",
    "cells/skip_connections_normal": "skip connections in the normal cell that would be derived",
    "cells/skip_connections_reduce": "skip connections in the reduction cell that would be derived",
    "cells/normal": "the normal cell that would be derived",
    "cells/reduce": "the reduction cell that would be derived",
    "progress/epoch": "the evaluated epoch, counted from 0 as in the run's other files",
    "warnings/skip_connections": "said once, when a normal cell keeps too many skip connections",
}
"""What each tag shows; there are no others."""

END = "_hparams_/session_end_info"
KINDS = {"simple_value": ("scalars", 1), "tensor": ("text", 2), "image": ("images", 3)}
"""Who shows a field of a summary, and its class of data.

TensorBoard's fast reader drops the meaning of a tag without them (2.21). tensorboardX 2.6 does not
know the class, field 4 of the metadata, so it is written as an unknown field.
"""


class Events:
    """Writes tensorboard/seed-N of a run folder, or nothing where it is not `on`."""

    def __init__(self, workdir: str | os.PathLike, *, on: bool) -> None:
        """Nothing is opened before there is something to write."""
        self.on = on
        self._folder = epath.Path(workdir) / "tensorboard"
        self._writers: dict[int, EventsWriter] = {}
        self._explained: set[tuple[int, str]] = set()
        self._from_step = 1

    def drop_after(self, step: int) -> None:
        """Lets viewers leave out what earlier files have after `step`."""
        self._from_step = step + 1

    def write(
        self,
        step: int,
        seed: int,
        scalars: Mapping[str, float],
        *,
        pictures: Mapping[str, bytes] | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Writes what a seed has to show at a step, by tags of ABOUT, all or nothing.

        pictures: contents of png files. texts: Markdown.
        """
        values = {tag: {"simple_value": float(value)} for tag, value in scalars.items()}
        values |= {tag: {"image": _image(png)} for tag, png in (pictures or {}).items()}
        values |= {tag: {"tensor": _text(text)} for tag, text in (texts or {}).items()}
        found = []
        for tag, value in values.items():
            metadata = None
            if (seed, tag) not in self._explained:
                self._explained.add((seed, tag))
                (field,) = value
                metadata = _metadata(field, ABOUT[tag])
            found.append(Summary.Value(tag=tag, metadata=metadata, **value))
        self._append(step, seed, Summary(value=found))

    def hparams(
        self, seed: int, values: Mapping[str, float | bool | str], metrics: Sequence[str]
    ) -> None:
        """Begins the seed's row in the HPARAMS tab; `metrics` are tags of scalars.

        Viewers keep the first values that they read of a run, whatever a resumed one writes.
        """
        experiment, start, _ = hparams(dict(values), dict.fromkeys(metrics, 0.0))
        for summary in (experiment, start):
            self._append(0, seed, summary)

    def end(self, step: int, seed: int, completed: bool) -> None:
        """Says in the seed's row of the HPARAMS tab how its search ended."""
        status = Status.Value("STATUS_SUCCESS" if completed else "STATUS_FAILURE")
        content = HParamsPluginData(session_end_info=SessionEndInfo(status=status))
        own = SummaryMetadata.PluginData(plugin_name="hparams", content=content.SerializeToString())
        metadata = SummaryMetadata(plugin_data=own)
        self._append(step, seed, Summary(value=[Summary.Value(tag=END, metadata=metadata)]))

    def close(self) -> None:
        """Writes out and closes all files."""
        with storage(self._folder):
            for writer in self._writers.values():
                writer.close()
        self._writers = {}

    def _append(self, step: int, seed: int, summary: Summary) -> None:
        if not self.on:
            return
        with storage(self._folder):
            writer = self._writers.get(seed) or self._open(seed)
            writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            writer.flush()

    def _open(self, seed: int) -> EventsWriter:
        """Returns a new event file of a seed.

        The first start of a session that a viewer reads has no effect; each later one lets it drop
        what it has read from that step on.
        """
        folder = self._folder / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        writer = EventsWriter(os.fspath(folder / "events"), f".{os.getpid()}")
        start = SessionLog(status=SessionLog.SessionStatus.START)
        writer.write_event(Event(wall_time=time.time(), step=self._from_step, session_log=start))
        self._writers[seed] = writer
        return writer


def _metadata(field: str, about: str) -> SummaryMetadata:
    plugin, data_class = KINDS[field]
    own = SummaryMetadata.PluginData(plugin_name=plugin)
    metadata = SummaryMetadata(plugin_data=own, summary_description=about)
    metadata.MergeFromString(bytes([4 << 3, data_class]))
    return metadata


def _image(png: bytes) -> Summary.Image:
    width, height = struct.unpack(">II", png[16:24])
    return Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)


def _text(markdown: str) -> TensorProto:
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    return TensorProto(dtype="DT_STRING", string_val=[markdown.encode()], tensor_shape=shape)
