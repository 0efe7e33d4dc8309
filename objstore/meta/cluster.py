"""The cluster shard's commands: buckets, keys, tokens, settings, layouts.

    CreateBucketRecord --> CREATING --> OPEN --> CLOSING --> DROPPING --> (gone)
                              ^                     |
                              '------- not empty ---'        (order: `bucket_steps`)

Every row changed is noted under the version (log index) of its change, so that a view can
ask for what changed since.  Of deleted rows the note stays, the last CLUSTER_CHANGES_KEPT
of them; a view that is older than the first forgotten one starts afresh.

    CHANGED     (version, row key) -> whether the row was deleted
    CHANGED_AT  row key -> version
    STATE       [version, floor, buckets, deletions noted]; and "epoch": that in force
"""

from __future__ import annotations

import hmac
from itertools import islice

import attrs

from objstore.errors import Conflict, InvalidRequest
from objstore.ids import BucketId
from objstore.limits import (
    BUCKETS_MAX,
    CLUSTER_CHANGES_KEPT,
    CLUSTER_DELTA_SIZE,
    PURGE_ROWS_MAX,
)
from objstore.meta import payloads, schema
from objstore.meta.commands import (
    CreateAccessKey,
    CreateBucketRecord,
    CreateJoinToken,
    DeleteAccessKey,
    DropBucketRecord,
    FoundCluster,
    PutSetting,
    SetBucketState,
    SetLayout,
    SpendJoinToken,
)
from objstore.meta.errors import (
    AccessKeyExists,
    BucketExists,
    InvalidToken,
    NoSuchAccessKey,
    NoSuchBucket,
    StaleEpoch,
    TooManyBuckets,
)
from objstore.meta.queries import ClusterChanges, ClusterDelta
from objstore.meta.rows import RowView
from objstore.meta.schema import CLUSTER_SLOT, Table
from objstore.meta.values import AccessKey, BucketRecord, BucketState, JoinToken
from objstore.meta.work import Work
from objstore.rpc import codec

FEATURE_LEVEL = "feature_level"

_NO_STATE = (0, 0, 0, 0)
_VERSION, _FLOOR, _BUCKETS, _DELETIONS = range(4)

# From which state a bucket may enter another.
_ENTERED_FROM: dict[BucketState, BucketState] = {
    BucketState.CREATING: BucketState.CLOSING,
    BucketState.OPEN: BucketState.CREATING,
    BucketState.CLOSING: BucketState.OPEN,
    BucketState.DROPPING: BucketState.CLOSING,
}


# ---- rows and their versions ----------------------------------------------------------


def _state(view: RowView) -> list[int]:
    payload = view.get(schema.state_key(CLUSTER_SLOT))
    return list(_NO_STATE) if payload is None else list(payloads.unpack(payload))


def version_of(view: RowView) -> int:
    """The version of the cluster shard's state: the log index of its last change."""
    return _state(view)[_VERSION]


def _put(work: Work, table: Table, name: bytes, payload: bytes) -> None:
    key = schema.cluster_key(table, name)
    work.rows.put(key, payload)
    _note(work, key, is_deleted=False)


def _delete(work: Work, table: Table, name: bytes) -> None:
    key = schema.cluster_key(table, name)
    work.rows.delete(key)
    _note(work, key, is_deleted=True)


def _note(work: Work, key: bytes, *, is_deleted: bool) -> None:
    state = _state(work.rows)
    version = work.index
    before = work.rows.get(schema.changed_at_key(key))
    if before is not None:
        changed = schema.changed_key(payloads.unpack(before), key)
        note = work.rows.get(changed)
        if note is not None and payloads.unpack(note):
            state[_DELETIONS] -= 1
        work.rows.delete(changed)
    work.rows.put(schema.changed_at_key(key), payloads.pack(version))
    work.rows.put(schema.changed_key(version, key), payloads.pack(is_deleted))
    state[_VERSION] = version
    state[_DELETIONS] += is_deleted
    if state[_DELETIONS] > CLUSTER_CHANGES_KEPT:
        _forget_oldest_deletion(work, state)
    work.rows.put(schema.state_key(CLUSTER_SLOT), payloads.pack(state))


def _forget_oldest_deletion(work: Work, state: list[int]) -> None:
    # They are forgotten in their order: none is older than the last one that was.
    begin = schema.changed_key(state[_FLOOR], b"")
    end = schema.range_end(schema.table_prefix(CLUSTER_SLOT, Table.CHANGED))
    for changed, payload in work.rows.scan(begin, end):
        if payloads.unpack(payload):
            version, key = schema.changed_of_row(changed)
            break
    else:
        raise AssertionError("deletions are counted that are not there")
    work.rows.delete(changed)
    work.rows.delete(schema.changed_at_key(key))
    state[_FLOOR] = version
    state[_DELETIONS] -= 1


def changes_since(view: RowView, query: ClusterChanges) -> ClusterDelta:
    """What changed after a version, up to CLUSTER_DELTA_SIZE of it.

    A later page of a full answer may be older than the floor: whoever began at `began`
    has never seen what was deleted before that.
    """
    state = _state(view)
    since, newest = query.since, state[_VERSION]
    is_full = max(since, query.began) < state[_FLOOR] or since > newest or since == 0
    start = 0 if is_full else since
    rows: list[tuple[bytes, bytes | None]] = []
    size = 0
    version = start
    begin = schema.changed_key(start + 1, b"")
    end = schema.range_end(schema.table_prefix(CLUSTER_SLOT, Table.CHANGED))
    for changed, note in view.scan(begin, end):
        at, key = schema.changed_of_row(changed)
        if size >= CLUSTER_DELTA_SIZE and at != version:
            return ClusterDelta(version, is_full, tuple(rows), True, newest)
        version = at
        payload = None if payloads.unpack(note) else view.get(key)
        rows.append((key[2:], payload))
        size += len(key) + len(payload or b"")
    return ClusterDelta(newest, is_full, tuple(rows), state_version=newest)


# ---- founding -------------------------------------------------------------------------


def found_cluster(work: Work, command: FoundCluster) -> None:
    if version_of(work.rows):
        raise Conflict("the cluster was founded already")
    put_layout(work, epoch_of(command.layout), command.layout)
    for name, value in command.settings:
        _put(work, Table.SETTING, name.encode(), value)
    root = attrs.evolve(command.root_key, created_ms=work.time_ms)
    _put(work, Table.ACCESS_KEY, root.access_key.encode(), codec.encode(root))


# ---- buckets --------------------------------------------------------------------------


def _bucket(view: RowView, name: str) -> BucketRecord | None:
    payload = view.get(schema.cluster_key(Table.BUCKET, name.encode()))
    return None if payload is None else codec.decode_as(BucketRecord, payload)


def _require_bucket(work: Work, name: str, bucket: BucketId) -> BucketRecord:
    record = _bucket(work.rows, name)
    if record is None or record.bucket != bucket:
        raise NoSuchBucket(f"bucket {name!r} of incarnation {bucket:x} is gone")
    return record


def _put_bucket(work: Work, record: BucketRecord) -> None:
    _put(work, Table.BUCKET, record.name.encode(), codec.encode(record))


def _count_bucket(work: Work, change: int) -> None:
    state = _state(work.rows)
    state[_BUCKETS] += change
    work.rows.put(schema.state_key(CLUSTER_SLOT), payloads.pack(state))


def create_bucket_record(work: Work, command: CreateBucketRecord) -> BucketRecord:
    known = _bucket(work.rows, command.name)
    if known is not None:
        raise BucketExists(f"bucket {command.name!r} exists", owner=known.owner)
    if _state(work.rows)[_BUCKETS] >= BUCKETS_MAX:
        raise TooManyBuckets(f"the cluster has {BUCKETS_MAX} buckets, as many as it may")
    record = BucketRecord(
        name=command.name,
        bucket=BucketId(work.index),
        owner=command.owner,
        created_ms=work.time_ms,
        span=command.span,
        scheme=command.scheme,
        state=BucketState.CREATING,
    )
    _put_bucket(work, record)
    _count_bucket(work, 1)
    return record


def set_bucket_state(work: Work, command: SetBucketState) -> BucketRecord:
    record = _require_bucket(work, command.name, command.bucket)
    if (record.state, record.config_version) != (
        _ENTERED_FROM[command.state],
        command.config_version,
    ):
        return record  # Somebody was here since: the proposer goes on from what is.
    raised = 1 if command.state is BucketState.CLOSING else 0
    record = attrs.evolve(
        record, state=command.state, config_version=record.config_version + raised
    )
    _put_bucket(work, record)
    return record


def drop_bucket_record(work: Work, command: DropBucketRecord) -> None:
    record = _bucket(work.rows, command.name)
    if record is None or record.bucket != command.bucket:
        return
    if record.state is not BucketState.DROPPING:
        raise Conflict(f"bucket {command.name!r} is {record.state.name}, not DROPPING")
    _delete(work, Table.BUCKET, command.name.encode())
    _count_bucket(work, -1)


# ---- keys, tokens, settings -----------------------------------------------------------


def create_access_key(work: Work, command: CreateAccessKey) -> AccessKey:
    name = command.key.access_key.encode()
    if work.rows.get(schema.cluster_key(Table.ACCESS_KEY, name)) is not None:
        raise AccessKeyExists(f"access key {command.key.access_key} exists")
    key = attrs.evolve(command.key, created_ms=work.time_ms)
    _put(work, Table.ACCESS_KEY, name, codec.encode(key))
    return key


def delete_access_key(work: Work, command: DeleteAccessKey) -> None:
    name = command.access_key.encode()
    if work.rows.get(schema.cluster_key(Table.ACCESS_KEY, name)) is None:
        raise NoSuchAccessKey(f"no access key {command.access_key}")
    _delete(work, Table.ACCESS_KEY, name)


def create_join_token(work: Work, command: CreateJoinToken) -> None:
    _delete_expired_tokens(work)
    name = command.token.token_id.encode()
    if work.rows.get(schema.cluster_key(Table.JOIN_TOKEN, name)) is not None:
        return  # Said again, and late: it may have been spent since.
    token = attrs.evolve(command.token, created_ms=work.time_ms)
    _put(work, Table.JOIN_TOKEN, name, codec.encode(token))


def _delete_expired_tokens(work: Work) -> None:
    prefix = schema.table_prefix(CLUSTER_SLOT, Table.JOIN_TOKEN)
    rows = list(islice(work.rows.scan(prefix, schema.range_end(prefix)), PURGE_ROWS_MAX))
    for key, payload in rows:
        if codec.decode_as(JoinToken, payload).expires_ms <= work.time_ms:
            _delete(work, Table.JOIN_TOKEN, key[len(prefix) :])


def spend_join_token(work: Work, command: SpendJoinToken) -> None:
    name = command.token_id.encode()
    payload = work.rows.get(schema.cluster_key(Table.JOIN_TOKEN, name))
    token = None if payload is None else codec.decode_as(JoinToken, payload)
    is_right = (
        token is not None
        and hmac.compare_digest(token.secret_hash, command.secret_hash)
        and token.expires_ms > work.time_ms
        and (token.uses_left > 0 or command.node in token.spent_by)
    )
    if not is_right or token is None:
        raise InvalidToken("this join token cannot be used")
    if command.node not in token.spent_by:
        # One that is used up stays until it expires, for who comes again.
        spent_by = (*token.spent_by, command.node)
        spent = attrs.evolve(token, uses_left=token.uses_left - 1, spent_by=spent_by)
        _put(work, Table.JOIN_TOKEN, name, codec.encode(spent))


def put_setting(work: Work, command: PutSetting) -> None:
    if command.name == FEATURE_LEVEL:
        _check_feature_level(work, command.value)
    name = command.name.encode()
    if command.value is not None:
        _put(work, Table.SETTING, name, command.value)
    elif work.rows.get(schema.cluster_key(Table.SETTING, name)) is not None:
        _delete(work, Table.SETTING, name)


def _check_feature_level(work: Work, value: bytes | None) -> None:
    known = work.rows.get(schema.cluster_key(Table.SETTING, FEATURE_LEVEL.encode()))
    if value is None or not value.isdigit() or int(value) < int(known or b"1"):
        raise InvalidRequest("the feature level is a number that only grows")


# ---- layouts --------------------------------------------------------------------------


def epoch_of(layout: bytes) -> int:
    """The epoch of an encoded layout, without reading the rest: all builds agree on it.

    Raises InvalidRequest.
    """
    try:
        epoch = payloads.unpack(layout)[1]
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise InvalidRequest("these bytes are no layout") from error
    if type(epoch) is not int or not 0 < epoch < 1 << 63:
        raise InvalidRequest("a layout's epoch is a number from 1")
    return epoch


def newest_epoch(view: RowView) -> int:
    """The epoch in force; 0 before the cluster was founded."""
    payload = view.get(schema.cluster_key(Table.STATE, b"epoch"))
    return 0 if payload is None else int(payloads.unpack(payload))


def set_layout(work: Work, command: SetLayout) -> None:
    epoch = epoch_of(command.layout)
    known = newest_epoch(work.rows)
    if epoch != known + 1:
        raise StaleEpoch(f"epoch {epoch} does not follow {known}")
    put_layout(work, epoch, command.layout)


def put_layout(work: Work, epoch: int, layout: bytes) -> None:
    _put(work, Table.LAYOUT, epoch.to_bytes(8, "big"), layout)
    work.rows.put(schema.cluster_key(Table.STATE, b"epoch"), payloads.pack(epoch))
