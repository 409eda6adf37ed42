// What runs in the page: joins a mesh over WebSocket, follows a subject, and publishes what it heard, in capitals. `browser.mjs` serves it.
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { webSockets } from '@libp2p/websockets'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { answerMembers, call, join, messages, publisher, topic } from './weft.mjs'

const tell = (what) => {
  document.body.append(`${what}\n`)
  return fetch('/told', { method: 'POST', body: what })
}

try {
  const { address, invitation } = await (await fetch('/way')).json()
  const node = await createLibp2p({
    transports: [webSockets()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    // A browser's node does not dial a private address by itself.
    connectionGater: { denyDialMultiaddr: () => false },
    services: { identify: identify(), pubsub: gossipsub({ allowPublishToZeroTopicPeers: true, floodPublish: true }) }
  })
  const known = await answerMembers(node)
  const connection = await node.dial(multiaddr(address))
  const { mesh } = await join(node, known, connection, { name: 'page', invitation })
  await tell(`joined as ${node.peerId}`)
  await tell(`a call: ${await call(connection, 'greet', 'from a page')}`)
  const { topic: name } = topic(mesh, 'page.in')
  const publish = publisher(node, mesh)
  node.services.pubsub.addEventListener('message', ({ detail }) => {
    if (detail.topic !== name) return
    for (const { subject, text } of messages(detail.data)) {
      if (subject !== 'page.in') continue
      tell(`heard ${text}`)
      publish('page.out', text.toUpperCase())
    }
  })
  node.services.pubsub.subscribe(name)
  node.services.pubsub.subscribe(topic(mesh, 'page.out').topic)
  while (node.services.pubsub.getMeshPeers(name).length === 0) await new Promise((resolve) => setTimeout(resolve, 100))
  await tell('subscribed')
} catch (error) {
  await tell(`failed: ${error.stack}`)
}
