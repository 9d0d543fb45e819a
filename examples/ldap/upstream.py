#!/usr/bin/env python3
"""A stand-in for your API: answers every request with what reached it. Usage: upstream.py [ADDRESS:PORT]"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        shown = {name.lower(): value for name, value in self.headers.items() if name.lower().startswith("x-")}
        body = json.dumps({"method": self.command, "path": self.path, "headers": shown}).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Powered-By", "orders 1.4.2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *_):
        pass


host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9000").rpartition(":")
ThreadingHTTPServer((host, int(port)), Echo).serve_forever()
