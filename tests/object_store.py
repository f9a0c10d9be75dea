"""A store of objects on this machine that speaks as Google Cloud Storage does; started as a script
with a port: `python object_store.py PORT`. Buckets: "pod"."""

import logging
import sys

from gcp_storage_emulator.handlers import objects

whole = objects.download


def download(request, response, storage, *args, **kwargs):
    """Adds what tensorstore asks of an answer, the generation, to the emulator's own."""
    whole(request, response, storage, *args, **kwargs)
    if response.status < 300:
        found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = str(found.get("generation") or 1)


if __name__ == "__main__":
    objects.download = download  # before the server takes it into its table
    from gcp_storage_emulator import server

    logging.disable(logging.CRITICAL)
    server.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="pod").run()
