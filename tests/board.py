"""A run's TensorBoard pages, read as TensorBoard itself reads them, without its server."""

import io

from PIL import Image
from tensorboard import context
from tensorboard.backend.event_processing import data_provider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.util import tensor_util


class Board:
    """What is shown of a folder of event files."""

    def __init__(self, folder):
        """Reads everything that is there now."""
        self._events = EventMultiplexer(size_guidance={"tensors": 0})
        self._events.AddRunsFromDirectory(str(folder))
        self._events.Reload()
        self.runs = sorted(self._events.Runs())

    def kind(self, run, tag):
        """The plugin that shows a tag: scalars, images or text."""
        return self._events.SummaryMetadata(run, tag).plugin_data.plugin_name

    def about(self, run, tag):
        return self._events.SummaryMetadata(run, tag).summary_description

    def tags(self, run, kind):
        tags = self._events.Runs()[run]["tensors"]
        return sorted(tag for tag in tags if self.kind(run, tag) == kind)

    def values(self, run, tag):
        """(step, value) of a tag: a number, the content of a png, or a text."""
        found = []
        for event in self._events.Tensors(run, tag):
            array = tensor_util.make_ndarray(event.tensor_proto)
            if self.kind(run, tag) == "images":
                width, height, png = array
                assert Image.open(io.BytesIO(png)).size == (int(width), int(height))
                found.append((event.step, png))
            elif self.kind(run, tag) == "text":
                found.append((event.step, array[0].decode()))
            else:
                found.append((event.step, array.item()))
        return found

    def everything(self, run, *kinds):
        """All values by tag, of these kinds."""
        return {tag: self.values(run, tag) for kind in kinds for tag in self.tags(run, kind)}

    def sessions(self):
        """The rows of the HPARAMS tab by run: (knobs, last metrics, status)."""
        provider = data_provider.MultiplexerDataProvider(self._events, "")
        backend = backend_context.Context(base_plugin.TBContext(data_provider=provider))
        known = list(api_pb2.Status.values())
        request = api_pb2.ListSessionGroupsRequest(allowed_statuses=known, slice_size=100)
        asked = list_session_groups.Handler(context.RequestContext(), backend, "", request)
        rows = {}
        for group in asked.run().session_groups:
            (session,) = group.sessions
            knobs = {
                key: value.string_value or value.bool_value or value.number_value
                for key, value in group.hparams.items()
            }
            metrics = {one.name.tag: one.value for one in session.metric_values}
            rows[session.name] = (knobs, metrics, api_pb2.Status.Name(session.status))
        return rows
