#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""/dev/mgmt: every row of the table of errors in docs/uapi.md, and what goes with it."""

import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import stat
import struct
import tempfile
import time

import mgmt
from mgmt import (
    DATA, MVM_COMPONENT, REQUEST, SELF, UNSPECIFIED, File, GuestFile, Message, case, check, equal, guests, message,
    raises, vm,
)  # fmt: skip

COMPLETE = message("Nobody", SELF, b"payload").encode()


def unchanged(f, text):
    """Nothing was sent: the next message that this file sends to itself is its n-th accepted."""
    mine = f.info()["app"]
    f.write(Message(app=mine, component=SELF, payload=b"probe"))
    got = f.read(2)
    if check(got is not None and got.payload == b"probe", f"{text}: the next message to read is {got}"):
        sent = getattr(f, "sent", 0) + 1
        equal(f"{text}: sequence of the next accepted message", sent, got.sequence)
        f.sent = sent


@case
def device():
    """/dev/mgmt is a character device with mode 0600."""
    status = os.stat(mgmt.DEVICE)
    check(stat.S_ISCHR(status.st_mode), "not a character device")
    equal("mode", 0o600, stat.S_IMODE(status.st_mode))
    equal("owner", (0, 0), (status.st_uid, status.st_gid))


@case
def info():
    """INFO tells what the file and the domain are."""
    with File() as f:
        info = f.info()
        equal("abi", 1, info["abi"])
        equal("flags", mgmt.INFO_MVM, info["flags"])
        equal("app", bytes(32), info["app"])
        equal("reserved", bytes(32), info["reserved"])
        equal("links", len(guests()), info["links"])
        endpoints = info["endpoints"]
        check(info["max_payload"] >= 4096, f"max_payload {info['max_payload']}")
        check(info["queue_bytes"] >= 65536, f"queue_bytes {info['queue_bytes']}")
        f.bind("Info")
        info = f.info()
        equal("flags when bound", mgmt.INFO_MVM | mgmt.INFO_BOUND, info["flags"])
        equal("app when bound", mgmt.app_id("Info"), info["app"])
        equal("endpoints", endpoints + 1, info["endpoints"])
        equal("component", vm(0, info["component"][4:20]), info["component"])


@case
def unbound():
    """Unbound: write and read give EBADFD, poll gives POLLERR alone."""
    with File() as f:
        raises(errno.EBADFD, "write of a message", f.write, COMPLETE)
        raises(errno.EBADFD, "write of a word", f.write, b"hello")
        raises(errno.EBADFD, "write of nothing like bind", f.write, b"bind")
        raises(errno.EBADFD, "read", os.read, f.fd, 65536)
        equal("poll", select.POLLERR, f.poll())


@case
def bind_line():
    """The line `bind NAME` binds, with and without a newline."""
    for line in (b"bind LineOne\n", b"bind LineTwo"):
        with File() as f:
            equal(f"write of {line!r}", len(line), os.write(f.fd, line))
            equal("app", mgmt.app_id(line.split()[1]), f.info()["app"])
            raises(errno.EINVAL, "the line again: a short message", f.write, line)


@case
def bind_names():
    """bind: EINVAL for malformed names, by ioctl and by line."""
    bad = [b"", b"a b", b"a/b", b"a\nb", b"a@b", b"\xc3\xa4", b"x" * 32, b"a\0b", b"-\0\0x", b"*", b"a:b"]
    for name in bad:
        with File() as f:
            raises(errno.EINVAL, f"ioctl with {name!r}", f.bind, name)
            raises(errno.EBADFD, f"write after the failed bind of {name!r}", f.write, COMPLETE)
        with File() as f:
            line = b"bind " + name + b"\n"[: 37 - 5 - len(name)]
            raises(errno.EINVAL, f"line {line!r}", f.write, line)
            raises(errno.EBADFD, f"read after the failed line {name!r}", os.read, f.fd, 65536)
    with File() as f:
        raises(errno.EBADFD, "a line that is too long", f.write, b"bind " + b"x" * 100)
    for name in (b"x", b"x" * 31, b"A.z_0-9", b"..", b"-"):
        with File() as f:
            f.bind(name)
            equal("app", mgmt.app_id(name), f.info()["app"])


@case
def bind_reserved():
    """bind: EINVAL for flags and each reserved byte."""
    with File() as f:
        raises(errno.EINVAL, "flags", f.bind, "Reserved", flags=2)
        for at in range(28):
            reserved = bytearray(28)
            reserved[at] = 1
            raises(errno.EINVAL, f"reserved byte {at}", f.bind, "Reserved", reserved=bytes(reserved))
        f.bind("Reserved")


@case
def bind_twice():
    """bind: EADDRINUSE for a taken name, EINVAL for a bound file, free again after close."""
    with File("Taken") as f:
        raises(errno.EINVAL, "the same file, another name", f.bind, "Other")
        raises(errno.EINVAL, "the same file, the same name", f.bind, "Taken")
        with File() as second:
            raises(errno.EADDRINUSE, "ioctl", second.bind, "Taken")
            raises(errno.EADDRINUSE, "line", second.write, b"bind Taken\n")
            second.bind("NotTaken")
        duplicate = os.dup(f.fd)
    with File() as third:
        raises(errno.EADDRINUSE, "a duplicate descriptor holds the name", third.bind, "Taken")
        os.close(duplicate)
        third.bind("Taken")


@case
def short_write():
    """write: EINVAL for every length shorter than a header."""
    with File("Short") as f:
        for length in range(mgmt.HEADER_LEN):
            raises(errno.EINVAL, f"{length} bytes", f.write, COMPLETE[:length])
        unchanged(f, "after short writes")


@case
def length_mismatch():
    """write: EINVAL where header and length disagree."""
    with File("Length") as f:
        for length, payload in ((0, b"x"), (1, b""), (7, b"eight by"), (9, b"eight by"), (2**32 - 1, b"x" * 64)):
            data = message("Length", SELF, payload, length=length).encode()
            raises(errno.EINVAL, f"header says {length}, payload is {len(payload)}", f.write, data)
        raises(errno.EINVAL, "one byte too many", f.write, message("Length", SELF, b"x").encode() + b"\0")
        wrong = message("Length", SELF, b"four", app_header_length=5)
        raises(errno.EINVAL, "application header longer than the payload", f.write, wrong)
        unchanged(f, "after wrong lengths")


@case
def too_long():
    """write: EMSGSIZE beyond max_payload, which itself passes."""
    with File("Long") as f:
        most = f.info()["max_payload"]
        for length in (most + 1, most + 4096, 2 * most):
            raises(errno.EMSGSIZE, f"payload of {length}", f.write, message("Long", SELF, b"x" * length))
        payload = os.urandom(most)
        f.write(message("Long", SELF, payload))
        check(f.read(2).payload == payload, "the largest payload is damaged")


@case
def version():
    """write: EPROTONOSUPPORT for every version but 1."""
    with File("Version") as f:
        for number in [0, *range(2, 256)]:
            raises(errno.EPROTONOSUPPORT, f"version {number}", f.write, message("Version", SELF, version=number))
        unchanged(f, "after wrong versions")


@case
def kinds():
    """write: EINVAL for kinds of bridges and unknown ones, the others pass."""
    with File("Kinds") as f:
        for kind in [0, mgmt.UNDELIVERABLE, *range(8, 256)]:
            raises(errno.EINVAL, f"kind {kind}", f.write, message("Kinds", SELF, kind=kind))
        for kind in (mgmt.DISCOVER, mgmt.ESTABLISH, mgmt.DATA, mgmt.TERMINATE, mgmt.REPLY):
            f.write(message("Kinds", SELF, kind=kind))
            equal("kind", kind, f.read(2).kind)


@case
def flags():
    """write: EINVAL for unknown flags, a broadcast reply, or everybody without BROADCAST."""
    with File("Flags") as f:
        reply = message("Flags", SELF, kind=mgmt.REPLY, flags=mgmt.BROADCAST)
        raises(errno.EINVAL, "a broadcast reply", f.write, reply)
        raises(errno.EINVAL, "everybody without BROADCAST", f.write, message("Flags", mgmt.PLATFORM))
        for kind, value in ((mgmt.DATA, REQUEST | mgmt.BUNDLE), (mgmt.REPLY, mgmt.BUNDLE)):
            wrong = message("Flags", SELF, kind=kind, flags=value)
            raises(errno.EINVAL, f"a bundle of kind {kind}, flags {value}", f.write, wrong)
        for bit in range(4, 16):
            raises(errno.EINVAL, f"flag bit {bit}", f.write, message("Flags", SELF, flags=1 << bit))
        for value in (REQUEST, mgmt.NO_UNDELIVERABLE, mgmt.BUNDLE):
            f.write(message("Flags", SELF, b"whatever is in it", flags=value))
            equal("flags", value, f.read(2).flags)


@case
def reserved():
    """write: EINVAL for each byte that must be zero."""
    good = message("Reserved", SELF).encode()
    zero = [6, 7, *range(40, 64)]  # reason, reserved
    zero += [128 + 2, 128 + 3]  # reserved of the destination
    zero += range(128 + 4, 128 + 32)  # padding behind a component without a body
    zero += range(128 + 32 + len("Reserved") + 1, 128 + 64)  # behind the App_ID's end
    with File("Reserved") as f:
        for at in zero:
            for value in (1, 0x80):
                bad = bytearray(good)
                bad[at] = value
                raises(errno.EINVAL, f"byte {at} is {value}", f.write, bytes(bad))
        unchanged(f, "after bytes that are not zero")


@case
def addresses():
    """write: EINVAL for malformed destinations, none, or no App_ID."""
    bad = {
        "VM of 19 bytes": struct.pack("<BBH28s", 1, 19, 0, bytes(28)),
        "VM of 21 bytes": struct.pack("<BBH28s", 1, 21, 0, bytes(28)),
        "stable name of 15 bytes": struct.pack("<BBH28s", 2, 15, 0, b"x" * 15),
        "hardware of 0 bytes": struct.pack("<BBH28s", 3, 0, 0, b""),
        "hardware of 29 bytes": struct.pack("<BBH28s", 3, 29, 0, b"x" * 28),
        "hardware with a control character": mgmt.hardware(b"a\nb"),
        "self of 1 byte": struct.pack("<BBH28s", 4, 1, 0, b"x"),
        "mvm of 1 byte": struct.pack("<BBH28s", 5, 1, 0, b"x"),
        "kind 6": struct.pack("<BBH28s", 6, 0, 0, b""),
        "kind 255": struct.pack("<BBH28s", 255, 0, 0, b""),
        "VM with padding that is not zero": vm(1)[:24] + b"\1" + bytes(7),
    }
    with File("Address") as f:
        for text, component in bad.items():
            raises(errno.EINVAL, text, f.write, message("Address", component))
        for app in (b"", b"a b", b"a\0b", b"x" * 32):
            raises(errno.EINVAL, f"App_ID {app!r}", f.write, message(app, SELF))
        unchanged(f, "after malformed addresses")


@case
def unreachable():
    """write in Dom-M: EHOSTUNREACH for a component that is not there."""
    with File("Unreachable") as f:
        for text, component in (
            ("unknown VM", vm(30000)),
            ("VM of another platform", vm(0, bytes(15) + b"\x09")),
            ("unknown stable name", mgmt.stable(b"0123456789abcdef")),
            ("unknown hardware", mgmt.hardware(b"SN-1")),
            ("unspecified", UNSPECIFIED),
        ):
            raises(errno.EHOSTUNREACH, text, f.write, message("Any", component))
        unchanged(f, "after unknown components")


@case
def refused():
    """write: ECONNREFUSED where nobody in this domain has bound the App_ID."""
    with File("Refused") as f:
        for text, component in (("self", SELF), ("mvm", MVM_COMPONENT), ("vm:0", vm(0))):
            raises(errno.ECONNREFUSED, text, f.write, message("Nobody", component))
        with File("Soon") as other:
            f.write(message("Soon", SELF))
            other.read(2)
            f.sent = 1
        raises(errno.ECONNREFUSED, "after the receiver closed", f.write, message("Soon", SELF))
        raises(errno.ECONNREFUSED, "another case of letters", f.write, message("refused", SELF))
        unchanged(f, "after refused messages")


@case
def small_buffer():
    """read: EMSGSIZE for a small buffer, and the message is still there."""
    with File("Small") as f:
        f.write(message("Small", SELF, b"first"))
        f.write(message("Small", SELF, b"second"))
        for size in (1, 191, 192, 196):
            raises(errno.EMSGSIZE, f"buffer of {size} bytes", os.read, f.fd, size)
        check(f.poll() & select.POLLIN, "no POLLIN afterwards")
        data = os.read(f.fd, 197)
        equal("payload with a buffer that just fits", b"first", data[192:])
        equal("the message after it", b"second", f.read(2).payload)
        equal("and no more", None, f.read(0.1))


@case
def nonblocking():
    """O_NONBLOCK: read gives EAGAIN when empty, write gives EAGAIN when full; nothing is lost."""
    with File("Full", nonblock=True) as receiver, File("Sender", nonblock=True) as sender:
        raises(errno.EAGAIN, "read of an empty queue", os.read, receiver.fd, 65536)
        accepted = 0
        try:
            while accepted < 100000:
                sender.write(message("Full", SELF, struct.pack("<Q", accepted)))
                accepted += 1
        except BlockingIOError:
            pass
        check(100 <= accepted < 100000, f"{accepted} messages were accepted")
        check(accepted * 200 <= receiver.info()["queue_bytes"], f"{accepted} messages are more than queue_bytes")
        raises(errno.EAGAIN, "write again", sender.write, message("Full", SELF, bytes(8)))
        check(sender.poll() & select.POLLOUT, "POLLOUT is always there")
        got = 0
        while (m := receiver.read(0)) is not None:
            if not equal("number and sequence", (got, got + 1), (struct.unpack("<Q", m.payload)[0], m.sequence)):
                break
            got += 1
        equal("messages read", accepted, got)
        sender.write(message("Full", SELF))


def _libc():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.read.restype = libc.write.restype = ctypes.c_ssize_t
    libc.read.argtypes = libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _interrupted(call, fd, buffer, length):
    """One system call, and a signal after 0.3 s: its result, its errno, and how long it took."""
    previous = signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.siginterrupt(signal.SIGUSR1, True)
    child = os.fork()
    if child == 0:
        for _ in range(20):  # again, should the first come before the call
            time.sleep(0.3)
            os.kill(os.getppid(), signal.SIGUSR1)
        os._exit(0)
    begin = time.monotonic()
    ctypes.set_errno(0)
    result = call(fd, buffer, length)
    number = ctypes.get_errno()
    took = time.monotonic() - begin
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    signal.signal(signal.SIGUSR1, previous)
    return result, number, took


@case
def interrupted():
    """EINTR: a signal ends a waiting read or write; nothing was taken or sent."""
    libc = _libc()
    buffer = ctypes.create_string_buffer(65536)
    with File("Interrupted") as receiver, File("Interrupter", nonblock=True) as sender:
        result, number, took = _interrupted(libc.read, receiver.fd, buffer, 65536)
        equal("read", (-1, errno.EINTR), (result, number))
        check(took > 0.2, f"read ended after {took:.2f} s: it did not wait")
        accepted = 0
        try:
            while accepted < 100000:
                sender.write(message("Interrupted", SELF))
                accepted += 1
        except BlockingIOError:
            pass
        sender.nonblock(False)
        data = message("Interrupted", SELF, b"not sent").encode()
        result, number, took = _interrupted(libc.write, sender.fd, data, len(data))
        equal("write", (-1, errno.EINTR), (result, number))
        check(took > 0.2, f"write ended after {took:.2f} s: it did not wait")
        sequences = []
        while (m := receiver.read(0)) is not None:
            sequences.append(m.sequence)
        equal("messages read", list(range(1, accepted + 1)), sequences)
        sender.write(message("Interrupted", SELF))
        equal("sequence of the next", accepted + 1, receiver.read(2).sequence)


@case
def wakeups():
    """A waiting read ends with a message, a waiting write with room."""
    with File("Waiter") as receiver, File("Waker", nonblock=True) as sender:
        child = os.fork()
        if child == 0:
            time.sleep(0.3)
            sender.write(message("Waiter", SELF, b"wake"))
            os._exit(0)
        begin = time.monotonic()
        got = Message.decode(os.read(receiver.fd, 65536))
        equal("payload", b"wake", got.payload)
        check(time.monotonic() - begin > 0.2, "read did not wait")
        os.waitpid(child, 0)
        try:
            while True:
                sender.write(message("Waiter", SELF))
        except BlockingIOError:
            pass
        sender.nonblock(False)
        child = os.fork()
        if child == 0:
            time.sleep(0.3)
            for _ in range(8):
                os.read(receiver.fd, 65536)
            os._exit(0)
        begin = time.monotonic()
        sender.write(message("Waiter", SELF, b"room"))
        check(time.monotonic() - begin > 0.2, "write did not wait")
        os.waitpid(child, 0)


@case
def receiver_leaves():
    """A write that waits ends with ECONNREFUSED when the receiver goes away."""
    receiver = File("Leaver")
    with File("Stayer", nonblock=True) as sender:
        try:
            while True:
                sender.write(message("Leaver", SELF))
        except BlockingIOError:
            pass
        sender.nonblock(False)
        child = os.fork()
        if child == 0:
            # The last descriptor of the receiver is the child's.
            time.sleep(0.5)
            os._exit(0)
        receiver.close()
        begin = time.monotonic()
        raises(errno.ECONNREFUSED, "write", sender.write, message("Leaver", SELF))
        check(0.2 < time.monotonic() - begin < 20, f"it ended after {time.monotonic() - begin:.1f} s")
        os.waitpid(child, 0)


def _torn(pages):
    """A mapping of so many pages of which only the first is there: the kernel gets EFAULT beyond."""
    with tempfile.TemporaryFile(dir="/tmp") as f:
        f.truncate(4096 * pages)
        mapping = mmap.mmap(f.fileno(), 4096 * pages)
        f.truncate(4096)
    return mapping


@case
def bad_memory():
    """EFAULT for bad user memory; nothing was sent, taken or lost."""
    with File("Fault", nonblock=True) as f:
        torn = _torn(4)
        view = memoryview(torn)
        data = message("Fault", SELF, b"x" * 100).encode()
        raises(errno.EFAULT, "write, all of it bad", os.write, f.fd, view[4096 : 4096 + len(data)])
        torn[4096 - 192 : 4096] = data[:192]
        raises(errno.EFAULT, "write, payload bad", os.write, f.fd, view[4096 - 192 : 4096 - 192 + len(data)])
        torn[4096 - 100 : 4096] = data[:100]
        raises(errno.EFAULT, "write, half of the header bad", os.write, f.fd, view[4096 - 100 : 4096 - 100 + len(data)])
        unchanged(f, "after writes from bad memory")
        f.write(message("Fault", SELF, b"kept"))
        f.write(message("Fault", SELF, b"next"))
        for text, start in (("all of it bad", 4096), ("its end bad", 4096 - 100), ("payload bad", 4096 - 192)):
            raises(errno.EFAULT, f"read, {text}", os.readv, f.fd, [view[start : start + 4096]])
        equal("the message afterwards", b"kept", f.read(1).payload)
        equal("and the one after it", b"next", f.read(1).payload)
        with File() as unbound:
            for name, request in (("BIND", mgmt.IOC_BIND), ("INFO", mgmt.IOC_INFO), ("LINK", mgmt.IOC_LINK)):
                # An address is given as it is where the argument is a number.
                raises(errno.EFAULT, f"ioctl {name}", fcntl.ioctl, unbound.fd, request, 16)
        view.release()


@case
def gather():
    """A message may be written and read in pieces of memory; it is one message."""
    with File("Gather") as f:
        data = message("Gather", SELF, b"0123456789" * 30).encode()
        equal("writev", len(data), os.writev(f.fd, [data[:1], data[1:100], data[100:192], data[192:200], data[200:]]))
        parts = [bytearray(10), bytearray(182), bytearray(1), bytearray(1000)]
        equal("readv", len(data), os.readv(f.fd, parts))
        equal("payload", data[192:], b"".join(parts)[192 : len(data)])


def payloads(data):
    """Of messages one behind the other."""
    while data:
        end = 192 + struct.unpack_from("<I", data, 8)[0]
        yield data[192:end]
        data = data[end:]


@case
def exchange():
    """EXCHANGE sends several messages and receives several; what was done before an error is told."""
    one, two, bad = (message("Exchange", SELF, b) for b in (b"one", b"two, longer", b"bad"))
    with File("Exchange") as f, File("Client") as client:
        several = one.encode() + two.encode()
        sent, data = f.exchange(several, 65536)
        equal("both ways", (len(several), [b"one", b"two, longer"]), (sent, list(payloads(data))))
        equal("nothing at all", (0, b""), f.exchange())
        equal("sent alone", (len(several), b""), f.exchange(several))
        raises(errno.EMSGSIZE, "room for less than a message", f.exchange, b"", 194)
        _, data = f.exchange(b"", 195 + 202)
        equal("room for one and a half", [b"one"], list(payloads(data)))
        sent, data = f.exchange(one.encode(), 203)
        equal("the first as it was sent", (195, [b"two, longer"]), (sent, list(payloads(data))))
        equal("the one that is left", b"one", f.read(1).payload)

        wrong = bytearray(bad.encode())
        wrong[1] = 99
        raises(errno.EINVAL, "a first that is wrong", f.exchange, bytes(wrong) + one.encode(), 65536)
        raises(errno.EINVAL, "half a header", f.exchange, one.encode()[:100], 65536)
        raises(errno.EINVAL, "half a payload", f.exchange, one.encode()[:194], 65536)
        raises(errno.EINVAL, "reserved", f.exchange, one.encode(), 65536, bytes(15) + b"x")
        raises(errno.ECONNREFUSED, "to nobody", f.exchange, COMPLETE, 65536)
        sent, data = f.exchange(one.encode() + bytes(wrong) + two.encode(), 65536)
        equal("a second that is wrong", (195, b""), (sent, data))
        equal("what was before it", b"one", f.read(1).payload)
        equal("and nothing else", None, f.read(0.1))

        child = os.fork()
        if child == 0:
            _, data = f.exchange(b"", 65536)
            f.exchange(message("Client", SELF, b"re: " + data[192:]).encode())
            os._exit(0)
        sent, data = client.exchange(one.encode(), 65536)
        equal("a call", [b"re: one"], list(payloads(data)))
        os.waitpid(child, 0)

        f.nonblock(True)
        raises(errno.EAGAIN, "nothing to receive", f.exchange, b"", 65536)
        equal("sent, and nothing to receive", (195, b""), client.exchange(one.encode()))
        f.read(1)
        torn = _torn(2)
        torn[4096 - 195 : 4096] = one.encode()
        asked = mgmt.EXCHANGE.pack(ctypes.addressof(ctypes.c_char.from_buffer(torn)) + 4096 - 195, 0, 390, 0, bytes(16))
        data = fcntl.ioctl(f.fd, mgmt.IOC_EXCHANGE, asked)
        equal("a second in bad memory: sent", 195, mgmt.EXCHANGE.unpack(data)[2])
        equal("payload", b"one", f.read(1).payload)
    with File() as unbound:
        raises(errno.EBADFD, "unbound", unbound.exchange, one.encode(), 65536)


@case
def polling():
    """poll: POLLOUT once bound, POLLIN exactly while a message is queued."""
    with File("Poll") as f:
        equal("empty", select.POLLOUT, f.poll())
        f.write(message("Poll", SELF))
        f.write(message("Poll", SELF))
        for left in (2, 1):
            equal(f"{left} queued", select.POLLIN | select.POLLOUT, f.poll())
            f.read(1)
        equal("empty again", select.POLLOUT, f.poll())
        child = os.fork()
        if child == 0:
            time.sleep(0.3)
            with File("Poller") as other:
                other.write(message("Poll", SELF))
            os._exit(0)
        begin = time.monotonic()
        check(f.readable(10), "a message does not wake poll")
        check(0.2 < time.monotonic() - begin < 9, "poll did not wait for it")
        os.waitpid(child, 0)


@case
def unknown_ioctl():
    """ioctl: ENOTTY for unknown requests."""
    with File("Ioctl") as f:
        for request in (0, 0x5401, mgmt._ioc(1, 5, 64), mgmt._ioc(1, 1, 60), mgmt._ioc(2, 1, 64), mgmt._ioc(0, 2, 0)):
            raises(errno.ENOTTY, f"request {request:#x}", fcntl.ioctl, f.fd, request, bytes(128))


@case
def links():
    """ioctl LINK: walks the links, then ENOENT."""
    with File() as f:
        seen, at = [], 0
        while True:
            try:
                link = f.link(at)
            except OSError as e:
                equal("errno at the end", errno.ENOENT, e.errno)
                break
            check(link["id"] >= at, f"{link['id']} after {at}")
            equal("state", 2, link["state"])
            equal("reserved", bytes(20), link["reserved"])
            seen.append(link["id"])
            at = link["id"] + 1
        equal("links", sorted(mgmt.domid(name) for name in guests()), seen)
        raises(errno.ENOENT, "the uplink, in Dom-M", f.link, mgmt.UPLINK)


@case
def mvm_address():
    """ioctl SET_MVM: changes the names of this domain and its guests; EINVAL for reserved bytes."""
    before = None
    with File("Names") as f:
        before = f.info()["component"][4:20]
        try:
            for at in range(16):
                bad = bytearray(32)
                bad[16 + at] = 1
                raises(errno.EINVAL, f"reserved byte {at}", fcntl.ioctl, f.fd, mgmt.IOC_SET_MVM, bytes(bad))
            ip = bytes.fromhex("20010db8000000000000000000000042")
            fcntl.ioctl(f.fd, mgmt.IOC_SET_MVM, mgmt.MVM.pack(ip, bytes(16)))
            equal("own name", vm(0, ip), f.info()["component"])
            for name in guests():
                node = f"/local/domain/0/backend/mgmt/{mgmt.domid(name)}/0/mvm-ip"
                equal(f"node of {name}", ip.hex(), mgmt.xenstore(node))
                with GuestFile(name, "Names") as there:
                    mgmt.until(lambda: "2001:db8::42" in mgmt.in_guest(name, "mgmtctl status")[1])
                    there.write(message("Names", MVM_COMPONENT))
                    got = f.read(10)
                    equal(f"source of {name}", vm(mgmt.domid(name), ip), got and got.source_component)
                    f.write(message("Names", vm(mgmt.domid(name), ip)))
                    got = there.read()
                    equal(f"destination in {name}", vm(mgmt.domid(name), ip), got and got.component)
        finally:
            fcntl.ioctl(f.fd, mgmt.IOC_SET_MVM, mgmt.MVM.pack(before, bytes(16)))


@case
def unprivileged():
    """ioctl: EPERM for SET_MVM and LINK without CAP_SYS_ADMIN; the rest works; open is EACCES."""
    with File() as f:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            answers = []
            for call in (
                lambda: fcntl.ioctl(f.fd, mgmt.IOC_SET_MVM, bytes(32)),
                lambda: f.link(0),
                lambda: os.open(mgmt.DEVICE, os.O_RDWR),
                lambda: f.bind("Nobody"),
                lambda: f.write(message("Nobody", SELF, b"hi")),
                lambda: f.info(),
            ):
                try:
                    call()
                    answers.append(0)
                except OSError as e:
                    answers.append(e.errno)
            os.write(writer, bytes(answers))
            os._exit(0)
        os.waitpid(child, 0)
        answers = os.read(reader, 100)
        wanted = [errno.EPERM, errno.EPERM, errno.EACCES, 0, 0, 0]
        equal("SET_MVM, LINK, open, bind, write, INFO", wanted, list(answers))
        os.close(reader)
        os.close(writer)


@case
def not_connected():
    """write in a guest without a channel: ENOTCONN, and mgmtctl says so."""
    name = guests()[0]
    mgmt.must("mgmtctl", "detach", name)
    try:
        with GuestFile(name, "Lonely") as f:
            for text, component in (("mvm", MVM_COMPONENT), ("another VM", vm(30000)), ("hardware", mgmt.hardware(b"x"))):
                raises(errno.ENOTCONN, text, f.write, message("Any", component))
            f.write(message("Lonely", SELF, b"at home"))
            got = f.read()
            equal("a message within the guest", (b"at home", 1), got and (got.payload, got.sequence))
            raises(errno.ECONNREFUSED, "unbound App_ID within the guest", f.write, message("Nobody", SELF))
        status, output = mgmt.in_guest(name, "mgmtctl send Any@mvm hello")
        equal("status of mgmtctl send", 1, status)
        check("not connected" in output.lower(), f"mgmtctl send says: {output}")
        with File("Lonely") as f:
            raises(errno.EHOSTUNREACH, "Dom-M to that guest", f.write, message("Lonely", vm(mgmt.domid(name))))
    finally:
        mgmt.ready()


@case
def guest_errors():
    """In a guest, the same errors."""
    with GuestFile(guests()[1]) as f:
        raises(errno.EBADFD, "unbound", f.write, COMPLETE)
        raises(errno.EINVAL, "malformed name", f.bind, "a/b")
        f.bind("Errors")
        with GuestFile(guests()[1]) as other:
            raises(errno.EADDRINUSE, "second bind", other.bind, "Errors")
        raises(errno.EINVAL, "short", f.write, COMPLETE[:191])
        raises(errno.EINVAL, "mismatch", f.write, message("Errors", SELF, b"x", length=2))
        raises(errno.EPROTONOSUPPORT, "version", f.write, message("Errors", SELF, version=2))
        raises(errno.EINVAL, "kind", f.write, message("Errors", SELF, kind=mgmt.UNDELIVERABLE))
        raises(errno.ECONNREFUSED, "unbound App_ID", f.write, message("Nobody", SELF))
        f.write(message("Errors", SELF, b"fine", kind=DATA))
        got = f.read()
        equal("sequence after all these", 1, got and got.sequence)


if __name__ == "__main__":
    mgmt.ready()
    mgmt.main()
