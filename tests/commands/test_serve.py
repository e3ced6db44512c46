import json
import signal
import urllib.error
import urllib.request

import pytest
from suffice.server.commands.serve import upstream_url
from suffice.server.engine.local import answers, free_port


@pytest.fixture
def ports():
    return free_port(), free_port()


@pytest.fixture
def serve(suffice, tmp_path, ports):
    """Starts ``suffice serve`` with ports and a data directory of its own."""

    def start(*arguments, **how):
        own = ("--port", ports[0], "--metrics-port", ports[1], "--data-dir", tmp_path / "data")
        return suffice("serve", *own, *arguments, **how)

    return start


@pytest.fixture
def config(tmp_path):
    """Writes an operator's file."""

    def write(text):
        path = tmp_path / "suffice.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_an_upstream_may_be_written_as_an_api_address(suffix):
    assert upstream_url(f"https://host:8000/vllm{suffix}") == "https://host:8000/vllm"


def _get(url, key=""):
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def _await(command, url):
    while not answers(url):
        assert command.process.poll() is None, command.output
    return url


def test_without_a_file_a_local_key_is_made_and_shown(serve, fake, ports, tmp_path):
    command = serve("--upstream", fake.url).wait_for("local key: ")
    base = f"http://127.0.0.1:{ports[0]}"
    _await(command, f"{base}/ready")
    key = command.output.partition("local key: ")[2].split()[0]

    assert (tmp_path / "data" / "local_key").read_text().strip() == key
    status, body = _get(f"{base}/v1/models", key)
    assert status == 200
    assert [model["id"] for model in json.loads(body)["data"]] == ["fake"]
    assert _get(f"{base}/v1/models", "sk-suffice-wrong")[0] == 401
    assert command.send(signal.SIGTERM).wait() == 0


def test_metrics_have_a_port_of_their_own(serve, fake, ports):
    command = serve("--upstream", fake.url)
    _await(command, f"http://127.0.0.1:{ports[0]}/ready")

    status, body = _get(f"http://127.0.0.1:{ports[1]}/metrics")
    assert status == 200
    assert b"\nsuffice_upstream_up 1.0\n" in body
    assert _get(f"http://127.0.0.1:{ports[0]}/metrics")[0] == 404


def test_metrics_port_0_serves_them_beside_the_api(suffice, fake, ports, tmp_path):
    command = suffice(
        "serve", "--upstream", fake.url, "--port", ports[0], "--metrics-port", 0, "--data-dir", tmp_path / "data"
    )
    _await(command, f"http://127.0.0.1:{ports[0]}/ready")

    assert b"suffice_upstream_up" in _get(f"http://127.0.0.1:{ports[0]}/metrics")[1]


def test_a_file_is_served_and_makes_no_key(serve, fake, ports, config, tmp_path):
    command = serve("--config", config(f"upstreams: [{{url: '{fake.url}'}}]"))
    _await(command, f"http://127.0.0.1:{ports[0]}/ready")

    assert "no key exists yet; make one with: suffice keys create NAME" in command.output
    assert "local key" not in command.output
    assert not (tmp_path / "data" / "local_key").exists()


def test_the_hint_to_make_a_key_goes_once_there_is_one(serve, suffice, fake, ports, config, tmp_path):
    maker = suffice("keys", "create", "ada", "--data-dir", tmp_path / "data")
    assert maker.wait() == 0
    secret = maker.output.splitlines()[0]
    command = serve("--config", config(f"upstreams: [{{url: '{fake.url}'}}]"))
    _await(command, f"http://127.0.0.1:{ports[0]}/ready")

    assert "no key exists" not in command.output
    assert _get(f"http://127.0.0.1:{ports[0]}/v1/models", secret)[0] == 200


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("server: {port: many}", "server.port", id="type"),
        pytest.param("server: {prot: 8080}", "server.prot", id="unknown-key"),
        pytest.param("servr: {}", "servr", id="unknown-section"),
        pytest.param("policies: {default_preset: lavish}", "policies.default_preset", id="no-such-preset"),
        pytest.param("server: [", "suffice.yaml", id="not-yaml"),
        pytest.param("- 1", "(top)", id="not-a-mapping"),
        pytest.param("{}", "no upstream: name one with --upstream URL or under upstreams", id="no-upstream"),
        pytest.param("upstreams: [{url: 'http://127.0.0.1:1', api_key: plain}]", "env:NAME or file:PATH", id="secret"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_and_nothing_is_served(serve, config, text, told):
    command = serve("--config", config(text))

    assert command.wait() == 2
    assert told in command.output
    assert "Traceback" not in command.output


def test_a_file_that_is_not_there_is_told(serve, tmp_path):
    command = serve("--config", tmp_path / "nothing.yaml")

    assert command.wait() == 2
    assert command.last_line.endswith("nothing.yaml: No such file or directory")


def test_no_upstream_at_all_is_told(serve):
    command = serve()

    assert command.wait() == 2
    assert command.last_line == "no upstream: name one with --upstream URL or under upstreams in the file"


@pytest.mark.parametrize(("which", "code"), [(0, 3), (1, 2)], ids=["api", "metrics"])
def test_a_port_in_use_is_told(serve, suffice, fake, ports, tmp_path, which, code):
    first = serve("--upstream", fake.url)
    _await(first, f"http://127.0.0.1:{ports[0]}/health")
    taken = [free_port(), free_port()]
    taken[which] = ports[which]
    second = suffice(
        "serve",
        "--upstream",
        fake.url,
        "--port",
        taken[0],
        "--metrics-port",
        taken[1],
        "--data-dir",
        tmp_path / "other",
    )

    assert second.wait() == code
    assert "address already in use" in second.last_line.lower()
    assert "Traceback" not in second.output


def test_a_ledger_in_use_is_told(serve, suffice, fake, ports, tmp_path):
    first = serve("--upstream", fake.url)
    _await(first, f"http://127.0.0.1:{ports[0]}/health")
    second = suffice("serve", "--upstream", fake.url, "--port", free_port(), "--data-dir", tmp_path / "data")

    assert second.wait() == 2
    assert second.last_line == "another gateway uses this ledger"


def test_an_upstream_that_comes_later_is_found(serve, fake, ports):
    fake.stop()
    command = serve("--upstream", fake.url)
    _await(command, f"http://127.0.0.1:{ports[0]}/health")
    assert _get(f"http://127.0.0.1:{ports[0]}/ready")[0] == 503

    fake.start()

    _await(command, f"http://127.0.0.1:{ports[0]}/ready")
