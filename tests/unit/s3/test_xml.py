"""XML: what is refused, what is looked through, what is escaped."""

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.limits import (
    XML_ATTRIBUTES_MAX,
    XML_DEPTH_MAX,
    XML_ELEMENTS_MAX,
    XML_RUN_MAX,
)
from objstore.s3.errors import S3Error
from objstore.s3.xml import NAMESPACE, document, escape, parse_xml, tag, url_encode


def test_a_document_is_read_whatever_its_namespace():
    for opening in ("<D>", f'<D xmlns="{NAMESPACE}">', '<D xmlns="urn:other">'):
        root = parse_xml(f"{opening}<A> x </A><B><C>1</C></B></D>".encode())
        assert root.name == "D"
        assert [child.name for child in root] == ["A", "B"]
        assert root.value("A") == " x "
        assert root.find("B").require("C") == "1"
    prefixed = parse_xml(b'<s:D xmlns:s="urn:x"><s:A>1</s:A></s:D>')
    assert (prefixed.name, prefixed.value("A")) == ("D", "1")


def test_text_is_joined_over_entities_cdata_and_comments():
    root = parse_xml(b"<A>a&amp;b<!-- c --><![CDATA[<d>]]>&#13;</A>")
    assert root.text == "a&b<d>\r"


def is_refused(data: bytes) -> bool:
    try:
        parse_xml(data)
    except S3Error as error:
        return error.code == "MalformedXML"
    return False


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"   ",
        b"plain",
        b"<A>",
        b"<A></B>",
        b"<A/><B/>",
        b"<A>\x00</A>",
        b"<A>\xff</A>",
        b"<A>&unknown;</A>",
        b"<!DOCTYPE A><A/>",
        b'<!DOCTYPE A [<!ENTITY e SYSTEM "file:///etc/passwd">]><A>&e;</A>',
        b'<!DOCTYPE A [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><A>&b;</A>',
        b'<!DOCTYPE A SYSTEM "http://169.254.169.254/"><A/>',
        b'<?xml version="1.0" encoding="no-such"?><A/>',
        b"<x:A/>",
        b"<A>" * (XML_DEPTH_MAX + 1) + b"</A>" * (XML_DEPTH_MAX + 1),
        b"<A>" * 200_000,
        # Each of these held up everybody for seconds.
        b"<D>" + b"<A/>" * XML_ELEMENTS_MAX + b"</D>",
        b"<D " + b" ".join(b'a%d=""' % i for i in range(XML_ATTRIBUTES_MAX + 1)) + b"/>",
        b"<D " + b" ".join(b'a%d=">"' % i for i in range(100_000)) + b"/>",
        b"<D>" + b"x" * (2 * XML_RUN_MAX) + b"</D>",
        # What one reader takes for tags, another does not.
        "<A/>".encode("utf-16"),
        "<A/>".encode("utf-32"),
        '<?xml version="1.0" encoding="utf-16"?><A/>'.encode("utf-16"),
        b'<?xml version="1.0" encoding="cp037"?><A/>',
        b'<?xml version="1.0" encoding="iso-8859-1"?><A/>',
    ],
)
def test_what_is_no_plain_document_is_malformed(data):
    assert is_refused(data)


def test_depth_elements_and_text_are_allowed_up_to_their_bounds():
    assert not is_refused(b"<A>" * XML_DEPTH_MAX + b"</A>" * XML_DEPTH_MAX)
    assert not is_refused(b"<D>" + b"<A/>" * (XML_ELEMENTS_MAX - 1) + b"</D>")
    assert not is_refused(b"<D>" + b"x" * (XML_RUN_MAX - 3) + b"</D>")
    assert not is_refused(b'<?xml version="1.0" encoding="utf-8"?><D a="1" b="2"/>')


def test_text_between_many_children_is_joined_in_linear_time():
    root = parse_xml(b"<D>" + b"some text, <A/>" * 90_000 + b"</D>")
    assert root.text == "some text, " * 90_000


def test_shapes_are_strict_where_asked():
    root = parse_xml(b"<D><A>1</A><A>2</A><B><C/></B></D>")
    for ask in (
        lambda: root.find("A"),
        lambda: root.value("B"),
        lambda: root.require("X"),
        lambda: root.only("A"),
    ):
        with pytest.raises(S3Error) as caught:
            ask()
        assert caught.value.code == "MalformedXML"
    assert root.value("X") is None
    assert root.only("A", "B") is root


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_malformed(data):
    is_refused(data)


def test_text_is_escaped_as_aws_does():
    assert escape("a<b>&\"c'\r\n\t\x01\x7f\ufffe") == (
        "a&lt;b&gt;&amp;&quot;c'&#xD;\n\t&#x1;\x7f&#xFFFE;"
    )


@given(
    st.text(
        st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")
    )
)
def test_what_is_written_is_read_back(text):
    written = document("Root", tag("Key", text), namespace=False)
    assert ET.fromstring(written).find("Key").text == (text or None)
    assert parse_xml(written).value("Key") == text


def test_documents_are_in_the_namespace_of_s3():
    assert document("A", tag("B", 1)) == (
        b'<?xml version="1.0" encoding="UTF-8"?>\n'
        b'<A xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><B>1</B></A>'
    )


def test_keys_are_shown_url_encoded():
    assert url_encode("a b/ü(3)+~%".encode()) == "a%20b/%C3%BC%283%29%2B~%25"
