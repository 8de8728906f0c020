// Several disks in one process, on one thread: on SOCKET.0 the image IMAGE.0, and so on. With `null` they do nothing, at once.
// usage: node dist/serve-many.js SOCKET IMAGE DISKS [null]
import { IoThread, serve } from '@node-vmm/vhost-user-blk'

const [socketPath, path, disks, none] = process.argv.slice(2)
const iothread = new IoThread()
for (let index = 0; index < Number(disks); index++) {
  await serve({
    path: `${path}.${index}`,
    socketPath: `${socketPath}.${index}`,
    lock: 'running',
    iothread,
    ...(none !== undefined && { engine: { module: new URL('null-engine.js', import.meta.url).href } })
  })
}
