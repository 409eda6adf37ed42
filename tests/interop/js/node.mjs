// A libp2p node as the tests need it.
import { noise } from '@chainsafe/libp2p-noise'
import { quic } from '@chainsafe/libp2p-quic'
import { yamux } from '@chainsafe/libp2p-yamux'
import { circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { webSockets } from '@libp2p/websockets'
import { createLibp2p } from 'libp2p'
import { WebSocket } from 'ws'

// Node 20 has these not yet, and js-libp2p uses them.
globalThis.WebSocket ??= WebSocket
Promise.withResolvers ??= () => {
  const parts = {}
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }))
  return parts
}

// `mesh`: the first eight letters of its id, for one that takes part in the mesh's table of who has what.
export const create = (gossip = {}, mesh) => createLibp2p({
  addresses: { listen: mesh ? ['/ip4/127.0.0.1/tcp/0'] : [] },
  transports: [tcp(), webSockets(), quic(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    pubsub: gossipsub({ allowPublishToZeroTopicPeers: true, floodPublish: true, ...gossip }),
    ...(mesh && { dht: kadDHT({ protocol: `/weft/${mesh}/kad/1`, clientMode: false, peerInfoMapper: (peer) => peer }) })
  }
})
