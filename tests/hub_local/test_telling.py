"""The address of the hub on this machine is told when it answers, and not before."""

from __future__ import annotations

import http.server
import json
import threading

from hub_config import roles
from hub_local.telling import ANSWERING, tell_when_it_answers


def test_it_is_told_when_hub_and_service_answer_and_not_before(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "of the proxy")
    state = {"routes": {}, "status": 503}
    asked, looked = [], threading.Semaphore(0)

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            api = self.path == "/api/routes"
            body = json.dumps(state["routes"]).encode() if api else b""
            allowed = not api or self.headers["Authorization"] == "token of the proxy"
            self.send_response((200 if api else state["status"]) if allowed else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            looked.release()

        def log_message(self, *_):
            pass

    def looks():
        """Wait until it has looked at all that there is now."""
        for _ in range(4):
            assert looked.acquire(timeout=30)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        port = server.server_address[1]
        thread = tell_when_it_answers(port, port, "secret", tmp_path, look_seconds=0.001)
        looks()
        state["routes"] = {"/": {}}
        looks()
        assert set(asked) == {"/api/routes"}  # the proxy's log would tell of anything else
        state["routes"] = {"/": {}, roles.PREFIX: {}}
        looks()
        assert capsys.readouterr().out == ""
        state["status"] = 200
        thread.join(30)
        server.shutdown()
    said = capsys.readouterr().out
    assert said.startswith(f"Open http://127.0.0.1:{port} and log in as ana")
    assert "with the password secret\n" in said
    assert set(asked) == {"/api/routes", *ANSWERING}
