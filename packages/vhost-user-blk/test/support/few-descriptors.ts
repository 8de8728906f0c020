import { equal } from 'node:assert/strict'
import { closeSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connectUnix, unixSocket, watchReadable } from '@node-vmm/libc'
import { ListeningSocket } from '@node-vmm/vhost-user'
import { takeDescriptors } from '../../../../test/support/few-descriptors.ts'
import { temporaryFolder } from '../../../../test/support/temporary.ts'
import { ControlServer } from '../../src/control-server.ts'

const path = join(temporaryFolder(), 'control')
const server = new ControlServer(ListeningSocket.bind(path), async () => 'done')
const client = unixSocket()
const taken = takeDescriptors()
connectUnix(client, path)
writeSync(client, '{"command":"status"}\n')
// Two attempts and more: nothing tells of them.
await sleep(1200)
for (const fd of taken) closeSync(fd)
await new Promise<void>((resolve) => {
  const watch = watchReadable(client, () => {
    watch.close()
    resolve()
  })
})
const answer = Buffer.alloc(100)
equal(answer.toString('utf8', 0, readSync(client, answer)), '{"ok":true,"result":"done"}\n')
closeSync(client)
server.close()
