#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Who may talk to whom: the rules that Dom-M's bridge keeps."""

import errno
import os
import threading

import mgmt
from mgmt import (
    BROADCAST, DENIED, DISCOVER, MVM_COMPONENT, PLATFORM, PRESENCE, REPLY, REQUEST, RULE_BUILT_IN, UNDELIVERABLE, UP,
    WATCH, File, GuestFile, case, check, equal, guests, message, raises, vm,
)  # fmt: skip

# The built-in rules, in their order.
UNDELIVERABLES, SAME_DOMAIN, FROM_MVM, TO_MVM, GUEST_TO_GUEST, GUEST_TO_HARDWARE, ELSEWHERE = range(7)


def load(text):
    with File() as f:
        equal(f"a mistake in {text!r}", (0, 0), f.load_policy(text))


def hits(number):
    with File() as f:
        return f.rule(number)[1]


def ids():
    return [mgmt.domid(name) for name in guests()[:2]]


def comes_back(text, file, reason, correlation=0):
    got = file.read(10)
    if check(got is not None, f"{text}: nothing came back"):
        equal(text, (UNDELIVERABLE, reason, correlation), (got.kind, got.reason, got.correlation))


def passes(text, sender, receiver, destination, app, payload=b"hello", **fields):
    sender.write(message(app, destination, payload, **fields))
    got = receiver.read(10)
    check(got is not None and got.payload == payload, f"{text}: {got}")
    return got


@case
def by_default():
    """Without rules: guests and Dom-M talk, guest to guest is denied, and the counters say so."""
    load("")
    first, second = guests()[:2]
    one, two = (vm(i) for i in ids())
    with File("Here") as here, GuestFile(first, "Here") as f, GuestFile(second, "There") as g:
        before = hits(RULE_BUILT_IN + GUEST_TO_GUEST)
        f.write(message("There", two, b"forbidden", correlation=7))
        comes_back("guest to guest", f, DENIED, 7)
        equal("denied", before + 1, hits(RULE_BUILT_IN + GUEST_TO_GUEST))
        before = hits(RULE_BUILT_IN + TO_MVM)
        passes("guest to Dom-M", f, here, MVM_COMPONENT, "Here")
        equal("to Dom-M", before + 1, hits(RULE_BUILT_IN + TO_MVM))
        passes("Dom-M to guest", here, g, two, "There")
        passes("within a guest", f, f, one, "Here")
        f.write(message("Disk", mgmt.hardware(b"CZ342")))
        comes_back("guest to hardware", f, DENIED)
        f.write(message("There", vm(two[20], bytes([9] * 16))))
        comes_back("guest to another platform", f, DENIED)
        equal("what the other guest got", None, g.read(1))


@case
def broadcast_by_default():
    """Broadcast, discovery and watches do not reach past the rules either."""
    load("")
    first, second = guests()[:2]
    one, two = (vm(i) for i in ids())
    with File("All") as here, GuestFile(first, "Asker") as f, GuestFile(second, "All") as g:
        f.write(message("All", PLATFORM, b"to all", flags=BROADCAST))
        equal("Dom-M", b"to all", here.read(10).payload)
        equal("the other guest", None, g.read(1))
        f.write(message("All", PLATFORM, kind=DISCOVER, flags=BROADCAST | REQUEST, correlation=1))
        equal("found", 0, f.read(5).source_component[20])
        equal("found more", None, f.read(1))
        f.write(message("All", two, WATCH, kind=PRESENCE))
        comes_back("a watch of the other guest", f, DENIED)
        f.write(message("All", PLATFORM, WATCH, kind=PRESENCE))
        got = f.read(5)
        equal("a watch of the platform", (UP, 0), (got.payload, got.source_component[20]))
        equal("it tells more", None, f.read(1))


@case
def one_way():
    """A rule lets one guest ask another, and the other answer; not ask."""
    first, second = guests()[:2]
    a, b = ids()
    one, two = vm(a), vm(b)
    load(f"# questions\n\nallow Asker@vm:{a} -> Service@vm:{b}\n")
    with GuestFile(first, "Asker") as f, GuestFile(second, "Service") as g:
        passes("a question", f, g, two, "Service", flags=REQUEST, correlation=9)
        passes("the answer", g, f, one, "Asker", kind=REPLY, correlation=9)
        equal("the rule: line, hits", (3, 2), File().rule(0))
        g.write(message("Asker", one, b"a question back"))
        comes_back("a question back", g, DENIED)
        with GuestFile(first, "Other") as other:
            other.write(message("Service", two))
            comes_back("another application", other, DENIED)


@case
def the_same_way_again():
    """What goes the way of an earlier message is counted by the same rule, until the next change of rules or names."""
    first, second = guests()[:2]
    a, b = ids()
    two, rule = vm(b), f"allow App@vm:{a} -> App@vm:{b} kinds data"
    load(rule)
    with GuestFile(first, "App") as f, GuestFile(first, "Other") as other, File("App") as here:
        with GuestFile(second, "App") as g:
            for count in range(1, 4):
                passes("again", f, g, two, "App")
                equal("counted", count, hits(0))
                other.write(message("App", two))
                comes_back("another application", other, DENIED)
            f.write(message("App", two, kind=REPLY))
            comes_back("another kind", f, DENIED)
            load("")
            f.write(message("App", two))
            comes_back("the rule is gone", f, DENIED)
            load(rule)
            passes("it is there again", f, g, two, "App")
            equal("counted anew", 1, hits(0))
            load(f"through App@mvm App@vm:{a} -> App@vm:{b}")
            for count in (1, 2):
                passes("through a broker", f, here, two, "App")
                equal("counted", count, hits(0))
        load(rule)
        f.write(message("App", two))
        got = f.read(10)
        # busybox's timeout there may have the file open for a second still.
        gone = mgmt.NO_ENDPOINT, mgmt.PEER_GONE
        check(got is not None and got.kind == UNDELIVERABLE and got.reason in gone, f"who is gone: {got}")
    # More ways than are remembered, and names that come and go.
    with File("Sender") as f:
        receivers = [File(f"App{number}") for number in range(100)]
        for round in range(3):
            for number in range(100):
                f.write(message(f"App{number}", mgmt.SELF, b"%d" % (1000 * round + number)))
            for number, receiver in enumerate(receivers):
                got = receiver.read(0)
                equal(f"App{number}", b"%d" % (1000 * round + number), got and got.payload)
            receivers[round].close()
            raises(errno.ECONNREFUSED, "who is gone", f.write, message(f"App{round}", mgmt.SELF))
            receivers[round] = File(f"App{round}")
        for receiver in receivers:
            receiver.close()
    load("")


@case
def denied_here():
    """What Dom-M's own endpoints may not send is refused at once: EACCES."""
    second = guests()[1]
    two = vm(ids()[1])
    load(f"deny * -> Secret@vm:{ids()[1]}\nallow * -> *")
    with File("Here") as here, GuestFile(second, "Secret") as secret, GuestFile(second, "Open") as opened:
        raises(errno.EACCES, "a denied name", here.write, message("Secret", two))
        passes("another name there", here, opened, two, "Open")
        equal("what the denied one got", None, secret.read(1))


@case
def through_a_broker():
    """What a rule sends through a broker goes to it, with the destination that it was meant for."""
    first = guests()[0]
    load("through Broker@mvm vm:* -> hw:*\n")
    hw = mgmt.hardware(b"CZ342")
    with GuestFile(first, "Agent") as agent:
        agent.write(message("Ipmi", hw, b"early"))
        comes_back("without its broker", agent, mgmt.NO_ENDPOINT)
        with File("Broker") as broker:
            got = passes("a request", agent, broker, hw, "Ipmi", flags=REQUEST, correlation=3)
            equal("destination", (hw, mgmt.app_id("Ipmi")), (got.component, got.app))
            equal("source", mgmt.app_id("Agent"), got.source_app)
            broker.write(message("Agent", got.source_component, b"42 W", kind=REPLY, correlation=3))
            answer = agent.read(10)
            equal("answer", (REPLY, 3, b"42 W"), answer and (answer.kind, answer.correlation, answer.payload))


@case
def explained():
    """mgmtctl explains by the rules that hold, and tells of the receiver's account."""
    a, b = ids()
    load(f"# questions\nallow Asker@vm:{a} -> Service@vm:{b}\n")
    for words, expected in (
        (f"Asker@vm:{a} Service@vm:{b}", f"allow\nby line 2: allow Asker@vm:{a} -> Service@vm:{b}\non its way to vm:{b}: 0 of "),
        (f"Service@vm:{b} Asker@vm:{a} reply", "allow\nby line 2: "),
        (f"Service@vm:{b} Asker@vm:{a}", "deny\nby the built-in table: guest-to-guest"),
    ):
        output = mgmt.must("mgmtctl", "policy", "explain", *words.split())
        check(output.startswith(expected), f"{words}: {output!r}")


@case
def mistakes():
    """A wrong line: EINVAL with its place, and the rules that held still hold."""
    good = "allow vm:* -> mvm\ndeny * -> *\n"
    load(good)
    with File() as f:
        for text, place in (
            ("allow vm:* -> mvm\nallow vm:* => mvm\n", (2, 12)),
            ("permit vm:* -> mvm\n", (1, 1)),
            ("\n\n# x\nallow vm:* -> mvm kinds data,nonsense\n", (4, 30)),
            ("through Broker@vm:1 * -> *", (1, 9)),
        ):
            equal(f"the mistake in {text!r}", place, f.load_policy(text))
        raises(errno.EINVAL, "a reserved byte", f.load_policy, "", reserved=bytes([1] + [0] * 11))
        raises(errno.EMSGSIZE, "too long", f.load_policy, "", length=(4 << 20) + 1)
        raises(errno.EFAULT, "bad memory", f.load_policy, "", length=1, address=8)
        equal("the rules", (good, 2), f.read_policy())
        raises(errno.ENOSPC, "too little room", f.read_policy, 10)
        equal("the second rule", 2, f.rule(1)[0])
        raises(errno.ENOENT, "a third rule", f.rule, 2)
        raises(errno.ENOENT, "an eighth built-in one", f.rule, RULE_BUILT_IN + 7)


@case
def needs_admin():
    """Loading, reading and counting: EPERM without CAP_SYS_ADMIN."""
    load("allow * -> *")
    with File() as f:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setresuid(65534, 65534, 65534)
                wrong = 0
                for call in (lambda: f.load_policy("deny * -> *"), f.read_policy, lambda: f.rule(0)):
                    try:
                        call()
                        wrong += 1
                    except PermissionError:
                        pass
                status = wrong
            finally:
                os._exit(status)
        equal("calls that were allowed", 0, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        equal("the rules", ("allow * -> *", 1), f.read_policy())


@case(timeout=200)
def swapped_under_traffic():
    """10,000 rules are loaded over and over while messages run: none is lost, none is denied."""
    load("allow * -> *")
    many = "".join(f"deny App{i}@vm:{30000 + i % 100} -> Other@vm:*\n" for i in range(9999)) + "allow * -> *\n"
    second, two = guests()[1], ids()[1]
    done = threading.Event()
    loads = 0
    run = "mgmt-test --timeout 100 duplex --app Swap --count 4000 --to Swap@"
    there = threading.Thread(target=lambda: results.append(mgmt.in_guest(second, run + "mvm", 120)))
    here = threading.Thread(target=lambda: (results.append(mgmt.run(*(run + f"vm:{two}").split(), timeout=120)), done.set()))
    results = []
    there.start()
    here.start()
    with File() as f:
        while not done.wait(0.05):
            equal("a mistake", (0, 0), f.load_policy(many if loads % 2 == 0 else "allow * -> *"))
            loads += 1
    there.join()
    here.join()
    mgmt.note(f"rules were loaded {loads} times")
    check(loads >= 10, f"rules were loaded only {loads} times")
    for status, output in results:
        perfect = '"undeliverable":0,"received":4000,"lost":0,"late":0,"damaged":0'
        check(status == 0 and perfect in output, f"status {status}: {output}")


if __name__ == "__main__":
    mgmt.ready()
    mgmt.main()
