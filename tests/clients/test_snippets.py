"""What `objstore dev` prints to paste works when it is pasted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import TOOLS
from tests.harness import free_base_port

pytestmark = [pytest.mark.clients, pytest.mark.timeout(200)]

PROGRAMS = {
    "aws-cli": "aws", "boto3": "python3", "rclone": "rclone", "restic": "restic",
    "s3cmd": "s3cmd", "curl": "curl",
}  # fmt: skip
# The last line of what each says when it worked.
SEEN = {
    "aws-cli": "hello.txt", "boto3": "[", "rclone": "6 hello.txt", "restic": "saved",
    "s3cmd": "s3://s3cmd/hello.txt", "curl": "hello",
}  # fmt: skip


def print_of_dev(folder: Path, *settings: str) -> Iterator[str]:
    """Everything that `objstore dev` prints once it is ready; it runs until closed."""
    arguments = ["--nodes", "2", "--data", str(folder / "data of dev")]
    arguments += ["--base-port", str(free_base_port(2)), "--set", "chunks.reserve=64MiB"]
    for setting in settings:
        arguments += ["--set", setting]
    with (folder / "dev.log").open("wb") as errors:
        dev = subprocess.Popen(
            [sys.executable, "-m", "objstore", "dev", *arguments],
            stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
        )  # fmt: skip
    assert dev.stdout is not None
    try:
        printed = []
        for line in dev.stdout:
            printed.append(line)
            if line.startswith("All of it is in"):
                break
        assert dev.poll() is None, (folder / "dev.log").read_text()
        yield "".join(printed)
    finally:
        dev.send_signal(signal.SIGINT)
        assert dev.wait(timeout=40) == 0


@pytest.fixture(
    scope="module",
    params=[
        (),
        pytest.param(("s3.tls=cluster",), marks=pytest.mark.full),
        pytest.param(("s3.region=eu-home-1",), marks=pytest.mark.full),
    ],
    ids=["plain", "tls", "elsewhere"],
)
def pasted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Snippet by the name above it."""
    for printed in print_of_dev(tmp_path_factory.mktemp("snippets"), *request.param):
        found = re.findall(
            r"^# ([\w-]+)\n(.*?)(?=^# |^All of it)", printed, re.DOTALL | re.MULTILINE
        )
        yield dict(found)


def test_there_is_a_snippet_for_each_client(pasted: dict[str, str]) -> None:
    assert pasted.keys() == PROGRAMS.keys()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_snippet_works_when_pasted(
    pasted: dict[str, str], name: str, tmp_path: Path
) -> None:
    environment = {
        "PATH": f"{TOOLS / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    if shutil.which(PROGRAMS[name], path=environment["PATH"]) is None:
        pytest.skip(f"{name} is not installed: tests/clients/install.sh says why")
    done = subprocess.run(
        ["bash", "-e"], input=pasted[name], env=environment, cwd=tmp_path,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{pasted[name]}\n{done.stdout}\n{done.stderr}"
    assert SEEN[name] in done.stdout.strip().splitlines()[-1]
