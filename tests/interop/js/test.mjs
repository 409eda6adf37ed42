// js-libp2p beside Weft's own program. `run` starts the nodes and says where they are.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { promisify } from 'node:util'
import { multiaddr } from '@multiformats/multiaddr'
import { create } from './node.mjs'
import { CID } from 'multiformats/cid'
import { sha256 } from 'multiformats/hashes/sha2'
import { answerMembers, base32, call, join, messages, publisher, ticket, topic } from './weft.mjs'

const { WEFT_BIN, ALPHA, ADDRESS, WS_ADDRESS, QUIC_ADDRESS, OPEN_ADDRESS } = process.env
const weft = async (...args) => (await promisify(execFile)(WEFT_BIN, ['--data-dir', ALPHA, ...args])).stdout.trim()
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

async function until (what, condition) {
  for (let left = 600; left > 0; left--) {
    if (await condition()) return
    await pause(100)
  }
  throw new Error(`not within a minute: ${what}`)
}

async function member (address, gossip, { table } = {}) {
  const invitation = await weft('invite')
  const node = await create(gossip, table && base32(ticket(invitation).mesh).slice(0, 8))
  const known = await answerMembers(node)
  const connection = await node.dial(multiaddr(address))
  await join(node, known, connection, { name: 'js', invitation })
  return { node, connection, mesh: known.mesh }
}

// Follows a subject with `weft sub`: what came so far.
async function follow (subject) {
  const came = []
  const child = spawn(WEFT_BIN, ['--data-dir', ALPHA, 'sub', subject, '--json'], { stdio: ['ignore', 'pipe', 'inherit'] })
  child.stdout.on('data', (text) => came.push(...String(text).split('\n').filter(Boolean)))
  return { came, stop: () => child.kill() }
}

const cases = {
  async 'a stranger meets identify, ping and admission, and nothing else' () {
    const node = await create()
    const connection = await node.dial(multiaddr(ADDRESS))
    const known = async () => (await node.peerStore.get(connection.remotePeer)).protocols
    // What the connection's handlers offer is told with a push, right after the first answer.
    await until('identify', async () => (await known()).includes('/weft/admission/1'))
    assert.deepEqual([...await known()].sort(), ['/ipfs/id/1.0.0', '/ipfs/id/push/1.0.0', '/ipfs/ping/1.0.0', '/weft/admission/1'])
    assert(await node.services.ping.ping(connection.remotePeer) >= 0)
    await assert.rejects(connection.newStream('/weft/direct/1'), { name: 'UnsupportedProtocolError' })
    await node.stop()
  },

  async 'a ticket makes a member, and a member calls a service' () {
    for (const address of [ADDRESS, WS_ADDRESS, QUIC_ADDRESS]) {
      const { node, connection } = await member(address)
      assert.equal(await call(connection, 'greet', 'world'), 'hello world')
      await assert.rejects(call(connection, 'nobody', 'x'), /no such instance/)
      await node.stop()
    }
  },

  async 'in an open mesh nobody needs a ticket' () {
    const node = await create()
    const known = await answerMembers(node)
    const connection = await node.dial(multiaddr(OPEN_ADDRESS))
    assert.equal((await join(node, known, connection, { name: 'js' })).open, true)
    await until('the service is offered', async () => await call(connection, 'greet', 'world').catch(() => '') === 'open world')
    await node.stop()
  },

  async 'a wrong ticket is refused with the reason' () {
    const node = await create()
    const known = await answerMembers(node)
    const connection = await node.dial(multiaddr(ADDRESS))
    const used = await weft('invite')
    const other = await member(ADDRESS)
    await join(node, known, connection, { name: 'js', invitation: used })
    const late = await create()
    const again = await late.dial(multiaddr(ADDRESS))
    await assert.rejects(join(late, await answerMembers(late), again, { name: 'js', invitation: used }), /refused/)
    await Promise.all([node.stop(), other.node.stop(), late.stop()])
  },

  async 'messages go both ways, in order' () {
    const { node, mesh } = await member(ADDRESS)
    const heard = []
    const { topic: name } = topic(mesh, 'birds.seen')
    node.services.pubsub.addEventListener('message', ({ detail }) => {
      if (detail.topic === name) heard.push(...messages(detail.data))
    })
    node.services.pubsub.subscribe(name)
    await until('a neighbour in gossip', () => node.services.pubsub.getMeshPeers(name).length > 0)
    for (const n of [1, 2, 3]) await weft('pub', 'birds.seen', `from weft ${n}`)
    await until('three messages', () => heard.length >= 3)
    assert.deepEqual(heard.map(({ text }) => text), ['from weft 1', 'from weft 2', 'from weft 3'])

    const { came, stop } = await follow('birds.>')
    await pause(1000)
    const publish = publisher(node, mesh)
    for (const n of [1, 2, 3]) await publish('birds.seen', `from js ${n}`)
    await until('three messages from js', () => came.length >= 3)
    assert.deepEqual(came.map((line) => JSON.parse(line).data), ['from js 1', 'from js 2', 'from js 3'])
    stop()
    await node.stop()
  },

  async 'what is not signed is not taken' () {
    const { node, mesh } = await member(ADDRESS, { globalSignaturePolicy: 'StrictNoSign' })
    const { topic: name } = topic(mesh, 'forged.a')
    node.services.pubsub.subscribe(name)
    const honest = await member(ADDRESS)
    honest.node.services.pubsub.subscribe(name)
    await until('a neighbour in gossip', () => honest.node.services.pubsub.getMeshPeers(name).length > 0)
    const { came, stop } = await follow('forged.>')
    await pause(1000)
    await publisher(node, mesh)('forged.a', 'nobody signed this')
    await publisher(honest.node, mesh)('forged.a', 'signed')
    await until('the signed one', () => came.length > 0)
    await pause(2000)
    assert.deepEqual(came.map((line) => JSON.parse(line).data), ['signed'])
    stop()
    await Promise.all([node.stop(), honest.node.stop()])
  },

  async 'what was changed after it was signed, or is said to be of another, is not taken' () {
    const forger = await member(ADDRESS)
    const honest = await member(ADDRESS)
    const { topic: name } = topic(honest.mesh, 'forged.b')
    for (const { node } of [forger, honest]) node.services.pubsub.subscribe(name)
    await until('a neighbour in gossip', () => [forger, honest].every(({ node }) => node.services.pubsub.getMeshPeers(name).length > 0))
    const { came, stop } = await follow('forged.>')
    await pause(1000)
    const { pubsub } = forger.node.services
    const send = pubsub.sendRpc.bind(pubsub)
    let tampered = 0
    const forgeries = [
      (message) => { message.data = message.data.map((byte, at) => at === message.data.length - 1 ? byte ^ 1 : byte) },
      (message) => { message.from = honest.node.peerId.toMultihash().bytes },
      (message) => { message.from = honest.node.peerId.toMultihash().bytes; message.key = undefined }
    ]
    for (const forge of forgeries) {
      pubsub.sendRpc = (to, rpc) => {
        for (const message of rpc.messages ?? []) { forge(message); tampered++ }
        return send(to, rpc)
      }
      await publisher(forger.node, forger.mesh)('forged.b', 'a forgery')
    }
    assert(tampered >= forgeries.length)
    await publisher(honest.node, honest.mesh)('forged.b', 'true')
    await until('the true one', () => came.length > 0)
    await pause(2000)
    assert.deepEqual(came.map((line) => JSON.parse(line).data), ['true'])
    stop()
    await Promise.all([forger.node.stop(), honest.node.stop()])
  },

  async 'who is behind no address of its own is reached through a node as its relay' () {
    const [hidden, caller] = [await member(ADDRESS), await member(ADDRESS)]
    await hidden.node.components.transportManager.listen([multiaddr(`${ADDRESS}/p2p-circuit`)])
    const way = multiaddr(`${ADDRESS}/p2p-circuit/p2p/${hidden.node.peerId}`)
    const connection = await caller.node.dial(way)
    assert.match(String(connection.remoteAddr), /p2p-circuit/)
    assert.equal(String(connection.remotePeer), String(hidden.node.peerId))
    assert(await caller.node.services.ping.ping(way) >= 0)
    await Promise.all([hidden.node.stop(), caller.node.stop()])
  },

  async 'who provides something is found through the mesh\'s table' () {
    const [has, wants] = [await member(ADDRESS, {}, { table: true }), await member(ADDRESS, {}, { table: true })]
    const cid = CID.createV1(0x55, await sha256.digest(new TextEncoder().encode('a film')))
    for (const { node, connection, mesh } of [has, wants]) {
      // A node's handlers of what few use sleep until somebody does; identify does not tell of them.
      await node.peerStore.merge(connection.remotePeer, { protocols: [`/weft/${base32(mesh).slice(0, 8)}/kad/1`] })
      await until('the node is in the table', async () => {
        await node.services.dht.routingTable.add(connection.remotePeer).catch(() => {})
        return node.services.dht.routingTable.size > 0
      })
    }
    for await (const event of has.node.services.dht.provide(cid)) assert.notEqual(event.name, 'QUERY_ERROR', event.error?.message)
    const found = []
    for await (const event of wants.node.services.dht.findProviders(cid)) {
      if (event.name === 'PROVIDER') found.push(...event.providers.map(({ id }) => String(id)))
      if (found.length > 0) break
    }
    assert.deepEqual(found, [String(has.node.peerId)])
    await Promise.all([has.node.stop(), wants.node.stop()])
  }
}

let failed = 0
for (const [name, run] of Object.entries(cases)) {
  try {
    await run()
    console.log(`ok      ${name}`)
  } catch (error) {
    failed++
    console.log(`FAILED  ${name}\n${error.stack}`)
  }
}
process.exit(failed ? 1 : 0)
