from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from robustprune.errors import UsageError
from robustprune.tracking import serve_ui
from robustprune.tracking.store import connect


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    connect(uri)
    return uri


@pytest.fixture
def port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def alive(group: int) -> bool:
    """Whether any process of the group is left, other than as a corpse."""
    states = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True)
    return any(not state.startswith("Z") for state in states.stdout.split())


@pytest.mark.slow
def test_the_ui_answers_on_this_machine_only_and_is_gone_afterwards(store: str, port: int) -> None:
    with serve_ui(store, port=port) as server:
        assert server.address == f"http://127.0.0.1:{port}"
        with urlopen(server.address, timeout=30) as page:
            assert b"<title>MLflow</title>" in page.read()
        group = server._process.pid
        assert alive(group)
        words = Path(f"/proc/{group}/cmdline")
        if words.exists():
            assert store not in words.read_bytes().decode()  # it may hold a password
    assert not alive(group)
    with pytest.raises(OSError, match="refused"):
        urlopen(server.address, timeout=5)


@pytest.mark.slow
def test_a_server_that_ends_says_why(tmp_path: Path, port: int) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("this is no database, and long enough to have a header" * 10)
    with (
        pytest.raises(UsageError, match="ended with code 1") as raised,
        serve_ui(f"sqlite:///{path}", port=port),
    ):
        pytest.fail("it started")
    assert "file is not a database" in str(raised.value)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with (
            pytest.raises(UsageError, match=rf"port {number} cannot be had.*--port"),
            serve_ui(f"sqlite:///{tmp_path / 'mlflow.db'}", port=number),
        ):
            pytest.fail("it started")


def test_a_store_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"no MLflow store.*robustprune run"),
        serve_ui(f"sqlite:///{tmp_path / 'mlflow.db'}"),
    ):
        pytest.fail("it started")
    assert not list(tmp_path.iterdir())


def test_the_ui_of_a_server_is_its_own() -> None:
    with (
        pytest.raises(UsageError, match=r"'https://\*\*\*@host' is a server"),
        serve_ui("https://me:secret@host"),
    ):
        pytest.fail("it started")


@pytest.mark.slow
def test_ctrl_c_ends_the_command_and_the_server_cleanly(store: str, port: int) -> None:
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heard}; import sys; from robustprune.cli import main; sys.exit(main())"
    words = [sys.executable, "-u", "-c", code, "ui", store, "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None
        lines = iter(ui.stdout.readline, "")
        try:
            assert f"open http://127.0.0.1:{port}/" in next(
                line for line in lines if line.startswith("open")
            )
            os.kill(ui.pid, signal.SIGINT)
            out, err = ui.communicate(timeout=60)
        finally:
            ui.terminate()  # or a failed test would wait for it
    assert (ui.returncode, err) == (0, "")
    assert out.endswith("stopped.\n")  # a line that was being printed may be there twice
    with socket.socket() as visitor:
        assert visitor.connect_ex(("127.0.0.1", port)) != 0
