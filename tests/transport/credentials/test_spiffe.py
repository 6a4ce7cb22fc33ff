"""One spelling of a name: golden cases, and what random text makes of it."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodedb_node.transport.credentials import spiffe

CLUSTER, NODE = "0123456789abcdef" * 2, "0123456789" * 4
GOOD = f"spiffe://{CLUSTER}/node/{NODE}"

HEX = st.sampled_from("0123456789abcdef")
CLUSTERS = st.text(HEX, min_size=32, max_size=32)
NODES = st.text(HEX, min_size=40, max_size=40)

NOT_OURS = [
    "",
    "spiffe://",
    f"SPIFFE://{CLUSTER}/node/{NODE}",
    f"Spiffe://{CLUSTER}/node/{NODE}",
    f"spiffe:{CLUSTER}/node/{NODE}",
    f"spiffe:///{CLUSTER}/node/{NODE}",
    f" spiffe://{CLUSTER}/node/{NODE}",
    f"{GOOD} ",
    f"{GOOD}\n",
    f"{GOOD}\0",
    f"{GOOD}/",
    f"{GOOD}?a=b",
    f"{GOOD}#a",
    f"{GOOD}/node/{NODE}",
    f"spiffe://{CLUSTER}:443/node/{NODE}",
    f"spiffe://user@{CLUSTER}/node/{NODE}",
    f"spiffe://{CLUSTER}//node/{NODE}",
    f"spiffe://{CLUSTER}/./node/{NODE}",
    f"spiffe://{CLUSTER}/x/../node/{NODE}",
    f"spiffe://{CLUSTER}/Node/{NODE}",
    f"spiffe://{CLUSTER}/nodes/{NODE}",
    f"spiffe://{CLUSTER}/node/{NODE[:-1]}",
    f"spiffe://{CLUSTER}/node/{NODE}0",
    f"spiffe://{CLUSTER[:-1]}/node/{NODE}",
    f"spiffe://{CLUSTER.upper()}/node/{NODE}",
    f"spiffe://{CLUSTER}/node/%30{NODE[1:]}",
    f"spiffe://{CLUSTER}%2fnode/{NODE}",
    f"spiffe://{CLUSTER}/node%2f{NODE}",
    f"spiffe://{CLUSTER}/node/{NODE[:-1]}\u0660",  # a digit to Unicode
    f"spiffe://{CLUSTER}/node/{NODE[:-1]}g",
]


def test_the_golden_spelling() -> None:
    found = spiffe.parse(GOOD)
    assert found is not None
    assert (found.cluster_id, found.node_id, str(found)) == (CLUSTER, NODE, GOOD)


@pytest.mark.parametrize("text", NOT_OURS)
def test_other_spellings_are_not_names(text: str) -> None:
    assert spiffe.parse(text) is None


@given(CLUSTERS, NODES)
def test_what_is_spelled_is_read_back(cluster: str, node: str) -> None:
    assert spiffe.parse(str(spiffe.spell(cluster, node))) == spiffe.spell(cluster, node)


@given(st.one_of(st.text(), st.text(string.printable), st.text(HEX)))
def test_whatever_is_read_has_the_one_spelling(text: str) -> None:
    for candidate in (text, f"spiffe://{text}", f"spiffe://{CLUSTER}/node/{text}", f"{GOOD}{text}"):
        found = spiffe.parse(candidate)
        assert found is None or str(found) == candidate


@given(st.integers(0, len(GOOD) - 1), st.characters())
def test_one_changed_character_is_another_name_or_none(position: int, character: str) -> None:
    changed = GOOD[:position] + character + GOOD[position + 1 :]
    found = spiffe.parse(changed)
    assert found is None or str(found) == changed


@pytest.mark.parametrize(("cluster", "node"), [("c1", NODE), (CLUSTER, "n1"), (CLUSTER.upper(), NODE), (NODE, CLUSTER)])
def test_ids_that_could_not_be_read_back_are_not_spelled(cluster: str, node: str) -> None:
    with pytest.raises(ValueError, match="lower-case hex digits"):
        spiffe.spell(cluster, node)
