"""XML, read and written.

Reading: a request's document becomes a tree of `Element`.  Size is bounded by the caller;
depth, elements and attributes here, and the time is linear: a document is parsed at one
go, and nobody else is served meanwhile.  A DOCTYPE is refused before any entity can be
declared (FAULTS 4), an encoding but UTF-8 as well, and namespaces are looked through:
clients send S3's, none, or a made-up one.

Writing: documents are joined from text, as lists are hot.  Text is escaped as AWS escapes
it: control characters become character references, which an XML parser may refuse;
clients that meet such keys ask for encoding-type=url (`url_encode`; decision 0021).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote_from_bytes
from xml.parsers import expat

import attrs

from objstore.limits import (
    XML_ATTRIBUTES_MAX,
    XML_DEPTH_MAX,
    XML_ELEMENTS_MAX,
    XML_RUN_MAX,
)
from objstore.s3.errors import S3Error

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'

_SPECIAL = re.compile('[&<>"\r\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]')
_NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
_SEPARATOR = "\x1f"  # Between namespace and name; neither can hold it.
_ENCODINGS = {"utf-8", "us-ascii"}


# ---- reading --------------------------------------------------------------------------


@attrs.define
class Element:
    """One element: its local name, its text, its children in order."""

    name: str
    text: str = ""  # All of its own character data, joined; white space kept.
    children: list[Element] = attrs.field(factory=list)

    def __iter__(self) -> Iterator[Element]:
        return iter(self.children)

    def only(self, *names: str) -> Element:
        """Check that no child has another name.  Raises S3Error MalformedXML."""
        if any(child.name not in names for child in self.children):
            raise malformed()
        return self

    def find(self, name: str) -> Element | None:
        """The child of this name.  Raises S3Error MalformedXML where there are two."""
        found = [child for child in self.children if child.name == name]
        if len(found) > 1:
            raise malformed()
        return found[0] if found else None

    def find_all(self, name: str) -> list[Element]:
        return [child for child in self.children if child.name == name]

    def value(self, name: str) -> str | None:
        """The text of a child that is a leaf.  Raises S3Error MalformedXML."""
        child = self.find(name)
        if child is None:
            return None
        if child.children:
            raise malformed()
        return child.text

    def require(self, name: str) -> str:
        """Likewise, of a child that must be there."""
        value = self.value(name)
        if value is None:
            raise malformed()
        return value


def malformed() -> S3Error:
    return S3Error("MalformedXML")


def parse_xml(data: bytes) -> Element:
    """The root of a whole document.  Raises S3Error MalformedXML."""
    # UTF-16, whose tags the next search would not see, has NULs; XML in UTF-8 has none.
    if b"\0" in data or _has_long_run(data):
        raise malformed()
    builder = _Builder()
    parser = expat.ParserCreate("UTF-8", namespace_separator=_SEPARATOR)
    parser.buffer_text = True
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.XmlDeclHandler = builder.on_declaration
    parser.StartDoctypeDeclHandler = builder.on_doctype
    parser.StartElementHandler = builder.on_start
    parser.EndElementHandler = builder.on_end
    parser.CharacterDataHandler = builder.on_text
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise malformed() from error
    assert builder.root is not None
    return builder.root


def _has_long_run(data: bytes) -> bool:
    """Whether a tag is longer than twice XML_RUN_MAX; some half as long count as well.

    A "<" cannot stand inside a tag, so this bounds the attributes of one: the parser
    makes all of them before it calls anybody.
    """
    return any(
        data.find(b"<", offset, offset + XML_RUN_MAX) < 0
        for offset in range(0, len(data) - XML_RUN_MAX, XML_RUN_MAX)
    )


class _Builder:
    """Makes the tree out of the parser's events."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._texts: list[list[str]] = []  # Of the open elements, joined at their end.
        self._count = 0

    def on_declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise malformed()

    def on_doctype(self, *_: object) -> None:
        raise malformed()

    def on_start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if (
            len(self._open) >= XML_DEPTH_MAX
            or len(attributes) > XML_ATTRIBUTES_MAX
            or self._count > XML_ELEMENTS_MAX
        ):
            raise malformed()
        element = Element(name.rpartition(_SEPARATOR)[2])
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)
        self._texts.append([])

    def on_end(self, _name: str) -> None:
        self._open.pop().text = "".join(self._texts.pop())

    def on_text(self, text: str) -> None:
        self._texts[-1].append(text)


# ---- writing --------------------------------------------------------------------------


def escape(text: str) -> str:
    """`text` as the content of an element."""
    return _SPECIAL.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return _NAMED.get(character) or f"&#x{ord(character):X};"


def tag(name: str, text: object) -> str:
    """One element with text."""
    return f"<{name}>{escape(str(text))}</{name}>"


def tag_if(name: str, text: object | None) -> str:
    """Likewise, or nothing for None."""
    return "" if text is None else tag(name, text)


def flag(name: str, value: bool) -> str:
    """One element that is true or false."""
    return f"<{name}>{'true' if value else 'false'}</{name}>"


def element(name: str, *content: str) -> str:
    """One element of elements already written."""
    return f"<{name}>{''.join(content)}</{name}>"


def document(root: str, *content: str, namespace: bool = True) -> bytes:
    """A whole document of elements already written."""
    declared = f' xmlns="{NAMESPACE}"' if namespace else ""
    start, end = f"{DECLARATION}<{root}{declared}>", f"</{root}>"
    return "".join((start, *content, end)).encode()  # One copy: lists have 300 KB.


def url_encode(key: bytes) -> str:
    """A key as encoding-type=url shows it."""
    return quote_from_bytes(key, safe="/")
