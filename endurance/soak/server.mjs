// A server as a program of somebody else's has it: in a process of its own, that pauses it and says how much it uses.
// As plain JavaScript, for a loader of TypeScript would be in its memory.
import { serve } from '@node-vmm/vhost-user-blk'

const server = await serve(JSON.parse(process.argv[2]))
const { plane } = server

// Who watches it is gone.
const orphaned = () => process.exit(1)
process.on('disconnect', orphaned)

/** What it can be asked to do. */
const commands = {
  pause: () => plane.pause({ timeout: 60_000 }),
  resume: () => plane.resume(),
  inFlight: () => plane.inFlight.reduce((one, other) => one + other),
  resize: (bytes) => server.resize(bytes),
  heap: () => {
    globalThis.gc()
    return process.memoryUsage().heapUsed
  },
  close: async () => {
    await server.close()
    process.off('disconnect', orphaned)
  }
}

process.on('message', async ({ id, name, argument }) => {
  try {
    process.send({ id, value: await commands[name](argument) })
  } catch (error) {
    process.send({ id, failure: error.message })
  }
})
process.send({ ready: true })
