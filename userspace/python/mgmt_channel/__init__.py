# SPDX-License-Identifier: MIT OR Apache-2.0
"""M-channels from Python, over libmgmt-channel. There is nothing to build.

    with Endpoint("Example") as endpoint:
        answer = endpoint.request("Inventory@mvm", b"list", timeout=2)
        print(answer.source, answer.payload)
        for presence in endpoint.watch("Inventory@platform"):
            print(presence.event, presence.who)

MGMT_CHANNEL_LIBRARY names the library, where it is not installed. docs/channel.md says what is
promised.
"""

import ctypes
import os
from dataclasses import dataclass

DISCOVER, ESTABLISH, DATA, TERMINATE, PRESENCE, REPLY = range(1, 7)
BROADCAST, NO_UNDELIVERABLE, BUNDLE = 1, 4, 8
LAZY, REQUESTS_ONLY, SHARED = 1, 2, 4
_EVENTS = ("message", "undeliverable", "lost", "restored", "presence", "found")
_PRESENCE = {3: "up", 4: "down", 5: "moved"}


class Error(Exception):
    """What went wrong, in words."""


class TimedOut(Error):
    """There was no answer in time."""


class Undeliverable(Error):
    """The request came back."""


class Lost(Error):
    """The device went while the answer was awaited: the request may have arrived."""


class Terminated(Error):
    """The receiver refused the request."""


class Backlog(Error):
    """Messages are not received fast enough."""


class NoDevice(Error):
    """There is no device, or it may not be opened."""


class NotThere(Error):
    """The receiver is not there."""


class Denied(Error):
    """A rule forbids it."""


class NameTaken(Error):
    """Another program has bound the App_ID."""


_ERRORS = (Error, TimedOut, Undeliverable, Lost, Terminated, Backlog, NoDevice, NotThere, Denied, NameTaken)


class _Outgoing(ctypes.Structure):
    _fields_ = [
        ("to", ctypes.c_char_p),
        ("payload", ctypes.c_char_p),
        ("length", ctypes.c_size_t),
        ("app_header_length", ctypes.c_uint32),
        ("deadline_ms", ctypes.c_uint32),
        ("flags", ctypes.c_uint16),
        ("kind", ctypes.c_uint8),
        ("priority", ctypes.c_uint8),
    ]


_lib = ctypes.CDLL(os.environ.get("MGMT_CHANNEL_LIBRARY", "libmgmt-channel.so.0"))
_P, _STRING = ctypes.c_void_p, ctypes.c_char_p
_OUT = ctypes.POINTER(ctypes.c_void_p)


def _declare(name, result, *arguments):
    function = getattr(_lib, "mgmt_" + name)
    function.restype, function.argtypes = result, arguments
    return function


_error = _declare("error", _STRING)
_open = _declare("open", ctypes.c_int, _STRING, ctypes.c_uint32, _OUT)
_close = _declare("close", None, _P)
_send = _declare("send", ctypes.c_int, _P, ctypes.POINTER(_Outgoing), ctypes.POINTER(ctypes.c_uint64))
_request = _declare("request", ctypes.c_int, _P, ctypes.POINTER(_Outgoing), ctypes.c_uint32, _OUT)
_reply = _declare("reply", ctypes.c_int, _P, _P, _STRING, ctypes.c_size_t)
_recv = _declare("recv", ctypes.c_int, _P, ctypes.c_int64, _OUT)
_discover = _declare("discover", ctypes.c_int, _P, _STRING, ctypes.c_uint32, _OUT)
_watch_open = _declare("watch_open", ctypes.c_int, _P, _STRING, _OUT)
_watch_next = _declare("watch_next", ctypes.c_int, _P, ctypes.c_int64, _OUT)
_watch_close = _declare("watch_close", None, _P)
_suspend = _declare("suspend", ctypes.c_int, _P, ctypes.c_uint32)
_resume = _declare("resume", ctypes.c_int, _P)
_event = _declare("message_event", ctypes.c_int, _P)
_kind = _declare("message_kind", ctypes.c_int, _P)
_is_request = _declare("message_is_request", ctypes.c_int, _P)
_reason = _declare("message_reason", ctypes.c_int, _P)
_id = _declare("message_id", ctypes.c_uint64, _P)
_source = _declare("message_source", _STRING, _P)
_payload = _declare("message_payload", _P, _P, ctypes.POINTER(ctypes.c_size_t))
_free = _declare("message_free", None, _P)


def _check(status):
    if status < 0:
        text = (_error() or b"").decode(errors="replace")
        raise (_ERRORS[-status - 1] if -status <= len(_ERRORS) else Error)(text)
    return status


def bundle(payloads):
    """One payload of at most 1024, to be sent with the flag BUNDLE: they are received one by one."""
    return b"".join(len(payload).to_bytes(4, "little") + payload for payload in payloads)


def _milliseconds(timeout):
    return -1 if timeout is None else max(0, round(timeout * 1000))


class Message:
    """What was received: `event` says what it is ("message", "undeliverable", "lost", "restored")."""

    def __init__(self, pointer):
        self._pointer = pointer
        self.event = _EVENTS[_check(_event(pointer))]
        self.kind = _check(_kind(pointer))
        self.source = (_source(pointer) or b"").decode()
        self.id = _id(pointer)
        self.reason = _check(_reason(pointer))
        self.is_request = bool(_check(_is_request(pointer)))
        length = ctypes.c_size_t()
        payload = _payload(pointer, ctypes.byref(length))
        self.payload = ctypes.string_at(payload, length.value) if length.value else b""

    def __del__(self):
        _free(self._pointer)

    def __repr__(self):
        return f"<{self.event} kind={self.kind} source={self.source} id={self.id} payload={len(self.payload)}B>"


@dataclass(frozen=True)
class Presence:
    """Who is "up", "down", or has "moved"."""

    who: str
    event: str


class Watch:
    """Who comes and goes; an iterator without end."""

    def __init__(self, endpoint, whom):
        self._endpoint = endpoint
        self._pointer = ctypes.c_void_p()
        _check(_watch_open(endpoint._pointer, whom.encode(), ctypes.byref(self._pointer)))

    def next(self, timeout=None):
        """The next event, or None if there is none in so many seconds."""
        pointer = ctypes.c_void_p()
        if not _check(_watch_next(self._pointer, _milliseconds(timeout), ctypes.byref(pointer))):
            return None
        told = Message(pointer)
        return Presence(told.source, _PRESENCE.get(told.kind, "?"))

    def __iter__(self):
        return self

    def __next__(self):
        return self.next()

    def close(self):
        _watch_close(self._pointer)
        self._pointer = ctypes.c_void_p()

    def __del__(self):
        self.close()


class Endpoint:
    """A bound App_ID. Threads may share it; times are seconds."""

    def __init__(self, app, flags=0):
        self._pointer = ctypes.c_void_p()
        _check(_open(app.encode(), flags, ctypes.byref(self._pointer)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        _close(self._pointer)
        self._pointer = ctypes.c_void_p()

    def __del__(self):
        self.close()

    @staticmethod
    def _outgoing(to, payload, kind=DATA, flags=0, priority=0, deadline=0.0, app_header=b""):
        payload = app_header + payload
        return _Outgoing(
            to.encode(), payload, len(payload), len(app_header), round(deadline * 1000), flags, kind, priority
        )

    def send(self, to, payload=b"", **fields):
        """Sends; returns the number that the message has if it comes back."""
        number = ctypes.c_uint64()
        message = self._outgoing(to, payload, **fields)
        _check(_send(self._pointer, ctypes.byref(message), ctypes.byref(number)))
        return number.value

    def broadcast(self, to, payload=b"", **fields):
        return self.send(to, payload, flags=BROADCAST, **fields)

    def request(self, to, payload=b"", timeout=5.0, **fields):
        """Sends a request and returns its answer."""
        pointer = ctypes.c_void_p()
        message = self._outgoing(to, payload, **fields)
        _check(_request(self._pointer, ctypes.byref(message), _milliseconds(timeout), ctypes.byref(pointer)))
        return Message(pointer)

    def reply(self, request, payload=b""):
        _check(_reply(self._pointer, request._pointer, payload, len(payload)))

    def recv(self, timeout=None):
        """The next message or event, or None if there is none in time."""
        pointer = ctypes.c_void_p()
        if not _check(_recv(self._pointer, _milliseconds(timeout), ctypes.byref(pointer))):
            return None
        return Message(pointer)

    def discover(self, whom, wait=0.5):
        """The addresses of those who serve APP@COMPONENT, APP@platform or APP@everywhere."""
        pointer = ctypes.c_void_p()
        _check(_discover(self._pointer, whom.encode(), _milliseconds(wait), ctypes.byref(pointer)))
        return Message(pointer).payload.decode().split()

    def watch(self, whom):
        return Watch(self, whom)

    def suspend(self, timeout=5.0):
        """Gives the device back; whether that is done in time."""
        return bool(_check(_suspend(self._pointer, _milliseconds(timeout))))

    def resume(self):
        _check(_resume(self._pointer))
