"""Rules, passwords and limits of users, without a node; their agreement with Redis is a test of its own."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.acl import commandset, rules
from workers.acl.limiter import MINUTE_US, Bucket, FailureLimiter
from workers.acl.passwords import WAITING_MAX, Argon2Hasher, Busy, Passwords, sha256
from workers.acl.user import User, decode, default_user, encode


class Plain:
    """A hasher that is quick."""

    def hash(self, password: bytes) -> str:
        return sha256(password)

    def matches(self, password: bytes, stored: str) -> bool:
        return sha256(password) == stored


WORDS = [
    *b"on off nopass reset ~a* %R~b %W~c* allkeys resetkeys &x &* resetchannels +@all -@all +get -get".split(),
    *b"+@read -@read +config -config +config|get -config|get +select|0 -select +@hash -@hash +@slow -@slow".split(),
    *b">p (+set) clearselectors".split(),
    b"(+get ~x* &y)",
]


def made(*words: bytes) -> User:
    return rules.apply(User(b"u"), list(words), Plain())


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_the_line_of_a_user_makes_it_again(words: list[bytes]) -> None:
    try:
        user = made(*words)
    except rules.BadRule:
        return
    again = rules.merged(user.line().split(b" ")[2:])
    assert made(b"resetpass", *again) == user
    assert decode(encode(user)) == user


@settings(deadline=None)
@given(st.lists(st.sampled_from([word for word in WORDS if word[:1] in b"+-"]), max_size=12))
def test_what_is_left_out_of_the_rules_means_nothing(words: list[bytes]) -> None:
    bits = 0
    for word in words:
        rule = word.decode()
        if not commandset.is_first_argument(rule):
            bits = bits | commandset.covered(rule) if rule[0] == "+" else bits & ~commandset.covered(rule)
    assert commandset.allowed(made(*words).selectors[0].commands) == bits


def test_rules_are_all_or_none() -> None:
    before = default_user()
    with pytest.raises(rules.BadRule):
        rules.apply(before, [b"off", b"resetkeys", b"+nosuch"], Plain())
    assert before == default_user()


@pytest.mark.parametrize(
    "word",
    [
        b"#$argon2id$v=19$m=4294967296,t=2,p=1$c2FsdHNhbHRzYWx0$" + b"A" * 43,
        b"#$argon2id$v=19$m=999999,t=2,p=1$c2FsdHNhbHRzYWx0$" + b"A" * 43,
        b"#$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$" + b"A" * 43,
        b"#$argon2id$v=19$m=19456,t=2,p=1$c2Fsd$" + b"A" * 43,
    ],
)
def test_a_hash_that_would_cost_too_much_is_refused(word: bytes) -> None:
    with pytest.raises(rules.BadRule):
        made(word)


def test_new_passwords_are_argon2id_and_compare() -> None:
    hasher = Argon2Hasher()
    stored = hasher.hash(b"secret")
    assert rules.ARGON2.fullmatch(stored) and stored != hasher.hash(b"secret")
    assert hasher.matches(b"secret", stored) and not hasher.matches(b"guess", stored)
    user = rules.apply(User(b"u"), [b">secret", b">secret", b">other"], hasher)
    assert len(user.passwords) == 2
    assert len(rules.apply(user, [b"<secret"], hasher).passwords) == 1


def test_passwords_are_checked_against_the_present_user() -> None:
    async def scene() -> None:
        passwords = Passwords(asyncio.get_running_loop())
        user = rules.apply(User(b"u"), [b"on", b">secret"], passwords.hasher())
        assert await passwords.check(user, b"secret", hides=True)
        assert await passwords.check(user, b"secret", hides=True)
        assert not await passwords.check(user, b"guess", hides=True)
        assert not await passwords.check(None, b"secret", hides=True)
        off = rules.apply(user, [b"off"], passwords.hasher())
        assert not await passwords.check(off, b"secret", hides=True)
        changed = rules.apply(user, [b"resetpass", b"#" + sha256(b"new").encode()], passwords.hasher())
        assert not await passwords.check(changed, b"secret", hides=False)
        assert await passwords.check(changed, b"new", hides=False)

    asyncio.run(scene())


def test_every_answer_costs_one_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong, of a user that is off, of nobody: the time tells neither who exists nor how near a guess was."""
    compared: list[bytes] = []
    matches = Argon2Hasher.matches

    def counted(self: Argon2Hasher, password: bytes, stored: str) -> bool:
        compared.append(password)
        return matches(self, password, stored)

    async def scene() -> None:
        passwords = Passwords(asyncio.get_running_loop())
        user = rules.apply(User(b"u"), [b"on", b">secret"], passwords.hasher())
        off = rules.apply(user, [b"off"], passwords.hasher())
        nopass = User(b"n")
        monkeypatch.setattr(Argon2Hasher, "matches", counted)
        for known, guess in ((user, b"wrong"), (user, b"secreT"), (off, b"secret"), (None, b"secret"), (nopass, b"x")):
            assert not await passwords.check(known, guess, hides=True)
        assert compared == [b"wrong", b"secreT", b"secret", b"secret", b"x"]

    asyncio.run(scene())


def test_waiting_passwords_are_bounded() -> None:
    async def scene() -> None:
        passwords = Passwords(asyncio.get_running_loop())
        user = rules.apply(User(b"u"), [b"on", b">secret"], passwords.hasher())
        checks = [passwords.check(user, b"guess%d" % number, hides=True) for number in range(WAITING_MAX + 3)]
        done = await asyncio.gather(*checks, return_exceptions=True)
        assert [isinstance(one, Busy) for one in done].count(True) == 3

    asyncio.run(scene())


def test_an_address_gets_its_tries_back_over_the_minute() -> None:
    limiter = FailureLimiter(4)
    for _ in range(4):
        assert limiter.wait_ms("192.0.2.1", 0) == 0
        limiter.failed("192.0.2.1", 0)
    assert 15_000 <= limiter.wait_ms("192.0.2.1", 0) <= 15_001
    assert limiter.wait_ms("192.0.2.2", 0) == 0
    assert limiter.wait_ms("192.0.2.1", MINUTE_US // 4 + 1) == 0


def test_addresses_are_bounded_and_ipv6_counts_by_network() -> None:
    limiter = FailureLimiter(1, addresses_max=10)
    for number in range(100):
        limiter.failed(f"192.0.2.{number}", 0)
    assert len(limiter) == 10
    limiter.failed("2001:db8::1", 0)
    assert limiter.wait_ms("2001:db8::ffff", 0) > 0
    assert limiter.wait_ms("2001:db8:0:1::1", 0) == 0
    limiter.failed("::ffff:198.51.100.1", 0)
    assert limiter.wait_ms("198.51.100.1", 0) > 0


def test_a_bucket_never_holds_more_than_its_size() -> None:
    bucket = Bucket(2, 1_000_000, 0)
    assert [bucket.take(10_000_000) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        ([b"(+get", b"+set)"], [b"(+get +set)"]),
        ([b"(+get", b"(+set", b"+del)"], [b"(+set +del)"]),
        ([b"(+get", b"(+set)", b"+x)"], [b"(+get (+set)", b"+x)"]),
    ],
)
def test_words_of_selectors_are_joined_as_redis_joins_them(words: list[bytes], joined: list[bytes]) -> None:
    assert rules.merged(words) == joined


def test_an_open_selector_is_named_by_its_last_beginning() -> None:
    with pytest.raises(rules.Unmatched, match=r"^\($"):
        rules.merged([b"(%W~w2 +set +copy) ", b"("])
