"""The remote cache, over S3 and over a folder, with everything that may go wrong between."""

import itertools
import signal
import subprocess
import threading

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer
from remote_cache import ACCESS_KEY, SECRET, STAGES, Machine, Proxy, wait_until
from werkzeug.serving import WSGIRequestHandler

SOON = ["--remote-timeout", "1s"]
TWO_ROUNDS = ["--rounds", "2"]


@pytest.fixture(scope="module")
def server():
    """The port of an S3 server."""
    WSGIRequestHandler.disable_nagle_algorithm = True
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


def client(service, port, key="admin", secret="admin"):
    return boto3.client(
        service,
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


class S3:
    """A bucket of its own, with a proxy before it."""

    def __init__(self, port, folder, name):
        self.port, self.folder, self.bucket = port, folder, name
        self.client = client("s3", port)
        self.client.create_bucket(Bucket=name)
        self.proxy = Proxy(port)
        self.machines = 0

    def machine(self, endpoint=None, key=ACCESS_KEY, secret=SECRET, **options):
        """Returns a machine that nothing was run on."""
        self.machines += 1
        environment = {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ENDPOINT": endpoint or self.proxy.url,
        }
        folder = self.folder / f"machine-{self.machines}"
        return Machine(folder, f"s3://{self.bucket}/team/sims", environment, **options)

    def objects(self, prefix=""):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"team/sims/{prefix}")
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


NUMBERS = itertools.count(1)


@pytest.fixture
def s3(server, tmp_path):
    s3 = S3(server, tmp_path, f"bucket-{next(NUMBERS)}")
    yield s3
    s3.proxy.close()


def test_another_machine_computes_nothing_and_shows_the_same_bytes(s3):
    first, second = s3.machine(), s3.machine()
    assert first.run()[0] == (STAGES, 0, 0)
    assert len(s3.objects("ac/")) == len(s3.objects("actions/")) == STAGES
    counts, messages = second.run()
    assert counts == (0, STAGES, STAGES)
    assert f"remote cache: {STAGES} results fetched, 0 sent" in messages
    assert second.views() == first.views() and len(second.views()) == STAGES
    assert second.is_whole()
    before = s3.proxy.requests()
    assert second.run()[0] == (0, STAGES, 0)
    assert s3.proxy.requests() == before, "what is in the store is not asked for"


def test_credentials_are_in_no_file(s3):
    machine = s3.machine()
    machine.run()
    for path, text in machine.texts().items():
        assert SECRET.encode() not in text and ACCESS_KEY.encode() not in text, path


def test_push_and_pull_are_done_once(s3):
    first, second = s3.machine(), s3.machine()
    first.remote = ""
    first.run(*TWO_ROUNDS)
    assert s3.objects() == []
    first.remote = second.remote
    assert first.sims("push", "p.yaml")[0]["uploaded"] == 2 * STAGES
    counts, messages = first.sims("push", "--all", "--store", ".sims")
    assert (counts["uploaded"], counts["present"]) == (0, 2 * STAGES)
    assert f"0 results sent, {2 * STAGES} were there already" in messages
    counts, _ = second.sims("pull", "p.yaml")
    assert counts == {"fetched": STAGES, "present": 0, "missing": 0}
    assert second.sims("pull", "p.yaml", *TWO_ROUNDS)[0] == {"fetched": STAGES, "present": STAGES, "missing": 0}
    assert second.views() == first.views()
    assert second.run(*TWO_ROUNDS)[0] == (0, 2 * STAGES, 0)


def test_pull_runs_nothing(s3):
    machine = s3.machine()
    counts, messages = machine.sims("pull", "p.yaml")
    assert counts == {"fetched": 0, "present": 0, "missing": STAGES}
    assert f"{STAGES} are in neither place" in messages
    assert machine.views() == {}


def test_a_push_that_was_cut_off_goes_on(s3):
    machine = s3.machine()
    machine.remote = ""
    machine.run(*TWO_ROUNDS)
    machine.remote = s3.machine().remote
    results = 0

    def fault(method, path, number):
        nonlocal results
        results += method == "PUT" and "/ac/" in path
        return 403 if results > 2 else None

    s3.proxy.fault = fault
    _, messages = machine.sims("push", "p.yaml", code=1)
    assert "permission denied (403)" in messages
    done = len(s3.objects("ac/"))
    assert 0 < done < 2 * STAGES
    s3.proxy.fault = lambda *_: None
    counts, _ = machine.sims("push", "p.yaml")
    assert (counts["uploaded"], counts["present"]) == (2 * STAGES - done, done)


@pytest.mark.parametrize("fault", ["wrong", "cut"])
@pytest.mark.parametrize("folder", ["/cas/", "/ac/"])
def test_wrong_bytes_are_never_accepted(s3, fault, folder):
    first, second, third = s3.machine(), s3.machine(), s3.machine()
    first.run()
    s3.proxy.fault = lambda method, path, number: fault if method == "GET" and folder in path else None
    counts, messages = second.run()
    assert counts == (STAGES, 0, 0)
    assert "holds wrong data" in messages and "it is not used" in messages
    assert second.views() == first.views()
    assert second.is_whole()
    # What was found damaged was written anew.
    s3.proxy.fault = lambda *_: None
    assert third.run()[0] == (0, STAGES, STAGES)


def warnings(messages):
    return [line for line in messages.splitlines() if line.startswith("warning:") and "cannot be used" in line]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("drop", "cannot be used: "),
        (500, "the server answered 500 Internal Server Error"),
        (503, "the server answered 503 Service Unavailable"),
        (403, "permission denied (403)"),
        ("silent", "no answer within 1 s"),
        ("slow", "no answer within 1 s"),
        ("lost", "cannot be used: "),
    ],
)
def test_a_remote_that_fails_costs_one_warning(s3, fault, words):
    first, second = s3.machine(), s3.machine()
    first.run()
    s3.proxy.fault = lambda *_: fault
    before = s3.proxy.requests()
    counts, messages = second.run(*SOON)
    assert counts == (STAGES, 0, 0)
    assert len(warnings(messages)) == 1, messages
    assert words in messages and "this run goes on without it" in messages
    assert s3.proxy.requests() - before < 12, "it is not asked for every action"
    assert second.views() == first.views()


def test_a_remote_that_is_not_there_costs_one_warning(s3):
    # A port that nobody listens on.
    s3.proxy.close()
    machine = s3.machine()
    counts, messages = machine.run(*SOON)
    assert counts == (STAGES, 0, 0)
    assert len(warnings(messages)) == 1, messages
    _, messages = machine.sims("push", "p.yaml", *SOON, code=1)
    assert "error: the remote cache s3://" in messages
    _, messages = s3.machine().sims("pull", "p.yaml", *SOON, code=1)
    assert "cannot be used" in messages


@pytest.mark.parametrize("fault", [500, "drop", "lost"])
def test_failures_that_pass_are_not_seen(s3, fault):
    first, second = s3.machine(), s3.machine()
    s3.proxy.fault = lambda method, path, number: fault if number == 1 and fault != "lost" else None
    counts, messages = first.run()
    assert counts == (STAGES, 0, 0) and "warning" not in messages, messages
    assert len(s3.objects("ac/")) == STAGES
    s3.proxy.counts.clear()
    s3.proxy.fault = lambda method, path, number: fault if number == 1 else None
    counts, messages = second.run()
    assert counts == (0, STAGES, STAGES) and "warning" not in messages, messages
    assert second.views() == first.views()


def test_who_may_only_read_reads(server, s3):
    first = s3.machine()
    first.run()
    before = len(s3.objects("ac/"))
    iam = client("iam", server)
    iam.create_user(UserName="reader")
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    policy = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], '
        '"Resource": "*"}]}'
    )
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
    requests.post(f"http://127.0.0.1:{server}/moto-api/reset-auth", data="0")
    try:
        reader = s3.machine(
            endpoint=f"http://127.0.0.1:{server}", key=key["AccessKeyId"], secret=key["SecretAccessKey"]
        )
        counts, messages = reader.run(*TWO_ROUNDS)
        assert counts == (STAGES, STAGES, STAGES)
        assert len(warnings(messages)) == 1, messages
        assert "permission denied (403); nothing more is uploaded" in messages
        wrong = s3.machine(endpoint=f"http://127.0.0.1:{server}", key=key["AccessKeyId"], secret="wrong")
        counts, messages = wrong.run()
        assert counts == (STAGES, 0, 0) and "(403)" in messages
    finally:
        requests.post(f"http://127.0.0.1:{server}/moto-api/reset-auth", data="inf")
    assert len(s3.objects("ac/")) == before
    counts, messages = s3.machine().run("--remote-read-only", *TWO_ROUNDS)
    assert counts == (STAGES, STAGES, STAGES) and "warning" not in messages
    assert len(s3.objects("ac/")) == before


def test_machines_that_write_at_once_leave_whole_results(s3):
    machines = [s3.machine() for _ in range(4)]
    gate = threading.Barrier(len(machines))

    # The first result of each is sent when all have one.
    def fault(method, path, number):
        if method == "PUT" and "/cas/" in path and number <= len(machines):
            try:
                gate.wait(timeout=2)
            except threading.BrokenBarrierError:
                pass

    s3.proxy.fault = fault
    running = [subprocess.Popen(**machine.command("run", "p.yaml")) for machine in machines]
    for process in running:
        _, messages = process.communicate(timeout=60)
        assert process.returncode == 0 and "warning" not in messages, messages
    s3.proxy.fault = lambda *_: None
    last = s3.machine()
    assert last.run()[0] == (0, STAGES, STAGES)
    assert last.is_whole()
    assert all(machine.views() == last.views() for machine in machines)
    assert len(s3.objects("ac/")) == STAGES


def test_large_blobs_travel_in_parts(s3):
    first, second = s3.machine(size=20_000_000), s3.machine(size=20_000_000)
    first.run()
    assert any("uploadId" in path for _, path in s3.proxy.counts), "in parts"
    assert second.run()[0] == (0, STAGES, STAGES)
    assert second.views() == first.views()
    # A connection that is lost in the middle is taken up there.
    third = s3.machine(size=20_000_000)
    s3.proxy.counts.clear()
    s3.proxy.fault = lambda method, path, number: "lost" if "/cas/" in path and number == 1 else None
    counts, messages = third.run()
    assert counts == (0, STAGES, STAGES) and "warning" not in messages
    assert third.views() == first.views()


def test_ctrl_c_does_not_wait_for_the_remote(s3):
    machine = s3.machine()
    s3.proxy.fault = lambda method, path, number: "silent" if method == "PUT" else None
    process = subprocess.Popen(**machine.command("run", "p.yaml", "--remote-timeout", "10m"))
    done = machine.folder / "runs" / "toy" / "round-1" / "checks.parquet"
    wait_until(done.is_symlink, "the last stage")
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=10)
    assert "`sims push` does that" in messages, messages
    s3.proxy.fault = lambda *_: None
    assert machine.sims("push", "p.yaml")[0]["uploaded"] == STAGES


def test_urls_with_credentials_are_refused(s3):
    machine = s3.machine()
    for url in [f"s3://me:{SECRET}@bucket/x", f"az://container/x?sig={SECRET}"]:
        machine.remote = url
        _, messages = machine.sims("run", "p.yaml", code=2)
        assert "in the environment" in messages


def test_a_folder_is_a_remote_cache(tmp_path):
    place = tmp_path / "shared cache"
    first = Machine(tmp_path / "a", str(place), {})
    second = Machine(tmp_path / "b", f"file://{place}", {})
    assert first.run()[0] == (STAGES, 0, 0)
    assert second.run()[0] == (0, STAGES, STAGES)
    assert second.views() == first.views()
    # The blobs are what other programs open.
    assert len(list(place.glob("cas/*/*.zst"))) >= STAGES


def test_webdav_is_a_remote_cache(tmp_path):
    from cheroot import wsgi
    from wsgidav.wsgidav_app import WsgiDAVApp

    (tmp_path / "dav").mkdir()
    application = WsgiDAVApp(
        {
            "provider_mapping": {"/": str(tmp_path / "dav")},
            "simple_dc": {"user_mapping": {"*": True}},
            "verbose": 0,
            "logging": {"enable": False},
        }
    )
    server = wsgi.Server(("127.0.0.1", 0), application)
    server.prepare()
    threading.Thread(target=server.serve, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.bind_addr[1]}/sims"
        first, second = Machine(tmp_path / "a", url, {}), Machine(tmp_path / "b", url, {})
        counts, messages = first.run()
        assert counts == (STAGES, 0, 0) and "warning" not in messages, messages
        assert second.run()[0] == (0, STAGES, STAGES)
        assert second.views() == first.views()
    finally:
        server.stop()
