"""What a stream of the service tells is told once, whatever signs of life come between."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from flautim_lab.connection import Service

TOLD = b"id: 4\ndata: [4]\n\n: still there\n\nevent: end\ndata: {}\n\n: still there\n\n"


class Stream(BaseHTTPRequestHandler):
    """Answers with a stream that is silent between two events."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(TOLD)

    def log_message(self, *_):
        """Say nothing."""


def test_a_sign_of_life_is_no_event():
    with HTTPServer(("127.0.0.1", 0), Stream) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with Service(f"http://127.0.0.1:{server.server_port}", "token") as service:
            told = [(each.event, each.data) for each in service.stream("/stream", 0)]
        thread.join(10)
    assert told == [("message", "[4]"), ("end", "{}")]
