#!/usr/bin/env python3
"""CPU time per request of Postern beside nginx and HAProxy as plain reverse proxies, in one run.

Needs nginx, haproxy, wrk, h2load (Debian: nginx haproxy wrk nghttp2-client) and openssl. Every proxy has one worker
and forwards to the same nginx, which answers with 1 KiB. The figure is user and system time of the whole proxy, all its
processes, read from /proc before and after, divided by the requests that were answered. No request repeats the one
before: paths and tokens go round.

    benches/proxy/run.py [--gateway target/release/gatewayctl] [--seconds 5] [--rounds 3] [--only NAME ...] [--json FILE]
"""

import argparse
import base64
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
CONNECTIONS = 32
TOKENS = 64
UPSTREAM = 19000
MODES = {"http/1.1": "plain", "http/1.1 tls": "tls", "http/2 tls": "h2"}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sh(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, **options).stdout


def make_certificate(work):
    sh("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost",
       "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", work / "tls.key", "-out", work / "tls.pem")
    (work / "haproxy.pem").write_bytes((work / "tls.pem").read_bytes() + (work / "tls.key").read_bytes())


def make_tokens(work):
    """An RSA key, its key set, and TOKENS tokens signed with it."""
    sh("openssl", "genrsa", "-out", work / "jwt.key", "2048")
    modulus = sh("openssl", "rsa", "-in", work / "jwt.key", "-noout", "-modulus").decode().split("=")[1].strip()
    key = {"kty": "RSA", "kid": "bench", "use": "sig", "alg": "RS256", "n": b64(bytes.fromhex(modulus)), "e": "AQAB"}
    (work / "jwks.json").write_text(json.dumps({"keys": [key]}))
    header = b64(json.dumps({"alg": "RS256", "typ": "JWT", "kid": "bench"}).encode())
    now = int(time.time())
    tokens = []
    for index in range(TOKENS):
        claims = {"iss": "https://bench.example", "aud": "orders", "sub": f"user-{index}", "iat": now - 5,
                  "exp": now + 7200, "scope": "orders.read", "realm_access": {"roles": ["employee", "reader"]}}
        signed = f"{header}.{b64(json.dumps(claims).encode())}"
        signature = sh("openssl", "dgst", "-sha256", "-sign", work / "jwt.key", input=signed.encode())
        tokens.append(f"{signed}.{b64(signature)}")
    return tokens


def write_wrk_script(work, tokens):
    listed = ",\n".join(f'"{token}"' for token in tokens)
    (work / "round.lua").write_text(f"""
local tokens = {{{listed}}}
local requests, at = {{}}, 0
init = function()
  for index = 1, 4096 do
    local headers = {{["Authorization"] = "Bearer " .. tokens[index % #tokens + 1], ["User-Agent"] = "bench/" .. index % 7}}
    requests[index] = wrk.format("GET", "/orders/" .. index * 7919 % 100003 .. "?page=" .. index % 10, headers)
  end
end
request = function()
  at = at % #requests + 1
  return requests[at]
end
""")


def nginx_common(work, name):
    return f"""
worker_processes 1;
daemon off;
pid {work}/{name}.pid;
error_log {work}/{name}.log error;
events {{ worker_connections 4096; }}
"""


def write_upstream(work):
    body = "x" * 1024
    (work / "www").mkdir()
    (work / "upstream.conf").write_text(nginx_common(work, "upstream") + f"""
http {{
  access_log off;
  keepalive_requests 100000000;
  server {{
    listen 127.0.0.1:{UPSTREAM} reuseport;
    location / {{ default_type text/plain; return 200 "{body}"; }}
  }}
}}
""")
    return ["nginx", "-p", work, "-c", work / "upstream.conf"]


def nginx(work, mode, port):
    tls = "" if mode == "plain" else f"ssl_certificate {work}/tls.pem; ssl_certificate_key {work}/tls.key;"
    listen = f"listen 127.0.0.1:{port}{'' if mode == 'plain' else ' ssl'};"
    if mode == "h2":
        listen = f"listen 127.0.0.1:{port} ssl http2;"
    (work / "nginx.conf").write_text(nginx_common(work, "nginx") + f"""
http {{
  access_log off;
  keepalive_requests 100000000;
  upstream up {{ server 127.0.0.1:{UPSTREAM}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    {listen} {tls}
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
""")
    return ["nginx", "-p", work, "-c", work / "nginx.conf"]


def haproxy(work, mode, port):
    bind = f"bind 127.0.0.1:{port}"
    if mode != "plain":
        bind += f" ssl crt {work}/haproxy.pem alpn {'h2' if mode == 'h2' else 'http/1.1'}"
    (work / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  http-reuse always
frontend in
  {bind}
  default_backend up
backend up
  server up 127.0.0.1:{UPSTREAM}
""")
    return ["haproxy", "-f", work / "haproxy.cfg"]


def gateway(binary, work, mode, port, policy, full):
    tls = "" if mode == "plain" else f"""
    tls: {{certificates: [{{cert: {work}/tls.pem, key: {work}/tls.key}}]}}"""
    identity = f"""
identity:
  corp: {{type: jwt, issuer: "https://bench.example", audiences: [orders], jwks_file: {work}/jwks.json,
         algorithms: [RS256], claims: {{roles: realm_access.roles, scopes: scope}}}}""" if full else ""
    logs = f"[{{type: file, path: {work}/decisions.jsonl}}]" if full else "[]"
    (work / "gateway.yaml").write_text(f"""
version: 1
workers: 1
listeners:
  - name: bench
    address: 127.0.0.1:{port}
    protocols: [h2, http/1.1]{tls}
{identity}
upstreams:
  up: {{endpoints: ["http://127.0.0.1:{UPSTREAM}"]}}
policies:
  main: {{bundle: {policy}, decision: gateway/decision, budget: 1s}}
apis:
  - name: orders
    policy: main
    upstream: up
    {"identity: [corp]" if full else ""}
    routes: [{{name: read-order, path: "/orders/{{id}}", methods: [GET]}}]
decision_logs: {logs}
""")
    return [binary, "run", "--config", work / "gateway.yaml"]


def wait_for(port, process):
    deadline = time.time() + 15
    while time.time() < deadline:
        if process.poll() is not None:
            sys.exit(f"a server ended early:\n{process.stderr.read().decode()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def family(pid):
    """A process and its children."""
    pids = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            pids += family(int(child))
    return pids


def cpu_seconds(pid):
    """User and system time of a process and its children."""
    ticks = 0
    for one in family(pid):
        fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_mib(pid):
    pages = sum(int(pathlib.Path(f"/proc/{one}/statm").read_text().split()[1]) for one in family(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def load(work, mode, port, seconds, tokens):
    """Requests answered with 200, and requests a second."""
    if mode == "h2":
        uris = work / "uris.txt"
        uris.write_text("".join(f"https://127.0.0.1:{port}/orders/{n * 7919 % 100003}?page={n % 10}\n" for n in range(4096)))
        command = ["h2load", "-c", CONNECTIONS, "-m", 8, "-t", 1, "-D", seconds, "--warm-up-time", 0, "-i", uris,
                   "-H", f"authorization: Bearer {tokens[0]}"]
        out = sh(*map(str, command)).decode()
        good = int(re.search(r"status codes: (\d+) 2xx", out)[1])
        bad = [int(n) for n in re.findall(r"(\d+) [345]xx", out)]
        if any(bad) or not good:
            sys.exit(f"not all requests were answered with 200:\n{out}")
        return good, good / seconds
    scheme = "http" if mode == "plain" else "https"
    command = ["wrk", "-t", 1, "-c", CONNECTIONS, "-d", f"{seconds}s", "-s", work / "round.lua", f"{scheme}://127.0.0.1:{port}"]
    out = sh(*map(str, command)).decode()
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit(f"not all requests were answered with 200:\n{out}")
    return int(re.search(r"(\d+) requests in", out)[1]), float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])


def measure(command, work, mode, port, seconds, tokens):
    # A library error that takes a backtrace costs more than a request; no server is run with that.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUST_")}
    with open(work / "proxy.err", "wb") as errors:
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=errors, env=environment)
    try:
        wait_for(port, process)
        idle = rss_mib(process.pid)
        load(work, mode, port, 1, tokens)
        before = cpu_seconds(process.pid)
        requests, rate = load(work, mode, port, seconds, tokens)
        spent = cpu_seconds(process.pid) - before
        return {"us": spent / requests * 1e6, "rate": rate, "idle_mib": idle, "loaded_mib": rss_mib(process.pid)}
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--gateway", default=HERE.parents[1] / "target/release/gatewayctl", type=pathlib.Path)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=["nginx", "haproxy", "postern-a", "postern-b"])
    parser.add_argument("--modes", nargs="*", default=list(MODES.values()))
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    for tool in ["nginx", "haproxy", "wrk", "h2load", "openssl"]:
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing; on Debian: apt-get install -y nginx haproxy wrk nghttp2-client openssl")
    if not arguments.gateway.exists():
        sys.exit(f"{arguments.gateway} is missing; build it with: cargo build --release")
    binary = arguments.gateway.resolve()
    work = pathlib.Path(tempfile.mkdtemp(prefix="proxy-bench-"))
    make_certificate(work)
    tokens = make_tokens(work)
    write_wrk_script(work, tokens)
    with open(work / "upstream.err", "wb") as errors:
        upstream = subprocess.Popen([str(part) for part in write_upstream(work)], stderr=errors)
    results = {}
    try:
        wait_for(UPSTREAM, upstream)
        port = UPSTREAM
        for turn in range(arguments.rounds):
            for label, mode in MODES.items():
                for name in arguments.only:
                    if mode not in arguments.modes:
                        continue
                    port += 1
                    command = {
                        "nginx": lambda: nginx(work, mode, port),
                        "haproxy": lambda: haproxy(work, mode, port),
                        "postern-a": lambda: gateway(binary, work, mode, port, HERE / "allow", full=False),
                        "postern-b": lambda: gateway(binary, work, mode, port, HERE / "policy", full=True),
                    }[name]()
                    result = measure(command, work, mode, port, arguments.seconds, tokens)
                    results.setdefault((label, name), []).append(result)
                    print(f"round {turn + 1}: {label:13} {name:10} {result['us']:6.1f} us", file=sys.stderr)
    finally:
        upstream.terminate()
        upstream.wait()
        shutil.rmtree(work, ignore_errors=True)
    report(results)
    if arguments.json:
        rows = [{"mode": label, "proxy": name, "runs": runs} for (label, name), runs in results.items()]
        arguments.json.write_text(json.dumps(rows, indent=1))


def report(results):
    print(f"\n{'':13} {'proxy':10} {'CPU us/request':>15} {'x nginx':>8} {'requests/s':>11} {'RSS MiB idle/load':>18}")
    for (label, name), runs in results.items():
        us = statistics.median(run["us"] for run in runs)
        base = results.get((label, "nginx"))
        # The ratio is taken within each round, where the machine was in the same mood.
        ratio = statistics.median(run["us"] / nginx["us"] for run, nginx in zip(runs, base)) if base else float("nan")
        rate = statistics.median(run["rate"] for run in runs)
        idle = statistics.median(run["idle_mib"] for run in runs)
        loaded = statistics.median(run["loaded_mib"] for run in runs)
        print(f"{label:13} {name:10} {us:15.1f} {ratio:8.2f} {rate:11.0f} {idle:9.0f} /{loaded:7.0f}")


main()
