"""Who may log in: a name, a password, and a wait before the next attempt that grows with those that were wrong."""

import asyncio
import hmac
import time
from collections import OrderedDict
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from math import ceil

from fastapi import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

MESSAGE = "After three wrong passwords each attempt waits longer than the one before, up to a minute."
FREE, LONGEST = 3, 60  # attempts of one address without a wait; seconds between the later ones, at most
FREE_OF_ALL, LONGEST_OF_ALL = 30, 4  # the same of all addresses from which nobody has logged in
PATIENCE = 10  # seconds that an attempt may wait; one that would wait longer is refused
WAITING = 32  # attempts that may wait at once, of those addresses
FORGET = 15 * 60  # seconds without an attempt, after which the count starts over
ADDRESSES = 10_000  # that are remembered

_client: ContextVar[str] = ContextVar("client", default="")


class ClientAddress:
    """ASGI middleware: tells `Login` who asks."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("client"):
            _client.set(network_of(scope["client"][0]))
        await self.app(scope, receive, send)


def network_of(address: str) -> str:
    """What one client has: an IPv4 address, or a network of IPv6.

    >>> network_of("10.0.0.7"), network_of("2001:db8::1:2")
    ('10.0.0.7', '2001:db8::/64')
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return str(ip_network((ip, 64), strict=False)) if ip.version == 6 else str(ip)


def delay(attempts: int, free: int, longest: float) -> float:
    """Seconds before the next attempt.

    >>> [delay(attempts, free=3, longest=60) for attempts in (2, 3, 4, 5, 9)]
    [0, 1, 2, 4, 60]
    """
    return 0 if attempts < free else min(longest, 2 ** min(attempts - free, 30))


@dataclass
class _Attempts:
    """Of one address, since somebody there last logged in; the next may be made at `after`."""

    made: int = 0
    after: float = 0.0
    known: bool = False


class Login:
    """The check of name and password that gradio calls.

    An address that fails waits alone. Where many fail, all from which nobody has logged in wait a little too.
    """

    def __init__(self, user: str, password: str):
        self.user, self.password = user, password
        self._attempts: OrderedDict[str, _Attempts] = OrderedDict()
        self._failed, self._last_failure = 0, 0.0
        self._waiting = 0

    async def check(self, user: str, password: str) -> bool:
        """Whether they are right, after a wait.

        Raises:
            HTTPException: too many attempts before this one, which is not looked at.
        """
        now = time.monotonic()
        own = self._of(_client.get(), now)
        wait = max(own.after - now, 0 if own.known else self._delay_of_all(now))
        if wait > PATIENCE or (wait and not own.known and self._waiting >= WAITING):
            again = {"Retry-After": str(ceil(wait))}
            raise HTTPException(429, f"too many wrong passwords; try again in {ceil(wait)} s", again)
        own.made += 1
        own.after = now + wait + delay(own.made, FREE, LONGEST)
        self._waiting += not own.known
        try:
            await asyncio.sleep(wait)
        finally:
            self._waiting -= not own.known
        same = [
            hmac.compare_digest(given.encode(), wanted.encode())
            for given, wanted in ((user, self.user), (password, self.password))
        ]
        if all(same):
            own.made, own.after, own.known = 0, 0.0, True
        else:
            self._failed, self._last_failure = self._failed + 1, now
        return all(same)

    def _of(self, address: str, now: float) -> _Attempts:
        own = self._attempts.pop(address, None) or _Attempts()
        if now - own.after > FORGET:
            own.made = 0
        self._attempts[address] = own  # the last one used comes last
        while len(self._attempts) > ADDRESSES:
            self._attempts.popitem(last=False)
        return own

    def _delay_of_all(self, now: float) -> float:
        if now - self._last_failure > FORGET:
            self._failed = 0
        return delay(self._failed, FREE_OF_ALL, LONGEST_OF_ALL)
