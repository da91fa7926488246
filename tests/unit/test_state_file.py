"""The state file and the admin key: kept between the starts of a stack."""

import os
import subprocess
from pathlib import Path

import pytest

from ops.embedded.data_dir import Servers
from ops.embedded.unprivileged import EmbeddedError
from ops.stack import programs, state_file

SERVERS = Servers(
    database_url="postgresql+psycopg://", broker_url="redis+socket://b", result_url="redis+socket://r"
)


def test_an_admin_key_is_made_once_and_only_its_owner_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(programs.KEY_VARIABLE, raising=False)
    first, second = state_file.admin_key(tmp_path), state_file.admin_key(tmp_path)
    assert (first.new, second.new) == (True, False)
    assert first.secret == second.secret
    assert len(first.secret) > 40
    assert (tmp_path / "admin.key").stat().st_mode & 0o777 == 0o600


def test_the_key_of_the_environment_comes_first_and_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(programs.KEY_VARIABLE, "given")
    assert state_file.admin_key(tmp_path) == state_file.AdminKey(secret="given", kept_in=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 40])
def test_a_key_file_without_a_key_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.delenv(programs.KEY_VARIABLE, raising=False)
    (tmp_path / "admin.key").write_bytes(content)
    with pytest.raises(EmbeddedError, match=r"admin\.key"):
        state_file.admin_key(tmp_path)


def test_a_running_stack_is_found_until_it_is_forgotten(tmp_path: Path) -> None:
    here = state_file.Running.here(9000, SERVERS)
    here.write(tmp_path)
    assert state_file.running(tmp_path) == here
    state_file.forget(tmp_path)
    assert state_file.running(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": 1'])
def test_a_broken_state_file_means_that_no_stack_runs(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content)
    assert state_file.running(tmp_path) is None


def test_a_stack_whose_process_is_gone_does_not_run(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])  # noqa: S607
    process.wait()
    text = state_file.Running.here(9000, SERVERS)
    text.write(tmp_path)
    path = tmp_path / "stack.json"
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {process.pid}'))
    assert state_file.running(tmp_path) is None
