"""A real S3 server, a proxy before it that injects faults, and a pipeline of seconds, for tests of the remote cache."""

import http.client
import json
import os
import socket
import socketserver
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIMS = ROOT / "target" / "release" / "sims"
SECRET = "hunter2-do-not-show-this"
ACCESS_KEY = "AKIASHOULDNOTBESHOWN"

STAGE = '''#!/bin/sh
# A stage whose output is a function of what it reads.
if [ "$1" = describe ]; then
    cat <<'END'
DESCRIPTION
END
    exit
fi
bytes=0
while [ $# -gt 0 ]; do
    case $1 in
    --out) out=$2 ;;
    --progress | --threads) ;;
    *)
        [ "$1" = --bytes ] && bytes=$2
        if [ -f "$2" ]; then hash=$(cat "$2" | sha256sum) && seen="$seen $hash"; else seen="$seen $1 $2"; fi
        ;;
    esac
    shift 2
done
hash=$(echo "NAME $seen" | sha256sum)
for role in OUTPUTS; do
    if [ "$bytes" -gt 0 ]; then
        python3 -c "import random, sys; sys.stdout.buffer.write(random.Random('$hash').randbytes($bytes))"
    else
        for i in 1 2 3 4 5 6 7 8; do echo "$role $hash $i" | sha256sum; done
    fi >"$out/$role.parquet"
done
echo '{"tokens": 3}' >"$out/summary.json"
'''

PIPELINE = """
name: toy
seed: 17
rounds: 1
prompts: {train: train.txt}
round:
  sample: {uses: ./sample.sh, with: {bytes: BYTES}}
  rank: {uses: ./rank.sh}
  check: {uses: ./check.sh}
"""
# In one round.
STAGES = 3


def stage(name, inputs, outputs, params):
    """Returns the text of a stage."""
    description = {
        "stage": name,
        "behaviour": 1,
        "inputs": {role: {"schema": schema, "required": True, "many": False} for role, schema in inputs.items()},
        "outputs": {role: {"schema": schema} for role, schema in outputs.items()},
        "params": {"type": "object", "properties": params},
        "numerics": "",
    }
    text = STAGE.replace("DESCRIPTION", json.dumps(description)).replace("NAME", name)
    return text.replace("OUTPUTS", " ".join(outputs))


class Machine:
    """A workspace with a store of its own, as on a machine of its own."""

    def __init__(self, folder, remote, environment, size=0):
        folder.mkdir()
        self.folder = folder
        self.remote = remote
        self.environment = environment
        number = {"type": "integer", "default": 0}
        seeds = {"seed": number, "round": number, "bytes": number}
        stages = {
            "sample": ({"prompts": "text@1"}, {"numbers": "numbers@1"}, seeds),
            "rank": ({"numbers": "numbers@1"}, {"ranking": "ranks@1"}, {}),
            "check": ({"numbers": "numbers@1", "ranking": "ranks@1"}, {"checks": "checks@1"}, {}),
        }
        for name, (inputs, outputs, params) in stages.items():
            path = folder / f"{name}.sh"
            path.write_text(stage(name, inputs, outputs, params))
            path.chmod(0o755)
        (folder / "train.txt").write_text("prompts")
        (folder / "p.yaml").write_text(PIPELINE.replace("BYTES", str(size)))

    def command(self, *arguments):
        """Returns how `sims ARGUMENTS` is started, for subprocess."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SIMS_"))}
        environment.update(self.environment, SIMS_REMOTE=self.remote)
        return {
            "args": [str(SIMS), *arguments],
            "cwd": self.folder,
            "env": environment,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }

    def sims(self, *arguments, code=0):
        """Runs `sims ARGUMENTS --json` and returns its result and its messages, which hold no secret."""
        done = subprocess.run(**self.command(*arguments, "--json"), timeout=60)
        assert done.returncode == code, (done.returncode, done.stderr)
        for text in [done.stdout, done.stderr]:
            assert SECRET not in text and ACCESS_KEY not in text, text
        return json.loads(done.stdout) if done.stdout else None, done.stderr

    def run(self, *arguments):
        """Runs the pipeline; returns how many stages ran, how many did not have to, how many came from the cache."""
        counts, messages = self.sims("run", "p.yaml", *arguments)
        assert counts["failed"] == 0
        return (counts["executed"], counts["cached"], counts["fetched"]), messages

    def views(self):
        """Returns every view by its path, with its bytes; summaries and records vary from run to run."""
        runs = self.folder / "runs" / "toy"
        found = [path for path in sorted(runs.rglob("*.parquet")) if path.is_symlink()]
        return {str(path.relative_to(runs)): path.read_bytes() for path in found}

    def texts(self):
        """Returns every small file of the workspace, for a search."""
        found = [path for path in self.folder.rglob("*") if path.is_file() and path.stat().st_size < 1 << 20]
        return {str(path): path.read_bytes() for path in found}

    def is_whole(self):
        """Checks every byte of the store."""
        report, _ = self.sims("fsck")
        return report["bad"] == []


class Proxy(socketserver.ThreadingTCPServer):
    """Passes requests on to a server on this machine, or does to them what a test asks for.

    `fault(method, path, number)` names what goes wrong with the request, where `number` counts the requests of this
    method and path from 1; None lets it pass.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = port
        self.fault = lambda method, path, number: None
        self.counts = {}
        self.lock = threading.Lock()
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def requests(self):
        with self.lock:
            return sum(self.counts.values())

    def close(self):
        self.closing.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Header and body go out together, and at once.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def handle_one(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        with self.server.lock:
            key = (self.command, self.path)
            number = self.server.counts[key] = self.server.counts.get(key, 0) + 1
        fault = self.server.fault(self.command, self.path, number)
        if fault == "silent":
            self.server.closing.wait()
        if fault in ("silent", "drop"):
            self.drop()
            return
        if fault in (500, 503, 403):
            text = f"<Error><Code>Fault</Code><AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId></Error>".encode()
            self.answer(fault, [("Content-Type", "application/xml")], len(text), text)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        upstream.request(self.command, self.path, body=body, headers=headers)
        got = upstream.getresponse()
        content = got.read()
        headers = [
            (name, value)
            for name, value in got.getheaders()
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server")
        ]
        size = int(got.getheader("Content-Length") or len(content))
        upstream.close()
        half = len(content) // 2
        if fault == "wrong" and content:
            content = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        if fault == "cut":
            content, size = content[:half], half
        if fault == "lost":
            self.answer(got.status, headers, size, content[:half])
            self.drop()
        elif fault == "slow":
            self.answer(got.status, headers, size, content[:half])
            self.server.closing.wait()
            self.drop()
        else:
            self.answer(got.status, headers, size, content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

    def answer(self, status, headers, size, content):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def drop(self):
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def wait_until(condition, what):
    """Waits for at most half a minute."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"{what} never happened"
        time.sleep(0.01)
