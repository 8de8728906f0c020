import { test } from 'uvu'
import { hostile } from '../support/hostile.ts'

const define = hostile()

define('buffers to read and to write in the wrong order, or none of one kind: the ring is broken', async ({ connect }) => {
  const { queue } = await connect()
  const [header, data, status] = queue.goodChain()
  const toRead = { address: data.address, length: 20 }
  await queue.breaksByEach({
    'one to read behind one to write': [header, status, toRead],
    'the status before the header': [status, data, header],
    'one to read behind one to write, in a table': [queue.table([header, status, toRead])],
    'a table with one to read behind one to write': [data, queue.table([header, status])],
    'none to write, nowhere for the status': [header, toRead],
    'none to read, no header': [data, status]
  })
})

test.run()
