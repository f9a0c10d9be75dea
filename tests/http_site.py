"""A real HTTP server on 127.0.0.1 whose one file can be served in all the ways that go wrong."""

import contextlib
import http.server
import threading


class Site:
    """What the server does.

    content: the file; ranges: whether parts of it can be asked for; statuses: of the next answers,
    in place of the file; cuts: bytes after which the next answers break off; length: whether sizes
    are told; released: what an answer waits for after half of its bytes.
    """

    def __init__(self, content):
        self.content, self.ranges, self.length = content, True, True
        self.statuses, self.cuts = [], []
        self.released = threading.Event()
        self.released.set()
        self.asked = []  # the Range of every request, "" for none
        self.agents = set()
        self.url = ""


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self):
        site = self.site
        wanted = self.headers.get("Range", "")
        site.asked.append(wanted)
        site.agents.add(self.headers["User-Agent"])
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
            return
        if site.statuses:
            self.send_error(site.statuses.pop(0))
            return
        start, size = 0, len(site.content)
        if wanted and site.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if site.length:
            self.send_header("Content-Length", str(size - start))
        self.end_headers()
        body = site.content[start:]
        if site.cuts:
            body = body[: site.cuts.pop(0)]
        with contextlib.suppress(OSError):  # the other side has gone
            self.wfile.write(body[: len(body) // 2])
            site.released.wait(60)
            self.wfile.write(body[len(body) // 2 :])

    def log_message(self, format, *args):
        del format, args


@contextlib.contextmanager
def serve(content):
    """Yields a Site that is served until the end of the block."""
    site = Site(content)
    handler = type("SiteHandler", (Handler,), {"site": site})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        site.url = f"http://127.0.0.1:{server.server_address[1]}/file"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield site
        finally:
            site.released.set()
            server.shutdown()
            thread.join(60)
