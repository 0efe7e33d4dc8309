"""Damage and death in a real cluster are mended by themselves (F06a, F26, issue 3 part 4)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import Cluster, Node, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

BODY = bytes(range(256)) * 8192  # 2 MiB: two blocks.


def is_whole(cluster: Cluster, node: int = 0) -> bool:
    return bool(cluster.status(node)["below_promise"] == {"objects": 0, "bytes": 0})


def segments_of(node: Node) -> list[Path]:
    return sorted(node.data.glob("chunks/segment-*"))


def flip_stored_byte(node: Node) -> None:
    """Change one byte of a block's payload, in the file and so in the page cache."""
    for path in segments_of(node):
        data = path.read_bytes()
        at = data.find(BODY[:4096])
        if at >= 0:
            with path.open("r+b") as file:
                file.seek(at + 1000)
                file.write(bytes([data[at + 1000] ^ 0x40]))
            return
    raise AssertionError(f"no copy on node{node.number}")


def test_a_flipped_byte_is_never_served_and_is_mended(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", settings={"repair.interval": "500ms"}) as cluster:
        s3 = [cluster.s3(number) for number in range(3)]
        s3[0].create_bucket(Bucket="rot")
        s3[0].put_object(Bucket="rot", Key="k", Body=BODY)
        for number in (1, 2):
            flip_stored_byte(cluster.nodes[number])
        for client in s3:
            assert client.get_object(Bucket="rot", Key="k")["Body"].read() == BODY
        # Both damaged copies are told by the reads that met them, and made again.
        wait_until(
            lambda: (
                all(is_whole_copy(node) for node in cluster.nodes) and is_whole(cluster)
            ),
            timeout_s=60,
            what="repair of damaged copies",
        )
        assert sum(rebuilt(node) for node in cluster.nodes) == 2
        cluster.nodes[0].kill()
        for number in (1, 2):
            assert s3[number].get_object(Bucket="rot", Key="k")["Body"].read() == BODY


def rebuilt(node: Node) -> float:
    for line in node.get("/-/metrics")[1].decode().splitlines():
        if line.startswith("objstore_repair_rebuilt_fragments_total "):
            return float(line.split()[1])
    raise AssertionError("the metric is missing")


def is_whole_copy(node: Node) -> bool:
    return any(BODY in path.read_bytes() for path in segments_of(node))


@pytest.mark.full
def test_a_voter_dead_past_the_grace_is_replaced_with_no_human(tmp_path: Path) -> None:
    settings = {"repair.grace": "3s"}
    with running_cluster(tmp_path / "c", nodes=4, settings=settings) as cluster:
        cluster.s3(0).create_bucket(Bucket="graced")
        cluster.s3(0).put_object(Bucket="graced", Key="k", Body=b"before")
        cluster.nodes[3].kill()
        dead = cluster.nodes[3].id

        def is_replaced() -> bool:
            status = cluster.status(0)
            states = {node["id"]: node["layout_state"] for node in status["nodes"]}
            metadata = status["metadata"]
            return states[dead] == "dead" and (
                (metadata["voters"], metadata["shards_below"]) == (3, 0)
            )

        wait_until(is_replaced, timeout_s=60, what="the dead node's votes to move")
        # So another node may die now, and nothing stops; it keeps its votes, as there is
        # nobody to take them.
        cluster.nodes[2].kill()
        client = cluster.s3(0, config={"retries": {"max_attempts": 6, "mode": "standard"}})
        client.put_object(Bucket="graced", Key="k", Body=b"after")
        assert client.get_object(Bucket="graced", Key="k")["Body"].read() == b"after"
        cluster.nodes[2].start()
        cluster.nodes[3].start()
        wait_until(
            lambda: all(
                node["layout_state"] == "active" and node["state"] == "alive"
                for node in cluster.status(0)["nodes"]
            ),
            timeout_s=90,
            what="the node that came back to be a full member again",
        )


def test_what_a_delete_released_is_freed_on_every_node(tmp_path: Path) -> None:
    settings = {"repair.free_delay": "1s", "repair.interval": "500ms"}
    with running_cluster(tmp_path / "c", settings=settings) as cluster:
        s3 = cluster.s3(0)
        s3.create_bucket(Bucket="freed")
        for number in range(5):
            s3.put_object(Bucket="freed", Key=str(number), Body=BODY)
        s3.put_object(Bucket="freed", Key="0", Body=BODY)  # Overwritten: five remain.
        upload = s3.create_multipart_upload(Bucket="freed", Key="mp")["UploadId"]
        s3.upload_part(Bucket="freed", Key="mp", UploadId=upload, PartNumber=1, Body=BODY)
        s3.abort_multipart_upload(Bucket="freed", Key="mp", UploadId=upload)
        for number in range(1, 5):
            s3.delete_object(Bucket="freed", Key=str(number))

        def counts() -> list[int]:
            return [node["fragments"] for node in cluster.status()["nodes"]]

        wait_until(lambda: counts() == [1, 1, 1], timeout_s=60, what="freeing")
        assert s3.get_object(Bucket="freed", Key="0")["Body"].read() == BODY


def test_a_node_with_several_drives_spreads_over_them(tmp_path: Path) -> None:
    drives = f"{tmp_path / 'one'},{tmp_path / 'two'}"
    with running_cluster(
        tmp_path / "c", nodes=1, settings={"node.drives": drives}
    ) as cluster:
        s3 = cluster.s3(0)
        s3.create_bucket(Bucket="drives")
        for number in range(12):
            s3.put_object(Bucket="drives", Key=str(number), Body=BODY)
        described = cluster.status()["nodes"][0]["drives"]
        assert {drive["path"] for drive in described} == {
            str(tmp_path / "one"),
            str(tmp_path / "two"),
        }
        cluster.nodes[0].kill()
        cluster.nodes[0].start()
        for number in range(12):
            assert s3.get_object(Bucket="drives", Key=str(number))["Body"].read() == BODY
        done = [any(BODY in p.read_bytes() for p in (tmp_path / name).glob("segment-*"))
                for name in ("one", "two")]  # fmt: skip
        assert done == [True, True]
