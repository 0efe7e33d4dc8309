"""What a node knows of those who sign: a credential is made once, for as long as it holds."""

from types import SimpleNamespace
from typing import Any

from objstore.meta.values import AccessKey
from objstore.node import parts
from objstore.node.parts import Parts


def key(name: str, secret: str) -> AccessKey:
    return AccessKey(name, secret, "someone", "0" * 64, is_root=False, created_ms=0)


def node(keys: dict[str, AccessKey]) -> Any:
    """As much of a node as looks for credentials."""

    async def refresh_view() -> None:
        """Nothing is new."""

    return SimpleNamespace(
        config=SimpleNamespace(auth=SimpleNamespace(max_staleness_ms=1)),
        view=SimpleNamespace(is_confirmed_within=lambda _: True, access_key=keys.get),
        store=SimpleNamespace(refresh_view=refresh_view),
        _credentials={},
    )


async def test_a_credential_is_kept_until_its_key_is_another_or_gone() -> None:
    keys = {"AK": key("AK", "first")}
    ours = node(keys)
    first = await Parts._credential(ours, "AK")
    assert first is not None
    assert first.secret_key == "first"
    assert await Parts._credential(ours, "AK") is first
    keys["AK"] = key("AK", "second")
    second = await Parts._credential(ours, "AK")
    assert second is not None
    assert second.secret_key == "second"
    del keys["AK"]
    assert await Parts._credential(ours, "AK") is None


async def test_no_more_credentials_are_kept_than_there_is_room_for(monkeypatch) -> None:
    monkeypatch.setattr(parts, "_CREDENTIALS_KEPT", 2)
    names = ["A", "B", "C"]
    ours = node({name: key(name, "s") for name in names})
    for name in names:
        assert await Parts._credential(ours, name) is not None
    assert len(ours._credentials) <= 2
