"""The cheapest flow, on networks small enough to see through."""

from objstore.ring.transport import cheapest


def test_free_routes_are_used_first() -> None:
    arcs = [("s", "a", 5, 0), ("a", "e", 3, 0), ("a", "b", 9, 1), ("b", "e", 9, 0)]
    assert cheapest(arcs, "s", "e") == (5, 2)


def test_what_was_sent_a_cheap_way_makes_room_for_what_has_no_other() -> None:
    arcs = [
        ("s", "a", 1, 0),
        ("s", "b", 1, 0),
        ("a", "x", 1, 0),
        ("a", "y", 1, 1),
        ("b", "x", 1, 0),
        ("x", "e", 1, 0),
        ("y", "e", 1, 0),
    ]
    assert cheapest(arcs, "s", "e") == (2, 1)


def test_nothing_is_carried_where_there_is_no_way() -> None:
    assert cheapest([("s", "a", 1, 0), ("b", "e", 1, 0)], "s", "e") == (0, 0)
