"""Nodes come and go in a real cluster; the command line and the admin API."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Cluster, Node, free_base_port, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: Any) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("members")) as running:
        yield running


def write_config(folder: Path, **extra: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    base = free_base_port(1)
    path = folder / "node.toml"
    lines = [
        "[node]", f'data = "{folder / "data"}"',
        "[s3]", f'address = "127.0.0.1:{base + 1}"',
        "[cluster]", f'address = "127.0.0.1:{base + 101}"',
        "[chunks]", 'reserve = "64MiB"',
        *(f"{key} = {value}" for key, value in extra.items()),
    ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


def node_at(path: Path, number: int = 9) -> Node:
    text = path.read_text()
    address = text.split("[s3]")[1].split('"')[1]
    description = {
        "id": "",
        "s3": f"http://{address}",
        "config": str(path),
        "data": str(path.parent / "data"),
        "log": str(path.parent / "log"),
    }
    return Node(number, description)


def test_a_node_joins_takes_votes_serves_and_leaves(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.s3().create_bucket(Bucket="joined")
    cluster.s3().put_object(Bucket="joined", Key="k", Body=b"x" * 100_000)
    token = cluster.command("node", "token")
    newcomer = node_at(write_config(tmp_path / "node4"))
    newcomer.start("--join", token["join"], "--token", token["token"])
    try:
        wait_until(
            lambda: len(cluster.status()["nodes"]) == 4, what="the new node to be listed"
        )
        newcomer.description["id"] = json.loads((newcomer.data / "node.json").read_text())[
            "identity"
        ]["node"]
        wait_until(
            lambda: any(
                node["id"] == newcomer.id and node.get("groups", 0) > 0
                for node in cluster.status()["nodes"]
            ),
            what="shards on the new node",
        )
        status, _ = newcomer.get("/-/health/ready")
        assert status == 200
        # It serves what was there before it came.
        reader = cluster.s3(endpoint_url=newcomer.s3)
        assert reader.get_object(Bucket="joined", Key="k")["Body"].read() == b"x" * 100_000
        done = cluster.command("node", "leave", newcomer.id, check=True)
        assert done["left"] == newcomer.id
        wait_until(lambda: not newcomer.is_running(), what="the daemon that left to stop")
        assert len(cluster.status()["nodes"]) == 3
        newcomer.start(wait=False)
        assert newcomer.process is not None
        assert newcomer.process.wait(timeout=20) == 4
        assert "has left its cluster" in newcomer.log.read_text()
    finally:
        if newcomer.is_running():
            newcomer.kill()


@pytest.mark.full
def test_new_chunks_go_to_a_newcomer_and_old_ones_stay(tmp_path: Path) -> None:
    """A join makes a new epoch; whoever holds fragments may not leave, and is told how many."""
    with running_cluster(tmp_path / "c") as three:
        s3 = three.s3()
        s3.create_bucket(Bucket="moves")
        old = {f"old-{n}": bytes([n]) * 50_000 for n in range(20)}
        for key, body in old.items():
            s3.put_object(Bucket="moves", Key=key, Body=body)
        before = three.status()
        held = {node["id"]: node["fragments"] for node in before["nodes"]}
        assert held == dict.fromkeys(held, len(old))
        token = three.command("node", "token")
        newcomer = node_at(write_config(tmp_path / "node4"))
        newcomer.start("--join", token["join"], "--token", token["token"])
        try:
            wait_until(
                lambda: (
                    len(three.status()["nodes"]) == 4
                    and three.status()["metadata"]["shards_below"] == 0
                ),
                timeout_s=60,
                what="the newcomer's votes",
            )
            newcomer.description["id"] = json.loads(
                (newcomer.data / "node.json").read_text()
            )["identity"]["node"]
            assert three.status()["epoch"] > before["epoch"]
            new = {f"new-{n}": bytes([n]) * 50_000 for n in range(40)}
            for n, (key, body) in enumerate(new.items()):
                three.s3(n % 3).put_object(Bucket="moves", Key=key, Body=body)
            # Gossip and reports are a moment behind.
            after = wait_until(
                lambda: (
                    (found := {n["id"]: n["fragments"] for n in three.status()["nodes"]})
                    and sum(found.values()) == 3 * (len(old) + len(new))
                    and found
                ),
                what="every fragment to be counted",
            )
            assert 0 < after[newcomer.id] <= len(new)
            assert all(after[node] >= count for node, count in held.items())  # None moved.
            done = three.command("node", "leave", newcomer.id, check=False)
            assert done.returncode == 1
            assert f"{after[newcomer.id]} fragments".encode() in done.stderr, done.stderr
            reader = three.s3(endpoint_url=newcomer.s3)
            for key, body in (old | new).items():
                assert reader.get_object(Bucket="moves", Key=key)["Body"].read() == body
        finally:
            newcomer.kill()


def test_a_node_that_holds_data_or_is_needed_may_not_leave(cluster: Cluster) -> None:
    done = cluster.command("node", "leave", cluster.nodes[0].id, check=False)
    assert done.returncode == 1
    assert b"metadata would have 1 voter" in done.stderr


def test_a_wrong_token_and_a_token_of_another_cluster_are_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    token = cluster.command("node", "token")
    wrong = token["token"][:-1] + ("0" if token["token"][-1] != "0" else "1")
    other = "obj1." + "0" * 64 + token["token"][69:]
    for number, bad in enumerate((wrong, other, "nonsense")):
        node = node_at(write_config(tmp_path / f"bad{number}"))
        node.start("--join", token["join"], "--token", bad, wait=False)
        assert node.process is not None
        assert node.process.wait(timeout=60) == 4, node.log.read_text()
    assert len(cluster.status()["nodes"]) == 3


def test_a_token_is_good_for_its_uses_only(cluster: Cluster, tmp_path: Path) -> None:
    token = cluster.command("node", "token", "--uses", "1")
    assert token["token"].startswith("obj1.")
    done = cluster.command("node", "token", "--expires", "soon", check=False)
    assert done.returncode == 2


def test_keys_own_what_they_made(cluster: Cluster) -> None:
    mine = cluster.command("key", "create", "--name", "mine")
    assert set(mine) >= {"name", "access_key", "secret_key", "canonical_id"}
    other = cluster.command("key", "create", "--name", "other")

    def client(key: dict[str, str], node: int) -> Any:
        return cluster.s3(
            node,
            aws_access_key_id=key["access_key"],
            aws_secret_access_key=key["secret_key"],
        )

    client(mine, 1).create_bucket(Bucket="mine-alone")
    client(mine, 2).put_object(Bucket="mine-alone", Key="k", Body=b"mine")
    assert (
        client(mine, 0).get_object(Bucket="mine-alone", Key="k")["Body"].read() == b"mine"
    )
    stranger = client(other, 0)
    for call, arguments in [
        (stranger.get_object, {"Key": "k"}),
        (stranger.get_object, {"Key": "no such key"}),
        (stranger.put_object, {"Key": "k", "Body": b"theirs"}),
        (stranger.delete_object, {"Key": "k"}),
        (stranger.list_objects_v2, {}),
    ]:
        with pytest.raises(stranger.exceptions.ClientError) as caught:
            call(Bucket="mine-alone", **arguments)
        assert caught.value.response["Error"]["Code"] == "AccessDenied"
    assert [b["Name"] for b in stranger.list_buckets()["Buckets"]] == []
    assert "mine-alone" in [b["Name"] for b in cluster.s3().list_buckets()["Buckets"]]
    cluster.command("key", "delete", other["access_key"])
    wait_until(lambda: _is_refused(stranger), what="the deleted key to stop working")


def _is_refused(client: Any) -> bool:
    try:
        client.list_buckets()
    except client.exceptions.ClientError as error:
        return bool(error.response["Error"]["Code"] == "InvalidAccessKeyId")
    return False


def test_status_and_listings_answer_programs(cluster: Cluster) -> None:
    status = cluster.command("status", node=1)
    assert status["writable"] is True
    assert set(status["below_promise"]) == {"objects", "bytes"}
    assert {node["state"] for node in status["nodes"]} == {"alive"}
    assert {node["id"] for node in cluster.command("node", "list")["nodes"]} == {
        node.id for node in cluster.nodes
    }
    cluster.s3().create_bucket(Bucket="counted")
    for number in range(5):
        cluster.s3(number % 3).put_object(Bucket="counted", Key=str(number), Body=b"12345")
    cluster.s3().delete_object(Bucket="counted", Key="0")
    info = cluster.command("bucket", "info", "counted")
    assert (info["objects"], info["bytes"]) == (4, 20)
    assert "counted" in [b["name"] for b in cluster.command("bucket", "list")["buckets"]]


def test_what_is_not_built_says_so(cluster: Cluster) -> None:
    done = cluster.command("node", "drain", cluster.nodes[0].id, check=False)
    assert done.returncode == 5, done.stderr
    status, body = cluster.nodes[0].get(
        f"/-/admin/v1/nodes/{cluster.nodes[0].id}/drain",
        token=cluster.description["admin_token"],
        method="POST",
        body=b"",
    )
    assert status == 501
    assert b"not built yet" in body


def test_health_and_metrics(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    assert node.get("/-/health/live")[0] == 200
    assert node.get("/-/health/ready")[0] == 200
    status, text = node.get("/-/metrics")
    assert status == 200
    for name in (
        b"objstore_s3_requests_total",
        b"objstore_raft_wal_sync_duration_seconds_count",
        b'objstore_gossip_members{state="alive"} 3.0',
        b"objstore_chunks_drive_bytes",
        b"process_resident_memory_bytes",
    ):
        assert name in text, name
    assert node.get("/-/admin/v1/status")[0] == 401
    assert node.get("/-/admin/v1/status", token="wrong")[0] == 401


def test_a_minority_answers_503_and_says_why(cluster: Cluster) -> None:
    cluster.nodes[1].kill()
    cluster.nodes[2].kill()
    try:
        wait_until(lambda: cluster.nodes[0].ready() == 503, what="readiness to go")
        client = cluster.s3(0)
        with pytest.raises(client.exceptions.ClientError) as caught:
            client.put_object(Bucket="joined", Key="minority", Body=b"x")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        with pytest.raises(client.exceptions.ClientError) as caught:
            client.get_object(Bucket="joined", Key="k")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        assert cluster.nodes[0].get("/-/health/live")[0] == 200
    finally:
        cluster.nodes[1].start()
        cluster.nodes[2].start()
    client = cluster.s3(0, config={"retries": {"max_attempts": 5, "mode": "standard"}})
    assert client.get_object(Bucket="joined", Key="k")["Body"].read() == b"x" * 100_000


def test_one_node_works_and_says_that_nothing_is_redundant(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "one", nodes=1) as one:
        one.s3().create_bucket(Bucket="alone")
        one.s3().put_object(Bucket="alone", Key="k", Body=b"x" * 50_000)
        assert one.s3().get_object(Bucket="alone", Key="k")["Body"].read() == b"x" * 50_000
        assert "one node: nothing is redundant" in one.status()["problems"]
        one.nodes[0].kill()
        one.nodes[0].start()
        assert one.s3().get_object(Bucket="alone", Key="k")["Body"].read() == b"x" * 50_000


@pytest.mark.full
def test_seven_nodes_have_five_voters_a_shard(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "seven", nodes=7) as seven:
        assert seven.status()["metadata"]["voters"] == 5
        seven.s3().create_bucket(Bucket="wide")
        seven.nodes[3].kill()
        seven.nodes[5].kill()
        client = seven.s3(0, config={"retries": {"max_attempts": 6, "mode": "standard"}})
        client.put_object(Bucket="wide", Key="k", Body=b"x" * 100_000)
        assert client.get_object(Bucket="wide", Key="k")["Body"].read() == b"x" * 100_000


def test_bad_starts_are_told_in_a_sentence(cluster: Cluster, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('[chunks]\nchunk_sise = "1MiB"\n')
    done = subprocess.run(
        [sys.executable, "-m", "objstore", "serve", "--config", str(bad)],
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert b"line 2" in done.stderr
    assert b"chunk_size" in done.stderr
    second = subprocess.run(
        [sys.executable, "-m", "objstore", "serve", "--config", cluster.nodes[0].config],
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert second.returncode == 4
    assert b"another daemon runs" in second.stderr
