// A page in a real browser as a member: `run` starts the node, this serves the page, starts headless Chromium, and looks at what came of it.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join as path } from 'node:path'
import { promisify } from 'node:util'
import { build } from 'esbuild'

const { WEFT_BIN, ALPHA, WS_ADDRESS, CHROMIUM } = process.env
const weft = async (...args) => (await promisify(execFile)(WEFT_BIN, ['--data-dir', ALPHA, ...args])).stdout.trim()

const { outputFiles: [{ text: script }] } = await build({
  entryPoints: [path(import.meta.dirname, 'page.mjs')], bundle: true, format: 'esm', platform: 'browser', write: false, logLevel: 'error'
})
const way = JSON.stringify({ address: WS_ADDRESS, invitation: await weft('invite') })
const told = []
const served = {
  '/': ['text/html', '<!doctype html><title>Weft</title><body><pre><script type="module" src="/page.js"></script>'],
  '/page.js': ['text/javascript', script],
  '/way': ['application/json', way]
}
const server = createServer((request, response) => {
  if (request.method === 'POST') {
    let body = ''
    request.on('data', (part) => { body += part })
    request.on('end', () => { told.push(body); response.end() })
    return
  }
  const [type, body] = served[request.url] ?? ['text/plain', '']
  response.writeHead(200, { 'content-type': type }).end(body)
}).listen(0, '127.0.0.1')
await new Promise((resolve) => server.on('listening', resolve))

const profile = await mkdtemp(path(tmpdir(), 'weft-page-'))
const browser = spawn(CHROMIUM, ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', `--user-data-dir=${profile}`,
  `http://127.0.0.1:${server.address().port}/`], { stdio: 'ignore' })
const subscriber = spawn(WEFT_BIN, ['--data-dir', ALPHA, 'sub', 'page.out', '--raw'], { stdio: ['ignore', 'pipe', 'ignore'] })
const answers = []
subscriber.stdout.on('data', (text) => answers.push(...String(text).split('\n').filter(Boolean)))

async function until (what, condition) {
  for (let left = 900; left > 0; left--) {
    if (await condition()) return
    assert(!told.some((line) => line.startsWith('failed')), told.join('\n'))
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  throw new Error(`not within 90 s: ${what}; told: ${told.join('; ')}`)
}

try {
  await until('the page joins', () => told.some((line) => line.startsWith('joined as')))
  await until('its call is answered', () => told.includes('a call: hello from a page'))
  await until('it subscribes', () => told.includes('subscribed'))
  const id = told.find((line) => line.startsWith('joined as')).split(' ').pop()
  const peers = (await weft('peers', '--json')).split('\n').map((line) => JSON.parse(line))
  assert(peers.some((peer) => peer.peer_id === id), 'the page is a peer')
  await new Promise((resolve) => setTimeout(resolve, 1000))
  for (const word of ['one', 'two', 'three']) await weft('pub', 'page.in', word)
  await until('three answers of the page', () => answers.length >= 3)
  assert.deepEqual(answers, ['ONE', 'TWO', 'THREE'])
  console.log('ok      a page in Chromium joins over WebSocket, calls, hears and publishes')
} catch (error) {
  console.log(`FAILED  a page in Chromium\n${error.stack}`)
  process.exitCode = 1
} finally {
  browser.kill('SIGKILL')
  subscriber.kill()
  server.close()
  server.closeAllConnections()
  await rm(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 })
}
