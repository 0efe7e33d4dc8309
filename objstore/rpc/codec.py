"""Values as bytes: attrs classes, plain values and errors, to msgpack and back.

    class with @wire("put", version=2)      [ "put", 2, field, field, ... ]
    error with @wire_error("meta.no_key")   [ "!", 1, code, base code, message, attributes ]
    tuple or list where anything may stand  [ nil, item, item, ... ]
    the same in a field typed tuple[...]    [ item, item, ... ]
    a NamedTuple in a field typed so        [ field, field, ... ], all of them scalars
    None, bool, int, float, str, bytes      msgpack's own; enums as their value
    dict                                    msgpack map, keys sorted
    frozenset                               array, items sorted

Used between nodes and for rows on disk, so it must not change under stored data:

- Fields are written in the order of the class.  A class grows at its end, by fields with
  defaults: an old reader ignores the extra ones, a new reader fills in what is missing.
- Any other change is a new `version`, with an upgrade for each older one.
- Equal values give equal bytes.
- Bytes choose among registered classes only: nothing is imported, no code is run.

`decode` checks tags, versions and types of fields and raises CorruptValue; what a value
means is checked by its class (attrs validators run).  Arrays come back as tuples.

An encoder and a decoder are written as source and compiled once a class, at its first
use: that is three times as fast as walking fields, and rows are decoded by the thousand.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NewType, TypeVar, Union, get_args, get_origin

import attrs
import msgpack

from objstore import errors
from objstore.buffer import Buffer
from objstore.errors import CorruptData, ObjstoreError
from objstore.host.network import Address
from objstore.ids import FragmentId
from objstore.packing import make_pack

T = TypeVar("T")
E = TypeVar("E", bound=type[ObjstoreError])

Upgrade = Callable[[tuple[Any, ...]], tuple[Any, ...]]

# msgpack's stubs lack types: named once, with what they are.
_unpackb: Callable[..., Any] = msgpack.unpackb  # type: ignore[attr-defined]

_ERROR_TAG = "!"
_ERROR_FORMAT = 1
_DEPTH_MAX = 32  # Of plain values; types bound the depth of everything else.
_HEAD = 2  # Tag and version before the fields.


class CorruptValue(CorruptData):
    """Bytes are no value that this build can read."""


class _Wire:
    """One registered class."""

    def __init__(
        self, cls: type, tag: str, version: int, upgrades: Mapping[int, Upgrade]
    ) -> None:
        self.cls = cls
        self.tag = tag
        self.version = version
        self.upgrades = upgrades
        self.compiled: Callable[[tuple[Any, ...]], Any] | None = None  # Of this version.

    def build(self, raw: tuple[Any, ...]) -> Any:
        """Make the value of `raw` = (tag, version, fields ...)."""
        if raw[1] != self.version:
            raw = self._upgraded(raw)
        if self.compiled is None:
            self.compiled = _compile_decoder(self)
        return self.compiled(raw)

    def _upgraded(self, raw: tuple[Any, ...]) -> tuple[Any, ...]:
        version = raw[1]
        if type(version) is not int or not 0 < version < self.version:
            raise CorruptValue(f"{self.tag!r} version {version!r} cannot be read")
        while version < self.version:
            upgrade = self.upgrades.get(version)
            if upgrade is None:
                raise CorruptValue(f"{self.tag!r} version {version} is no longer read")
            raw = (self.tag, version + 1, *upgrade(raw[_HEAD:]))
            version += 1
        return raw


_by_tag: dict[str, _Wire] = {}
_by_class: dict[type, _Wire] = {}
_errors_by_code: dict[str, type[ObjstoreError]] = {}
_codes: dict[type[ObjstoreError], str] = {}
_BASE_CODES: dict[type[ObjstoreError], str] = {}  # Of the classes in objstore.errors.


# Registration.


def wire(
    tag: str, *, version: int = 1, upgrades: Mapping[int, Upgrade] | None = None
) -> Callable[[type[T]], type[T]]:
    """Register an attrs class under a tag that is never used for anything else.

    upgrades: for each older version still read, from its fields to those of the next.
    Names in the class's annotations must be importable at run time (no TYPE_CHECKING).
    """
    assert version >= 1

    def register(cls: type[T]) -> type[T]:
        assert attrs.has(cls), f"{cls.__name__}: @wire goes above @attrs.frozen"
        assert tag not in _by_tag, f"tag {tag!r} is taken by {_by_tag[tag].cls}"
        assert tag != _ERROR_TAG
        entry = _Wire(cls, tag, version, upgrades or {})
        _by_tag[tag] = entry
        _by_class[cls] = entry
        return cls  # type: ignore[return-value]

    return register


def wire_error(code: str) -> Callable[[E], E]:
    """Register an error under a stable code: its message and public attributes travel."""

    def register(cls: E) -> E:
        taken = _errors_by_code.get(code)
        assert taken is None, f"error code {code!r} is taken by {taken}"
        _errors_by_code[code] = cls
        _codes[cls] = code
        return cls

    return register


def error_codes() -> dict[str, type[ObjstoreError]]:
    """Every registered code."""
    return dict(_errors_by_code)


# Whole values.


def encode(value: object) -> bytes:
    """Pack any value this module knows.

    Raises TypeError for a class that is not registered: a bug here, not in the data.
    """
    if type(value) in _by_class:  # The `default` hook does the rest without a walk.
        return _pack(_encoders[type(value)](value))
    return _pack(_free(value, _DEPTH_MAX))


def decode(data: Buffer) -> Any:
    """Unpack what `encode` made.  Raises CorruptValue."""
    return value_of(_unpack(data))


def decode_as(cls: type[T], data: Buffer) -> T:
    """Unpack a value that must be of `cls` or of a class under it.  Raises CorruptValue."""
    value = value_of(_unpack(data))
    if not isinstance(value, cls):
        raise CorruptValue(f"expected {cls.__name__}, found {type(value).__name__}")
    return value


def pack_parts(*parts: object) -> bytes:
    """Pack a msgpack array whose items are each as by `encode`."""
    return _pack([_free(part, _DEPTH_MAX) for part in parts])


def unpack_parts(data: Buffer) -> tuple[Any, ...]:
    """The raw items of `pack_parts`; `value_of` makes a value of one.  CorruptValue."""
    parts = _unpack(data)
    if type(parts) is not tuple:
        raise CorruptValue("not an array")
    return parts


def unpack_raw(data: Buffer) -> Any:
    """What msgpack reads, for `value_of`.  Raises CorruptValue."""
    return _unpack(data)


def value_of(raw: Any) -> Any:
    """Make a value of what msgpack read where anything may stand.  Raises CorruptValue."""
    try:
        if type(raw) is tuple and raw and raw[0] is not None:  # As a message is.
            return _object_of(raw)
        return _value_of(raw, _DEPTH_MAX)
    except RecursionError as problem:
        raise CorruptValue("nested too deeply") from problem


# Errors.


def _error_list(error: ObjstoreError) -> list[object]:
    kinds = type(error).__mro__
    code = next(_codes[kind] for kind in kinds if kind in _codes)
    base = next(_BASE_CODES[kind] for kind in kinds if kind in _BASE_CODES)
    return [_ERROR_TAG, _ERROR_FORMAT, code, base, str(error), _attributes_of(error)]


def _error_of(code: object, base: object, message: object, raw: object) -> ObjstoreError:
    """Make the error again; of its kind in objstore.errors where the code is unknown."""
    if not (isinstance(code, str) and isinstance(base, str) and isinstance(message, str)):
        raise CorruptValue("an error without code or message")
    attributes = value_of(raw)
    if not isinstance(attributes, dict):
        raise CorruptValue(f"error {code!r} without attributes")
    cls = _errors_by_code.get(code) or _errors_by_code.get(base) or ObjstoreError
    return _make_error(cls, message, attributes)


def _attributes_of(error: ObjstoreError) -> dict[str, object]:
    if attrs.has(type(error)):
        found = {f.name: getattr(error, f.name) for f in _attrs_fields(type(error))}
    else:
        found = {k: v for k, v in vars(error).items() if not k.startswith("_")}
    return {name: _printable(value) for name, value in found.items()}


def _printable(value: object) -> object:
    """`value`, or its text where it cannot travel: an error must always get through."""
    try:
        return _free(value, _DEPTH_MAX)
    except TypeError:
        return str(value)


def _make_error(
    cls: type[ObjstoreError], message: str, values: dict[str, Any]
) -> ObjstoreError:
    if attrs.has(cls):
        names = {f.name: f.alias or f.name for f in _attrs_fields(cls)}
        make = typing.cast("Callable[..., ObjstoreError]", cls)
        try:
            return make(**{names[k]: v for k, v in values.items() if k in names})
        except (TypeError, ValueError) as problem:
            raise CorruptValue(f"error {cls.__name__}: {problem}") from problem
    error = cls.__new__(cls, message)
    error.args = (message,)
    if issubclass(cls, errors.Unavailable):  # Callers rely on these two.
        error.__dict__.update(retry_after_ms=1000, unknown=True)
    error.__dict__.update(values)
    return error


# Encoding.


class _Encoders(dict[type, Callable[[Any], Any]]):
    """Class to function giving what msgpack can pack; filled at first use."""

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        encoder: Callable[[Any], Any]
        if cls in _by_class:
            encoder = _compile_encoder(_by_class[cls])
        elif issubclass(cls, enum.Enum):
            encoder = _enum_value
        elif issubclass(cls, ObjstoreError):
            encoder = _error_list
        elif cls in {set, frozenset}:
            encoder = sorted
        else:
            raise TypeError(f"{cls.__module__}.{cls.__name__} is not registered")
        self[cls] = encoder
        return encoder


_encoders = _Encoders()


def _default(value: Any) -> Any:
    return _encoders[type(value)](value)


def _enum_value(value: enum.Enum) -> Any:
    return value.value


_pack = make_pack(_default)

_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


def _free(value: Any, depth: int) -> Any:
    """Prepare a value for a place where anything may stand."""
    kind = type(value)
    if kind in _PLAIN or kind in _by_class:
        return value
    if depth == 0:
        raise TypeError("nested too deeply")
    if kind is tuple or kind is list:
        return [None, *[_free(item, depth - 1) for item in value]]
    if isinstance(value, Mapping):
        return {key: _free(value[key], depth - 1) for key in _sorted(value)}
    if kind in {set, frozenset}:
        return [None, *[_free(item, depth - 1) for item in sorted(value)]]
    if kind in {bytearray, memoryview}:
        return bytes(value)
    if isinstance(value, enum.Enum | ObjstoreError):
        return value  # `_default` packs it.
    raise TypeError(f"{kind.__module__}.{kind.__name__} is not registered")


def _sorted(mapping: Iterable[Any]) -> list[Any]:
    return sorted(mapping, key=lambda key: (type(key).__name__, key))


def _sorted_dict(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: mapping[key] for key in _sorted(mapping)}


def _compile_encoder(entry: _Wire) -> Callable[[Any], list[Any]]:
    """Compile `lambda o: [tag, version, o.a, o.b, ...]`."""
    hints = _hints(entry.cls)
    names: dict[str, Any] = {}
    items = [repr(entry.tag), repr(entry.version)]
    for field in _fields(entry.cls):
        convert = _field_encoder(hints[field.name])
        value = f"o.{field.name}"
        if convert is not None:
            names[f"_to_{field.name}"] = convert
            value = f"_to_{field.name}({value})"
        items.append(value)
    source = f"lambda o: [{', '.join(items)}]"
    return eval(source, names)  # type: ignore[no-any-return]  # noqa: S307 - our own text.


def _field_encoder(hint: Any) -> Callable[[Any], Any] | None:
    """What a field needs beyond msgpack and `_default`, or None."""
    hint, optional = _without_none(_resolve(hint))
    encoder: Callable[[Any], Any] | None = None
    if hint is Any or hint is object:
        return _free_field
    if _is_mapping(hint):
        item = _field_encoder((get_args(hint) or (Any, Any))[1])
        encoder = _sorted_dict if item is None else _map_encoder(item)
    elif get_origin(hint) is tuple:
        arguments = [a for a in get_args(hint) if a is not Ellipsis]
        inner = [_field_encoder(a) for a in arguments]
        if any(i is not None for i in inner):
            encoder = _tuple_encoder(inner, every=Ellipsis in get_args(hint))
    if encoder is not None and optional:
        return _optional(encoder)
    return encoder


def _free_field(value: Any) -> Any:
    return _free(value, _DEPTH_MAX)


def _map_encoder(item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda mapping: {key: item(mapping[key]) for key in _sorted(mapping)}


def _tuple_encoder(
    inner: Sequence[Callable[[Any], Any] | None], *, every: bool
) -> Callable[[Any], Any]:
    if every:
        (item,) = inner
        assert item is not None
        return lambda values: [item(value) for value in values]
    return lambda values: [
        value if item is None else item(value)
        for item, value in zip(inner, values, strict=True)
    ]


def _optional(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


# Decoding.


def _unpack(data: Buffer) -> Any:
    try:
        return _unpackb(data, use_list=False, strict_map_key=False)
    except (ValueError, RecursionError, TypeError, OverflowError) as problem:
        raise CorruptValue(f"not msgpack: {problem}") from problem


def _value_of(raw: Any, depth: int) -> Any:
    kind = type(raw)
    if kind is tuple:
        if depth == 0:
            raise CorruptValue("nested too deeply")
        if raw and raw[0] is None:
            return tuple([_value_of(item, depth - 1) for item in raw[1:]])
        return _object_of(raw)
    if kind is dict:
        if depth == 0:
            raise CorruptValue("nested too deeply")
        return {key: _value_of(item, depth - 1) for key, item in raw.items()}
    if kind in _PLAIN:
        return raw
    raise CorruptValue(f"{kind.__name__} has no place here")


def _object_of(raw: Any) -> Any:
    if type(raw) is not tuple or len(raw) < _HEAD or type(raw[0]) is not str:
        raise CorruptValue("not a value with a tag")
    entry = _by_tag.get(raw[0])
    if entry is not None:
        if raw[1] == entry.version and entry.compiled is not None:
            return entry.compiled(raw)
        return entry.build(raw)
    if raw[0] == _ERROR_TAG and len(raw) >= _HEAD + 4:
        return _error_of(*raw[_HEAD : _HEAD + 4])
    raise CorruptValue(f"tag {raw[0]!r} is unknown")


def _compile_decoder(entry: _Wire) -> Callable[[tuple[Any, ...]], Any]:
    """Compile a function from (tag, version, fields ...) to an instance."""
    cls, hints = entry.cls, _hints(entry.cls)
    fields = _fields(cls)
    names: dict[str, Any] = {"_cls": cls, "_wrong": _wrong_field, "_bad": _bad_value}
    body: list[str] = []
    arguments: list[str] = []
    for place, field in enumerate(fields, start=_HEAD):
        local = f"f{place}"
        check = _scalar_check(hints[field.name], local)
        if check is None:
            hint, optional = _without_none(_resolve(hints[field.name]))
            names[f"_of{place}"] = _plain_decoder(hint)
            unless = f"if {local} is not None: " if optional else ""
            body.append(f"  {unless}{_call_of(hint, place, names)}")
        else:
            body.append(f"  if {check}: _wrong({field.name!r}, {local})")
        arguments.append(f"{field.alias}={local}" if field.kw_only else local)
    size = _HEAD + len(fields)
    values = ", ".join([f"f{place}" for place in range(size)])
    names["_short"] = _short_decoder(cls)
    source = "\n".join(
        [
            "def build(raw):",
            " try:",
            f"  if len(raw) != {size}:",
            f"   if len(raw) < {size}: return _short(raw)",
            f"   raw = raw[:{size}]",
            f"  {values} = raw",
            *body,
            f"  return _cls({', '.join(arguments)})",
            " except (TypeError, ValueError, AssertionError) as problem:",
            f"  raise _bad({entry.tag!r}, problem) from problem",
        ]
    )
    exec(source, names)  # noqa: S102 - our own text.
    return names["build"]  # type: ignore[no-any-return]


def _call_of(hint: Any, place: int, names: dict[str, Any]) -> str:
    """The source that decodes a field which is no scalar, and what it names.

    A value of a registered class is mostly just of that class and version.
    """
    local = f"f{place}"
    entry = _by_class.get(hint)
    if entry is None:
        return f"{local} = _of{place}({local})"
    names[f"_entry{place}"] = entry
    return (
        f"{local} = (_entry{place}.compiled or _of{place})({local})"
        f" if type({local}) is tuple and len({local}) >= {_HEAD}"
        f" and {local}[0] == {entry.tag!r} and {local}[1] == {entry.version}"
        f" else _of{place}({local})"
    )


def _bad_value(tag: str, problem: Exception) -> CorruptValue:
    return CorruptValue(f"{tag!r}: {problem}")


def _wrong_field(name: str, value: object) -> None:
    raise CorruptValue(f"field {name!r} may not be {type(value).__name__}")


def _short_decoder(cls: type) -> Callable[[tuple[Any, ...]], Any]:
    """For arrays of an older writer: trailing fields it did not know get defaults."""
    hints = _hints(cls)
    fields = [(field, _field_decoder(hints[field.name])) for field in _fields(cls)]

    def build(raw: tuple[Any, ...]) -> Any:
        present = zip(fields, raw[_HEAD:], strict=False)
        return cls(
            **{str(field.alias): convert(item) for (field, convert), item in present}
        )

    return build


_SCALARS: frozenset[Any] = frozenset({int, str, bytes, bool, float, type(None)})


def _scalar_check(hint: Any, local: str) -> str | None:
    """The condition under which `local` is *not* of a scalar type; None: no scalar."""
    hint, optional = _without_none(_resolve(hint))
    if hint not in _SCALARS:
        return None
    allowed = "type({0}) is not {1}"
    if hint is float:
        allowed = "type({0}) is not float and type({0}) is not int"
    check = allowed.format(local, hint.__name__ if hint is not type(None) else "None")
    return f"{local} is not None and ({check})" if optional else check


def _field_decoder(hint: Any) -> Callable[[Any], Any]:
    """The function from what msgpack read to a field's value."""
    hint, optional = _without_none(_resolve(hint))
    decoder = _plain_decoder(hint)
    return _optional(decoder) if optional else decoder


def _plain_decoder(hint: Any) -> Callable[[Any], Any]:
    origin = get_origin(hint)
    if hint is Any or hint is object:
        return value_of
    if hint in _SCALARS:
        return _scalar_decoder(hint)
    if origin is Literal:
        return _choice_decoder(frozenset(get_args(hint)))
    if origin is tuple or hint is tuple:
        return _tuple_decoder(get_args(hint) or (Any, Ellipsis))
    if origin is frozenset:
        item = _tuple_decoder((get_args(hint)[0], Ellipsis))
        return lambda raw: frozenset(item(raw))
    if _is_mapping(hint):
        return _map_decoder(*(get_args(hint) or (Any, Any)))
    if origin in {Union, types.UnionType}:
        return _union_decoder(get_args(hint))
    if isinstance(hint, type):
        if issubclass(hint, tuple):
            return _compile_row_decoder(hint)
        if issubclass(hint, enum.Enum):
            return hint  # Called with a value it gives the member, or ValueError.
        return _class_decoder((hint,))
    raise TypeError(f"{hint!r} cannot be a field of a @wire class")


def _compile_row_decoder(cls: type[tuple[Any, ...]]) -> Callable[[Any], Any]:
    """Compile a function from an array to a NamedTuple of scalars, without a tag."""
    fields = getattr(cls, "_fields", ())
    hints = typing.get_type_hints(cls)
    checks = [_scalar_check(hints[name], f"f{place}") for place, name in enumerate(fields)]
    if not fields or None in checks:
        raise TypeError(f"{cls!r} is no NamedTuple of scalars")
    values = "".join([f"f{place}, " for place in range(len(fields))])
    source = "\n".join(
        [
            "def build(raw):",
            f" if type(raw) is not tuple or len(raw) < {len(fields)}: _wrong('row', raw)",
            f" {values}= raw[:{len(fields)}]",
            *[
                f" if {check}: _wrong({name!r}, f{place})"
                for place, (name, check) in enumerate(zip(fields, checks, strict=True))
            ],
            f" return _cls({values})",
        ]
    )
    names: dict[str, Any] = {"_cls": cls, "_wrong": _wrong_field}
    exec(source, names)  # noqa: S102 - our own text.
    return names["build"]  # type: ignore[no-any-return]


def _scalar_decoder(kind: Any) -> Callable[[Any], Any]:
    def scalar(raw: Any) -> Any:
        if type(raw) is not kind and not (kind is float and type(raw) is int):
            _wrong_field("item", raw)
        return raw

    return scalar


def _choice_decoder(choices: frozenset[Any]) -> Callable[[Any], Any]:
    def choice(raw: Any) -> Any:
        if raw not in choices:
            raise CorruptValue(f"{raw!r} is none of {sorted(choices)}")
        return raw

    return choice


def _tuple_decoder(arguments: tuple[Any, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        item = _field_decoder(arguments[0])
        if _resolve(arguments[0]) in _SCALARS - {float}:
            return _scalars_decoder(_resolve(arguments[0]))

        def many(raw: Any) -> tuple[Any, ...]:
            if type(raw) is not tuple:
                _wrong_field("tuple", raw)
            return tuple([item(value) for value in raw]) if raw else raw

        return many
    items = [_field_decoder(argument) for argument in arguments]
    if len(items) == 2:
        return _pair_decoder(*items)

    def fixed(raw: Any) -> tuple[Any, ...]:
        if type(raw) is not tuple or len(raw) != len(items):
            _wrong_field("tuple", raw)
        return tuple([item(value) for item, value in zip(items, raw, strict=True)])

    return fixed


def _pair_decoder(
    first: Callable[[Any], Any], second: Callable[[Any], Any]
) -> Callable[[Any], tuple[Any, Any]]:
    """Lists have a thousand of these."""

    def pair(raw: Any) -> tuple[Any, Any]:
        if type(raw) is not tuple or len(raw) != 2:
            _wrong_field("tuple", raw)
        return first(raw[0]), second(raw[1])

    return pair


def _scalars_decoder(kind: Any) -> Callable[[Any], tuple[Any, ...]]:
    def many(raw: Any) -> tuple[Any, ...]:
        if type(raw) is not tuple or not {kind}.issuperset(map(type, raw)):
            _wrong_field("tuple", raw)
        return raw  # type: ignore[no-any-return]

    return many


def _map_decoder(key_hint: Any, value_hint: Any) -> Callable[[Any], dict[Any, Any]]:
    key, value = _field_decoder(key_hint), _field_decoder(value_hint)

    def mapping(raw: Any) -> dict[Any, Any]:
        if type(raw) is not dict:
            _wrong_field("dict", raw)
        return {key(k): value(v) for k, v in raw.items()}

    return mapping


def _class_decoder(classes: tuple[type, ...]) -> Callable[[Any], Any]:
    """Values of any of `classes`, or of registered classes under them."""
    direct = {
        entry.tag: entry for entry in map(_by_class.get, classes) if entry is not None
    }

    def instance(raw: Any) -> Any:
        if type(raw) is tuple and len(raw) >= _HEAD and type(raw[0]) is str:
            entry = direct.get(raw[0])
            if entry is not None and raw[1] == entry.version and entry.compiled is not None:
                return entry.compiled(raw)
        value = _object_of(raw)
        if not isinstance(value, classes):
            _wrong_field("value", value)
        return value

    return instance


def _union_decoder(members: tuple[Any, ...]) -> Callable[[Any], Any]:
    """`A | B` of classes, with scalars beside them.  No two kinds of array or map."""
    members = tuple(_resolve(member) for member in members)
    scalars = frozenset(m for m in members if m in _SCALARS)
    classes = tuple(m for m in members if isinstance(m, type) and m not in _SCALARS)
    if len(scalars) + len(classes) != len(members):
        raise TypeError(f"a field may not be a union of {members!r}")
    instance = _class_decoder(classes)

    def member(raw: Any) -> Any:
        return raw if type(raw) in scalars else instance(raw)

    return member


# Annotations.


def _attrs_fields(cls: Any) -> tuple[attrs.Attribute[Any], ...]:
    return tuple(attrs.fields(cls))


def _fields(cls: type) -> list[attrs.Attribute[Any]]:
    return [field for field in _attrs_fields(cls) if field.init]


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _resolve(hint: Any) -> Any:
    """What a NewType stands for."""
    while isinstance(hint, NewType):
        hint = hint.__supertype__
    return hint


def _without_none(hint: Any) -> tuple[Any, bool]:
    """Split `X | None` into X and True."""
    if get_origin(hint) not in {Union, types.UnionType}:
        return hint, False
    rest = tuple(member for member in get_args(hint) if member is not type(None))
    optional = len(rest) < len(get_args(hint))
    if not optional:
        return hint, False
    return _resolve(rest[0]) if len(rest) == 1 else Union[rest], True  # noqa: UP007 - made at run time.


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Mapping)


# What every package may send.

for _code, _cls in {
    "objstore": ObjstoreError,
    "invalid_request": errors.InvalidRequest,
    "not_found": errors.NotFound,
    "conflict": errors.Conflict,
    "unavailable": errors.Unavailable,
    "out_of_space": errors.OutOfSpace,
    "corrupt_data": errors.CorruptData,
    "protocol": errors.ProtocolError,
    "local_protocol": errors.LocalProtocolError,
    "remote_protocol": errors.RemoteProtocolError,
    "config": errors.ConfigError,
}.items():
    wire_error(_code)(_cls)
    _BASE_CODES[_cls] = _code

wire_error("rpc.corrupt_value")(CorruptValue)
wire("address")(Address)
wire("fragment_id")(FragmentId)
