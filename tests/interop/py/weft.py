"""A member of a mesh of Weft in Python, on py-libp2p: the same as ../js/weft.mjs, from docs/protocol.md."""

import base64
import hashlib
import hmac
import os
import time

import cbor2
import trio

ADMISSION = "/weft/admission/1"
CONTROL = "/weft/control/1"
DIRECT = "/weft/direct/1"
NOTHING = bytes(32)
AGENT = "weft-py"


class Frames:
    """Frames on a stream: a varint with the length, then CBOR in the shape that cbor2 writes anyway."""

    def __init__(self, stream):
        self.stream = stream
        self.kept = b""

    async def write(self, message):
        body = cbor2.dumps(message)
        prefix, left = b"", len(body)
        while left > 127:
            prefix, left = prefix + bytes([left & 127 | 128]), left >> 7
        await self.stream.write(prefix + bytes([left]) + body)

    async def read(self):
        while True:
            end = next((at for at, byte in enumerate(self.kept) if byte < 128), None)
            if end is not None:
                length = sum((byte & 127) << 7 * at for at, byte in enumerate(self.kept[: end + 1]))
                if len(self.kept) > end + length:
                    body = self.kept[end + 1 : end + 1 + length]
                    self.kept = self.kept[end + 1 + length :]
                    return cbor2.loads(body)
            chunk = await self.stream.read(65536)
            if not chunk:
                raise EOFError("the stream ended")
            self.kept += chunk


def key_of(peer):
    """The 32 bytes of an Ed25519 key in a peer id."""
    return peer.to_bytes()[-32:]


def ticket(text):
    """What is in a ticket, without the four bytes of its checksum."""
    body = text.strip().removeprefix("weft1").upper()
    fields = cbor2.loads(base64.b32decode(body + "=" * (-len(body) % 8))[:-4])
    return dict(zip(["version", "mesh", "root", "issuer", "addresses", "secret"], fields))


def redemption(invitation, own, name):
    it = ticket(invitation)
    key = hashlib.sha256(it["secret"]).digest()
    nonce = os.urandom(16)
    proof = hmac.digest(key, b"weft-ticket-v1" + it["mesh"] + it["issuer"] + own + nonce, "sha256")
    return [it["mesh"], it["issuer"], key[:6], proof, name, AGENT, nonce]


class Member:
    """What a host knows of the mesh it belongs to."""

    def __init__(self, host):
        self.host = host
        self.mesh = self.root = self.open = None
        host.set_stream_handler(ADMISSION, self._admit)
        host.set_stream_handler(CONTROL, self._control)

    async def _admit(self, stream):
        frames = Frames(stream)
        kind, fields = await frames.read()
        if kind != 0:
            return await frames.write([4, [8, "only members come here"]])
        await frames.write([3, [[], False]])
        await frames.write([0, [fields[0], self.root, self.open, NOTHING]])

    async def _control(self, stream):
        frames = Frames(stream)
        try:
            while True:
                kind, _ = await frames.read()
                now = int(time.time() * 1000)
                answers = {0: [0, [now, NOTHING, NOTHING, []]], 1: [1, [[], False]], 2: [2, [[], False]]}
                await frames.write(answers.get(kind, [3, []]))
        except Exception:  # The connection is gone.
            return

    async def join(self, peer, name, invitation=None):
        """Becomes a member: with a ticket, or in an open mesh without one."""
        frames = Frames(await self.host.new_stream(peer, [ADMISSION]))
        if invitation:
            await frames.write([1, [redemption(invitation, key_of(self.host.get_id()), name)]])
        else:
            await frames.write([2, [None, name, AGENT]])
        while True:
            kind, fields = await frames.read()
            if kind == 4:
                raise PermissionError(fields[1])
            if kind == 1:
                self.mesh, self.root, chain, self.open = fields
                await frames.write([0, [self.mesh, chain, name, AGENT, False]])
            if kind == 0:
                self.mesh, self.root, self.open, _ = fields
                return

    async def call(self, peer, service, body):
        """Calls a service: the answer's body."""
        frames = Frames(await self.host.new_stream(peer, [DIRECT]))
        payload = cbor2.dumps([0, [[service, "default", [], body]]])
        await frames.write([[1, "request_response", 2, service, 10_000, None, None, []], payload])
        refused, reply = await frames.read()
        if refused:
            raise PermissionError(reply[1])
        kind, fields = cbor2.loads(reply[0])
        if kind != 0:
            raise LookupError(fields[1])
        return fields[1]

    def topic(self, subject):
        """The gossip topic of a subject, and its shard."""
        value = 0xCBF29CE484222325
        for byte in subject.split(".")[0].encode():
            value = (value ^ byte) * 0x100000001B3 % 2**64
        shard = (value ^ value >> 32) % 8
        mesh = base64.b32encode(self.mesh).decode().lower()[:8]
        return f"/weft/{mesh}/pub_sub/3/{shard}", shard


def messages(data):
    """Subjects and data of a gossip message."""
    return [(run[0][0], each) for run in cbor2.loads(data)[4] for each in run[1]]


class Publisher:
    """Numbers its messages without a gap on each shard."""

    def __init__(self, member, pubsub):
        self.member, self.pubsub = member, pubsub
        self.epoch = int(time.time() * 1000)
        self.lines = {}

    async def publish(self, subject, data):
        topic, shard = self.member.topic(subject)
        following, before = self.lines.get(shard, (1, 0))
        now = int(time.time() * 1000)
        self.lines[shard] = (following + 1, now)
        attributes = [subject, now, "text/plain", [], [], None]
        await self.pubsub.publish(topic, cbor2.dumps([self.epoch, shard, following, before, [[attributes, [data]]]]))
