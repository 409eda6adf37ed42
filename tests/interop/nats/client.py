"""NATS's own Python client at the doors of two nodes: client.py URL_A URL_B, where a Weft service `wave` is known. Prints a line per case."""

import asyncio
import sys
import time

import nats
from nats.errors import NoRespondersError
from nats.js.errors import APIError
from nats.micro import ServiceConfig, add_service

PATIENCE_S = 30


async def until(what, look):
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.05)


async def asked(nc, subject, payload):
    async def look():
        try:
            return await nc.request(subject, payload, timeout=5)
        except NoRespondersError:
            return None

    return await until(subject, look)


async def publish_and_subscribe(ann, bob):
    here, there = await ann.subscribe("py.>"), await bob.subscribe("py.*")
    await asyncio.gather(ann.flush(), bob.flush())

    async def warm():
        await ann.publish("py.warm", b"")
        try:
            return await there.next_msg(timeout=0.2)
        except asyncio.TimeoutError:
            return None

    await until("the first message", warm)
    headers = {"Tenant": "x", "Trace": "a b"}
    for n in range(100):
        await ann.publish("py.a", str(n).encode(), headers=headers)
    for heard in (here, there):
        n = 0
        while n < 100:
            msg = await heard.next_msg(timeout=PATIENCE_S)
            if msg.subject == "py.warm":
                continue
            assert msg.data == str(n).encode() and msg.headers == headers, (n, msg)
            n += 1


async def queue_group(ann, bob):
    got = []

    async def take(msg):
        got.append(msg.data)

    for _ in range(3):
        await ann.subscribe("work", queue="q", cb=take)
    await ann.flush()
    for n in range(30):
        await ann.publish("work", str(n).encode())
    await ann.flush()

    async def look():
        return len(got) >= 30

    await until("the group's messages", look)
    assert sorted(got) == sorted(str(n).encode() for n in range(30)), "each to one member"


async def request_and_reply(ann, bob):
    try:
        await ann.request("nobody.there", b"", timeout=5)
        raise AssertionError("somebody answered")
    except NoRespondersError:
        pass

    async def answer(msg):
        await msg.respond(b"hello " + msg.data)

    await bob.subscribe("greet", queue="q", cb=answer)
    await bob.flush()
    assert (await asked(ann, "greet", b"ann")).data == b"hello ann"
    assert (await asked(ann, "wave", b"ann")).data == b"bye ann"


async def micro_service(ann, bob):
    service = await add_service(bob, ServiceConfig(name="clock", version="1.0.0"))

    async def now(request):
        await request.respond(b"noon")

    await service.add_endpoint(name="clock", handler=now)
    assert (await asked(ann, "clock", b"")).data == b"noon"
    assert b"io.nats.micro.v1.info_response" in (await asked(ann, "$SRV.INFO.clock", b"")).data
    assert b"io.nats.micro.v1.stats_response" in (await asked(ann, "$SRV.STATS.wave", b"")).data
    await service.stop()


async def drain(ann, bob):
    got = []

    async def take(msg):
        await asyncio.sleep(0.01)
        got.append(msg.data)

    await bob.subscribe("last", cb=take)
    await bob.flush()
    for n in range(10):
        await ann.publish("last", str(n).encode())
    for n in range(10):
        await bob.publish("last", str(n).encode())
    await bob.flush()
    await bob.drain()
    assert bob.is_closed and len(got) >= 10, got


async def jetstream(ann, bob):
    here, there = ann.jetstream(), bob.jetstream()
    await here.add_stream(name="PY", subjects=["pystream.>"])
    for n in range(5):
        ack = await here.publish("pystream.made", str(n).encode())
        assert ack.seq == n + 1
    ack = await here.publish("pystream.made", b"5", headers={"Nats-Msg-Id": "five"})
    again = await here.publish("pystream.made", b"5", headers={"Nats-Msg-Id": "five"})
    assert (again.seq, again.duplicate) == (ack.seq, True)
    try:
        await here.publish("pystream.made", b"x", headers={"Nats-Expected-Last-Sequence": "1"})
        raise AssertionError("a wrong expectation was taken")
    except APIError as error:
        assert error.err_code == 10071, error
    # From the other door: the stream is one of the mesh.
    sub = await there.pull_subscribe("pystream.>", durable="worker", stream="PY")
    got = []
    while len(got) < 6:
        for msg in await sub.fetch(min(4, 6 - len(got)), timeout=PATIENCE_S):
            got.append(msg.data)
            await msg.ack_sync()
    assert got == [str(n).encode() for n in range(6)], got
    await sub.unsubscribe()
    info = await there.consumer_info("PY", "worker")
    assert (info.num_ack_pending, info.num_pending) == (0, 0), info
    raw = await there.get_msg("PY", 6)
    assert (raw.data, raw.headers["Nats-Msg-Id"]) == (b"5", "five")
    last = await there.get_last_msg("PY", "pystream.made")
    assert (last.seq, last.data) == (6, b"5")
    await here.delete_stream("PY")


async def main():
    ann, bob = await nats.connect(sys.argv[1]), await nats.connect(sys.argv[2])
    for case in (publish_and_subscribe, queue_group, request_and_reply, micro_service, jetstream, drain):
        await asyncio.wait_for(case(ann, bob), 2 * PATIENCE_S)
        print(f"ok    nats.py {case.__name__}")
    await ann.close()


asyncio.run(main())
