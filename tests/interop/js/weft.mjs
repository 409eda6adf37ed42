// A member of a mesh of Weft in JavaScript, on js-libp2p: what docs/protocol.md says, and no more of it than one needs who calls
// services, publishes and listens. It has no directory, so nobody calls it.
import { hmac } from '@noble/hashes/hmac.js'
import { sha256 } from '@noble/hashes/sha2.js'

// --- CBOR in the one shape that Weft reads: integers, text, bytes, arrays, null and booleans.

const big = (n, width) => Array.from({ length: width }, (_, at) => Math.floor(n / 256 ** (width - 1 - at)) % 256)
const head = (major, n) => n < 24 ? [major << 5 | n] : n < 2 ** 8 ? [major << 5 | 24, n]
  : n < 2 ** 16 ? [major << 5 | 25, ...big(n, 2)] : n < 2 ** 32 ? [major << 5 | 26, ...big(n, 4)] : [major << 5 | 27, ...big(n, 8)]

export function encode (value) {
  if (value === null || typeof value === 'boolean') return [value === null ? 0xf6 : value ? 0xf5 : 0xf4]
  if (typeof value === 'number') return head(0, value)
  if (Array.isArray(value)) return [...head(4, value.length), ...value.flatMap(encode)]
  const bytes = typeof value === 'string' ? new TextEncoder().encode(value) : value
  return [...head(typeof value === 'string' ? 3 : 2, bytes.length), ...bytes]
}

export function decode (bytes, at = { place: 0 }) {
  const first = bytes[at.place++]
  let n = first & 31
  if (first >= 0xf4) return first === 0xf6 ? null : first === 0xf5
  if (n >= 24) {
    const width = 1 << n - 24
    n = bytes.slice(at.place, at.place += width).reduce((sum, byte) => sum * 256 + byte, 0)
  }
  if (first >> 5 === 0) return n
  if (first >> 5 === 4) return Array.from({ length: n }, () => decode(bytes, at))
  const part = bytes.slice(at.place, at.place += n)
  return first >> 5 === 3 ? new TextDecoder().decode(part) : part
}

// --- Frames on a stream: a varint with the length, then the body.

export function framed (stream) {
  let kept = new Uint8Array(0)
  let ended = false
  let torn
  let wake = () => {}
  stream.addEventListener('message', ({ data }) => {
    kept = Uint8Array.from([...kept, ...(data.subarray ? data.subarray() : data)])
    wake()
  })
  for (const end of ['remoteCloseWrite', 'close']) stream.addEventListener(end, ({ error }) => { ended = true; torn ??= error; wake() })
  return {
    write (message) {
      const body = encode(message)
      const prefix = []
      let left = body.length
      for (; left > 127; left >>= 7) prefix.push(left & 127 | 128)
      stream.send(Uint8Array.from([...prefix, left, ...body]))
    },
    async read () {
      while (true) {
        const end = kept.findIndex((byte) => byte < 128)
        const length = kept.slice(0, end + 1).reduce((sum, byte, at) => sum + (byte & 127) * 128 ** at, 0)
        if (end >= 0 && kept.length > end + length) {
          const body = kept.slice(end + 1, end + 1 + length)
          kept = kept.slice(end + 1 + length)
          return decode(body)
        }
        if (ended) throw torn ?? new Error('the stream ended')
        await new Promise((resolve) => { wake = resolve })
      }
    },
    // Nothing more is said: ends both halves, in good order.
    async end () {
      await stream.close()
      while (!ended) await new Promise((resolve) => { wake = resolve })
      if (torn) throw torn
    }
  }
}

// --- Becoming a member.

const ADMISSION = '/weft/admission/1'
const CONTROL = '/weft/control/1'
const NOTHING = new Uint8Array(32)

// The 32 bytes of an Ed25519 key in a peer id.
export const keyOf = (peer) => peer.toMultihash().digest.slice(4)

// The first bytes of a base32 text.
function unbase32 (text) {
  const bits = [...text.toLowerCase()].map((letter) => 'abcdefghijklmnopqrstuvwxyz234567'.indexOf(letter).toString(2).padStart(5, '0')).join('')
  return Uint8Array.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)))
}
export function base32 (bytes) {
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('')
  return bits.match(/.{1,5}/g).map((part) => 'abcdefghijklmnopqrstuvwxyz234567'[parseInt(part.padEnd(5, '0'), 2)]).join('')
}

// What is in a ticket, without the four bytes of its checksum.
export function ticket (text) {
  const [, mesh, root, issuer, addresses, secret] = decode(unbase32(text.trim().slice('weft1'.length)).slice(0, -4))
  return { mesh, root, issuer, addresses, secret }
}

function redemption ({ mesh, issuer, secret }, own, name) {
  const key = sha256(secret)
  const nonce = crypto.getRandomValues(new Uint8Array(16))
  const said = [new TextEncoder().encode('weft-ticket-v1'), mesh, issuer, own, nonce]
  const proof = hmac(sha256, key, Uint8Array.from(said.flatMap((part) => [...part])))
  return [mesh, issuer, key.subarray(0, 6), proof, name, 'weft-js', nonce]
}

// Answers what members ask of each other. Whom we dialled we believe that it belongs: its handshake has shown the key of the address.
export async function answerMembers (node) {
  const known = {}
  await node.handle(ADMISSION, async (stream) => {
    const frames = framed(stream)
    const [kind, fields] = await frames.read()
    if (kind !== 0) return frames.write([4, [8, 'only members come here']])
    frames.write([3, [[], false]])
    frames.write([0, [fields[0], known.root, known.open, NOTHING]])
    await frames.end()
  })
  await node.handle(CONTROL, async (stream) => {
    const frames = framed(stream)
    const answers = { 0: () => [0, [Date.now(), NOTHING, NOTHING, []]], 1: () => [1, [[], false]], 2: () => [2, [[], false]] }
    try {
      while (true) {
        const [kind] = await frames.read()
        frames.write(answers[kind]?.() ?? [3, []])
      }
    } catch { /* The connection is gone. */ }
  }, { maxInboundStreams: 8 })
  return known
}

// Becomes a member on a connection: with a ticket, or in an open mesh without one. Which mesh it is.
export async function join (node, known, connection, { name, invitation }) {
  const frames = framed(await connection.newStream(ADMISSION))
  const own = keyOf(node.peerId)
  frames.write(invitation ? [1, [redemption(ticket(invitation), own, name)]] : [2, [null, name, 'weft-js']])
  while (true) {
    const [kind, fields] = await frames.read()
    if (kind === 4) throw new Error(`refused: ${fields[1]}`)
    if (kind === 1) {
      Object.assign(known, { mesh: fields[0], root: fields[1], open: fields[3] })
      frames.write([0, [fields[0], fields[2], name, 'weft-js', false]])
    }
    if (kind === 0) {
      Object.assign(known, { mesh: fields[0], root: fields[1], open: fields[2] })
      await frames.end()
      return known
    }
  }
}

// --- What members do.

// Calls a service: the answer's body.
export async function call (connection, service, body) {
  const frames = framed(await connection.newStream('/weft/direct/1'))
  const payload = Uint8Array.from(encode([0, [[service, 'default', [], new TextEncoder().encode(body)]]]))
  frames.write([[1, 'request_response', 2, service, 10_000, null, null, []], payload])
  const [refused, reply] = await frames.read()
  if (refused) throw new Error(`the node refused: ${reply[1]}`)
  const [kind, fields] = decode(reply[0])
  if (kind !== 0) throw new Error(`the service did not answer: ${fields[1]}`)
  return new TextDecoder().decode(fields[1])
}

// The gossip topic of a subject.
export function topic (mesh, subject) {
  let hash = 0xcbf29ce484222325n
  for (const byte of new TextEncoder().encode(subject.split('.')[0])) hash = (hash ^ BigInt(byte)) * 0x100000001b3n % 2n ** 64n
  const shard = Number((hash ^ hash >> 32n) % 8n)
  return { topic: `/weft/${base32(mesh).slice(0, 8)}/pub_sub/3/${shard}`, shard }
}

// The messages of a gossip message: subject and text.
export const messages = (data) => decode(data)[4].flatMap(([attributes, all]) =>
  all.map((text) => ({ subject: attributes[0], text: new TextDecoder().decode(text) })))

// A publisher: its messages are numbered without a gap on each shard.
export function publisher (node, mesh) {
  const epoch = Date.now()
  const lines = {}
  return async (subject, text) => {
    const { topic: name, shard } = topic(mesh, subject)
    const line = lines[shard] ??= { next: 1, before: 0 }
    const now = Date.now()
    const attributes = [subject, now, 'text/plain', [], [], null]
    const frame = [epoch, shard, line.next++, line.before, [[attributes, [new TextEncoder().encode(text)]]]]
    line.before = now
    return node.services.pubsub.publish(name, Uint8Array.from(encode(frame)))
  }
}
