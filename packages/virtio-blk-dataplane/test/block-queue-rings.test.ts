// The requests of block-queue.test.ts through the other kinds of rings.
import { testRequests } from './support/requests.ts'

testRequests({ engine: 'io_uring', packed: true, eventIdx: true })
testRequests({ engine: 'linux-aio', packed: true, eventIdx: false })
testRequests({ engine: 'mapped', packed: true, eventIdx: true })
testRequests({ engine: 'io_uring', inOrder: true, eventIdx: true })
testRequests({ engine: 'linux-aio', packed: true, inOrder: true, eventIdx: true })
testRequests({ engine: 'sync', packed: true, inOrder: true, eventIdx: false })
testRequests({ engine: 'mapped', inOrder: true, eventIdx: false })
