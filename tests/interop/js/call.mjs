// Calls a service of a mesh: `node call.mjs ADDRESS TICKET SERVICE TEXT`, with the address as `weft status` shows it.
import { multiaddr } from '@multiformats/multiaddr'
import { create } from './node.mjs'
import { answerMembers, call, join } from './weft.mjs'

const [address, invitation, service, text] = process.argv.slice(2)
const node = await create()
const known = await answerMembers(node)
const connection = await node.dial(multiaddr(address))
await join(node, known, connection, { name: 'js', invitation })
console.log(await call(connection, service, text))
await node.stop()
