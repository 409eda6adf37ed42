"""py-libp2p beside Weft's own program. `run` starts the node and says where it is."""

import json
import os
import subprocess
import sys
import traceback
from contextlib import AsyncExitStack, asynccontextmanager

import multiaddr
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.ping import PingService
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID, PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service.context import background_trio_service

from weft import Member, Publisher, messages

WEFT, ALPHA, ADDRESS = os.environ["WEFT_BIN"], os.environ["ALPHA"], os.environ["ADDRESS"]


async def weft(*args):
    done = await trio.run_process([WEFT, "--data-dir", ALPHA, *args], capture_stdout=True, stderr=subprocess.DEVNULL)
    return done.stdout.decode().strip()


async def until(what, condition):
    for _ in range(600):
        if condition():
            return
        await trio.sleep(0.1)
    raise TimeoutError(f"not within a minute: {what}")


@asynccontextmanager
async def connected():
    """A host that is connected with the node, and the node's id."""
    host = new_host(key_pair=create_new_key_pair())
    async with host.run(listen_addrs=[multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        info = info_from_p2p_addr(multiaddr.Multiaddr(ADDRESS))
        member = Member(host)
        await host.connect(info)
        yield host, member, info.peer_id


@asynccontextmanager
async def gossiping(host, strict_signing=True):
    gossip = GossipSub(
        protocols=[PROTOCOL_ID_V11, PROTOCOL_ID], degree=6, degree_low=3, degree_high=9, heartbeat_interval=1,
        # It takes ten messages a second for spam.
        spam_protection_enabled=False,
    )
    pubsub = Pubsub(host, gossip, strict_signing=strict_signing)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(background_trio_service(pubsub))
        await stack.enter_async_context(background_trio_service(gossip))
        await pubsub.wait_until_ready()
        yield pubsub, gossip


@asynccontextmanager
async def following(subject):
    """What `weft sub` prints of a subject."""
    came = []
    async with trio.open_nursery() as nursery:
        start = [WEFT, "--data-dir", ALPHA, "sub", subject, "--json"]
        process = await trio.lowlevel.open_process(start, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

        async def read():
            rest = b""
            async for chunk in process.stdout:
                *lines, rest = (rest + chunk).split(b"\n")
                came.extend(json.loads(line)["data"] for line in lines if line)

        nursery.start_soon(read)
        await trio.sleep(1)
        yield came
        process.kill()
        await process.wait()


async def a_stranger_pings_and_meets_nothing_else():
    async with connected() as (host, _, peer):
        [rtt_ms] = await PingService(host).ping(peer)
        assert rtt_ms >= 0
        try:
            await host.new_stream(peer, ["/weft/direct/1"])
        except Exception:
            return
        raise AssertionError("a stranger has opened a stream of the members'")


async def a_ticket_makes_a_member_and_a_member_calls_a_service():
    async with connected() as (_, member, peer):
        await member.join(peer, "py", await weft("invite"))
        assert await member.call(peer, "greet", b"world") == b"hello world"
        try:
            await member.call(peer, "nobody", b"x")
        except LookupError as error:
            assert "no such instance" in str(error), error
        else:
            raise AssertionError("nobody has answered")


async def messages_go_both_ways_in_order():
    async with connected() as (host, member, peer):
        # It offers gossip before it is admitted: a node that does not find it then does not ask again. The other way it is offered only after.
        async with gossiping(host) as (pubsub, gossip):
            await member.join(peer, "py", await weft("invite"))
            assert await pubsub.ensure_peer_stream(peer)
            topic, _ = member.topic("birds.seen")
            heard = await pubsub.subscribe(topic)
            await until("a neighbour in gossip", lambda: gossip.mesh.get(topic))
            for n in range(3):
                await weft("pub", "birds.seen", f"from weft {n}")
            came = []
            with trio.fail_after(60):
                while len(came) < 3:
                    came += [data.decode() for _, data in messages((await heard.get()).data)]
            assert came == [f"from weft {n}" for n in range(3)], came
            async with following("birds.>") as came:
                publisher = Publisher(member, pubsub)
                for n in range(3):
                    await publisher.publish("birds.seen", f"from py {n}".encode())
                await until("three messages from py", lambda: len(came) >= 3)
                assert came == [f"from py {n}" for n in range(3)], came


async def what_is_not_signed_is_not_taken():
    async with connected() as (host, member, peer), connected() as (honest_host, honest, _):
        async with gossiping(host, strict_signing=False) as (unsigned, _), gossiping(honest_host) as (signed, gossip):
            await member.join(peer, "py", await weft("invite"))
            await honest.join(peer, "py", await weft("invite"))
            topic, _ = honest.topic("forged.a")
            for pubsub in [unsigned, signed]:
                assert await pubsub.ensure_peer_stream(peer)
                await pubsub.subscribe(topic)
            await until("a neighbour in gossip", lambda: gossip.mesh.get(topic))
            async with following("forged.>") as came:
                await Publisher(member, unsigned).publish("forged.a", b"nobody signed this")
                await Publisher(honest, signed).publish("forged.a", b"signed")
                await until("the signed one", lambda: came)
                await trio.sleep(2)
                assert came == ["signed"], came


CASES = [
    a_stranger_pings_and_meets_nothing_else,
    a_ticket_makes_a_member_and_a_member_calls_a_service,
    messages_go_both_ways_in_order,
    what_is_not_signed_is_not_taken,
]


async def main():
    failed = 0
    for case in CASES:
        name = case.__name__.replace("_", " ")
        try:
            with trio.fail_after(150):
                await case()
            print(f"ok      {name}", flush=True)
        except BaseException:
            failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc()[-1500:]}", flush=True)
    return failed


sys.exit(1 if trio.run(main) else 0)
