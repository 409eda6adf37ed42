// js-libp2p beside Weft's own program. `run` starts the nodes and says where they are.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { promisify } from 'node:util'
import { multiaddr } from '@multiformats/multiaddr'
import { create } from './node.mjs'
import { answerMembers, call, join, messages, publisher, topic } from './weft.mjs'

const { WEFT_BIN, ALPHA, ADDRESS, WS_ADDRESS } = process.env
const weft = async (...args) => (await promisify(execFile)(WEFT_BIN, ['--data-dir', ALPHA, ...args])).stdout.trim()
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

async function until (what, condition) {
  for (let left = 600; left > 0; left--) {
    if (await condition()) return
    await pause(100)
  }
  throw new Error(`not within a minute: ${what}`)
}

async function member (address, gossip) {
  const node = await create(gossip)
  const known = await answerMembers(node)
  const connection = await node.dial(multiaddr(address))
  await join(node, known, connection, { name: 'js', invitation: await weft('invite') })
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
    for (const address of [ADDRESS, WS_ADDRESS]) {
      const { node, connection } = await member(address)
      assert.equal(await call(connection, 'greet', 'world'), 'hello world')
      await assert.rejects(call(connection, 'nobody', 'x'), /no such instance/)
      await node.stop()
    }
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
